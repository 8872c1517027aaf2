"""Sweep configurations as W&B documents them and as people write them: what one means, and what is wrong with it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import refused

from coreFunction import search
from deepnet.search import searching
from deepnet.search.sweep import REPORT_SWEEP, Parameter, read_sweep
from deepnet.training import precision
from experimentTable import EXPERIMENTS, experiment

LOSS = {"name": "validation_loss", "goal": "minimize"}
LOG = {"distribution": "log_uniform_values"}
LR = LOG | {"min": 1e-5, "max": 1e-2}
ADAM = {"values": ["Adam", "SGD"]}


def config(method="random", metric=LOSS, parameters=None, **more):
    return {"method": method, "metric": metric, "parameters": {"lr": LR} if parameters is None else parameters} | more


def varied(**parameters):
    return config(parameters=parameters)


def read(asked, name="sweep_1", profile="paper"):
    return read_sweep(asked, experiment(name, profile), searching.RESOLVED)


# ---------------------------------------------------------------- what a configuration means


def test_report_sweep_covers_the_report():
    found = read(REPORT_SWEEP).parameters
    assert found == {
        "lr": Parameter("log", low=1e-6, high=1e-2),
        "batch_size": Parameter("listed", (16, 32, 64, 128, 256)),
    }
    drawn = [row for row in EXPERIMENTS.values() if row.name.startswith("sweep_")]
    assert all(1e-6 <= row.lr <= 1e-2 and row.batch_size in found["batch_size"].choices for row in drawn)


@pytest.mark.parametrize(
    ("spec", "least", "middle", "greatest"),
    [
        (LOG | {"min": 1e-6, "max": 1e-2}, 1e-6, 1e-4, 1e-2),
        ({"distribution": "inv_log_uniform_values", "min": 1e-6, "max": 1e-2}, 1e-6, 1e-4, 1e-2),
        ({"distribution": "log_uniform", "min": -14, "max": -4}, math.exp(-14), math.exp(-9), math.exp(-4)),
        ({"distribution": "inv_log_uniform", "min": 4, "max": 14}, math.exp(-14), math.exp(-9), math.exp(-4)),
        ({"distribution": "uniform", "min": 0, "max": 1}, 0, 0.5, 1),
        ({"min": 0, "max": 1.5}, 0, 0.75, 1.5),
        ({"min": np.int64(2), "max": 8}, 2, 5, 8),  # whole numbers, as W&B takes it
        ({"distribution": "int_uniform", "min": 2, "max": 8}, 2, 5, 8),
        ({"distribution": "q_uniform", "min": 0, "max": 100, "q": 8}, 0, 48, 96),
        ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.1}, 0, 0.5, 1),
        ({"distribution": "q_log_uniform_values", "min": 16, "max": 256, "q": 16}, 16, 64, 256),
        ({"distribution": "q_log_uniform", "min": 0, "max": 10}, 1, 148, 22026),
        ({"distribution": "normal", "mu": 3, "sigma": 1}, 3 - 4.753424, 3, 3 + 4.753424),
        ({"distribution": "normal"}, -4.753424, 0, 4.753424),
        ({"distribution": "q_normal", "mu": 64, "sigma": 10, "q": 16}, 16, 64, 112),
        ({"distribution": "log_normal", "mu": -7, "sigma": 0.5}, *(math.exp(-7 + x * 2.376712) for x in (-1, 0, 1))),
        ({"distribution": "q_log_normal", "mu": 4, "sigma": 0.1, "q": 2}, 34, 54, 88),
    ],
)
def test_ranges(spec, least, middle, greatest):
    """The least value, the median and the greatest; `drawn` is the inverse of `value`."""
    parameter = read_sweep(varied(patience=spec)).parameters["patience"]
    low, high = parameter.low, parameter.high
    half = math.sqrt(low * high) if parameter.scale == "log" else (low + high) / 2
    half = int(half) if parameter.scale == "integer" else half
    values = [parameter.value(drawn) for drawn in (low, half, high)]
    assert values == pytest.approx([least, middle, greatest], rel=1e-6)
    assert [parameter.value(parameter.drawn(value)) for value in values] == pytest.approx(values)
    whole = isinstance(spec.get("q", 1 if "q_" in spec.get("distribution", "") else None), int)
    assert {type(value) for value in values} == {int} or not (whole or parameter.scale == "integer")


@pytest.mark.parametrize(
    ("spec", "choices"),
    [
        ({"distribution": "categorical", "values": [1, 2]}, (1, 2)),
        ({"values": (True, None, 0.5)}, (True, None, 0.5)),
        ({"values": np.array([8, 16])}, (8, 16)),
        ({"values": [np.int64(8), np.float32(0.5)]}, (8, 0.5)),
        ({"values": range(1, 4)}, (1, 2, 3)),
        ({"values": {3}}, (3,)),
        ({"value": None}, (None,)),
        ({"distribution": "constant", "value": 3}, (3,)),
    ],
)
def test_listed_values(spec, choices):
    found = read_sweep(varied(patience=spec)).parameters["patience"].choices
    assert found == choices
    assert [type(value) for value in found] == [type(value) for value in choices]


@pytest.mark.parametrize(
    ("asked", "note"),
    [
        (REPORT_SWEEP, ""),
        (config("bayes", program="train.py", command=["${env}", "python"]), "are ignored: program, command"),
        (config(name="a", description="b", project="c", entity="d"), "ignored: name, description, project, entity"),
        ({"method": "random", "parameters": {"lr": LR}}, ""),
        ({"method": "grid", "parameters": {"optimizer": ADAM, "batch_size": {"values": [16, 32]}}}, ""),
        (config("bayes", {"name": "validation_loss"}), "validation_loss has no goal; as at W&B, it is minimized"),
        (config("bayes", LOSS | {"target": 0.5}, run_cap=5, early_terminate=None), ""),
        (varied(batch_size={"values": [16, 32, 64], "probabilities": [0.5, 0.25, 0.25]}), ""),
    ],
)
def test_documented_configurations_are_accepted(asked, note):
    sweep = read(asked)
    assert sweep.parameters.keys() == asked["parameters"].keys()
    assert len(sweep.notes) == bool(note)
    assert note in "".join(sweep.notes)
    if "metric" not in asked:
        assert (sweep.metric, sweep.maximize) == ("validation_accuracy", True)


def test_grid_points_are_those_of_nested_loops():
    parameters = {"patience": {"min": 2, "max": 4}, "optimizer": {"values": ["SGD", "Adam"]}, "lr": {"value": 0.1}}
    sweep = read_sweep(config("grid", parameters=parameters))
    points = [sweep.grid_point(number) for number in range(sweep.size)]
    assert points == [{"patience": p, "optimizer": o, "lr": 0.1} for p in (2, 3, 4) for o in ("SGD", "Adam")]


# ---------------------------------------------------------------- what is wrong with it

REFUSED = [
    (None, "the sweep configuration is None", "write a dict"),
    (config(parameters={}), "'parameters' must be a dict", "choose from batch_size"),
    ({"method": "random", "parameter": {"lr": LR}}, "'parameter' (did you mean parameters?)", "'parameters' must be"),
    (config("bayesian"), "'bayesian' (did you mean bayes?)"),
    (config("bayes", None), "'metric' must be a dict"),
    (config(metric={"goal": "maximize"}), "'metric' must have the name of a metric", "None"),
    (config(metric=LOSS | {"goal": "up"}), "'goal' must be maximize or minimize", "'up'"),
    (config(metric={"name": "validation_loss", "goals": "up"}), "unknown key 'goals' in 'metric'", "mean goal?"),
    (config(metric=LOSS | {"target": "1e-1"}), "'target'", "1.0e-01"),
    (
        config(metric={"name": "test_acc"}),
        "'test_acc' (did you mean validation_accuracy?)",
        "measured on the test set",
    ),
    (config(run_cap="10"), "'run_cap'", "'10'"),
    (config(early_terminate={"type": "hyperband"}), "'early_terminate' is not supported", "patience"),
    (varied(seed={"values": [0, 1]}), "'seed' cannot be searched"),
    (  # W&B's own tutorial
        config(
            metric={"name": "val_loss"},
            parameters={
                "learning_rate": {"min": 0, "max": 0.1},
                "optimizer": {"values": ["adam", "sgd"]},
                "fc": {"value": 1},
            },
        ),
        "'learning_rate' (did you mean lr?)",
        "'val_loss' (did you mean validation_loss?)",
        "'fc'",
        "a run has batch",
        "'adam'",
        "did you mean Adam",
        "'sgd'",
        "did you mean SGD",
    ),
    (
        varied(lr=LOG | {"min": "1e-5", "max": "1e-2"}),
        "min of parameter 'lr'",
        "1.0e-05",
        "max of parameter 'lr'",
        "1.0e-02",
    ),
    (varied(lr={"values": ["1e-3", 0.01]}), "'1e-3'", "1.0e-03"),
    (varied(lr=0.1, batch_size=[16, 32]), "{'value': 0.1}", "{'values': [16, 32]}"),
    (varied(optimizer={"parameters": {"lr": {"values": [0.1]}}}), "'optimizer' has nested parameters"),
    (varied(lr={"distribution": "loguniform_values", "min": 1e-4, "max": 0.1}), "did you mean log_uniform_values?"),
    (varied(lr={"distribution": "log_uniform", "min": 1e-5, "max": 1e3}), "exponents of e", "log_uniform_values"),
    (varied(lr={"mu": 0, "sigma": 1}), "'lr' (uniform) has the unknown key 'mu'", "lacks 'min'"),
    (varied(lr={"value": 0.1, "values": [0.1]}), "unknown key 'value'", "did you mean values"),
    (varied(lr={"min": 2, "max": 1}), "parameter 'lr' has the min 2 above the max 1"),
    (varied(lr=LOG | {"min": 0, "max": 1}), "its min must be above 0", "got 0"),
    (varied(lr={"min": 1.0, "max": 10**5000}), "max of parameter 'lr' must be a number", "thousands of digits"),
    (
        varied(patience={"distribution": "int_uniform", "min": 1.5, "max": 3}),
        "'patience' must be a whole number",
        "1.5",
    ),
    (varied(lr={"distribution": "q_uniform", "min": 0.1, "max": 1, "q": 0}), "q of parameter 'lr' must be above 0"),
    (varied(lr={"distribution": "normal", "sigma": -1}), "sigma of parameter 'lr' must be above 0", "got -1"),
    (varied(batch_size={"values": [[8]]}), "parameter 'batch_size' has a value [8]", "plain numbers or strings"),
    (varied(batch_size={"values": [8, 8]}), "batch_size 8 and 8 are the same here", "leave one of them out"),
    (varied(lr={"values": []}), "values of parameter 'lr' must be a list of at least one", "[]"),
    (varied(batch_size={"values": [16, 32], "probabilities": [0.5, 0.4]}), "add up to 1", "0.4"),
    (config("bayes", parameters={"batch_size": {"values": [16], "probabilities": [1]}}), "need the method random"),
    (config("grid"), "a grid needs", "'lr'"),
    # what no run could have
    (varied(lr={"values": [10**400]}), "lr is beyond all floating-point numbers", "1000"),
    (varied(dropout={"min": 0.0, "max": 1.0}), "dropout must lie in [0, 1)", "1.0"),
    (varied(optimizer={"values": ["Adam", "Foo"]}), "unknown optimizer 'Foo'", "choose Adam"),
    (varied(start_from={"values": [None, "nowhere"]}), "unknown experiment 'nowhere'", "run.py list"),
    (varied(eps={"values": [None, 1e-6]}, optimizer=ADAM), "SGD has no eps", "another optimizer"),
    (varied(eps={"values": [None, 1e-8]}), "eps None and 1e-08 are the same here", "leave one of them out"),
]


@pytest.mark.parametrize(("asked", "words"), [(case[0], case[1:]) for case in REFUSED], ids=[c[1] for c in REFUSED])
def test_all_faults_are_reported_at_once(asked, words):
    refused(lambda: read(asked), *words)


def test_refusal_leaves_no_file(runs_dir, tiny):
    asked = config(metric={"name": "validation_accuracy"})
    refused(lambda: search(asked, 2, base="MLP_4"), "'validation_accuracy'", "is in no row of mnist")
    assert not runs_dir.exists()


@pytest.mark.parametrize(("supported", "same"), [(False, ["fp32", "auto"]), (True, ["auto", "bf16"])])
def test_equal_precisions(supported, same, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: supported)
    said = f"precision {same[0]!r} and {same[1]!r} are the same here"
    refused(lambda: read(varied(precision={"values": same})), said, "leave one of them out")
    apart = varied(precision={"values": ["fp32", "fp64", *["bf16"] * supported]})
    assert read(apart).parameters["precision"].choices[0] == "fp32"


def test_epochs_that_the_profile_sets():
    asked = varied(epochs={"values": [10, 30]})
    refused(lambda: read(asked, profile="cpu"), "epochs=30 of sweep_1 has no effect in the profile cpu")
    fixed = "'epochs' cannot be searched here, the profile sample sets it to 2"
    refused(lambda: read(varied(epochs={"value": 20}), profile="sample"), fixed)
    assert read(asked).parameters["epochs"].choices == (10, 30)


def test_only_values_that_a_trial_combines_are_refused():
    """The row's own value of one parameter does not forbid a value of another that is never combined with it."""
    row = replace(experiment("adam", "paper"), name="own", trainable=None)
    sought = {"model": {"values": ["resnet18", "CNN_10"]}, "start_from": {"value": None}}
    assert read_sweep(varied(**sought), row).parameters.keys() == sought.keys()
    refused(lambda: read_sweep(varied(model=sought["model"]), row), "model='CNN_10' has no effect")
