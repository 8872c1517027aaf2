"""What is measured of each layer of any model, by hooks: its weights, its signal, its gradient, its updates."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from deepnet.diagnosis.inputs import Inputs, widened
from deepnet.diagnosis.setup import first_tensor
from deepnet.figures.theory import signal_variance
from deepnet.training.metrics import count_distinct

PROBE_ITEMS = 64
NOISE = (nn.modules.dropout._DropoutNd,)  # and what torchvision and timm call the following
BLOCKS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
NOISE_NAMES = ("StochasticDepth", "DropPath")


@dataclass(frozen=True)
class Signal:
    """A layer's outputs for the probe, before any activation that follows as a module of its own."""

    variance: float = math.nan  # across samples, mean over units
    rms: float = math.nan
    negative: tuple[bool, ...] = ()  # of each unit (feature, channel): at most 0 for every item at every position
    distinct: int = 0  # how many of the probe's items it tells apart


@dataclass(frozen=True)
class Layer:
    """One layer: a weight matrix or kernel, and the module that holds it itself.

    Of a module with several such weights each is a layer, with the module's signal. Gradients and updates are root mean
    squares, medians over the steps; `update` is relative to the weight. Updates of a model in half precision are those
    of its copy in float32.
    """

    name: str
    kind: str
    learns: bool  # requires a gradient and is moved by the optimizer
    rate: float  # the learning rate of its group over that of the fastest group
    frozen: bool
    ran: bool  # its module was called, and a further weight of the module got a gradient
    reached: bool  # by a gradient
    random: bool  # the weights look drawn at random, and not trained
    weight_rms: float
    gain: float  # fan-in times the weights' variance: 1/3 is torch's default, 2 is He's, and 1 keeps a linear signal
    before: Signal
    after: Signal
    gradient: float
    update: float
    first_update: float
    peak: float  # the largest update of a step
    decay: float  # what weight decay adds, relative to what the gradient does
    dead: float  # share of units that are at most 0 for the probe and got no gradient in any step
    equal_units: bool  # all units have the same weights after the steps
    expected: float = math.nan  # the signal's variance in theory, where the model is a plain chain


def layer_modules(model: nn.Module) -> dict[str, tuple[nn.Module, nn.Parameter]]:
    """Name -> each weight of two or more dimensions, after the module that holds it itself.

    The name is the module's, or of a module with several such weights the weight's own. Of a weight that is computed
    from others, as by weight normalization, it is the largest of these.
    """
    found = {}
    for name, module in model.named_modules():
        own = {key: p for key, p in module.named_parameters(recurse=False) if p.ndim >= 2}
        if is_parametrized(module) and not own:
            own = {"": max(module.parametrizations.parameters(), key=Tensor.numel)}
        if "parametrizations" not in name.split("."):
            for key, weight in own.items():
                full = ".".join(filter(None, (name, key)))
                found[full if len(own) > 1 else name or "(the model itself)"] = module, weight
    return found


def in_running_order(declared: Iterable[str], ran: Collection[str]) -> list[str]:
    """Names in the order in which the layers ran. One that did not stands before the next declared one that did."""
    waiting: list[str] = []
    ahead = {}
    for name in declared:
        waiting.append(name)
        if name in ran:
            ahead[name], waiting = waiting, []
    return [*chain.from_iterable(ahead[name] for name in ran), *waiting]


def post_norms(model: nn.Module) -> list[Any]:
    """The model's transformer layers that normalize behind each shortcut, and not before each branch."""
    return [module for module in model.modules() if isinstance(module, BLOCKS) and not module.norm_first]


def is_noise(module: nn.Module) -> bool:
    """Whether a module is dropout or stochastic depth, of torch, torchvision or timm."""
    return isinstance(module, NOISE) or type(module).__name__ in NOISE_NAMES


@contextmanager
def without_noise(model: nn.Module) -> Iterator[None]:
    """Dropout and the like off for a while, every other module in the mode it is in."""
    noisy = [module for module in model.modules() if is_noise(module)]
    modes = [module.training for module in noisy]
    try:
        for module in noisy:
            module.training = False
        yield
    finally:
        for module, mode in zip(noisy, modes, strict=True):
            module.training = mode


@torch.no_grad()
def signals(model: nn.Module, inputs: Inputs) -> dict[str, Signal]:
    """Each layer's `Signal` in the order in which the layers run; those that are not called as modules are left out."""
    found: dict[str, Signal] = {}
    held: dict[nn.Module, list[str]] = {}
    for name, (module, _) in layer_modules(model).items():
        held.setdefault(module, []).append(name)

    def look(module: nn.Module, _: Any, output: Any) -> None:
        name, *others = held[module]
        if name in found or (seen := first_tensor(output)) is None or len(seen) != len(inputs):
            return
        seen = seen.float()
        last = isinstance(module, nn.Linear) or seen.ndim < 3  # else channels are the second dimension
        units = seen.flatten(0, -2) if last else seen.transpose(0, 1).flatten(1).T
        rows = seen.flatten(1)
        found[name] = Signal(
            float(rows.var(0).mean()),
            float(rows.square().mean().sqrt()),
            tuple((units.amax(0) <= 0).tolist()),
            count_distinct(rows),
        )
        found.update(dict.fromkeys(others, replace(found[name], negative=())))  # whose units may be others

    hooks = [module.register_forward_hook(look) for module in held]
    try:
        with without_noise(model):
            inputs.given_to(model)
    finally:
        for handle in hooks:
            handle.remove()
    return found


class StepMeter:
    """Collects each layer's gradient, update and decay over the steps of an optimizer."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._weights = {name: weight for name, (_, weight) in layer_modules(model).items()}
        self._group = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self._decoupled = "W" in type(optimizer).__name__ or optimizer.defaults.get("decoupled_weight_decay", False)
        self._numbers: dict[str, list[tuple[float, float, float]]] = {name: [] for name in self._weights}
        self.silent: dict[str, Tensor] = {}  # units without a gradient in all steps so far
        self.reached: set[str] = set()

    def before(self) -> None:
        """Call between the backward pass and the optimizer's step."""
        self._old = {name: weight.detach().clone() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            if weight.grad is not None:
                self.reached.add(name)
                silent = (weight.grad.to_dense() == 0).flatten(1).all(1)
                self.silent[name] = silent & self.silent.get(name, silent)

    def after(self) -> None:
        """Call after the optimizer's step."""
        for name, weight in self._weights.items():
            group = self._group.get(id(weight))
            if group is None or weight.grad is None:
                continue
            old, gradient = widened(self._old[name]), rms(weight.grad.to_dense())
            size, update = rms(old), rms(widened(weight.detach()) - old)
            decay = float(group.get("weight_decay", 0.0)) * size
            by_loss = gradient
            if self._decoupled:
                decay *= float(group.get("lr", 1.0))
                by_loss = max(update - decay, 0.0)
            relative = update / size if size else math.nan  # of weights that are all zero nothing is known
            self._numbers[name].append((gradient, relative, decay / max(by_loss, 1e-30)))

    def summary(self, name: str) -> dict[str, float]:
        """A layer's fields from `gradient` to `decay`; NaN where it took no step."""
        rows = self._numbers[name]
        if not rows:
            return dict.fromkeys(("gradient", "update", "first_update", "peak", "decay"), math.nan)
        late = rows[len(rows) // 3 :]  # Adam's first steps have the size of its rate, whatever the gradient
        gradient, update, decay = torch.tensor(late, dtype=torch.float64).nanmedian(0).values.tolist()
        moves = [moved for _, moved, _ in rows]
        return {
            "gradient": gradient,
            "update": update,
            "first_update": moves[0],
            "peak": max(moves),
            "decay": decay,
        }


def rms(tensor: Tensor) -> float:
    """The root mean square, in float64 where float32 would lose small gradients.

    >>> rms(torch.tensor([3.0, 4.0]))
    3.5355339059327378
    """
    detached = widened(tensor.detach())
    norm = float(detached.norm())
    if not 1e-14 < norm < 1e18:
        norm = float(detached.double().norm()) if detached.device.type != "mps" else norm
    return norm / math.sqrt(max(1, detached.numel()))


def looks_random(weight: Tensor) -> bool:
    """Whether a weight's numbers are spread as uniform or normal draws are, and not as trained weights, whose tails
    are heavier: by the fourth moment, which is 1.8 and 3.
    """
    values = weight.detach().flatten().double()
    values = values - values.mean()
    square = values.square().mean()
    if len(values) < 100 or square == 0:
        return False
    kurtosis = float(values.pow(4).mean() / square**2)
    slack = 4 * math.sqrt(24 / len(values)) + 0.05  # four standard errors of a normal sample's
    return any(abs(kurtosis - drawn) < slack for drawn in (1.8, 3.0))


def equal_units(weight: Tensor) -> bool:
    """Whether all units, several of them, have the same weights."""
    rows = weight.detach().flatten(1)
    return len(rows) > 1 and bool((rows == rows[0]).all())


def gain(weight: Tensor) -> float:
    """Fan-in times the mean square of a weight (out, in, ...)."""
    return float(weight.detach().double().square().mean()) * weight[0].numel()


def expected_signals(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> dict[str, float]:
    """What mean-field theory gives for each layer's variance, where the model is a chain of Linear or Conv2d and ReLU.

    The weights' and biases' own variances are taken, so that any initialisation will do. Poolings are left out, as in
    `deepnet.figures.layers.theory`. Empty for any other model.
    """
    known = (nn.Linear, nn.Conv2d, nn.ReLU, nn.Flatten, nn.Dropout, nn.Identity, nn.MaxPool2d, nn.AdaptiveMaxPool2d)
    modules = [m for m in model.modules() if type(m).forward is not nn.Sequential.forward]
    if not all(isinstance(m, known) for m in modules) or len(inputs) < 2 or not inputs.measured:
        return {}
    layers = [model.get_submodule(name) for name in names if not name.startswith("(")]
    weights: list[Any] = [layer.weight for layer in layers]
    biases: list[Any] = [layer.bias for layer in layers]
    drawn = [
        (gain(weight), 0.0 if bias is None else float(bias.detach().double().square().mean()))
        for weight, bias in zip(weights, biases, strict=True)
    ]
    if any(weight == 0 for weight, _ in drawn):
        return {}
    flat = inputs.flat.double().cpu().numpy()
    values = signal_variance(flat, [weight[0].numel() for weight in weights], drawn)
    return dict(zip(names, values.tolist(), strict=False))
