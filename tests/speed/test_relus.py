"""ReLUs in place, and behind the poolings: they save a third of a CNN's step, and change no bit."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.recipes import as_written
from deepnet.machine import device
from deepnet.speed.products import LARGEST_SHIFT_AND_ADD, SmallMaps, conv2d_shift_and_add, emulated_bf16, native_bf16
from deepnet.training.precision import arithmetic
from modelBlock import plain_block
from myModel import CNN, MODELS, initialise

CONV = partial(nn.Conv2d, kernel_size=3, padding=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["MLP_13", "MLP_res_15", "CNN_10", "CNN_13", "CNN_30", "CNN_res_16", "CNN_res_56"])
def test_relus_in_place_and_behind_poolings_change_no_bit(name, precision):
    """Beside the model as the report has it: what comes out, and each gradient. Images of few colours make ties in the
    poolings.
    """
    torch.manual_seed(0)
    model = MODELS[name](image_size=32)
    initialise(model, "he")
    other = as_written(copy.deepcopy(model))
    relus = [sum(isinstance(m, nn.ReLU) for m in net.modules()) for net in (model, other)]
    assert relus[0] < relus[1] or name == "MLP_13"
    x = (
        (torch.randn(4, 1, 28, 28) if name.startswith("MLP") else torch.randn(4, 3, 32, 32))
        .sign()
        .to(memory_format=torch.channels_last)
    )
    outputs = []
    for net in (model.to(device()), other.to(device())):
        with arithmetic(precision):
            outputs.append(net(x.to(device())))
        outputs[-1].float().square().sum().backward()
    assert outputs[0].equal(outputs[1])
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad.equal(another.grad)
    assert min(p.grad.abs().max() for p in model.parameters()) > 0


@pytest.mark.parametrize(
    "context", [native_bf16, emulated_bf16, partial(SmallMaps, LARGEST_SHIFT_AND_ADD, conv2d_shift_and_add)]
)
def test_a_block_on_maps_of_two_by_two_takes_its_relus_in_place_too(context):
    """There a convolution is computed otherwise, and gives a view, into which autograd does not let everything be
    written.
    """
    torch.manual_seed(0)
    model = plain_block([3, 8, 8], CONV)
    other = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.ReLU) else m for m in copy.deepcopy(model)))
    outputs = []
    for net in (model, other):
        with context():
            outputs.append(net(torch.linspace(-1, 1, 24).view(2, 3, 2, 2)))
        outputs[-1].float().square().sum().backward()
    assert outputs[0].equal(outputs[1])
    for one, another in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad.equal(another.grad)


class LinearSigmoid(nn.Sequential):
    """A layer whose backward pass needs what it gave."""

    def __init__(self, width_in, width_out):
        super().__init__(nn.Linear(width_in, width_out), nn.Sigmoid())


@pytest.mark.parametrize("layer", [LinearSigmoid, lambda *_: nn.Identity()])
def test_a_relu_writes_in_place_only_where_nobody_minds(layer):
    block, x = plain_block([3, 3, 3], layer), torch.randn(4, 3)
    before = x.clone()
    block(x.requires_grad_()).sum().backward()
    assert x.equal(before)
    assert [m.inplace for m in plain_block([3, 3], nn.Linear) if isinstance(m, nn.ReLU)] == [True]


def test_a_pooling_before_all_blocks_pools_the_images_alone():
    model = CNN([64, [3, 8], 4], [128, 10], image_size=32)
    x = -torch.rand(2, 3, 32, 32)
    first, block, _ = model.features
    assert torch.equal(first(x), nn.functional.adaptive_max_pool2d(x, 16))
    assert torch.equal(model(x), model.head(nn.functional.adaptive_max_pool2d(torch.relu(block(first(x))), 4)))
