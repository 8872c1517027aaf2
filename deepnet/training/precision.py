"""The precision of a run: which number types and kernels its products are computed with."""

from contextlib import AbstractContextManager, nullcontext

import torch

from deepnet.machine import device, has_bfloat16
from deepnet.speed.convolutions import LARGEST_SHIFT_AND_ADD, SmallMaps, bf16_autocast, conv2d_shift_and_add
from experimentTable import UsageError


def resolve_precision(precision: str) -> str:
    """`precision` with "auto" resolved: "fp32", "fp64" or "bf16". Raises UsageError if the device lacks it."""
    if device().type == "mps" and precision in ("fp64", "bf16"):
        raise UsageError(f"on mps experiments train in fp32, not in {precision}; set DEVICE=cpu for this one")
    if precision == "bf16" and not has_bfloat16():
        where = "processor" if device().type == "cpu" else "device"
        raise UsageError(f"this {where} has no bf16; choose precision 'fp32', or 'auto', which is fp32 here")
    return ("bf16" if has_bfloat16() else "fp32") if precision == "auto" else precision


def arithmetic(precision: str, convolves: bool = True, fast: bool = True) -> AbstractContextManager:
    """The context for a forward pass in this resolved precision, which decides how products are computed.

    convolves: whether the model has convolutions; if not, a deep MLP is spared the cost of intercepting them.
    fast: if False, a CPU uses torch's own convolutions too.
    """
    if not fast or device().type != "cpu":
        return torch.autocast(device().type, torch.bfloat16) if precision == "bf16" else nullcontext()
    if precision == "bf16":
        return bf16_autocast()
    return SmallMaps(LARGEST_SHIFT_AND_ADD, conv2d_shift_and_add) if convolves else nullcontext()


def cast(inputs: torch.Tensor, precision: str) -> torch.Tensor:
    """Floating-point inputs in the type of the model's weights; other inputs, such as token ids, are unchanged.

    For bf16 this is float32, which autocast rounds; but the cached outputs of a frozen prefix stay bfloat16.
    """
    if not inputs.is_floating_point():
        return inputs
    if precision == "fp64":
        return inputs.double()
    return inputs if precision == "bf16" and inputs.dtype == torch.bfloat16 else inputs.float()
