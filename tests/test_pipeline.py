"""`pipeline`: any model on any data, restored and last weights, resumption after a kill, and every refusal in one line."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import digits, held, mlp, normed, python, refused, same, state, untimed
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

import coreFunction
from coreFunction import pipeline
from recordFunction import Record, find_record
from trainFunction import accuracy

QUICK = {"lr": 1e-2, "epochs": 3, "batch_size": 32}


class Listed(Dataset):
    """Any list of (image, label) pairs as a data set."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def relabelled(dataset, label):
    return Listed([(image, label(int(number))) for image, number in dataset])


# ---------------------------------------------------------------- any model, any data


def test_a_record_says_what_was_done(runs_dir):
    record = pipeline(mlp(), digits(), held(), name="digits", record_gradients=True, **QUICK)
    assert record.path == runs_dir / "own" / "digits" / "seed-0"
    assert [row["epoch"] for row in record.rows] == [0, 1, 2, 3]
    assert [row.get("steps") for row in record.rows] == [None, 7, 7, 7]
    assert {key for key in record.rows[0] if key.startswith(("train", "gradient"))} == set()
    assert len(record.rows[0]["probe_variance"]) == len(record.rows[1]["gradient_log10_rms"]) == 2
    assert record.result["status"] == "finished"
    assert record.result["accuracy"] == record.rows[3]["validation_accuracy"] > record.rows[0]["validation_accuracy"]
    assert accuracy(record.predictions()) == pytest.approx(record.result["accuracy"], rel=1e-3)
    assert record.predictions()[0].tolist() == held().tensors[1].tolist()
    assert record.settings["experiment"]["lr"] == 1e-2
    assert len(record.settings["provenance"]["commit"] or "") in (0, 40)
    assert {path.name for path in record.path.iterdir()} == {"settings.json", "rows.jsonl", "result.json", "predictions.npy"}


@pytest.mark.parametrize("label", [lambda y: y, lambda y: 3 * y - 7, lambda y: f"digit {y}", np.int64, torch.tensor, float])
def test_labels_may_be_any_numbers_or_words(label):
    """The same digits under other names give the same training: only the classes' order counts."""
    expected = pipeline(mlp(), digits(), held(), name="plain", **QUICK)
    record = pipeline(mlp(), relabelled(digits(), label), relabelled(held(), label), name="named", **QUICK)
    assert untimed(record.rows) == untimed(expected.rows)


def test_words_are_numbered_in_alphabetical_order():
    words = ["pear", "apple"]
    data = Listed([(image, words[int(number) % 2]) for image, number in digits()])
    record = pipeline(mlp(outputs=2), data, data, name="words", **QUICK)
    assert record.result["classes"] == 2
    assert record.predictions()[0].tolist() == [0 if label == "apple" else 1 for _, label in data.items]


@pytest.mark.parametrize(
    ("shape", "kind"), [((3, 12, 9), torch.float32), ((1, 8, 8), torch.float64), ((2, 5, 5), torch.uint8), ((7,), torch.float32)]
)
def test_images_may_have_any_channels_sizes_and_number_types(shape, kind):
    generator = torch.Generator().manual_seed(0)
    images = (255 * torch.rand(40, *shape, generator=generator)).to(kind)
    data = TensorDataset(images, torch.arange(40) % 4)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    record = pipeline(model, data, data, name="shaped", **QUICK)
    assert record.finished
    assert record.predictions().shape == (2, 40)


def test_a_model_may_have_more_outputs_than_classes_and_the_record_holds_them():
    """300 outputs, and the last is the largest: more than a byte holds."""
    model = mlp(outputs=300)
    with torch.no_grad():
        model[3].bias[299] = 1000.0
    record = pipeline(model, digits(), held(), name="wide", lr=1e-9, epochs=1)
    assert record.predictions()[1].tolist() == [299] * 100


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "RMSprop", "SGD"])
def test_every_optimizer_of_the_report_learns(optimizer):
    record = pipeline(
        mlp(), digits(), held(), name=optimizer, **QUICK | {"optimizer": optimizer, "lr": 0.1 if optimizer == "SGD" else 0.01}
    )
    assert record.rows[-1]["train_loss"] < record.rows[1]["train_loss"]


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_the_precision_asked_for_is_the_model_s(precision):
    model = mlp()
    record = pipeline(model, digits(), held(), name="precise", precision=precision, record_gradients=True, **QUICK)
    assert model[1].weight.dtype == {"fp32": torch.float32, "fp64": torch.float64}[precision]
    assert record.settings["provenance"]["precision"] == precision


def test_weights_used_twice_and_buffers_of_the_model_itself_may_move():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
            self.again = self.body
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x):
            if self.training:
                self.passes += 1
            return self.head(torch.relu(self.again(torch.relu(self.body(x.flatten(1))))))

    model = Counting()
    assert pipeline(model, digits(), held(), name="tied", **QUICK).finished
    assert model.passes == 21


@pytest.mark.parametrize("batch_size", [1000, 199, 64, 1])
def test_a_batch_larger_than_the_data_and_a_last_batch_of_one_image_work(batch_size):
    """200 images in batches of 199 would leave one, which batch normalisation at 1 x 1 cannot train on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    if batch_size == 1:  # batches of one are what was asked for; only the last one grows
        model = mlp()
    record = pipeline(model, digits(), held(), name="batches", epochs=1, batch_size=batch_size)
    assert record.rows[1]["steps"] == {1000: 1, 199: 1, 64: 4, 1: 199}[batch_size]


# ---------------------------------------------------------------- which weights stay


def test_without_early_stopping_the_last_weights_stay():
    model = mlp()
    record = pipeline(model, digits(), held(), name="last", lr=0.1, epochs=5, batch_size=32, keep_weights=True)
    assert record.result["best_epoch"] != record.result["last_epoch"]  # else the test would show nothing
    assert record.result["epoch"] == 5
    assert record.result["accuracy"] == record.rows[5]["validation_accuracy"] < record.result["best_accuracy"]
    assert same(record.weights(), state(model))


def test_early_stopping_restores_the_best_weights():
    """They are those of a run that ends at the best epoch, and result and predictions are theirs."""
    options = {"lr": 0.3, "batch_size": 32}
    model = mlp()
    record = pipeline(model, digits(), held(), name="stopped", epochs=30, patience=3, min_delta=0.01, keep_weights=True, **options)
    best = record.result["best_epoch"]
    assert record.result["stopped_early"]
    assert record.result["epoch"] == best < record.result["last_epoch"] < 30
    assert best == 1 + int(np.argmax(record.column("validation_accuracy", trained_only=True)))
    assert record.result["accuracy"] == record.result["best_accuracy"] == record.rows[best]["validation_accuracy"]
    assert accuracy(record.predictions()) == pytest.approx(record.result["accuracy"])
    shorter = mlp()
    pipeline(shorter, digits(), held(), name="shorter", epochs=best, **options)
    assert same(state(model), state(shorter))
    assert same(state(model), record.weights())


@pytest.mark.parametrize("patience", [None, 5])
def test_frozen_children_and_their_batch_statistics_do_not_move(patience):
    model = normed()
    before = state(model)
    pipeline(model, digits(), held(), name="frozen", trainable=("5",), patience=patience, **QUICK)
    moved = {key for key, value in state(model).items() if not torch.equal(value, before[key])}
    assert moved == {"5.weight", "5.bias"}


def test_frozen_batch_statistics_do_not_move_behind_what_learns_either():
    """Nothing can be cut off in front, so the training pass itself must leave them alone."""
    model = normed()
    before = state(model)
    pipeline(model, digits(), held(), name="frozen", trainable=("0", "5"), **QUICK)
    moved = {key.split(".")[0] for key, value in state(model).items() if not torch.equal(value, before[key])}
    assert moved == {"0", "5"}


def test_batch_statistics_that_are_not_frozen_move():
    model = normed()
    before = state(model)
    pipeline(model, digits(), held(), name="free", trainable=("1", "5"), **QUICK)
    assert not torch.equal(before["1.running_mean"], model[1].running_mean)
    assert torch.equal(before["0.weight"], model[0].weight)


@pytest.mark.parametrize("keep", [False, True])
def test_weights_are_kept_where_asked_and_vouched_for_in_any_case(keep):
    record = pipeline(mlp(), digits(), held(), name="kept", keep_weights=keep, **QUICK)
    assert record.has_weights is keep
    assert len(record.result["sha256"]["weights.pt"]) == 64
    if not keep:
        refused(record.weights, "kept (seed 0) has no weights", "keep_weights=True")


# ---------------------------------------------------------------- again, on, and without a trace


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
    """Begin or go on with a run that has everything a resumed one could lose: batch statistics, momenta, dropout, patience."""
    return pipeline(normed().insert(5, nn.Dropout(0.2)), digits(), held(), name=name, resume=True, **RESUMABLE)


def assert_equal_to_the_bit(record, straight):
    assert record.finished
    assert untimed(record.rows) == untimed(straight.rows)
    assert same(record.weights(), straight.weights())
    for key in ("accuracy", "epoch", "last_epoch", "best_epoch", "best_accuracy", "stopped_early"):
        assert record.result[key] == straight.result[key]
    assert record.result["sha256"]["predictions.npy"] == straight.result["sha256"]["predictions.npy"]
    assert not list(record.path.glob("*checkpoint*"))


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, "tests")
from recordFunction import RunFolder
from test_pipeline import resumable
real = RunFolder.checkpoint
def checkpoint(self, state):
    if state["epoch"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, state)
RunFolder.checkpoint = checkpoint
resumable("killed")
"""


def test_a_run_that_was_killed_goes_on_to_the_bit(monkeypatch):
    """Killed with epoch 3's row written and its checkpoint not: that row is cut off and made again."""
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    child = python(KILLED)
    assert child.returncode == -signal.SIGKILL, child.stderr
    cut_off = find_record("killed", "own")
    assert not cut_off.result
    assert len(cut_off.rows) == 4
    assert "unfinished, 4 rows" in repr(cut_off)
    assert_equal_to_the_bit(resumable("killed"), resumable("straight"))


@pytest.mark.parametrize("seconds", ["0", "3600"])
@pytest.mark.parametrize("place", ["train_epoch", "evaluate", "GradientNorms"])
def test_a_run_that_was_interrupted_anywhere_goes_on_to_the_bit(monkeypatch, seconds, place):
    """Twice, at the second call of each piece; with no checkpoint written it begins again."""
    monkeypatch.setenv("CHECKPOINT_SECONDS", seconds)
    real = getattr(coreFunction, place)
    for _ in range(2):
        calls = iter(range(100))

        def interrupted(*arguments, calls=calls):
            if next(calls) == (0 if place == "GradientNorms" else 2):
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(coreFunction, place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            resumable("interrupted")
    monkeypatch.setattr(coreFunction, place, real)
    assert_equal_to_the_bit(resumable("interrupted"), resumable("straight"))


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
    refused(lambda: pipeline(mlp(), digits(), held(), name="short", resume=True, **QUICK), "fewer rows than its checkpoint", "remove")


def test_a_resumed_run_of_another_identity_is_refused_with_the_difference(monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    interrupt(name="begun")
    message = refused(
        lambda: pipeline(mlp(), digits(), held(), name="begun", resume=True, **QUICK | {"lr": 0.02}), "lr 0.01 there, 0.02 here"
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


def interrupt(name):
    """Leave an unfinished run of `mlp()` behind: its data fail in the second epoch."""

    class Failing(Dataset):
        reads = 0

        def __len__(self):
            return 200

        def __getitem__(self, index):
            self.reads += 1
            if self.reads > 500:
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


# ---------------------------------------------------------------- a loss that is not finite


def no_constants(text):
    """Parse JSON strictly: NaN and Infinity are no JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("patience", [None, 2])
def test_a_loss_that_is_not_finite_ends_the_run_and_the_record_says_where_and_why(capsys, patience):
    """The first epoch's only step makes the weights NaN after its loss was taken; NaN must not be the best."""
    data = TensorDataset(torch.cat([digits().tensors[0][:-1], torch.full((1, 1, 8, 8), 1e30)]), digits().tensors[1])
    record = pipeline(mlp(), data, held(), name="nan", lr=1e30, epochs=5, batch_size=200, optimizer="SGD", patience=patience)
    result = record.result
    assert result["status"] == "failed"
    assert not record.finished
    assert "is not finite in epoch 1" in result["reason"]
    assert "lower learning rate than 1e+30" in result["reason"]
    assert result["last_epoch"] == 1
    assert f"nan (seed 0) failed: {result['reason']}" in capsys.readouterr().out
    assert "failed, the" in repr(record)
    for line in (record.path / "rows.jsonl").read_text().splitlines():
        no_constants(line)
    no_constants((record.path / "result.json").read_text())
    no_constants((record.path / "settings.json").read_text())
    assert not record.has_weights


def test_weights_that_turned_nan_after_a_finite_train_loss_are_not_the_best():
    """One step an epoch: the loss is taken before the step that breaks the weights, the evaluation sees it."""
    record = pipeline(
        mlp(), digits(), held(), name="late", lr=1e38, epochs=5, batch_size=200, optimizer="SGD", patience=3, keep_weights=True
    )
    assert record.rows[1]["train_loss"] is not None
    assert record.rows[1]["validation_loss"] is None
    assert record.result["status"] == "failed"
    assert "the validation loss is not finite in epoch 1" in record.result["reason"]
    assert not record.has_weights


def test_a_loss_of_exactly_zero_is_a_good_one():
    """Logits so far apart that float32's cross-entropy is 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(1000 * torch.eye(10))
    data = TensorDataset(torch.eye(10), torch.arange(10))
    record = pipeline(model, data, data, name="zero", epochs=2)
    assert record.rows[1]["train_loss"] == 0
    assert record.finished


# ---------------------------------------------------------------- refused in one line, before anything is written


BAD_OPTIONS = [
    ({"learning_rate": 1e-3}, "unknown option 'learning_rate'", "batch_size"),
    ({"dropout": 0.5}, "unknown option 'dropout'", "patience"),  # the model is the reader's: nothing would obey it
    ({"initialisation": "he"}, "unknown option 'initialisation'", "lr"),
    ({"profile": "cpu"}, "unknown option 'profile'", "epochs"),
    ({"optimizer": "GSD"}, "unknown optimizer 'GSD'", "choose Adam, AdamW, RMSprop or SGD"),
    ({"precision": "fp16"}, "unknown precision 'fp16'", "auto, fp32 or fp64"),
    ({"lr": -1e-3}, "lr must be a number of at least 0", "-0.001"),
    ({"lr": 0}, "lr must be above 0", "got 0"),
    ({"lr": float("nan")}, "lr must be a number", "nan"),
    ({"lr": float("inf")}, "lr must be a number", "inf"),
    ({"min_delta": None}, "min_delta must be a number", "None"),
    ({"lr": "fast"}, "lr must be", "'fast'"),
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1", "0"),
    ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1", "2.5"),
    ({"batch_size": True}, "batch_size must be a whole number", "True"),
    ({"epochs": 0}, "epochs must be a whole number of at least 1", "0"),
    ({"epochs": None}, "epochs must be a whole number of at least 1", "None"),
    ({"patience": 0}, "patience must be a whole number of at least 1", "0"),
    ({"seed": -1}, "seed must be a whole number of at least 0", "-1"),
    ({"seed": "one"}, "seed must be a whole number", "'one'"),
    ({"eps": -1.0}, "eps must be", "-1.0"),
    ({"eps": 1e-16, "optimizer": "SGD"}, "SGD has no eps", "another optimizer"),
    ({"trainable": ("fc",)}, "unknown child 'fc'", "choose 1 or 3"),
    ({"trainable": ()}, "nothing", "trainable"),
    ({"name": "a/b"}, "name 'a/b' cannot name a folder", "letters"),
    ({"name": ".."}, "name '..' cannot name a folder", "letters"),
]


@pytest.mark.parametrize(("options", "what", "remedy"), BAD_OPTIONS, ids=[str(case[0]) for case in BAD_OPTIONS])
def test_bad_options_are_refused(runs_dir, options, what, remedy):
    refused(lambda: pipeline(mlp(), digits(), held(), **{"name": "bad", **options}), what, remedy)
    assert not list(runs_dir.rglob("result.json"))


def empty():
    return TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0))


def mixed_sizes():
    return ConcatDataset([digits(0, 10), TensorDataset(torch.zeros(10, 1, 9, 9), torch.arange(10))])


BAD_DATA = [
    ("empty", empty, held, "the data set is empty", "give one with"),
    ("empty evaluation", digits, empty, "the data set is empty", "give one with"),
    ("sizes differ", mixed_sizes, held, "images differ in size ((1, 8, 8), (1, 9, 9))", "resize them"),
    ("sizes differ in evaluation", digits, mixed_sizes, "images differ in size ((1, 8, 8), (1, 9, 9))", "resize them"),
    ("arrays", lambda: Listed([(np.zeros((1, 8, 8)), 0)]), held, "(tensor, label) pairs", "ToTensor"),
    ("no labels", lambda: Listed([torch.zeros(1, 8, 8)]), held, "(tensor, label) pairs", "wrap it"),
    ("a loader", lambda: DataLoader(digits()), held, "DataLoader", "(tensor, label) pairs"),
    ("one-hot", lambda: Listed([(torch.zeros(1, 8, 8), torch.eye(10)[0])]), held, "label", "one number or word"),
    ("mixed labels", lambda: Listed([(torch.zeros(1, 8, 8), "a"), (torch.zeros(1, 8, 8), 1)]), held, "labels", "one kind"),
    ("unknown label", lambda: digits(label=lambda y: y % 5), held, "is in the evaluation set but not in the train set", "leave it out"),
]


@pytest.mark.parametrize(("train", "evaluation", "what", "remedy"), [case[1:] for case in BAD_DATA], ids=[case[0] for case in BAD_DATA])
def test_bad_data_are_refused(runs_dir, train, evaluation, what, remedy):
    refused(lambda: pipeline(mlp(), train(), evaluation(), name="bad", **QUICK), what, remedy)
    assert not list(runs_dir.rglob("result.json"))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


BAD_MODELS = [
    ("too few outputs", lambda: mlp(outputs=9), "the model gives 9 outputs but the train set has 10 classes", "last layer"),
    ("another size", lambda: nn.Sequential(nn.Flatten(), nn.Linear(65, 10)), "cannot take a batch of shape (2, 1, 8, 8)", "64"),
    ("other channels", lambda: nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()), "cannot take a batch of shape (2, 1, 8, 8)", "channels"),
    ("other dimensions", lambda: nn.Sequential(nn.BatchNorm1d(1), *mlp()), "cannot take a batch of shape (2, 1, 8, 8)", "2D or 3D"),
    ("two outputs", Pair, "cannot take a batch of shape (2, 1, 8, 8)", "tuple"),
    ("nothing to learn", lambda: nn.Flatten(), "nothing", "train"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "what", "remedy"), [case[1:] for case in BAD_MODELS], ids=[case[0] for case in BAD_MODELS])
def test_a_model_that_does_not_fit_is_refused(runs_dir, model, what, remedy):
    refused(lambda: pipeline(model(), digits(), held(), name="bad", **QUICK), what, remedy)
    assert not list(runs_dir.rglob("result.json"))


def test_evaluation_images_that_the_model_cannot_take_are_refused(runs_dir):
    other = TensorDataset(torch.zeros(10, 1, 9, 9), torch.arange(10))
    refused(lambda: pipeline(mlp(), digits(), other, name="bad", **QUICK), "cannot take a batch of shape (2, 1, 9, 9)")
    assert not list(runs_dir.rglob("rows.jsonl"))


def test_a_refusal_loses_no_earlier_record():
    record = pipeline(mlp(), digits(), held(), name="dear", **QUICK)
    refused(lambda: pipeline(mlp(outputs=3), digits(), held(), name="dear", **QUICK), "3 outputs")
    again = Record(Path(record.path))
    assert again.finished
    assert again.rows == record.rows
