"""The pieces that models are built from: chains of layers, plain and residual blocks; and how a forward pass computes its products.

A `layer` (and a `projection`) is any callable (width in, width out) -> module, such as `nn.Linear` or
`partial(nn.Conv2d, kernel_size=3, padding=1)`. Widths are features or channels, the input's first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

from experimentTable import UsageError

Layer = Callable[[int, int], nn.Module]


def chain(widths: Sequence[int], layer: Layer) -> nn.Sequential:
    """One layer from each width to the next, ReLU between them and none after the last.

    Raises UsageError for fewer than two widths.
    """
    if len(widths) < 2:
        raise UsageError(f"a chain needs at least two widths, got {list(widths)}; give the input's and the output's")
    modules: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        modules += [layer(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def plain_block(widths: Sequence[int], layer: Layer) -> nn.Sequential:
    """A chain with a ReLU after the last layer too."""
    return chain(widths, layer).append(nn.ReLU())


class ResidualBlock(nn.Module):
    """relu(body(x) + shortcut(x)), the two being of one shape (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def residual_block(widths: Sequence[int], layer: Layer, projection: Layer) -> ResidualBlock:
    """A chain with a shortcut: the identity where first and last width agree, else a projection."""
    first, last = widths[0], widths[-1]
    return ResidualBlock(chain(widths, layer), nn.Identity() if first == last else projection(first, last))


# ---------------------------------------------------------------- bf16 without its hardware


@contextmanager
def emulated_bf16() -> Iterator[None]:
    """torch's bf16 autocast on a CPU that has no bf16, with products by `RoundedProducts`: torch's own took ten times as long (Zen 1)."""
    with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
        yield


class RoundedProducts(TorchFunctionMode):
    """While it is on, convolutions and linear layers compute in fp32 with operands rounded to bf16, and round what comes out.

    A product of two bf16 numbers is exact in fp32, and hardware sums them in fp32 too, so that this is its arithmetic but for the
    order of a sum. Gradients are rounded where autocast rounds them, since the backward pass of a rounding is one.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func not in (torch.conv2d, linear):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            rounded = [arg.bfloat16().float() if isinstance(arg, Tensor) else arg for arg in args]
            return func(*rounded, **(kwargs or {})).bfloat16()


# ---------------------------------------------------------------- convolutions on small maps


class SmallMaps(TorchFunctionMode):
    """While it is on, a convolution that gives a map of at most 2 x 2 is a sum of matrix products (see `conv2d_by_taps`).

    More than half of a 3 x 3 kernel's products there are with padding, and oneDNN's backward pass is slow besides.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.conv2d and not kwargs and _gives_small_map(*args):
            return conv2d_by_taps(*args[:5])
        return func(*args, **(kwargs or {}))


def _gives_small_map(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> bool:  # fmt: skip
    """Whether torch.conv2d's arguments, as nn.Conv2d gives them, are of a convolution that is quicker by taps."""
    if not isinstance(padding, tuple) or dilation != (1, 1) or groups != 1 or x.ndim != 4 or max(weight.shape[2:]) == 1:
        return False
    axes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    return all(0 <= size + 2 * around - kernel < 2 * step and around < kernel for size, kernel, step, around in axes)


def conv2d_by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """torch.conv2d of (N, C, H, W) by (O, C, h, w), as one product for each tap of the kernel with the inputs that it falls on.

    The same sums without the padding's zeros, in another order: equal up to rounding, and so are the gradients.
    """
    rows, columns = (_reach(*axis) for axis in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True))
    images = x.permute(0, 2, 3, 1)
    # At once and in a piece of their own, (O, C) each: views of the kernel would have gradients that are as large, or transposed.
    taps = weight.permute(2, 3, 0, 1).flatten(0, 1).contiguous().unbind()
    parts = [
        pad(linear(images[:, down, across], taps[i * weight.shape[3] + j]), (0, 0, left, right, above, below))
        for (i, down, above, below), (j, across, left, right) in product(rows, columns)
    ]
    total = sum(parts[1:], parts[0])
    return (total if bias is None else total + bias).permute(0, 3, 1, 2)


def _reach(size: int, kernel: int, stride: int, padding: int) -> list[tuple[int, slice, int, int]]:
    """Each tap along one axis that falls on the map: its number, the inputs it falls on, the outputs before and after without it."""
    outputs = (size + 2 * padding - kernel) // stride + 1
    reach = []
    for tap in range(kernel):
        if served := [o for o in range(outputs) if 0 <= o * stride + tap - padding < size]:
            first, last = (o * stride + tap - padding for o in (served[0], served[-1]))
            reach.append((tap, slice(first, last + 1, stride), served[0], outputs - 1 - served[-1]))
    return reach
