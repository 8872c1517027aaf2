"""Convolutions on small maps, computed by the taps of their kernels, against torch's own."""

from contextlib import nullcontext
from itertools import product

import pytest
import torch
from torch import nn

import modelBlock
import trainFunction
from modelBlock import SmallMaps, conv2d_by_taps
from myModel import MODELS
from trainFunction import train_epoch


@pytest.fixture
def by_taps(monkeypatch):
    """The shapes of the inputs that were convolved by taps."""
    shapes = []

    def counted(x, *others):
        shapes.append(tuple(x.shape))
        return conv2d_by_taps(x, *others)

    monkeypatch.setattr(modelBlock, "conv2d_by_taps", counted)
    return shapes


def with_gradients(conv, x):
    """Outputs of `conv`, and the gradients of a weighted sum of them by the inputs and the parameters."""
    outputs = conv(x)
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    return outputs, *torch.autograd.grad((outputs * weights).sum(), (x, *conv.parameters()))


@pytest.mark.parametrize("kernel", [(3, 3), (2, 2), (5, 5), (1, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 2), (0, 1)])
def test_outputs_and_gradients_equal_torch_s(kernel, stride, padding, by_taps):
    """In float64, where another order of the sums is seen at 1e-16 or so."""
    tried = 0
    for height, width, bias in product((1, 2, 3, 4), (1, 2, 4), (True, False)):
        conv = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias).double()
        small = all(0 <= s + 2 * p - k < 2 * step for s, k, step, p in zip((height, width), kernel, stride, padding, strict=True))
        if small and all(p < k for p, k in zip(padding, kernel, strict=True)):
            x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
            expected = with_gradients(conv, x)
            with SmallMaps():
                found = with_gradients(conv, x)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
            tried += 1
    assert len(by_taps) == tried


@pytest.mark.parametrize(("conv", "shape"), [
    (nn.Conv2d(4, 4, 3, padding=1), (2, 4, 3, 3)),
    (nn.Conv2d(4, 4, 1), (2, 4, 2, 2)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=2), (2, 4, 2, 2)),
    (nn.Conv2d(4, 4, 3, padding=2, dilation=2), (2, 4, 2, 2)),
    (nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 2, 2)),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 3, 3)),
    (nn.Conv2d(4, 4, 3, padding=1), (4, 2, 2)),
    (nn.Conv1d(4, 4, 3, padding=1), (2, 4, 2)),
], ids=["larger map", "one tap", "groups", "dilation", "same", "reflected", "no batch", "1-D"])  # fmt: skip
def test_all_others_are_left_to_torch(conv, shape, by_taps):
    x = torch.randn(shape)
    with SmallMaps():
        outputs = conv(x)
    assert torch.equal(outputs, conv(x))
    assert not by_taps


def test_a_kernel_that_does_not_fit_is_refused_as_torch_does():
    with SmallMaps(), pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        nn.Conv2d(3, 3, 3)(torch.randn(1, 3, 2, 2))


def test_an_epoch_of_resnet18_is_the_same_by_taps(by_taps, monkeypatch):
    images, labels = torch.randn(12, 3, 64, 64, dtype=torch.float64), torch.arange(12) % 10
    batches = [(images[:8], labels[:8]), (images[8:], labels[8:])]

    def trained() -> tuple[dict, nn.Module]:
        torch.manual_seed(0)
        model = MODELS["resnet18"]().double()
        row = train_epoch(model, batches, torch.optim.SGD(model.parameters(), lr=0.01), "fp64")
        return row, model

    row, model = trained()
    assert by_taps[:4] == [(8, 256, 4, 4), (8, 512, 2, 2), (8, 512, 2, 2), (8, 512, 2, 2)]  # layer4 of the first batch
    assert len(by_taps) == 8
    monkeypatch.setattr(trainFunction, "arithmetic", lambda _: nullcontext())
    expected, plain = trained()
    assert len(by_taps) == 8
    assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-9)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-7, atol=1e-9)
