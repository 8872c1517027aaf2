"""The pieces that models are built from: chains of layers, plain and residual blocks.

A `layer` (and a `projection`) is any callable (width in, width out) -> module, such as `nn.Linear` or
`partial(nn.Conv2d, kernel_size=3, padding=1)`. Widths are features or channels, the input's first.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from experimentTable import UsageError

Layer = Callable[[int, int], nn.Module]


def chain(widths: Sequence[int], layer: Layer) -> nn.Sequential:
    """One layer from each width to the next, ReLU between them and none after the last.

    Behind a Linear or Conv2d, whose outputs their backward pass does not need, a ReLU writes in place: a forward hook
    that keeps such a layer's outputs must copy them. Raises UsageError for fewer than two widths.
    """
    if len(widths) < 2:
        raise UsageError(f"a chain needs at least two widths, got {list(widths)}; give the input's and the output's")
    modules: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        modules += [made := layer(width_in, width_out), _relu_behind(made)]
    return nn.Sequential(*modules[:-1])


def _relu_behind(layer: nn.Module) -> nn.ReLU:
    return nn.ReLU(inplace=isinstance(layer, nn.Linear | nn.Conv2d))


def plain_block(widths: Sequence[int], layer: Layer, relu: bool = True) -> nn.Sequential:
    """A chain with a ReLU after the last layer too; without it, where a `MaxPoolReLU` follows, if `relu` is false."""
    block = chain(widths, layer)
    return block.append(_relu_behind(block[-1])) if relu else block


class ResidualBlock(nn.Module):
    """relu(body(x) + shortcut(x)), the two being of one shape (He et al. 2016, arXiv:1512.03385); `relu` as in
    `plain_block`.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module, relu: bool = True) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        total = self.body(x) + self.shortcut(x)
        return total.relu_() if self.relu else total


def residual_block(widths: Sequence[int], layer: Layer, projection: Layer, relu: bool = True) -> ResidualBlock:
    """A chain with a shortcut: the identity where first and last width agree, else a projection."""
    first, last = widths[0], widths[-1]
    return ResidualBlock(chain(widths, layer), nn.Identity() if first == last else projection(first, last), relu)


class MaxPoolReLU(nn.AdaptiveMaxPool2d):
    """relu(max pooling(x)), which is max pooling(relu(x)), and so are gradients, but with a ReLU on the smaller map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()
