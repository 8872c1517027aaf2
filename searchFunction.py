"""The report's Bayesian search: one W&B sweep configuration; without a W&B server, Optuna draws from it.

Every trial is an ordinary run, named `<name>_<number>`: recorded, resumable, early-stopped, cached.
"""

import warnings
from dataclasses import replace
from typing import Any

from coreFunction import current_profile, run
from experimentTable import EXPERIMENTS, Experiment, UsageError, choose
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
    try:
        return makers[choose(f"distribution of {name}", kind, makers)]()
    except KeyError as error:
        raise UsageError(f"parameter {name!r} needs {error} for {kind!r}") from None


def space(config: dict) -> dict[str, Any]:
    """The configuration's parameters as Optuna distributions. Raises UsageError, by name, for what is unknown."""
    if unknown := sorted(set(config) - {"method", "metric", "parameters", "name"}):
        raise UsageError(f"unknown key {unknown[0]!r} in the sweep configuration; use method, metric, parameters and name")
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
    from optuna.samplers import GPSampler, GridSampler, RandomSampler
    from optuna.trial import TrialState

    profile = current_profile(profile)
    distributions = space(config)
    samplers = {
        "bayes": lambda: GPSampler(seed=seed, n_startup_trials=START_UP),
        "random": lambda: RandomSampler(seed=seed),
        "grid": lambda: GridSampler({key: spec["values"] for key, spec in config["parameters"].items()}, seed=seed),
    }
    sampler = samplers[choose("method", config["method"], samplers)]()
    goal = config["metric"]["goal"]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = runs_dir() / profile
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / f'{name}.sqlite'}", study_name=f"{name}-seed{seed}", load_if_exists=True,
        sampler=sampler, direction=goal,
    )  # fmt: skip

    def train(trial: Any) -> Record:
        exp = replace(EXPERIMENTS[base], name=f"{name}_{trial.number + 1}", profile=profile, seed=seed, **trial.params)
        record = run(exp)
        if record.finished:
            study.tell(trial.number, float(max(record.column(config["metric"]["name"], trained_only=True))))
        else:
            study.tell(trial.number, state=TrialState.FAIL)
        return record

    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
    for trial in begun[:count]:
        train(trial)
    while len(study.get_trials(deepcopy=False)) < count:
        train(study.ask(distributions))
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])[:count]
    best_first = sorted(trials, key=lambda trial: trial.value or 0.0, reverse=goal == "maximize")
    return [run(replace(EXPERIMENTS[base], name=f"{name}_{t.number + 1}", profile=profile, seed=seed, **t.params)) for t in best_first]
