"""What the training loop reads: the report's sets, tensors in memory, and any map-style data set or loader of a
reader's own.

A data set of a reader's own is read by a `torch.utils.data.DataLoader`, one item at a time and each time anew, so one
reading gives both image and label, and random transforms stay random.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from deepnet.data.items import Pair, Stacked, collate, found_in
from deepnet.data.labels import AnyLabel, LabelMap, plain_label
from deepnet.records.files import tensor_bytes
from deepnet.seeds import preserved_random, seed_everything
from experimentTable import UsageError

Batch = tuple[Tensor, Tensor]
SAMPLED = 8  # items of a reader's data set that stand for it in a record's identity


class Source(Protocol):
    """What the loop trains on and evaluates: batches of (B, ...) inputs and (B,) int64 targets."""

    @property
    def classes(self) -> Sequence[Any]: ...

    def __len__(self) -> int: ...

    def shuffled(self, batch_size: int, generator: torch.Generator, steps: int | None = None) -> Iterable[Batch]:
        """One epoch in an order that `generator` draws, or exactly `steps` batches of as many passes as it takes."""
        ...

    def in_order(self, batch_size: int) -> Iterable[Batch]:
        """Every item once."""
        ...

    def first(self, most: int) -> Tensor:
        """The first inputs, at most so many."""
        ...


def epoch_batches(images: int, batch_size: int, generator: torch.Generator, steps: int | None = None) -> list[Tensor]:
    """Shuffled indices in batches: one pass over all images, or exactly `steps` batches out of as many passes as it
    takes.

    A last batch of one image, which batch normalisation cannot train on, joins the batch before it.
    """
    batches: list[Tensor] = []
    while not batches or (steps and len(batches) < steps):
        parts = list(torch.randperm(images, generator=generator).split(batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        batches += parts
    return batches[:steps]


class Indexed(ABC):
    """A Source whose items are handed out by index; a subclass defines its length and `batch(indices)`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """(B, ...) inputs and (B,) int64 targets at `indices`."""

    def batches(self, order: Sequence[Tensor]) -> Iterable[Batch]:
        """The batches at each of these indices."""
        return map(self.batch, order)

    def shuffled(self, batch_size: int, generator: torch.Generator, steps: int | None = None) -> Iterable[Batch]:
        """One epoch in an order that `generator` draws, or exactly `steps` batches of as many passes as it takes."""
        return self.batches(epoch_batches(len(self), batch_size, generator, steps))

    def in_order(self, batch_size: int) -> Iterable[Batch]:
        """Every item once."""
        return self.batches(torch.arange(len(self)).split(batch_size))

    def first(self, most: int) -> Tensor:
        """The first inputs, at most so many."""
        return self.batch(torch.arange(min(most, len(self))))[0]


@dataclass(frozen=True)
class MemorySet(Indexed):
    """Tensors in memory: `inputs` (N, ...), `labels` (N,) int64 from 0 to len(classes) - 1."""

    inputs: Tensor
    labels: Tensor
    classes: Sequence[Any]
    floats: bool = False  # whole-number inputs are handed out as floats

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Batch:
        """Inputs and labels at `indices`, in the type that they have."""
        # else the device would be waited for, batch by batch
        indices = indices.to(self.inputs.device, non_blocking=True)
        inputs = self.inputs[indices]
        return inputs.float() if self.floats else inputs, self.labels[indices]

    def as_floats(self) -> "MemorySet":
        """The same set, its inputs handed out as floats."""
        return replace(self, floats=True)


class ReaderSet(Indexed):
    """A map-style data set of a reader's own, or a loader of one, read as it is; its labels become targets by
    `labels`.
    """

    def __init__(self, data: Any, workers: int = 0) -> None:
        self.loader = data if isinstance(data, DataLoader) else None
        self.dataset = data.dataset if self.loader is not None else data
        self.workers = workers
        self.labels: LabelMap | None = None
        self.floats = False  # whole-number inputs are handed out as floats
        self._seen: Stacked | None = None  # a loader's first batch, for which a pass of it must begin
        _check_map_style(self.dataset)
        if self.loader is None:
            Pair(self.dataset[0])
        elif workers:
            raise UsageError("a DataLoader has workers of its own; set num_workers there and leave out workers")

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def classes(self) -> Sequence[Any]:
        return self.labels.names if self.labels else ()

    def batch(self, indices: Tensor) -> Batch:
        """Items stacked. Raises UsageError where they are not pairs, or their shapes differ."""
        return self._targets(collate([self.dataset[i] for i in indices.tolist()]))

    def batches(self, order: Sequence[Tensor]) -> Iterable[Batch]:
        """The items at each of these indices, by `workers` processes."""
        sampler = [indices.tolist() for indices in order]
        # else the loader would draw from torch's own generator
        drawn = torch.Generator().manual_seed(torch.initial_seed())
        loader = DataLoader(
            self.dataset, batch_sampler=sampler, num_workers=self.workers, collate_fn=collate, generator=drawn
        )
        return map(self._targets, loader)

    def shuffled(self, batch_size: int, generator: torch.Generator, steps: int | None = None) -> Iterable[Batch]:
        """One epoch; a loader gives its own batches, in its own order."""
        return (
            map(self._targets, self._own_batches())
            if self.loader is not None
            else super().shuffled(batch_size, generator, steps)
        )

    def in_order(self, batch_size: int) -> Iterable[Batch]:
        """Every item once; a loader gives its own batches."""
        return map(self._targets, self._own_batches()) if self.loader is not None else super().in_order(batch_size)

    def first(self, most: int) -> Tensor:
        """The first inputs, at most so many; of a loader those of its first batch, the same each time."""
        if self.loader is None:
            return self._inputs(collate([self.dataset[i] for i in range(min(most, len(self)))]))
        return self._inputs(self.first_batch())[:most]

    def first_batch(self) -> Stacked:
        """A loader's first batch, read once. Raises UsageError where it gives none."""
        if self._seen is None:
            with preserved_random():
                seed_everything(0)
                self._seen = next(iter(self._own_batches()), None)
        if self._seen is None:
            raise UsageError("the loader gives no batch; give it more items, or leave out drop_last")
        return self._seen

    def _own_batches(self) -> Iterator["Stacked"]:
        assert self.loader is not None
        own = self.loader.generator
        if own is not None:  # each epoch is drawn from its own seed, or a resumed run would be another
            own.manual_seed(torch.initial_seed())
        for batch in self.loader:
            pair = isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)
            if not pair or not (isinstance(batch[1], list | tuple) or (isinstance(batch[1], Tensor) and batch[1].ndim)):
                raise UsageError(
                    f"the loader's batches must be pairs of (inputs, labels) of several items, found {found_in(batch)}"
                )
            yield Stacked(batch[0], list(batch[1]))

    def _inputs(self, stacked: "Stacked | str") -> Tensor:
        if isinstance(stacked, str):
            raise UsageError(stacked)
        return stacked.inputs.float() if self.floats else stacked.inputs

    def _targets(self, stacked: "Stacked | str") -> Batch:
        inputs, labels = self._inputs(stacked), self.labels or LabelMap()
        assert isinstance(stacked, Stacked)
        if isinstance(labels, AnyLabel):
            return inputs, torch.zeros(len(stacked.labels), dtype=torch.long)
        return inputs, torch.tensor([labels.target(plain_label(label)) for label in stacked.labels])

    def as_floats(self) -> "ReaderSet":
        """The same set, its inputs handed out as floats."""
        self.floats = True
        return self

    def raw_labels(self) -> list[Any] | None:
        """Every label, where that takes no reading of images; else None."""
        if isinstance(self.dataset, list | tuple):
            return [plain_label(Pair(item).label) for item in self.dataset]
        targets = getattr(self.dataset, "targets", None)
        if targets is None or not hasattr(targets, "__len__") or len(targets) != len(self):
            return None
        labels = [plain_label(label) for label in targets]
        return labels if all(labels[i] == label for i, label in self._sampled_labels().items()) else None

    def read_labels(self) -> list[Any]:
        """Every label, by a reading of the whole set where need be."""
        known = self.raw_labels()
        return [plain_label(Pair(self.dataset[i]).label) for i in range(len(self))] if known is None else known

    def sampled_labels(self) -> list[Any]:
        """The labels of a few items all over the set."""
        return list(self._sampled_labels().values())

    def _sampled_labels(self) -> dict[int, Any]:
        with preserved_random():
            return {i: plain_label(Pair(self.dataset[i]).label) for i in _spread(len(self))}


def _check_map_style(dataset: Any) -> None:
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UsageError(
            f"{type(dataset).__name__} has no length or cannot be indexed; give a data set of (tensor, label) pairs, such as list(data)"
        )
    if len(dataset) == 0:
        raise UsageError("the data set is empty; give one with at least two images")


def _spread(length: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, length - 1, SAMPLED)})


def is_source(data: Any) -> bool:
    """Whether `data` hands out batches as the loop takes them already."""
    return hasattr(data, "in_order") and hasattr(data, "classes")


def as_source(data: Any, workers: int = 0) -> Any:
    """A map-style data set or a loader as the loop reads it; tensors in memory are taken as they lie.

    Raises UsageError, saying what was found, for what has no length or cannot be indexed, is empty, or has items that
    are no pairs.
    """
    if is_source(data):
        return data
    if isinstance(data, TensorDataset) and any(tensor.layout != torch.strided for tensor in data.tensors):
        raise UsageError("the data set holds sparse tensors, which cannot be indexed; make them dense by to_dense()")
    if type(data) is TensorDataset and len(data.tensors) == 2 and len(data) > 0 and not workers:
        labels = data.tensors[1]
        if (
            labels.ndim == 1
            and not labels.is_floating_point()
            and not labels.is_complex()
            and len(labels) == len(data.tensors[0])
        ):
            return MemorySet(data.tensors[0], labels.long(), ())
    return ReaderSet(data, workers)


def listed_batches(data: Any) -> bool:
    """Whether `data` is an iterable of batches already. Raises UsageError for what is no data at all."""
    if not (is_source(data) or hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise UsageError(
            f"a {type(data).__name__} is no data; give a data set of (tensor, label) pairs, a loader, or batches"
        )
    if is_source(data) or isinstance(data, DataLoader):
        return False
    return not hasattr(data, "__getitem__") or (isinstance(data, list | tuple) and len(data) > 0 and _is_batch(data[0]))


def _is_batch(item: Any) -> bool:
    """Whether these are inputs and labels of several images, and not one image and its label."""
    pair = isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(part, Tensor) for part in item)
    return pair and item[1].ndim == 1 and item[0].ndim > 1 and len(item[0]) == len(item[1])


def with_labels(source: Any, labels: LabelMap) -> Any:
    """The source, its labels turned into targets by `labels`. Raises UsageError for a label that is none of them."""
    if isinstance(source, ReaderSet):
        source.labels = labels
    elif isinstance(source, MemorySet) and not source.classes:
        numbers = source.labels.unique()
        targets = torch.tensor([labels.target(number) for number in numbers.tolist()])
        return replace(
            source,
            labels=targets[torch.searchsorted(numbers, source.labels.contiguous())].to(source.labels.device),
            classes=labels.names,
        )
    return source


def fingerprint(source: Any) -> str:
    """sha256 of a few items all over the set, whatever holds them; of random ones the shape alone, of a loader its
    first batch's.
    """
    total = hashlib.sha256(str(len(source)).encode())
    if isinstance(source, ReaderSet) and source.loader is not None:
        inputs = source.first_batch().inputs
        total.update(f"{tuple(inputs.shape)} {inputs.dtype}".encode() + tensor_bytes(inputs))
        return total.hexdigest()
    for i in _spread(len(source)):
        (inputs, label), (again, label_again) = (_read_seeded(source, i) for _ in range(2))
        total.update(f"{tuple(inputs.shape)} {inputs.dtype}".encode())
        if inputs.shape == again.shape and torch.equal(inputs, again) and torch.equal(label, label_again):
            total.update(tensor_bytes(inputs) + tensor_bytes(label))
    return total.hexdigest()


def _read_seeded(source: Any, index: int) -> Batch:
    with preserved_random():
        seed_everything(index)
        return source.batch(torch.tensor([index]))


def whole_digest(source: Any) -> str | None:
    """sha256 of all of a set that is known to lie in memory; None for any other, which would have to be read for it."""
    held = [source.inputs, source.labels] if isinstance(source, MemorySet) else _held(getattr(source, "dataset", None))
    if not held:
        return None
    total = hashlib.sha256()
    for tensor in held:
        total.update(tensor_bytes(tensor))
    return total.hexdigest()


def _held(data: Any) -> list[Tensor] | None:
    """The tensors that a set is made of, and those of the sets that it is made of; None where that is not known."""
    if isinstance(data, TensorDataset):
        return list(data.tensors)
    if isinstance(data, Subset):
        inner = _held(data.dataset)
        return None if inner is None else [*inner, torch.as_tensor(list(data.indices))]
    if isinstance(data, ConcatDataset):
        parts = [_held(part) for part in data.datasets]
        return None if None in parts else [tensor for part in parts for tensor in part or []]
    if isinstance(data, list | tuple) and all(isinstance(item, list | tuple) and len(item) == 2 for item in data):
        pairs = [(inputs, plain_label(label)) for inputs, label in data]
        if all(isinstance(inputs, Tensor) for inputs, _ in pairs):
            return [*(inputs for inputs, _ in pairs), torch.tensor(list(repr([label for _, label in pairs]).encode()))]
    tensors = [value for value in vars(data).values() if isinstance(value, Tensor)] if hasattr(data, "__dict__") else []
    whole = [
        tensor for tensor in tensors if tensor.ndim and len(tensor) == len(data) and tensor.layout == torch.strided
    ]
    return whole if len(whole) > 1 else None  # inputs and labels of a class of the reader's own


def known_labels(sources: Iterable[Any], read: bool) -> list[list[Any]]:
    """The labels of each source: all of them where they are at hand or `read` says to read them, else those of a few
    items.
    """
    found = []
    for source in sources:
        if not isinstance(source, ReaderSet):
            found.append(source.labels.unique().tolist())
        else:
            at_hand = source.raw_labels()
            found.append(at_hand if at_hand is not None else source.read_labels() if read else source.sampled_labels())
    return found
