"""Networks that do not learn, and healthy ones, for `benchmarks/diagnose.py`: each with what is wrong with it.

Those with `held_out` were written down before the rules' thresholds were set, and first run afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from deepnet.data.sets import load_images
from modelBlock import ResidualBlock
from myModel import CNN, CNN_30, HEAD_30, MLP, MLP_4, MLP_13, MLP_33

Data = Dataset | Any
Change = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """A model and its data. `causes` are the codes of which the first finding must have one; none: it is healthy."""

    name: str
    causes: tuple[str, ...]
    model: Callable[[], nn.Module]
    data: Callable[[], Data]
    options: dict[str, Any] = field(default_factory=dict)
    held_out: bool = False
    curable: bool = True  # by a change that can be tried, and not by other data or a look into the code
    seed: int = 0


CASES: list[Case] = []


def case(name: str, causes: str, model: Callable[[], nn.Module], data: Callable[[], Data], **options: Any) -> None:
    """Add a case; `causes` are separated by blanks, and options that are no field of `Case` go to `diagnose`."""
    fields = {key: options.pop(key) for key in ("held_out", "curable", "seed") if key in options}
    CASES.append(Case(name, tuple(causes.split()), model, data, options, **fields))


# ---------------------------------------------------------------- data


@cache
def _tensors(name: str) -> tuple[Tensor, Tensor]:
    if name == "digits":
        found = load_digits()
        return (torch.tensor(found.images, dtype=torch.float32)[:, None] - 4.9) / 6.0, torch.tensor(found.target)
    images = load_images(name, "train", "sample")
    return images.batch(torch.arange(min(2000, len(images))))


def data(name: str, change: Change = lambda x, y: (x, y)) -> Callable[[], TensorDataset]:
    """The embedded sample's first images of a set, or scikit-learn's digits, with inputs and labels changed."""
    return lambda: TensorDataset(*change(*(part.clone() for part in _tensors(name))))


def halves(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Left and right halves of images, the right ones in other units."""
    return x[..., :4], 100 * x[..., 4:] + 50, y


def shuffled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]


def half_nan(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x[::2, ..., 3] = torch.nan
    return x, y


def pixels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """As 0 to 255."""
    return 255 * (x - x.min()) / (x.max() - x.min()), y


def crossed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the left half and the upper half are both bright or both dark: no linear function of the pixels."""
    bright = [part.flatten(1).mean(1) for part in (x[..., : x.shape[-1] // 2], x[..., : x.shape[-2] // 2, :])]
    left, upper = (values > values.median() for values in bright)
    return x, (left == upper).long()


def few_words(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids that the label decides in part: the classes' words overlap."""
    generator = torch.Generator().manual_seed(2)
    return (6 * y[:, None] + torch.randint(0, 12, (len(y), 16), generator=generator)) % 70, y


MNIST, CIFAR, DIGITS = data("mnist"), data("cifar10"), data("digits")

# ---------------------------------------------------------------- models


def stack(widths: list[int], activation: Callable[[], nn.Module] | None, *ends: nn.Module) -> nn.Sequential:
    """Flatten, Linear layers with an activation between them, and `ends` behind the last."""
    modules: list[nn.Module] = [nn.Flatten()]
    for i, (before, after) in enumerate(pairwise(widths)):
        modules.append(nn.Linear(before, after))
        if activation and i < len(widths) - 2:
            modules.append(activation())
    return nn.Sequential(*modules, *ends)


def with_weights(model: nn.Module, draw: Callable[[Tensor], Any]) -> nn.Module:
    for parameter in model.parameters():
        with torch.no_grad():
            draw(parameter)
    return model


def normal(deviation: float = 1.0) -> Callable[[Tensor], Any]:
    return lambda p: nn.init.normal_(p, std=deviation)


def he(model: nn.Module) -> Any:
    return with_weights(model, lambda p: nn.init.kaiming_normal_(p) if p.ndim > 1 else nn.init.zeros_(p))


def vgg(layers: int, width: int, pool_every: int, norm: bool = False, channels: int = 3) -> nn.Sequential:
    """3x3 convolutions with ReLU, a max pooling after each so many of the first, then one Linear."""
    modules: list[nn.Module] = []
    for i in range(layers):
        modules.append(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1))
        modules += [nn.BatchNorm2d(width)] * norm + [nn.ReLU()]
        if i % pool_every == pool_every - 1 and i < 4 * pool_every:
            modules.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


def dead(model: nn.Sequential, number: int, bias: float = -30.0) -> nn.Sequential:
    """With one Linear's biases far below 0."""
    layer: Any = [m for m in model if isinstance(m, nn.Linear)][number]
    nn.init.constant_(layer.bias, bias)
    return model


def frozen(model: nn.Module, count: int) -> nn.Module:
    """With all but the last `count` parameters frozen."""
    for parameter in list(model.parameters())[:-count]:
        parameter.requires_grad_(False)
    return model


def evaluating(model: nn.Module) -> nn.Module:
    """A network with batch normalization and weights on another scale, left in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= 4
    return model.eval()


class Detached(nn.Module):
    """Its body is cut off from the loss."""

    def __init__(self, body: nn.Module, head: nn.Module, how: str = "detach") -> None:
        super().__init__()
        self.body, self.head, self.how = body, head, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "detach":
            return self.head(self.body(x).detach())
        with torch.no_grad():
            features = self.body(x)
        return self.head(features)


class Unscaled(nn.Module):
    """Shortcuts around branches that are as large as their input: the signal doubles its variance in each."""

    def __init__(self, depth: int, width: int, inputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, 10)
        he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).relu()
        for block in self.blocks:
            x = x + block(x.relu())
        return self.last(x)


class Words(nn.Module):
    """An embedding, a GRU and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(70, 32)
        self.gru = nn.GRU(32, 64, batch_first=True)
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gru(self.embedding(x))[0].mean(1))


class Transformer(nn.Module):
    """A small vision transformer over rows of the image."""

    def __init__(self, row: int, rows: int, layers: int = 2, norm_first: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(row, 64)
        self.position = nn.Parameter(0.02 * torch.randn(1, rows, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, 0.1, batch_first=True, norm_first=norm_first)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.embed(x.flatten(0, 1) if x.ndim == 5 else x[:, 0]) + self.position).mean(1))


class Halves(nn.Module):
    """Takes the left and the right half of an image as two inputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(32, width), nn.Linear(32, width), nn.Linear(width, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.last((self.left(left.flatten(1)) + self.right(right.flatten(1))).relu())


def residual_cnn(blocks: int, width: int, channels: int) -> nn.Sequential:
    """Residual blocks with batch normalization."""

    def block() -> nn.Module:
        conv = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
        body = nn.Sequential(conv[0], nn.BatchNorm2d(width), nn.ReLU(), conv[1], nn.BatchNorm2d(width))
        return ResidualBlock(body, nn.Identity())

    first = nn.Conv2d(channels, width, 3, stride=2, padding=1)
    return nn.Sequential(
        first, nn.ReLU(), *(block() for _ in range(blocks)), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * width, 10),
    )  # fmt: skip


def sgd(lr: float, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **options)


def adam(lr: float, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr, **options)


W = [784, 256, 128, 10]

# ---------------------------------------------------------------- broken

case("33 plain layers (MLP_33)", "vanishing eps", lambda: MLP(MLP_33), MNIST)
case("plain depth 13 with SGD", "vanishing", lambda: MLP(MLP_13), MNIST, optimizer=sgd(0.01))
case("12 sigmoids", "saturating-activation vanishing", lambda: stack([784, *[128] * 12, 10], nn.Sigmoid), MNIST,
     optimizer=sgd(0.1))  # fmt: skip
case("weights too large", "exploding", lambda: with_weights(stack([784, *[256] * 5, 10], nn.ReLU), normal()), MNIST,
     lr=1e-3)  # fmt: skip
case("200 unscaled shortcuts", "exploding", lambda: Unscaled(200, 64, 784), MNIST)
case("learning rate too high (Adam)", "learning-rate-high", lambda: stack(W, nn.ReLU), MNIST, lr=1.0)
case("learning rate too high (SGD)", "learning-rate-high", lambda: he(stack(W, nn.ReLU)), MNIST, optimizer=sgd(20.0))
case("learning rate too low", "learning-rate-low", lambda: stack(W, nn.ReLU), MNIST, lr=1e-7)
case("learning rate too low (SGD)", "learning-rate-low", lambda: stack(W, nn.ReLU), MNIST, optimizer=sgd(1e-5))
case("eps of 1", "eps", lambda: stack(W, nn.ReLU), MNIST, lr=1e-3, eps=1.0)
case("all weights 0", "constant-weights", lambda: with_weights(stack(W, nn.ReLU), nn.init.zeros_), MNIST, lr=1e-3)
case("all weights equal", "constant-weights", lambda: with_weights(stack(W, nn.ReLU), lambda p: p.fill_(0.01)), MNIST,
     lr=1e-3)  # fmt: skip
case("a dead layer", "dead-units", lambda: dead(stack([784, 256, 128, 64, 10], nn.ReLU), 1), MNIST, lr=1e-3)
case("frozen by mistake", "frozen", lambda: frozen(stack(W, nn.ReLU), 2), MNIST, lr=1e-3)
case("all frozen", "nothing-learns", lambda: stack(W, nn.ReLU).requires_grad_(False), MNIST, lr=1e-3)
case("batch norm in evaluation mode", "eval-mode", lambda: evaluating(vgg(8, 16, 2, norm=True)), CIFAR, lr=1e-3)
case("labels shuffled", "labels-unrelated", lambda: stack(W, nn.ReLU), data("mnist", shuffled), lr=1e-3, curable=False)
case("labels off by one", "label-range", lambda: stack(W, nn.ReLU), data("mnist", lambda x, y: (x, y + 1)), lr=1e-3)
case("inputs of 0 to 255", "input-range", lambda: stack(W, nn.ReLU), data("mnist", pixels), optimizer=sgd(0.1))
case("inputs divided by 255 twice", "input-range", lambda: stack(W, nn.ReLU), data("mnist", lambda x, y: (x / 255, y)))
case("half of the data NaN", "nan-data", lambda: stack(W, nn.ReLU), data("mnist", half_nan), lr=1e-3)
case("softmax twice", "output-activation", lambda: stack(W, nn.ReLU, nn.Softmax(1)), MNIST)
case("ReLU at the end", "output-activation", lambda: stack(W, nn.ReLU, nn.ReLU()), MNIST)
case("no activation", "no-nonlinearity", lambda: stack([784, *[128] * 4, 2], None), data("mnist", crossed), lr=1e-3)
case("dropout 0.95", "dropout", lambda: stack(W, lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.95))), MNIST)
case("one class only", "one-class", lambda: stack(W, nn.ReLU), data("mnist", lambda x, y: (x, y * 0)), lr=1e-3,
     curable=False)  # fmt: skip
case("detached body", "detached", lambda: Detached(stack([784, 128, 64], nn.ReLU), nn.Linear(64, 10)), MNIST, lr=1e-3,
     curable=False)  # fmt: skip
case("weight decay 1", "weight-decay", lambda: stack(W, nn.ReLU), MNIST, optimizer=adam(1e-3, weight_decay=1.0))

case("VGG of 38 layers without norm", "vanishing eps", lambda: vgg(37, 16, 2), CIFAR, lr=1e-3)
case("30 plain layers with convolutions (CNN_30)", "vanishing eps", lambda: CNN(CNN_30, HEAD_30, image_size=32), CIFAR,
     lr=5e-4)  # fmt: skip

case("12 post-norm transformer layers at 1e-2", "post-norm", lambda: Transformer(8, 8, 12, norm_first=False), DIGITS,
     lr=1e-2)  # fmt: skip
case("bfloat16 at 1e-4", "half-precision", lambda: stack([64, 96, 48, 10], nn.ReLU).bfloat16(), DIGITS, lr=1e-4)
case("float16 with Adam", "half-precision", lambda: stack([64, 96, 48, 10], nn.ReLU).half(), DIGITS, lr=1e-3)
case("two inputs, one of them large", "input-range", lambda: Halves(64), data("digits", halves),
     optimizer=sgd(0.1))  # fmt: skip

# ---------------------------------------------------------------- healthy

case("MLP_4", "", lambda: MLP(MLP_4), MNIST)
case("MLP_res_35", "", lambda: MLP(MLP_33, residual=True), MNIST)
case("33 layers with He's initialisation", "", lambda: he(MLP(MLP_33)), MNIST)
case("33 layers, eps 1e-16", "", lambda: MLP(MLP_33), MNIST, eps=1e-16)
case("MLP_13, which begins after 100 steps", "", lambda: MLP(MLP_13), MNIST)
case("VGG of 8 layers with norm", "", lambda: vgg(8, 16, 2, norm=True), CIFAR, lr=1e-3)
case("residual CNN", "", lambda: residual_cnn(3, 16, 3), CIFAR, lr=1e-3)
case("transformer", "", lambda: Transformer(28, 28), MNIST, lr=1e-3)
case("bfloat16 at 1e-2", "", lambda: stack([64, 96, 48, 10], nn.ReLU).bfloat16(), DIGITS, lr=1e-2)
case("two inputs", "", lambda: Halves(64), data("digits", lambda x, y: (x[..., :4], x[..., 4:], y)), lr=1e-2)
case("linear classifier", "", lambda: stack([784, 10], None), MNIST, lr=1e-3)

# ---------------------------------------------------------------- held out: other widths, depths, seeds and data

HELD = {"held_out": True, "seed": 3}
V = [64, 96, 48, 10]
case("24 plain layers of 48", "vanishing eps", lambda: stack([64, *[48] * 24, 10], nn.ReLU), DIGITS, lr=3e-4, **HELD)
case("9 tanhs with large weights", "saturating-activation vanishing exploding",
     lambda: with_weights(stack([64, *[64] * 9, 10], nn.Tanh), normal(1.5)), DIGITS, lr=1e-3,
     **HELD)  # fmt: skip
case("weights of deviation 0.5", "exploding",
     lambda: with_weights(vgg(9, 24, 2, channels=1), normal(0.5)), DIGITS, lr=1e-3, **HELD)  # fmt: skip
case("RMSprop at 0.3", "learning-rate-high", lambda: he(stack(V, nn.ReLU)), DIGITS, optimizer="RMSprop", lr=0.3, **HELD)
case("SGD at 3e-6 with momentum", "learning-rate-low", lambda: residual_cnn(2, 16, 1), DIGITS,
     optimizer=sgd(3e-6, momentum=0.9), **HELD)  # fmt: skip
case("eps of 0.1 in a CNN", "eps", lambda: vgg(4, 16, 2, channels=1), DIGITS, lr=1e-4, eps=0.1, **HELD)
case("third of four layers dead", "dead-units", lambda: dead(he(stack([64, 96, 80, 48, 10], nn.ReLU)), 2, -100.0),
     DIGITS, lr=1e-3, **HELD)  # fmt: skip
case("first two convolutions frozen", "frozen", lambda: frozen(vgg(4, 16, 2), 6), CIFAR, lr=1e-3, **HELD)
case("labels shuffled (digits)", "labels-unrelated", lambda: residual_cnn(2, 16, 1), data("digits", shuffled), lr=1e-3,
     curable=False, **HELD)  # fmt: skip
case("inputs of 0 to 255 (digits, CNN)", "input-range", lambda: vgg(4, 16, 2, channels=1), data("digits", pixels),
     optimizer=sgd(0.05), **HELD)  # fmt: skip
case("sigmoid before cross-entropy", "output-activation", lambda: stack(V, nn.Tanh, nn.Sigmoid()), DIGITS, lr=1e-3,
     **HELD)  # fmt: skip
case("body under no_grad", "detached",
     lambda: Detached(vgg(3, 16, 2, channels=1)[:-1], nn.Linear(64, 10), "no_grad"), DIGITS, lr=1e-3, curable=False,
     **HELD)  # fmt: skip
case("labels from -1 to 8", "label-range", lambda: stack(V, nn.ReLU), data("digits", lambda x, y: (x, y - 1)), lr=1e-3,
     **HELD)  # fmt: skip
case("weight decay 3 with SGD", "weight-decay", lambda: stack(V, nn.ReLU), DIGITS,
     optimizer=sgd(0.05, weight_decay=3.0), **HELD)  # fmt: skip
case("batch norm in evaluation mode (MLP)", "eval-mode",
     lambda: evaluating(stack([64, *[64] * 8, 10], lambda: nn.Sequential(nn.BatchNorm1d(64), nn.ReLU()))), DIGITS,
     lr=1e-3, **HELD)  # fmt: skip
case("wide MLP on digits", "", lambda: stack([64, 512, 512, 10], nn.GELU), DIGITS, lr=1e-3, **HELD)
case(
    "residual CNN on digits, SGD", "", lambda: residual_cnn(4, 24, 1), DIGITS, optimizer=sgd(0.05, momentum=0.9), **HELD
)
case("GRU over token ids", "", Words, data("digits", few_words), lr=1e-2, **HELD)
case("transformer on digits", "", lambda: Transformer(8, 8), DIGITS, lr=1e-3, **HELD)
case("dropout 0.5 and AdamW", "", lambda: stack(V, lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.5))), DIGITS,
     optimizer="AdamW", lr=1e-3, **HELD)  # fmt: skip
case("VGG of 28 layers", "vanishing eps", lambda: vgg(27, 24, 3), CIFAR, lr=3e-4,
     **HELD)  # fmt: skip
