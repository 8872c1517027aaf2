"""The search: what a sweep configuration means, and that a search goes on where it was cut off."""

from contextlib import ExitStack

import numpy as np
import optuna
import pytest
from helpers import interrupt, refused

import coreFunction
from coreFunction import join, search
from deepnet.records import reading
from deepnet.records.reading import find_record
from deepnet.search import searching, trials
from deepnet.search.sweep import REPORT_SWEEP, read_sweep
from experimentTable import estimated_seconds, experiment

SMALL = {  # of the row MLP_4
    "method": "bayes",
    "metric": {"name": "train_loss", "goal": "minimize"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "batch_size": {"values": [16, 32]},
    },
}
LOG = {"distribution": "log_uniform_values"}


def config(**changes):
    return SMALL | changes


# ---------------------------------------------------------------- the trials


def counted(monkeypatch):
    """The names of the runs that were trained."""
    trained, train = [], coreFunction._train
    monkeypatch.setattr(coreFunction, "_train", lambda exp, *a: (trained.append(exp.name), train(exp, *a))[1])
    return trained


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_a_search_of_three_trials_is_three_ordinary_runs_best_first(tiny, monkeypatch, method):
    trained = counted(monkeypatch)
    records = search(config(method=method), 3, base="MLP_4")
    assert trained == ["search_1", "search_2", "search_3"]
    assert sorted(record.name for record in records) == trained
    scores = [min(record.column("train_loss", trained_only=True)) for record in records]
    assert scores == sorted(scores)
    for record in records:
        identity = record.settings["identity"]
        assert 1e-4 <= identity["lr"] <= 1e-1
        assert identity["batch_size"] in (16, 32)
        assert identity["model"] == "MLP_4"
    assert len({record.settings["identity"]["lr"] for record in records}) == 3


def test_a_finished_search_trains_nothing_and_a_longer_one_only_what_is_new(tiny, monkeypatch):
    trained = counted(monkeypatch)
    first = search(SMALL, 2, base="MLP_4")
    assert [record.path for record in search(SMALL, 2, base="MLP_4")] == [record.path for record in first]
    assert trained == ["search_1", "search_2"]
    assert len(search(SMALL, 3, base="MLP_4")) == 3
    assert trained == ["search_1", "search_2", "search_3"]
    assert len(search(SMALL, 1, base="MLP_4")) == 1
    assert len(trained) == 3


def test_a_committed_search_is_gone_on_with(tiny, runs_dir, tmp_path, monkeypatch):
    first = search(SMALL, 3, base="MLP_4")
    runs_dir.rename(tmp_path / "evidence")  # as in a clone, where they are committed
    monkeypatch.setattr(reading, "EVIDENCE", tmp_path / "evidence")
    trained = counted(monkeypatch)
    assert [record.name for record in search(SMALL, 3, base="MLP_4")] == [record.name for record in first]
    assert trained == []
    assert len(search(SMALL, 4, base="MLP_4")) == 4
    assert trained == ["search_4"]
    assert [path.name for path in (runs_dir / "sample").glob("search*")] != []
    refused(lambda: search(config(method="random"), 3, base="MLP_4"), "begun with another configuration")
    monkeypatch.setenv("EVIDENCE", "0")
    assert len(join()) == 4  # what is here is gone on with, committed or not


def test_the_committed_search_of_the_report_is_read_and_gone_on_with(monkeypatch, runs_dir):
    """It trains nothing; the next trial is drawn from it; its first trials are drawn again as they were."""
    trained = counted(monkeypatch)
    records = search(REPORT_SWEEP, 12, profile="paper")
    assert sorted(int(record.name.removeprefix("search_")) for record in records) == list(range(1, 13))
    assert records[0].name == "search_9"
    assert trained == []
    sweep = read_sweep(REPORT_SWEEP)
    with trials.open_study("search", "paper", 0, "") as study:
        drawn = study.trials()
        values = [trials.values_of(trial) for trial in drawn]
        assert values == [
            {key: find_record(f"search_{k}", "paper").settings["identity"][key] for key in sweep.parameters}
            for k in range(1, 13)
        ]
        assert [searching._draw(study, drawn[:k], sweep) for k in range(searching.START_UP)] == values[
            : searching.START_UP
        ]
        following = searching._draw(study, drawn, sweep)
    assert following not in values
    assert 1e-6 <= following["lr"] <= 1e-2
    assert following["batch_size"] in (16, 32, 64, 128, 256)


def test_a_committed_search_can_be_joined(tiny, runs_dir, tmp_path, monkeypatch):
    search(SMALL, 2, base="MLP_4")
    runs_dir.rename(tmp_path / "evidence")
    monkeypatch.setattr(reading, "EVIDENCE", tmp_path / "evidence")
    assert len(join()) == 2
    monkeypatch.setenv("EVIDENCE", "0")
    (runs_dir / "sample" / "search.sqlite").unlink()
    refused(join, "no search 'search'")


def test_a_search_that_was_cut_off_goes_on_with_the_trial_it_was_in(tiny, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    evaluate, calls = coreFunction.evaluate, iter(range(99))

    def cut_off(*arguments, **named):
        if next(calls) == 4:  # the second trial's second measurement of three
            raise KeyboardInterrupt
        return evaluate(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(coreFunction, "evaluate", cut_off)
        with pytest.raises(KeyboardInterrupt):
            search(SMALL, 3, base="MLP_4")
    begun = find_record("search_2", "sample")
    assert not begun.result
    trained = counted(monkeypatch)
    records = search(SMALL, 3, base="MLP_4")
    assert trained == ["search_2", "search_3"]
    assert len(records) == 3
    assert find_record("search_2", "sample").settings["identity"] == begun.settings["identity"]


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_nothing_is_drawn_twice_as_long_as_there_is_something_else(tiny, method):
    few = config(
        method=method, parameters={"batch_size": {"values": [8, 12, 16]}, "optimizer": {"values": ["SGD", "Adam"]}}
    )
    records = search(few, 7, base="MLP_4", seed=2)
    drawn = {
        record.name: [record.settings["identity"][key] for key in ("batch_size", "optimizer")] for record in records
    }
    assert len(drawn) == 7
    last = drawn.pop("search_7")
    assert sorted(drawn.values()) == [[size, optimizer] for size in (8, 12, 16) for optimizer in ("Adam", "SGD")]
    assert last in drawn.values()


def test_count_and_seed_may_be_numpy_s(tiny, runs_dir):
    records = search(SMALL, np.int64(1), base="MLP_4", seed=np.uint8(2))
    assert [(record.name, record.seed) for record in records] == [("search_1", 2)]
    assert [record.path for record in join(seed=np.int64(2))] == [records[0].path]


def test_seeds_and_names_are_searches_of_their_own(tiny):
    records = [search(SMALL, 1, base="MLP_4", **which)[0] for which in ({}, {"seed": 1}, {"name": "other"})]
    assert [(record.name, record.seed) for record in records] == [("search_1", 0), ("search_1", 1), ("other_1", 0)]
    assert len({record.settings["identity"]["lr"] for record in records}) == 3


def test_a_search_draws_the_same_again(tiny, runs_dir, monkeypatch):
    """Its own process and the first that joins it."""
    drawn = []
    for folder in ("one", "other"):
        monkeypatch.setenv("RUNS_DIR", str(runs_dir / folder))
        search(SMALL, 1, base="MLP_4")
        with trials.open_study("search", "sample", 0, "") as study:
            study.study.set_user_attr("count", 2)
        drawn.append({record.name: record.settings["identity"]["lr"] for record in join()})
    assert drawn[0].keys() == {"search_1", "search_2"}
    assert drawn[0] == drawn[1]


def test_the_least_loss_is_the_best_where_it_is_to_be_minimised(tiny):
    """A trial counts by its best epoch: here the least loss, not the greatest."""
    records = search(SMALL, 3, base="MLP_4")
    least = [min(record.column("train_loss", trained_only=True)) for record in records]
    assert least == sorted(least)
    greatest = search(config(metric={"name": "train_accuracy", "goal": "maximize"}), 3, base="MLP_4", name="greatest")
    scores = [max(record.column("train_accuracy", trained_only=True)) for record in greatest]
    assert scores == sorted(scores, reverse=True)
    study = optuna.load_study(
        study_name="search-sample-seed0", storage=f"sqlite:///{records[0].path.parent.parent / 'search.sqlite'}"
    )
    assert sorted(trial.value for trial in study.trials) == least


def test_another_configuration_under_the_name_of_a_search_is_refused(tiny):
    search(SMALL, 1, base="MLP_4")
    other = config(parameters={"lr": SMALL["parameters"]["lr"], "batch_size": {"values": [16, 64]}})
    refused(lambda: search(other, 2, base="MLP_4"), "'search' was begun with another configuration", "another name")
    refused(lambda: search(SMALL, 2, base="MLP_res_5"), "'search' was begun with another configuration")
    assert search(other, 1, base="MLP_4", name="wider")[0].name == "wider_1"


def test_a_grid_takes_every_combination_once(tiny):
    grid = config(
        method="grid",
        parameters={"lr": {"values": [1e-3, 1e-2]}, "batch_size": {"values": [16, 32]}, "optimizer": {"value": "SGD"}},
    )
    records = search(grid, 4, base="MLP_4")
    pairs = {(record.settings["identity"]["lr"], record.settings["identity"]["batch_size"]) for record in records}
    assert pairs == {(lr, size) for lr in (1e-3, 1e-2) for size in (16, 32)}
    assert {record.settings["identity"]["optimizer"] for record in records} == {"SGD"}
    assert len(search(grid, 9, base="MLP_4")) == 4  # there are no more


def test_a_trial_whose_loss_is_not_finite_is_left_out_and_the_search_goes_on(tiny, capsys):
    records = search(config(method="grid", parameters={"lr": {"values": [1e38, 1e-3]}}), 2, base="MLP_4")
    assert [record.settings["identity"]["lr"] for record in records] == [1e-3]
    said = capsys.readouterr().out
    assert said.count("failed: the") == 1
    assert said.endswith(", learning rate 0.001 (searched: 0.001 to 1e+38)\n")  # no other has a score, so it is no edge


def test_the_report_s_number_of_random_trials_comes_first():
    assert searching.START_UP < 12


def test_a_database_that_cannot_be_opened_is_said_in_one_line(tiny):
    refused(lambda: search(SMALL, 1, base="MLP_4", storage="nonsense://x"), "nonsense://x cannot be opened")


# ---------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    ("parameters", "metric", "said"),
    [
        (
            {"lr": {"values": [1e-3]}, "batch_size": {"values": [16]}},
            "train_accuracy",
            "learning rate 0.001, batch size 16",
        ),
        ({"lr": {"min": 0.001, "max": 1.0}, "optimizer": {"value": "SGD"}}, "train_loss", "learning rate "),
        ({"lr": {"value": 1e-3}, "batch_size": {"values": [8, 16]}}, "train_accuracy", " of 8 to 16)"),
    ],
)
def test_a_search_ends_with_its_best_trial_and_where_that_lies(tiny, capsys, parameters, metric, said):
    """Whatever it searches and by whatever metric."""
    goal = "minimize" if metric.endswith("loss") else "maximize"
    method = "random" if "min" in parameters["lr"] else "grid"
    records = search(
        config(parameters=parameters, method=method, metric={"name": metric, "goal": goal}), 2, base="MLP_4"
    )
    value = {"minimize": min, "maximize": max}[goal](records[0].column(metric, trained_only=True))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"search: of {len(records)} trial{'s' * (len(records) > 1)} {records[0].name} is best")
    assert f", {metric.replace('_', ' ')} {value:.4g}, " in last
    assert said in last


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
        ({"value": 8}, 8, "8"),
    ],
)
def test_where_a_value_lies(spec, value, place):
    said = trials.describe_point(config(parameters={"patience": spec}), 0.5, {"patience": value})
    assert said == f"train loss 0.5, patience {place}"


def test_the_estimate_counts_what_is_trained_before_the_first_trial(tiny, capsys, monkeypatch):
    monkeypatch.setattr(coreFunction, "run", lambda *_, **options: interrupt())
    with pytest.raises(KeyboardInterrupt):
        search(REPORT_SWEEP, 2)
    seconds = 2 * estimated_seconds(experiment("sweep_1", "sample")) + estimated_seconds(
        experiment("train_resnet", "sample")
    )
    assert capsys.readouterr().out == f"2 trials, 0 of them ended already; to go: about {seconds} s\n"


def test_a_trial_that_was_cut_off_before_its_run_began_is_the_next(tiny):
    search(SMALL, 1, base="MLP_4")
    with trials.open_study("search", "sample", 0, "") as study:
        study.add({"lr": 1e-3, "batch_size": 16}, read_sweep(SMALL))
    search(SMALL, 2, base="MLP_4")
    assert find_record("search_2", "sample").settings["identity"]["lr"] == 1e-3


def test_a_trial_that_another_process_is_at_is_left_to_it(tiny, runs_dir):
    """What it holds is the trial's lock; its process ends here by giving that back, and then the trial is the next
    one's.
    """
    search(SMALL, 1, base="MLP_4")
    with trials.open_study("search", "sample", 0, "") as study, ExitStack() as held:
        other = study.take([study.add({"lr": 1e-3, "batch_size": 16}, read_sweep(SMALL))], held)
        with ExitStack() as ours:
            assert study.take(study.trials(), ours) is None
            held.close()
            assert study.take(study.trials(), ours).number == other.number == 1
        study.end(other, 0.5)
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE", "COMPLETE"]
    assert sorted(path.name for path in (runs_dir / "sample").glob(".search*")) == [".search.lock"]
