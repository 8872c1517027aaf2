"""The report's models (MLP, CNN and ResNet-18), and functions for any model: new heads, freezing, counting.

The architectures are the literals at the top. `MODELS` builds them by name.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import takewhile

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from deepnet import grid
from experimentTable import BUILDERS, UsageError, choose
from modelBlock import chain, plain_block, residual_block

Layout = Sequence[Sequence[int] | int]
WeightLayer = nn.Linear | nn.Conv2d
Pooling = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveMaxPool2d | nn.AdaptiveAvgPool2d

# ---------------------------------------------------------------- the architectures

# Widths, from the input to the output
MLP_4 = [784, 1024, 256, 64, 10]
MLP_13 = [784, 1024, 256, *[64] * 10, 10]
MLP_23 = [784, 1024, 256, *[64] * 20, 10]
MLP_33 = [784, 1024, 256, *[64] * 30, 10]
MLP_55 = [784, *[1024] * 15, *[256] * 20, *[64] * 15, 10]
MLP_96 = [784, *[2048] * 30, 1024, *[256] * 20, *[128] * 10, *[64] * 30, 10]

# A list gives the channels of a block of 3x3 convolutions, its input's first; an int n is a pooling to n x n (of 128 x
# 128)
CNN_10: Layout = [[3, 8, 16], 32, [16, 32, 64], 4, [64, 64]]
CNN_13: Layout = [[3, 8, 16], 64, [16, 32, 64], 16, [64, 64, 128, 256], 4]
CNN_30: Layout = [
    [3, 8, 8, 8], 64,
    [8, 8, 16, 16, 16, 16, 32], 32,
    [32, 32, 32, 32, 32, 32, 64], 16,
    [64, 64, 64], 8,
    [64, 64, 128, 128], 4,
    [128, 256, 256],
]  # fmt: skip
CNN_56: Layout = [
    [3, 8, 8, 8], 64,
    [8, 16, 16, 16, 16], [16, 16, 16, 16, 32, 32], [32, 32, 32], [32, 32, 32, 32], 32,
    [32, 32, 32], [32, 32, 32, 32, 32, 32, 32], 16,
    [32, 32, 32], [32, 32, 32, 64, 64, 64], [64, 64, 64], 8,
    [64, 64, 64], [64, 64, 128, 128], 4,
    [128, 256], [256, 256, 256],
]  # fmt: skip

# Widths of the MLP on top of a CNN; its input is 4 x 4 x channels
HEAD_10 = [1024, 256, 64, 10]
HEAD_13 = [4096, 1024, 128, 10]
HEAD_30 = [4096, 2048, 256, 10]

LAYOUT_SIZE = 128  # pixels that a layout's poolings are written for
SMALLEST_POOL = 4  # poolings scale with the image, down to this


# ---------------------------------------------------------------- the models


class MLP(nn.Sequential):
    """Linear layers with ReLU between them: (N, ...), flattened to (N, widths[0]), -> (N, widths[-1]).

    `blocks` end in a ReLU, `last` does not. A plain network has one block with all Linear layers but the last. In a
    residual one, every two layers from the input on are a residual block, and the remaining one or two are `last`.
    `batch_norm` puts batch normalization after each Linear layer but the last, so before each ReLU and, in a residual
    block, before the addition (He et al. 2016, arXiv:1512.03385).

    >>> MLP([784, 64, 10])(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, widths: Sequence[int], residual: bool = False, batch_norm: bool = False) -> None:
        cut = len(widths) - 2  # Linear layers in blocks
        layer = _normalized_linear if batch_norm else nn.Linear
        blocks: list[nn.Module]
        if residual:
            cut -= cut % 2
            blocks = [residual_block(widths[i : i + 3], layer, nn.Linear) for i in range(0, cut, 2)]
        else:
            blocks = [plain_block(widths[: cut + 1], layer)] if cut > 0 else []
        before = plain_block(widths[cut:-1], layer) if len(widths[cut:]) > 2 else ()
        last = nn.Sequential(*before, *chain(widths[-2:], nn.Linear))
        super().__init__(OrderedDict(flatten=nn.Flatten(), blocks=nn.Sequential(*blocks), last=last))


def _normalized_linear(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out))


class CNN(nn.Sequential):
    """Blocks of 3x3 convolutions and adaptive max poolings, then a plain MLP: (N, C, H, W) -> (N, head[-1]).

    In `layout`, a list of channels is a block, and an int n is a pooling to n x n for images of 128 pixels. Poolings
    scale with `image_size`, never below 4 x 4, so that the head fits at every size; a pooling that changes nothing
    stays in the model. `residual` gives each block a shortcut: the identity, or a 1x1 convolution if the channels
    differ. Raises UsageError for blocks whose channels do not match and for a head that does not fit.

    >>> CNN([[3, 8, 16], 4], head=[256, 10])(torch.zeros(2, 3, 128, 128)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, layout: Layout, head: Sequence[int], residual: bool = False, image_size: int = LAYOUT_SIZE
    ) -> None:
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        block = partial(residual_block, projection=partial(nn.Conv2d, kernel_size=1)) if residual else plain_block
        features: list[nn.Module] = []
        channels, side = None, image_size
        for item in layout:
            if isinstance(item, int):
                side = max(SMALLEST_POOL, item * image_size // LAYOUT_SIZE)
                features.append(nn.AdaptiveMaxPool2d(side))
            else:
                if channels not in (None, item[0]):
                    raise UsageError(f"block {list(item)} must start with the {channels} channels that come before it")
                features.append(block(item, conv))
                channels = item[-1]
        if channels is None:
            raise UsageError(f"layout {list(layout)} has no block of convolutions; add one, such as [3, 8, 16]")
        if head[0] != channels * side * side:
            raise UsageError(
                f"head {list(head)} must start with {channels * side * side}, "
                f"the {channels} channels of {side} x {side} that come before it"
            )
        super().__init__(OrderedDict(features=nn.Sequential(*features), head=MLP(head)))


# ---------------------------------------------------------------- the builders


def resnet18(num_classes: int = 10, *, image_size: int = LAYOUT_SIZE) -> nn.Module:
    """torchvision's ResNet-18 with random weights and a new last layer. Any `image_size` gives the same model.

    >>> resnet18(100).fc.out_features
    100
    """
    return replace_head(torchvision.models.resnet18(weights=None), num_classes)


def _mlp(widths: Sequence[int], residual: bool = False, batch_norm: bool = False) -> Callable[..., nn.Module]:
    return lambda *, image_size=LAYOUT_SIZE: MLP(widths, residual, batch_norm)


def _cnn(layout: Layout, head: Sequence[int], residual: bool = False) -> Callable[..., nn.Module]:
    return lambda *, image_size=LAYOUT_SIZE: CNN(layout, head, residual, image_size)


# name -> builder, called with image_size=...; only CNNs depend on the size
MODELS: dict[str, Callable[..., nn.Module]] = BUILDERS  # the table, which needs no torch, looks names up there
MODELS |= {
    "MLP_4": _mlp(MLP_4),
    "MLP_13": _mlp(MLP_13),
    "MLP_23": _mlp(MLP_23),
    "MLP_33": _mlp(MLP_33),
    "MLP_res_5": _mlp(MLP_4, residual=True),
    "MLP_res_15": _mlp(MLP_13, residual=True),
    "MLP_res_35": _mlp(MLP_33, residual=True),
    "MLP_res_55": _mlp(MLP_55, residual=True),
    "MLP_res_96": _mlp(MLP_96, residual=True),
    "CNN_10": _cnn(CNN_10, HEAD_10),
    "CNN_13": _cnn(CNN_13, HEAD_13),
    "CNN_30": _cnn(CNN_30, HEAD_30),
    "CNN_res_16": _cnn(CNN_13, HEAD_13, residual=True),
    "CNN_res_35": _cnn(CNN_30, HEAD_30, residual=True),
    "CNN_res_56": _cnn(CNN_56, HEAD_30, residual=True),
    "resnet18": resnet18,
}
MODELS |= {  # the atlas's models that are not the report's
    name: _mlp(grid.mlp_widths(depth), shortcuts, batch_norm)
    for name, (depth, shortcuts, batch_norm) in grid.MODELS.items() if name not in MODELS
}  # fmt: skip


# ---------------------------------------------------------------- heads, weights, freezing (of any model, in place)


class DropoutHead(nn.Sequential):
    """The head that `replace_head` makes with dropout, and replaces as a whole."""


def replace_head(model: nn.Module, num_classes: int, dropout: float = 0.0) -> nn.Module:
    """Replace the model's last Linear layer by a new one, initialized from torch's generator; returns the model.

    In a model with several heads, such as a distilled vision transformer or GoogLeNet, each is replaced. A head without
    bias is replaced by one without bias. With `dropout`, the new head is Sequential(Dropout, Linear); a later call
    replaces the pair, so heads never nest. If the network itself has a dropout layer before its last layer, that stays,
    and its probability becomes `dropout` if this is given. Load a state dict first, since the pair has other keys.
    Raises UsageError for a model without a Linear layer inside, or with a convolution after the last one.

    >>> replace_head(torchvision.models.resnet18(), 10).fc.out_features
    10
    """
    for name in head_names(model):
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)
        linear = nn.Linear(
            old.in_features, num_classes, old.bias is not None, device=old.weight.device, dtype=old.weight.dtype
        )
        parent = name.rpartition(".")[0]
        siblings = list(model.get_submodule(parent).children()) if parent else []
        head: nn.Module = linear
        if parent and isinstance(model.get_submodule(parent), DropoutHead):
            name, head = parent, DropoutHead(nn.Dropout(dropout), linear) if dropout else linear
        elif dropout and len(siblings) > 1 and siblings[-1] is old and isinstance(own := siblings[-2], nn.Dropout):
            own.p = dropout
        elif dropout:
            head = DropoutHead(nn.Dropout(dropout), linear)
        model.set_submodule(name, head.train(old.training))
    return model


HEADS = ("head", "fc", "classifier", "aux", "logits", "dist")  # words in the names of torchvision's and timm's heads


def head_names(model: nn.Module) -> list[str]:
    """Names of the Linear layers that give a model's scores: the last one, and further heads with as many outputs.

    A further head is a layer in the same nn.ModuleList as the last one, or in a child that is named like a head, also
    within a wrapper, unless a later layer has as many inputs as it has outputs. Raises UsageError for a model without a
    Linear layer inside, and for one with a convolution after its last Linear layer, unless this is named like a head.
    """
    layers = {name: m for name, m in model.named_modules() if name and isinstance(m, nn.Linear | _ConvNd)}
    linears = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    if not linears:
        raise UsageError(f"{type(model).__name__} has no Linear inside to replace; end the model with an nn.Linear")
    *others, last = linears
    paths = {name: name.split(".") for name in linears}
    depth = _count_common(path[:-1] for path in paths.values())  # of wrappers around all of them

    def named(name: str) -> bool:
        return any(word in child.lower() for child in paths[name][: depth + 1] for word in HEADS)

    def listed(name: str) -> bool:
        both = paths[last][: _count_common([paths[name], paths[last]])]
        return isinstance(model.get_submodule(".".join(both)), nn.ModuleList)

    if (ends := list(layers)[-1]) != last and not named(last):
        what = f"{type(model).__name__} ends in the convolution {ends!r}"
        raise UsageError(f"{what} and not in an nn.Linear; replace it yourself")
    outputs, read = linears[last].out_features, [layer.in_features for layer in linears.values()]
    as_many = [(i, name) for i, name in enumerate(others) if linears[name].out_features == outputs]
    return [*(name for i, name in as_many if outputs not in read[i + 1 :] and (named(name) or listed(name))), last]


def _count_common(paths: Iterable[list[str]]) -> int:
    """The length of the paths' common beginning."""
    return len(list(takewhile(lambda components: len(set(components)) == 1, zip(*paths, strict=False))))


def initialise(model: nn.Module, initialisation: str) -> None:
    """Initialize Linear and Conv2d layers: "default" leaves torch's initialization, "he" draws new weights for ReLU:
    normal with variance 2 / fan-in, and biases of 0 (He et al. 2015, arXiv:1502.01852).

    Raises UsageError for any other name.
    """
    if choose("initialisation", initialisation, ("default", "he")) == "he":
        for _, layer in weight_layers(model):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def train_only(model: nn.Module, children: Collection[str] | None, moving_statistics: bool = False) -> None:
    """Freeze all parameters except those of these children, as `model.named_children()` names them; None: no change.

    Afterwards, call `set_train_mode` instead of `model.train()`: it keeps frozen modules in evaluation mode. With
    `moving_statistics` it leaves batch normalization in training mode, as the original program did. Raises UsageError
    unless `children` is a sequence of names, and for a child that is unknown or has no parameters.

    >>> train_only(torchvision.models.resnet18(), ("layer4", "fc"))
    """
    if isinstance(children, str) or not isinstance(children, Collection | None):
        raise UsageError(f"trainable must be a sequence of children's names, such as ('fc',), not {children!r}")
    choices = {name: child for name, child in model.named_children() if any(True for _ in child.parameters())}
    if children is None:
        return
    chosen = [choose("child", name, choices) for name in children]
    model.requires_grad_(False)
    for name in chosen:
        choices[name].requires_grad_(True)
    if moving_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.moving_statistics = True  # type: ignore[assignment]


def set_train_mode(model: nn.Module) -> nn.Module:
    """`model.train()`, but modules whose parameters are all frozen stay in evaluation mode; returns the model.

    Thus frozen batch normalization keeps its statistics, and a frozen prefix gives the same output each time. Call it
    wherever you would call `model.train()`, which undoes it. It depends on `requires_grad` only. A module without
    parameters (ReLU, dropout) has the mode of the module that contains it.
    """
    model.train()
    for module in model.modules():
        learns = [parameter.requires_grad for parameter in module.parameters()]
        if learns and not any(learns):
            module.train(getattr(module, "moving_statistics", False))
    return model


# ---------------------------------------------------------------- counting


def weight_layers(model: nn.Module) -> list[tuple[str, WeightLayer]]:
    """Name and module of each Linear and Conv2d layer in the order of definition.

    In all of `MODELS`, that is the order of the forward pass (in a residual block: the body, then the shortcut).
    """
    return [(name, module) for name, module in model.named_modules() if isinstance(module, WeightLayer)]


def count_modules(model: nn.Module) -> int:
    """The number of Linear, Conv2d and pooling modules, shortcut projections included, as in the report's names.

    MLP_res_55 has 54; its name is an error of the report.
    """
    return sum(isinstance(module, WeightLayer | Pooling) for module in model.modules())


def count_parameters(model: nn.Module) -> int:
    """The number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def _multiply_adds(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of the weight layers for one image, counted by hooks, which stay on the model."""
    counts: list[int] = []

    def count(layer: WeightLayer, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    layers = [layer for _, layer in weight_layers(model)]
    for layer in layers:
        layer.register_forward_hook(count)
    first = layers[0]
    shape = (first.in_features,) if isinstance(first, nn.Linear) else (first.in_channels, image_size, image_size)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape, device=first.weight.device))
    return sum(counts)


def model_table(names: Iterable[str], image_size: int = LAYOUT_SIZE) -> list[dict]:
    """One row per model: name, modules (as the report counts), weight_layers, parameters, multiply_adds (per image).

    The models are on the meta device: no memory for weights, no random numbers. Raises UsageError for an unknown name.
    """
    rows = []
    for name in names:
        with torch.device("meta"):
            model = MODELS[choose("model", name, MODELS)](image_size=image_size)
        rows.append({
            "name": name,
            "modules": count_modules(model),
            "weight_layers": len(weight_layers(model)),
            "parameters": count_parameters(model),
            "multiply_adds": _multiply_adds(model, image_size),
        })  # fmt: skip
    return rows
