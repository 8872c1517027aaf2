"""Every refusal leaves every file as it was: a finished record of that name, an interrupted one, locks and unfinished
files among them.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import QUICK, Listed, digits, held, interrupt, lend, mlp
from small_records import EXPERIMENT, PROVENANCE, written
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import coreFunction
from coreFunction import pipeline, run, run_all
from deepnet import machine
from deepnet.records import reading
from deepnet.records.folder import RunFolder
from deepnet.records.reading import find_record
from experimentTable import EXPERIMENTS, UsageError


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every folder and file under this one, hidden ones too, and what it holds."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def train(
    model: nn.Module | None = None, train_set: object = None, eval_set: object = None, **options: object
) -> object:
    """The call that made the record, but for what is given."""
    train_set, eval_set = (digits() if train_set is None else train_set), (held() if eval_set is None else eval_set)
    return pipeline(model or mlp(), train_set, eval_set, name="mine", **QUICK | options)


class Late(Listed):
    """Refuses its items after so many were read, as where a file turns out to be damaged in an epoch."""

    def __init__(self, reads: int) -> None:
        super().__init__(list(zip(*digits().tensors, strict=True)))
        self.left = reads

    def __getitem__(self, index: int) -> tuple:
        self.left -= 1
        if self.left < 0:
            raise UsageError("this image is damaged")
        return super().__getitem__(index)


def worded(first: int, last: int) -> Listed:
    return Listed([(image, f"digit {int(label)}") for image, label in digits(first, last)])


def far() -> Listed:
    return Listed([(image, 12 if i == 101 else int(label)) for i, (image, label) in enumerate(digits())])


class Auxiliary(nn.Module):
    """Gives two outputs in training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> object:
        scores = self.head(x.flatten(1))
        return (scores, scores) if self.training else scores


def frozen() -> nn.Module:
    return mlp().requires_grad_(False)


def with_environment(name: str, value: str, **options: object) -> Callable[[], object]:
    def call() -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            machine.device.cache_clear()
            try:
                return train(**options)
            finally:
                patch.undo()
                machine.device.cache_clear()

    return call


REFUSALS: list[tuple[str, Callable[[], object]]] = [
    *(
        (f"{option}={getattr(value, '__name__', value)!r}", lambda option=option, value=value: train(**{option: value}))
        for option, value in [
            ("lr", 0),
            ("lr", -1.0),
            ("lr", "fast"),
            ("optimizer", "Adamm"),
            ("epochs", 0),
            ("epochs", 1.5),
            ("batch_size", 0),
            ("trainable", ("fc",)),
            ("patience", 0),
            ("min_delta", -1.0),
            ("record_gradients", "yes"),
            ("eps", -1.0),
            ("precision", "fp8"),
            ("seed", -1),
            ("optimizer", 3),
            ("optimizer", torch.optim.LBFGS),
            ("optimizer", lambda parameters: parameters),
            ("loss", lambda outputs, targets: outputs),
            ("schedule", lambda optimizer: None),
            ("schedule_per_step", True),
            ("eval_batch_size", 0),
            ("workers", -1),
            ("classes", range(9)),
            ("fast", "no"),
            ("cache_frozen", True),
            ("resume", 1),
            ("wandb", "no"),
        ]
    ),
    ("SGD has no eps", lambda: train(optimizer="SGD", eps=1e-8)),
    ("no model", lambda: pipeline("mlp", digits(), held(), name="mine")),
    ("a model for other images", lambda: train(nn.Sequential(nn.Flatten(), nn.Linear(63, 10)))),
    ("a model without scores", lambda: train(nn.Conv2d(1, 3, 1))),
    ("a model with too few outputs", lambda: train(mlp(outputs=9))),
    ("nothing can learn", lambda: train(frozen())),
    ("no images", lambda: train(train_set=digits(0, 0))),
    ("no evaluation images", lambda: train(eval_set=digits(0, 0))),
    ("labels that are not in the training set", lambda: train(train_set=worded(0, 3), eval_set=worded(300, 400))),
    ("labels that the model has no output for", lambda: train(eval_set=digits(label=lambda y: y + 5))),
    ("a label that the model has no output for, far into the data", lambda: train(train_set=far())),
    ("a regression", lambda: train(train_set=digits(label=lambda y: y + 0.5))),
    ("a batch size beside a loader", lambda: train(train_set=DataLoader(digits(), 50))),
    ("another output in training", lambda: train(Auxiliary())),
    (
        "batches of one image",
        lambda: train(nn.Sequential(*mlp()[:2], nn.BatchNorm1d(16), nn.Linear(16, 10)), batch_size=1),
    ),
    (
        "images of another shape",
        lambda: train(eval_set=TensorDataset(torch.zeros(4, 1, 9, 9), torch.zeros(4, dtype=torch.long))),
    ),
    ("an image that is refused at the first look", lambda: train(train_set=Late(3))),
    ("an image that is refused in an epoch", lambda: train(train_set=Late(500))),
    ("an interval that is no number", with_environment("CHECKPOINT_SECONDS", "abc")),
    ("a device that there is not", with_environment("DEVICE", "foo")),
    ("another experiment of the table's name", lambda: run(replace(EXPERIMENTS["MLP_4"], lr=1e-3))),
    ("an experiment without a budget", lambda: run("MLP_33_eps")),
    ("a profile that there is not", lambda: run_all("MLP_4", profile="gpu")),
    ("a name that there is not", lambda: run_all("MLP_4", "MLP_5")),
    ("two seeds", lambda: run_all(replace(EXPERIMENTS["MLP_4"], seed=1), seeds=(0,))),
    ("two profiles", lambda: run_all(replace(EXPERIMENTS["MLP_4"], profile="cpu"), profile="sample")),
    ("threads", lambda: run_all("MLP_4", executor=ThreadPoolExecutor(1))),
]


@pytest.fixture
def finished(runs_dir, made, tiny):
    """A finished record of every name that the refusals use, with files beside it as a killed process leaves them."""
    lend(made, runs_dir, "MLP_4")
    record = train(keep_weights=True)
    for name in (".rows.jsonl.123.part", "notes.txt"):
        (record.path / name).write_text("mine")
    (runs_dir / "sample" / "MLP_4" / ".seed-0.lock").touch()
    return runs_dir


@pytest.mark.parametrize("call", [call for _, call in REFUSALS], ids=[label for label, _ in REFUSALS])
def test_a_refusal_leaves_a_finished_record_as_it_was(finished, call):
    before = everything(finished)
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert everything(finished) == before


def test_a_refusal_in_run_all_s_way_leaves_the_record_as_it_was(finished, capsys):
    before = everything(finished)
    assert run_all(replace(EXPERIMENTS["MLP_4"], lr=1e-3)) == []
    assert "holds another run named MLP_4" in capsys.readouterr().out
    assert everything(finished) == before


def test_a_refusal_of_a_first_run_leaves_no_record(runs_dir):
    with pytest.raises(UsageError, match="this image is damaged"):
        train(train_set=Late(500))
    assert find_record("mine", "own") is None
    assert [path.name for path in runs_dir.rglob("*") if path.is_file()] == [".seed-0.lock"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_ctrl_c_the_run_may_go_on_and_after_an_error_before_a_checkpoint_the_finished_record_is_back(
    finished, monkeypatch, error
):
    """After Ctrl-C the next call may want to go on; after an error there is nothing yet to go on from."""

    def end(*_: object, **__: object) -> None:
        raise error

    before = everything(finished / "own" / "mine" / "seed-0")
    monkeypatch.setattr(coreFunction, "train_epoch", end)
    with pytest.raises(error):
        train()
    moved = list((finished / "own" / "mine").glob("seed-0.*"))
    assert len(moved) == (error is KeyboardInterrupt)
    assert len(find_record("mine", "own").rows) == (1 if moved else 4)
    kept = everything(moved[0] if moved else finished / "own" / "mine" / "seed-0")
    assert [content for _, content in sorted(kept.items())] == [content for _, content in sorted(before.items())]


def test_what_has_a_checkpoint_is_kept_and_resumed(runs_dir, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    with pytest.raises(UsageError, match="this image is damaged"):
        train(train_set=Late(500))
    begun = find_record("mine", "own")
    assert (begun.path / "checkpoint.pt").exists() and len(begun.rows) > 1


# ---------------------------------------------------------------- an interrupted run


@pytest.fixture
def interrupted(runs_dir, monkeypatch):
    """A run that was interrupted in its third epoch, with a row more than its checkpoint."""
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    real, calls = coreFunction.train_epoch, iter(range(9))
    with monkeypatch.context() as patch:
        patch.setattr(
            coreFunction, "train_epoch", lambda *a, **named: interrupt() if next(calls) == 2 else real(*a, **named)
        )
        with pytest.raises(KeyboardInterrupt):
            train()
    folder = find_record("mine", "own").path
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"epoch": 3, "validation_accuracy": 0.5}\n')
    (folder / ".rows.jsonl.123.part").touch()
    return folder


def damaged_checkpoint(folder: Path) -> None:
    (folder / "checkpoint.pt").write_bytes(b"damaged")


def checkpoint_of_other_contents(folder: Path) -> None:
    found = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save(found | {"model": {}}, folder / "checkpoint.pt")


def too_few_rows(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("")


def other_rows(folder: Path) -> None:
    (folder / "rows.jsonl").write_text((folder / "rows.jsonl").read_text().replace('"epoch": 1', '"epoch": 9'))


@pytest.mark.parametrize("damage", [damaged_checkpoint, checkpoint_of_other_contents, too_few_rows, other_rows])
def test_a_run_that_cannot_be_resumed_is_left_as_it_was(interrupted, runs_dir, damage):
    damage(interrupted)
    before = everything(runs_dir)
    with pytest.raises(UsageError):
        train(resume=True)
    assert everything(runs_dir) == before


def test_another_run_is_not_resumed_under_the_name(interrupted, runs_dir):
    before = everything(runs_dir)
    with pytest.raises(UsageError, match=r"lr 0\.01 there, 0\.02 here"):
        train(resume=True, lr=2e-2)
    assert everything(runs_dir) == before


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("results_version", 7)])
def test_another_precision_or_version_does_not_resume(runs_dir, key, value):
    record = written(runs_dir, finished=False)
    before = everything(runs_dir)
    with pytest.raises(UsageError, match=f"was begun with {key}"), RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE | {key: value})
    assert everything(runs_dir) == before
    assert len(record.rows) == 2


def test_a_record_that_cannot_be_published_leaves_the_evidence_as_it_was(runs_dir, tmp_path, monkeypatch):
    from deepnet.records.publish import publish

    monkeypatch.setattr(reading, "EVIDENCE", tmp_path / "evidence")
    publish(written(runs_dir))
    before = everything(tmp_path / "evidence")
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE | {"dirty": True}, fresh=True)
        record = folder.finish({"status": "finished", "reason": None})
    with pytest.raises(UsageError, match="uncommitted code"):
        publish(record)
    assert everything(tmp_path / "evidence") == before
    assert os.environ["RUNS_DIR"] == str(runs_dir)
