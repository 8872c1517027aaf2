"""What is diagnosed, as a value that measurements and cures work on: a model, its data, its optimizer, its loss."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss
from torch.optim import Optimizer

from deepnet.diagnosis.inputs import widened
from deepnet.diagnosis.sample import Sample
from deepnet.records.files import first_line
from deepnet.training.own import own_optimizer
from deepnet.training.recipe import copy_of
from deepnet.training.steps import Loss
from deepnet.valid import number
from experimentTable import OPTIMIZERS, UsageError, choose

LR = 1e-4
Parameters = dict[str, nn.Parameter]
# From a model and from its parameters under the names that they had before any cure changed the model.
Make = Callable[[nn.Module, Parameters], Optimizer]


@dataclass(frozen=True)
class Setup:
    """A training that is about to begin. `options` take the place of the optimizer's own in all of its groups.

    A learning rate is that of the fastest group; the others keep their ratio to it.
    """

    model: nn.Module
    sample: Sample
    make: Make
    loss: Loss = cross_entropy
    batch_size: int = 32
    guess: float = math.nan  # see `loss_of_guess`
    options: dict[str, float] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)  # filled by `copied`

    def copied(self) -> "Setup":
        """The same setup with a model of its own."""
        model = copy_of(self.model)
        return replace(self, model=model, parameters=dict(model.named_parameters()))

    def optimizer(self) -> Optimizer:
        """A new optimizer over the model, with `options`."""
        made = self.make(self.model, self.parameters)
        for group, rate in zip(made.param_groups, relative_rates(made), strict=True):
            group.update({key: value for key, value in self.options.items() if key in group})
            if "lr" in self.options and "lr" in group:
                group["lr"] *= rate
        return made

    @property
    def is_cross_entropy(self) -> bool:
        """Whether the loss is torch's cross-entropy, of which it is known what it expects."""
        return self.loss is cross_entropy or isinstance(self.loss, nn.CrossEntropyLoss)

    @property
    def is_nll(self) -> bool:
        """Whether the loss is torch's negative log-likelihood, which takes log-probabilities."""
        return self.loss is nll_loss or isinstance(self.loss, nn.NLLLoss)


def loss_of_guess(setup: Setup, outputs: int) -> float:
    """The mean loss of the best scores that are the same for all items, and so know how frequent each label is at most.

    For cross-entropy it is the entropy of the labels, which is taken also where such scores cannot be found.
    """
    scores = torch.zeros(1, outputs, device=setup.sample.targets.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = setup.loss(scores.expand(len(setup.sample.targets), -1), setup.sample.targets)
        value.backward()
        return value.detach()

    try:
        optimizer.step(loss)
        found = float(loss())
    except Exception:  # as of a label without an output
        found = math.nan
    # A loss of probabilities has no lowest value for scores of any size.
    return found if found > 0 and math.isfinite(found) and not setup.is_nll else setup.sample.entropy


def in_float32(setup: Setup) -> Setup:
    """The setup with its model, which should be a copy, converted to float32, and its inputs."""
    setup.model.float()
    return replace(setup, sample=replace(setup.sample, inputs=setup.sample.inputs.map(widened)))


def relative_rates(optimizer: Optimizer) -> list[float]:
    """Each group's learning rate over the largest one; 1 where no group has any."""
    rates = [float(group.get("lr", 0.0)) for group in optimizer.param_groups]
    return [rate / max(rates) if any(rates) else 1.0 for rate in rates]


def maker(model: nn.Module, optimizer: Any, lr: float | None, eps: float | None) -> Make:
    """What makes the optimizer for `model` or a copy of it.

    `optimizer` is the name of one (with `lr`, default 1e-4, and `eps`), a callable from the parameters that learn to an
    optimizer, or an optimizer over the model's parameters, whose groups and settings are taken over, though not its
    averages. Raises UsageError.
    """
    named = optimizer is None or isinstance(optimizer, str)
    if not named and (lr is not None or eps is not None):
        raise UsageError("lr and eps have no effect beside an optimizer of your own; set them there, or give its name")
    if named:
        name = choose("optimizer", optimizer or "Adam", OPTIMIZERS)
        if name == "SGD" and eps is not None:
            raise UsageError("SGD has no eps; leave it out or choose another optimizer")
        given = {"lr": LR if lr is None else number("lr", lr)}
        given |= {} if eps is None else {"eps": number("eps", eps)}
        return lambda other, _: getattr(torch.optim, name)(_learning(other), **given)
    if isinstance(optimizer, Optimizer):
        return _same_groups(model, optimizer)
    if not callable(optimizer):
        raise UsageError(f"optimizer must be a name, an optimizer or a callable that makes one, got {optimizer!r:.60}")

    return lambda other, _: own_optimizer(lambda _parameters: optimizer(_learning(other)), other)


def _learning(model: nn.Module) -> list[nn.Parameter]:
    # An optimizer refuses an empty list; the measurement says that nothing learns.
    return [p for p in model.parameters() if p.requires_grad] or [nn.Parameter(torch.zeros(()))]


def _same_groups(model: nn.Module, optimizer: Optimizer) -> Make:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [
        ([names[id(p)] for p in group["params"] if id(p) in names], {k: v for k, v in group.items() if k != "params"})
        for group in optimizer.param_groups
    ]
    if not any(held for held, _ in groups):
        raise UsageError("the optimizer holds none of the model's parameters; make it from the model that is trained")

    kind: Any = type(optimizer)
    known = vars(optimizer) | optimizer.defaults
    settings = {name: known[name] for name in [*signature(kind).parameters][1:] if name in known}

    def make(other: nn.Module, parameters: Parameters) -> Optimizer:
        try:
            made = kind([{**own, "params": [parameters[name] for name in held]} for held, own in groups], **settings)
        except Exception as error:  # whatever a reader's own optimizer raises
            remedy = "give a callable from the parameters to an optimizer instead"
            raise UsageError(f"no second {kind.__name__} can be made ({first_line(error)}); {remedy}") from None
        known = {id(p) for p in parameters.values()}
        made.param_groups[0]["params"] += [p for p in other.parameters() if id(p) not in known]  # a cure's own
        return made

    return make


def tensors_in(outputs: Any) -> Iterator[Tensor]:
    """The tensors in what a module gives, as of a model with auxiliary heads, a data class, or a recurrent layer."""
    held = vars(outputs) if is_dataclass(outputs) and not isinstance(outputs, Mapping) else outputs
    parts = held.values() if isinstance(held, Mapping) else held if isinstance(held, tuple | list) else ()
    yield from [outputs] if isinstance(outputs, Tensor) else ()
    for part in parts:
        yield from tensors_in(part)


def first_tensor(outputs: Any) -> Tensor | None:
    """The first tensor in what a module gives."""
    return next(tensors_in(outputs), None)
