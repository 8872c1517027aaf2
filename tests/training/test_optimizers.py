"""Optimizers give torch's numbers: fused or not, in any memory format, and from a checkpoint of any device."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from helpers import mlp, same, state
from torch import nn

from deepnet.training import steps
from deepnet.training.optimizers import make_optimizer, restore_optimizer
from deepnet.training.steps import train_epoch
from experimentTable import OPTIMIZERS, Experiment


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_checkpoint_of_a_gpu_on_a_cpu(name):
    """A GPU's optimizer counts its steps on the device, and RMSprop refuses such a count on another device."""

    def take(optimizer, model, count):
        for _ in range(count):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()

    exp, model, twin = Experiment("own", model="MLP_4", optimizer=name, lr=0.01), nn.Linear(4, 2), nn.Linear(4, 2)
    optimizer = make_optimizer(exp, model)
    take(optimizer, model, 2)
    twin.load_state_dict(model.state_dict())
    checkpoint = copy.deepcopy(optimizer.state_dict())
    for group in checkpoint["param_groups"]:
        group |= {"capturable": True} if "capturable" in group else {}
    again = make_optimizer(exp, twin)
    restore_optimizer(again, checkpoint)
    model.zero_grad()
    take(optimizer, model, 2)
    take(again, twin, 2)
    assert same(state(model), state(twin))


@pytest.mark.parametrize(("precision", "side"), [("fp32", 4), ("fp32", 2), ("bf16", 4), ("bf16", 2)])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_fused_step_on_channels_last_weights(name, precision, side, with_bf16):
    """It gives the weights of a plain step.

    torch's fused kernels on a CPU read numbers in the order of memory, so a gradient in another memory format than its
    weight would be misread.
    """
    images, labels = torch.randn(16, 3, side, side), torch.arange(16) % 10
    weights = []
    for plain in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(1), nn.Linear(4 * side**2, 10)
        )
        model.to(memory_format=torch.channels_last)
        exp = Experiment("own", model="MLP_4", optimizer=name, lr=1e-2)
        optimizer = make_optimizer(exp, model)
        if plain:
            optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-2, foreach=False)
        for _ in range(3):
            train_epoch(model, [(images, labels)], optimizer, precision, fast=True)
        weights.append(model.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_channels_last_weights_are_not_copied(name):
    """Weights are bitwise those without `ContiguousViews`, and close to those of torch's simplest implementation."""
    images, labels = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10

    def trained(optimizer_of: Callable) -> tuple[nn.Sequential, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2), nn.Flatten(), nn.Linear(32, 10)
        model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        optimizer = optimizer_of(model)
        train_epoch(model, 3 * list(zip(images.split(32), labels.split(32), strict=True)), optimizer, fast=True)
        return model, optimizer

    ours = partial(make_optimizer, Experiment("own", model="MLP_4", optimizer=name, lr=0.01))
    model, optimizer = trained(ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "ContiguousViews", nullcontext)
        assert same(state(model), state(trained(ours)[0]))
    plain, _ = trained(lambda model: getattr(torch.optim, name)(model.parameters(), lr=0.01, foreach=False))
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    with torch.profiler.profile() as profiled:
        train_epoch(model, [(images, labels)], optimizer, fast=True)
    (span,) = [event.time_range for event in profiled.events() if event.name.startswith("Optimizer.step")]
    inside = {event.name for event in profiled.events() if span.start < event.time_range.start < span.end}
    assert any(name.startswith("aten::_fused_") for name in inside) and not inside & {"aten::contiguous", "aten::clone"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_defaults_of_optimizers(name):
    model = mlp()
    made = make_optimizer(Experiment("x", model="MLP_4", optimizer=name, lr=0.25), model)
    plain = getattr(torch.optim, name)(model.parameters(), lr=0.25)
    speed = {"fused", "foreach"}
    assert type(made) is type(plain)
    assert {k: v for k, v in made.defaults.items() if k not in speed} == {
        k: v for k, v in plain.defaults.items() if k not in speed
    }


def test_eps_and_frozen_parameters():
    model = mlp()
    model[1].requires_grad_(False)
    made = make_optimizer(Experiment("x", model="MLP_4", lr=0.25, eps=1e-16), model)
    assert made.defaults["eps"] == 1e-16
    assert [id(p) for p in made.param_groups[0]["params"]] == [id(p) for p in model[3].parameters()]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])  # fused, with a state
def test_a_checkpoint_in_another_memory_format_is_resumed(name):
    """A fused step reads numbers in the order of memory, so a state in another memory format would be misread."""
    images, labels = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
    exp = Experiment("own", model="MLP_4", optimizer=name, lr=1e-2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(1), nn.Linear(64, 10))
    optimizer = make_optimizer(exp, model)
    train_epoch(model, 3 * [(images, labels)], optimizer, fast=True)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    again = make_optimizer(exp, twin)
    restore_optimizer(again, copy.deepcopy(optimizer.state_dict()))
    for net, its in ((model, optimizer), (twin, again)):
        train_epoch(net, 2 * [(images, labels)], its, fast=True)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_other_weights_is_refused():
    exp, models = Experiment("own", model="MLP_4", lr=1e-2), [nn.Linear(4, 2), nn.Linear(4, 3)]
    optimizers = [make_optimizer(exp, model) for model in models]
    models[0](torch.ones(2, 4)).sum().backward()
    optimizers[0].step()
    with pytest.raises(ValueError, match="has shape"):
        restore_optimizer(optimizers[1], optimizers[0].state_dict())


@pytest.mark.parametrize("eps", [1e-8, 1e-16])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_subnormal_moments_are_dropped(monkeypatch, name, eps):
    """The weights do not change by it. A bias of -100 silences 15 of 16 units after an epoch in which they learned."""
    images, labels = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3
    weights, subnormal = [], []
    for dropped in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = make_optimizer(Experiment("own", model="MLP_4", optimizer=name, lr=1e-3, eps=eps), model)
        train_epoch(model, 20 * [(images, labels)], optimizer, fast=True)
        with torch.no_grad():
            model[0].bias[1:] = -100
        with monkeypatch.context() as patch:
            if not dropped:
                patch.setattr(steps, "drop_subnormals", lambda _: None)
            train_epoch(model, 1201 * [(images, labels)], optimizer, fast=True)
        moments = optimizer.state[model[0].weight]["exp_avg"]
        subnormal.append(int(((moments != 0) & (moments.abs() < torch.finfo(torch.float32).tiny)).sum()))
        weights.append(state(model))
    assert same(*weights)
    assert subnormal == [0, 15 * 8]
