"""The cures that a diagnosis tries: each is a function from a setup, whose model is a copy, to a changed setup."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from statistics import median_high
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from torch.nn.utils.parametrize import is_parametrized

from deepnet.diagnosis.inputs import Inputs, widened
from deepnet.diagnosis.layers import BLOCKS, is_noise, layer_modules, post_norms
from deepnet.diagnosis.measure import Measurements, Norm
from deepnet.diagnosis.rules_steps import GOOD_UPDATE
from deepnet.diagnosis.setup import Parameters, Setup, in_float32, relative_rates

SMALL_EPS = 1e-16
USUAL_RATE = 1e-3  # in place of a learning rate of 0
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


class UnfitError(Exception):
    """The cure cannot be tried on this model; the message says why."""


@dataclass(frozen=True)
class Cure:
    """A change, in words that follow "with ", and the function that makes it."""

    words: str
    change: Callable[[Setup, Measurements], Setup]


def _layers(setup: Setup) -> list[tuple[str, Any]]:
    """Linear and convolutional layers by name, without the last, which gives the scores."""
    modules = [*setup.model.named_modules()]
    # Attention and torch's transformer layers read their Linear layers' weights, so that these cannot be replaced.
    kept = tuple(name + "." for name, m in modules if isinstance(m, (*BLOCKS, nn.MultiheadAttention)))
    found = [(name, m) for name, m in modules if name and isinstance(m, LAYERS) and not name.startswith(kept)]
    if len(found) < 2:
        raise UnfitError("the model has no hidden Linear or convolutional layer")
    return found


# ---------------------------------------------------------------- changes of the weights


def _redrawn(draw: Callable[[Tensor], Any]) -> Callable[[Setup, Measurements], Setup]:
    def change(setup: Setup, _: Measurements) -> Setup:
        modules = dict.fromkeys(module for module, _ in layer_modules(setup.model).values())
        fitting = [module for module in modules if isinstance(module, LAYERS)]
        if len(fitting) < min(2, len(modules)):
            raise UnfitError("no layer before the last is a Linear or convolutional one")
        for module in fitting:
            if is_parametrized(module, "weight"):
                module.weight = draw(module.weight.detach().clone())
            else:
                draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        return setup

    return change


# ---------------------------------------------------------------- changes of the architecture


def _normalized(setup: Setup, _: Measurements) -> Setup:
    norms = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d, nn.Linear: nn.LayerNorm}
    for name, layer in _layers(setup)[:-1]:
        norm = next((norm for kind, norm in norms.items() if isinstance(layer, kind)), None)
        width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if norm:
            setup.model.set_submodule(name, nn.Sequential(layer, norm(width).to(layer.weight)))
    return setup


class _Shortcut(nn.Module):
    """x + layer(x)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, with its input added."""
        return x + self.layer(x)


def _keeps_shape(layer: Any) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features
    same = layer.padding == "same" or all(
        2 * p == d * (k - 1) for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size, strict=True)
    )
    return layer.in_channels == layer.out_channels and same and set(layer.stride) == {1}


def _shortcuts(setup: Setup, _: Measurements) -> Setup:
    fitting = [(name, layer) for name, layer in _layers(setup)[1:-1] if _keeps_shape(layer)]
    if not fitting:
        raise UnfitError("no hidden layer has as many outputs as inputs")
    for name, layer in fitting:
        setup.model.set_submodule(name, _Shortcut(layer))
    return setup


def _with_relus(setup: Setup, _: Measurements) -> Setup:
    for name, layer in _layers(setup)[:-1]:
        setup.model.set_submodule(name, nn.Sequential(layer, nn.ReLU()))
    return setup


def _relu_he(setup: Setup, m: Measurements) -> Setup:
    squashing = [n for n, module in setup.model.named_modules() if isinstance(module, nn.Sigmoid | nn.Tanh)]
    if not squashing:
        raise UnfitError("the activations are no modules that could be replaced")
    for name in squashing:
        setup.model.set_submodule(name, nn.ReLU())
    return CURES["he"].change(setup, m)


def _pre_norm(setup: Setup, _: Measurements) -> Setup:
    for module in post_norms(setup.model):
        module.norm_first = True
    return setup


def _raw_scores(setup: Setup, m: Measurements) -> Setup:
    """Undo a last softmax or sigmoid in the loss, which is the same as leaving it out; take a last ReLU module away."""
    inverse: dict[str, Callable[[Tensor], Tensor]] = {
        "Softmax": lambda p: p.clamp(min=1e-30).log(),
        "SafeSoftmax": lambda p: p.clamp(min=1e-30).log(),
        "Sigmoid": lambda p: p.clamp(1e-7, 1 - 1e-7).logit(),
        "Tanh": lambda p: p.clamp(-1 + 1e-7, 1 - 1e-7).atanh(),
    }
    if m.last_operation in inverse:
        undo = inverse[m.last_operation]
        return replace(setup, loss=lambda outputs, targets: nll_loss(undo(widened(outputs)).log_softmax(1), targets))
    name, last = [*setup.model.named_modules()][-1]
    if not name or not isinstance(last, nn.ReLU):
        raise UnfitError("the last activation is no module at the model's end")
    setup.model.set_submodule(name, nn.Identity())
    return setup


def _no_dropout(setup: Setup, _: Measurements) -> Setup:
    for name, module in [*setup.model.named_modules()]:
        if name and is_noise(module):
            setup.model.set_submodule(name, nn.Identity())
    return setup


def _log_probabilities(setup: Setup, _: Measurements) -> Setup:
    return replace(setup, loss=lambda outputs, targets: setup.loss(outputs.log_softmax(1), targets))


def _train_mode(setup: Setup, _: Measurements) -> Setup:
    for module in setup.model.modules():
        if isinstance(module, Norm):
            module.reset_running_stats()
    setup.model.train()
    return setup


def _unfreeze(setup: Setup, _: Measurements) -> Setup:
    setup.model.requires_grad_(True)
    return _all_parameters(setup, _)  # an optimizer of the reader's own may hold only what learned before


def _all_parameters(setup: Setup, _: Measurements) -> Setup:
    def make(model: nn.Module, parameters: Parameters) -> torch.optim.Optimizer:
        made = setup.make(model, parameters)
        held = {id(p) for group in made.param_groups for p in group["params"]}
        made.param_groups[0]["params"] += [p for p in model.parameters() if p.requires_grad and id(p) not in held]
        for group, rate in zip(made.param_groups, relative_rates(made), strict=True):
            if not rate:
                group["lr"] = max(other["lr"] for other in made.param_groups)
        return made

    return replace(setup, make=make)


# ---------------------------------------------------------------- changes of the optimizer


def _options(**options: float) -> Callable[[Setup, Measurements], Setup]:
    def change(setup: Setup, m: Measurements) -> Setup:
        if not options.keys() <= m.options.keys():
            raise UnfitError(f"{m.optimizer} has no {next(iter(options))}")
        return replace(setup, options=setup.options | options)

    return change


def _rate_times(factor: float) -> Callable[[Setup, Measurements], Setup]:
    return lambda setup, m: replace(setup, options=setup.options | {"lr": _rate(m) * factor})


def _rate(m: Measurements) -> float:
    if "lr" not in m.options:
        raise UnfitError(f"{m.optimizer} has no learning rate")
    return m.options["lr"] or USUAL_RATE


def _good_rate(setup: Setup, m: Measurements) -> Setup:
    """The rate at which half of the layers would have moved by `GOOD_UPDATE` in the first step, to a power of ten."""
    moves = [layer.first_update for layer in m.layers if layer.learns and layer.first_update > 0]
    middle = median_high(moves) if moves and math.isfinite(median_high(moves)) else 0.1
    factor = min(max(GOOD_UPDATE / middle, 1e-6), 1e6) if m.options.get("lr") else 1.0
    return replace(setup, options=setup.options | {"lr": 10 ** round(math.log10(_rate(m) * factor))})


# ---------------------------------------------------------------- changes of the data


def _items(setup: Setup, inputs: Inputs, targets: Tensor) -> Setup:
    return replace(setup, sample=replace(setup.sample, inputs=inputs, targets=targets))


def _finite_items(setup: Setup, _: Measurements) -> Setup:
    good = ~setup.sample.bad_items
    if int(good.sum()) < 2:
        raise UnfitError("no two items are without a gap")
    return _items(setup, setup.sample.inputs[good], setup.sample.targets[good])


def _shifted_labels(setup: Setup, m: Measurements) -> Setup:
    return _items(setup, setup.sample.inputs, setup.sample.targets - m.labels[0])


def _standardised(setup: Setup, _: Measurements) -> Setup:
    """By one mean and deviation per channel of images, or per feature of vectors."""
    inputs = setup.sample.inputs
    parts = tuple(_standard(part) if i in inputs.measured else part for i, part in enumerate(inputs.parts))
    return _items(setup, replace(inputs, parts=parts), setup.sample.targets)


def _standard(part: Tensor) -> Tensor:
    x = widened(part)
    over = [0] if x.ndim < 3 else [0, *range(2, x.ndim)]
    mean, deviation = x.mean(over, keepdim=True), x.std(over, keepdim=True)
    return ((x - mean) / deviation.clamp(min=1e-6 * float(x.std()) + 1e-30)).to(part.dtype)


CURES: dict[str, Cure] = {
    "he": Cure(
        "He's initialization, biases 0",
        _redrawn(lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu")),
    ),
    "xavier": Cure("Xavier's initialization, biases 0", _redrawn(nn.init.xavier_normal_)),
    "small-weights": Cure("weights a tenth of Xavier's", _redrawn(partial(nn.init.xavier_normal_, gain=0.1))),
    "norm": Cure("normalization behind each hidden layer", _normalized),
    "shortcuts": Cure("a shortcut around each hidden layer that keeps the shape", _shortcuts),
    "relus": Cure("a ReLU behind each hidden layer", _with_relus),
    "relu-he": Cure("ReLU and He's initialization", _relu_he),
    "pre-norm": Cure("normalization before each branch of the transformer", _pre_norm),
    "raw-scores": Cure("the last activation left out", _raw_scores),
    "log-probabilities": Cure("log_softmax over the classes behind the model", _log_probabilities),
    "no-dropout": Cure("no dropout", _no_dropout),
    "train-mode": Cure("the model in training mode", _train_mode),
    "unfreeze": Cure("all parameters unfrozen", _unfreeze),
    "all-parameters": Cure("all parameters in the optimizer", _all_parameters),
    "small-eps": Cure(f"eps {SMALL_EPS:.0e}", _options(eps=SMALL_EPS)),
    "minimize": Cure("maximize=False", _options(maximize=False)),
    "no-decay": Cure("no weight decay", _options(weight_decay=0.0)),
    "good-rate": Cure("the learning rate at which weights move by a thousandth per step", _good_rate),
    "faster": Cure("ten times the learning rate", _rate_times(10.0)),
    "slower": Cure("a tenth of the learning rate", _rate_times(0.1)),
    "float32": Cure("weights and inputs in float32", lambda setup, _: in_float32(setup)),
    "finite-items": Cure("finite items alone", _finite_items),
    "shifted-labels": Cure("labels from 0 on", _shifted_labels),
    "standardise": Cure("standardized inputs", _standardised),
}


def together(names: Sequence[str]) -> Cure:
    """The cures of these names as one, made in this order."""

    def change(setup: Setup, m: Measurements) -> Setup:
        return reduce(lambda changed, name: CURES[name].change(changed, m), names, setup)

    return Cure(" and ".join(CURES[name].words for name in names), change)
