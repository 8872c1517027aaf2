"""Every refusal leaves every file as it was: a finished record of that name, an interrupted one, locks."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import QUICK, Listed, cut_off, digits, held, lend, mlp
from small_records import EXPERIMENT, PROVENANCE, written
from torch import nn

import coreFunction
from coreFunction import pipeline, run, run_all
from deepnet import machine
from deepnet.records.folder import RunFolder
from deepnet.records.publish import publish
from deepnet.records.reading import find_record
from experimentTable import EXPERIMENTS, UsageError


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every folder and file under this one, hidden ones too, and its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def train(
    model: nn.Module | None = None, train_set: object = None, eval_set: object = None, **options: object
) -> object:
    """The call that made the record, but for what is given."""
    train_set, eval_set = (digits() if train_set is None else train_set), (held() if eval_set is None else eval_set)
    return pipeline(model or mlp(), train_set, eval_set, name="mine", **QUICK | options)


class Late(Listed):
    """Refuses its items after this many readings, as if a file were damaged during an epoch."""

    def __init__(self, reads: int) -> None:
        super().__init__(list(zip(*digits().tensors, strict=True)))
        self.left = reads

    def __getitem__(self, index: int) -> tuple:
        self.left -= 1
        if self.left < 0:
            raise UsageError("this image is damaged")
        return super().__getitem__(index)


def with_late_label_12() -> Listed:
    return Listed([(image, 12 if i == 101 else int(label)) for i, (image, label) in enumerate(digits())])


def with_environment(name: str, value: str) -> Callable[[], object]:
    def call() -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            machine.device.cache_clear()
            try:
                return train()
            finally:
                patch.undo()
                machine.device.cache_clear()

    return call


REFUSALS: dict[str, Callable[[], object]] = {  # one from each place that refuses
    "an option": lambda: train(lr=0),
    "a child that the model lacks": lambda: train(trainable=("fc",)),
    "no optimizer": lambda: train(optimizer=list),
    "an optimizer that cannot take a step": lambda: train(optimizer=torch.optim.LBFGS),
    "no loss": lambda: train(loss=lambda outputs, _: outputs),
    "a model for other images": lambda: train(nn.Sequential(nn.Flatten(), nn.Linear(63, 10))),
    "a frozen model": lambda: train(mlp().requires_grad_(False)),
    "no images": lambda: train(train_set=digits(0, 0)),
    "a label without an output": lambda: train(eval_set=digits(label=lambda y: y + 5)),
    "a label without an output, far into the data": lambda: train(train_set=with_late_label_12()),
    "an image refused at the first look": lambda: train(train_set=Late(3)),
    "an image refused in an epoch": lambda: train(train_set=Late(500)),
    "an interval that is no number": with_environment("CHECKPOINT_SECONDS", "abc"),
    "an unknown device": with_environment("DEVICE", "foo"),
    "another experiment of the table's name": lambda: run(replace(EXPERIMENTS["MLP_4"], lr=1e-3)),
    "an experiment without a budget": lambda: run("MLP_33_eps"),
    "an unknown name": lambda: run_all("MLP_4", "MLP_5"),
    "two seeds": lambda: run_all(replace(EXPERIMENTS["MLP_4"], seed=1), seeds=(0,)),
    "threads": lambda: run_all("MLP_4", executor=ThreadPoolExecutor(1)),
}


@pytest.fixture
def finished(runs_dir, made, tiny):
    """A finished record of every name that the refusals use, and the temporary files of a killed process."""
    lend(made, runs_dir, "MLP_4")
    record = train(keep_weights=True)
    for name in (".rows.jsonl.123.part", "notes.txt"):
        (record.path / name).write_text("mine")
    (runs_dir / "sample" / "MLP_4" / ".seed-0.lock").touch()
    return runs_dir


@pytest.mark.parametrize("call", REFUSALS.values(), ids=REFUSALS)
def test_finished_record(finished, call):
    before = everything(finished)
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert everything(finished) == before


@pytest.mark.parametrize("seconds", ["30", "0"])
def test_first_run(runs_dir, monkeypatch, seconds):
    """It leaves no record, unless there is a checkpoint to resume from."""
    monkeypatch.setenv("CHECKPOINT_SECONDS", seconds)
    with pytest.raises(UsageError, match="this image is damaged"):
        train(train_set=Late(500))
    begun = find_record("mine", "own")
    if seconds == "0":
        assert (begun.path / "checkpoint.pt").exists() and len(begun.rows) > 1
    else:
        assert begun is None
        assert [path.name for path in runs_dir.rglob("*") if path.is_file()] == [".seed-0.lock"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_error_before_the_first_checkpoint(finished, monkeypatch, error):
    """The finished record takes its place again after an error, but not after Ctrl-C, when one may want to resume."""

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


# ---------------------------------------------------------------- an interrupted run


@pytest.fixture
def interrupted(runs_dir):
    """A run that was interrupted in its third epoch, with a row more than its checkpoint."""
    with cut_off(3):
        train()
    folder = find_record("mine", "own").path
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"epoch": 3, "validation_accuracy": 0.5}\n')
    (folder / ".rows.jsonl.123.part").touch()
    return folder


def other_checkpoint(folder: Path) -> None:
    found = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save(found | {"model": {}}, folder / "checkpoint.pt")


@pytest.mark.parametrize(("damage", "options", "message"), [
    (lambda folder: (folder / "checkpoint.pt").write_bytes(b"damaged"), {}, "cannot be read"),
    (other_checkpoint, {}, "is not of this run"),
    (lambda folder: (folder / "rows.jsonl").write_text(""), {}, "does not have the rows of its checkpoint"),
    (lambda folder: None, {"lr": 2e-2}, r"lr 0\.01 there, 0\.02 here"),
], ids=["damaged checkpoint", "other checkpoint", "too few rows", "other run"])  # fmt: skip
def test_interrupted_run(interrupted, runs_dir, damage, options, message):
    damage(interrupted)
    before = everything(runs_dir)
    with pytest.raises(UsageError, match=message):
        train(resume=True, **options)
    assert everything(runs_dir) == before


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("results_version", 7)])
def test_other_precision_or_version(runs_dir, key, value):
    written(runs_dir, finished=False)
    before = everything(runs_dir)
    with pytest.raises(UsageError, match=f"was begun with {key}"), RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE | {key: value})
    assert everything(runs_dir) == before


def test_evidence(runs_dir, evidence):
    publish(written(runs_dir))
    before = everything(evidence)
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE | {"dirty": True}, fresh=True)
        record = folder.finish({"status": "finished", "reason": None})
    with pytest.raises(UsageError, match="uncommitted code"):
        publish(record)
    assert everything(evidence) == before
