"""On a GPU: steps recorded as a graph train as steps one by one do, the same run gives the same weights, and fp32 is
fp32.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from coreFunction import build
from deepnet.machine import device
from deepnet.records.files import digest
from deepnet.seeds import seed_everything
from deepnet.speed.cuda_graph import CUDAGraphStep
from deepnet.training.metrics import GradientNorms
from deepnet.training.optimizers import make_optimizer
from deepnet.training.precision import resolve_precision
from deepnet.training.steps import train_epoch
from experimentTable import OPTIMIZERS, Experiment, experiment
from myModel import train_only

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

ROWS = [
    "MLP_33", "MLP_res_15", "MLP_33_fp64", "CNN_10", "CNN_30", "CNN_res_16", "train_resnet", "fine_tune_2", "dropout",
]  # fmt: skip


def trained(exp: Experiment, graph: bool, epochs: int = 2) -> tuple[str, list[dict]]:
    """The digest of the weights after some epochs of eight batches, the last of them smaller, and the epochs' rows."""
    exp = replace(exp, start_from=None, profile="cpu", batch_size=32)
    model = build(exp).to(device())
    if exp.precision == "fp64":
        model.double()
    if exp.chapter > 3:
        model.to(memory_format=torch.channels_last)
    train_only(model, exp.trainable)
    shape, classes = (
        ((1, 28, 28), 10) if exp.dataset == "mnist" else ((3, 64, 64) if exp.chapter == 5 else (3, 32, 32), 100)
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(230, *shape, generator=generator).to(device())
    labels = torch.randint(min(classes, 10), (230,), generator=generator).to(device())
    optimizer, norms = make_optimizer(exp, model, graph), GradientNorms(model) if exp.record_gradients else None
    rows = []
    for epoch in range(epochs):
        seed_everything(0, epoch)  # dropout draws from it
        batches = zip(images.split(32), labels.split(32), strict=True)
        rows.append(train_epoch(model, batches, optimizer, resolve_precision(exp.precision), norms, graph, fast=True))
        rows[-1].pop("train_seconds")
    return digest(model.state_dict()), rows


@pytest.mark.parametrize("name", ROWS)
def test_a_graph_trains_as_single_steps_do(name):
    assert trained(experiment(name), graph=True) == trained(experiment(name), graph=False)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_graph_serves_every_optimizer(optimizer):
    exp = replace(experiment("CNN_10"), optimizer=optimizer, precision="fp32")
    assert trained(exp, graph=True) == trained(exp, graph=False)


@pytest.mark.parametrize("name", ["CNN_30", "train_resnet"])
def test_the_same_run_gives_the_same_weights(name):
    assert trained(experiment(name), graph=True) == trained(experiment(name), graph=True)


def test_most_steps_are_replayed():
    calls = []
    total = torch.zeros((), device=device())

    def step(inputs: torch.Tensor, labels: torch.Tensor) -> None:
        calls.append(len(inputs))
        total.add_((inputs * labels).sum())

    take = CUDAGraphStep(step)
    for number in range(10):
        size = 3 if number == 9 else 4
        take(torch.full((size,), float(number), device=device()), torch.ones(size, device=device()))
    assert calls == [4, 4, 4, 4, 3]
    assert float(total) == 4 * sum(range(9)) + 3 * 9


def test_fp32_products_keep_their_digits():
    torch.manual_seed(0)
    inputs = torch.randn(8, 64, 16, 16, device=device())
    for layer in (nn.Conv2d(64, 64, 3), nn.Linear(16, 64)):
        layer.to(device())
        exact = layer.double()(inputs.double())
        found = layer.float()(inputs)
        assert float((found - exact).norm() / exact.norm()) < 1e-6  # TF32: 3e-4
