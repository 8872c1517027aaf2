"""The inputs of a batch, one tensor or several, and how a model takes them."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from deepnet.data.items import found_in
from deepnet.seeds import preserved_random
from deepnet.training.ready import evaluating
from experimentTable import UsageError

HALF = (torch.bfloat16, torch.float16)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LABELS = ("labels", "label", "targets", "target", "y")  # of a dict, as Hugging Face's collators name them
MASK = "attention_mask"
TAKEN = (
    "give (inputs, labels), ((x1, x2, ...), labels), (x1, x2, ..., labels) or a dict with its labels under one of "
    + ", ".join(map(repr, LABELS))
)


@dataclass(frozen=True)
class Inputs:
    """The inputs of N items: `parts`, each (N, ...), and under which names, if any, the model is given them.

    A model is called with the parts as its arguments or keywords; with `whole`, with one list or dict of them.

    >>> Inputs((torch.zeros(5, 3), torch.ones(5, 2)))[:2].given_to(lambda a, b: a.sum() + b.sum())
    tensor(4.)
    """

    parts: tuple[Tensor, ...]
    names: tuple[str, ...] = ()
    whole: bool = False

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, indices: Any) -> "Inputs":
        return self.map(lambda part: part[indices])

    def __str__(self) -> str:
        each = [f"shape {tuple(part.shape)} and type {part.dtype}" for part in self.parts]
        named = [f"{name} of {words}" for name, words in zip(self.names, each, strict=False)]
        return "a batch of " + ", ".join(named or each)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same inputs with each part changed."""
        return replace(self, parts=tuple(map(change, self.parts)))

    def given_to(self, model: Callable[..., Any]) -> Any:
        """What the model gives for these inputs."""
        named = dict(zip(self.names, self.parts, strict=False))
        if self.whole:
            return model(named or list(self.parts))
        return model(**named) if named else model(*self.parts)

    @cached_property
    def measured(self) -> tuple[int, ...]:
        """The numbers of the parts whose scale matters: of floats, and, beside other parts, no masks."""
        floats = [i for i, part in enumerate(self.parts) if part.is_floating_point()]
        return tuple(i for i in floats if len(self.parts) == 1 or not _is_mask(self.parts[i]))

    @property
    def flat(self) -> Tensor:
        """The measured parts side by side (N, features), or all parts where none is measured."""
        parts = [self.parts[i] for i in self.measured] or self.parts
        flat = [part.unsqueeze(-1).flatten(1) for part in parts]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


def widened(tensor: Tensor) -> Tensor:
    """A tensor of half precision in float32, since sums in half precision are too coarse to judge by."""
    return tensor.float() if tensor.dtype in HALF else tensor


def as_inputs(given: Tensor | Inputs) -> Inputs:
    """A single tensor as `Inputs`."""
    return given if isinstance(given, Inputs) else Inputs((given,))


def _is_mask(part: Tensor) -> bool:
    return bool(((part == 0) | (part == 1) | (part == -math.inf)).all())


def has_several(item: Any) -> bool:
    """Whether an item of a data set holds its inputs by name, or more than one."""
    parted = isinstance(item, tuple | list) and len(item) > 1
    return isinstance(item, Mapping) or (parted and (len(item) > 2 or isinstance(item[0], tuple | list | Mapping)))


def split(batch: Any) -> tuple[Inputs, list[Any]]:
    """The inputs and the labels of a batch. Raises UsageError, saying what was found and what is taken."""
    given, labels = halves(batch)
    names = tuple(given) if isinstance(given, Mapping) else ()
    listed = given if isinstance(given, tuple | list) else [given]
    parts = dict(given) if names else {f"input {number}": part for number, part in enumerate(listed, 1)}
    found = f"the data give {found_in(dict(batch) if isinstance(batch, Mapping) else batch)}"
    if not isinstance(labels, list | tuple) and not (isinstance(labels, Tensor) and labels.ndim):
        raise UsageError(f"{found}, without a tensor or list of labels; {TAKEN}")
    for name, part in parts.items():
        if not isinstance(part, Tensor) or not part.ndim:
            raise UsageError(f"{found}, where {name!r} is {found_in(part)} and no tensor of several items; {TAKEN}")
    if len({len(part) for part in (*parts.values(), labels)}) > 1:
        sizes = ", ".join(str(len(part)) for part in parts.values())
        remedy = "put the items first in each"
        raise UsageError(f"{found}, whose inputs hold {sizes} items and its labels {len(labels)}; {remedy}")
    return Inputs(tuple(parts.values()), names), list(labels)


def halves(batch: Any) -> tuple[Any, Any]:
    """What of a batch is for the model, and its labels; None where there are none."""
    if isinstance(batch, Mapping):
        name = next((name for name in LABELS if name in batch), None)
        return {key: part for key, part in batch.items() if key != name}, batch.get(name)
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        return batch, None
    *given, labels = batch
    return given[0] if len(given) == 1 else given, labels


def joined(batches: Sequence[Inputs]) -> Inputs:
    """The inputs of several batches as one.

    Where a collator pads each batch to a length of its own, all are padded to the longest, if a mask tells the model
    which positions are padding. Raises UsageError for other batches that differ in size.
    """
    columns = [*zip(*(batch.parts for batch in batches), strict=False)]
    masks = columns[batches[0].names.index(MASK)] if MASK in batches[0].names else ()
    unfit = [
        [part.shape for part in column] != [mask.shape for mask in masks] for column in columns if _is_ragged(column)
    ]
    if any(unfit) or len({(batch.names, len(batch.parts)) for batch in batches}) > 1:
        first, other, *_ = sorted({str(batch) for batch in batches})
        raise UsageError(f"the batches differ ({first}; {other}); give all items the same inputs of one size")
    parts = (_padded(column, masks) if _is_ragged(column) else torch.cat(column) for column in columns)
    return replace(batches[0], parts=tuple(parts))


def _is_ragged(parts: Sequence[Tensor]) -> bool:
    return len({part.shape[1:] for part in parts}) > 1


def _padded(column: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Parts (B, length) one below the other, padded on the side and by the value that the collator has taken, or 0."""
    pads = torch.cat([part[mask == 0] for part, mask in zip(column, masks, strict=True)])
    side = "left" if any(bool((mask[:, 0] == 0).any()) for mask in masks) else "right"
    return pad_sequence([row for part in column for row in part], True, float(pads[0]) if len(pads) else 0.0, side)


def as_taken(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The inputs in the first form that the model takes; as they are where it takes none.

    They are tried as arguments or keywords, as one list or dict, and a single one without its name; then once more with
    bytes, and at last with all whole numbers, as floats of type `dtype`: token ids must stay whole. Lazy modules take
    their shapes from the first form that fits.
    """
    forms = [inputs]
    if inputs.names or len(inputs.parts) > 1:
        forms.append(replace(inputs, whole=True))
    if inputs.names and len(inputs.parts) == 1:
        forms.append(replace(inputs, names=()))
    for kinds in ((), (torch.uint8,), WHOLE):
        for form in forms:
            with suppress(Exception), evaluating(model), preserved_random():
                parts = tuple(part.to(dtype) if part.dtype in kinds else part for part in form.parts)
                taken = replace(form, parts=parts)
                taken[:2].given_to(model)
                return taken
    return inputs
