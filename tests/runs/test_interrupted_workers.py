"""Callers, workers and schedulers that end in the middle, and workers that cannot serve: real processes and signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from helpers import ROOT

import coreFunction
from coreFunction import run_all
from deepnet.runs import queue
from deepnet.runs.queue import dask_executor, process_pool

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
NAMES = ("MLP_4", "MLP_13", "MLP_23")
POOL = ("run.py", "train", *NAMES, "--workers", "1")
OWN_POOL = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from coreFunction import run_all
with ProcessPoolExecutor(1, get_context("spawn")) as pool:
    run_all(*sys.argv[1:], executor=pool)
"""


def until(true, seconds=120):
    """Wait for what is true soon, or fail."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start(*arguments)` starts a Python in the clone, or elsewhere; it is killed at the end, with its children."""
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(tmp_path / "dask"))
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    monkeypatch.setenv("CHECKPOINT_SECONDS", "1000")  # so that a checkpoint shows that a run was stopped
    started = []

    def start(*arguments, before=(), cwd=ROOT, path=f"{ROOT / 'tests'}{os.pathsep}{Path(__file__).parent}"):
        with open(tmp_path / f"{len(started)}.out", "w") as out, open(tmp_path / f"{len(started)}.err", "w") as err:
            command = [*before, sys.executable, *arguments]
            environment = os.environ | {"PYTHONPATH": path}
            started.append(
                subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, stdout=out, stderr=err)
            )
        started[-1].said = lambda out=Path(out.name), err=Path(err.name): (out.read_text(), err.read_text())
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def scheduler(start, tmp_path):
    """A scheduler that does not know the project; its `address` is where it is."""
    file = tmp_path / "scheduler.json"
    options = ("--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    process = start("-m", "dask", "scheduler", *options, cwd=tmp_path, path="")
    until(file.exists)
    process.address = json.loads(file.read_text())["address"]
    return process


@pytest.fixture
def worker(start, scheduler):
    """`worker()` starts a Dask worker for the scheduler as `start` does."""
    return partial(start, "-m", "dask", "worker", scheduler.address, "--nthreads", "1", "--no-dashboard")


def has_begun(runs_dir, name):
    rows = runs_dir / "sample" / name / "seed-0" / "rows.jsonl"
    return rows.exists() and rows.read_text().count("\n") > 1


def begun(runs_dir):
    return [path.name for path in (runs_dir / "sample").iterdir()]


def in_group(leader):
    """The living processes that came of `leader`, itself not counted."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            found += [int(folder.name)] if int(group) == leader.pid and state != "Z" else []
    return [pid for pid in found if pid != leader.pid]


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")


# ---------------------------------------------------------------- a pool of processes


@needs_proc
def test_interrupt_ends_the_pool(start, runs_dir):
    caller = start(*POOL)
    until(lambda: has_begun(runs_dir, "MLP_4"))
    caller.send_signal(signal.SIGINT)
    assert caller.wait(60) == 1
    out, err = caller.said()
    assert (out.splitlines()[-1], err) == ("interrupted; the same call continues from here", "")
    until(lambda: in_group(caller) == [], 10)  # multiprocessing's resource tracker ends a moment after the caller
    assert begun(runs_dir) == ["MLP_4"] and not (runs_dir / "sample" / "MLP_4" / "seed-0" / "result.json").exists()
    assert not list(runs_dir.glob(".caller-*"))


@needs_proc
def test_killed_caller_ends_its_pool(start, runs_dir):
    caller = start(*POOL)
    until(lambda: has_begun(runs_dir, "MLP_4"))
    caller.kill()
    until(lambda: in_group(caller) == [], 60)
    assert begun(runs_dir) == ["MLP_4"]
    left = set(runs_dir.glob(".caller-*"))
    assert len(left) == 1
    with queue._caller_file() as one, queue._caller_file() as other:  # a second caller leaves the first one's alone
        assert {str(path) for path in runs_dir.glob(".caller-*")} == {one, other}
    assert not list(runs_dir.glob(".caller-*"))


def test_own_pool_of_a_killed_caller_stops_after_the_epoch(start, runs_dir):
    caller = start("-c", OWN_POOL, *NAMES)
    until(lambda: has_begun(runs_dir, "MLP_4"))
    caller.kill()
    until((runs_dir / "sample" / "MLP_4" / "seed-0" / "checkpoint.pt").exists, 30)
    time.sleep(3)  # in which the next would begin
    assert begun(runs_dir) == ["MLP_4"]


def test_stop_in_the_middle_of_a_workers_run(start, runs_dir, capsys):
    with process_pool(1) as pool:
        assert run_all(*NAMES, executor=pool, stop=lambda: has_begun(runs_dir, "MLP_4")) == []
    assert capsys.readouterr().out.splitlines()[-1] == "stopped as asked; the same call continues from here"
    assert (runs_dir / "sample" / "MLP_4" / "seed-0" / "checkpoint.pt").exists()
    assert begun(runs_dir) == ["MLP_4"]


# ---------------------------------------------------------------- Dask


def test_interrupt_on_a_cluster(start, worker, scheduler, runs_dir):
    worker()
    caller = start("run.py", "train", *NAMES, "--dask", scheduler.address)
    until(lambda: has_begun(runs_dir, "MLP_4"))
    caller.send_signal(signal.SIGINT)
    assert caller.wait(60) == 1
    out, err = caller.said()
    assert (out.splitlines()[-1], err) == ("interrupted; the same call continues from here", "")
    until((runs_dir / "sample" / "MLP_4" / "seed-0" / "checkpoint.pt").exists, 30)
    time.sleep(3)
    assert begun(runs_dir) == ["MLP_4"]


def test_scheduler_is_gone(start, worker, scheduler, runs_dir):
    worker()
    caller = start("run.py", "train", *NAMES, "--dask", scheduler.address)
    until(lambda: has_begun(runs_dir, "MLP_4"))
    scheduler.kill()
    assert caller.wait(60) == 1
    said = "run.py: the scheduler is gone; once there is one again, the same call continues from here\n"
    assert caller.said()[1] == said
    assert not list(runs_dir.glob(".caller-*"))


def run_or_die(exp, **options):
    return os.kill(os.getpid(), signal.SIGKILL) if exp.name == "MLP_4" else coreFunction.run(exp, **options)


def test_run_that_kills_its_workers(worker, scheduler, monkeypatch, capsys):
    monkeypatch.setattr(coreFunction, "run", run_or_die)  # here alone: the worker has the real one
    worker()
    with dask_executor(scheduler.address) as executor:
        records = run_all("MLP_4", "distribution", executor=executor)
    assert [record.name for record in records] == ["distribution"]
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "MLP_4 (seed 0) could not run: its worker died, and each after it (out of memory?)"
    assert "Traceback" not in said


def test_worker_without_the_project(worker, scheduler, tmp_path, capsys):
    imported = subprocess.run(
        [sys.executable, "-c", "import deepnet"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, capture_output=True
    )
    if imported.returncode == 0:
        pytest.skip("the project is installed, so that every worker can import it")
    with dask_executor(scheduler.address) as executor:
        assert "has no worker yet" in capsys.readouterr().out
        worker(cwd=tmp_path, path="")
        assert run_all(*NAMES, executor=executor) == []
    _, refusal, others = capsys.readouterr().out.splitlines()
    assert refusal.startswith("a worker cannot import the project (No module named 'deepnet'); ")
    assert others.startswith("the same stops MLP_")


def hidden(folder):
    """The beginning of a command that sees an empty folder in place of `folder`; None where that is not allowed."""
    if not shutil.which("unshare"):
        return None
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    return None if subprocess.run([*alone, "true"], capture_output=True).returncode else alone


def test_worker_without_the_records(worker, scheduler, runs_dir, capsys):
    runs_dir.mkdir()
    if not (alone := hidden(runs_dir)):
        pytest.skip("no other view of the files can be given to a process here (unshare)")
    worker(before=alone)
    with dask_executor(scheduler.address) as executor:
        assert run_all(*NAMES, executor=executor) == []
    lines = capsys.readouterr().out.splitlines()
    assert f"cannot see {runs_dir}; set RUNS_DIR to a folder that all share" in lines[-2]
    assert not (runs_dir / "sample").exists()
