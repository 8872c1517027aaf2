"""Checks of number types, labels and batches of a reader's data before they are used."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from deepnet.data.datasets import (
    Batch,
    BatchSource,
    InMemoryDataset,
    UserDataset,
    as_source,
    is_iterable_of_batches,
    with_labels,
)
from deepnet.data.items import found_in, is_pair
from deepnet.data.labels import LabelMap, label_map
from deepnet.machine import device
from deepnet.records.files import first_line
from deepnet.seeds import preserved_random
from deepnet.training.precision import cast, resolve_precision
from deepnet.valid import whole
from experimentTable import UsageError, choose
from myModel import set_train_mode

BATCH_SIZE = 128


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's weights; the current device for a model without any."""
    return next((parameter.device for parameter in model.parameters()), device())


def own_precision(model: nn.Module) -> str:
    """The precision, "fp32" or "fp64", of the first trainable floating-point weight, or else of the first one.

    Raises UsageError for other types, such as bfloat16.
    """
    weights = [p for p in model.parameters() if p.is_floating_point()]
    kinds = [p.dtype for p in sorted(weights, key=lambda p: not p.requires_grad)] or [torch.float32]
    if kinds[0] not in (torch.float32, torch.float64):
        raise UsageError(f"the model's weights are {kinds[0]}; make them float32 by model.float()")
    return "fp64" if kinds[0] == torch.float64 else "fp32"


def usable_precision(model: nn.Module, precision: str | None) -> str:
    """`precision` resolved, or by default the model's own.

    Raises UsageError for an unknown one, and if the type of the model's weights does not suit it.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, got {model!r:.60}")
    own = own_precision(model)
    if precision is None:
        return own
    asked = resolve_precision(choose("precision", precision, ("auto", "fp32", "bf16", "fp64")))
    if "fp64" in (asked, own) and asked != own:
        remedy = "convert it, or leave precision out"
        raise UsageError(f"precision {precision!r} does not suit the model, whose weights are {own}; {remedy}")
    return asked


def size_of_batches(name: str, data: Any, size: Any, default: int) -> int:
    """How many items a batch of `data` has: a loader's own number, else `size`, else `default`.

    Raises UsageError for a `size` together with a loader, and unless it is a whole number of at least 1.
    """
    if isinstance(data, DataLoader):
        if size is not None:
            raise UsageError(
                f"{name} has no effect on a DataLoader, which makes its own batches; set it there, or leave it out"
            )
        return data.batch_size or default
    return default if size is None else whole(name, size, 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and without gradients within the block; each module's mode is restored after it."""
    with preserved_modes(model), torch.no_grad():
        yield model.eval()


@contextmanager
def preserved_modes(model: nn.Module) -> Iterator[None]:
    """Restore each module's training or evaluation mode after the block."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def materialise(model: nn.Module, source: Any) -> None:
    """Initialize lazy modules by a forward pass, as torch requires before they are used."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        inputs = source.first_inputs(2).to(device())
        for attempt in (inputs, inputs.float()):  # the model may need whole numbers as floats
            with suppress(Exception), evaluating(model):
                model.to(device())(attempt)
                return


def checked_scores(inputs: Tensor, outputs: Any, training: bool = False) -> Tensor:
    """Return the outputs if they are scores (N, classes); else raise UsageError, naming what the model returns."""
    if not isinstance(outputs, Tensor):
        also = " in training (auxiliary heads? build it without, as aux_logits=False)" if training else ""
        found = f"a {type(outputs).__name__}{also} for {len(inputs)} images"
        raise UsageError(f"the model gives {found}; it must give one tensor of scores (N, classes)")
    if outputs.ndim != 2 or len(outputs) != len(inputs):
        found = f"{tuple(outputs.shape)} for {len(inputs)} images"
        raise UsageError(f"the model gives {found}; it must give scores (N, classes), so flatten them first")
    return outputs


def count_outputs(model: nn.Module, inputs: Tensor, training: bool = False) -> int:
    """How many scores the model returns per image. Raises UsageError unless it returns scores (N, classes)."""
    try:
        outputs = (set_train_mode(model) if training else model.eval())(inputs)
    except Exception as error:  # whatever a reader's own model raises
        if training and len(inputs) == 1:
            remedy = "give more images, a larger batch_size, or drop_last"
            raise UsageError(
                f"the model cannot train on a batch of one image ({first_line(error)}); {remedy}"
            ) from None
        what = f"a batch of shape {tuple(inputs.shape)} and type {inputs.dtype}{' in training' if training else ''}"
        raise UsageError(f"the model cannot take {what} from the data set: {first_line(error)}") from None
    return checked_scores(inputs, outputs, training).shape[1]


def as_the_model_takes(model: nn.Module, source: Any) -> Any:
    """The source, with whole-number inputs converted to floats if `model` cannot take them as they are.

    Otherwise they stay whole numbers, as token ids must.
    """
    inputs = source.first_inputs(2).to(device_of(model))
    if isinstance(source, InMemoryDataset | UserDataset) and not (inputs.is_floating_point() or inputs.is_complex()):
        with evaluating(model), preserved_random():
            try:
                model(inputs)
            except Exception:
                return source.as_floats()
    return source


def labelled(sources: Sequence[Any], outputs: int, classes: Any) -> tuple[list[Any], LabelMap]:
    """The sources with their labels as targets, and the label map, which is made from the first source.

    A few labels are read first, and all of them only if these are not whole numbers below `outputs`. Raises UsageError
    for labels that fit no output.
    """
    own_names = _names(getattr(sources[0], "dataset", None))
    others = _names(getattr(sources[-1], "dataset", None))
    if classes is None and own_names and others and list(own_names) != list(others):
        raise UsageError(
            "the classes of the two data sets differ, so their labels may too; "
            "pass classes=(...) in the order of the outputs"
        )
    found = [source.known_labels(read_all=False) for source in sources]
    if not all(isinstance(label, int) and 0 <= label < outputs for labels in found for label in labels):
        found = [source.known_labels(read_all=True) for source in sources]
    labels = label_map(found[0], found[-1], outputs, classes, own_names)
    return [with_labels(source, labels) for source in sources], labels


def _names(data: Any) -> Any:
    """A data set's `classes`, or those of the data set that it wraps."""
    if (names := getattr(data, "classes", None)) is not None:
        return names
    inner = getattr(data, "dataset", None) or next(iter(getattr(data, "datasets", [])), None)
    return None if inner is None else _names(inner)


def batches_of(
    model: nn.Module, data: Any, precision: str, classes: Any, batch_size: Any, shuffle: bool
) -> Iterable[Batch]:
    """The batches of a data set, a loader, a BatchSource or an iterable of batches, as the model takes them.

    Raises UsageError, naming what was found, for anything else, and for labels that the model has no output for.
    """
    size = size_of_batches("batch_size", data, batch_size, BATCH_SIZE)
    if is_iterable_of_batches(data):
        return _pairs(data)
    source = as_source(data)
    if not isinstance(data, BatchSource):
        materialise(model, source)
        source = as_the_model_takes(model, source)
        with torch.no_grad(), preserved_random():
            outputs = count_outputs(model, cast(source.first_inputs(2).to(device_of(model)), precision))
        known = [source, source] if classes is None else [source]
        (source, *_), labels = labelled(known, outputs, classes)
        if classes is None and labels.numbers is not None:
            label = next(iter(labels.numbers))
            raise UsageError(
                f"labels such as {label!r} are not output numbers; pass classes=(...) in the order of the outputs"
            )
    if not shuffle:
        return source.in_order(size)
    return source.shuffled(size, torch.Generator().manual_seed(int(torch.randint(2**62, ()))))


def _pairs(batches: Iterable[Any]) -> Iterator[Batch]:
    for batch in batches:
        if not is_pair(batch, Tensor):
            raise UsageError(f"a batch must be a pair of tensors (inputs, labels), found {found_in(batch)}")
        if batch[1].ndim != 1 or batch[1].is_floating_point() or batch[1].is_complex():
            raise UsageError(
                f"a batch's labels must be whole numbers (B,), found {batch[1].dtype} of shape {tuple(batch[1].shape)}"
            )
        yield batch[0], batch[1].long()
