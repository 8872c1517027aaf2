"""The device, and what it can compute."""

import functools
import os
import platform
from pathlib import Path

import torch

from experimentTable import UsageError


@functools.cache
def device() -> torch.device:
    """The device that `DEVICE` in the environment names, else CUDA if there is a GPU, else the CPU.

    On CUDA, this sets fp32 to mean fp32, not TF32, and convolutions to be deterministic. Apple's MPS is used only if
    `DEVICE` says so: this project has not been tried on it, and some of torch's operations there give wrong numbers.
    Raises UsageError if this machine lacks the device that `DEVICE` names.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    if chosen := os.environ.get("DEVICE"):
        available = {
            "cpu": True,
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "xpu": torch.xpu.is_available(),
        }
        try:
            if available.get(torch.device(chosen).type):
                return torch.zeros((), device=chosen).device
        except (RuntimeError, AssertionError):
            pass
        usable = " or ".join(name for name, is_there in available.items() if is_there)
        raise UsageError(f"DEVICE={chosen} cannot be used here; set it to {usable}, or unset it")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_float64() -> bool:
    """Whether the device computes in float64; Apple's MPS does not."""
    return device().type != "mps"


@functools.cache
def has_bfloat16() -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere torch emulates it, which is slower than fp32."""
    if device().type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if device().type == "xpu":
        return torch.xpu.is_bf16_supported()
    # On a CPU, oneDNN computes the products, and needs one of these instruction sets.
    return device().type == "cpu" and any(name in _processor_info() for name in ("avx512_bf16", "amx_bf16"))


@functools.cache
def processor_name() -> str:
    """The processor's name, with its family and model numbers if /proc/cpuinfo has them."""
    lines = [line.partition(":") for line in _processor_info().partition("\n\n")[0].splitlines()]
    fields = {key.strip(): value.strip() for key, _, value in lines}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"


def _processor_info() -> str:
    """The content of /proc/cpuinfo; empty if there is none."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
