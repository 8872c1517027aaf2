"""W&B's sweep configurations: what one means here, and all that is wrong with it. Needs no torch and no Optuna."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AnySet
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from statistics import NormalDist
from sys import float_info
from typing import Any

from deepnet.search.vocabulary import DEFAULTS, DISTRIBUTIONS, KEYS, METHODS, RANGE, WITHOUT_MEANING, hint
from deepnet.valid import shown
from experimentTable import EVAL_SPLIT, Experiment, UsageError, identity, is_supported, supporting_profiles

# Section 5.5; its text lists batches from 32 on, its table has 16 too.
REPORT_SWEEP = {
    "method": "bayes",
    "metric": {"name": "validation_accuracy", "goal": "maximize"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-2},
        "batch_size": {"values": [16, 32, 64, 128, 256]},
    },
}
TAIL = 1e-6  # of a normal distribution, cut off on both sides
FIXED = (  # what no search varies; the last three change nothing of what is trained
    "name", "kind", "chapter", "family", "trainable", "profile", "seed", "keep_weights", "final_test", "record_gradients",
)  # fmt: skip
FIELDS = sorted(Experiment.__dataclass_fields__.keys() - {*FIXED})


# ---------------------------------------------------------------- what a configuration means


@dataclass(frozen=True)
class Parameter:
    """What one parameter is drawn from: listed `choices`, or numbers from `low` to `high` on a `scale`, rounded to
    multiples of `q`.
    """

    scale: str
    choices: tuple = ()
    low: float = TAIL  # with a normal scale `low` and `high` are probabilities
    high: float = 1 - TAIL
    q: float | None = None
    mu: float = 0
    sigma: float = 1
    probabilities: tuple[float, ...] = ()

    def value(self, drawn: Any) -> Any:
        """The run's value for what a sampler drew."""
        if self.scale.endswith("normal"):
            drawn = NormalDist(self.mu, self.sigma).inv_cdf(drawn)
            drawn = math.exp(drawn) if self.scale == "log normal" else drawn
        if self.q is None:
            return drawn
        multiple = round(drawn / self.q) * self.q
        return multiple if isinstance(self.q, int) else float(f"{multiple:.12g}")

    def drawn(self, value: Any) -> Any:
        """The other way about: what a sampler would have drawn for the run's value."""
        if self.choices:
            return value
        if self.scale.endswith("normal"):
            value = NormalDist(self.mu, self.sigma).cdf(math.log(value) if self.scale == "log normal" else value)
        return min(max(value, self.low), self.high)

    @property
    def ends(self) -> tuple:
        """All listed values, or the least and the greatest of a range."""
        return self.choices or tuple(self.value(end) for end in (self.low, self.high))

    @property
    def grid(self) -> Sequence:
        """All values, none of them made before it is asked for; empty where they cannot be counted."""
        if self.scale == "whole" or (self.scale == "linear" and isinstance(self.q, int)):
            step = int(self.q or 1)
            return range(math.ceil(self.low / step) * step, math.floor(self.high) + 1, step)
        return self.choices


@dataclass(frozen=True)
class Sweep:
    """What a sweep configuration asks for. `notes`: what is to be said of it before it is begun."""

    method: str
    metric: str
    maximize: bool
    target: float | None
    run_cap: int | None
    parameters: dict[str, Parameter]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def size(self) -> float:
        """How many points a grid has; infinitely many are drawn otherwise."""
        return (
            math.prod(len(parameter.grid) for parameter in self.parameters.values())
            if self.method == "grid"
            else math.inf
        )

    def grid_point(self, number: int) -> dict:
        """The grid's point of this number, the last parameter varying fastest."""
        point = {}
        for name, parameter in reversed(self.parameters.items()):
            number, place = divmod(number, len(parameter.grid))
            point[name] = parameter.grid[place]
        return {name: point[name] for name in self.parameters}

    def reached(self, value: float) -> bool:
        """Whether a trial's score is as good as the target."""
        return self.target is not None and (value >= self.target if self.maximize else value <= self.target)


def read_sweep(
    config: Any, row: Experiment | None = None, meant: Mapping[str, Callable[[Any], Any]] | None = None
) -> Sweep:
    """What W&B's sweep configuration `config` means; with `row`, as a search that varies this experiment.

    `meant` has, for some parameters, a function from a value to what this machine makes of it, as of precision "auto".

    Raises UsageError for all that is wrong with it, in one message: what is unknown, missing or cannot be honoured, and
    with `row` what no run could have, would have without effect, or would have in common with another trial.

    >>> read_sweep(REPORT_SWEEP).parameters["batch_size"].choices
    (16, 32, 64, 128, 256)
    """
    if not isinstance(config := plain(config), dict):
        raise UsageError(f"the sweep configuration is {config!r:.60}; write a dict with method, metric and parameters")
    faults: list[str] = []
    specs = config.get("parameters")
    if not isinstance(specs, dict) or not specs:
        faults.append(
            f"'parameters' must be a dict of what to search, got {specs!r:.60}; choose from {', '.join(FIELDS)}"
        )
        specs = {}
    known = [*KEYS, *WITHOUT_MEANING]
    for key in config:
        if key not in known:
            faults.append(f"unknown key {key!r}{hint(key, known)}")
    method = config.get("method")
    if method not in METHODS:
        faults.append(
            f"'method' must be {', '.join(METHODS[:-1])} or {METHODS[-1]}, got {method!r}{hint(method, METHODS)}"
        )
    if config.get("early_terminate"):
        faults.append(
            "'early_terminate' cannot be honoured, every trial trains to its end; leave it out, or search 'patience'"
        )
    if (cap := config.get("run_cap")) is not None and (type(cap) is not int or cap < 1):
        faults.append(f"'run_cap' must be a whole number of at least 1, got {cap!r}")
    name, maximize, target, notes = _metric(config.get("metric"), method, faults)
    if fixed := [repr(key) for key in specs if key in FIXED]:
        faults.append(f"{', '.join(fixed)} cannot be searched; choose from {', '.join(FIELDS)}")
    if foreign := [f"{key!r}{hint(key, FIELDS)}" for key in specs if key not in (*FIELDS, *FIXED)]:
        faults.append(f"unknown parameter {', '.join(foreign)}; a run has {', '.join(FIELDS)}")
    found = {key: _parameter(key, spec, method, faults) for key, spec in specs.items() if key in FIELDS}
    parameters = {key: parameter for key, parameter in found.items() if parameter}
    if passed := [key for key in config if key in WITHOUT_MEANING]:
        notes.insert(0, f"without meaning here, and passed over: {', '.join(passed)}")
    if row:
        faults += dict.fromkeys(_trial_faults(row, parameters, name)) or _twins(parameters, meant or {})
    if faults:
        listed = (
            "; ".join(faults) if len(faults) == 1 else " ".join(f"({i}) {fault};" for i, fault in enumerate(faults, 1))
        )
        raise UsageError(f"the sweep configuration cannot be searched: {listed.rstrip(';')}")
    return Sweep(str(method), name, maximize, target, cap, parameters, tuple(notes))


def plain(value: Any) -> Any:
    """Mappings as dicts; lists, tuples, sets, ranges and arrays as lists; numpy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range | AnySet):
        return [plain(one) for one in (sorted(value, key=str) if isinstance(value, AnySet) else value)]
    return value.tolist() if hasattr(value, "tolist") else value


def _metric(metric: Any, method: Any, faults: list[str]) -> tuple[str, bool, float | None, list[str]]:
    """The metric's name, whether more of it is better, its target, and what is to be said."""
    if metric is None and method in ("random", "grid"):  # where W&B needs none
        metric = REPORT_SWEEP["metric"]
    if not isinstance(metric, dict):
        faults.append(f"'metric' must be a dict with name and goal, got {metric!r:.60}")
        return "", True, None, []
    faults += [
        f"unknown key {key!r} in 'metric'{hint(key, keys)}"
        for key in metric
        if key not in (keys := ("name", "goal", "target"))
    ]
    name, goal, target = metric.get("name"), metric.get("goal"), metric.get("target")
    if not isinstance(name, str):
        faults.append(f"'metric' must name what is sought by, got {name!r}")
        name = ""
    if goal not in (None, "maximize", "minimize"):
        faults.append(f"'goal' must be maximize or minimize, got {goal!r}{hint(goal, ('maximize', 'minimize'))}")
    if target is not None and not _is_number(target):
        faults.append(f"'target' must be a number, got {shown(target)}{_word(target)}")
    notes = [] if goal else [f"the metric {name} has no goal; as at W&B, it is minimized"]
    return name, goal == "maximize", target, notes


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= float_info.max  # a whole number may be beyond all floats


def _word(value: Any) -> str:
    """The remedy for a number that is a word, as YAML reads 1e-4."""
    try:
        return (
            f", a word; YAML reads a number without a point so, write {float(value):.1e}"
            if isinstance(value, str)
            else ""
        )
    except ValueError:
        return ""


def _parameter(name: str, spec: Any, method: Any, faults: list[str]) -> Parameter | None:
    """What is drawn for a parameter; None where `faults` has got what is wrong with it."""
    if not isinstance(spec, dict):
        remedy = f"{{'values': {spec!r:.60}}}" if isinstance(spec, list) else f"{{'value': {spec!r:.60}}}"
        faults.append(f"parameter {name!r} is {spec!r:.60}; write {remedy}")
        return None
    if "parameters" in spec:
        faults.append(
            f"parameter {name!r} holds nested parameters, which a run does not have; put those that it has at the top"
        )
        return None
    whole = all(type(spec.get(key)) is int for key in RANGE)
    usual = (
        "categorical" if "values" in spec else "constant" if "value" in spec else "int_uniform" if whole else "uniform"
    )  # as in W&B
    kind = spec.get("distribution", usual)
    if kind not in DISTRIBUTIONS:
        faults.append(
            f"unknown distribution {kind!r} of {name!r}{hint(kind, [*DISTRIBUTIONS])}; choose from {', '.join(DISTRIBUTIONS)}"
        )
        return None
    keys, scale = DISTRIBUTIONS[kind]
    wrong = [
        *(
            f"unknown key {key!r} in parameter {name!r} ({kind}){hint(key, keys)}"
            for key in spec
            if key not in (*keys, "distribution")
        ),
        *(f"parameter {name!r} ({kind}) lacks {key!r}" for key in keys if key not in spec and key not in DEFAULTS),
    ]
    if not wrong:
        given = {key: spec.get(key, DEFAULTS.get(key)) for key in keys}
        wrong = [*(_listed_faults if scale == "listed" else _number_faults)(name, kind, given)]
    if not wrong and given.get("probabilities") and method != "random":
        wrong = [f"'probabilities' of {name!r} are for method random alone; leave them out"]
    if wrong:
        faults += wrong
        return None
    if scale == "listed":
        parameter = Parameter(
            "listed",
            tuple(given.get("values", (given.get("value"),))),
            probabilities=tuple(given.get("probabilities", ())),
        )
    elif scale.endswith("normal"):
        parameter = Parameter(scale, q=given.get("q"), mu=given["mu"], sigma=given["sigma"])
    else:
        low, high = given["min"], given["max"]
        if scale.endswith("exponent"):
            low, high = (
                (math.exp(-high), math.exp(-low)) if scale.startswith("negative") else (math.exp(low), math.exp(high))
            )
            scale = "log"
        parameter = Parameter(scale, low=low, high=high, q=given.get("q"))
    if method == "grid" and not parameter.grid:
        faults.append(
            f"a grid needs 'values', 'value' or a range of whole numbers for {name!r}; list them, or use method bayes or random"
        )
    return parameter


def _listed_faults(name: str, kind: str, given: dict) -> Iterator[str]:
    values, odds = given.get("values", [given.get("value")]), given.get("probabilities")
    if not isinstance(values, list) or not values:
        yield f"values of parameter {name!r} must be a list of at least one, got {values!r:.60}"
        return
    seen = set()
    for value in values:
        if not isinstance(value, str | bool | int | float | None):  # JSON has no others
            yield f"parameter {name!r} has a value {value!r:.60}; write plain numbers or words"
        elif _word(value):
            yield f"parameter {name!r} has the value {value!r}{_word(value)}"
        elif value in seen:
            yield f"parameter {name!r} lists {value!r} twice"
        else:
            seen.add(value)
    if odds:
        if not isinstance(odds, list) or len(odds) != len(values) or not all(_is_number(p) and p >= 0 for p in odds):
            yield f"probabilities of {name!r} must be one number of at least 0 for each of its values, got {odds!r:.60}"
        elif abs(sum(odds) - 1) > 1e-6:
            yield f"probabilities of {name!r} must add up to 1, got {sum(odds):g}"


def _number_faults(name: str, kind: str, given: dict) -> Iterator[str]:
    wrong = False
    for key, value in given.items():
        if not _is_number(value) or (kind == "int_uniform" and type(value) is not int):
            wrong = True
            yield f"{key} of parameter {name!r} must be a {'whole ' * (kind == 'int_uniform')}number, got {shown(value)}{_word(value)}"
    if wrong:
        return
    if "min" in given and given["min"] > given["max"]:
        yield f"parameter {name!r} has the min {given['min']} above the max {given['max']}"
    if kind.endswith("log_uniform_values") and given["min"] <= 0:
        yield f"parameter {name!r} is drawn on a logarithmic scale; its min must be above 0, got {given['min']}"
    if kind.endswith("log_uniform") and max(map(abs, (given["min"], given["max"]))) > 700:
        yield f"min and max of parameter {name!r} ({kind}) are exponents of e; for the values themselves use {kind}_values"
    yield from (
        f"{key} of parameter {name!r} must be above 0, got {given[key]}"
        for key in ("q", "sigma")
        if given.get(key, 1) <= 0
    )


# ---------------------------------------------------------------- what a trial could be


def _trial_faults(row: Experiment, parameters: Mapping[str, Parameter], metric: str) -> Iterator[str]:
    """Why a trial of this search could not be run, would not be what it says, or its record would lack the metric.

    Tried is each listed value and both ends of a range, and each two of different parameters together (of numbers the
    least and the greatest), since what a run refuses is one value or two.
    """
    if row.kind != "training":
        yield f"{row.name} is no training but a {row.kind}; a search needs a training to vary"
        return
    if not is_supported(row):
        yield f"{row.name} has no budget in the profile {row.profile}; search it with profile {supporting_profiles(row)}"
        return
    # Of each parameter a value that this experiment can have, so that one that it cannot have hides no other.
    some = {
        name: next(([value] for value in one.ends if _runs(row, {name: value})), []) for name, one in parameters.items()
    }
    first = {name: values[0] for name, values in some.items() if values}
    alone = [{}, *({name: value} for name, parameter in parameters.items() for value in parameter.ends)]
    faults = [fault for values in alone for fault in _point_faults(row, first | values, metric)]
    if not faults:
        few = {name: _outermost(parameter.ends) for name, parameter in parameters.items()}
        pairs = ({a: x, b: y} for a, b in combinations(few, 2) for x, y in product(few[a], few[b]))
        faults = [fault for values in pairs for fault in _point_faults(row, first | values, metric)]
    yield from faults


def _twins(parameters: Mapping[str, Parameter], meant: Mapping[str, Callable[[Any], Any]]) -> Iterator[str]:
    """Listed values of one parameter with which the same would be trained twice."""
    for name in parameters.keys() & meant.keys():
        first: dict[Any, Any] = {}
        for value in parameters[name].choices:
            same = first.setdefault(meant[name](value), value)
            if same != value:
                yield f"{name} {same!r} and {value!r} are the same here, and the same would be trained twice; leave one of them out"


def _runs(row: Experiment, point: dict) -> bool:
    return not any(_point_faults(row, point, ""))


def _outermost(values: tuple) -> list:
    """All values but the numbers between the least and the greatest."""
    numbers = [value for value in values if type(value) in (int, float)]
    return [
        *(value for value in values if type(value) not in (int, float)),
        *({min(numbers), max(numbers)} if numbers else ()),
    ]


def _point_faults(row: Experiment, point: dict, metric: str) -> Iterator[str]:
    """What is wrong with the trial that has these values."""
    try:
        exp = replace(row, **point)
        fields = identity(exp)
    except UsageError as error:
        yield str(error)
        return
    for name, value in point.items():
        if fields[name] != value:
            yield f"{name!r} cannot be searched here, the profile {exp.profile} sets it to {fields[name]!r}; leave it out, or take another"
    metrics = [
        "train_loss",
        "train_accuracy",
        *(f"validation_{part}" for part in ("loss", "accuracy", "macro_accuracy")),
    ]
    metrics = metrics if EVAL_SPLIT[exp.dataset] == "validation" else metrics[:2]
    if metric and metric not in metrics:
        reason = (
            "is measured on the test set, by which nothing may be chosen"
            if metric.startswith("test_")
            else f"is in no row of {exp.dataset}"
        )
        yield f"the metric {metric!r}{hint(metric, metrics)} {reason}; choose from {', '.join(metrics)}"
