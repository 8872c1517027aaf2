"""ReLUs in place and behind the poolings, which save a third of a CNN's step, change no bit."""

import pytest
import torch
from torch import nn

from deepnet.machine import device
from deepnet.speed.relus import with_cheap_relus
from deepnet.training.precision import arithmetic
from modelBlock import plain_block
from myModel import CNN, MLP, MODELS, initialise


def outputs_and_gradients(model, inputs, precision="fp32"):
    model.zero_grad()
    with arithmetic(precision):
        outputs = model(inputs)
    outputs.float().square().sum().backward()
    return [outputs, *(parameter.grad.clone() for parameter in model.parameters())]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["MLP_13", "MLP_res_15", "CNN_10", "CNN_13", "CNN_30", "CNN_res_16", "CNN_res_56"])
def test_outputs_and_gradients_are_equal_to_the_bit(name, precision):
    """Images of few colours make ties in the poolings."""
    torch.manual_seed(0)
    model = MODELS[name](image_size=32).to(device())
    initialise(model, "he")
    drawn, cheap = str(model), with_cheap_relus(model)
    images = torch.randn(4, 1, 28, 28) if isinstance(model, MLP) else torch.randn(4, 3, 32, 32)
    images = images.sign().to(device(), memory_format=torch.channels_last)
    expected, found = (outputs_and_gradients(net, images, precision) for net in (model, cheap))
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    assert min(gradient.abs().max() for gradient in found[1:]) > 0
    assert str(model) == drawn and list(map(id, cheap.parameters())) == list(map(id, model.parameters()))
    relus = [module for module in cheap.modules() if isinstance(module, nn.ReLU)]
    assert relus and all(relu.inplace for relu in relus)
    assert "inplace" not in drawn


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_they_are_behind_convolutions_on_small_maps(precision):
    """Which are computed as matrix products, whose outputs are views."""
    torch.manual_seed(0)
    model, images = CNN([[3, 8, 8], 4], [128, 10], image_size=2), torch.linspace(-1, 1, 24).view(2, 3, 2, 2)
    expected, found = (outputs_and_gradients(net, images, precision) for net in (model, with_cheap_relus(model)))
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


class LinearSigmoid(nn.Sequential):
    """A layer whose backward pass needs its output."""

    def __init__(self, width_in, width_out):
        super().__init__(nn.Linear(width_in, width_out), nn.Sigmoid())


@pytest.mark.parametrize("layer", [LinearSigmoid, lambda *_: nn.Identity()])
def test_a_relu_does_not_overwrite_what_others_need(layer):
    model, x = MLP([3, 3, 3]), torch.randn(4, 3)
    model.blocks = plain_block([3, 3, 3], layer)
    before = x.clone()
    with_cheap_relus(model)(x.requires_grad_()).sum().backward()
    assert x.equal(before)


def test_a_pooling_before_all_blocks_pools_the_images():
    model, x = CNN([64, [3, 8], 4], [128, 10], image_size=32), -torch.rand(2, 3, 32, 32)
    pooled = nn.functional.adaptive_max_pool2d(x, 16)
    assert with_cheap_relus(model)[0](x).equal(pooled)
    assert with_cheap_relus(model)(x).equal(model(x))


class OwnMLP(MLP):
    """A reader's own class."""


def with_hook(model):
    model.blocks[0][1].register_forward_hook(lambda *_: None)
    return model


def with_own_forward(model):
    model.last.forward = model.last.forward
    return model


@pytest.mark.parametrize(
    "model",
    [
        OwnMLP([4, 4, 2]),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        with_hook(MLP([4, 4, 2])),
        with_own_forward(MLP([4, 4, 2])),
    ],
    ids=["own class", "own model", "hook", "own forward"],
)
def test_any_other_model_is_returned_unchanged(model):
    assert with_cheap_relus(model) is model
