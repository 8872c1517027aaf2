"""A returned record does not change with its folder; nothing replaces a finished record."""

import multiprocessing
import os
import shutil
import sys
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ANALYSES, QUICK, TRAININGS, digits, found, held, lend, mlp, needs_fork, refused, same, state
from small_records import EXPERIMENT, PROVENANCE, WEIGHTS, written
from torch import nn

import coreFunction
from coreFunction import pipeline, run, run_all
from deepnet.records.folder import RunFolder
from deepnet.records.reading import Record, find_record
from experimentTable import EXPERIMENTS, ROWS, UsageError, experiment, is_supported
from myModel import MLP, MODELS


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file under the folder, hidden ones too, and its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


# ---------------------------------------------------------------- values


def test_records_of_one_name_stay_what_they_were(runs_dir):
    """Settings, rows, result, predictions and weights of three runs that took one another's place."""
    rates = (1e-4, 1e-3, 1e-2)
    models = [mlp() for _ in rates]
    options = QUICK | {"name": "net", "epochs": 2, "keep_weights": True}
    records = [
        pipeline(model, digits(), held(), **options | {"lr": lr}) for model, lr in zip(models, rates, strict=True)
    ]
    shown = [repr(record) for record in records]
    assert [record.settings["identity"]["lr"] for record in records] == list(rates)
    assert len({record.result["loss"] for record in records}) == 3
    for record, model in zip(records, models, strict=True):
        accuracy = (record.predictions()[0] == record.predictions()[1]).mean()
        assert record.rows[-1]["validation_loss"] == record.result["loss"]
        assert accuracy == pytest.approx(record.result["accuracy"], rel=1e-3)
        assert same(record.weights(), state(model))
    shutil.rmtree(runs_dir)
    assert [repr(record) for record in records] == shown
    assert [record.column("train_loss", trained_only=True).size for record in records] == [2, 2, 2]
    refused(records[0].weights, "net (seed 0) has no weights", "keep_weights=True")


@pytest.mark.parametrize("name", ["MLP_4", "tsne_mnist"])
def test_returned_records_need_no_folder(made, runs_dir, tiny, name):
    lend(made, runs_dir, name)
    records = [*run_all(name), run(name)]
    shutil.rmtree(runs_dir)
    for record in records:
        assert (record.name, record.finished, record.settings["experiment"]["name"]) == (name, True, name)
        if name == "tsne_mnist":
            assert len(record.points()["xy"]) == 50
        else:
            assert len(record.rows) == 3 and record.predictions().shape == (2, 16)


def test_arrays_are_copies(runs_dir):
    record = written(runs_dir).load()
    record.predictions()[:] = 7
    assert record.predictions().tolist() == [[0, 1], [0, 0]]


def test_a_stopped_run_is_a_value_too(runs_dir, tiny):
    exp = replace(EXPERIMENTS["MLP_4"], name="cut", profile="sample")
    unfinished = run(exp, wandb=False, stop=lambda: True)
    run(exp, wandb=False)
    assert (unfinished.result, len(unfinished.rows)) == ({}, 1)


def test_relative_runs_dir(monkeypatch, tmp_path):
    """Its record is found again from another working directory."""
    monkeypatch.chdir(tmp_path)
    record = written(Path("here"))
    monkeypatch.chdir("/")
    assert Record(record.path).rows and record.path == tmp_path / "here" / "sample" / "x" / "seed-0"


def test_weights_of_a_record_that_was_moved_aside(runs_dir):
    record = written(runs_dir).load()
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE, fresh=True)
        folder.save_weights({"w": torch.zeros(3)})
        folder.finish({"status": "finished", "split": "test", "accuracy": 0.1}, {"w": torch.zeros(3)})
    assert same(record.weights(), WEIGHTS) and record.has_weights
    (moved,) = runs_dir.glob("sample/x/seed-0.*")
    torch.save({"w": torch.ones(3)}, moved / "weights.pt")
    refused(record.weights, "holds other weights than its result.json names")
    shutil.rmtree(moved)
    refused(record.weights, "x (seed 0) has no weights")
    assert same(Record(record.path).weights(), {"w": torch.zeros(3)})


def test_weights_without_a_result(runs_dir):
    record = written(runs_dir, finished=False)
    torch.save(WEIGHTS, record.path / "weights.pt")
    refused(record.weights, "x (seed 0) has no weights")


# ---------------------------------------------------------------- columns and frames


def test_unknown_metric(runs_dir):
    record = written(runs_dir)
    refused(lambda: record.column("train_losss"), "unknown metric 'train_losss'", "epoch, test_accuracy", "train_loss")
    np.testing.assert_array_equal(record.column("train_loss"), [np.nan, np.nan])  # known, though no row has a number


@pytest.mark.parametrize(("name", "metric"), [("MLP_4", "gradient_log10_rms"), ("timing_3", "pair")])
def test_a_metric_that_is_not_a_number(made, name, metric):
    refused(lambda: found(made, name).column(metric), f"{metric} is not one number per row", "record.rows")


@pytest.mark.parametrize("pandas", [None, SimpleNamespace(DataFrame=lambda rows: ("frame", rows))])
def test_data_frame(runs_dir, monkeypatch, pandas):
    record = written(runs_dir)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    if pandas:
        assert record.to_frame() == ("frame", record.rows)
    else:
        refused(record.to_frame, "to_frame needs pandas", "pip install pandas")


# ---------------------------------------------------------------- nothing replaces a finished run


@pytest.mark.parametrize("name", ["MLP_4", "tsne_mnist", "distribution", "timing_3"])
def test_run_finished_between_look_and_lock(made, runs_dir, tiny, monkeypatch, name):
    """The first look finds nothing, as where another process ends just after it; its record is returned."""
    lend(made, runs_dir, name)
    before = bytes_of(runs_dir / "sample" / name / "seed-0")
    monkeypatch.setattr(coreFunction, "find_record", lambda *_: None)
    assert run(name, evidence=False).result == found(made, name).result
    if name == "MLP_4":
        other = replace(EXPERIMENTS["MLP_4"], lr=1e-3)
        refused(lambda: run(other), "holds another run named MLP_4", "lr 0.0001 there, 0.001 here")
    assert bytes_of(runs_dir / "sample" / name / "seed-0") == before


def test_start_over_a_result_is_refused(runs_dir):
    record = written(runs_dir)
    before = bytes_of(record.path)
    with pytest.raises(UsageError, match="holds a run that has ended"), RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE)
    assert bytes_of(record.path) == before


def small_mlp(*, image_size: int = 28) -> nn.Module:
    return MLP([784, 8, 10])


def small_cnn(*, image_size: int = 32) -> nn.Module:
    """Children named as those of ResNet-18."""
    stages = {f"layer{i}": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for i in range(1, 5)}
    begin = {"conv1": nn.Conv2d(3, 4, 7, stride=8), "bn1": nn.BatchNorm2d(4), "relu": nn.ReLU()}
    end = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(4, 10)}
    return nn.Sequential(OrderedDict(begin | stages | end))


def _train_all(names: list[str], order: int, ready: object) -> None:
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    ready.wait()
    run_all(*(names if order % 2 else reversed(names)), evidence=False, wandb=False)


@needs_fork
def test_shared_folder(made, runs_dir, tiny, monkeypatch):
    """Three processes make the same runs in one folder: each is trained once, and stays as it is once finished.

    By default they make a few runs of each kind. `SHARED_RUNS=100` makes them go through the whole table 100 times.
    """
    times = int(os.environ.get("SHARED_RUNS", 0))
    names = [*TRAININGS[:2], *ANALYSES[:2], "timing_3"]
    if times:
        names = [row.name for row in ROWS if is_supported(experiment(row.name, "sample"))]
    for model in MODELS:  # what is tested here does not depend on the models, and a round takes as long as they do
        monkeypatch.setitem(MODELS, model, small_mlp if model.startswith("MLP") else small_cnn)
    context = multiprocessing.get_context("fork")
    for _ in range(max(times, 1)):
        shutil.rmtree(runs_dir, ignore_errors=True)
        lend(made, runs_dir, "MLP_4", "distribution")
        before = {name: bytes_of(runs_dir / "sample" / name / "seed-0") for name in ("MLP_4", "distribution")}
        ready = context.Barrier(3)
        processes = [context.Process(target=_train_all, args=(names, order, ready)) for order in range(3)]
        for process in processes:
            process.start()
        seen: dict[str, dict[str, bytes]] = {}  # each record as it was when it was first seen to be finished
        while any(process.is_alive() for process in processes):
            for result in runs_dir.glob("sample/*/seed-0/result.json"):
                if result.parents[1].name not in seen and not (result.parent / "checkpoint.pt").exists():
                    seen[result.parents[1].name] = bytes_of(result.parent)
            time.sleep(0.02)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        for name, first in (seen | before).items():
            assert bytes_of(runs_dir / "sample" / name / "seed-0") == first, name
        for name in names:
            record = find_record(name, "sample", evidence=False).load()
            assert record.finished
            if record.settings["experiment"]["kind"] == "training":
                assert [row["epoch"] for row in record.rows] == [0, 1, 2]
            assert len(list((runs_dir / "sample" / name).glob("seed-0*"))) == 1  # nothing was moved aside
