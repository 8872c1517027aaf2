"""bf16 on a processor that has none: products of rounded operands, against torch's own autocast."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from helpers import untimed
from torch import nn
from torch.nn.functional import cross_entropy, linear

from coreFunction import run
from deepnet.machine import has_bfloat16
from deepnet.speed.products import emulated_bf16
from deepnet.training.metrics import probe
from experimentTable import BOTH_PRECISIONS, EXPERIMENTS, experiment
from myModel import MODELS

ROUNDING = 2**-8  # the most by which a number moves when it is rounded to bf16, as a share of it


def outputs_and_gradients(model, images, labels, context):
    model.zero_grad()
    with context:
        outputs = model(images)
        loss = cross_entropy(outputs, labels)
    loss.backward()
    return outputs, [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(1), nn.Linear(392, 10)
        ),
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Linear(8, 10),
        ),
    ],
    ids=["convolutions", "batch normalisation"],
)
def test_emulated_bf16_is_torch_s_autocast(model):
    """Outputs are equal, up to the order of fp32 sums. A convolution's gradients are not: without the hardware, torch
    rounds their sum after each image. So they may be two roundings apart, ours no further than torch's from the
    gradient in fp32.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    ours, theirs, exact = (
        outputs_and_gradients(model, images, labels, context)
        for context in (emulated_bf16(), torch.autocast("cpu", torch.bfloat16), nullcontext())
    )
    assert (ours[0] - theirs[0]).norm() <= ROUNDING * theirs[0].norm() and ours[0].dtype == torch.bfloat16
    for mine, its, true in zip(ours[1], theirs[1], exact[1], strict=True):
        assert (mine - its).norm() <= 2 * ROUNDING * its.norm()
        assert 0 < (mine - true).norm() <= 1.1 * (its - true).norm()


def test_operands_are_rounded_and_the_sum_is_not():
    """Each of a row's 4096 products is 1 + 2**-7 in bf16; summed in bf16 they would end at 256, where 1 is no longer
    seen.
    """
    layer = nn.Linear(4096, 1, bias=False)
    nn.init.constant_(layer.weight, 1 + 2**-9)  # rounds to 1
    with emulated_bf16():
        assert layer(torch.full((1, 4096), 1 + 2**-7)).item() == 4096 + 32


def test_arguments_given_by_name_are_rounded_too():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(4, 8), torch.randn(3, 8), 100 + torch.rand(3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = linear(x, weight, bias)
    with emulated_bf16():
        for given in (linear(x, weight, bias=bias), linear(input=x, weight=weight, bias=bias)):
            assert given.equal(expected)


def test_a_probe_sees_what_training_computes():
    """Two images that differ by less than bf16 can tell are one image to it."""
    images = torch.full((2, 3, 32, 32), 0.5)
    images[1] *= 1 + 1e-4
    model = MODELS["CNN_10"](image_size=32)
    assert probe(model, images, "fp32")["probe_distinct"][0] == 2
    assert probe(model, images, "bf16")["probe_distinct"][0] == 1


@pytest.mark.parametrize("model", BOTH_PRECISIONS)
def test_the_two_sides_of_a_comparison_differ_in_precision_alone(model):
    fp32, bf16 = (EXPERIMENTS[f"{model}_{precision}"] for precision in ("fp32", "bf16"))
    assert {key for key in vars(fp32) if vars(fp32)[key] != vars(bf16)[key]} == {"name", "precision"}
    assert (fp32.model, fp32.epochs, fp32.precision, bf16.precision) == (model, 5, "fp32", "bf16")
    assert fp32.lr == experiment("CNN_10").lr


def test_both_sides_begin_with_the_same_weights_and_the_record_says_what_computed_them(tiny, monkeypatch):
    sides = [
        replace(EXPERIMENTS[f"CNN_10_{precision}"], family="cnn", profile="sample", epochs=20)
        for precision in ("fp32", "bf16")
    ]
    fp32, bf16 = (run(side, wandb=False) for side in sides)
    assert abs(fp32.rows[0]["test_loss"] - bf16.rows[0]["test_loss"]) < 1e-2
    assert untimed(fp32.rows[1:]) != untimed(bf16.rows[1:])
    assert (fp32.settings["provenance"]["precision"], bf16.settings["provenance"]["precision"]) == ("fp32", "bf16")
    assert bf16.settings["provenance"]["emulated"] is not has_bfloat16()
    assert fp32.settings["provenance"]["emulated"] is False
