"""The search: its trials are ordinary runs, it resumes where it was interrupted, and a failed trial does not end it."""

import math
import time
from collections import Counter

import numpy as np
import optuna
import pytest
import torch
from helpers import cut_off, interrupt, raising, refused

import coreFunction
from coreFunction import join, search
from deepnet.records.files import WriteError
from deepnet.records.reading import find_record
from deepnet.search import searching, trials
from deepnet.search.sweep import REPORT_SWEEP, read_sweep
from experimentTable import RunLockedError, UsageError, estimated_seconds, experiment

LOG = {"distribution": "log_uniform_values"}
SMALL = {  # of the row MLP_4
    "method": "bayes",
    "metric": {"name": "train_loss", "goal": "minimize"},
    "parameters": {"lr": LOG | {"min": 1e-4, "max": 1e-1}, "batch_size": {"values": [16, 32]}},
}
pytestmark = pytest.mark.usefixtures("tiny")


def config(**changes):
    return SMALL | changes


def grid(**parameters):
    return config(method="grid", parameters=parameters)


def drawn(records, *keys):
    """The values of these parameters, by record."""
    return [tuple(record.settings["experiment"][key] for key in keys) for record in records]


def names(records):
    return [record.name for record in records]


def scores(records, metric="train_loss", best=min):
    return [best(record.column(metric, trained_only=True)) for record in records]


def states(name="search"):
    """The states of a search's trials, and why some failed."""
    with trials.open_study(name, "sample", 0, "") as study:
        reasons = {key: value for key, value in study.attributes.items() if key.startswith("failed_")}
        return [trial.state.name for trial in study.trials()], reasons


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that are trained."""
    found, train = [], coreFunction.prepare_training
    monkeypatch.setattr(coreFunction, "prepare_training", lambda exp, *a: (found.append(exp.name), train(exp, *a))[1])
    return found


@pytest.fixture
def as_evidence(runs_dir, evidence):
    """Makes all records committed ones, as in a clone."""
    return lambda: runs_dir.rename(evidence)


# ---------------------------------------------------------------- which runs are trained


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_trials_are_ordinary_runs(trained, method):
    records = search(config(method=method), 3, base="MLP_4")
    assert trained == sorted(names(records)) == ["search_1", "search_2", "search_3"]
    assert len({*drawn(records, "lr")}) == 3
    for lr, batch_size, model in drawn(records, "lr", "batch_size", "model"):
        assert 1e-4 <= lr <= 1e-1 and batch_size in (16, 32) and model == "MLP_4"


def test_only_missing_runs_are_trained(trained):
    first = search(SMALL, 2, base="MLP_4")
    assert [record.path for record in search(SMALL, 2, base="MLP_4")] == [record.path for record in first]
    assert len(search(SMALL, 3, base="MLP_4")) == 3
    assert len(search(SMALL, 1, base="MLP_4")) == 1
    assert trained == ["search_1", "search_2", "search_3"]


def test_committed_search_is_resumed(runs_dir, as_evidence, trained, monkeypatch):
    first = search(SMALL, 3, base="MLP_4")
    as_evidence()
    trained.clear()
    assert names(search(SMALL, 3, base="MLP_4")) == names(first) and trained == []
    assert len(search(SMALL, 4, base="MLP_4")) == 4 and trained == ["search_4"]
    assert [*(runs_dir / "sample").glob("search*")]
    refused(lambda: search(config(method="random"), 3, base="MLP_4"), "begun with another configuration")
    monkeypatch.setenv("EVIDENCE", "0")
    assert len(join()) == 4  # what is here is resumed, committed or not


def test_committed_search_can_be_joined(runs_dir, as_evidence, monkeypatch):
    search(SMALL, 2, base="MLP_4")
    as_evidence()
    assert len(join()) == 2
    monkeypatch.setenv("EVIDENCE", "0")
    (runs_dir / "sample" / "search.sqlite").unlink()
    refused(join, "no search 'search'")


def test_report_search_is_read(trained):
    """It trains nothing; its first trials are drawn again as they were; the next trial is drawn from all."""
    records = search(REPORT_SWEEP, 12, profile="paper")
    assert sorted(names(records)) == sorted(f"search_{k}" for k in range(1, 13))
    assert (records[0].name, trained) == ("search_9", [])
    sweep = read_sweep(REPORT_SWEEP)
    with trials.open_study("search", "paper", 0, "") as study:
        found = study.trials()
        values = [trials.values_of(trial) for trial in found]
        recorded = drawn([find_record(f"search_{k}", "paper") for k in range(1, 13)], *sweep.parameters)
        assert [tuple(point.values()) for point in values] == recorded
        first = range(searching.STARTUP_TRIALS)
        assert [searching.draw(study, found[:k], sweep) for k in first] == [values[k] for k in first]
        following = searching.draw(study, found, sweep)
    assert searching.STARTUP_TRIALS < 12
    assert following not in values
    assert 1e-6 <= following["lr"] <= 1e-2 and following["batch_size"] in (16, 32, 64, 128, 256)


def test_resume_after_interrupt(trained):
    with cut_off(4):  # in the second trial's second evaluation of three
        search(SMALL, 3, base="MLP_4")
    begun = find_record("search_2", "sample")
    assert not begun.result
    trained.clear()
    assert len(search(SMALL, 3, base="MLP_4")) == 3
    assert trained == ["search_2", "search_3"]
    assert find_record("search_2", "sample").settings["identity"] == begun.settings["identity"]


@pytest.mark.parametrize("which", [{}, {"seed": 1}, {"name": "other"}])
def test_own_seed_and_name(which):
    """Also as NumPy's numbers."""
    (record,) = search(SMALL, np.int64(1), base="MLP_4", **which | ({"seed": np.uint8(1)} if "seed" in which else {}))
    assert (record.name, record.seed) == (f"{which.get('name', 'search')}_1", which.get("seed", 0))
    assert [found.path for found in join(**which)] == [record.path]
    (other,) = search(SMALL, 1, base="MLP_4", name="another")
    assert drawn([record], "lr") != drawn([other], "lr")


def test_best_is_by_the_metric_and_its_goal():
    """A trial counts by its best epoch: its least loss, its greatest accuracy."""
    records = search(SMALL, 3, base="MLP_4")
    assert scores(records) == sorted(scores(records))
    metric = {"name": "train_accuracy", "goal": "maximize"}
    greatest = scores(search(config(metric=metric), 3, base="MLP_4", name="greatest"), "train_accuracy", max)
    assert greatest == sorted(greatest, reverse=True)
    database = f"sqlite:///{records[0].path.parent.parent / 'search.sqlite'}"
    study = optuna.load_study(study_name="search-sample-seed0", storage=database)
    assert sorted(trial.value for trial in study.trials) == scores(records)


def test_target_and_cap_end_a_search():
    (first,) = scores(search(SMALL, 1, base="MLP_4", name="first"))
    easy, hard = (config(metric=SMALL["metric"] | {"target": target}) for target in (first + 100, -1))
    assert names(search(easy, 3, base="MLP_4", name="easy")) == ["easy_1"]
    assert len(search(hard, 3, base="MLP_4", name="hard")) == 3
    assert len(search(config(run_cap=2), 5, base="MLP_4")) == 2


# ---------------------------------------------------------------- what is drawn


def test_grid():
    asked = grid(lr={"values": [1e-3, 1e-2]}, batch_size={"min": 16, "max": 17}, optimizer={"value": "SGD"})
    points = drawn(search(asked, 9, base="MLP_4"), "lr", "batch_size", "optimizer")
    assert sorted(points) == [(lr, size, "SGD") for lr in (1e-3, 1e-2) for size in (16, 17)]
    multiples = grid(batch_size={"distribution": "q_uniform", "min": 8, "max": 16, "q": 4})
    assert sorted(drawn(search(multiples, 9, base="MLP_4", name="q"), "batch_size")) == [(8,), (12,), (16,)]


def test_huge_grid_begins_at_once(monkeypatch):
    steps = {"lr": 1e-6, "dropout": 1e-3, "eps": 1e-9}
    lists = {name: {"values": [step * k for k in range(1, 57)]} for name, step in steps.items()}
    asked = grid(**lists, batch_size={"values": list(range(8, 64))})
    assert read_sweep(asked).size == 56**4
    monkeypatch.setattr(coreFunction, "run", interrupt)
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        search(asked, 10_000_000, base="MLP_4")
    assert time.perf_counter() - begun < 5
    with trials.open_study("search", "sample", 0, "") as study:
        assert [trial.params["batch_size"] for trial in study.trials()] == [8]


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_nothing_is_drawn_twice_while_there_is_more(method):
    few = {"batch_size": {"values": [8, 12, 16]}, "optimizer": {"values": ["SGD", "Adam"]}}
    records = search(config(method=method, parameters=few), 7, base="MLP_4", seed=2)
    points = dict(zip(names(records), drawn(records, "batch_size", "optimizer"), strict=True))
    assert points.pop("search_7") in points.values()
    assert sorted(points.values()) == [(size, optimizer) for size in (8, 12, 16) for optimizer in ("Adam", "SGD")]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_drawn_values_reach_the_runs(method):
    parameters = {
        "lr": {"distribution": "log_normal", "mu": -6, "sigma": 0.5},
        "batch_size": {"distribution": "q_log_uniform_values", "min": 8, "max": 32, "q": 4},
        "dropout": {"distribution": "q_uniform", "min": 0.0, "max": 0.5, "q": 0.1},
    }
    points = drawn(search(config(method=method, parameters=parameters), 6, base="MLP_4"), *parameters)
    assert len({*points}) == 6
    for lr, batch_size, dropout in points:
        assert abs(math.log(lr) + 6) < 2.4
        assert batch_size in range(8, 33, 4) and dropout in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_same_draws_by_any_process(runs_dir, monkeypatch):
    """By the search's own process and by one that joins it."""
    points = []
    for folder in ("one", "other"):
        monkeypatch.setenv("RUNS_DIR", str(runs_dir / folder))
        search(SMALL, 1, base="MLP_4")
        with trials.open_study("search", "sample", 0, "") as study:
            study.study.set_user_attr("count", 2)
        points.append(sorted(drawn(join(), "name", "lr")))
    assert points[0] == points[1]
    assert [name for name, _ in points[0]] == ["search_1", "search_2"]


def test_probabilities():
    spec = {"values": [8, 16, 32], "probabilities": [0.0, 0.8, 0.2]}
    sweep = read_sweep(config(method="random", parameters={"batch_size": spec, "lr": {"min": 0.1, "max": 1.0}}))
    running = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"values": {}})
    with trials.open_study("search", "sample", 0, "", "minimize") as study:
        points = [searching.draw(study, [running] * number, sweep) for number in range(200)]
    counts = Counter(point["batch_size"] for point in points)
    assert counts[8] == 0 and 140 < counts[16] < 180
    assert len({point["lr"] for point in points}) == 200


# ---------------------------------------------------------------- trials that fail, and what ends a search


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB"), "CUDA out of memory."),
        (MemoryError(), "MemoryError"),
    ],
)
def test_failed_trial_is_passed_over(error, reason, monkeypatch, capsys):
    trained, train = [], coreFunction.prepare_training

    def failing(exp, *arguments):
        trained.append(exp.name)
        if exp.name == "search_2":
            raise error
        return train(exp, *arguments)

    monkeypatch.setattr(coreFunction, "prepare_training", failing)
    assert {*names(search(SMALL, 3, base="MLP_4"))} == {"search_1", "search_3"}
    assert capsys.readouterr().out.count(f"search_2 (seed 0) failed: {reason}\n") == 1
    assert states() == (["COMPLETE", "FAIL", "COMPLETE"], {"failed_2": reason})
    assert {*names(search(SMALL, 4, base="MLP_4"))} == {"search_1", "search_3", "search_4"}
    assert trained == ["search_1", "search_2", "search_3", "search_4"]


def test_model_that_does_not_fit_the_data():
    records = search(grid(model={"values": ["MLP_4", "CNN_10", "MLP_13"]}), 3, base="MLP_4")
    assert sorted(drawn(records, "model")) == [("MLP_13",), ("MLP_4",)]
    assert states()[0] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_loss_that_is_not_finite(capsys):
    asked = grid(lr={"values": [1e38, 3e38, 1e-3]})
    assert search(asked, 2, base="MLP_4") == []
    assert "search: no trial has a score\n" in capsys.readouterr().out
    assert names(search(asked, 3, base="MLP_4")) == ["search_3"]
    said = capsys.readouterr().out
    assert said.endswith(", learning rate 0.001 (searched: 0.001 to 3e+38)\n")  # no other has a score, so it is no edge


@pytest.mark.parametrize("error", [WriteError("cannot write records"), KeyboardInterrupt()])
def test_an_error_that_is_not_the_trial_s_own(error, monkeypatch):
    """It ends the search, and the same call resumes the trial."""
    with monkeypatch.context() as patch:
        patch.setattr(coreFunction, "prepare_training", raising(error))
        with pytest.raises(type(error)):
            search(SMALL, 1, base="MLP_4")
    assert states() == (["RUNNING"], {})
    assert names(search(SMALL, 1, base="MLP_4")) == ["search_1"]


def test_locked_run_is_waited_for(monkeypatch):
    monkeypatch.setattr(searching, "POLL_SECONDS", 0.01)
    calls, train = [], coreFunction.prepare_training

    def locked_twice(exp, *arguments):
        calls.append(exp.name)
        if len(calls) < 3:
            raise RunLockedError("search_1 is being trained by another process")
        return train(exp, *arguments)

    monkeypatch.setattr(coreFunction, "prepare_training", locked_twice)
    assert names(search(SMALL, 1, base="MLP_4")) == ["search_1"]
    assert calls == ["search_1"] * 3
    assert states() == (["COMPLETE"], {})


def test_without_the_parent_no_trial_is_begun(monkeypatch):
    monkeypatch.setattr(coreFunction, "prepare_training", raising(UsageError("the data are missing")))
    refused(lambda: search(REPORT_SWEEP, 2), "the data are missing")
    assert states() == ([], {})


# ---------------------------------------------------------------- what it prints


def test_estimate_includes_the_parent(capsys, monkeypatch):
    monkeypatch.setattr(coreFunction, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        search(REPORT_SWEEP, 2)
    trial, parent = (estimated_seconds(experiment(name, "sample")) for name in ("sweep_1", "train_resnet"))
    assert capsys.readouterr().out == f"2 trials, 0 of them ended already; to go: about {2 * trial + parent} s\n"


def test_notes_are_printed_once(capsys):
    for _ in range(2):
        search(config(program="train.py", description="first", metric={"name": "train_loss"}), 1, base="MLP_4")
    out = capsys.readouterr().out
    assert out.count("search: these keys have no meaning here and are ignored: program, description\n") == 1
    assert out.count("search: the metric train_loss has no goal; as at W&B, it is minimized\n") == 1
    assert len(search(SMALL, 1, base="MLP_4")) == 1  # which asks for the same


def test_best_trial_is_described(capsys):
    records = search(grid(lr={"value": 1e-3}, batch_size={"values": [8, 16]}), 2, base="MLP_4")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"search: of 2 trials {records[0].name} is best, train loss {scores(records)[0]:.4g}, ")
    assert ", learning rate 0.001, batch size " in last and last.endswith(" of 8 to 16)")


@pytest.mark.parametrize(
    ("spec", "value", "place"),
    [
        (LOG | {"min": 1e-6, "max": 1e-2}, 9.5e-3, "0.0095 (at the upper edge of 1e-06 to 0.01)"),
        (LOG | {"min": 1e-6, "max": 1e-2}, 5e-3, "0.005 (inside 1e-06 to 0.01)"),  # on the range's own scale
        ({"min": 0.0, "max": 1.0}, 0.96, "0.96 (at the upper edge of 0 to 1)"),
        ({"min": 2, "max": 2048}, 1024, "1024 (inside 2 to 2048)"),
        ({"values": [8, 64, 16]}, 8, "8 (at the lower edge of 8 to 64)"),
        ({"values": [8]}, 8, "8"),
        ({"values": ["Adam", "SGD"]}, "SGD", "SGD"),
        ({"values": [True, False]}, True, "True"),
    ],
)
def test_place_of_a_value(spec, value, place):
    said = trials.describe_point(config(parameters={"patience": spec}), 0.5, {"patience": value})
    assert said == f"train loss 0.5, patience {place}"
