"""A record that was returned stays what it was, whatever is trained, moved or removed afterwards; nothing replaces a
finished one.
"""

import multiprocessing
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ANALYSES, QUICK, TRAININGS, digits, held, lend, mlp, needs_fork, refused, same, state
from small_records import EXPERIMENT, PROVENANCE, WEIGHTS, written

import coreFunction
from coreFunction import pipeline, run, run_all
from deepnet.records.folder import RunFolder
from deepnet.records.reading import Record, find_record
from experimentTable import EXPERIMENTS, ROWS, UsageError, experiment, is_supported


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file under the folder, hidden ones too, and what it holds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


# ---------------------------------------------------------------- values


def test_records_of_one_name_stay_what_they_were(runs_dir):
    """Settings, rows, result, predictions and weights of three runs that took one another's place."""
    rates, models = (1e-4, 1e-3, 1e-2), []
    records = []
    for lr in rates:
        models.append(mlp())
        records.append(
            pipeline(models[-1], digits(), held(), name="net", keep_weights=True, **QUICK | {"lr": lr, "epochs": 2})
        )
    shown = [repr(record) for record in records]
    assert [record.settings["identity"]["lr"] for record in records] == list(rates)
    assert len({record.result["loss"] for record in records}) == 3
    for record, model in zip(records, models, strict=True):
        assert record.rows[-1]["validation_loss"] == record.result["loss"]
        assert (record.predictions()[0] == record.predictions()[1]).mean() == pytest.approx(
            record.result["accuracy"], rel=1e-3
        )
        assert same(record.weights(), state(model))
    shutil.rmtree(runs_dir)
    assert [repr(record) for record in records] == shown
    assert [record.column("train_loss", trained_only=True).size for record in records] == [2, 2, 2]
    refused(records[0].weights, "net (seed 0) has no weights", "keep_weights=True")


@pytest.mark.parametrize("name", ["MLP_4", "tsne_mnist"])
def test_what_run_returns_needs_its_folder_no_more(made, runs_dir, tiny, name):
    lend(made, runs_dir, name)
    (one,), other = run_all(name), run(name)
    shutil.rmtree(runs_dir)
    for record in (one, other):
        assert (record.name, record.finished, record.settings["experiment"]["name"]) == (name, True, name)
        assert (
            len(record.points()["xy"]) == 50
            if name == "tsne_mnist"
            else len(record.rows) == 3 and record.predictions().shape == (2, 16)
        )


def test_changing_an_array_that_was_handed_out_changes_no_record(runs_dir):
    record = written(runs_dir).load()
    record.predictions()[:] = 7
    assert record.predictions().tolist() == [[0, 1], [0, 0]]


def test_a_run_that_was_left_off_is_a_value_too(runs_dir, tiny):
    exp = replace(EXPERIMENTS["MLP_4"], name="cut", profile="sample")
    unfinished = run(exp, wandb=False, stop=lambda: True)
    run(exp, wandb=False)
    assert (unfinished.result, len(unfinished.rows)) == ({}, 1)


def test_a_relative_runs_dir_is_that_of_the_moment(runs_dir, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    record = written(Path("here"))
    monkeypatch.chdir("/")
    assert Record(record.path).rows and record.path == tmp_path / "here" / "sample" / "x" / "seed-0"


def test_weights_are_looked_for_where_the_record_was_moved_and_no_others_are_given(runs_dir):
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


def test_weights_of_a_run_that_was_killed_before_its_result_are_refused(runs_dir):
    record = written(runs_dir, finished=False)
    torch.save(WEIGHTS, record.path / "weights.pt")
    refused(record.weights, "x (seed 0) has no weights")


# ---------------------------------------------------------------- columns and frames


def test_an_unknown_metric_is_refused_and_those_there_are_named(runs_dir):
    record = written(runs_dir)
    message = refused(
        lambda: record.column("train_losss"), "unknown metric 'train_losss'", "epoch, test_accuracy", "train_loss"
    )
    assert message == refused(lambda: record.column("train_losss", trained_only=True))
    np.testing.assert_array_equal(record.column("train_loss"), [np.nan, np.nan])  # there, though no row has a number


def test_a_metric_with_one_number_per_layer_is_no_column(made):
    record = Record(made / "sample" / "MLP_4" / "seed-0")
    refused(
        lambda: record.column("gradient_log10_rms"), "gradient_log10_rms is no single number per row", "record.rows"
    )
    refused(lambda: Record(made / "sample" / "timing_3" / "seed-0").column("pair"), "pair is no single number per row")


def test_a_record_becomes_a_data_frame_with_one_row_per_epoch(runs_dir, monkeypatch):
    record = written(runs_dir)
    pandas = pytest.importorskip("pandas")
    frame = record.to_frame()
    assert list(frame["test_accuracy"]) == [0.1, 0.5] and isinstance(frame, pandas.DataFrame)


def test_the_rows_are_what_pandas_is_given(runs_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    record = written(runs_dir)
    assert record.to_frame() == ("frame", record.rows)


def test_without_pandas_it_is_said_what_to_install(runs_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    refused(written(runs_dir).to_frame, "to_frame needs pandas", "pip install pandas")


# ---------------------------------------------------------------- nothing replaces a finished run


@pytest.mark.parametrize("name", ["MLP_4", "tsne_mnist", "distribution", "timing_3"])
def test_what_another_process_finished_between_look_and_lock_is_returned(made, runs_dir, tiny, monkeypatch, name):
    """The first look finds nothing, as where the other process ends just after it."""
    lend(made, runs_dir, name)
    before = bytes_of(runs_dir / "sample" / name / "seed-0")
    monkeypatch.setattr(coreFunction, "find_record", lambda *_: None)
    record = run(name, evidence=False)
    assert record.result == Record(made / "sample" / name / "seed-0").result
    assert bytes_of(runs_dir / "sample" / name / "seed-0") == before


def test_what_another_process_finished_as_another_run_is_refused_and_kept(made, runs_dir, tiny, monkeypatch):
    lend(made, runs_dir, "MLP_4")
    before = bytes_of(runs_dir / "sample" / "MLP_4" / "seed-0")
    monkeypatch.setattr(coreFunction, "find_record", lambda *_: None)
    refused(
        lambda: run(replace(EXPERIMENTS["MLP_4"], lr=1e-3)),
        "holds another run named MLP_4",
        "lr 0.0001 there, 0.001 here",
    )
    assert bytes_of(runs_dir / "sample" / "MLP_4" / "seed-0") == before


def test_the_writing_side_itself_does_not_begin_over_a_result(runs_dir):
    record = written(runs_dir)
    before = bytes_of(record.path)
    with pytest.raises(UsageError, match="holds a run that has ended"), RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE)
    assert bytes_of(record.path) == before


def _work(names: list[str], order: int, ready: object) -> None:
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    ready.wait()
    run_all(*(names if order % 2 else reversed(names)), evidence=False, wandb=False)


@needs_fork
def test_processes_on_one_folder_leave_every_finished_record_as_it_is(made, runs_dir, tiny):
    """Through the whole table `SHARED_RUNS` times, as in the long form; by default once through a few runs of each
    kind.
    """
    times = int(os.environ.get("SHARED_RUNS", 0))
    names = (
        [row.name for row in ROWS if is_supported(experiment(row.name, "sample"))]
        if times
        else [*TRAININGS[:2], *ANALYSES[:2], "timing_3"]
    )
    context = multiprocessing.get_context("fork")
    for _ in range(max(times, 1)):
        shutil.rmtree(runs_dir, ignore_errors=True)
        lend(made, runs_dir, "MLP_4", "distribution")
        before = {name: bytes_of(runs_dir / "sample" / name / "seed-0") for name in ("MLP_4", "distribution")}
        ready = context.Barrier(3)
        processes = [context.Process(target=_work, args=(names, order, ready)) for order in range(3)]
        for process in processes:
            process.start()
        seen: dict[str, dict[str, bytes]] = {}  # each record as it was when it was first seen to be finished
        while any(process.is_alive() for process in processes):
            for result in runs_dir.glob("sample/*/seed-0/result.json"):
                if result.parents[1].name not in seen and not (result.parent / "checkpoint.pt").exists():
                    seen[result.parents[1].name] = bytes_of(result.parent)
            processes[0].join(0.01)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert {name: bytes_of(runs_dir / "sample" / name / "seed-0") for name in before} == before
        for name, first in seen.items():
            assert bytes_of(runs_dir / "sample" / name / "seed-0") == first, name
        for name in names:
            record = find_record(name, "sample", evidence=False).load()
            assert record.finished
            if record.settings["experiment"]["kind"] == "training":
                assert [row["epoch"] for row in record.rows] == [0, 1, 2]
            assert len(list((runs_dir / "sample" / name).glob("seed-0*"))) == 1  # nothing was moved aside
