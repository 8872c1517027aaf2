"""How a model is trained, and the rehearsal that says beforehand whether it can be: on a copy, before any file is touched."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from deepnet.data.datasets import MemorySet, ReaderSet
from experimentTable import UsageError
from fileFunction import first_line
from myModel import set_train_mode
from trainFunction import GradientNorms, Loss, evaluate, probe, train_epoch
from utilityFunction import cast, device, preserved_random

EVAL_BATCH_SIZE = 500  # of the report's runs; fixed, so that a cache made again is the same to the bit


@dataclass(frozen=True)
class Recipe:
    """What a training does beside its data. `fast` turns on all that only makes it faster, and changes rounding alone."""

    optimizer: Callable[[nn.Module], Optimizer]
    precision: str
    loss: Loss = cross_entropy
    schedule: Callable[[Optimizer], Any] | None = None
    schedule_per_step: bool = False
    eval_batch_size: int = EVAL_BATCH_SIZE
    fast: bool = True
    graph: bool = False  # on a GPU steps may go as a CUDA graph
    cache_frozen: bool = False  # the caller vouches for a chain of children and for data that never change


def set_precision(model: nn.Module, precision: str) -> None:
    """Make the model's weights float32 or float64 as the precision asks, in place; numbers of other types, as complex ones, stay."""
    wanted = torch.float64 if precision == "fp64" else torch.float32
    kinds = [p.dtype for p in model.parameters() if p.is_floating_point()]
    if kinds and kinds[0] != wanted:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype == kinds[0]:
                tensor.data = tensor.data.to(wanted)
                tensor.grad = None


def advance(schedule: Any, loss: float) -> None:
    """Step a schedule at an epoch's end; one that waits for a plateau goes by the evaluation loss."""
    schedule.step(loss) if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau) else schedule.step()


def count_outputs(model: nn.Module, inputs: Tensor, training: bool = False) -> int:
    """How many scores the model gives per image. Raises UsageError, saying what it gives, where it gives no (N, classes) scores."""
    shape = tuple(inputs.shape)
    try:
        outputs = (set_train_mode(model) if training else model.eval())(inputs)
    except Exception as error:  # whatever a reader's own model raises
        if training and len(inputs) == 1:
            raise UsageError(
                f"the model cannot train on a batch of one image ({first_line(error)}); give more, and a larger batch_size"
            ) from None
        mode = " in training" if training else ""
        what = f"a batch of shape {shape} and type {inputs.dtype}"
        raise UsageError(f"the model cannot take {what}{mode} from the data set: {first_line(error)}") from None
    if not isinstance(outputs, Tensor):
        found = f"a {type(outputs).__name__}"
        also = " in training (auxiliary heads? build it without, as aux_logits=False)" if training else ""
        raise UsageError(f"the model gives {found}{also} for {len(inputs)} images; it must give one tensor of scores (N, classes)")
    if outputs.ndim != 2 or len(outputs) != len(inputs):
        found = f"{tuple(outputs.shape)} for {len(inputs)} images"
        raise UsageError(f"the model gives {found}; it must give scores (N, classes), so flatten them first")
    return outputs.shape[1]


@contextmanager
def trial_of(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model on the device, to try things on; of a model that cannot be copied itself, restored afterwards."""
    with preserved_random():
        try:
            trial = copy.deepcopy(model)
            if not all(parameter.is_leaf for parameter in trial.parameters()):  # as of a scripted module
                raise TypeError("its copy cannot be trained")
        except Exception:  # weights that are computed, as those of old-style weight normalisation, cannot be copied
            trial, before = model, {key: copy.copy(value) for key, value in model.state_dict().items()}
            before = {key: value.clone() if isinstance(value, Tensor) else value for key, value in before.items()}
        modes = [(module, module.training) for module in model.modules()]
        try:
            yield trial.to(device())
        finally:
            if trial is model:
                model.load_state_dict(before)
                model.zero_grad()
                for module, mode in modes:
                    module.training = mode


def materialise(model: nn.Module, source: Any) -> None:
    """Let lazy modules take their shapes from the data, as torch asks one to before anything is done with them."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        inputs = source.first(2).to(device())
        for attempt in (inputs, inputs.float()):  # as they are first; whole numbers may be meant as floats
            with torch.no_grad(), suppress(Exception):
                model.to(device()).eval()(attempt)
                return


def as_the_model_takes(model: nn.Module, source: Any) -> Any:
    """The source, its whole-number inputs as floats where `model`, a copy, takes them so alone; else as they are, as token ids."""
    inputs = source.first(2).to(device())
    if isinstance(source, MemorySet | ReaderSet) and not (inputs.is_floating_point() or inputs.is_complex()):
        with torch.no_grad(), preserved_random():
            try:
                model.eval()(inputs)
            except Exception:
                if isinstance(source, ReaderSet):
                    source.floats = True
                else:
                    return replace(source, floats=True)
    return source


def rehearse(model: nn.Module, train: Any, batch_size: int, recipe: Recipe, record_gradients: bool) -> None:
    """Train `model`, a copy, for one small batch and evaluate it. Raises UsageError for whatever would end a training."""
    inputs = train.first(min(2, batch_size))
    try:
        file = BytesIO()
        torch.save({key: value for key, value in model.state_dict().items() if not isinstance(value, Tensor)}, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise UsageError(
            f"the model's extra state cannot be kept in a checkpoint ({first_line(error)}); make it numbers, words or tensors"
        ) from None
    with preserved_random():
        outputs = count_outputs(model, cast(inputs.to(device()), recipe.precision), training=True)
        batch = [(inputs, torch.arange(len(inputs)) % outputs)]
        try:
            optimizer = recipe.optimizer(model)
            schedule: Any = recipe.schedule(optimizer) if recipe.schedule else None
            gradients = GradientNorms(model) if record_gradients else None
            train_epoch(model, batch, optimizer, recipe.precision, gradients, loss=recipe.loss, fast=recipe.fast)
            measured, _ = evaluate(model, batch, recipe.precision, loss=recipe.loss, fast=recipe.fast)
            if recipe.schedule:
                schedule.step() if recipe.schedule_per_step else advance(schedule, measured["loss"])
            if record_gradients:
                probe(model, inputs.to(device()), recipe.precision, recipe.fast)
        except UsageError:
            raise
        except Exception as error:  # whatever a model, a loss, an optimizer or a schedule of a reader's own raises
            raise UsageError(f"a training step on a copy of the model failed: {type(error).__name__}: {first_line(error)}") from None
