"""The report's Bayesian search: one W&B sweep configuration; without a W&B server, Optuna draws from it.

Every trial is an ordinary run, named `<name>_<number>`: recorded, resumable, early-stopped, cached.
"""

import json
import warnings
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from coreFunction import run
from experimentTable import Experiment, UsageError, choose, current_profile, experiment
from recordFunction import Record, runs_dir

# Section 5.5; its text lists batches from 32 on, its table has 16 too.
REPORT_SWEEP = {
    "method": "bayes",
    "metric": {"name": "validation_accuracy", "goal": "maximize"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-2},
        "batch_size": {"values": [16, 32, 64, 128, 256]},
    },
}
START_UP = 4  # random trials first; GPSampler's default of 10 would leave a search of 12 with two Bayesian ones


def _distribution(name: str, spec: dict) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(spec, dict):
        raise UsageError(f"parameter {name!r} is {spec!r}; write {{'value': {spec!r}}}")
    if unknown := sorted(set(spec) - {"distribution", "min", "max", "values", "value"}):
        raise UsageError(f"parameter {name!r}: unknown key {unknown[0]!r}; use distribution, min, max, values or value")
    kind = spec.get("distribution", "categorical" if "values" in spec else "constant" if "value" in spec else "uniform")
    makers = {
        "log_uniform_values": lambda: FloatDistribution(spec["min"], spec["max"], log=True),
        "uniform": lambda: FloatDistribution(spec["min"], spec["max"]),
        "int_uniform": lambda: IntDistribution(spec["min"], spec["max"]),
        "categorical": lambda: CategoricalDistribution(spec["values"]),
        "constant": lambda: CategoricalDistribution([spec["value"]]),
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


def search(config: dict, count: int, *, base: str = "sweep_1", name: str = "search", profile: str = "", seed: int = 0) -> list[Record]:
    """Run `count` trials of the table's row `base` with values drawn from `config`; returns the finished ones' records, best first.

    Method `bayes` is a Gaussian process, `random` draws at random, `grid` takes every combination. The study is a database in the
    records folder: called again, a finished search trains nothing, and one that was cut off goes on, the unfinished trial first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook, tqdm's that a widget is missing, which nothing here draws
        import optuna
    from optuna.samplers import GPSampler, RandomSampler
    from optuna.trial import TrialState

    profile = current_profile(profile)
    row, distributions = experiment(base, profile, seed), space(config)
    method = choose("method", config["method"], ("bayes", "random", "grid"))
    sampler = GPSampler(seed=seed, n_startup_trials=START_UP) if method == "bayes" else RandomSampler(seed=seed)
    metric, goal = config["metric"].get("name"), choose("goal", config["metric"].get("goal"), ("maximize", "minimize"))
    if method == "grid" and (free := [key for key, drawn in distributions.items() if not hasattr(drawn, "choices")]):
        raise UsageError(f"a grid needs 'values' or 'value' for {free[0]!r}; list them, or use method bayes or random")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = runs_dir() / profile
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / f'{name}.sqlite'}", study_name=f"{name}-seed{seed}", load_if_exists=True,
        sampler=sampler, direction="maximize" if goal == "maximize" else "minimize",
    )  # fmt: skip
    asked = json.loads(json.dumps(config | {"base": base}))
    if study.user_attrs.get("asked", asked) != asked:
        raise UsageError(f"the search {name!r} was begun with another configuration; give this one another name")
    study.set_user_attr("asked", asked)
    if method == "grid":  # Optuna's own grid cannot be asked for one trial at a time
        grid = list(product(*(drawn.choices for drawn in distributions.values())))
        count = min(count, len(grid))
        for values in grid:
            study.enqueue_trial(dict(zip(distributions, values, strict=True)), skip_if_exists=True)

    def result(trial: Any) -> Record:
        return run(replace(row, name=f"{name}_{trial.number + 1}", **trial.params))

    def train(trial: Any) -> None:
        record = result(trial)
        if record.finished:
            choose("metric", metric, [key for key, value in record.rows[-1].items() if isinstance(value, float)])
            scores = record.column(metric, trained_only=True)
            study.tell(trial.number, float(np.nanmax(scores) if goal == "maximize" else np.nanmin(scores)))
        else:
            study.tell(trial.number, state=TrialState.FAIL)

    def trials(*states: Any) -> list:
        return study.get_trials(deepcopy=False, states=states)

    ended = TrialState.COMPLETE, TrialState.FAIL
    for trial in trials(TrialState.RUNNING)[:count]:
        train(trial)
    while len(trials(*ended)) < count:
        train(study.ask(distributions))
    best_first = sorted(trials(TrialState.COMPLETE)[:count], key=lambda trial: trial.value, reverse=goal == "maximize")
    return [result(trial) for trial in best_first]
