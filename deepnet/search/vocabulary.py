"""The keys of a W&B sweep configuration, and common synonyms of our field names."""

import re
from collections.abc import Sequence
from typing import Any

from deepnet.valid import did_you_mean

METHODS = ("bayes", "random", "grid")
KEYS = ("method", "metric", "parameters", "run_cap", "early_terminate")
IGNORED = (  # W&B's keys that have no meaning here
    "program", "command", "description", "project", "entity", "name", "controller", "job", "image_uri", "launch",
    "scheduler", "settings",
)  # fmt: skip
RANGE, NORMAL = ("min", "max"), ("mu", "sigma")
DISTRIBUTIONS = {  # W&B's, each with its keys and the scale on which a sampler draws from it
    "constant": (("value",), "listed"),
    "categorical": (("values", "probabilities"), "listed"),
    "categorical_w_probabilities": (("values", "probabilities"), "listed"),
    "int_uniform": (RANGE, "integer"),
    "uniform": (RANGE, "linear"),
    "q_uniform": ((*RANGE, "q"), "linear"),
    "log_uniform": (RANGE, "exponent"),
    "q_log_uniform": ((*RANGE, "q"), "exponent"),
    "inv_log_uniform": (RANGE, "negative exponent"),
    "log_uniform_values": (RANGE, "log"),
    "q_log_uniform_values": ((*RANGE, "q"), "log"),
    "inv_log_uniform_values": (RANGE, "log"),  # log(1/X) is uniform if log(X) is
    "normal": (NORMAL, "normal"),
    "q_normal": ((*NORMAL, "q"), "normal"),
    "log_normal": (NORMAL, "log normal"),
    "q_log_normal": ((*NORMAL, "q"), "log normal"),
}
DEFAULTS = {"mu": 0, "sigma": 1, "q": 1, "probabilities": ()}
SYNONYMS = {  # our name -> names used elsewhere
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
    "validation_accuracy": "acc accuracy val_acc val_accuracy valid_acc eval_acc eval_accuracy test_acc test_accuracy",
    "validation_loss": "val_loss valid_loss eval_loss test_loss",
    "validation_macro_accuracy": "test_macro_accuracy val_macro_accuracy balanced_accuracy",
    "train_loss": "loss training_loss epoch_loss",
    "train_accuracy": "train_acc training_accuracy training_acc",
}
OUR_NAME = {word: name for name, words in SYNONYMS.items() for word in words.split()}


def hint(word: Any, choices: Sequence[str]) -> str:
    """A hint such as " (did you mean lr?)" if one of `choices` is close to `word` or a synonym of it; else empty."""
    key = re.sub(r"\W", "_", str(word)).lower()
    meant = did_you_mean(OUR_NAME.get(key, key), choices).rstrip()
    return f" ({meant})" if meant else ""
