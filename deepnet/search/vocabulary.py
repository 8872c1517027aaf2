"""W&B's words for a sweep, and what others call what has another name here. Needs nothing of the project."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

METHODS = ("bayes", "random", "grid")
KEYS = ("method", "metric", "parameters", "run_cap", "early_terminate")
WITHOUT_MEANING = (
    "program", "command", "description", "project", "entity", "name", "controller", "job", "image_uri", "launch", "scheduler", "settings",
)  # fmt: skip
RANGE, BELL = ("min", "max"), ("mu", "sigma")
DISTRIBUTIONS = {  # W&B's, each with its keys and the scale that a sampler draws it on
    "constant": (("value",), "listed"),
    "categorical": (("values", "probabilities"), "listed"),
    "categorical_w_probabilities": (("values", "probabilities"), "listed"),
    "int_uniform": (RANGE, "whole"),
    "uniform": (RANGE, "linear"),
    "q_uniform": ((*RANGE, "q"), "linear"),
    "log_uniform": (RANGE, "exponent"),
    "q_log_uniform": ((*RANGE, "q"), "exponent"),
    "inv_log_uniform": (RANGE, "negative exponent"),
    "log_uniform_values": (RANGE, "log"),
    "q_log_uniform_values": ((*RANGE, "q"), "log"),
    "inv_log_uniform_values": (RANGE, "log"),  # the logarithm of 1/X is uniform where that of X is
    "normal": (BELL, "normal"),
    "q_normal": ((*BELL, "q"), "normal"),
    "log_normal": (BELL, "log normal"),
    "q_log_normal": ((*BELL, "q"), "log normal"),
}
DEFAULTS = {"mu": 0, "sigma": 1, "q": 1, "probabilities": ()}
WORDS = {  # how others call what has another name here
    "lr": "learning_rate learningrate init_lr initial_lr lr_init base_lr max_lr",
    "batch_size": "batch batchsize bs train_batch_size per_device_train_batch_size minibatch_size",
    "epochs": "epoch num_epochs n_epochs max_epochs num_train_epochs nepochs",
    "optimizer": "optim opt optimiser",
    "dropout": "drop dropout_rate dropout_p drop_rate p_dropout",
    "model": "model_name arch architecture net network backbone",
    "dataset": "data data_set dataset_name",
    "patience": "early_stopping early_stopping_patience es_patience",
    "min_delta": "delta threshold",
    "eps": "epsilon adam_epsilon",
    "initialisation": "init initialization weight_init",
    "start_from": "pretrained checkpoint init_from",
    "precision": "fp16 amp mixed_precision dtype",
    "validation_accuracy": "val_acc val_accuracy valid_acc valid_accuracy eval_acc eval_accuracy test_acc test_accuracy acc accuracy",
    "validation_loss": "val_loss valid_loss eval_loss test_loss",
    "validation_macro_accuracy": "test_macro_accuracy val_macro_accuracy balanced_accuracy",
    "train_loss": "loss training_loss epoch_loss",
    "train_accuracy": "train_acc training_accuracy training_acc",
}
MEANT = {word: name for name, words in WORDS.items() for word in words.split()}


def hint(word: Any, choices: Sequence[str]) -> str:
    """ " (did you mean 'lr'?)" where one of `choices` is near; else nothing."""
    key = re.sub(r"\W", "_", str(word)).lower()
    folded = {choice.lower(): choice for choice in choices}
    near = MEANT.get(key, key)
    found = folded.get(near.lower()) or next(
        iter(folded[name] for name in get_close_matches(near.lower(), folded, 1, 0.7)), None
    )
    return f" (did you mean {found!r}?)" if found else ""
