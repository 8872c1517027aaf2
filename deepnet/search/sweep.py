"""W&B's sweep configurations: reading one, and reporting everything that is wrong with it. Needs no torch or Optuna."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from statistics import NormalDist
from sys import float_info
from typing import Any

from deepnet.search.vocabulary import DEFAULTS, DISTRIBUTIONS, IGNORED, KEYS, METHODS, RANGE, hint
from deepnet.valid import shown
from experimentTable import EVAL_SPLIT, Experiment, UsageError, identity, is_supported, supporting_profiles

# Section 5.5. The report's text lists batch sizes from 32 on; its table has 16 too.
REPORT_SWEEP = {
    "method": "bayes",
    "metric": {"name": "validation_accuracy", "goal": "maximize"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-2},
        "batch_size": {"values": [16, 32, 64, 128, 256]},
    },
}
TAIL = 1e-6  # the probability that is cut off at either end of a normal distribution
FIXED = (  # the fields of an experiment that cannot be searched; the last three do not affect training
    "name", "kind", "chapter", "family", "trainable", "profile", "seed", "keep_weights", "final_test",
    "record_gradients",
)  # fmt: skip
FIELDS = sorted(Experiment.__dataclass_fields__.keys() - {*FIXED})


# ---------------------------------------------------------------- reading a configuration


@dataclass(frozen=True)
class Parameter:
    """What a parameter is drawn from: `choices`, or numbers from `low` to `high`, rounded to multiples of `q`.

    On a normal scale, `low` and `high` are probabilities, and `value` computes the quantiles.
    """

    scale: str
    choices: tuple = ()
    low: float = TAIL
    high: float = 1 - TAIL
    q: float | None = None
    mu: float = 0
    sigma: float = 1
    probabilities: tuple[float, ...] = ()

    def value(self, drawn: Any) -> Any:
        """The run's value for a sampler's draw."""
        if self.scale.endswith("normal"):
            drawn = NormalDist(self.mu, self.sigma).inv_cdf(drawn)
            drawn = math.exp(drawn) if self.scale == "log normal" else drawn
        if self.q is None:
            return drawn
        multiple = round(drawn / self.q) * self.q
        return multiple if isinstance(self.q, int) else float(f"{multiple:.12g}")

    def drawn(self, value: Any) -> Any:
        """The inverse of `value`: the sampler's draw that gives the run's value."""
        if self.choices:
            return value
        if self.scale.endswith("normal"):
            value = NormalDist(self.mu, self.sigma).cdf(math.log(value) if self.scale == "log normal" else value)
        return min(max(value, self.low), self.high)

    @property
    def ends(self) -> tuple:
        """All choices, or the ends of the range."""
        return self.choices or (self.value(self.low), self.value(self.high))

    @property
    def grid(self) -> Sequence:
        """All values, lazily; empty if they cannot be counted."""
        if self.scale == "integer" or (self.scale == "linear" and isinstance(self.q, int)):
            step = int(self.q or 1)
            return range(math.ceil(self.low / step) * step, math.floor(self.high) + 1, step)
        return self.choices


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep configuration. `notes` are printed once, when the search begins."""

    method: str
    metric: str
    maximize: bool
    target: float | None
    run_cap: int | None
    parameters: dict[str, Parameter]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def size(self) -> float:
        """The number of points of a grid; infinity for the other methods."""
        return math.prod(len(p.grid) for p in self.parameters.values()) if self.method == "grid" else math.inf

    def grid_point(self, number: int) -> dict:
        """The grid's point of this number; the last parameter varies fastest."""
        point = {}
        for name, parameter in reversed(self.parameters.items()):
            number, index = divmod(number, len(parameter.grid))
            point[name] = parameter.grid[index]
        return {name: point[name] for name in self.parameters}

    def reached(self, score: float) -> bool:
        """Whether a trial's score is as good as the target."""
        return self.target is not None and (score >= self.target if self.maximize else score <= self.target)


def plain(value: Any) -> Any:
    """Converts mappings to dicts; lists, tuples, sets, ranges and arrays to lists; and NumPy's numbers to Python's."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range | AbstractSet):
        return [plain(item) for item in (sorted(value, key=str) if isinstance(value, AbstractSet) else value)]
    return value.tolist() if hasattr(value, "tolist") else value


def read_sweep(
    config: Any, row: Experiment | None = None, resolved: Mapping[str, Callable[[Any], Any]] | None = None
) -> Sweep:
    """Read W&B's sweep configuration `config`, for a search that varies the experiment `row`.

    resolved: for some parameters, a function from a value to its meaning on this machine, for example of the precision
        "auto".

    Raises UsageError with everything that is wrong in one message: what is unknown, missing or not supported and, with
    `row`, values that no run can have, that have no effect, or that make two trials the same.

    >>> read_sweep(REPORT_SWEEP).parameters["batch_size"].choices
    (16, 32, 64, 128, 256)
    """
    config = plain(config)
    if not isinstance(config, dict):
        raise UsageError(f"the sweep configuration is {config!r:.60}; write a dict with method, metric and parameters")
    method, metric, specs = (config.get(key) for key in ("method", "metric", "parameters"))
    if metric is None and method in ("random", "grid"):  # W&B needs a metric for "bayes" only
        metric = {"name": "validation_accuracy", "goal": "maximize"}
    faults = [*_key_faults(config), *_metric_faults(metric)]
    metric = metric if isinstance(metric, dict) else {}
    parameters: dict[str, Parameter] = {}
    for name, spec in specs.items() if isinstance(specs, dict) else ():
        try:
            parameters |= {name: _parameter(name, spec, method)} if name in FIELDS else {}
        except UsageError as error:
            faults.append(str(error))
    name, maximize = metric.get("name"), metric.get("goal") == "maximize"
    if row:
        faults += dict.fromkeys(_trial_faults(row, parameters, name)) or _duplicates(parameters, resolved or {})
    if faults:
        numbered = faults if len(faults) == 1 else [f"({i}) {fault}" for i, fault in enumerate(faults, 1)]
        raise UsageError(f"the sweep configuration cannot be searched: {'; '.join(numbered)}")
    ignored = ", ".join(key for key in config if key in IGNORED)
    notes = [f"these keys have no meaning here and are ignored: {ignored}"] if ignored else []
    notes += [] if metric.get("goal") else [f"the metric {name} has no goal; as at W&B, it is minimized"]
    return Sweep(
        str(method), str(name), maximize, metric.get("target"), config.get("run_cap"), parameters, tuple(notes)
    )


# ---------------------------------------------------------------- the faults of a configuration


def _key_faults(config: dict) -> Iterator[str]:
    """The faults of all keys except `metric`, and of the parameters' names."""
    known = [*KEYS, *IGNORED]
    method, cap, specs = (config.get(key) for key in ("method", "run_cap", "parameters"))
    yield from (f"unknown key {key!r}{hint(key, known)}" for key in config if key not in known)
    if method not in METHODS:
        yield f"'method' must be bayes, random or grid, got {method!r}{hint(method, METHODS)}"
    if config.get("early_terminate"):
        yield "'early_terminate' is not supported, every trial trains to its end; leave it out, or search 'patience'"
    if cap is not None and (type(cap) is not int or cap < 1):
        yield f"'run_cap' must be a whole number of at least 1, got {cap!r}"
    if not isinstance(specs, dict) or not specs:
        yield f"'parameters' must be a dict of what to search, got {specs!r:.60}; choose from {', '.join(FIELDS)}"
        return
    if fixed := [repr(name) for name in specs if name in FIXED]:
        yield f"{', '.join(fixed)} cannot be searched; choose from {', '.join(FIELDS)}"
    if unknown := [f"{name!r}{hint(name, FIELDS)}" for name in specs if name not in (*FIELDS, *FIXED)]:
        yield f"unknown parameter {', '.join(unknown)}; a run has {', '.join(FIELDS)}"


def _metric_faults(metric: Any) -> Iterator[str]:
    if not isinstance(metric, dict):
        yield f"'metric' must be a dict with name and goal, got {metric!r:.60}"
        return
    keys, goals = ("name", "goal", "target"), ("maximize", "minimize")
    name, goal, target = map(metric.get, keys)
    yield from (f"unknown key {key!r} in 'metric'{hint(key, keys)}" for key in metric if key not in keys)
    if not isinstance(name, str):
        yield f"'metric' must have the name of a metric, got {name!r}"
    if goal not in (None, *goals):
        yield f"'goal' must be maximize or minimize, got {goal!r}{hint(goal, goals)}"
    if target is not None and not _is_number(target):
        yield f"'target' must be a number, got {shown(target)}{_yaml_hint(target)}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= float_info.max  # a whole number may exceed every float


def _yaml_hint(value: Any) -> str:
    """The remedy for a number that YAML reads as a string, such as 1e-4."""
    try:
        return f", a string; YAML needs a decimal point, write {float(value):.1e}" if isinstance(value, str) else ""
    except ValueError:
        return ""


def _require(good: Any, fault: str) -> None:
    if not good:
        raise UsageError(fault)


def _parameter(name: str, spec: Any, method: Any) -> Parameter:
    """Read one parameter's specification. Raises UsageError for one that W&B or the method does not support."""
    key = "values" if isinstance(spec, list) else "value"
    _require(isinstance(spec, dict), f"parameter {name!r} is {shown(spec)}; write {{{key!r}: {shown(spec)}}}")
    _require("parameters" not in spec, f"parameter {name!r} has nested parameters; a run's parameters have none")
    integers = all(type(spec.get(key)) is int for key in RANGE)
    kind = "categorical" if "values" in spec else "constant" if "value" in spec else "uniform"
    kind = spec.get("distribution", "int_uniform" if kind == "uniform" and integers else kind)  # as at W&B
    known = f"{hint(kind, [*DISTRIBUTIONS])}; choose from {', '.join(DISTRIBUTIONS)}"
    _require(kind in DISTRIBUTIONS, f"unknown distribution {kind!r} of {name!r}{known}")
    keys, scale = DISTRIBUTIONS[kind]
    faults = [f"has the unknown key {key!r}{hint(key, keys)}" for key in spec if key not in (*keys, "distribution")]
    faults += [f"lacks {key!r}" for key in keys if key not in spec and key not in DEFAULTS]
    _require(not faults, f"parameter {name!r} ({kind}) {' and '.join(faults)}")
    values = {key: spec.get(key, DEFAULTS.get(key)) for key in keys}
    parameter = _listed(name, values) if scale == "listed" else _range(name, kind, scale, values)
    _require(method == "random" or not parameter.probabilities, f"'probabilities' of {name!r} need the method random")
    grid = "a grid needs 'values', 'value' or a range of whole numbers"
    _require(method != "grid" or parameter.grid, f"{grid} for {name!r}; list them, or use method bayes or random")
    return parameter


def _listed(name: str, spec: dict) -> Parameter:
    values, probabilities = spec.get("values", [spec.get("value")]), spec.get("probabilities", ())
    least = f"values of parameter {name!r} must be a list of at least one, got {shown(values)}"
    _require(isinstance(values, list) and values, least)
    for value in values:
        plain_value = isinstance(value, str | bool | int | float | None)  # JSON has no others
        _require(plain_value, f"parameter {name!r} has a value {shown(value)}; write plain numbers or strings")
        _require(not _yaml_hint(value), f"parameter {name!r} has the value {shown(value)}{_yaml_hint(value)}")
    if probabilities:
        numbers = isinstance(probabilities, list) and all(_is_number(p) and p >= 0 for p in probabilities)
        fault = f"probabilities of {name!r} must be one number of at least 0 per value and add up to 1"
        sums = numbers and len(probabilities) == len(values) and abs(sum(probabilities) - 1) < 1e-6
        _require(sums, f"{fault}, got {shown(probabilities)}")
    return Parameter("listed", tuple(values), probabilities=tuple(probabilities))


def _range(name: str, kind: str, scale: str, spec: dict) -> Parameter:
    number, types = ("a whole number", (int,)) if kind == "int_uniform" else ("a number", (int, float))
    wrong = {key: value for key, value in spec.items() if type(value) not in types or not _is_number(value)}
    faults = [
        f"{key} of parameter {name!r} must be {number}, got {shown(v)}{_yaml_hint(v)}" for key, v in wrong.items()
    ]
    _require(not faults, "; ".join(faults))
    for key in {"q", "sigma"} & spec.keys():
        _require(spec[key] > 0, f"{key} of parameter {name!r} must be above 0, got {spec[key]}")
    if scale.endswith("normal"):
        return Parameter(scale, **spec)
    low, high = spec["min"], spec["max"]
    _require(low <= high, f"parameter {name!r} has the min {low} above the max {high}")
    logarithmic = f"parameter {name!r} is drawn on a logarithmic scale; its min must be above 0, got {low}"
    _require(scale != "log" or low > 0, logarithmic)
    if scale.endswith("exponent"):
        exponents = f"min and max of parameter {name!r} ({kind}) are exponents of e; for the values use {kind}_values"
        _require(max(abs(low), abs(high)) <= 700, exponents)
        low, high = (-high, -low) if scale.startswith("negative") else (low, high)
        scale, low, high = "log", math.exp(low), math.exp(high)
    return Parameter(scale, low=low, high=high, q=spec.get("q"))


# ---------------------------------------------------------------- the faults of its trials


def _trial_faults(row: Experiment, parameters: Mapping[str, Parameter], metric: Any) -> Iterator[str]:
    """Why some trial could not be run, would not have its values, or would lack the metric.

    A run refuses a single value or a pair of values. So each choice and both ends of each range are tried alone, then
    each pair of two parameters' values, of which for numbers the smallest and the largest suffice.
    """
    if row.kind != "training":
        yield f"{row.name} trains no model: its kind is {row.kind}; a search needs a training run to vary"
        return
    if not is_supported(row):
        yield f"{row.name} has no budget in the profile {row.profile}; choose profile {supporting_profiles(row)}"
        return
    # The other parameters have a valid value meanwhile, so that one fault neither hides nor causes another.
    usable = {
        name: [value for value in parameter.ends if not any(_point_faults(row, {name: value}, None))]
        for name, parameter in parameters.items()
    }
    rest = {name: values[0] for name, values in usable.items() if values}
    alone = [{}, *({name: value} for name, parameter in parameters.items() for value in parameter.ends)]
    few = {name: _extremes(parameter.ends) for name, parameter in parameters.items()}
    pairs = ({a: x, b: y} for a, b in combinations(few, 2) for x, y in product(few[a], few[b]))
    for point in (*alone, *pairs):
        yield from _point_faults(row, rest | point, metric)


def _extremes(values: tuple) -> list:
    """The values, with only the smallest and the largest of numbers."""
    numbers = [value for value in values if type(value) in (int, float)]
    return [value for value in values if type(value) not in (int, float) or value in (min(numbers), max(numbers))]


def _point_faults(row: Experiment, point: dict, metric: Any) -> Iterator[str]:
    """The faults of the trial with these values."""
    try:
        exp = replace(row, **point)
        fields = identity(exp)
    except UsageError as error:
        yield str(error)
        return
    for name in [name for name, value in point.items() if fields[name] != value]:
        here = f"here, the profile {exp.profile} sets it to {fields[name]!r}"
        yield f"{name!r} cannot be searched {here}; leave it out, or choose another profile"
    parts = ("loss", "accuracy", "macro_accuracy") if EVAL_SPLIT[exp.dataset] == "validation" else ()
    metrics = ["train_loss", "train_accuracy", *(f"validation_{part}" for part in parts)]
    if isinstance(metric, str) and metric not in metrics:
        reason = f"is in no row of {exp.dataset}"
        if metric.startswith("test_"):
            reason = "is measured on the test set, which must not decide a choice"
        yield f"the metric {metric!r}{hint(metric, metrics)} {reason}; choose from {', '.join(metrics)}"


def _duplicates(parameters: Mapping[str, Parameter], resolved: Mapping[str, Callable[[Any], Any]]) -> Iterator[str]:
    """Choices of one parameter that have the same meaning, so that the same run would be trained twice."""
    for name, parameter in parameters.items():
        meanings = [resolved[name](value) if name in resolved else value for value in parameter.choices]
        for i, value in enumerate(parameter.choices):
            first = meanings.index(meanings[i])
            if first < i:
                twice = f"{name} {shown(parameter.choices[first])} and {shown(value)} are the same here"
                yield f"{twice}, so the same run would be trained twice; leave one of them out"
