"""The number types that a run computes in."""

from contextlib import nullcontext
from typing import Any

import torch

from deepnet.machine import device, has_bfloat16
from deepnet.speed.products import LARGEST_SHIFT_AND_ADD, SmallMaps, conv2d_shift_and_add, emulated_bf16, native_bf16
from experimentTable import UsageError


def resolve_precision(precision: str) -> str:
    """ "fp32", "fp64" or "bf16": what "auto" means here. Raises UsageError where the device lacks what is asked."""
    if device().type == "mps" and precision in ("fp64", "bf16"):
        raise UsageError(f"on mps experiments train in fp32, not in {precision}; set DEVICE=cpu for this one")
    return ("bf16" if has_bfloat16() else "fp32") if precision == "auto" else precision


def arithmetic(precision: str, convolves: bool = True, fast: bool = True) -> Any:
    """The context that a forward pass runs in at this resolved precision: how its products are computed.

    convolves: whether the model has convolutions. Where it has none, a deep MLP is spared the mode that looks out for
        them.
    fast: without it, products are torch's own on a CPU too.
    """
    if not fast:
        return torch.autocast(device().type, torch.bfloat16) if precision == "bf16" else nullcontext()
    if device().type != "cpu":
        return torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16")
    if precision != "bf16":
        return SmallMaps(LARGEST_SHIFT_AND_ADD, conv2d_shift_and_add) if convolves else nullcontext()
    return native_bf16() if has_bfloat16() else emulated_bf16()


def cast(inputs: torch.Tensor, precision: str) -> torch.Tensor:
    """A batch of floating-point numbers in the type its model has; others, such as token ids, stay what they are.

    Autocast sees to bf16, in which a frozen prefix's outputs come already.
    """
    if not inputs.is_floating_point():
        return inputs
    if precision == "fp64":
        return inputs.double()
    return inputs if precision == "bf16" and inputs.dtype == torch.bfloat16 else inputs.float()
