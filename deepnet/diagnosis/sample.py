"""The items of a reader's data that a diagnosis works with: read once, kept in memory, and looked at."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from deepnet.data.datasets import BatchSource, InMemoryDataset, LoaderDataset, UserDataset, as_source, epoch_batches
from deepnet.data.items import found_in
from deepnet.data.labels import LabelMap
from deepnet.diagnosis.inputs import HALF, TAKEN, Inputs, as_inputs, as_taken, halves, has_several, joined, split
from deepnet.records.files import first_line
from deepnet.training.ready import device_of
from experimentTable import UsageError

MOST_ITEMS = 1024  # 32 batches of 32: each of the first steps sees new items
MOST_BYTES = 2**28
READ_AT_ONCE = 64
MOST_PARTS = 100  # a longer list holds items, and no generators
BY_CHANCE = 0.01  # how likely a batch of shuffled items may hold one class for its order to be called into question
ITEMS_PER_CLASS = 5  # with fewer, nearest neighbours say nothing of the labels


@dataclass(frozen=True)
class Sample:
    """The inputs of N items as the model takes them, and targets (N,) as the data give them, even where no output fits.

    `neighbours` are the shares of items whose label agrees with that of their nearest neighbour and with the nearest
    mean of a class, and the share that chance gives; None where the data cannot tell.
    """

    inputs: Inputs
    targets: Tensor
    neighbours: tuple[float, float, float] | None = None
    available: int = 0  # items that the data set holds
    by_class: bool = False  # most batches of a loader hold one class each
    label_kind: str = ""  # of labels that are read as whole numbers, and that cross-entropy would not take

    def batches(self, size: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Batches without end: one pass over all items after the other, in an order that is always the same."""
        generator = torch.Generator().manual_seed(0)
        while True:
            for indices in epoch_batches(len(self.targets), size, generator):
                yield self.inputs[indices], self.targets[indices]

    @property
    def entropy(self) -> float:
        """The loss in nats of a model that knows how frequent each label is and nothing else."""
        shares = self.targets.unique(return_counts=True)[1] / len(self.targets)
        return float(-(shares * shares.log()).sum())

    @property
    def bad_items(self) -> Tensor:
        """Which items (N,) hold a NaN or an infinity, but for masks."""
        return ~torch.isfinite(self.inputs.flat).all(1)

    @property
    def finite(self) -> Tensor:
        """The measured inputs (n, features) of all items without a NaN or an infinity, in float32."""
        return self.inputs.flat[~self.bad_items].float()


class _AnyLabel(LabelMap):
    """Whole numbers stay what they are, even where the model has no such output; words are numbered as they come."""

    def target(self, label: int | str) -> int:
        assert self.numbers is not None
        return self.numbers.setdefault(label, len(self.numbers)) if isinstance(label, str) else label


class _Items(UserDataset):
    """A map-style data set whose items hold several inputs or name them."""

    def batch(self, indices: Tensor) -> Any:
        """The `Inputs` and targets at `indices`. Raises UsageError for items that make no batch."""
        items = [self.dataset[i] for i in indices.tolist()]
        try:
            collated = default_collate(items)
        except Exception as error:  # whatever cannot be stacked
            reason = f"its items make no batch ({first_line(error)})"
            raise UsageError(f"the data set gives {found_in(items[0])}; {reason}; {TAKEN}") from None
        pair: Any = split(collated)
        return self._targets(pair)

    def first_inputs(self, count: int) -> Any:
        """The first inputs, at most `count`."""
        return self.batch(torch.arange(min(count, len(self))))[0]


class _Batches(LoaderDataset):
    """A loader, whose batches may hold several inputs or name them."""

    def _loaded(self) -> Iterator[Any]:
        return map(split, self.loader)


def source_of(data: Any) -> Any:
    """The data as they are read: batches of inputs, a tensor or `Inputs`, and targets.

    Raises UsageError for what is no map-style data set and no loader of inputs and labels.
    """
    if isinstance(data, DataLoader):
        return _Batches(data)
    if not isinstance(data, BatchSource):
        items = _Items(data)
        if has_several(data[0]):
            return items
    return as_source(data)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of the floating-point weights that learn; where none learns, of all weights.

    Raises UsageError for a type that torch does not compute in.
    """
    weights = sorted((p for p in model.parameters() if p.is_floating_point()), key=lambda p: not p.requires_grad)
    dtype = weights[0].dtype if weights else torch.float32
    if dtype not in (*HALF, torch.float32, torch.float64):
        raise UsageError(f"the model's weights are {dtype}; make them float32 by model.float()")
    return dtype


def read_sample(model: nn.Module, data: Any) -> Sample:
    """Read up to `MOST_ITEMS` items of a data set, drawn at random, or the first that a loader gives.

    Raises UsageError for what is no map-style data set or loader of inputs and labels.
    """
    source, dtype, device = source_of(data), dtype_of(model), device_of(model)
    if isinstance(source, UserDataset):
        source.label_map = _AnyLabel(numbers={})
    first = as_inputs(source.first_inputs(1))
    size = max(1, sum(part.nbytes for part in first.parts))
    count = min(MOST_ITEMS, len(source), max(READ_AT_ONCE, MOST_BYTES // size))
    if isinstance(source, LoaderDataset):
        read, batches = 0, []
        for batch in source.in_order(READ_AT_ONCE):
            batches.append(batch)
            read += len(batch[1])
            if read >= count:
                break
    else:
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
        order = torch.cat([_telling(source, order[:count]), order])[:count]
        batches = [source.batch(indices) for indices in order.split(READ_AT_ONCE)]
    targets = torch.cat([labels for _, labels in batches])[:count].to(device)
    if len(targets) < 2:
        raise UsageError(f"the data give {len(targets)} item; a diagnosis needs at least two, better a few hundred")
    inputs = joined([as_inputs(parts) for parts, _ in batches])[:count]
    inputs = inputs.map(lambda part: part.to(device, dtype if part.is_floating_point() else None))
    inputs = as_taken(model, inputs, dtype)
    by_class = isinstance(source, LoaderDataset) and _one_class_each([labels for _, labels in batches])
    return Sample(inputs, targets, _neighbours(inputs, targets), len(source), by_class, _label_kind(source))


def _label_kind(source: Any) -> str:
    """What the first label is, where cross-entropy would not take it: a float, or a tensor of several dimensions."""
    if not isinstance(source, UserDataset):
        return ""
    label = source.first_batch()[1][0] if isinstance(source, LoaderDataset) else halves(source.dataset[0])[1]
    if isinstance(label, Tensor) and (label.ndim or label.is_floating_point()):
        return f"of shape {tuple(label.shape)} and type {str(label.dtype).removeprefix('torch.')}"
    return "a float" if isinstance(label, float) else ""


def _telling(source: Any, read: Tensor) -> Tensor:
    """Of tensors in memory the items beside those that are read that hold a gap or a label out of their range."""
    if not isinstance(source, InMemoryDataset):
        return read[:0]
    labels, inputs = source.labels.cpu(), source.inputs
    seen = labels[read]
    found = [labels.argmin()] * bool(labels.min() < seen.min()) + [labels.argmax()] * bool(labels.max() > seen.max())
    if inputs.is_floating_point():
        bad = ~torch.isfinite(as_inputs(inputs).flat.sum(1, dtype=torch.float32)).cpu()
        found += [] if bad[read].any() else [*bad.nonzero()[:1, 0]]
    return torch.stack(found).unique() if found else read[:0]


def _one_class_each(batches: list[Tensor]) -> bool:
    """Whether most batches hold one class each, which batches of shuffled items would hardly do."""
    shares = torch.cat(batches).unique(return_counts=True)[1] / sum(map(len, batches))
    single = [len(labels.unique()) == 1 for labels in batches]
    return 2 * sum(single) > len(single) and float(shares.max()) ** len(batches[0]) < BY_CHANCE


@contextmanager
def kept_generators(data: Any) -> Iterator[None]:
    """Leave the generators that a loader, its samplers or a data set hold as they were, but not the global ones."""
    before = [(generator, put, get(generator)) for generator, get, put in _generators(data, set())]
    try:
        yield
    finally:
        for generator, put, state in before:
            put(generator, state)


STATES: tuple[tuple[type, Callable, Callable], ...] = (
    (torch.Generator, torch.Generator.get_state, torch.Generator.set_state),
    (np.random.Generator, lambda g: g.bit_generator.state, lambda g, state: setattr(g.bit_generator, "state", state)),
    (np.random.RandomState, np.random.RandomState.get_state, np.random.RandomState.set_state),
    (random.Random, random.Random.getstate, random.Random.setstate),
)


def _generators(holder: Any, seen: set[int], depth: int = 6) -> Iterator[tuple[Any, Callable, Callable]]:
    """The generators among an object's attributes, and theirs, each with how its state is read and set."""
    if id(holder) in seen or isinstance(holder, type | ModuleType | Tensor):
        return
    seen.add(id(holder))
    yield from ((holder, get, put) for kind, get, put in STATES if isinstance(holder, kind))
    parts = holder if isinstance(holder, list | tuple) else getattr(holder, "__dict__", {}).values()
    if depth and len(parts) <= MOST_PARTS:
        for part in parts:
            yield from _generators(part, seen, depth - 1)


def _neighbours(inputs: Inputs, targets: Tensor) -> tuple[float, float, float] | None:
    """See `Sample.neighbours`: leave-one-out, in standardised inputs.

    None for token ids, where items are few, and for several inputs, since labels may lie in how they relate.
    """
    alone = len(inputs.parts) == 1 and inputs.measured
    if not alone or len(targets) < ITEMS_PER_CLASS * len(targets.unique()):
        return None
    flat = inputs.flat.float()
    good = torch.isfinite(flat).all(1)
    flat, labels = flat[good], targets[good].unique(return_inverse=True)[1]
    counts = labels.bincount() if len(labels) else labels
    if len(counts) < 2 or len(labels) < ITEMS_PER_CLASS * len(counts):
        return None
    flat = (flat - flat.mean(0)) / flat.std(0).clamp(min=1e-12 + 1e-3 * float(flat.std()))
    squares = torch.cdist(flat, flat).square().fill_diagonal_(math.inf)
    nearest = (labels[squares.argmin(1)] == labels).float().mean()
    one_hot = torch.nn.functional.one_hot(labels, len(counts)).to(flat)
    means = one_hot.T @ flat / counts[:, None]
    distances = torch.cdist(flat, means).square()
    # An item pulls the mean of its own class towards itself; taking it out again lengthens the distance to that mean.
    own = (counts / (counts - 1).clamp(min=1)).square()[labels]
    distances[torch.arange(len(labels)), labels] *= own
    central = (distances.argmin(1) == labels).float().mean()
    return float(nearest), float(central), float((counts / len(labels)).square().sum())


def significance(share: float, chance: float, items: int) -> float:
    """By how many standard deviations of chance a share of `items` lies above `chance`.

    >>> round(significance(0.2, 0.1, 900), 1)
    10.0
    """
    return (share - chance) / float(np.sqrt(max(chance * (1 - chance), 1e-12) / items))
