"""On a device without float64, as Apple's MPS: nothing that runs there asks for it, and the gradient norms are the same
numbers.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from coreFunction import build
from deepnet import machine
from deepnet.data.sets import load_images
from deepnet.machine import device
from deepnet.seeds import seed_everything
from deepnet.speed import layout
from deepnet.speed.layout import fast_layout
from deepnet.training import metrics
from deepnet.training import precision as precisions
from deepnet.training.metrics import GradientNorms, l2_norms, probe
from deepnet.training.optimizers import make_optimizer
from deepnet.training.steps import evaluate, train_epoch
from experimentTable import UsageError, experiment
from myModel import train_only


class NoFloat64(TorchDispatchMode):
    """Refuses an operation that gives float64, as MPS does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(out)):
            raise TypeError(f"{func} gives float64, which the device does not have")
        return out


@pytest.fixture
def without_float64(monkeypatch):
    monkeypatch.setattr(metrics, "has_float64", lambda: False)


def trained(name: str) -> dict:
    """An epoch of three batches with norms, the evaluation and the probe, on the embedded sample."""
    exp = replace(experiment(name), start_from=None, profile="sample")
    data = load_images(exp.dataset, "train", "sample", 28 if exp.chapter == 3 else 32).to(device())
    seed_everything(0, 0)
    model = build(exp).to(device())
    train_only(model, exp.trainable)
    batches = [data.batch(indices) for indices in torch.arange(90).split(30)]
    row = train_epoch(model, batches, make_optimizer(exp, model), gradients=GradientNorms(model), fast=True)
    row.pop("train_seconds")
    return row | evaluate(model, data.subset(range(100)))[0] | probe(model, batches[0][0])


@pytest.mark.parametrize("name", ["MLP_33", "CNN_10", "CNN_res_16", "fine_tune_2", "sgd", "rmsprop"])
def test_training_evaluation_and_probe_do_without(name, monkeypatch):
    expected = trained(name)
    monkeypatch.setattr(metrics, "has_float64", lambda: False)
    with NoFloat64():
        row = trained(name)
    for found in (row, expected):  # a layer that does not learn has no gradient
        for metric in ("gradient_log10_rms", "update_log10_ratio"):
            found[metric] = [value for value in found[metric] if value is not None]
    norms = [key for key in row if key.startswith(("gradient", "update"))]
    assert len(norms) == 4
    for key in norms:
        # A CPU adds up a tensor's squares one after another: to 2e-5 in float32 where they are millions.
        assert row.pop(key) == pytest.approx(expected.pop(key), rel=1e-4)
    assert row == expected


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1.0, 1e20, 1e30])
def test_norms_of_an_epoch(scale, monkeypatch):
    torch.manual_seed(0)
    model, rows = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 3)).to(device()), []
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * scale
    for has_float64 in (True, False):
        monkeypatch.setattr(metrics, "has_float64", lambda has=has_float64: has)
        norms = GradientNorms(model)
        norms.add()
        row = norms.row(1)
        # a log near 0 has no relative bound
        rows.append(row | {"gradient_log10_rms": [10**log for log in row["gradient_log10_rms"]]})
    for key in rows[0]:
        assert rows[1][key] == pytest.approx(rows[0][key], rel=1e-5) and rows[1][key] != 0


@pytest.mark.skipif(not machine.has_float64(), reason="the test needs float64 to compare with")
def test_norms_reach_over_all_of_float32(without_float64):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((70, 1000), (64, 3, 3, 3), (5,), (1,))]
    tensors = [tensor * scale for tensor in tensors for scale in (1e-36, 1e-30, 1e-12, 1.0, 1e20, 1e35)] + [
        torch.zeros(3)
    ]
    exact = torch.stack([tensor.double().norm() for tensor in tensors])
    torch.testing.assert_close(
        l2_norms([tensor.to(device()) for tensor in tensors]).cpu().double(), exact, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("precision", ["fp64", "bf16"])
def test_precisions_on_mps(precision, monkeypatch):
    monkeypatch.setattr(precisions, "device", lambda: torch.device("mps"))
    monkeypatch.setattr(machine, "device", lambda: torch.device("mps"))
    monkeypatch.setattr(precisions, "has_bfloat16", machine.has_bfloat16.__wrapped__)  # it remembers this machine's
    assert precisions.resolve_precision("auto") == "fp32"
    with pytest.raises(UsageError, match=f"on mps experiments train in fp32, not in {precision}; set DEVICE=cpu"):
        precisions.resolve_precision(precision)


def test_models_lie_contiguous_on_mps(monkeypatch):
    data = load_images("cifar10", "train", "sample", 32).first_inputs(2)
    model = build(experiment("CNN_10", "sample"))
    assert fast_layout(model, data) == torch.channels_last
    monkeypatch.setattr(layout, "device", lambda: torch.device("mps"))
    assert fast_layout(model, data) == torch.contiguous_format
