"""Products computed otherwise where torch's own way is slow: bf16 without its hardware, convolutions on small maps."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

# ---------------------------------------------------------------- bf16 with its hardware and without


@contextmanager
def native_bf16() -> Iterator[None]:
    """torch's bf16 autocast on a CPU that multiplies bf16, with convolutions on small maps by `conv2d_im2col`."""
    with torch.autocast("cpu", torch.bfloat16), SmallMaps(LARGEST_IM2COL, conv2d_im2col):
        yield


@contextmanager
def emulated_bf16() -> Iterator[None]:
    """torch's bf16 autocast on a CPU that has no bf16, with products by `RoundedProducts`: torch's own took ten times
    as long (Zen 1).
    """
    with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
        yield


class RoundedProducts(TorchFunctionMode):
    """While it and autocast are on, convolutions and linear layers compute in fp32 with operands rounded to bf16, and
    round what comes out.

    A product of two bf16 numbers is exact in fp32, and hardware sums them in fp32 too, so that this is its arithmetic
    but for the order of a sum. Gradients are rounded where autocast rounds them, since the backward pass of a rounding
    is one.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        named = kwargs or {}
        if func not in (torch.conv2d, linear) or not _casts(args[0] if args else named["input"]):
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_rounded, args), **{name: _rounded(arg) for name, arg in named.items()}).bfloat16()


def _rounded(argument: Any) -> Any:
    return argument.bfloat16().float() if isinstance(argument, Tensor) else argument


def _casts(x: Tensor) -> bool:
    """Whether autocast, which a model may switch off in a part of itself, would take `x` for a product in bf16."""
    return torch.is_autocast_enabled("cpu") and x.dtype != torch.float64


# ---------------------------------------------------------------- convolutions on small maps

LARGEST_SHIFT_AND_ADD, LARGEST_IM2COL = 2, 8  # sides of a map
# on the smallest oneDNN is slow forward too; beyond small ones patches pay for some kernels only
SMALLEST, SMALL = 2, 4
LARGEST_KERNEL = 2**20  # numbers; in bf16 as much as a core's second-level cache holds (Sapphire Rapids)
# of a kernel; a product for each, or patches that are larger than the map by as much, gain nothing beyond
MOST_TAPS = 25
MAX_IM2COL_NUMBERS = 2**27  # numbers, of all the patches of a batch: 256 MiB

Convolution = Callable[[Tensor, Tensor, Tensor | None, tuple[int, int], tuple[int, int]], Tensor]


class SmallMaps(TorchFunctionMode):
    """While it is on, a convolution that gives a map of at most `largest` x `largest` goes through `convolve`.

    There oneDNN is slow: with 512 channels on 2 x 2, at a fiftieth of the peak in bf16 (AMX), and its weight gradient
    up to 8 x 8.
    """

    def __init__(self, largest: int, convolve: Convolution) -> None:
        super().__init__()
        self.largest, self.convolve = largest, convolve

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.conv2d and not kwargs and self._takes(*args):
            return self.convolve(*args[:5])
        return func(*args, **(kwargs or {}))

    def _takes(
        self, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> bool:  # fmt: skip
        """Whether torch.conv2d's arguments, as nn.Conv2d gives them, are of such a convolution."""
        if x.ndim != 4 or dilation != (1, 1) or groups != 1 or weight.shape[2:].numel() > MOST_TAPS:
            return False
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in (stride, padding)):
            return False
        # as of torch's checkpoint, which comes again without this mode
        if torch._C._autograd._top_saved_tensors_default_hooks(False):
            return False
        inside = all(around < kernel for kernel, around in zip(weight.shape[2:], padding, strict=True))
        return inside and all(0 < side <= self.largest for side in _map(x, weight, stride, padding))


def _map(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> list[int]:
    """Height and width of what a convolution gives."""
    return [_outputs(*axis) for axis in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)]


def _outputs(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def conv2d_shift_and_add(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """torch.conv2d of (N, C, H, W) by (O, C, h, w), as one product for each tap of the kernel with the inputs that it
    falls on.

    The same sums without the padding's zeros, in another order: equal up to rounding, and so are the gradients. For
    fp32, where products are what takes the time: on maps of 2 x 2 more than half of a 3 x 3 kernel's are with padding.
    """
    if torch.is_autocast_enabled("cpu"):  # by the model itself; each tap would be rounded
        return torch.conv2d(x, weight, bias, stride, padding)
    rows, columns = (_reach(*axis) for axis in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True))
    images = x.permute(0, 2, 3, 1)
    # At once and in a piece of their own, (O, C) each: views of the kernel would have gradients that are as large, or
    # transposed.
    taps = weight.permute(2, 3, 0, 1).flatten(0, 1).contiguous().unbind()
    parts = [
        pad(linear(images[:, down, across], taps[i * weight.shape[3] + j]), (0, 0, left, right, above, below))
        for (i, down, above, below), (j, across, left, right) in product(rows, columns)
    ]
    total = sum(parts[1:], parts[0])
    return (total if bias is None else total + bias).permute(0, 3, 1, 2)


def _reach(size: int, kernel: int, stride: int, padding: int) -> list[tuple[int, slice, int, int]]:
    """Each tap along one axis that falls on the map: its number, the inputs it falls on, the outputs before and after
    without it.
    """
    outputs = _outputs(size, kernel, stride, padding)
    reach = []
    for tap in range(kernel):
        if served := [o for o in range(outputs) if 0 <= o * stride + tap - padding < size]:
            first, last = (o * stride + tap - padding for o in (served[0], served[-1]))
            reach.append((tap, slice(first, last + 1, stride), served[0], outputs - 1 - served[-1]))
    return reach


def conv2d_im2col(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """torch.conv2d of (N, C, H, W) by (O, C, h, w) under bf16 autocast, by `Im2colConvolution`.

    Operands and results are rounded to bf16 and sums are not, as torch's autocast has it; the order of a sum is
    another. Products with padding are not left out as by taps: in bf16 copies cost more than products.
    """
    if not (_casts(x) and _pays(x, weight, stride, padding)):
        return torch.conv2d(x, weight, bias, stride, padding)
    return Im2colConvolution.apply(
        x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16(), stride, padding
    )


def _pays(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> bool:
    """Whether the weights' gradient is the faster by patches (AMX): on small maps, on larger ones for 3x3 kernels of
    many channels.

    Where the patches would take too much memory it is left to torch.
    """
    shape = _map(x, weight, stride, padding)
    channels, taps = weight.shape[:2], weight.shape[2:].numel()
    if len(x) * math.prod(shape) * weight[0].numel() > MAX_IM2COL_NUMBERS:
        return False
    return max(shape) <= SMALL or (1 < taps <= 9 and min(channels) >= 64 and channels.numel() >= 64 * 128)


class Im2colConvolution(torch.autograd.Function):
    """torch.conv2d of (N, C, H, W) by (O, C, h, w) in its operands' precision; its weight gradient is one product with
    all patches.

    Outputs and the inputs' gradient are such products too on maps of at most 2 x 2, with large kernels 4 x 4; else
    oneDNN is as quick. Where the gradient is to be differentiated again, it is torch's own.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        # no view, so that a ReLU behind it may write in place
        return _convolve(x, weight, bias, stride, padding).detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        if torch.is_grad_enabled():  # by create_graph
            shape, needed = [len(weight)], list(ctx.needs_input_grad[:3])
            of = torch.ops.aten.convolution_backward(
                gradient, x, weight, shape, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, needed
            )
            return *of, None, None
        if ctx.needs_input_grad[0]:
            of_inputs = _input_gradient(gradient, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(gradient, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_inputs, of_weight, of_bias, None, None


def _slow_in_torch(shape: Sequence[int], weight: Tensor) -> bool:
    """Whether oneDNN is: on the smallest maps, and on small ones where a kernel is so large that it fetches it for each
    image.
    """
    return max(shape) <= (SMALL if weight.numel() > LARGEST_KERNEL else SMALLEST)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    shape = _map(x, weight, stride, padding)
    if not _slow_in_torch(shape, weight):
        return torch.conv2d(x, weight, bias, stride, padding)
    rows = linear(_patches(x, weight, stride, padding), weight.permute(0, 2, 3, 1).flatten(1), bias)
    return rows.unflatten(0, (-1, *shape)).permute(0, 3, 1, 2)


def _weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    columns = gradient.transpose(0, 1).flatten(1)  # a copy; a transposed view is slower to multiply
    return (columns @ _patches(x, weight, stride, padding)).unflatten(1, (*weight.shape[2:], -1)).permute(0, 3, 1, 2)


def _input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The inputs' gradient: by oneDNN, or where that is slow as one product for each phase, which is the inputs that
    meet the same taps.

    A phase's is a convolution of the outputs' gradient by its taps turned round. The gradient is turned round instead,
    and what comes out turned back, since such kernels are larger than maps.
    """
    if not _slow_in_torch(gradient.shape[2:], weight):
        only_inputs = [True, False, False]
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, only_inputs
        )[0]
    turned = gradient.permute(0, 2, 3, 1).flip(1, 2)
    of_inputs = x.new_zeros(len(x), *x.shape[2:], x.shape[1])  # a phase without taps keeps its zeros
    rows, columns = (
        _phases(*axis) for axis in zip(x.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, strict=True)
    )
    for (down, i, above, below), (across, j, left, right) in product(rows, columns):
        taps = weight[:, :, i, j]
        windows = _windows(pad(turned, (0, 0, left, right, above, below)), taps, (1, 1))
        part = windows.flatten(0, 2) @ taps.permute(2, 3, 0, 1).flatten(0, 2)
        of_inputs[:, down, across] = part.unflatten(0, windows.shape[:3]).flip(1, 2)
    return of_inputs.permute(0, 3, 1, 2)


def _phases(size: int, outputs: int, kernel: int, stride: int, padding: int) -> list[tuple[slice, slice, int, int]]:
    """Along one axis, for each phase: its inputs, its taps, and how much to pad the turned gradient by, before and
    after.
    """
    phases = []
    for start in range(min(stride, size)):
        first = (start + padding) % stride
        served, taps = len(range(start, size, stride)), len(range(first, kernel, stride))
        before = served - outputs + (start + padding - first) // stride
        if taps:
            phases.append(
                (slice(start, None, stride), slice(first, None, stride), before, taps - 1 - before + served - outputs)
            )
    return phases


def _patches(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """What each output is made of: (N * outputs, h * w * C), a row for each position of the kernel."""
    above, left = padding
    return _windows(pad(x.permute(0, 2, 3, 1), (0, 0, left, left, above, above)), weight, stride).flatten(0, 2)


def _windows(images: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    """The parts of (N, H, W, C) under each position of the kernel (O, C, h, w): (N, rows, columns, h * w * C)."""
    (height, width), (down, across) = weight.shape[2:], stride
    return images.unfold(1, height, down).unfold(2, width, across).permute(0, 1, 2, 4, 5, 3).flatten(3)
