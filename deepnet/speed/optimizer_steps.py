"""Faster optimizer steps on a CPU: without subnormal numbers, and without copies of channels-last gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def drop_subnormals(optimizer: torch.optim.Optimizer) -> None:
    """Set Adam's subnormal first moments, which dead units come to have, to 0.

    They would stay subnormal, since 0.9 times the smallest number is rounded to it again, and a CPU takes many times as
    long for each. No weight of normal size changes by this: such a moment, even divided by an eps of 1e-16, is far
    below its rounding.
    """
    for moments in (state["exp_avg"] for state in optimizer.state.values() if "exp_avg" in state):
        moments.masked_fill_(moments.abs() < torch.finfo(moments.dtype).tiny, 0)


class ContiguousViews(TorchFunctionMode):
    """A mode in which fused optimizers see channels-last tensors as contiguous ones with permuted axes.

    Results are bitwise equal. On a CPU, torch makes a contiguous copy of each gradient that is not contiguous, and then
    does not use it, which takes half of Adam's time (torch 2.14). With or without this mode, the fused kernels go
    through memory in the order of addresses, so weight, gradient and state must have the same memory format. autograd
    and torch's optimizers ensure this.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (torch._fused_adam_, torch._fused_adamw_, torch._fused_sgd_):
            args = tuple([contiguous_view(t) for t in arg] if isinstance(arg, list) else arg for arg in args)
        return func(*args, **(kwargs or {}))


def contiguous_view(tensor: Tensor) -> Tensor:
    """The tensor itself, or for a channels-last one its contiguous view (N, H, W, C)."""
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if channels_last else tensor
