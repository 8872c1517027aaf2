"""Identification of a reader's data: a fingerprint of a few items, and a digest of all of them if that is cheap."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from deepnet.data.datasets import InMemoryDataset, LoaderDataset, evenly_spaced
from deepnet.data.items import is_pair
from deepnet.data.labels import plain_label
from deepnet.records.files import tensor_bytes
from deepnet.seeds import preserved_random, seed_everything


def fingerprint(source: Any) -> str:
    """sha256 of a few evenly spaced items, or of a loader's first batch; part of a record's identity.

    For an item that differs from reading to reading, only shape and type are used.
    """
    total = hashlib.sha256(str(len(source)).encode())
    if isinstance(source, LoaderDataset):
        inputs, _ = source.first_batch()
        total.update(f"{tuple(inputs.shape)} {inputs.dtype}".encode() + tensor_bytes(inputs))
        return total.hexdigest()
    for i in evenly_spaced(len(source)):
        (inputs, label), (again, label_again) = (_read_seeded(source, i) for _ in range(2))
        total.update(f"{tuple(inputs.shape)} {inputs.dtype}".encode())
        if inputs.shape == again.shape and torch.equal(inputs, again) and torch.equal(label, label_again):
            total.update(tensor_bytes(inputs) + tensor_bytes(label))
    return total.hexdigest()


def _read_seeded(source: Any, index: int) -> tuple[Tensor, Tensor]:
    with preserved_random():
        seed_everything(index)
        return source.batch(torch.tensor([index]))


def full_digest(source: Any) -> str | None:
    """sha256 of a whole set if it is known to be in memory; None for any other."""
    in_memory = isinstance(source, InMemoryDataset)
    tensors = [source.inputs, source.labels] if in_memory else _tensors_of(getattr(source, "dataset", None))
    if not tensors:
        return None
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor_bytes(tensor))
    return total.hexdigest()


def _tensors_of(data: Any) -> list[Tensor] | None:
    """All tensors of a set, including those of the sets that it wraps; None if they are not known."""
    if isinstance(data, TensorDataset):
        return list(data.tensors)
    if isinstance(data, Subset):
        inner = _tensors_of(data.dataset)
        return None if inner is None else [*inner, torch.as_tensor(list(data.indices))]
    if isinstance(data, ConcatDataset):
        parts = [_tensors_of(part) for part in data.datasets]
        return None if None in parts else [tensor for part in parts for tensor in part or []]
    if isinstance(data, list | tuple) and all(map(is_pair, data)):
        labels = repr([plain_label(label) for _, label in data])
        return [*(inputs for inputs, _ in data), torch.tensor(list(labels.encode()))]
    # a reader's own class that holds inputs and labels as attributes
    tensors = [value for value in getattr(data, "__dict__", {}).values() if isinstance(value, Tensor)]
    whole = [t for t in tensors if t.ndim and len(t) == len(data) and t.layout == torch.strided]
    return whole if len(whole) > 1 else None
