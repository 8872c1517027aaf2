"""`pipeline` again: a record is moved aside, an interrupted run goes on to the bit, and `record=False` leaves no
trace.
"""

import json
import multiprocessing
import os
import signal

import pytest
from helpers import QUICK, digits, held, mlp, needs_fork, normed, refused, same, state, untimed
from helpers import interrupt as halt
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import coreFunction
from coreFunction import pipeline
from deepnet.records.folder import RunFolder
from deepnet.records.reading import find_record


def test_a_record_of_that_name_is_moved_aside_not_handed_back(runs_dir):
    first = pipeline(mlp(), digits(), held(), name="again", **QUICK)
    before = first.rows
    second = pipeline(mlp(), digits(), held(), name="again", **QUICK | {"lr": 1e-3})
    assert second.settings["experiment"]["lr"] == 1e-3
    aside = list((runs_dir / "own" / "again").glob("seed-0.*"))
    assert len(aside) == 1
    assert [json.loads(line) for line in (aside[0] / "rows.jsonl").read_text().splitlines()] == before


def test_the_seed_sets_the_order_and_the_same_seed_the_same_run():
    runs = [pipeline(mlp(), digits(), held(), name=f"run_{i}", seed=seed, **QUICK) for i, seed in enumerate((0, 0, 1))]
    losses = [record.column("train_loss", trained_only=True).tolist() for record in runs]
    assert losses[0] == losses[1] != losses[2]


RESUMABLE = {
    "lr": 0.05,
    "epochs": 5,
    "batch_size": 32,
    "optimizer": "RMSprop",
    "patience": 3,
    "record_gradients": True,
    "keep_weights": True,
}


def resumable(name):
    """Begin or go on with a run that has everything a resumed one could lose: batch statistics, momenta, dropout,
    patience.
    """
    return pipeline(normed().insert(5, nn.Dropout(0.2)), digits(), held(), name=name, resume=True, **RESUMABLE)


@pytest.fixture(scope="module")
def straight():
    """The same run, never interrupted."""
    return resumable("straight")


def assert_equal_to_the_bit(record, straight):
    assert record.finished
    assert untimed(record.rows) == untimed(straight.rows)
    assert same(record.weights(), straight.weights())
    for key in ("accuracy", "epoch", "last_epoch", "best_epoch", "best_accuracy", "stopped_early"):
        assert record.result[key] == straight.result[key]
    assert record.result["sha256"]["predictions.npy"] == straight.result["sha256"]["predictions.npy"]
    assert not list(record.path.glob("*checkpoint*"))


@needs_fork
def test_a_run_that_was_killed_goes_on_to_the_bit(straight, monkeypatch):
    """Killed with epoch 3's row written and its checkpoint not: that row is cut off and made again."""
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    checkpoint = RunFolder.checkpoint

    def killed(folder, state):
        if state["epoch"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoint(folder, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", killed)
        child = multiprocessing.get_context("fork").Process(target=resumable, args=("killed",))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    cut_off = find_record("killed", "own")
    assert not cut_off.result
    assert len(cut_off.rows) == 4
    assert "unfinished, 4 rows" in repr(cut_off)
    assert_equal_to_the_bit(resumable("killed"), straight)


@pytest.mark.parametrize("seconds", ["0", "3600"])
@pytest.mark.parametrize("place", ["train_epoch", "evaluate", "GradientNorms"])
def test_a_run_that_was_interrupted_anywhere_goes_on_to_the_bit(straight, monkeypatch, seconds, place):
    """Twice, at the second call of each piece; with no checkpoint written it begins again."""
    monkeypatch.setenv("CHECKPOINT_SECONDS", seconds)
    real = getattr(coreFunction, place)
    for _ in range(2):
        calls = iter(range(100))

        def interrupted(*arguments, calls=calls, **named):
            if next(calls) == (0 if place == "GradientNorms" else 2):
                raise KeyboardInterrupt
            return real(*arguments, **named)

        monkeypatch.setattr(coreFunction, place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            resumable("interrupted")
    monkeypatch.setattr(coreFunction, place, real)
    assert_equal_to_the_bit(resumable("interrupted"), straight)


def test_a_torn_row_is_cut_off(monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    interrupt(name="torn")
    rows = find_record("torn", "own").path / "rows.jsonl"
    with rows.open("a") as file:
        file.write('{"epoch": 2, "train_lo')
    assert len(find_record("torn", "own").rows) == 2
    straight = pipeline(mlp(), digits(), held(), name="straight", **QUICK)
    assert untimed(pipeline(mlp(), digits(), held(), name="torn", resume=True, **QUICK).rows) == untimed(straight.rows)


def test_rows_that_are_fewer_than_the_checkpoint_s_are_said(monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    interrupt(name="short")
    (find_record("short", "own").path / "rows.jsonl").write_text("")
    refused(
        lambda: pipeline(mlp(), digits(), held(), name="short", resume=True, **QUICK),
        "lacks rows of its checkpoint",
        "remove",
    )


def test_a_resumed_run_of_another_identity_is_refused_with_the_difference(monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    interrupt(name="begun")
    message = refused(
        lambda: pipeline(mlp(), digits(), held(), name="begun", resume=True, **QUICK | {"lr": 0.02}),
        "lr 0.01 there, 0.02 here",
    )
    assert "use another name" in message


@pytest.mark.parametrize("key", ["precision", "results_version"])
def test_a_run_is_not_gone_on_with_under_another_precision_or_version(monkeypatch, key):
    interrupt(name="begun")
    path = find_record("begun", "own").path / "settings.json"
    settings = json.loads(path.read_text())
    settings["provenance"][key] = "other"
    path.write_text(json.dumps(settings))
    resume = lambda: pipeline(mlp(), digits(), held(), name="begun", resume=True, **QUICK)  # noqa: E731
    refused(resume, f"was begun with {key} 'other'", "move the folder away")


def test_a_finished_run_is_trained_again_even_where_resume_is_asked_for():
    pipeline(mlp(), digits(), held(), name="done", **QUICK)
    model = mlp()
    before = state(model)
    record = pipeline(model, digits(), held(), name="done", resume=True, **QUICK)
    assert record.finished
    assert not same(before, state(model))


@pytest.mark.parametrize("changed", ["images", "labels", "one image"])
def test_a_run_is_not_gone_on_with_on_other_data(monkeypatch, changed):
    """Other images or labels of the same number and shape, and in memory even a single one that is none of the
    first.
    """
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")

    def began() -> None:
        calls = iter(range(9))
        real = coreFunction.evaluate
        with monkeypatch.context() as patch:
            patch.setattr(coreFunction, "evaluate", lambda *a, **k: halt() if next(calls) == 3 else real(*a, **k))
            with pytest.raises(KeyboardInterrupt):
                pipeline(mlp(), digits(), held(), name="began", **QUICK)

    began()
    images, labels = (tensor.clone() for tensor in digits().tensors)
    if changed == "images":
        images = images.flip(0)
    elif changed == "labels":
        labels = labels.roll(1)
    else:
        images[77, 0, 0, 0] = 0.5
    folder = find_record("began", "own").path
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = TensorDataset(images, labels)
    words = "began was begun with other data" if changed == "one image" else "holds another run named began: data"
    refused(lambda: pipeline(mlp(), other, held(), name="began", resume=True, **QUICK), words)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    straight = pipeline(mlp(), digits(), held(), name="straight", **QUICK)
    assert untimed(pipeline(mlp(), digits(), held(), name="began", resume=True, **QUICK).rows) == untimed(straight.rows)


def interrupt(name):
    """Leave an unfinished run of `mlp()` behind: its data fail in the second epoch."""

    class Failing(Dataset):
        reads = 0

        def __len__(self):
            return 200

        def __getitem__(self, index):
            self.reads += 1
            if self.reads > 400:
                raise KeyboardInterrupt
            return digits()[index]

    with pytest.raises(KeyboardInterrupt):
        pipeline(mlp(), Failing(), held(), name=name, **QUICK)
    assert not find_record(name, "own").result


def test_record_false_leaves_nothing_but_what_is_returned(runs_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    record = pipeline(mlp(), digits(), held(), name="trial", record=False, keep_weights=True, **QUICK)
    assert record.finished
    assert len(record.rows) == 4
    assert record.predictions().shape == (2, 100)
    assert len(record.weights()) == 4
    assert not runs_dir.exists()
    record.scratch.cleanup()
    assert not any(path.name.startswith("tmp") for path in tmp_path.iterdir())
