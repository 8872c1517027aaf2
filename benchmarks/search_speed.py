"""How much faster a search is with three processes than with one, where a trial only sleeps: the search's own cost.

Real processes call `search` and `join` on one SQLite database. All of a search runs except the training: instead, a
trial sleeps and records a loss. They are timed from when all have imported what they need. The greatest possible ratio
is printed beside the measured one.
"""

import argparse
import contextlib
import importlib
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import coreFunction
from coreFunction import join, search
from deepnet.records.folder import RunFolder
from deepnet.records.provenance import provenance
from deepnet.records.reading import Record, runs_dir
from deepnet.search.sweep import REPORT_SWEEP
from experimentTable import Experiment

SWEEP = REPORT_SWEEP | {"metric": {"name": "train_loss", "goal": "minimize"}}


def sleep(seconds: float, exp: Experiment, identity: dict, *_: Any) -> Callable[[RunFolder], Record]:
    """Instead of a training: a record whose loss depends on its values alone, after `seconds`."""

    def write(folder: RunFolder) -> Record:
        folder.start(identity, provenance("fp32"))
        time.sleep(seconds)
        loss = (math.log10(exp.lr) + 3) ** 2 + abs(math.log2(exp.batch_size / 64))
        for epoch in (0, 1):
            folder.append({"epoch": epoch, "train_loss": loss})
        return folder.finish({"status": "finished", "split": "test"})

    return write


def work(worker: int, trials: int, seconds: float, ready: Barrier) -> None:
    """One process: the first begins the search, the others join it."""
    # which the first draw and the first trial would import
    for module in ("optuna._gp.acqf", "optuna.storages._rdb.models"):
        importlib.import_module(module)

    coreFunction.prepare_training = partial(sleep, seconds)
    ready.wait()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        if not worker:
            search(SWEEP, trials, base="MLP_4")
            return
        while not list(runs_dir().rglob("settings.json")):  # until the search has begun
            time.sleep(0.1)
        join()


def timed(processes: int, trials: int, seconds: float) -> float:
    """Seconds that so many processes take for a search."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"RUNS_DIR": folder, "WANDB_MODE": "disabled", "EVIDENCE": "0", "OMP_NUM_THREADS": "1"}
        ready = context.Barrier(processes + 1)
        working = [context.Process(target=work, args=(worker, trials, seconds, ready)) for worker in range(processes)]
        for process in working:
            process.start()
        ready.wait()
        begun = time.monotonic()
        while any(process.is_alive() for process in working) and not any(process.exitcode for process in working):
            time.sleep(0.02)
        passed = time.monotonic() - begun
        if any(process.exitcode for process in working):
            for process in working:
                process.kill()
            sys.exit("a process failed")
        made = {path.parent.parent.name for path in Path(folder).rglob("result.json")}
        assert made == {f"search_{number}" for number in range(1, trials + 1)}, made
        return passed


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=5, help="that a trial sleeps (default 5)")
    parser.add_argument("--processes", type=int, default=3)
    asked = parser.parse_args()
    one, several = (timed(processes, asked.trials, asked.seconds) for processes in (1, asked.processes))
    ideal = asked.trials / math.ceil(asked.trials / asked.processes)
    times = f"one process {one:.1f} s, {asked.processes} processes {several:.1f} s"
    print(f"{asked.trials} trials of {asked.seconds:g} s: {times}")
    print(f"{one / several:.2f} times as fast (at most {ideal:.2f})")


if __name__ == "__main__":
    main()
