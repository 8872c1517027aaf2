"""Checks of everything that a reader passes to `pipeline`, before any file is touched."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from deepnet.data.digests import fingerprint
from deepnet.machine import device
from deepnet.records.files import digest
from deepnet.training.frozen_prefix import split_as_asked
from deepnet.training.precision import cast
from deepnet.training.ready import as_the_model_takes, count_outputs, labelled, materialise
from deepnet.training.recipe import Recipe, rehearse, set_precision, trial_of
from deepnet.training.steps import check_optimizer
from experimentTable import Experiment, UsageError
from myModel import train_only


def checked_sets(
    model: nn.Module, train: Any, evaluation: Any, exp: Experiment, recipe: Recipe, classes: Sequence[Any] | None,
    convert: bool,
) -> tuple[Any, Any, dict]:  # fmt: skip
    """Check the model, the data and the recipe on a copy of the model, before any file is touched.

    Returns both sets with their labels as targets, and the identity's entries for the data and the recipe.
    """
    with trial_of(model) as trial:
        materialise(trial, train)
        if convert:
            set_precision(trial, recipe.precision)
        train, evaluation = (as_the_model_takes(trial, source) for source in (train, evaluation))
        with torch.no_grad():
            outputs = min(
                count_outputs(trial, cast(source.first_inputs(2).to(device()), recipe.precision))
                for source in (train, evaluation)
            )
        if not any(p.requires_grad for p in model.parameters()):
            raise UsageError(
                "nothing in the model can be trained; name some of its children in trainable, or unfreeze some"
            )
        (train, evaluation), labels = labelled((train, evaluation), outputs, classes)
        if recipe.cache_frozen:
            split_as_asked(trial, cast(train.first_inputs(4).to(device()), recipe.precision))
        rehearse(trial, train, evaluation, exp, recipe, exp.record_gradients)
    settings: dict = {"architecture": str(model), "images": [len(train), len(evaluation)], "classes": len(labels.names)}
    settings |= {"data": [fingerprint(train), fingerprint(evaluation)]}
    settings |= {"fast": recipe.fast, "eval_batch_size": recipe.eval_batch_size}
    if labels.numbers is not None or classes is not None:
        settings["labels"] = list(labels.names)
    if recipe.loss is not cross_entropy:
        settings["loss"] = described(recipe.loss)
    if recipe.cache_frozen:
        settings["cache_frozen"] = True
    made = recipe.optimizer(model)
    if isinstance(recipe.optimizer, partial) and recipe.optimizer.func is own_optimizer:
        check_optimizer(model, made)
        groups = [plain({key: value for key, value in group.items() if key != "params"}) for group in made.param_groups]
        settings |= {"optimizer": type(made).__name__, "groups": groups, "lr": groups[0]["lr"]}
    if recipe.schedule:
        schedule = recipe.schedule(made)
        kind = {"type": type(schedule).__name__, "per_step": recipe.schedule_per_step}
        settings["schedule"] = kind | plain(schedule.state_dict())
    if frozen := [key for key, parameter in model.named_parameters() if not parameter.requires_grad]:
        settings["frozen"] = frozen
    return train, evaluation, settings


@contextmanager
def restored_afterwards(model: nn.Module, children: Collection[str] | None) -> Iterator[Callable[[], None]]:
    """Freeze all but these children within the block (None: change nothing), and restore `requires_grad` after it.

    Each module's training or evaluation mode is restored too, or set to evaluation mode if the function that the
    context yields has been called.
    """
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    trained: list[bool] = []
    try:
        train_only(model, children)
        yield lambda: trained.append(True)
    finally:
        for parameter, could_learn in learned:
            parameter.requires_grad = could_learn
        for module, mode in modes:
            module.training = mode and not trained


def own_optimizer(make: Callable[[list[nn.Parameter]], Optimizer], model: nn.Module) -> Optimizer:
    """A reader's own optimizer over the trainable parameters. Raises UsageError if `make` returns something else."""
    made = make([p for p in model.parameters() if p.requires_grad])
    if not isinstance(made, Optimizer):
        raise UsageError(f"optimizer must return a torch.optim.Optimizer, it returned {type(made).__name__}")
    return made


def described(thing: Any, depth: int = 3) -> Any:
    """A description of a loss, as JSON holds it, that differs between different losses.

    For a function it consists of its code and the values captured in its closure, for an object of its attributes and
    tensors. What a function reads from elsewhere, such as a global variable, is not part of it.

    >>> described(nn.CrossEntropyLoss(label_smoothing=0.1))["label_smoothing"]
    0.1
    """
    if isinstance(thing, bool | int | float | str | None):
        return thing
    if isinstance(thing, Tensor):
        return digest({"": thing})[:16]
    if isinstance(thing, partial):
        arguments = {"args": described(thing.args), "keywords": described(thing.keywords)}
        return {"partial": described(thing.func, depth)} | arguments
    if isinstance(thing, CodeType):
        constants = [described(constant) for constant in thing.co_consts]
        return hashlib.sha256(repr((thing.co_code, thing.co_names, constants)).encode()).hexdigest()[:16]
    if isinstance(thing, set | frozenset):
        return sorted(map(repr, thing))
    if isinstance(thing, list | tuple):
        return [described(part) for part in thing]
    if isinstance(thing, dict):
        return {str(key): described(value) for key, value in thing.items()}
    if isinstance(thing, MethodType):
        return {"method": thing.__name__, "of": described(thing.__self__, depth)}
    if isinstance(thing, FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if depth and cell != CellType()]
        holds = [described(thing.__defaults__), [described(content, depth - 1) for content in cells]]
        return {"function": thing.__qualname__, "code": described(thing.__code__), "holds": holds}
    if not depth or not hasattr(thing, "__dict__") or isinstance(thing, type):
        return getattr(thing, "__qualname__", type(thing).__qualname__)
    parts = {key: value for key, value in sorted(vars(thing).items()) if not key.startswith("_")}
    if isinstance(thing, nn.Module):
        parts |= {f"tensor {key}": value for key, value in thing.state_dict().items()}
    return {"type": type(thing).__qualname__} | {key: described(value, depth - 1) for key, value in parts.items()}


def plain(values: dict) -> dict:
    """The entries that can be written as JSON."""
    kept = {}
    for key, value in values.items():
        with suppress(TypeError, ValueError):
            kept[key] = json.loads(json.dumps(value, allow_nan=False))
    return kept


def check_schedule(schedule: Any, schedule_per_step: bool) -> None:
    """Raise UsageError unless `schedule` is a callable or None, and if there is none for `schedule_per_step`."""
    if schedule is not None and not callable(schedule):
        raise UsageError(f"schedule must be a callable from the optimizer to a scheduler, got {schedule!r:.60}")
    if schedule_per_step and schedule is None:
        raise UsageError("schedule_per_step has no effect without a schedule; give one, or leave it out")
