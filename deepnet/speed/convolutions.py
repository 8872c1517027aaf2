"""Convolutions on small maps as matrix products, since oneDNN, which torch uses on a CPU, is slow there.

In fp32 by shift-and-add (kn2row), in bf16 by im2col.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]
Convolution = Callable[[Tensor, Tensor, Tensor | None, Pair, Pair], Tensor]

LARGEST_SHIFT_AND_ADD, LARGEST_IM2COL = 2, 8  # the largest side of an output map that each is used for
# Sides of output maps: oneDNN's forward pass is slow up to the first, its backward passes up to the second
SMALLEST, SMALL = 2, 4
LARGE_KERNEL = 2**20  # numbers; in bf16, these fill a core's second-level cache (Sapphire Rapids)
MAX_KERNEL_POSITIONS = 25  # beyond 5 x 5 neither is faster: each position costs a product or a copy of the map
MAX_IM2COL_NUMBERS = 2**27  # numbers in a batch's im2col matrix: 256 MiB


@contextmanager
def bf16_autocast() -> Iterator[None]:
    """torch's bf16 autocast on a CPU, with convolutions on small maps by `conv2d_im2col`."""
    with torch.autocast("cpu", torch.bfloat16), SmallMaps(LARGEST_IM2COL, conv2d_im2col):
        yield


class SmallMaps(TorchFunctionMode):
    """A mode in which convolutions with output maps of at most `largest` x `largest` are computed by `convolve`.

    oneDNN is slow there: with 512 channels on 2 x 2 maps it reaches a fiftieth of the peak in bf16 (AMX), and its
    weight gradient is slow on maps up to 8 x 8.
    """

    def __init__(self, largest: int, convolve: Convolution) -> None:
        super().__init__()
        self.largest, self.convolve = largest, convolve

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.conv2d and not kwargs and self._applies(*args):
            return self.convolve(*args[:5])
        return func(*args, **(kwargs or {}))

    def _applies(
        self, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> bool:  # fmt: skip
        """Whether these arguments of torch.conv2d, as nn.Conv2d gives them, describe such a convolution."""
        if x.ndim != 4 or dilation != (1, 1) or groups != 1 or weight.shape[2:].numel() > MAX_KERNEL_POSITIONS:
            return False
        if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in (stride, padding)):
            return False
        # torch.utils.checkpoint computes the forward pass again without this mode.
        if torch._C._autograd._top_saved_tensors_default_hooks(False):
            return False
        overlaps = all(added < kernel for kernel, added in zip(weight.shape[2:], padding, strict=True))
        return overlaps and all(0 < side <= self.largest for side in _output_shape(x, weight, stride, padding))


def _output_shape(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> list[int]:
    """Height and width of a convolution's output map."""
    return [_output_size(*axis) for axis in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)]


def _output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


# ---------------------------------------------------------------- fp32: shift-and-add


def conv2d_shift_and_add(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """torch.conv2d of (N, C, H, W) by (O, C, h, w) as a sum of matrix products, one per kernel position.

    The sums are the same in another order, without the padding's zeros; outputs and gradients are equal up to
    rounding. This suits fp32, where the products take most of the time: on 2 x 2 maps, more than half of the products
    of a 3 x 3 kernel are with padding.
    """
    if torch.is_autocast_enabled("cpu"):  # by the model itself; each position's product would be rounded
        return torch.conv2d(x, weight, bias, stride, padding)
    rows, columns = (_overlaps(*axis) for axis in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True))
    images = x.permute(0, 2, 3, 1)
    # One (O, C) matrix per kernel position, all copied at once: gradients of views of the kernel would be as large as
    # the kernel, or transposed.
    matrices = weight.permute(2, 3, 0, 1).flatten(0, 1).contiguous().unbind()
    parts = [
        pad(linear(images[:, down, across], matrices[i * weight.shape[3] + j]), (0, 0, left, right, above, below))
        for (i, down, above, below), (j, across, left, right) in product(rows, columns)
    ]
    total = sum(parts[1:], parts[0])
    return (total if bias is None else total + bias).permute(0, 3, 1, 2)


def _overlaps(size: int, kernel: int, stride: int, padding: int) -> list[tuple[int, slice, int, int]]:
    """For each kernel position along one axis that overlaps the map: its index, the inputs that it is multiplied with,
    and how many outputs before and after these it does not contribute to.
    """
    outputs = _output_size(size, kernel, stride, padding)
    found = []
    for position in range(kernel):
        if met := [o for o in range(outputs) if 0 <= o * stride + position - padding < size]:
            first, last = (o * stride + position - padding for o in (met[0], met[-1]))
            found.append((position, slice(first, last + 1, stride), met[0], outputs - 1 - met[-1]))
    return found


# ---------------------------------------------------------------- bf16: im2col


def conv2d_im2col(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """torch.conv2d of (N, C, H, W) by (O, C, h, w) under bf16 autocast, by `Im2colConvolution` if that is faster.

    As in torch's autocast, operands and results are rounded to bf16 and sums are not; the order of a sum differs.
    Unlike in shift-and-add, products with padding are computed too, since in bf16 copies cost more than products.
    """
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64  # a model may switch autocast off
    if not (autocast and _im2col_pays(x, weight, stride, padding)):
        return torch.conv2d(x, weight, bias, stride, padding)
    return Im2colConvolution.apply(
        x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16(), stride, padding
    )


def _im2col_pays(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> bool:
    """Whether the weight gradient is faster by im2col (AMX): on small maps, and on larger ones with many channels and
    kernels up to 3x3, unless the matrix takes too much memory.
    """
    shape = _output_shape(x, weight, stride, padding)
    channels, positions = weight.shape[:2], weight.shape[2:].numel()
    if len(x) * math.prod(shape) * weight[0].numel() > MAX_IM2COL_NUMBERS:
        return False
    return max(shape) <= SMALL or (1 < positions <= 9 and min(channels) >= 64 and channels.numel() >= 64 * 128)


class Im2colConvolution(torch.autograd.Function):
    """torch.conv2d of (N, C, H, W) by (O, C, h, w) with the weight gradient as one matrix product.

    Outputs and the input gradient are matrix products too if oneDNN is slow (`_slow_in_torch`). With create_graph, the
    gradients are torch's own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return _convolve(x, weight, bias, stride, padding).detach()  # not a view, so that a ReLU can work in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        if torch.is_grad_enabled():  # by create_graph
            shape, needed = [len(weight)], list(ctx.needs_input_grad[:3])
            gradients = torch.ops.aten.convolution_backward(
                gradient, x, weight, shape, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, needed
            )
            return *gradients, None, None
        if ctx.needs_input_grad[0]:
            of_inputs = _input_gradient(gradient, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(gradient, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_inputs, of_weight, of_bias, None, None


def _slow_in_torch(shape: Sequence[int], weight: Tensor) -> bool:
    """Whether oneDNN is slow: on the smallest maps, and on small ones if the kernel does not fit in the cache."""
    return max(shape) <= (SMALL if weight.numel() > LARGE_KERNEL else SMALLEST)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    shape = _output_shape(x, weight, stride, padding)
    if not _slow_in_torch(shape, weight):
        return torch.conv2d(x, weight, bias, stride, padding)
    rows = linear(_im2col(x, weight, stride, padding), weight.permute(0, 2, 3, 1).flatten(1), bias)
    return rows.unflatten(0, (-1, *shape)).permute(0, 3, 1, 2)


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    columns = gradient.transpose(0, 1).flatten(1)  # a copy; a transposed view is slower to multiply
    return (columns @ _im2col(x, weight, stride, padding)).unflatten(1, (*weight.shape[2:], -1)).permute(0, 3, 1, 2)


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """The input gradient: by oneDNN or, if that is slow, as one product per phase.

    A phase is the set of inputs that are multiplied with the same kernel positions. Its gradient is the output gradient
    convolved with the flipped kernel at these positions. Instead of the kernel, which is larger than the maps here, the
    output gradient is flipped, and the result is flipped back.
    """
    if not _slow_in_torch(gradient.shape[2:], weight):
        only_inputs = [True, False, False]
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, only_inputs
        )[0]
    flipped = gradient.permute(0, 2, 3, 1).flip(1, 2)
    of_inputs = x.new_zeros(len(x), *x.shape[2:], x.shape[1])  # a phase without positions keeps its zeros
    rows, columns = (
        _phases(*axis) for axis in zip(x.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, strict=True)
    )
    for (down, i, above, below), (across, j, left, right) in product(rows, columns):
        kernel = weight[:, :, i, j]
        windows = _windows(pad(flipped, (0, 0, left, right, above, below)), kernel, (1, 1))
        part = windows.flatten(0, 2) @ kernel.permute(2, 3, 0, 1).flatten(0, 2)
        of_inputs[:, down, across] = part.unflatten(0, windows.shape[:3]).flip(1, 2)
    return of_inputs.permute(0, 3, 1, 2)


def _phases(size: int, outputs: int, kernel: int, stride: int, padding: int) -> list[tuple[slice, slice, int, int]]:
    """For each phase along one axis: its inputs, its kernel positions, and the padding of the flipped gradient before
    and after.
    """
    phases = []
    for start in range(min(stride, size)):
        first = (start + padding) % stride
        inputs, positions = len(range(start, size, stride)), len(range(first, kernel, stride))
        before = inputs - outputs + (start + padding - first) // stride
        if positions:
            after = positions - 1 - before + inputs - outputs
            phases.append((slice(start, None, stride), slice(first, None, stride), before, after))
    return phases


def _im2col(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The inputs of each output, one row per output: (N * outputs, h * w * C)."""
    above, left = padding
    return _windows(pad(x.permute(0, 2, 3, 1), (0, 0, left, left, above, above)), weight, stride).flatten(0, 2)


def _windows(images: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    """The windows of (N, H, W, C) that a kernel (O, C, h, w) is multiplied with: (N, rows, columns, h * w * C)."""
    (height, width), (down, across) = weight.shape[2:], stride
    return images.unfold(1, height, down).unfold(2, width, across).permute(0, 1, 2, 4, 5, 3).flatten(3)
