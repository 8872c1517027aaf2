"""What is asked of a search: what a configuration means; what no trial could be made of is refused and leaves
nothing.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import refused
from test_search import LOG, SMALL, config

from coreFunction import join, search
from deepnet.search import searching, trials
from deepnet.search.sweep import REPORT_SWEEP, Parameter, read_sweep
from deepnet.training import precision
from experimentTable import EXPERIMENTS, experiment

IN_MEMORY = (
    "sqlite://",
    "sqlite:///",
    "sqlite:///:memory:",
    "sqlite:///file::memory:?uri=true",
    "sqlite:///file:x?mode=memory&uri=true",
)
BELL = {"distribution": "log_normal", "mu": -7, "sigma": 0.5}


def varied(**parameters):
    """SMALL with other parameters."""
    return config(parameters=parameters)


def test_the_report_s_sweep_draws_from_the_report_s_ranges():
    found = read_sweep(REPORT_SWEEP, experiment("sweep_1", "paper")).parameters
    assert found == {
        "lr": Parameter("log", low=1e-6, high=1e-2),
        "batch_size": Parameter("listed", (16, 32, 64, 128, 256)),
    }
    drawn = [row for row in EXPERIMENTS.values() if row.name.startswith("sweep_")]
    assert all(1e-6 <= row.lr <= 1e-2 and row.batch_size in found["batch_size"].choices for row in drawn)


@pytest.mark.parametrize(
    ("spec", "least", "middle", "greatest"),
    [
        ({"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-2}, 1e-6, 1e-4, 1e-2),
        ({"distribution": "inv_log_uniform_values", "min": 1e-6, "max": 1e-2}, 1e-6, 1e-4, 1e-2),
        ({"distribution": "log_uniform", "min": -14, "max": -4}, math.exp(-14), math.exp(-9), math.exp(-4)),
        ({"distribution": "inv_log_uniform", "min": 4, "max": 14}, math.exp(-14), math.exp(-9), math.exp(-4)),
        ({"distribution": "uniform", "min": 0, "max": 1}, 0, 0.5, 1),
        ({"min": 0, "max": 1.5}, 0, 0.75, 1.5),
        ({"min": 2, "max": 8}, 2, 5, 8),  # whole numbers, as W&B takes it
        ({"distribution": "int_uniform", "min": 2, "max": 8}, 2, 5, 8),
        ({"distribution": "q_uniform", "min": 0, "max": 100, "q": 8}, 0, 48, 96),
        ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.1}, 0, 0.5, 1),
        ({"distribution": "q_log_uniform_values", "min": 16, "max": 256, "q": 16}, 16, 64, 256),
        ({"distribution": "q_log_uniform", "min": 0, "max": 10}, 1, 148, 22026),
        ({"distribution": "normal", "mu": 3, "sigma": 1}, 3 - 4.753424, 3, 3 + 4.753424),
        ({"distribution": "normal"}, -4.753424, 0, 4.753424),
        ({"distribution": "q_normal", "mu": 64, "sigma": 10, "q": 16}, 16, 64, 112),
        (BELL, math.exp(-7 - 0.5 * 4.753424), math.exp(-7), math.exp(-7 + 0.5 * 4.753424)),
        ({"distribution": "q_log_normal", "mu": 4, "sigma": 0.1, "q": 2}, 34, 54, 88),
    ],
)
def test_every_range_of_w_and_b_s_is_drawn_as_w_and_b_draws_it(spec, least, middle, greatest):
    """Its least value, its median and its greatest; what a sampler drew comes back from the value."""
    parameter = read_sweep(varied(patience=spec)).parameters["patience"]
    half = (
        math.sqrt(parameter.low * parameter.high) if parameter.scale == "log" else (parameter.low + parameter.high) / 2
    )
    half = int(half) if parameter.scale == "whole" else half
    values = [parameter.value(drawn) for drawn in (parameter.low, half, parameter.high)]
    assert values == pytest.approx([least, middle, greatest], rel=1e-6)
    assert [parameter.value(parameter.drawn(value)) for value in values] == pytest.approx(values)
    whole = (
        type(spec.get("q", None)) is int or parameter.scale == "whole" or spec.get("distribution") == "q_log_uniform"
    )
    assert {type(value) for value in values} == {int} or not whole


@pytest.mark.parametrize(
    ("spec", "choices"),
    [
        ({"distribution": "categorical", "values": [1, 2]}, (1, 2)),
        ({"values": ["Adam", "SGD"]}, ("Adam", "SGD")),
        ({"values": (True, None, 0.5)}, (True, None, 0.5)),
        ({"values": np.array([8, 16])}, (8, 16)),
        ({"values": [np.int64(8), np.float32(0.5)]}, (8, 0.5)),
        ({"values": range(1, 4)}, (1, 2, 3)),
        ({"values": {3}}, (3,)),
        ({"value": 3}, (3,)),
        ({"value": None}, (None,)),
        ({"distribution": "constant", "value": 3}, (3,)),
    ],
)
def test_listed_values(spec, choices):
    found = read_sweep(varied(patience=spec)).parameters["patience"].choices
    assert found == choices
    assert [type(value) for value in found] == [type(value) for value in choices]


def test_numbers_of_numpy_are_numbers():
    assert read_sweep(varied(batch_size={"min": np.int64(8), "max": 16})).parameters["batch_size"] == Parameter(
        "whole", low=8, high=16
    )


BAD = [
    (None, "the sweep configuration is None", "write a dict"),
    (config(parameters={}), "'parameters' must be a dict", "choose from batch_size"),
    (config(parameters=["lr"]), "'parameters' must be a dict", "choose from batch_size"),
    (config(metric={"goal": "maximize"}), "'metric' must name what is sought by", "None"),
    (config(metric={"name": "train_loss", "goal": "up"}), "'goal' must be maximize or minimize", "'up'"),
    (config(metric={"name": "train_loss", "goals": "minimize"}), "unknown key 'goals' in 'metric'", "'goal'"),
    (
        config(metric={"name": "val_acc", "goal": "maximize"}),
        "the metric 'val_acc'",
        "choose from train_loss, train_accuracy",
    ),
    (
        config(metric={"name": "validation_accuracy", "goal": "maximize"}),
        "'validation_accuracy'",
        "is in no row of mnist",
    ),
    *(
        (config(metric={"name": f"test_{part}", "goal": "maximize"}), f"'test_{part}'", "is measured on the test set")
        for part in ("accuracy", "loss", "macro_accuracy")
    ),
    *(
        (varied(**{key: {"values": [0, 1]}}), f"'{key}' cannot be searched", "choose from batch_size")
        for key in ("seed", "kind", "family", "chapter", "record_gradients", "keep_weights", "final_test")
    ),
    (
        varied(dataset={"values": ["mnist", "cifar10"]}),
        "MLP_4 cannot take the images of cifar10, (3, 28, 28)",
        "leave one of them out",
    ),
    (
        varied(model={"values": ["MLP_13", "CNN_10"]}),
        "CNN_10 cannot take the images of mnist, (1, 28, 28)",
        "leave one of them out",
    ),
    (varied(eps={"values": [None, 1e-8]}), "eps None and 1e-08 are the same here", "leave one of them out"),
    (varied(lr={"values": [10**400]}), "lr is beyond all floating-point numbers", "1000"),
    (varied(lr={"min": 1.0, "max": 10**5000}), "max of parameter 'lr' must be a number", "thousands of digits"),
    (varied(learning_rate={"value": 1}), "unknown parameter 'learning_rate'", "a run has batch_size"),
    (varied(lr={"mu": 0, "sigma": 1}), "unknown key 'mu' in parameter 'lr' (uniform)", "lacks 'min'"),
    (varied(lr={"min": 0.1, "max": 1, "values": [0.1]}), "unknown key 'min' in parameter 'lr' (categorical)", ""),
    (
        varied(lr={"value": 0.1, "values": [0.1]}),
        "unknown key 'value' in parameter 'lr' (categorical)",
        "did you mean 'values'",
    ),
    (varied(lr={"min": 1}), "parameter 'lr' (uniform) lacks 'max'", ""),
    (varied(lr={"min": 2, "max": 1}), "parameter 'lr' has the min 2 above the max 1", ""),
    (varied(lr=LOG | {"min": 0, "max": 1}), "its min must be above 0", "got 0"),
    (varied(lr={"min": "a", "max": 1}), "min of parameter 'lr' must be a number", "'a'"),
    (varied(lr={"min": math.nan, "max": 1}), "min of parameter 'lr' must be a number", "nan"),
    (varied(lr=LOG | {"min": 1e-3, "max": math.inf}), "max of parameter 'lr' must be a number", "inf"),
    (
        varied(patience={"distribution": "int_uniform", "min": 1.5, "max": 3}),
        "min of parameter 'patience' must be a whole number",
        "1.5",
    ),
    (
        varied(lr={"distribution": "q_uniform", "min": 0.1, "max": 1, "q": 0}),
        "q of parameter 'lr' must be above 0",
        "got 0",
    ),
    (varied(lr={"distribution": "normal", "mu": 1, "sigma": -1}), "sigma of parameter 'lr' must be above 0", "got -1"),
    (varied(batch_size={"values": [[8]]}), "parameter 'batch_size' has a value [8]", "plain numbers or words"),
    (varied(batch_size={"values": [8, 8]}), "parameter 'batch_size' lists 8 twice", ""),
    (varied(lr={"values": []}), "values of parameter 'lr' must be a list of at least one", "[]"),
    (varied(optimizer={"values": "Adam"}), "values of parameter 'optimizer' must be a list", "'Adam'"),
    (varied(optimizer={"values": ["Adam", "Foo"]}), "unknown optimizer 'Foo'", "choose Adam"),
    (varied(lr={"values": [1e-3, -1]}), "lr must be a number of at least 0", "-1"),
    (varied(lr={"distribution": "uniform", "min": 0, "max": 1}), "lr must be above 0", "got 0"),
    (varied(dropout={"min": 0.0, "max": 1.0}), "dropout must lie in [0, 1)", "1.0"),
    (varied(batch_size={"min": 8.5, "max": 16.5}), "batch_size must be a whole number", "8.5"),
    (varied(model={"values": ["MLP_4", "MLP_5"]}), "unknown model 'MLP_5'", "MLP_13"),
    (varied(start_from={"values": [None, "nowhere"]}), "unknown experiment 'nowhere'", "run.py list"),
    (varied(start_from={"value": "distribution"}), "start from distribution", "no training"),
    (
        varied(eps={"values": [None, 1e-8]}, optimizer={"values": ["Adam", "SGD"]}),
        "SGD has no eps",
        "another optimizer",
    ),
    (varied(epochs={"values": [5, 10]}), "epochs=5 of MLP_4 has no effect in the profile sample", "epochs=10"),
]


@pytest.mark.parametrize(("bad", "what", "remedy"), BAD, ids=[case[1] for case in BAD])
def test_what_a_configuration_cannot_say_is_refused(bad, what, remedy, runs_dir, tiny):
    refused(lambda: search(bad, 2, base="MLP_4"), what, remedy)
    assert not runs_dir.exists()


@pytest.mark.parametrize(("has_it", "same"), [(False, ["fp32", "auto"]), (True, ["auto", "bf16"])])
def test_precisions_that_are_one_on_this_machine_are_refused(has_it, same, runs_dir, tiny, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: has_it)
    said = f"precision {same[0]!r} and {same[1]!r} are the same here"
    refused(lambda: search(varied(precision={"values": same}), 2, base="MLP_4"), said, "leave one of them out")
    assert not runs_dir.exists()
    apart = varied(precision={"values": ["fp32", "fp64", *["bf16"] * has_it]})
    assert (
        read_sweep(apart, experiment("MLP_4", "sample"), searching.MEANT).parameters["precision"].choices[0] == "fp32"
    )


def test_epochs_beyond_what_the_profile_grants_are_refused():
    ask = REPORT_SWEEP | {"parameters": {"epochs": {"values": [10, 30]}}}
    refused(
        lambda: read_sweep(ask, experiment("sweep_1", "cpu")), "epochs=30 of sweep_1 has no effect in the profile cpu"
    )
    usual = REPORT_SWEEP | {"parameters": {"epochs": {"value": 20}}}
    refused(
        lambda: read_sweep(usual, experiment("sweep_1", "sample")),
        "'epochs' cannot be searched here, the profile sample sets it to 2",
    )
    assert read_sweep(ask, experiment("sweep_1", "paper")).parameters["epochs"].choices == (10, 30)


@pytest.mark.parametrize(
    ("options", "what", "remedy"),
    [
        ({"base": "MLP_5"}, "unknown experiment 'MLP_5'", "run.py list"),
        ({"base": None}, "unknown experiment 'None'", "run.py list"),
        ({"base": "distribution"}, "distribution is no training", "a search needs a training"),
        ({"base": "MLP_33_eps"}, "MLP_33_eps has no budget in the profile sample", "cpu or paper"),
        ({"base": experiment("MLP_4", "cpu"), "profile": "sample"}, "base is a row of profile cpu", "give one of them"),
        ({"base": experiment("MLP_4", "", 2), "seed": 1}, "base is a row of seed 2", "give one of them"),
        *(
            ({"count": count}, "count must be a whole number of at least 1", repr(count))
            for count in ("2", None, 1.5, True, 0, -1)
        ),
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
    with trials.open_study("search", "sample", 0, "", "maximize") as study:
        study.study.set_user_attr("count", 2)
    refused(join, "no search 'search'", "begin it with search(...)")
    assert len(search(SMALL | {"metric": {"name": "train_accuracy", "goal": "maximize"}}, 1, base="MLP_4")) == 1


def test_a_run_has_every_metric_that_a_search_may_go_by(tiny):
    said = refused(lambda: search(config(metric={"name": "?", "goal": "maximize"}), 1, base="MLP_4"), "the metric '?'")
    metrics = said.partition("choose from ")[2].split(", ")
    (record,) = search(SMALL, 1, base="MLP_4")
    assert set(metrics) <= {key for key, value in record.rows[-1].items() if isinstance(value, float)}


def test_of_several_parameters_only_what_no_trial_could_have_is_refused():
    """The row's own value of one does not forbid a value of another that is never drawn beside it."""
    row = replace(experiment("adam", "paper"), name="own", trainable=None)
    sought = {"model": {"values": ["resnet18", "CNN_10"]}, "start_from": {"value": None}}
    assert read_sweep(REPORT_SWEEP | {"parameters": sought}, row).parameters.keys() == sought.keys()
    refused(
        lambda: read_sweep(REPORT_SWEEP | {"parameters": {"model": sought["model"]}}, row),
        "model='CNN_10' has no effect",
    )


def test_a_row_of_one_s_own_can_be_searched_and_joined(tiny):
    own = replace(experiment("MLP_4"), name="own", dropout=0.25, seed=3)
    (record,) = search(SMALL, 1, base=own, name="mine")
    assert (record.name, record.seed, record.profile) == ("mine_1", 3, "sample")
    assert record.settings["identity"]["dropout"] == 0.25
    assert [found.path for found in join("mine", seed=3)] == [record.path]
    refused(lambda: search(SMALL, 1, base=replace(own, dropout=0.5), name="mine"), "begun with another configuration")
