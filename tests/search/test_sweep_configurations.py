"""Sweep configurations as W&B documents them and as people write them: each is taken, or refused with all that is wrong
with it.
"""

import pytest
from helpers import refused

from coreFunction import search
from deepnet.search.sweep import REPORT_SWEEP, read_sweep
from experimentTable import experiment

BELL = {"distribution": "log_normal", "mu": -7, "sigma": 0.5}
PROGRAM = {"program": "train.py", "method": "bayes"}
VAL_LOSS = {"metric": {"name": "validation_loss", "goal": "minimize"}}
LR = {"lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2}}
OPTIMIZERS = {"optimizer": {"values": ["Adam", "SGD"]}}
HYPERBAND = {"type": "hyperband", "min_iter": 3}

# Each with what is said of it before it is begun, of the report's row sweep_1 in the profile `paper`.
TAKEN = {
    "the report's": (REPORT_SWEEP, []),
    "W&B's with a program": (PROGRAM | VAL_LOSS | {"parameters": LR | OPTIMIZERS}, ["passed over: program"]),
    "a command": (
        PROGRAM | VAL_LOSS | {"command": ["${env}", "python", "${program}", "${args}"], "parameters": LR},
        ["passed over: program, command"],
    ),
    "a name, a description, a project and an entity": (
        VAL_LOSS
        | {
            "method": "random",
            "name": "sweep",
            "description": "first",
            "project": "p",
            "entity": "e",
            "parameters": LR,
        },
        ["passed over: name, description, project, entity"],
    ),
    "random without a metric": ({"method": "random", "parameters": LR}, []),
    "a grid without a metric": (
        {"method": "grid", "parameters": OPTIMIZERS | {"batch_size": {"values": [16, 32]}}},
        [],
    ),
    "no goal": (
        {"method": "bayes", "metric": {"name": "validation_loss"}, "parameters": LR},
        ["validation_loss has no goal", "minimized"],
    ),
    "a target": ({"method": "bayes", "metric": VAL_LOSS["metric"] | {"target": 0.5}, "parameters": LR}, []),
    "a cap": (VAL_LOSS | {"method": "random", "run_cap": 5, "parameters": LR}, []),
    "probabilities": (
        VAL_LOSS
        | {
            "method": "random",
            "parameters": {"batch_size": {"values": [16, 32, 64], "probabilities": [0.5, 0.25, 0.25]}},
        },
        [],
    ),
    "a grid over a range": ({"method": "grid", "parameters": {"patience": {"min": 1, "max": 10}}}, []),
    "a grid over multiples": (
        {"method": "grid", "parameters": {"batch_size": {"distribution": "q_uniform", "min": 16, "max": 256, "q": 16}}},
        [],
    ),
    "a quantised range": (
        VAL_LOSS
        | {"method": "bayes", "parameters": {"dropout": {"distribution": "q_uniform", "min": 0, "max": 0.5, "q": 0.1}}},
        [],
    ),
    "a log-normal": (VAL_LOSS | {"method": "bayes", "parameters": {"lr": BELL}}, []),
    "a local controller": (
        VAL_LOSS | {"method": "random", "controller": {"type": "local"}, "parameters": LR},
        ["passed over: controller"],
    ),
    "no early termination": (VAL_LOSS | {"method": "random", "early_terminate": None, "parameters": LR}, []),
}

# Each with what the one message says.
REFUSED = {
    "W&B's own example": (
        PROGRAM
        | {
            "metric": {"name": "val_loss", "goal": "minimize"},
            "parameters": {"learning_rate": {"min": 1e-4, "max": 0.1}, "optimizer": {"values": ["adam", "sgd"]}},
        },
        [
            "'learning_rate' (did you mean 'lr'?)",
            "'val_loss' (did you mean 'validation_loss'?)",
            "'adam'",
            "did you mean Adam",
            "'sgd'",
            "did you mean SGD",
        ],
    ),
    "W&B's tutorial": (
        {
            "method": "random",
            "metric": {"name": "loss", "goal": "minimize"},
            "parameters": {
                "optimizer": {"values": ["adam", "sgd"]},
                "fc_layer_size": {"values": [128, 256, 512]},
                "dropout": {"values": [0.3, 0.4]},
                "epochs": {"value": 1},
                "learning_rate": {"distribution": "uniform", "min": 0, "max": 0.1},
                "batch_size": {"distribution": "q_log_uniform_values", "q": 8, "min": 32, "max": 256},
            },
        },
        ["'fc_layer_size'", "'learning_rate' (did you mean 'lr'?)", "'loss' (did you mean 'train_loss'?)", "'adam'"],
    ),
    "the report's own": (
        {"method": "bayes", "metric": {"name": "test_acc", "goal": "maximize"}, "parameters": LR},
        ["'test_acc' (did you mean 'validation_accuracy'?)", "test set"],
    ),
    "hyperband": (
        PROGRAM | VAL_LOSS | {"early_terminate": HYPERBAND, "parameters": LR},
        ["early_terminate", "patience"],
    ),
    "numbers that YAML reads as words": (
        PROGRAM
        | VAL_LOSS
        | {"parameters": {"lr": {"distribution": "log_uniform_values", "min": "1e-5", "max": "1e-2"}}},
        ["min of parameter 'lr'", "'1e-5'", "1.0e-05", "max of parameter 'lr'", "1.0e-02"],
    ),
    "listed numbers that YAML reads as words": (
        VAL_LOSS | {"method": "grid", "parameters": {"lr": {"values": ["1e-3", 0.01]}}},
        ["'1e-3'", "1.0e-03"],
    ),
    "a constant that YAML reads as a word": (
        VAL_LOSS | {"method": "random", "parameters": {"lr": {"value": "5e-4"}}},
        ["'5e-4'", "5.0e-04"],
    ),
    "nested parameters": (
        VAL_LOSS
        | {
            "method": "random",
            "parameters": {"optimizer": {"parameters": {"lr": {"values": [0.1]}, "momentum": {"value": 0.9}}}},
        },
        ["'optimizer'", "nested"],
    ),
    "log_uniform with values": (
        VAL_LOSS | {"method": "bayes", "parameters": {"lr": {"distribution": "log_uniform", "min": 1e-5, "max": 1e3}}},
        ["'lr' (log_uniform) are exponents", "log_uniform_values"],
    ),
    "foreign parameters": (
        VAL_LOSS
        | {
            "method": "random",
            "parameters": LR | {"momentum": {"value": 0.9}, "hidden": {"values": [8]}, "num_epochs": {"value": 3}},
        },
        ["'momentum'", "'hidden'", "'num_epochs' (did you mean 'epochs'?)", "a run has"],
    ),
    "a method misspelt": (VAL_LOSS | {"method": "bayesian", "parameters": LR}, ["'bayesian' (did you mean 'bayes'?)"]),
    "a distribution misspelt": (
        VAL_LOSS
        | {"method": "random", "parameters": {"lr": {"distribution": "loguniform_values", "min": 1e-4, "max": 0.1}}},
        ["'log_uniform_values'"],
    ),
    "bare values": (
        VAL_LOSS | {"method": "grid", "parameters": {"lr": 0.1, "batch_size": [16, 32]}},
        ["{'value': 0.1}", "{'values': [16, 32]}"],
    ),
    "bayes without a metric": ({"method": "bayes", "parameters": LR}, ["'metric' must be a dict"]),
    "a metric as a word": ({"method": "bayes", "metric": "val_loss", "parameters": LR}, ["'metric' must be a dict"]),
    "no method": (VAL_LOSS | {"parameters": LR}, ["'method' must be bayes, random or grid"]),
    "a key misspelt": (
        VAL_LOSS | {"method": "random", "parameter": LR},
        ["'parameter' (did you mean 'parameters'?)", "'parameters' must be"],
    ),
    "a grid over a continuous range": (VAL_LOSS | {"method": "grid", "parameters": LR}, ["a grid needs", "'lr'"]),
    "probabilities that do not add up": (
        VAL_LOSS
        | {"method": "random", "parameters": {"batch_size": {"values": [16, 32], "probabilities": [0.5, 0.4]}}},
        ["add up to 1", "0.9"],
    ),
    "probabilities for bayes": (
        VAL_LOSS | {"method": "bayes", "parameters": {"batch_size": {"values": [16, 32], "probabilities": [0.5, 0.5]}}},
        ["'probabilities' of 'batch_size'", "random"],
    ),
    "a cap that is no number": (
        VAL_LOSS | {"method": "random", "run_cap": "10", "parameters": LR},
        ["'run_cap'", "'10'"],
    ),
    "a target that is a word": (
        {"method": "random", "metric": VAL_LOSS["metric"] | {"target": "1e-1"}, "parameters": LR},
        ["'target'", "1.0e-01"],
    ),
    "a learning rate that may be negative": (
        VAL_LOSS | {"method": "random", "parameters": {"lr": {"distribution": "normal"}}},
        ["lr must be"],
    ),
}


@pytest.mark.parametrize(("asked", "said"), TAKEN.values(), ids=TAKEN)
def test_a_configuration_as_w_and_b_documents_it_is_taken(asked, said):
    sweep = read_sweep(asked, experiment("sweep_1", "paper"))
    assert sweep.parameters.keys() == asked["parameters"].keys()
    assert len(sweep.notes) == bool(said)
    assert all(words in sweep.notes[0] for words in said)
    if "metric" not in asked:
        assert (sweep.metric, sweep.maximize) == ("validation_accuracy", True)


@pytest.mark.parametrize(("asked", "said"), REFUSED.values(), ids=REFUSED)
def test_all_that_is_wrong_with_a_configuration_is_said_at_once(asked, said, runs_dir):
    refused(lambda: search(asked, 2, profile="paper"), *said)
    assert not runs_dir.exists()
