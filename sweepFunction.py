"""W&B's sweeps: what the configuration of one means to Optuna, and W&B's own, whose agent gives out the trials' values.

wandb's `sweep-scheduler` can let Optuna suggest a sweep's runs too. It is not used: it asks W&B's server for the sweep and for
every run, so it does nothing offline, its study must not outlive its process, and only one process may drive a sweep.
"""

import os
from collections.abc import Callable
from typing import Any

from experimentTable import PROJECT, Experiment, UsageError, choose
from recordFunction import runs_dir
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


def _distribution(name: str, spec: dict) -> Any:
    with quiet_imports():
        from optuna import distributions as kinds
    if not isinstance(spec, dict):
        raise UsageError(f"parameter {name!r} is {spec!r}; write {{'value': {spec!r}}}")
    if unknown := sorted(set(spec) - {"distribution", "min", "max", "values", "value"}):
        raise UsageError(f"parameter {name!r}: unknown key {unknown[0]!r}; use distribution, min, max, values or value")
    kind = spec.get("distribution", "categorical" if "values" in spec else "constant" if "value" in spec else "uniform")
    makers = {
        "log_uniform_values": lambda: kinds.FloatDistribution(spec["min"], spec["max"], log=True),
        "uniform": lambda: kinds.FloatDistribution(spec["min"], spec["max"]),
        "int_uniform": lambda: kinds.IntDistribution(spec["min"], spec["max"]),
        "categorical": lambda: kinds.CategoricalDistribution(spec["values"]),
        "constant": lambda: kinds.CategoricalDistribution([spec["value"]]),
    }
    make = makers[choose(f"distribution of {name}", kind, makers)]
    try:
        return make()
    except KeyError as error:
        raise UsageError(f"parameter {name!r} needs {error} for {kind!r}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"parameter {name!r} cannot be drawn from {spec}: {error}") from None


def space(config: dict) -> dict[str, Any]:
    """The configuration's parameters as Optuna distributions. Raises UsageError, by name, for what is unknown."""
    if unknown := sorted(set(config) - {"method", "metric", "parameters", "name"}):
        raise UsageError(f"unknown key {unknown[0]!r} in the sweep configuration; use method, metric, parameters and name")
    if missing := [key for key in ("method", "metric", "parameters") if not config.get(key)]:
        raise UsageError(f"the sweep configuration lacks {missing[0]!r}; REPORT_SWEEP is one to start from")
    fields = set(Experiment.__dataclass_fields__) - {"name", "profile", "seed"}
    for name in config["parameters"]:
        choose("parameter", name, sorted(fields))
    return {name: _distribution(name, spec) for name, spec in config["parameters"].items()}


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
