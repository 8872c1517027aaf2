"""The pieces that models are built from: chains of layers, plain and residual blocks.

A `layer` or `projection` is any callable (width in, width out) -> module, such as `nn.Linear` or
`partial(nn.Conv2d, kernel_size=3, padding=1)`. Widths are numbers of features or channels, from the input on.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from experimentTable import UsageError

Layer = Callable[[int, int], nn.Module]


def chain(widths: Sequence[int], layer: Layer) -> nn.Sequential:
    """One layer from each width to the next, with ReLU between them and none after the last.

    Raises UsageError for fewer than two widths.

    >>> len(chain([784, 64, 10], nn.Linear))  # Linear, ReLU, Linear
    3
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
    """relu(body(x) + shortcut(x)), where both terms have the same shape (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def residual_block(widths: Sequence[int], layer: Layer, projection: Layer) -> ResidualBlock:
    """A chain with a shortcut: the identity if the first and the last width are equal, else a projection."""
    first, last = widths[0], widths[-1]
    return ResidualBlock(chain(widths, layer), nn.Identity() if first == last else projection(first, last))
