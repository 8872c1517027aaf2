"""Validation of an experiment's fields, singly and together. Imports nothing from the project, and no torch."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Set
from difflib import get_close_matches
from math import inf
from numbers import Integral, Real
from typing import Any

NAME = r"\w[\w.-]*"  # of a run, and of its folder
LONGEST_NAME = 200  # bytes; file systems allow 255, and files next to the folder have longer names
# reserved by Windows, with any suffix
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}
OWN = "own"  # the data set and the profile of a reader's own model and data
EVAL_SPLIT = {"mnist": "test", "cifar10": "test", "cifar100": "validation"}  # the part that a run is evaluated on
ANALYSES = {  # kind -> the fields that have an effect on it
    "baseline": ("dataset", "chapter", "model", "start_from", "initialisation", "precision", "final_test", "defects"),
    "distribution": ("dataset",),
    "tsne": ("dataset",),
    "timing": ("dataset", "lr", "optimizer", "eps", "momentum", "batch_size", "defects"),
}
DEFECTS = {  # a defect of the original program -> the kind of run that can repeat it
    "moving_statistics": "training",  # batch normalization in frozen layers keeps updating its statistics
    "unscaled": "baseline",  # the classifiers' features are not standardized
    "untuned": "baseline",  # the classifiers' C is scikit-learn's default of 1
    "whole_epochs": "timing",  # the start of workers, a norm read per parameter and the evaluation are timed too
}
CHILDREN = {  # the models' children with weights, the head last; "MLP" stands for MLP_4, MLP_res_5, ...
    "MLP": ("blocks", "last"),
    "CNN": ("features", "head"),
    "resnet18": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"),
}


# ---------------------------------------------------------------- one value: (field, value) -> plain Python


class UsageError(ValueError):
    """A mistake that the user can correct; the message says in one line what is wrong and what to do."""


class RunLockedError(UsageError):
    """Another process holds this run's lock."""


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """The choice that `value` is probably a misspelling of, as "did you mean MLP_33? "; empty if none is close.

    >>> did_you_mean("adam", ["Adam", "SGD"])
    'did you mean Adam? '
    """
    spelled = {choice.lower(): choice for choice in choices}
    close = get_close_matches(str(value).lower(), spelled, n=1)
    return f"did you mean {spelled[close[0]]}? " if close else ""


def choose(kind: str, value: object, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`; else raise UsageError with the closest choice and all of them.

    >>> choose("optimizer", "SGD", ["Adam", "SGD"])
    'SGD'
    """
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        listed = " or ".join(filter(None, [", ".join(choices[:-1]), *choices[-1:]])) or "nothing, there is none"
        raise UsageError(f"unknown {kind} {value!r}; {did_you_mean(value, choices)}choose {listed}")
    return str(value)


def folder_name(field: str, value: Any) -> str:
    good = isinstance(value, str) and re.fullmatch(NAME, value)
    if not good or value.endswith(".") or value.partition(".")[0].upper() in RESERVED:
        raise UsageError(
            f"{field} {value!r} cannot name a folder on every system; use letters, digits, '_', '-' and '.'"
        )
    if len(value.encode()) > LONGEST_NAME:
        raise UsageError(
            f"{field} {value[:20]!r}... is too long for a folder ({len(value):,} letters); give at most {LONGEST_NAME}"
        )
    return str(value)


def word(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{field} must be a string, got {value!r}")
    return str(value)


def shown(value: Any) -> str:
    """A value for a message, shortened if it is long; Python prints no whole number of more than 4,300 digits."""
    try:
        return repr(value) if len(repr(value)) <= 60 else f"{value!r:.60}..."
    except ValueError:
        return "a number of thousands of digits"


def whole(field: str, value: Any, least: int, below: float = inf) -> int:
    try:
        index = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        index = None
    if index is None or not least <= index < below:
        most = f" and below {below}" if below < inf else ""
        raise UsageError(f"{field} must be a whole number of at least {least}{most}, got {shown(value)}")
    return index


def number(field: str, value: Any, below: float = inf) -> float:
    try:
        good = isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < inf
    except OverflowError:
        raise UsageError(f"{field} is beyond all floating-point numbers, got {shown(value)}") from None
    if not good:
        raise UsageError(f"{field} must be a number of at least 0, got {shown(value)}")
    if float(value) >= below:
        raise UsageError(f"{field} must lie in [0, {below}), got {value!r}")
    return float(value)


def truth(field: str, value: Any) -> bool:
    if type(value).__name__ != "bool":  # NumPy's is called so too
        raise UsageError(f"{field} must be True or False, got {shown(value)}")
    return bool(value)


def _is_several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def names(field: str, value: Any) -> tuple[str, ...]:
    items = list(value) if _is_several(value) else []
    if not _is_several(value) or not all(isinstance(name, str) for name in items):
        raise UsageError(f"{field} must be a sequence of children's names, such as ('fc',), not {value!r}")
    if not items:
        raise UsageError(
            f"nothing in the model can be trained: {field} is empty; name some of its children, or leave it out"
        )
    # a set has no order of its own
    return tuple(dict.fromkeys(map(str, sorted(items) if isinstance(value, Set) else items)))


def one_of(*choices: Any) -> Callable[[str, Any], Any]:
    """One of these strings or whole numbers; the message does not offer "" and "own", which are for internal use."""
    spelled = {str(choice): choice for choice in choices}
    named = [choice for choice in spelled if choice not in ("", OWN)]

    def check(field: str, value: Any) -> Any:
        text = str(value) if isinstance(value, Integral | str) and not isinstance(value, bool) else value
        return spelled[
            str(text)
            if isinstance(text, str) and text in spelled
            else choose(field.replace("set", " set"), text, named)
        ]

    return check


def some_of(*choices: str) -> Callable[[str, Any], tuple[str, ...]]:
    """A sequence of any of these strings, returned in this order without repetitions."""

    def check(field: str, value: Any) -> tuple[str, ...]:
        if not _is_several(value):
            raise UsageError(f"{field} must be a sequence of names, such as ({choices[0]!r},), not {value!r}")
        chosen = [choose(field, name, choices) for name in value]
        return tuple(name for name in choices if name in chosen)

    return check


def optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda field, value: None if value is None else check(field, value)


# ---------------------------------------------------------------- the fields of a row together


def row_named(name: Any, table: Mapping[str, Any]) -> Any:
    """The table's row of that name. Raises UsageError for an unknown one."""
    if not isinstance(name, str) or name not in table:
        raise UsageError(f"unknown experiment {name!r}; {did_you_mean(name, table)}`python run.py list` shows them all")
    return table[name]


def ancestors(exp: Any, table: Mapping[str, Any]) -> list[Any]:
    """The rows that have to be trained before `exp`: its parent, its parent's parent, ...

    Raises UsageError for a parent that is unknown or trains no model, and if a row would start from itself.

    >>> [row.name for row in ancestors(EXPERIMENTS["fine_tune_2"], EXPERIMENTS)]
    ['fine_tune_1', 'train_resnet']
    """
    found: list[Any] = []
    row = exp
    while row.start_from is not None:
        parent = row_named(row.start_from, table)
        if parent.kind != "training":
            raise UsageError(f"no run can start from {parent.name}, which trains no model: its kind is {parent.kind}")
        if parent.name in (exp.name, *(before.name for before in found)):
            raise UsageError(f"{exp.name} would start from itself, through {row.name}; name another run in start_from")
        found.append(parent)
        row = parent
    return found


def resolved_fields(exp: Any, table: Mapping[str, Any], builders: Iterable[str]) -> dict[str, Any]:
    """The fields of `exp` that follow from others: the parent's model, the order of `trainable`, and in an analysis
    those without effect.

    Raises UsageError if a field would have no effect together with the others, and for an impossible parent.
    """
    rows = table.values()
    decided: dict[str, Any] = {}
    if exp.kind in ANALYSES:
        choose(
            f"data set of a {exp.kind}", exp.dataset, dict.fromkeys(row.dataset for row in rows if row.kind == exp.kind)
        )
        for field, value in vars(exp).items():
            usual = [getattr(row, field) for row in rows if (row.kind, row.dataset) == (exp.kind, exp.dataset)]
            if field in ("name", "profile", "seed", "family", *ANALYSES[exp.kind]) or value in usual:
                continue
            if value:
                raise UsageError(f"{field}={value!r} has no effect on a {exp.kind}; leave it out, or at {usual[0]!r}")
            decided[field] = usual[0]
    model = exp.model
    if parents := ancestors(exp, table):
        model, start = parents[0].model, f"{exp.name} starts from {exp.start_from}"
        if exp.model not in ("", model):
            raise UsageError(f"model={exp.model!r} has no effect: {start}, a {model}; leave it out")
        if exp.initialisation != "default":
            raise UsageError(f"initialisation={exp.initialisation!r} has no effect: {start}; leave it out")
    models = dict.fromkeys(row.model for row in rows if row.model)
    if exp.kind in ("training", "baseline"):
        choose("model", model, models | dict.fromkeys(builders))
    if exp.kind == "baseline" and exp.precision == "fp64":
        raise UsageError("a baseline's features are not computed in fp64; choose auto, fp32 or bf16")
    if exp.kind == "training" and EVAL_SPLIT[exp.dataset] == "test":
        if exp.patience:
            raise UsageError(
                f"patience would choose the epoch of {exp.name} on the test set of {exp.dataset}; leave it out, "
                "or train on cifar100, which has a validation set"
            )
        if exp.final_test:
            raise UsageError(
                f"final_test has no effect: {exp.name} is evaluated on its test set in each epoch; leave it out"
            )
    for defect in exp.defects:
        if exp.kind != DEFECTS[defect]:
            raise UsageError(f"the defect {defect} has no effect on a {exp.kind}; leave it out")
    normalized = {*CHILDREN["resnet18"]} - {"conv1", "fc"}  # the children with batch normalization
    if "moving_statistics" in exp.defects and (model != "resnet18" or normalized <= {*(exp.trainable or normalized)}):
        raise UsageError("moving_statistics has no effect where no batch normalization is frozen; leave it out")
    trainable, children = exp.trainable, CHILDREN.get(model.split("_")[0]) if model in models else None
    if trainable and children:  # the children of a user's own model are checked when it is built
        chosen = {choose(f"child of {model}", name, children) for name in trainable}
        trainable = tuple(name for name in children if name in chosen) if chosen < {*children} else None
        if exp.dropout and children[-1] not in chosen:
            remedy = "leave it out, or train that child too"
            raise UsageError(f"dropout={exp.dropout!r} has no effect while {children[-1]!r} is frozen; {remedy}")
    return decided | {"model": model, "trainable": trainable}
