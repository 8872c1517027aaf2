"""What is asked of a search: what a configuration means; what no trial could be made of is refused and leaves nothing."""

import math

import numpy as np
import pytest
from helpers import refused
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from test_search import LOG, SMALL, config

import trialFunction
from experimentTable import EXPERIMENTS
from searchFunction import REPORT_SWEEP, join, search, space

IN_MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true", "sqlite:///file:x?mode=memory&uri=true")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-2}, FloatDistribution(1e-6, 1e-2, log=True)),
        ({"distribution": "uniform", "min": 0, "max": 1}, FloatDistribution(0, 1)),
        ({"min": 0, "max": 1.5}, FloatDistribution(0, 1.5)),
        ({"min": 2, "max": 9}, IntDistribution(2, 9)),  # as W&B takes it
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


def varied(**parameters):
    """SMALL with other parameters."""
    return config(parameters=parameters)


BAD = [
    (None, "the sweep configuration is None", "write a dict"),
    (config(early_terminate={}), "unknown key 'early_terminate'", "use method, metric, parameters, name"),
    ({"method": "bayes", "parameters": {}}, "lacks 'metric'", "REPORT_SWEEP"),
    (config(parameters={}), "no parameters to search", "choose from batch_size"),
    (config(parameters=["lr"]), "parameters is ['lr']", "write a dict"),
    (config(method="hyperband"), "unknown method 'hyperband'", "bayes, random or grid"),
    (config(method="grid"), "a grid needs 'values' or 'value' for 'lr'", "bayes or random"),
    (config(metric="test_accuracy"), "metric is 'test_accuracy'", "with name, goal"),
    (config(metric={"goal": "maximize"}), "metric lacks 'name'", "REPORT_SWEEP"),
    (config(metric={"name": "test_accuracy", "goal": "maximize", "target": 1}), "unknown key 'target' in metric", "use name, goal"),
    (config(metric={"name": "test_accuracy", "goal": "up"}), "unknown goal 'up'", "maximize or minimize"),
    (config(metric={"name": "test_accuracy"}), "metric lacks 'goal'", "REPORT_SWEEP"),
    (config(metric={"name": "val_acc", "goal": "maximize"}), "unknown metric 'val_acc'", "test_accuracy"),
    (config(metric={"name": "validation_accuracy", "goal": "maximize"}), "unknown metric 'validation_accuracy'", "test_accuracy"),
    (varied(learning_rate={"value": 1}), "unknown key 'learning_rate' in parameters", "lr"),
    (varied(seed={"value": 1}), "unknown key 'seed' in parameters", "use batch_size"),
    (varied(kind={"values": ["tsne"]}), "unknown key 'kind' in parameters", "use batch_size"),
    (varied(family={"value": "cnn"}), "unknown key 'family' in parameters", "use batch_size"),
    (varied(chapter={"value": 9}), "unknown key 'chapter' in parameters", "use batch_size"),
    (varied(lr=0.1), "parameter 'lr' is 0.1", "write a dict, with distribution, min"),
    (varied(lr={"distribution": "normal"}), "unknown distribution of lr 'normal'", "log_uniform_values"),
    (varied(lr={"mu": 0, "sigma": 1}), "unknown key 'mu' in parameter 'lr'", "use distribution, min, max, values, value"),
    (varied(lr={"min": 0.1, "max": 1, "values": [0.1]}), "unknown key 'min' in parameter 'lr' (categorical)", "use values, distribution"),
    (varied(lr={"value": 0.1, "values": [0.1]}), "unknown key 'value' in parameter 'lr' (categorical)", "use values, distribution"),
    (varied(lr={"min": 1}), "parameter 'lr' (uniform) lacks 'max'", "start from"),
    (varied(lr={"min": 2, "max": 1}), "parameter 'lr' cannot be drawn", "low=2, high=1"),
    (varied(lr=LOG | {"min": 0, "max": 1}), "parameter 'lr' cannot be drawn", "low > 0"),
    (varied(lr={"min": "a", "max": 1}), "min of parameter 'lr' must be a number", "'a'"),
    (varied(lr={"min": math.nan, "max": 1}), "min of parameter 'lr' must be a number", "nan"),
    (varied(lr=LOG | {"min": 1e-3, "max": math.inf}), "max of parameter 'lr' must be a number", "inf"),
    (varied(patience={"distribution": "int_uniform", "min": 1.5, "max": 3}), "min of parameter 'patience' must be a whole number", "1.5"),
    (varied(batch_size={"min": np.int64(8), "max": 16}), "min of parameter 'batch_size' must be a number", "8"),
    (varied(batch_size={"values": [np.int64(8)]}), "parameter 'batch_size' has a value", "plain number"),
    (varied(batch_size={"values": [8, 8]}), "parameter 'batch_size' lists 8 twice", ""),
    (varied(lr={"values": []}), "values of parameter 'lr' must be a list of at least one", "[]"),
    (varied(optimizer={"values": "Adam"}), "values of parameter 'optimizer' must be a list", "'Adam'"),
    (varied(optimizer={"values": ["Adam", "Foo"]}), "unknown optimizer 'Foo'", "choose Adam"),
    (varied(lr={"values": [1e-3, -1]}), "lr must be a number of at least 0", "-1"),
    (varied(lr={"distribution": "uniform", "min": 0, "max": 1}), "lr must be above 0", "0.0"),
    (varied(dropout={"min": 0.0, "max": 1.0}), "dropout must lie in [0, 1)", "1.0"),
    (varied(batch_size={"min": 8.0, "max": 16.0}), "batch_size must be a whole number", "8.0"),
    (varied(model={"values": ["MLP_4", "MLP_5"]}), "unknown model 'MLP_5'", "MLP_13"),
    (varied(start_from={"values": [None, "nowhere"]}), "unknown experiment 'nowhere'", "run.py list"),
    (varied(start_from={"value": "distribution"}), "start from distribution", "no training"),
    (varied(dataset={"values": ["mnist", "cifar100"]}), "unknown metric 'test_accuracy'", "validation_accuracy"),
    (varied(eps={"values": [None, 1e-8]}, optimizer={"values": ["Adam", "SGD"]}), "SGD has no eps", "another optimizer"),
]


@pytest.mark.parametrize(("bad", "what", "remedy"), BAD, ids=[case[1] for case in BAD])
def test_what_a_configuration_cannot_say_is_refused(bad, what, remedy, runs_dir, tiny):
    refused(lambda: search(bad, 2, base="MLP_4"), what, remedy)
    assert not runs_dir.exists()


@pytest.mark.parametrize(
    ("options", "what", "remedy"),
    [
        ({"base": "MLP_5"}, "unknown experiment 'MLP_5'", "run.py list"),
        ({"base": None}, "unknown experiment 'None'", "run.py list"),
        ({"base": "distribution"}, "distribution is no training", "a search needs a training"),
        ({"base": "MLP_33_eps"}, "MLP_33_eps has no budget in the profile sample", "cpu or paper"),
        *(({"count": count}, "count must be a whole number of at least 1", repr(count)) for count in ("2", None, 1.5, True, 0, -1)),
        *(({"name": name}, "cannot name a folder", repr(name)) for name in ("../x", "", "a?b", "a b", "x\n")),
        ({"name": None}, "name must be a word", "None"),
        ({"name": "sweep"}, "would take the place of the table's sweep_1", "another name"),
        ({"name": "MLP"}, "would take the place of the table's MLP_4", "another name"),
        ({"seed": -1}, "seed must be a whole number", "-1"),
        ({"seed": "0"}, "seed must be a whole number", "'0'"),
        ({"profile": "large"}, "unknown profile 'large'", "sample"),
        ({"storage": 3}, "storage must be a database's URL", "3"),
        *(({"storage": url}, f"{url} is a database in memory", "name a file") for url in IN_MEMORY),
        ({"name": "SWEEP"}, "would take the place of the table's sweep_1", "another name"),  # one folder on some disks
        ({"storage": "nonsense"}, "nonsense cannot be opened", "name another"),
    ],
)
def test_what_cannot_be_asked_of_a_search_is_refused_and_leaves_nothing(options, what, remedy, runs_dir, tiny):
    refused(lambda: search(SMALL, **{"count": 2, "base": "MLP_4"} | options), what, remedy)
    assert not list(runs_dir.parent.iterdir())


def test_where_there_is_nothing_to_join_nothing_is_written(runs_dir, tmp_path):
    refused(lambda: join("none"), "no search 'none' (profile sample, seed 0)", "begin it with search(...)")
    refused(lambda: join("none", storage=f"sqlite:///{tmp_path / 'none.sqlite'}"), "no search 'none'")
    refused(lambda: join("../none"), "cannot name a folder")
    refused(lambda: join("sweep"), "the table's sweep_1")
    refused(lambda: join(seed="x"), "seed must be a whole number")
    assert not list(tmp_path.iterdir())


def test_a_search_that_was_killed_before_it_was_whole_cannot_be_joined_and_is_begun_anew(tiny):
    with trialFunction.open_study("search", "sample", 0, "", "maximize") as study:
        study.set_user_attr("count", 2)
    refused(join, "no search 'search'", "begin it with search(...)")
    assert len(search(SMALL, 1, base="MLP_4")) == 1


def test_a_run_has_every_metric_that_a_search_may_go_by(tiny):
    said = refused(lambda: search(config(metric={"name": "?", "goal": "maximize"}), 1, base="MLP_4"), "unknown metric '?'")
    metrics = said.partition("choose ")[2].replace(" or ", ", ").split(", ")
    assert "test_macro_accuracy" in metrics
    (record,) = search(SMALL, 1, base="MLP_4")
    assert set(metrics) <= {key for key, value in record.rows[-1].items() if isinstance(value, float)}
