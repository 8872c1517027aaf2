"""W&B's sweeps: what the configuration of one means to Optuna, and W&B's own, whose agent gives out the trials' values.

wandb's `sweep-scheduler` can let Optuna suggest a sweep's runs too. It is not used: it asks W&B's server for the sweep and for
every run, so it does nothing offline, its study must not outlive its process, and only one process may drive a sweep.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np

from deepnet.text import counted
from experimentTable import PROJECT, Experiment, UsageError, choose, experiment, has_budget, identity, with_budget
from myModel import MODELS
from recordFunction import Record, runs_dir
from utilityFunction import quiet_imports
from wandbFunction import complaint

# Section 5.5; its text lists batches from 32 on, its table has 16 too.
REPORT_SWEEP = {
    "method": "bayes",
    "metric": {"name": "validation_accuracy", "goal": "maximize"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-2},
        "batch_size": {"values": [16, 32, 64, 128, 256]},
    },
}
DISTRIBUTIONS = {  # W&B's, and the keys that say one
    "log_uniform_values": ("min", "max"), "uniform": ("min", "max"), "int_uniform": ("min", "max"),
    "categorical": ("values",), "constant": ("value",),
}  # fmt: skip
FIXED = {"name", "kind", "chapter", "family", "trainable", "profile", "seed", "keep_weights", "final_test"}  # fields that no search varies
FIELDS = sorted(Experiment.__dataclass_fields__.keys() - FIXED)
EDGE = 0.05  # a share of a searched range, on its own scale


# ---------------------------------------------------------------- what a configuration means


def space(config: Any) -> dict[str, Any]:
    """The configuration's parameters as Optuna distributions. Raises UsageError, by name, for what is unknown, missing or wrong."""
    _check_keys("the sweep configuration", config, ("method", "metric", "parameters"), ("name",))
    choose("method", config["method"], ("bayes", "random", "grid"))
    _check_keys("metric", config["metric"], ("name", "goal"))
    choose("goal", config["metric"]["goal"], ("maximize", "minimize"))
    _check_keys("parameters", config["parameters"], (), FIELDS)
    if not config["parameters"]:
        raise UsageError(f"there are no parameters to search; choose from {', '.join(FIELDS)}")
    return {name: _distribution(name, spec) for name, spec in config["parameters"].items()}


def _check_keys(what: str, given: Any, needed: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Raise UsageError where `given` is no dict, has another key, or lacks a needed one."""
    keys = [*needed, *optional]
    if not isinstance(given, dict):
        raise UsageError(f"{what} is {given!r}; write a dict, with {', '.join(keys)}")
    if unknown := [key for key in given if key not in keys]:
        raise UsageError(f"unknown key {unknown[0]!r} in {what}; use {', '.join(keys)}")
    if missing := [key for key in needed if key not in given]:
        raise UsageError(f"{what} lacks {missing[0]!r}; REPORT_SWEEP is one to start from")


def _distribution(name: str, spec: Any) -> Any:
    with quiet_imports():
        from optuna import distributions as kinds
    what = f"parameter {name!r}"
    _check_keys(what, spec, (), ("distribution", "min", "max", "values", "value"))
    whole = all(type(spec.get(key)) is int for key in ("min", "max"))
    usual = "categorical" if "values" in spec else "constant" if "value" in spec else "int_uniform" if whole else "uniform"  # as in W&B
    kind = choose(f"distribution of {name}", spec.get("distribution", usual), DISTRIBUTIONS)
    _check_keys(f"{what} ({kind})", spec, DISTRIBUTIONS[kind], ("distribution",))
    if "min" not in spec:
        values = spec["values"] if kind == "categorical" else [spec["value"]]
        if not isinstance(values, list | tuple) or not values:
            raise UsageError(f"values of {what} must be a list of at least one, got {values!r}")
        for at, value in enumerate(values):
            if not isinstance(value, str | bool | int | float | None):  # JSON has no others
                raise UsageError(f"{what} has a value {value!r}; write a plain number or word")
            if value in values[:at]:
                raise UsageError(f"{what} lists {value!r} twice")
        return kinds.CategoricalDistribution(values)
    number = (int,) if kind == "int_uniform" else (int, float)
    for key in ("min", "max"):
        if isinstance(spec[key], bool) or not isinstance(spec[key], number) or not math.isfinite(spec[key]):
            raise UsageError(f"{key} of {what} must be a {'whole ' * (kind == 'int_uniform')}number, got {spec[key]!r}")
    try:
        make = kinds.IntDistribution if kind == "int_uniform" else kinds.FloatDistribution
        return make(spec["min"], spec["max"], log=kind == "log_uniform_values")
    except ValueError as error:
        raise UsageError(f"{what} cannot be drawn from {spec}: {error}") from None


def check_trials(row: Experiment, config: Mapping, distributions: Mapping) -> None:
    """Raise UsageError where a trial of this search could not be run, or its record would lack the metric.

    Tried are each listed value and both ends of a range, every two together, since what a run refuses is one value or two.
    """
    if row.kind != "training":
        raise UsageError(f"{row.name} is no training but a {row.kind}; a search needs a training to vary")
    if not has_budget(row):
        raise UsageError(f"{row.name} has no budget in the profile {row.profile}; search it with profile {with_budget(row)}")
    ends = {name: getattr(drawn, "choices", None) or (drawn.low, drawn.high) for name, drawn in distributions.items()}
    first = {name: values[0] for name, values in ends.items()}
    for (one, ones), (other, others) in combinations([*ends.items(), ("seed", (row.seed,))], 2):
        for values in product(ones, others):
            _check_trial(replace(row, **first | dict(zip((one, other), values, strict=True))), config["metric"]["name"])


def _check_trial(exp: Experiment, metric: Any) -> None:
    identity(exp)
    choose("model", exp.model, MODELS)
    if exp.start_from is not None and experiment(exp.start_from).kind != "training":
        raise UsageError(f"no run can start from {exp.start_from}, which is no training")
    split = "validation" if exp.dataset == "cifar100" else "test"
    choose("metric", metric, ["train_loss", "train_accuracy", *(f"{split}_{part}" for part in ("loss", "accuracy", "macro_accuracy"))])


# ---------------------------------------------------------------- what came of it


def score(record: Record, metric: Mapping) -> float:
    """The trial's best value of the metric over its epochs."""
    values = record.column(metric["name"], trained_only=True)
    return float(np.nanmax(values) if metric["goal"] == "maximize" else np.nanmin(values))


def said_best(config: Mapping, records: Sequence[Record]) -> str:
    """Which of a search's trials is best, its values, and where each lies in its range.

    An edge is the outermost 5 % of a range, on its own scale, or the least or the greatest of listed numbers.
    """
    scores = [score(record, config["metric"]) for record in records]
    best = max(scores) if config["metric"]["goal"] == "maximize" else min(scores)
    first, *others = [record for record, own in zip(records, scores, strict=True) if own == best]
    equals = f" (as good: {', '.join(record.name for record in others)})" if others else ""
    point = said_point(config, best, first.settings["experiment"])
    return f"of {counted(len(records), 'trial')} {first.name} is best{equals}, {point}"


def said_point(config: Mapping, best: float, values: Mapping) -> str:
    """A trial's score and values, as "validation accuracy 0.5, learning rate 0.002 (inside 1e-06 to 0.01)"."""
    metric = config["metric"]["name"].replace("_", " ")
    words = {name: name.replace("_", " ") for name in config["parameters"]} | {"lr": "learning rate"}
    return ", ".join(
        [f"{metric} {best:.4g}", *(f"{words[name]} {_place(spec, values[name])}" for name, spec in config["parameters"].items())]
    )


def _place(spec: Mapping, value: Any) -> str:
    """A value, and where it lies in the range or among the numbers that it was drawn from."""
    listed = spec.get("values", [spec.get("value")])
    if "min" not in spec and (len(listed) == 1 or not all(type(one) in (int, float) for one in listed)):
        return str(value)
    low, high = (spec["min"], spec["max"]) if "min" in spec else (min(listed), max(listed))
    scale = math.log if spec.get("distribution") == "log_uniform_values" else float
    share = (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5
    edge = "at the lower edge of" if share <= EDGE else "at the upper edge of" if share >= 1 - EDGE else "inside"
    return f"{value if isinstance(value, int) else format(value, '.3g')} ({edge} {low:g} to {high:g})"


# ---------------------------------------------------------------- at W&B


def begin_sweep(config: dict, name: str) -> str:
    """Have W&B make a sweep of this configuration; returns its id. Raises UsageError where it does not."""
    import wandb

    try:
        return wandb.sweep({"name": name} | config, project=PROJECT)
    except Exception as error:  # of many kinds
        raise UsageError(f"W&B makes no sweep ({complaint(error)}); with WANDB_MODE=offline the search needs none") from None


def with_agent(sweep: str, trial: Callable[[], None]) -> None:
    """Have an agent of W&B's ask the sweep for one trial, and call `trial` in the surroundings in which wandb.init begins its run.

    One trial an agent, since other processes may have taken the last one meanwhile. Raises what `trial` does, and UsageError
    where the sweep gives no trial, or the agent was stopped: by Ctrl-C, which it keeps to itself, or on the sweep's page.
    """
    import wandb

    outcome: list[BaseException | None] = []

    def call() -> None:
        try:
            trial()
            outcome.append(None)
        except BaseException as error:  # the agent would print it, and count it as a trial
            outcome.append(error)

    os.environ.setdefault("WANDB_DIR", str(runs_dir().resolve()))  # where the agent writes the values; else the current folder
    try:
        wandb.agent(sweep, call, project=PROJECT, count=1)
        error = outcome[0] if outcome else UsageError(f"W&B's sweep {sweep} gives no more trials; it has ended or was stopped")
    except Exception as refused:
        error = refused
    if isinstance(error, wandb.Error):
        raise UsageError(f"W&B: {complaint(error)}; the same call goes on, with WANDB_MODE=offline without W&B") from None
    if type(error) is Exception:  # with which the agent stops a trial
        raise UsageError("W&B's agent was stopped; the same call goes on from here") from None
    if error:
        raise error
