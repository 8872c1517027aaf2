"""Convolutions on small maps, by shift-and-add and by im2col, against torch's own."""

from contextlib import nullcontext
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from deepnet.speed import convolutions
from deepnet.speed.convolutions import SmallMaps, bf16_autocast, conv2d_im2col, conv2d_shift_and_add
from deepnet.training import precision, steps
from deepnet.training.steps import train_epoch
from myModel import MODELS


class Counted:
    """A convolution, and the shapes of the inputs that it was given."""

    def __init__(self, convolve):
        self.convolve, self.shapes = convolve, []

    def __call__(self, x, *others):
        self.shapes.append(tuple(x.shape))
        return self.convolve(x, *others)


def with_gradients(conv, x):
    """Outputs of `conv`, and the gradients of a weighted sum of them by the inputs and the parameters."""
    outputs = conv(x)
    # the same in all precisions
    weights = torch.linspace(-1, 1, outputs.numel()).bfloat16().to(outputs.dtype).view(outputs.shape)
    return outputs, *torch.autograd.grad((outputs * weights).sum(), (x, *conv.parameters()))


KERNELS, STRIDES, PADDINGS = (
    [(3, 3), (2, 2), (5, 5), (1, 3), (1, 1)],
    [(1, 1), (2, 2), (2, 1), (1, 3)],
    [(0, 0), (1, 1), (2, 2), (0, 1)],
)
# others are left to torch
LAYERS = [(k, s, p) for k, s, p in product(KERNELS, STRIDES, PADDINGS) if p[0] < k[0] and p[1] < k[1]]


@pytest.mark.parametrize(("kernel", "stride", "padding"), LAYERS)
def test_outputs_and_gradients_equal_torch(kernel, stride, padding, monkeypatch):
    """In float64, where another order of the sums shows at 1e-16 or so; by im2col as for small kernels and for large
    ones.
    """
    tried = 0
    im2col = convolutions.Im2colConvolution.apply
    for largest, convolve, large_kernel in ((2, conv2d_shift_and_add, None), (8, im2col, 2**20), (8, im2col, 0)):
        monkeypatch.setattr(convolutions, "LARGE_KERNEL", large_kernel)
        counted = Counted(convolve)
        for height, width, bias in product((1, 2, 3, 4, 6), (1, 2, 4, 5), (True, False)):
            conv = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias).double()
            if all(
                0 <= s + 2 * p - k < largest * step
                for s, k, step, p in zip((height, width), kernel, stride, padding, strict=True)
            ):
                x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
                expected = with_gradients(conv, x)
                with SmallMaps(largest, counted):
                    found = with_gradients(conv, x)
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
                tried += 1
                assert counted.shapes.pop() == tuple(x.shape)
        assert not counted.shapes
    assert tried


@pytest.mark.parametrize("large_kernel", [0, 2**20])
@pytest.mark.parametrize(
    ("stride", "side"), [((1, 1), 2), ((1, 1), 4), ((2, 2), 4), ((2, 2), 8), ((1, 1), 8), ((2, 2), 16)]
)
def test_im2col_rounds_no_more_than_torch(stride, side, large_kernel, monkeypatch):
    """Compared with the exact convolution of the rounded operands: outputs are rounded once, sums are not."""
    monkeypatch.setattr(convolutions, "LARGE_KERNEL", large_kernel)
    torch.manual_seed(0)
    conv, x = nn.Conv2d(64, 128, 3, stride, 1), torch.randn(8, 64, side, side).to(memory_format=torch.channels_last)
    x = x.bfloat16().float().requires_grad_()
    with torch.no_grad():
        for p in conv.parameters():
            p.copy_(p.bfloat16())
    exact = with_gradients(conv, x)
    with bf16_autocast():
        ours = with_gradients(conv, x)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = with_gradients(conv, x)
    assert ours[0].dtype == torch.bfloat16 and ours[0].is_contiguous(memory_format=torch.channels_last)
    for mine, its, true in zip(ours, theirs, exact, strict=True):
        assert 0 < (mine - true).norm() <= 1.1 * max((its - true).norm(), 2**-9 * true.norm())


def test_no_gradient_is_computed_for_frozen_tensors(monkeypatch):
    made = []
    for name in ("_input_gradient", "_im2col"):
        whole = getattr(convolutions, name)
        monkeypatch.setattr(convolutions, name, lambda *a, name=name, whole=whole: made.append(name) or whole(*a))
    conv, x = nn.Conv2d(4, 8, 3, padding=1), torch.randn(2, 4, 4, 4)
    with bf16_autocast():
        conv(x).float().sum().backward()
    assert conv.weight.grad.shape == conv.weight.shape and x.grad is None and made == ["_im2col"]
    conv.requires_grad_(False)
    with bf16_autocast():
        conv(x.requires_grad_()).float().sum().backward()
    assert x.grad.shape == x.shape and made == ["_im2col", "_input_gradient"]


def test_a_model_may_switch_autocast_off():
    conv, x = nn.Conv2d(4, 8, 3, padding=1), torch.randn(2, 4, 2, 2)
    with bf16_autocast():
        with torch.autocast("cpu", enabled=False):
            assert conv(x).equal(torch.conv2d(x, conv.weight, conv.bias, padding=1))
            assert conv(x).dtype == torch.float32
        assert conv(x).dtype == torch.bfloat16 and conv.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(("conv", "shape"), [
    (nn.Conv2d(4, 4, 3, padding=1), (2, 4, 3, 3)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=2), (2, 4, 2, 2)),
    (nn.Conv2d(4, 4, 3, padding=2, dilation=2), (2, 4, 2, 2)),
    (nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 2, 2)),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 3, 3)),
    (nn.Conv2d(4, 4, 3, padding=1), (4, 2, 2)),
    (nn.Conv1d(4, 4, 3, padding=1), (2, 4, 2)),
    (nn.Conv2d(4, 4, 8, stride=8), (2, 4, 16, 16)),
    (lambda x: torch.conv2d(x, torch.ones(4, 4, 3, 3), None, 1, (1, 1), (1, 1)), (2, 4, 2, 2)),
    (lambda x: torch.conv2d(x, torch.ones(4, 4, 3, 3), None, (1,), (1,), (1, 1)), (2, 4, 2, 2)),
], ids=[
    "larger map", "groups", "dilation", "same", "reflected", "no batch", "1-D", "large kernel", "numbers", "one number",
])  # fmt: skip
def test_other_convolutions_are_left_to_torch(conv, shape):
    x, counted = torch.randn(shape), Counted(conv2d_shift_and_add)
    with SmallMaps(2, counted):
        outputs = conv(x)
    assert torch.equal(outputs, conv(x))
    assert not counted.shapes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_with_activation_checkpointing_trains(precision, with_bf16):
    class Saving(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    model = nn.Sequential(Saving(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), nn.Flatten(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[0][0].weight.detach().clone()
    train_epoch(model, [(torch.randn(6, 4, 2, 2), torch.arange(6) % 3)], optimizer, precision, fast=True)
    assert not torch.equal(model[0][0].weight, before)


def test_a_kernel_larger_than_the_map_raises_torch_s_error():
    with (
        SmallMaps(2, conv2d_shift_and_add),
        pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"),
    ):
        nn.Conv2d(3, 3, 3)(torch.randn(1, 3, 2, 2))


def test_resnet18_in_bf16_uses_im2col_from_layer2_on(monkeypatch, with_bf16):
    im2col = Counted(conv2d_im2col)
    monkeypatch.setattr(convolutions, "conv2d_im2col", im2col)
    model = MODELS["resnet18"]()
    batches, optimizer = [(torch.randn(2, 3, 64, 64), torch.arange(2))], torch.optim.SGD(model.parameters(), lr=0.01)
    train_epoch(model, batches, optimizer, "bf16", fast=True)
    assert im2col.shapes[-5:] == [(2, 256, 4, 4), (2, 512, 2, 2), (2, 256, 4, 4), (2, 512, 2, 2), (2, 512, 2, 2)]
    assert len(im2col.shapes) == 15


@pytest.mark.parametrize(("images", "side", "shape", "pays"), [
    (1, 8, (128, 64, 3, 3), True), (1, 8, (64, 64, 3, 3), False), (1, 8, (256, 32, 3, 3), False),
    (1, 8, (128, 64, 1, 1), False), (1, 8, (128, 64, 5, 5), False), (1, 4, (8, 4, 5, 5), True),
    (1, 4, (8, 4, 1, 1), True), (2**14, 4, (2, 64, 3, 3), False),
])  # fmt: skip
def test_on_larger_maps_im2col_is_for_many_channels_and_its_memory_is_bounded(images, side, shape, pays):
    x = torch.empty(1, shape[1], side, side).expand(images, -1, -1, -1)
    assert convolutions._im2col_pays(x, torch.empty(shape), (1, 1), [k // 2 for k in shape[2:]]) == pays


@pytest.mark.parametrize(("channels", "side", "calls"), [(300, 4, 0), (16, 4, 2), (300, 5, 2)])
def test_a_large_kernel_on_a_small_map_is_never_left_to_torch(channels, side, calls):
    conv, x = nn.Conv2d(channels, 400, 3, padding=1), torch.randn(1, channels, side, side, requires_grad=True)
    with torch.profiler.profile() as profiled, bf16_autocast():
        conv(x).float().sum().backward()
    torch_own = ("aten::convolution", "aten::convolution_backward")
    assert len([event for event in profiled.events() if event.name in torch_own]) == calls


def test_an_epoch_of_resnet18_is_the_same_by_shift_and_add(monkeypatch):
    shift_and_add = Counted(conv2d_shift_and_add)
    monkeypatch.setattr(precision, "conv2d_shift_and_add", shift_and_add)
    images, labels = torch.randn(12, 3, 64, 64, dtype=torch.float64), torch.arange(12) % 10
    batches = [(images[:8], labels[:8]), (images[8:], labels[8:])]

    def trained() -> tuple[dict, nn.Module]:
        torch.manual_seed(0)
        model = MODELS["resnet18"]().double()
        row = train_epoch(model, batches, torch.optim.SGD(model.parameters(), lr=0.01), "fp64", fast=True)
        return row, model

    row, model = trained()
    layer4 = [(8, 256, 4, 4), (8, 512, 2, 2), (8, 256, 4, 4), (8, 512, 2, 2), (8, 512, 2, 2)]  # of the first batch
    assert shift_and_add.shapes[:5] == layer4
    assert len(shift_and_add.shapes) == 10
    monkeypatch.setattr(steps, "arithmetic", lambda *_, **__: nullcontext())
    expected, plain = trained()
    assert len(shift_and_add.shapes) == 10
    assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-9)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-7, atol=1e-9)
