"""Runs whose process is killed, and what they left once the same call was made again until it ended.

Every run is a process of its own, and every kill a SIGKILL. The processes are forks of the test's, which has imported
everything, so that a kill costs a run and not an import.
"""

import functools
import importlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import tiny_sample, untimed
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

import coreFunction
from coreFunction import run_all
from deepnet.data.sets import SPLITS, load_images
from deepnet.records.folder import RunFolder
from deepnet.records.reading import Record
from deepnet.search import searching
from experimentTable import EXPERIMENTS, PROFILES, UsageError
from myModel import MLP, MODELS

FORK = multiprocessing.get_context("fork")
AT_MOST = 120  # seconds for one process

# ---------------------------------------------------------------- what is run

IMAGES = 16
BUDGETS = {"mlp": (16, 8), "mlp_res": (4, 2), "head": (6, 3), "fine_tune": (6, 3)}  # family -> (steps in all, rows)
STOPPING = replace(
    EXPERIMENTS["early_stopping"], name="stopping", family="mlp", start_from=None, trainable=None, lr=3e-3,
    optimizer="RMSprop", dropout=0.5, patience=5, min_delta=0.01, record_gradients=True,
)  # fmt: skip
CHAIN = ("fine_tune_1_lr", "fine_tune_2_lr", "fine_tune_3_lr")
SWEEP = {
    "method": "bayes",
    "metric": {"name": "train_loss", "goal": "minimize"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "batch_size": {"values": [8, 16]},
    },
}
JOBS: dict[str, Callable[[], list[Record]]] = {
    "early stopping": lambda: run_all(STOPPING, evidence=False),
    "pretraining": lambda: run_all("train_resnet", evidence=False),
    "unfreezing": lambda: run_all(*CHAIN, evidence=False),
    "search": lambda: coreFunction.search(SWEEP, 5, base="MLP_res_5"),
    "joining": lambda: coreFunction.join(),
}


class Narrow(ResNet):
    """torchvision's ResNet with an eighth of the channels in its stages, of one block each."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1], num_classes=10)
        self.fc = nn.Linear(512 // 8, 10)

    def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // 8, *args, **options)


# Where a child kills itself: what the summary calls it, the call, and whether before, after or amid it.
Place = tuple[str, str, str]
BATCH = ("in a batch, between gradient and step", "torch:Tensor.backward", "after")
UNCHECKED = ("between row and checkpoint", "deepnet.records.folder:RunFolder.checkpoint", "before")
CHECKED = ("between checkpoint and next epoch", "deepnet.records.folder:RunFolder.checkpoint", "after")
WRITTEN = ("between write and rename", "pathlib:Path.replace", "before")
TRAINING: list[Place] = [
    BATCH,
    ("in the evaluation", "deepnet.training.steps:accuracy", "before"),
    ("amid the writing of a row", "deepnet.records.folder:append_line", "amid"),
    UNCHECKED,
    CHECKED,
    WRITTEN,
    ("after a rename", "pathlib:Path.replace", "after"),
    ("before the predictions", "deepnet.records.folder:RunFolder.save_array", "before"),
    ("before the result", "deepnet.records.folder:RunFolder.finish", "before"),
]
UNFREEZING: list[Place] = [
    ("while unfreezing", "deepnet.runs.single:train_only", "after"),
    CHECKED,
    ("between the parent's weights and the freezing", "coreFunction:build", "after"),
    BATCH,
    ("with the final weights written", "deepnet.records.folder:RunFolder.save_weights", "after"),
    UNCHECKED,
    ("before a frozen prefix is computed", "deepnet.training.frozen_prefix:cached", "before"),
    WRITTEN,
    ("with the result written", "deepnet.records.folder:RunFolder.finish", "after"),
]
SEARCH: list[Place] = [
    ("in a statement to the search's database", "sqlalchemy.engine.default:DefaultDialect.do_execute", "after"),
    ("before a commit to the search's database", "sqlalchemy.engine.default:DefaultDialect.do_commit", "before"),
    ("between a trial's values and its run", "deepnet.records.folder:RunFolder.start", "before"),
    ("between a trial's result and its score", "deepnet.records.folder:RunFolder.finish", "after"),
]
PLACES = {"early stopping": TRAINING, "unfreezing": UNFREEZING, "search": SEARCH}
ANYWHERE = "at a random time"

# ---------------------------------------------------------------- in the child

_small = ExitStack()  # kept, so that the cut lasts as long as the process


def cut_down() -> None:
    """Cut this process's sample profile down to a few images and steps, its models to narrow ones."""
    torch.set_num_threads(1)
    _small.enter_context(tiny_sample(IMAGES))
    PROFILES["sample"].budgets.update(BUDGETS)
    MODELS["MLP_4"] = lambda image_size: MLP([784, 64, 32, 16, 10])
    MODELS["MLP_res_5"] = lambda image_size: MLP([784, 64, 32, 16, 10], residual=True)
    MODELS["resnet18"] = lambda image_size: Narrow()
    searching.POLL_SECONDS = 0.1


def _nothing(*_: object) -> None:
    pass


def _hook(target: str, before: Callable[..., None] = _nothing, after: Callable[..., None] = _nothing) -> None:
    """Have `before` and `after` called around `target` ("module:attribute"), with its first two arguments."""
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    real = getattr(owner, name)

    def hooked(*args: Any, **options: Any) -> Any:
        before(*args[:2])
        result = real(*args, **options)
        after(*args[:2])
        return result

    setattr(owner, name, hooked)


def _die(*_: object, by: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), by)


def _tear(path: Path, row: dict) -> None:
    """Write half of the row, and die."""
    with path.open("a") as file:
        file.write(json.dumps(row)[:30])
    _die()


def die_at(target: str, when: str, nth: int, by: int = signal.SIGKILL) -> None:
    """Have this process kill itself (or stop, `by` SIGSTOP) before, after or amid its `nth` call of `target`."""
    calls, act = itertools.count(1), _tear if when == "amid" else functools.partial(_die, by=by)
    moment = "after" if when == "after" else "before"
    _hook(target, **{moment: lambda *args: act(*args) if next(calls) == nth else None})


def count_calls(targets: list[str], tally: Path) -> None:
    """Add a line to the file `tally` for every call of each target."""

    def write(target: str, *_: object) -> None:
        with tally.open("a") as file:
            file.write(f"{target}\n")

    for target in targets:
        _hook(target, before=functools.partial(write, target))


def tally_rows(tally: Path) -> None:
    """Add a line to the file `tally` for every row that this process records: whose it is, and of which epoch."""

    def write(folder: RunFolder, row: dict) -> None:
        with tally.open("a") as file:
            file.write(f"{folder.path.parent.name} {row['epoch']}\n")

    _hook("deepnet.records.folder:RunFolder.append", before=write)


def leap(seed: int) -> None:
    """Have both clocks of this process leap up to an hour on or back at every reading."""
    rng = random.Random(seed)
    now, passed = time.time, time.monotonic
    time.time = lambda: now() + rng.uniform(-3600, 3600)
    time.monotonic = lambda: passed() + rng.uniform(-3600, 3600)


def _child(job: str, runs: Path, seconds: float, faults: tuple[Callable[[], None], ...], begun: Connection) -> None:
    sys.stdout = sys.stderr = log_of(runs).open("w", buffering=1)
    os.environ |= {"RUNS_DIR": str(runs), "CHECKPOINT_SECONDS": str(seconds), "EVIDENCE": "0", "WANDB_MODE": "disabled"}
    cut_down()
    for fault in faults:
        fault()
    begun.send(None)
    try:
        print([record.name for record in JOBS[job]()])
    except UsageError as error:
        print(error)


# ---------------------------------------------------------------- outside of it


def log_of(runs: Path) -> Path:
    """Where the last process with these records wrote its output."""
    return runs.with_name(f"{runs.name}.log")


@functools.cache
def _warm() -> None:
    """What each child would import and decode, once for all of them."""
    for module in ("alembic.context", "optuna._gp.acqf", "optuna.storages._rdb.models", "wandb"):
        importlib.import_module(module)
    for name, parts in SPLITS.items():
        for part in parts:
            load_images(name, part)


def start(job: str, runs: Path, *faults: Callable[[], None], seconds: float = 0) -> ForkProcess:
    """A process that does `job` with records in `runs`, under `faults`; returned when it has begun."""
    _warm()
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_child, args=(job, runs, seconds, faults, there))
    process.start()
    there.close()
    here.recv()
    return process


def kill(job: str, runs: Path, *faults: Callable[[], None], seconds: float = 0, delay: float | None = None) -> bool:
    """Whether `job` was killed, by a fault or after `delay` seconds; it may have ended before."""
    process = start(job, runs, *faults, seconds=seconds)
    process.join(AT_MOST if delay is None else delay)
    stuck = delay is None and process.is_alive()
    process.kill()
    process.join()
    assert not stuck and process.exitcode in (0, -signal.SIGKILL), log_of(runs).read_text()
    return process.exitcode == -signal.SIGKILL


def finish(job: str, runs: Path, *faults: Callable[[], None], seconds: float = 0) -> str:
    """Do `job` in a process of its own to its end; returns what it printed."""
    assert not kill(job, runs, *faults, seconds=seconds)
    return log_of(runs).read_text()


@dataclass
class Reference:
    """An undisturbed job: what it left in `runs` and printed, its calls of each place, and how long it took."""

    job: str
    runs: Path
    begin: Path | None = None  # records that it begins with
    calls: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Run it."""
        self.prepare(self.runs)
        tally = self.runs.with_name(f"{self.runs.name}.calls")
        _warm()
        begun = time.monotonic()
        targets = sorted({target for _, target, _ in PLACES[self.job]})
        said = finish(self.job, self.runs, functools.partial(count_calls, targets, tally))
        self.seconds = time.monotonic() - begun
        self.answer = said.splitlines()[-1]
        self.calls.update(tally.read_text().splitlines())

    def prepare(self, runs: Path) -> None:
        """Lay out what the job begins with."""
        if self.begin:
            shutil.copytree(self.begin, runs, copy_function=os.link)

    def progress(self, runs: Path) -> float:
        """The share of the rows that is there."""
        there, all_of_them = (sum(len(record.rows) for record in records(folder)) for folder in (runs, self.runs))
        return there / all_of_them

    def harm(self, runs: Path, ended: bool = True) -> Counter[str]:
        """How many differences of each kind the records in `runs` have; of an unfinished job the rows alone."""
        found: Counter[str] = Counter()
        for expected in records(self.runs):
            record = Record(runs / expected.path.relative_to(self.runs))
            epochs, rows = [row["epoch"] for row in record.rows], untimed(expected.rows)
            found["rows doubled"] += len(epochs) - len(set(epochs))
            found["rows changed"] += untimed(record.rows) != rows[: len(epochs)]
            if ended and not record.result:
                found["records lost"] += 1
            elif ended:
                found["rows lost"] += len({row["epoch"] for row in rows} - set(epochs))
                found["results changed"] += _decisions(record) != _decisions(expected)
                found["predictions changed"] += not np.array_equal(record.predictions(), expected.predictions())
                digests = [one.result["sha256"]["weights.pt"] for one in (record, expected)]
                found["weights changed"] += digests[0] != digests[1]
                found["weights changed"] += expected.has_weights and not record.weights()  # which checks the digest
                found["files left"] += len(_files(record) ^ _files(expected))
        if ended:
            found["records too many"] = len(records(runs)) - len(records(self.runs))
            found["answers changed"] = log_of(runs).read_text().splitlines()[-1] != self.answer
        return +found


def records(runs: Path) -> list[Record]:
    """All records below a folder."""
    return [Record(path.parent) for path in sorted(runs.rglob("settings.json"))]


def _files(record: Record) -> set[str]:
    """Names; a checkpoint that a kill has left beside the result is never read again."""
    return {path.name for path in record.path.iterdir()} - {"checkpoint.pt"}


def _decisions(record: Record) -> dict:
    left_out = ("train_seconds", "began", "ended", "sha256")
    return {key: value for key, value in record.result.items() if key not in left_out}


@dataclass
class Tally:
    """What a series of kills has done."""

    kills: Counter[str] = field(default_factory=Counter)  # by place
    harm: Counter[str] = field(default_factory=Counter)
    runs: int = 0  # that were killed, and then ended
    records: int = 0


def series(reference: Reference, folder: Path, kills: int, rng: random.Random) -> Tally:
    """Kill the job at least `kills` times: at the next of its places, at a random time, then let it end; and so on."""
    tally, job = Tally(), reference.job
    places = itertools.cycle(PLACES[job])
    while tally.kills.total() < kills:
        runs = folder / f"{job}-{tally.runs}"
        reference.prepare(runs)
        place, target, when = next(places)
        fault = functools.partial(die_at, target, when, rng.randint(1, reference.calls[target]))
        assert kill(job, runs, fault), f"{target} was not called as often as before"
        tally.kills[place] += 1
        tally.harm += reference.harm(runs, ended=False)
        left = max(0.2, 1 - reference.progress(runs))
        if kill(job, runs, seconds=rng.choice((0, 0.2)), delay=rng.uniform(0, left * reference.seconds)):
            tally.kills[ANYWHERE] += 1
            tally.harm += reference.harm(runs, ended=False)
            finish(job, runs)
        tally.runs += 1
        tally.records += len(records(runs))
        tally.harm += reference.harm(runs)
        shutil.rmtree(runs)
    return tally
