"""The search: what a sweep configuration means, and that a search goes on where it was cut off."""

import optuna
import pytest
from helpers import refused, untimed
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import coreFunction
import searchFunction
from experimentTable import EXPERIMENTS
from recordFunction import find_record
from searchFunction import REPORT_SWEEP, search, space

SMALL = {  # of the row MLP_4
    "method": "bayes",
    "metric": {"name": "test_accuracy", "goal": "maximize"},
    "parameters": {"lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}, "batch_size": {"values": [16, 32]}},
}


def config(**changes):
    return SMALL | changes


# ---------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-2}, FloatDistribution(1e-6, 1e-2, log=True)),
        ({"distribution": "uniform", "min": 0, "max": 1}, FloatDistribution(0, 1)),
        ({"min": 0, "max": 1}, FloatDistribution(0, 1)),
        ({"distribution": "int_uniform", "min": 2, "max": 9}, IntDistribution(2, 9)),
        ({"distribution": "categorical", "values": [1, 2]}, CategoricalDistribution([1, 2])),
        ({"values": ["Adam", "SGD"]}, CategoricalDistribution(["Adam", "SGD"])),
        ({"value": 3}, CategoricalDistribution([3])),
        ({"distribution": "constant", "value": 3}, CategoricalDistribution([3])),
    ],
)
def test_every_distribution(spec, expected):
    assert space(config(parameters={"patience": spec})) == {"patience": expected}


def test_the_report_s_sweep_draws_from_the_report_s_ranges():
    found = space(REPORT_SWEEP)
    assert found == {"lr": FloatDistribution(1e-6, 1e-2, log=True), "batch_size": CategoricalDistribution([16, 32, 64, 128, 256])}
    drawn = [row for row in EXPERIMENTS.values() if row.name.startswith("sweep_")]
    assert all(1e-6 <= row.lr <= 1e-2 and row.batch_size in found["batch_size"].choices for row in drawn)


BAD = [
    (config(early_terminate={}), "unknown key 'early_terminate'", "use method, metric, parameters and name"),
    ({"method": "bayes", "metric": {}}, "lacks 'metric'", "REPORT_SWEEP"),
    (config(parameters={}), "lacks 'parameters'", "REPORT_SWEEP"),
    (config(parameters={"learning_rate": {"value": 1}}), "unknown parameter 'learning_rate'", "lr"),
    (config(parameters={"seed": {"value": 1}}), "unknown parameter 'seed'", "choose"),
    (config(parameters={"lr": 0.1}), "parameter 'lr' is 0.1", "write {'value': 0.1}"),
    (config(parameters={"lr": {"distribution": "normal"}}), "unknown distribution of lr 'normal'", "log_uniform_values"),
    (config(parameters={"lr": {"mu": 0, "sigma": 1}}), "unknown key 'mu'", "use distribution, min, max, values or value"),
    (config(parameters={"lr": {"min": 1}}), "parameter 'lr' needs 'max'", "uniform"),
    (config(parameters={"lr": {"min": 2, "max": 1}}), "parameter 'lr' cannot be drawn", "low=2, high=1"),
    (config(parameters={"lr": {"distribution": "log_uniform_values", "min": 0, "max": 1}}), "parameter 'lr' cannot be drawn", "low > 0"),
    (config(parameters={"lr": {"min": "a", "max": 1}}), "parameter 'lr' cannot be drawn", "'a'"),
    (config(parameters={"lr": {"values": []}}), "parameter 'lr' cannot be drawn", "one or more"),
    (config(method="hyperband"), "unknown method 'hyperband'", "bayes, random or grid"),
    (config(method="grid"), "a grid needs 'values' or 'value' for 'lr'", "bayes or random"),
    (config(metric={"name": "test_accuracy", "goal": "up"}), "unknown goal 'up'", "maximize or minimize"),
    (config(metric={"name": "test_accuracy"}), "unknown goal None", "maximize or minimize"),
]


@pytest.mark.parametrize(("bad", "what", "remedy"), BAD, ids=[case[1] for case in BAD])
def test_what_a_configuration_cannot_say_is_refused(bad, what, remedy, runs_dir, tiny):
    refused(lambda: search(bad, 2, base="MLP_4"), what, remedy)
    assert not list(runs_dir.rglob("rows.jsonl"))


def test_an_unknown_metric_is_said_after_the_first_trial(tiny):
    refused(
        lambda: search(config(metric={"name": "val_acc", "goal": "maximize"}), 2, base="MLP_4"), "unknown metric 'val_acc'", "test_accuracy"
    )


def test_an_unknown_base_is_refused(tiny):
    refused(lambda: search(SMALL, 2, base="MLP_5"), "unknown experiment 'MLP_5'")


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
    scores = [max(record.column("test_accuracy", trained_only=True)) for record in records]
    assert scores == sorted(scores, reverse=True)
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


def test_a_search_that_was_cut_off_goes_on_with_the_trial_it_was_in(tiny, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    evaluate, calls = coreFunction.evaluate, iter(range(99))

    def cut_off(*arguments):
        if next(calls) == 4:  # the second trial's second measurement of three
            raise KeyboardInterrupt
        return evaluate(*arguments)

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
    few = config(method=method, parameters={"batch_size": {"values": [8, 12, 16]}, "optimizer": {"values": ["SGD", "Adam"]}})
    records = search(few, 7, base="MLP_4", seed=2)
    drawn = {record.name: [record.settings["identity"][key] for key in ("batch_size", "optimizer")] for record in records}
    assert len(drawn) == 7
    last = drawn.pop("search_7")
    assert sorted(drawn.values()) == [[size, optimizer] for size in (8, 12, 16) for optimizer in ("Adam", "SGD")]
    assert last in drawn.values()


def test_seeds_and_names_are_searches_of_their_own(tiny):
    records = [search(SMALL, 1, base="MLP_4", **which)[0] for which in ({}, {"seed": 1}, {"name": "other"})]
    assert [(record.name, record.seed) for record in records] == [("search_1", 0), ("search_1", 1), ("other_1", 0)]
    assert records[0].settings["identity"]["lr"] != records[1].settings["identity"]["lr"]
    assert untimed(records[0].rows) == untimed(records[2].rows)


def test_the_least_loss_is_the_best_where_it_is_to_be_minimised(tiny):
    """A trial counts by its best epoch: here the least loss, not the greatest."""
    records = search(config(metric={"name": "test_loss", "goal": "minimize"}), 3, base="MLP_4")
    least = [min(record.column("test_loss", trained_only=True)) for record in records]
    assert least == sorted(least)
    study = optuna.load_study(study_name="search-sample-seed0", storage=f"sqlite:///{records[0].path.parent.parent / 'search.sqlite'}")
    assert sorted(trial.value for trial in study.trials) == least


def test_another_configuration_under_the_name_of_a_search_is_refused(tiny):
    search(SMALL, 1, base="MLP_4")
    other = config(parameters={"lr": SMALL["parameters"]["lr"], "batch_size": {"values": [16, 64]}})
    refused(lambda: search(other, 2, base="MLP_4"), "'search' was begun with another configuration", "another name")
    refused(lambda: search(SMALL, 2, base="MLP_res_5"), "'search' was begun with another configuration")
    assert search(other, 1, base="MLP_4", name="wider")[0].name == "wider_1"


def test_a_grid_takes_every_combination_once(tiny):
    grid = config(
        method="grid", parameters={"lr": {"values": [1e-3, 1e-2]}, "batch_size": {"values": [16, 32]}, "optimizer": {"value": "SGD"}}
    )
    records = search(grid, 4, base="MLP_4")
    pairs = {(record.settings["identity"]["lr"], record.settings["identity"]["batch_size"]) for record in records}
    assert pairs == {(lr, size) for lr in (1e-3, 1e-2) for size in (16, 32)}
    assert {record.settings["identity"]["optimizer"] for record in records} == {"SGD"}
    assert len(search(grid, 9, base="MLP_4")) == 4  # there are no more


def test_a_trial_whose_loss_is_not_finite_is_left_out_and_the_search_goes_on(tiny, capsys):
    records = search(config(method="grid", parameters={"lr": {"values": [1e38, 1e-3]}}), 2, base="MLP_4")
    assert [record.settings["identity"]["lr"] for record in records] == [1e-3]
    assert capsys.readouterr().out.count("failed: the") == 1


def test_the_report_s_number_of_random_trials_comes_first():
    assert searchFunction.START_UP < 12


def test_a_search_that_nobody_has_begun_cannot_be_joined(runs_dir):
    refused(lambda: searchFunction.join("none"), "no search 'none' (profile sample, seed 0)", "begin it with search(...)")


def test_a_database_that_cannot_be_opened_is_said_in_one_line(tiny):
    refused(lambda: search(SMALL, 1, base="MLP_4", storage="nonsense://x"), "nonsense://x cannot be opened")
