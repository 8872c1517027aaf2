"""What an optimizer's steps lose time to on a CPU: subnormal numbers, and copies of channels-last gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def drop_subnormals(optimizer: torch.optim.Optimizer) -> None:
    """Set Adam's first moments to 0 where they are smaller than any normal number, as those of dead units become.

    They would stay there, since 0.9 times the smallest number is rounded to it again, and a CPU takes many times as
    long for each. No weight changes by it: such a step, even divided by an eps of 1e-16, is far below the rounding of a
    weight of normal size.
    """
    for moments in (state["exp_avg"] for state in optimizer.state.values() if "exp_avg" in state):
        moments.masked_fill_(moments.abs() < torch.finfo(moments.dtype).tiny, 0)


class ContiguousViews(TorchFunctionMode):
    """While it is on, fused optimizers see channels-last tensors as contiguous ones with permuted axes.

    Results are equal to the bit. On a CPU, torch makes a contiguous copy of each gradient that is not contiguous, and
    then does not use it: half of Adam's time (torch 2.14). With or without this mode, it goes through memory in the
    order of addresses, so weight, gradient and state must have the same memory format. autograd and torch's optimizers
    see to that.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (torch._fused_adam_, torch._fused_adamw_, torch._fused_sgd_):
            args = tuple([contiguous_view(t) for t in arg] if isinstance(arg, list) else arg for arg in args)
        return func(*args, **(kwargs or {}))


def contiguous_view(tensor: Tensor) -> Tensor:
    """The tensor itself, or of a channels-last one the view (N, H, W, C), which is contiguous."""
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if channels_last else tensor
