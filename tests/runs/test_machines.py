"""Runs on workers that other machines could be: a real Dask scheduler on loopback, a pool of processes."""

import os
import shutil
import signal
import threading
import time
from concurrent.futures import Executor, Future
from functools import partial

import pytest
import torch
from helpers import ROOT, python, raising, refused, untimed

import coreFunction
from coreFunction import run_all
from deepnet.progress import format_estimate
from deepnet.records.reading import find_record
from deepnet.runs import queue
from deepnet.runs.queue import dask_executor, process_pool
from experimentTable import UsageError, estimated_seconds, experiment

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
NAMES = ("MLP_4", "MLP_res_5", "CNN_10", "train_resnet", "fine_tune_1")


@pytest.fixture
def cluster(runs_dir, monkeypatch):
    """A scheduler and two worker processes, each restarted by its nanny when it dies."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    options = {"dashboard_address": None, "preload": [str(ROOT / "tests" / "dask_preload.py")]}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **options) as started:
        yield started


def kill_a_worker_at(path, client):
    """SIGKILL the worker that has just written its first row to `path`."""
    holders = client.run(os.getpid)
    while not path.exists():
        time.sleep(0.02)
    busy = [address for address, tasks in client.processing().items() if tasks]
    os.kill(holders[busy[0]], signal.SIGKILL)


@pytest.mark.skipif(torch.get_num_threads() > 1, reason="Dask's threads have torch threads of their own")
def test_killed_worker_loses_nothing(cluster, runs_dir, tiny, tmp_path, monkeypatch):
    with distributed.Client(cluster) as client:
        rows = runs_dir / "sample" / "MLP_4" / "seed-0" / "rows.jsonl"
        killer = threading.Thread(target=kill_a_worker_at, args=(rows, client))
        killer.start()
        with dask_executor(cluster.scheduler_address) as executor:
            records = run_all(*NAMES, wandb=False, executor=executor)
        killer.join()
    assert [record.name for record in records] == list(NAMES)
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "alone"))
    for record, alone in zip(records, run_all(*NAMES, wandb=False), strict=True):
        assert untimed(record.rows) == untimed(alone.rows)
        assert record.result["sha256"].get("weights.pt") == alone.result["sha256"].get("weights.pt")


def test_no_scheduler():
    refused(lambda: dask_executor("tcp://127.0.0.1:9").__enter__(), "no Dask scheduler at tcp://127.0.0.1:9")


@pytest.mark.parametrize("mode", ["offline", None])
def test_worker_uses_the_callers_folder_and_wandb_mode(mode, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_DIR", "elsewhere")
    monkeypatch.setenv("WANDB_MODE", "online")
    mark = tmp_path / ".caller-x"
    mark.touch()
    seen = lambda stop: [os.environ.get(key) for key in ("RUNS_DIR", "WANDB_MODE")]  # noqa: E731
    assert queue._run_in_worker(seen, str(mark), mode) == [str(tmp_path), mode]


class Noting(Executor):
    """Makes each call at once, and is done with it later; notes how many are then under way."""

    def __init__(self):
        self.under_way, self.noted = set(), []

    def submit(self, call, *arguments):
        future = Future()
        self.under_way.add(future)
        self.noted.append(len(self.under_way))

        def end():
            self.under_way.discard(future)
            future.set_result(call(*arguments))

        threading.Timer(0.2, end).start()
        return future


def told(name, stop):
    return name


def test_timing_runs_come_last_one_by_one(runs_dir):
    names, executor = ("timing_3", "MLP_4", "timing_4", "train_resnet", "fine_tune_1"), Noting()
    todo = {experiment(name, "sample"): partial(told, name) for name in names}
    ended = [attempt() for _, attempt in queue.schedule(executor, todo, stop=bool)]
    assert ended[-2:] == ["timing_3", "timing_4"] and sorted(ended) == sorted(names)
    assert executor.noted[-2:] == [1, 1] and max(executor.noted) == 2


def test_command_line_with_a_scheduler(cluster, runs_dir, tiny, call):
    assert call("train", "MLP_4", "distribution", "--dask", cluster.scheduler_address)[0] == 0
    assert find_record("MLP_4", "sample").finished


def test_pool_shares_the_cores():
    cores = len(os.sched_getaffinity(0))
    with process_pool(2) as pool:
        assert pool.submit(torch.get_num_threads).result() == max(1, cores // 2)
    refused(lambda: process_pool(0).__enter__(), "workers must be at least 1, got 0")


def die(stop):
    os.kill(os.getpid(), signal.SIGKILL)


def test_worker_of_a_pool_dies(runs_dir, tiny):
    with process_pool(1) as pool:
        attempts = queue.schedule(pool, {experiment("MLP_4", "sample"): die}, lambda: False)
        refused(lambda: list(attempts), "a worker process died", "continues from here")
    assert not list(runs_dir.glob(".caller-*"))
    shutil.rmtree(runs_dir)
    assert run_all("MLP_4", wandb=False) and find_record("MLP_4", "sample").finished


def test_parent_is_in_the_estimate_once(monkeypatch, capsys):
    monkeypatch.setattr(coreFunction, "run", raising(UsageError("no data")))
    names = ("fine_tune_2", "early_stopping", "fine_tune_2")
    run_all(*names)
    whole = sum(estimated_seconds(experiment(name, "sample")) for name in ("train_resnet", "fine_tune_1", *names[:2]))
    assert f"4 runs; to go: {format_estimate(whole, 'sample')}\n" in capsys.readouterr().out


def test_importing_changes_nothing_in_the_process():
    code = """
import os, random, sys, warnings, signal
import numpy, torch, torchvision
def state():
    cuda = torch.backends.cudnn.deterministic, torch.backends.cuda.matmul.allow_tf32
    flags = *cuda, torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    drawn = torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()
    return dict(os.environ), flags, drawn, list(warnings.filters), signal.getsignal(signal.SIGINT), list(sys.path)
before = state()
import utilityFunction, coreFunction, myModel, modelBlock, experimentTable
import deepnet.analyses.kinds, deepnet.search.searching
assert state() == before
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
