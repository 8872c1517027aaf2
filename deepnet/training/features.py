"""Feature extraction: the inputs of a model's last layer."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from deepnet.data.datasets import LoaderDataset, UserDataset, as_source, is_iterable_of_batches
from deepnet.training.precision import arithmetic, cast
from deepnet.training.ready import BATCH_SIZE, as_the_model_takes, device_of, size_of_batches, usable_precision
from experimentTable import UsageError


@torch.no_grad()
def forward_all(
    model: nn.Module, data: Any, precision: str = "fp32", most_bytes: float = math.inf, *, batch_size: int = 500,
    fast: bool = True,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """The outputs (N, ...) of `model` for all of `data`, in its memory format, and the targets (N,).

    `data` is read once, in batches of `batch_size`, or in a loader's own. The model is left in evaluation mode. Returns
    None if the outputs take more than `most_bytes`.
    """
    model.eval()
    source, device = as_source(data), device_of(model)
    outputs, pieces, targets, done = None, [], [], 0
    known = not isinstance(source, LoaderDataset)  # a loader may omit or repeat items
    for inputs, labels in source.in_order(batch_size):
        with arithmetic(precision, fast=fast):
            chunk = model(cast(inputs.to(device), precision))
        if known and outputs is None:
            if chunk[0].numel() * chunk.element_size() * len(source) > most_bytes:
                return None
            channels_last = chunk.ndim == 4 and chunk.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            outputs = torch.empty(
                (len(source), *chunk.shape[1:]), dtype=chunk.dtype, device=chunk.device, memory_format=layout
            )
        if outputs is None:
            pieces.append(chunk)
        else:
            outputs[done : done + len(chunk)] = chunk
        targets.append(labels)
        done += len(chunk)
    if not targets:
        raise UsageError("the data gave no batch; give at least one image")
    outputs = torch.cat(pieces) if outputs is None else outputs
    return (outputs, torch.cat(targets).to(outputs.device)) if outputs.nbytes <= most_bytes else None


def extract_features(
    model: nn.Module, data: Any, precision: str | None = None, *, batch_size: int | None = None, fast: bool = False
) -> Tensor:
    """The inputs of the Linear layer that runs last, flattened: (N, features) in float32.

    For ResNet-18, these are the 512 average-pooled features that the report's baseline is fitted on. `data` is a data
    set of (tensor, label) pairs, read in batches of `batch_size` (default 128), or a loader; the labels are ignored.
    `precision` is by default the model's own. The model is left in evaluation mode. Raises UsageError for a model that
    calls no Linear layer.

    >>> extract_features(torchvision.models.resnet18(), test_set).shape
    torch.Size([10000, 512])
    """
    size = size_of_batches("batch_size", data, batch_size, BATCH_SIZE)
    precision = usable_precision(model, precision)
    if is_iterable_of_batches(data):
        data = [(image, 0) for inputs, *_ in data for image in inputs]
    source = as_source(data)
    if isinstance(source, UserDataset):
        source.label_map = None
    source = as_the_model_takes(model, source)
    features: list[Tensor] = []
    latest: list[Tensor] = []

    def look(_layer: nn.Module, inputs: tuple, named: dict) -> None:
        latest[:] = inputs or named.values()

    def keep(*_: Any) -> None:
        if not latest:
            found = f"{type(model).__name__} calls no Linear layer as a module, from which to take features"
            raise UsageError(f"{found}; use forward_all(model, data)")
        features.append(latest.pop().flatten(1).float())

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks: list[Any] = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    hooks.append(model.register_forward_hook(keep))
    try:
        forward_all(model, source, precision, batch_size=size, fast=fast)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(features)
