"""The recipe of a training run, and its rehearsal on a copy of the model, which finds out whether it can run."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.optim import Optimizer

from deepnet.machine import device
from deepnet.records.files import first_line
from deepnet.records.reading import switched_on
from deepnet.seeds import preserved_random
from deepnet.training.metrics import GradientNorms, probe
from deepnet.training.precision import cast
from deepnet.training.ready import count_outputs, preserved_modes
from deepnet.training.steps import Loss, evaluate, train_epoch
from experimentTable import Experiment, UsageError

MOST_STEPS = 100_000  # steps that a schedule is rehearsed for, which takes about a second
EVAL_BATCH_SIZE = 500  # of the report's runs; fixed, so that a rebuilt cache is bitwise equal


@dataclass(frozen=True)
class Recipe:
    """What a training run needs besides its data; `fast` selects the faster implementations."""

    optimizer: Callable[[nn.Module], Optimizer]
    precision: str
    loss: Loss = cross_entropy
    schedule: Callable[[Optimizer], Any] | None = None
    schedule_per_step: bool = False
    eval_batch_size: int = EVAL_BATCH_SIZE
    fast: bool = True
    graph: bool = False  # on a GPU, run steps as a CUDA graph
    cache_frozen: bool = False  # the caller asserts that the children run in turn and that the data never change


def set_precision(model: nn.Module, precision: str) -> None:
    """Convert the model's weights in place to the type of `precision`, float32 or float64.

    Tensors of other types, such as complex ones, are unchanged.
    """
    wanted = torch.float64 if precision == "fp64" else torch.float32
    kinds = [p.dtype for p in model.parameters() if p.is_floating_point()]
    if kinds and kinds[0] != wanted:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype == kinds[0]:
                tensor.data = tensor.data.to(wanted)
                tensor.grad = None


def advance(schedule: Any, loss: float) -> None:
    """Step a schedule at an epoch's end; ReduceLROnPlateau is given the evaluation loss."""
    schedule.step(loss) if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau) else schedule.step()


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy of the model, including the hooks on its parameters' gradients, which torch does not copy.

    Lazy buffers, which torch cannot copy, are new.
    """
    new: Any = UninitializedBuffer
    lazy = {id(b): new(device=b.device, dtype=b.dtype) for b in model.buffers() if is_lazy(b)}
    copied = copy.deepcopy(model, lazy)
    for parameter, other in zip(model.parameters(), copied.parameters(), strict=True):
        for hook in (parameter._backward_hooks or {}).values() if other.requires_grad else ():
            other.register_hook(hook)
    return copied


@contextmanager
def trial_of(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model on the device, to try things on; the model itself if it cannot be copied.

    The model is restored after the block in any case, since a copy may share closures with it, such as a function that
    replaces a child's `forward`.
    """
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)]
    before = [(tensor, tensor.data, tensor.detach().clone(), tensor.grad) for tensor in tensors]
    with preserved_random(), preserved_modes(model):
        try:
            trial = copy_of(model)
            if not all(parameter.is_leaf for parameter in trial.parameters()):  # a scripted module's are not
                raise TypeError("its copy cannot be trained")
        except Exception:  # computed weights, such as those of old-style weight normalization, cannot be copied
            trial = model
        try:
            yield trial.to(device())
        finally:
            for tensor, storage, values, gradient in before:
                if not torch.allclose(storage, values, rtol=0.0, atol=0.0, equal_nan=True):
                    storage.copy_(values)
                tensor.data = storage  # its former memory, type and device
                tensor.grad = gradient


def sizes_of_batches(source: Any, batch_size: int, training: bool) -> list[int]:
    """The sizes of a pass's first and last batch, each once."""
    loader = getattr(source, "loader", None)
    items = len(loader.sampler) if loader is not None and hasattr(loader.sampler, "__len__") else len(source)
    first, last = min(batch_size, items), items % batch_size
    if loader is not None and (loader.drop_last or loader.batch_sampler is None or loader.batch_size is None):
        last = 0
    if loader is None and training and last == 1 and items > batch_size:  # it is added to the batch before it
        last = batch_size + 1
    return sorted({first, last} - {0}, reverse=True)


def rehearse(
    model: nn.Module, train: Any, eval_set: Any, exp: Experiment, recipe: Recipe, record_gradients: bool
) -> None:
    """Train `model`, a copy, on batches of the run's sizes, evaluate it, and step the schedule to its end.

    Raises UsageError if any of this fails.
    """
    inputs, seen = train.first_inputs(min(2, exp.batch_size)), eval_set.first_inputs(2)
    try:
        file = BytesIO()
        torch.save({key: value for key, value in model.state_dict().items() if not isinstance(value, Tensor)}, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # torch raises many kinds
        remedy = "make it numbers, words or tensors"
        raise UsageError(
            f"the model's extra state cannot be kept in a checkpoint ({first_line(error)}); {remedy}"
        ) from None
    with preserved_random():
        sizes = sizes_of_batches(train, exp.batch_size, training=True)
        with torch.no_grad():
            tried = [cast(_repeated(inputs, size).to(device()), recipe.precision) for size in sizes]
            outputs = [count_outputs(model, batch, training=True) for batch in tried]
        batches = [(_repeated(inputs, size), torch.arange(size) % outputs[0]) for size in sizes]
        sizes = sizes_of_batches(eval_set, recipe.eval_batch_size, training=False)
        evaluated = [(_repeated(seen, size), torch.arange(size) % outputs[0]) for size in sizes]
        try:
            optimizer = recipe.optimizer(model)
            schedule = recipe.schedule(optimizer) if recipe.schedule else None
            methods = ("step", "state_dict", "load_state_dict")
            if recipe.schedule and not all(hasattr(schedule, method) for method in methods):
                kind = "a scheduler of torch.optim.lr_scheduler"
                raise UsageError(f"schedule must return {kind}, it returned {schedule!r:.60}")
            gradients = GradientNorms(model) if record_gradients else None
            train_epoch(model, batches, optimizer, recipe.precision, gradients, loss=recipe.loss, fast=recipe.fast)
            model.load_state_dict(copy.deepcopy(model.state_dict()))  # as for the best weights and a checkpoint
            with torch.no_grad():
                seen, targets = (part.to(device()) for part in batches[0])
                check_mean(recipe.loss, model.eval()(cast(seen, recipe.precision)), targets)
            measured, _ = evaluate(model, evaluated, recipe.precision, loss=recipe.loss, fast=recipe.fast)
            if recipe.schedule:
                _rehearse_schedule(recipe, schedule, exp, len(train), measured["loss"])
            if record_gradients:
                probe(model, inputs.to(device()), recipe.precision, recipe.fast)
        except UsageError:
            raise
        except Exception as error:  # whatever a reader's own model, loss, optimizer or schedule raises
            raise UsageError(
                f"a training step on a copy of the model failed: {type(error).__name__}: {first_line(error)}"
            ) from None


def check_mean(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Raise UsageError if the loss of a batch doubles when the batch is repeated: it is a sum then, not a mean."""
    once = float(loss(outputs, targets))
    twice = float(loss(torch.cat([outputs, outputs]), torch.cat([targets, targets])))
    if once and abs(twice - 2 * once) < 1e-3 * abs(once):
        raise UsageError("loss is the sum over the images; it must be their mean, as with reduction='mean'")


def _repeated(inputs: Tensor, size: int) -> Tensor:
    return inputs[torch.arange(size) % len(inputs)]


def _rehearse_schedule(recipe: Recipe, schedule: Any, exp: Experiment, items: int, loss: float) -> None:
    """Step a schedule as often as the run will; a schedule for fewer steps raises."""
    steps = exp.epochs * math.ceil(items / exp.batch_size) if recipe.schedule_per_step else exp.epochs
    for _ in range(min(steps, MOST_STEPS)):
        schedule.step() if recipe.schedule_per_step else advance(schedule, loss)


def fast_by_default() -> bool:
    """Whether the report's runs use the faster implementations; `FAST=0` in the environment turns them off."""
    return switched_on("FAST")
