"""The memory format in which a model computes fastest."""

import copy

import torch
from torch import Tensor, nn

from deepnet.machine import device


@torch.no_grad()
def fast_layout(model: nn.Module, inputs: Tensor) -> torch.memory_format:
    """Channels last for a model with convolutions that accepts such `inputs` (N, C, H, W); else contiguous.

    A model that flattens its maps by `view` does not accept them, so a copy is tried, in evaluation and in training
    mode. On MPS the gradients of channels-last batch normalization are wrong (pytorch/pytorch#175189).
    """
    if (
        device().type == "mps"
        or inputs.ndim != 4
        or not any(isinstance(module, nn.Conv2d) for module in model.modules())
    ):
        return torch.contiguous_format
    try:
        trial = copy.deepcopy(model).to(device()).to(memory_format=torch.channels_last)
        inputs = inputs.to(device(), next(model.parameters()).dtype, memory_format=torch.channels_last)
        for training in (False, True):
            trial.train(training)(inputs)
    except Exception:  # whatever a reader's own model raises
        return torch.contiguous_format
    return torch.channels_last
