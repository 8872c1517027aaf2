"""Optimizer steps on tensors as they lie in memory, and moments without subnormal numbers."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def drop_subnormals(optimizer: torch.optim.Optimizer) -> None:
    """Set Adam's first moments to 0 where they are smaller than any normal number, as those of units that are silent
    become.

    There they stay, since 0.9 times the smallest number is rounded to it again, and a CPU takes many times as long for
    each. No weight can tell: a step of theirs, even over an eps of 1e-16, is far below what a weight of normal size
    resolves.
    """
    for moments in (state["exp_avg"] for state in optimizer.state.values() if "exp_avg" in state):
        moments.masked_fill_(moments.abs() < torch.finfo(moments.dtype).tiny, 0)


class ContiguousViews(TorchFunctionMode):
    """While it is on, fused optimizers see channels-last tensors as contiguous ones with other axes: the same numbers,
    to the bit.

    On a CPU torch makes a contiguous copy of each other gradient, and then does not use it: half of Adam's time (torch
    2.14). It goes through memory as it lies, with this or without: weight, gradient and state must lie alike, and
    autograd and torch's states do.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (torch._fused_adam_, torch._fused_adamw_, torch._fused_sgd_):
            args = tuple([contiguous_view(t) for t in arg] if isinstance(arg, list) else arg for arg in args)
        return func(*args, **(kwargs or {}))


def contiguous_view(tensor: Tensor) -> Tensor:
    """The tensor, or a channels-last one with its axes in the order of its memory: (N, H, W, C), which is
    contiguous.
    """
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if channels_last else tensor
