"""The data sets of the training loop: tensors in memory, and a reader's own map-style data set or loader.

A reader's own data set is read by a `torch.utils.data.DataLoader`, item by item and again in each epoch. One reading
gives both image and label, so random transforms stay random and each image keeps its own label.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from deepnet.data.items import Collated, as_pair, collate, found_in, is_pair
from deepnet.data.labels import LabelMap, plain_label
from deepnet.seeds import preserved_random, seed_everything
from experimentTable import UsageError

Batch = tuple[Tensor, Tensor]
SAMPLED_ITEMS = 8  # items that represent a reader's data set if reading all of it would take too long


def epoch_batches(images: int, batch_size: int, generator: torch.Generator, steps: int | None = None) -> list[Tensor]:
    """Shuffled indices in batches: one pass over all images, or exactly `steps` batches from as many passes as needed.

    A last batch of one image, which batch normalization cannot train on, is added to the batch before it.
    """
    batches: list[Tensor] = []
    while not batches or (steps and len(batches) < steps):
        parts = list(torch.randperm(images, generator=generator).split(batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        batches += parts
    return batches[:steps]


class BatchSource(ABC):
    """A data set for the training loop, which gives batches of inputs (B, ...) and int64 targets (B,).

    A subclass defines its length, `classes` (the meaning of each output) and `batch`.
    """

    classes: Sequence[Any]
    labels: Tensor  # int64 (N,), if they are in memory

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """The inputs (B, ...) and int64 targets (B,) at `indices` (B,)."""

    def batches(self, order: Sequence[Tensor]) -> Iterable[Batch]:
        """One batch for each tensor of indices in `order`."""
        return map(self.batch, order)

    def shuffled(self, batch_size: int, generator: torch.Generator, steps: int | None = None) -> Iterable[Batch]:
        """The batches of one epoch, in an order drawn from `generator`; see `epoch_batches`."""
        return self.batches(epoch_batches(len(self), batch_size, generator, steps))

    def in_order(self, batch_size: int) -> Iterable[Batch]:
        """Batches in which every item comes once, in order."""
        return self.batches(torch.arange(len(self)).split(batch_size))

    def first_inputs(self, count: int) -> Tensor:
        """The first inputs, at most `count`."""
        return self.batch(torch.arange(min(count, len(self))))[0]

    def known_labels(self, read_all: bool) -> list[Any]:
        """All labels if they are in memory or `read_all` is set, else those of a few items."""
        return self.labels.unique().tolist()


@dataclass(frozen=True)
class InMemoryDataset(BatchSource):
    """Tensors in memory: `inputs` (N, ...), and `labels` (N,), int64 from 0 to len(classes) - 1."""

    inputs: Tensor
    labels: Tensor
    classes: Sequence[Any]
    floats: bool = False  # convert inputs of an integer type to floats

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> Batch:
        # a blocking copy would synchronize with the device in every batch
        indices = indices.to(self.inputs.device, non_blocking=True)
        inputs = self.inputs[indices]
        return inputs.float() if self.floats else inputs, self.labels[indices]

    def as_floats(self) -> "InMemoryDataset":
        """The same set, its inputs converted to floats."""
        return replace(self, floats=True)


class UserDataset(BatchSource):
    """A reader's own map-style data set, read as it is.

    `label_map` maps its labels to targets; None ignores the labels and makes all targets 0.
    """

    def __init__(self, dataset: Any, workers: int = 0) -> None:
        self.dataset = dataset
        self.workers = workers
        self.classes = ()
        self.label_map: LabelMap | None = LabelMap()
        self.floats = False  # convert inputs of an integer type to floats
        is_map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if isinstance(dataset, IterableDataset) or not is_map_style:
            raise UsageError(
                f"{type(dataset).__name__} has no length or cannot be indexed; "
                "give a data set of (tensor, label) pairs, such as list(data)"
            )
        if len(dataset) == 0:
            raise UsageError("the data set is empty; give one with at least two images")

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Tensor) -> Batch:
        """The items at `indices`, stacked. Raises UsageError if they are not pairs, or their shapes differ."""
        return self._targets(collate([self.dataset[i] for i in indices.tolist()]))

    def batches(self, order: Sequence[Tensor]) -> Iterable[Batch]:
        """One batch for each tensor of indices in `order`, read by `workers` processes."""
        loader = DataLoader(
            self.dataset,
            batch_sampler=[indices.tolist() for indices in order],
            num_workers=self.workers,
            collate_fn=collate,
            # without a generator of its own the loader would draw from torch's global one
            generator=torch.Generator().manual_seed(torch.initial_seed()),
        )
        return map(self._targets, loader)

    def first_inputs(self, count: int) -> Tensor:
        return self._inputs(collate([self.dataset[i] for i in range(min(count, len(self)))]))

    def _inputs(self, collated: Collated | str) -> Tensor:
        if isinstance(collated, str):
            raise UsageError(collated)
        return collated[0].float() if self.floats else collated[0]

    def _targets(self, collated: Collated | str) -> Batch:
        inputs, labels = self._inputs(collated), collated[1]
        if self.label_map is None:
            return inputs, torch.zeros(len(labels), dtype=torch.long)
        return inputs, torch.tensor([self.label_map.target(plain_label(label)) for label in labels])

    def as_floats(self) -> "UserDataset":
        """The same set, its inputs converted to floats."""
        self.floats = True
        return self

    def known_labels(self, read_all: bool) -> list[Any]:
        if isinstance(self.dataset, list | tuple):
            return list(self._labels(range(len(self))).values())
        sampled = self._labels(evenly_spaced(len(self)))
        targets = getattr(self.dataset, "targets", None)
        if targets is not None and hasattr(targets, "__len__") and len(targets) == len(self):
            labels = [plain_label(label) for label in targets]
            if all(labels[i] == label for i, label in sampled.items()):  # not so with a target_transform
                return labels
        return list((self._labels(range(len(self))) if read_all else sampled).values())

    def _labels(self, indices: Iterable[int]) -> dict[int, Any]:
        with preserved_random():
            return {i: plain_label(as_pair(self.dataset[i])[1]) for i in indices}


class LoaderDataset(UserDataset):
    """A reader's own loader, which gives its own batches in its own order."""

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader.dataset)
        self.loader = loader
        self._first_batch: Collated | None = None

    def shuffled(self, batch_size: int, generator: torch.Generator, steps: int | None = None) -> Iterable[Batch]:
        """The batches of one pass of the loader."""
        return map(self._targets, self._loaded())

    def in_order(self, batch_size: int) -> Iterable[Batch]:
        return map(self._targets, self._loaded())

    def first_inputs(self, count: int) -> Tensor:
        """The first inputs of the loader's first batch, at most `count`, the same in each call."""
        return self._inputs(self.first_batch())[:count]

    def first_batch(self) -> Collated:
        """The loader's first batch, which is read once. Raises UsageError if the loader gives no batch."""
        if self._first_batch is None:
            with preserved_random():
                seed_everything(0)
                self._first_batch = next(self._loaded(), None)
        if self._first_batch is None:
            raise UsageError("the loader gives no batch; give it more items, or leave out drop_last")
        return self._first_batch

    def _loaded(self) -> Iterator[Collated]:
        if self.loader.generator is not None:
            # with the epoch's own seed, so that a resumed run draws the same numbers as an uninterrupted one
            self.loader.generator.manual_seed(torch.initial_seed())
        for batch in self.loader:
            labels = batch[1] if is_pair(batch) else None
            if not (isinstance(labels, list | tuple) or (isinstance(labels, Tensor) and labels.ndim)):
                raise UsageError(
                    f"the loader's batches must be pairs of (inputs, labels) of several items, found {found_in(batch)}"
                )
            yield batch[0], list(labels)


def evenly_spaced(length: int) -> list[int]:
    """A few indices from the first to the last item of a set of this length."""
    return sorted({int(i) for i in np.linspace(0, length - 1, SAMPLED_ITEMS)})


def as_source(data: Any, workers: int = 0) -> Any:
    """A map-style data set or a loader as a BatchSource; a TensorDataset of inputs and labels is read from memory.

    Raises UsageError for a data set that has no length, cannot be indexed, is empty, or has items that are not pairs.
    """
    if isinstance(data, BatchSource):
        return data
    if isinstance(data, TensorDataset) and any(tensor.layout != torch.strided for tensor in data.tensors):
        raise UsageError("the data set holds sparse tensors, which cannot be indexed; make them dense by to_dense()")
    if type(data) is TensorDataset and len(data.tensors) == 2 and len(data) > 0 and not workers:
        inputs, labels = data.tensors
        classes = labels.ndim == 1 and not labels.is_floating_point() and not labels.is_complex()
        if classes and len(labels) == len(inputs):
            return InMemoryDataset(inputs, labels.long(), ())
    if isinstance(data, DataLoader):
        if workers:
            raise UsageError("a DataLoader has workers of its own; set num_workers there and leave out workers")
        return LoaderDataset(data)
    source = UserDataset(data, workers)
    as_pair(data[0])
    return source


def is_iterable_of_batches(data: Any) -> bool:
    """Whether `data` is an iterable of batches. Raises UsageError if it is neither iterable nor indexable."""
    if not (isinstance(data, BatchSource) or hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise UsageError(
            f"a {type(data).__name__} is not data; give a data set of (tensor, label) pairs, a loader, or batches"
        )
    if isinstance(data, BatchSource | DataLoader):
        return False
    return not hasattr(data, "__getitem__") or (isinstance(data, list | tuple) and len(data) > 0 and _is_batch(data[0]))


def _is_batch(item: Any) -> bool:
    """Whether this is a batch of images and labels, rather than one image and its label."""
    return is_pair(item, Tensor) and item[1].ndim == 1 and item[0].ndim > 1 and len(item[0]) == len(item[1])


def with_labels(source: Any, labels: LabelMap) -> Any:
    """The source with its labels mapped to targets. Raises UsageError for a label without an output."""
    if isinstance(source, UserDataset):
        source.label_map, source.classes = labels, labels.names
    elif isinstance(source, InMemoryDataset) and not source.classes:
        numbers, positions = source.labels.unique(return_inverse=True)
        targets = torch.tensor([labels.target(number) for number in numbers.tolist()], device=positions.device)
        return replace(source, labels=targets[positions], classes=labels.names)
    return source
