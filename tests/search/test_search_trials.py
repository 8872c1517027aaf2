"""What becomes of a search's trials: a failing one is passed over, a grid is not written out, a target ends it, records
lie anywhere.
"""

import math
import threading
import time
from collections import Counter

import optuna
import pytest
import torch
from helpers import interrupt, refused
from test_search import SMALL, config

import coreFunction
from coreFunction import join, search
from deepnet.records.reading import find_record
from deepnet.search import searching
from deepnet.search.sweep import REPORT_SWEEP, read_sweep
from deepnet.search.trials import open_study
from experimentTable import RunLockedError, UsageError

GRID = config(method="grid", parameters={"lr": {"values": [1e-3, 1e-2]}})


def states(runs_dir, name="search"):
    """The states of a search's trials, and for which reasons they failed."""
    with open_study(name, "sample", 0, "") as study:
        reasons = {key: value for key, value in study.asked.items() if key.startswith("failed_")}
        return [trial.state.name for trial in study.trials()], reasons


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UsageError("the model cannot take a batch"), "the model cannot take a batch"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB"), "CUDA out of memory."),
        (MemoryError(), "MemoryError"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "mat1 and mat2 shapes cannot be multiplied"),
        (AssertionError("expected contiguous"), "expected contiguous"),
    ],
)
def test_a_trial_that_cannot_be_run_is_recorded_as_failed_and_passed_over(
    error, reason, tiny, monkeypatch, capsys, runs_dir
):
    trained, train = [], coreFunction._train

    def failing(exp, *arguments):
        trained.append(exp.name)
        if exp.name == "search_2":
            raise error
        return train(exp, *arguments)

    monkeypatch.setattr(coreFunction, "_train", failing)
    assert {record.name for record in search(SMALL, 3, base="MLP_4")} == {"search_1", "search_3"}
    assert capsys.readouterr().out.count(f"search_2 (seed 0) failed: {reason}\n") == 1
    assert states(runs_dir) == (["COMPLETE", "FAIL", "COMPLETE"], {"failed_2": reason})
    assert {record.name for record in search(SMALL, 4, base="MLP_4")} == {"search_1", "search_3", "search_4"}
    assert trained == ["search_1", "search_2", "search_3", "search_4"]


def test_a_model_that_does_not_fit_the_data_does_not_stop_a_search(tiny, runs_dir):
    """Either it is refused before the first trial, or its trials fail and the others have their scores."""
    ask = config(method="grid", parameters={"model": {"values": ["MLP_4", "CNN_10", "MLP_13"]}})
    try:
        records = search(ask, 3, base="MLP_4", name="models")
    except UsageError as error:
        assert "CNN_10" in str(error)
        assert not runs_dir.exists()
        return
    assert sorted(record.settings["identity"]["model"] for record in records) == ["MLP_13", "MLP_4"]
    assert sorted(states(runs_dir, "models")[0]) == ["COMPLETE", "COMPLETE", "FAIL"]


def test_a_search_all_of_whose_trials_fail_says_so_and_can_be_gone_on_with(tiny, capsys):
    huge = config(method="grid", parameters={"lr": {"values": [1e38, 3e38, 1e-3]}})
    assert search(huge, 2, base="MLP_4") == []
    assert "search: no trial has a score\n" in capsys.readouterr().out
    assert [record.name for record in search(huge, 3, base="MLP_4")] == ["search_3"]


def test_what_is_no_fault_of_the_trial_s_ends_the_search_and_the_trial_is_the_next(tiny, monkeypatch, runs_dir):
    """A disk that is full, Ctrl-C: the same call goes on with it."""
    from deepnet.records.files import WriteError

    for error in (WriteError("cannot write records"), KeyboardInterrupt()):
        with monkeypatch.context() as patch:
            patch.setattr(coreFunction, "_train", lambda *_, error=error: (_ for _ in ()).throw(error))
            with pytest.raises(type(error)):
                search(SMALL, 1, base="MLP_4")
        assert states(runs_dir) == (["RUNNING"], {})
    assert [record.name for record in search(SMALL, 1, base="MLP_4")] == ["search_1"]


def test_a_run_that_another_process_trains_is_waited_for(tiny, monkeypatch, runs_dir):
    monkeypatch.setattr(searching, "PAUSE", 0.01)
    calls, train = [], coreFunction._train

    def held_twice(exp, *arguments):
        calls.append(exp.name)
        if len(calls) < 3:
            raise RunLockedError("search_1 is being trained by another process")
        return train(exp, *arguments)

    monkeypatch.setattr(coreFunction, "_train", held_twice)
    assert [record.name for record in search(SMALL, 1, base="MLP_4")] == ["search_1"]
    assert calls == ["search_1"] * 3
    assert states(runs_dir) == (["COMPLETE"], {})


def test_without_what_all_trials_start_from_none_is_begun(tiny, monkeypatch, runs_dir):
    monkeypatch.setattr(coreFunction, "_train", lambda *_: (_ for _ in ()).throw(UsageError("the data are missing")))
    refused(lambda: search(REPORT_SWEEP, 2), "the data are missing")
    assert states(runs_dir) == ([], {})


# ---------------------------------------------------------------- grids


def test_a_grid_of_ten_million_points_begins_at_once(tiny, monkeypatch):
    lists = {
        name: {"values": [base * k for k in range(1, 57)]}
        for name, base in (("lr", 1e-6), ("dropout", 1e-3), ("eps", 1e-9))
    }
    ask = config(method="grid", parameters=lists | {"batch_size": {"values": list(range(8, 64))}})
    assert read_sweep(ask).size == 56**4
    monkeypatch.setattr(coreFunction, "run", lambda *_, **options: interrupt())
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        search(ask, 10_000_000, base="MLP_4")
    assert time.perf_counter() - begun < 5
    with open_study("search", "sample", 0, "") as study:
        assert [trial.params["batch_size"] for trial in study.trials()] == [8]


def test_a_grid_s_points_are_those_of_nested_loops():
    ask = config(
        method="grid",
        parameters={"patience": {"min": 2, "max": 4}, "optimizer": {"values": ["SGD", "Adam"]}, "lr": {"value": 0.1}},
    )
    sweep = read_sweep(ask)
    points = [sweep.grid_point(number) for number in range(sweep.size)]
    assert points == [{"patience": p, "optimizer": o, "lr": 0.1} for p in (2, 3, 4) for o in ("SGD", "Adam")]


def test_a_grid_over_a_range_of_whole_numbers_takes_each(tiny):
    ask = config(method="grid", parameters={"batch_size": {"distribution": "q_uniform", "min": 8, "max": 16, "q": 4}})
    assert sorted(record.settings["identity"]["batch_size"] for record in search(ask, 9, base="MLP_4")) == [8, 12, 16]


# ---------------------------------------------------------------- what ends a search, and what is drawn


def test_a_target_ends_a_search(tiny):
    first = search(SMALL, 1, base="MLP_4", name="first")[0].column("train_loss", trained_only=True).min()
    easy, hard = (config(metric=SMALL["metric"] | {"target": target}) for target in (first + 100, -1))
    assert [record.name for record in search(easy, 3, base="MLP_4", name="easy")] == ["easy_1"]
    assert len(search(hard, 3, base="MLP_4", name="hard")) == 3


def test_a_cap_ends_a_search(tiny):
    assert len(search(config(run_cap=2), 5, base="MLP_4")) == 2


def test_probabilities_say_how_often_a_value_is_drawn(tiny):
    spec = {"values": [8, 16, 32], "probabilities": [0.0, 0.8, 0.2]}
    sweep = read_sweep(config(method="random", parameters={"batch_size": spec, "lr": {"min": 0.1, "max": 1.0}}))
    with open_study("search", "sample", 0, "", "minimize") as study:
        drawn = [draw_after(study, number, sweep) for number in range(200)]
    counts = Counter(point["batch_size"] for point in drawn)
    assert counts[8] == 0
    assert 140 < counts[16] < 180
    assert len({point["lr"] for point in drawn}) == 200


def draw_after(study, number, sweep):
    """What is drawn for the trial after so many others, of which none has a score."""
    others = [optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"values": {}})] * number
    return searching._draw(study, others, sweep)


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_values_of_every_range_reach_the_runs_as_they_were_drawn(tiny, method):
    parameters = {
        "lr": {"distribution": "log_normal", "mu": -6, "sigma": 0.5},
        "batch_size": {"distribution": "q_log_uniform_values", "min": 8, "max": 32, "q": 4},
        "dropout": {"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1},
    }
    records = search(config(method=method, parameters=parameters), 6, base="MLP_4")
    drawn = [record.settings["identity"] for record in records]
    assert len({(point["lr"], point["batch_size"], point["dropout"]) for point in drawn}) == 6
    for point in drawn:
        assert abs(math.log(point["lr"]) + 6) < 2.4
        assert point["batch_size"] in range(8, 33, 4)
        assert point["dropout"] in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_what_is_passed_over_is_said_once(tiny, capsys):
    ask = config(program="train.py", description="first", metric={"name": "train_loss"})
    for _ in range(2):
        search(ask, 1, base="MLP_4")
    out = capsys.readouterr().out
    assert out.count("search: without meaning here, and passed over: program, description\n") == 1
    assert out.count("search: the metric train_loss has no goal; as at W&B, it is minimized\n") == 1
    assert len(search(SMALL, 1, base="MLP_4")) == 1  # which asks for the same


# ---------------------------------------------------------------- where the records lie, and who begins


@pytest.mark.parametrize(
    "name", ["what?", "a#b", "with spaces", "100%25", "{braces}", "ünïcode", "q?uri=true&mode=memory"]
)
def test_the_database_lies_with_the_records_wherever_they_lie(name, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / name / "runs"))
    (record,) = search(SMALL, 1, base="MLP_4")
    assert [found.path for found in join()] == [record.path]
    assert (tmp_path / name / "runs" / "sample" / "search.sqlite").stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_of_two_that_begin_a_search_at_once_one_is_refused_if_they_ask_for_different_things(tiny, monkeypatch):
    """Each looks and writes under one lock, so that the first one's question stands."""
    together, outcomes, asking = threading.Barrier(2), [], searching.read_sweep

    def read_together(*arguments):
        sweep = asking(*arguments)
        if len(arguments) == 2:  # before the database is opened
            together.wait(20)
        return sweep

    monkeypatch.setattr(searching, "read_sweep", read_together)
    monkeypatch.setattr(searching._Search, "work", lambda self: [self.study.asked["asked"]["config"]["parameters"]])

    def begin(ask):
        try:
            outcomes.append(search(ask, 1, base="MLP_4"))
        except UsageError as error:
            outcomes.append(str(error))

    asks = [GRID, config(method="grid", parameters={"lr": {"values": [1e-4]}})]
    threads = [threading.Thread(target=begin, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refusals = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(refusals) == 1
    assert "'search' was begun with another configuration" in refusals[0]
    ((winner,),) = [outcome for outcome in outcomes if isinstance(outcome, list)]
    monkeypatch.undo()
    assert find_record("search_1", "sample") is None
    assert winner in [ask["parameters"] for ask in asks]
