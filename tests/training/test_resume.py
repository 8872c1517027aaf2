"""`pipeline` again: a record is moved aside, an interrupted run resumes bitwise, and `record=False` leaves no
trace.
"""

import json
from functools import partial

import pytest
import torch
from helpers import QUICK, cut_off, digits, held, mlp, normed, refused, same, state, untimed
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import coreFunction
from coreFunction import pipeline
from deepnet.records.reading import find_record


def test_earlier_record_is_moved_aside(runs_dir):
    first = pipeline(mlp(), digits(), held(), name="again", **QUICK)
    before = first.rows
    second = pipeline(mlp(), digits(), held(), name="again", **QUICK | {"lr": 1e-3})
    assert second.settings["experiment"]["lr"] == 1e-3
    aside = list((runs_dir / "own" / "again").glob("seed-0.*"))
    assert len(aside) == 1
    assert [json.loads(line) for line in (aside[0] / "rows.jsonl").read_text().splitlines()] == before


def test_seeds_set_the_order():
    runs = [pipeline(mlp(), digits(), held(), name=f"run_{i}", seed=seed, **QUICK) for i, seed in enumerate((0, 0, 1))]
    losses = [record.column("train_loss", trained_only=True).tolist() for record in runs]
    assert losses[0] == losses[1] != losses[2]


RESUMABLE = QUICK | {"lr": 0.05, "epochs": 5, "optimizer": "RMSprop", "patience": 3, "record_gradients": True}


def resumable(name):
    """Begin or resume a run that has everything a resumed one could lose: batch statistics, momenta, dropout,
    patience.
    """
    model = normed().insert(5, nn.Dropout(0.2))
    return pipeline(model, digits(), held(), name=name, resume=True, keep_weights=True, **RESUMABLE)


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


@pytest.mark.parametrize("seconds", ["0", "3600"])
@pytest.mark.parametrize("place", ["train_epoch", "evaluate", "GradientNorms"])
def test_a_run_interrupted_anywhere_resumes_bitwise(straight, monkeypatch, seconds, place):
    """Twice, at the second call of each piece; without a checkpoint it starts again."""
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
        assert ": unfinished, " in repr(find_record("interrupted", "own"))
    monkeypatch.setattr(coreFunction, place, real)
    assert_equal_to_the_bit(resumable("interrupted"), straight)


def test_a_finished_run_is_trained_again_even_with_resume():
    pipeline(mlp(), digits(), held(), name="done", **QUICK)
    model = mlp()
    before = state(model)
    record = pipeline(model, digits(), held(), name="done", resume=True, **QUICK)
    assert record.finished
    assert not same(before, state(model))


class Arrays(Dataset):
    """Reads its items from its own tensors."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])


def frozen(child):
    """Layers of one shape, so that an optimizer's state of one would be taken for another's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model[child].requires_grad_(False)
    return model


def step(gamma):
    return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma)


IMAGES, LABELS = digits().tensors
CHANGED = IMAGES.clone()
CHANGED[101:110] = 0  # none of the images that the identity's fingerprint is made of
IN_MEMORY = [
    TensorDataset,
    Arrays,
    lambda x, y: DataLoader(TensorDataset(x, y), 50),
    lambda x, y: Subset(TensorDataset(x, y), range(200)),
    lambda x, y: ConcatDataset([TensorDataset(x[:100], y[:100]), TensorDataset(x[100:], y[100:])]),
    lambda x, y: list(zip(x, y.tolist(), strict=True)),
]
SMOOTHED = {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}
OTHERS = [  # how a run is begun, how it is resumed, and the refusal's words
    ({}, {"lr": 0.02}, "lr 0.01 there, 0.02 here"),
    ({}, {"train_set": TensorDataset(IMAGES.flip(0), LABELS)}, "holds another run named begun: data"),
    ({}, {"train_set": TensorDataset(IMAGES, LABELS.roll(1))}, "holds another run named begun: data"),
    *(
        ({"train_set": wrap(IMAGES, LABELS)}, {"train_set": wrap(CHANGED, LABELS)}, "begun was begun with other data")
        for wrap in IN_MEMORY
    ),
    ({"model": partial(frozen, 1)}, {"model": partial(frozen, 3)}, "frozen ['1.weight', '1.bias'] there"),
    ({"schedule": step(0.5)}, {"schedule": step(0.1)}, "holds another run named begun"),
    (SMOOTHED, {"loss": nn.CrossEntropyLoss()}, "holds another run named begun"),
    (SMOOTHED, {"lr": None, "optimizer": torch.optim.Adam}, "holds another run named begun"),
]


@pytest.mark.parametrize(("begun", "other", "words"), OTHERS)
def test_a_run_is_not_resumed_under_other_conditions(begun, other, words, runs_dir):
    def train(model=mlp, train_set=None, **options):
        train_set = digits() if train_set is None else train_set
        return pipeline(model(), train_set, held(), name="begun", **{"lr": 1e-2, "epochs": 3} | options)

    with cut_off(2):
        train(**begun)
    before = {path: path.read_bytes() for path in runs_dir.rglob("*") if path.is_file()}
    refused(lambda: train(resume=True, **begun | other), words)
    assert {path: path.read_bytes() for path in runs_dir.rglob("*") if path.is_file()} == before
    assert train(resume=True, **begun).finished


def test_record_false_writes_no_files(runs_dir, tmp_path, monkeypatch):
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
