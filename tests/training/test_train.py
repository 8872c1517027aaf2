"""The pieces of the loop: batches, early stopping, gradient norms, accuracies, the probe."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import digits, mlp, normed, same, state
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepnet.data.datasets import epoch_batches
from deepnet.speed.cuda_graph import CUDAGraphStep
from deepnet.training.early_stopping import EarlyStopping
from deepnet.training.metrics import NORM_BLOCK, GradientNorms, accuracy, l2_norms, macro_accuracy, probe
from deepnet.training.steps import evaluate, train_epoch


@given(st.integers(1, 60), st.integers(1, 70), st.one_of(st.none(), st.integers(1, 12)))
def test_batches_cover_the_images_and_none_is_of_one(images, batch_size, steps):
    batches = epoch_batches(images, batch_size, torch.Generator().manual_seed(0), steps)
    if steps is None:
        assert sorted(torch.cat(batches).tolist()) == list(range(images))
    else:
        assert len(batches) == steps
    if batch_size > 1 and images > 1:
        assert min(map(len, batches)) > 1


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (5, 4, [5]), (4, 9, [4]), (1, 4, [1]), (3, 1, [1, 2])],
)
def test_a_last_batch_of_one_joins_the_one_before(images, batch_size, sizes):
    assert [len(batch) for batch in epoch_batches(images, batch_size, torch.Generator())] == sizes


def test_steps_run_over_several_passes_each_in_a_new_order():
    batches = epoch_batches(6, 2, torch.Generator().manual_seed(0), steps=8)
    passes = [torch.cat(batches[i : i + 3]).tolist() for i in (0, 3)]
    assert [sorted(order) for order in passes] == [list(range(6))] * 2
    assert passes[0] != passes[1]
    assert len(batches) == 8


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(1, 6), st.sampled_from([0.0, 0.01, 0.05]))
def test_early_stopping_follows_its_rule(twentieths, patience, min_delta):
    accuracies = [n / 20 for n in twentieths]
    stopping, reference, waited, ended = EarlyStopping(patience, min_delta), 0, 0, None
    for epoch, reached in enumerate(accuracies, 1):
        stopping.update(epoch, reached)
        gain = round((reached - reference) * 100)  # whole hundredths, so that the oracle has no rounding of its own
        reference, waited = (reached, 0) if gain > round(min_delta * 100) else (reference, waited + 1)
        if waited >= patience:
            ended = epoch
        assert stopping.over == (ended == epoch)
        if ended:
            break
    seen = accuracies[:ended]
    assert stopping.best_epoch == seen.index(max(seen)) + 1 and stopping.best == max(seen)


def test_gradient_norms():
    model, batch = mlp(), digits(0, 64).tensors
    norms = GradientNorms(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    row = train_epoch(model, [batch, batch], optimizer, gradients=norms)
    plain = [p.grad.double().norm() for p in model.parameters()]
    assert row["gradient_norm_sum"] == pytest.approx(2 * float(sum(plain)), rel=1e-6)
    assert row["gradient_norm"] == pytest.approx(float(sum(n**2 for n in plain)) ** 0.5, rel=1e-6)
    rms = [float(layer.weight.grad.double().square().mean().sqrt().log10()) for layer in (model[1], model[3])]
    assert row["gradient_log10_rms"] == pytest.approx(rms, rel=1e-6)
    assert train_epoch(model, [batch], optimizer, gradients=norms)["gradient_norm_sum"] == pytest.approx(
        float(sum(plain)), rel=1e-6
    )


def test_a_parameter_without_a_gradient_counts_as_zero():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused, self.used = nn.Linear(64, 3), nn.Linear(64, 10)

        def forward(self, x):
            return self.used(x.flatten(1))

    model, batch = Skipping(), digits(0, 64).tensors
    row = train_epoch(model, [batch], torch.optim.SGD(model.parameters(), lr=0.0), gradients=GradientNorms(model))
    rms = float(model.used.weight.grad.double().square().mean().sqrt().log10())
    assert row["gradient_log10_rms"] == pytest.approx([-30, rms], rel=1e-6)


@pytest.mark.parametrize("size", [1e-38, 1e-25, 1e-19, 1e-13, 1e-12, 1.0, 1e18, 1e25, 1e37])
def test_norms_beyond_the_range_of_float32(size):
    model = nn.Linear(8, 8, bias=False)
    model.weight.grad = torch.full((8, 8), size)
    norms = GradientNorms(model)
    norms.add()
    row = norms.row(1)
    assert row["gradient_norm"] == pytest.approx(8 * size, rel=1e-5)
    assert row["gradient_log10_rms"] == pytest.approx([max(math.log10(size), -30)], abs=1e-5)


@pytest.mark.parametrize("flush", [False, True])
def test_smallest_norms_that_are_summed_in_float32(flush):
    """Also where a processor takes subnormal squares for 0, and of numbers over twelve orders of magnitude."""
    spread = torch.exp(4 * torch.randn(NORM_BLOCK, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    gradient = (spread / spread.norm() * 1.1e-14).float()
    if not torch.set_flush_denormal(flush):
        pytest.skip("this processor cannot")
    try:
        assert float(l2_norms([gradient])[0]) == pytest.approx(float(gradient.double().norm()), rel=4e-6)
    finally:
        torch.set_flush_denormal(False)


def test_cuda_graph_is_recorded_and_replayed(monkeypatch):
    """With a fake graph, so that the order is tested without a GPU too; tests/speed/test_cuda.py has real ones."""
    recording, taken = [], []

    class FakeGraph:
        def replay(self):
            taken.append(("replayed", recording[0][0].tolist()))

    @contextmanager
    def record(graph):
        before = len(taken)
        yield
        assert taken.pop(before)[1] == recording[0][0].tolist()  # what is recorded is not run

    def step(inputs, labels):
        recording[:] = [(inputs, labels)] if not recording and len(taken) == CUDAGraphStep.WARM_UP else recording
        taken.append(("stepped", inputs.tolist()))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    take = CUDAGraphStep(step)
    for number in range(7):
        take(torch.full((1 if number == 6 else 2,), number), torch.tensor(0))
    kinds = ["stepped"] * 3 + ["replayed"] * 3 + ["stepped"]
    assert taken == [(kind, [number] * (1 if number == 6 else 2)) for number, kind in enumerate(kinds)]


def test_a_gradient_of_many_pieces_has_one_norm():
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 3))
    for p in model.parameters():
        p.grad = torch.randn(p.shape)
    assert model[0].weight.numel() > NORM_BLOCK
    norms = GradientNorms(model)
    norms.add()
    plain = [float(p.grad.double().norm()) for p in model.parameters()]
    assert norms.row(1)["gradient_norm_sum"] == pytest.approx(sum(plain), rel=1e-5)
    rms = [plain[0] / 300, plain[2] / 30]
    assert norms.row(1)["gradient_log10_rms"] == pytest.approx([math.log10(r) for r in rms], abs=1e-5)


@pytest.mark.parametrize("fast", [True, False])
def test_update_ratio(fast):
    batch, found = digits(0, 64).tensors, {}
    for recorded in (True, False):
        torch.manual_seed(0)
        model = mlp()
        before = [layer.weight.detach().double().clone() for layer in (model[1], model[3])]
        optimizer, norms = torch.optim.Adam(model.parameters()), GradientNorms(model) if recorded else None
        row = train_epoch(model, [batch], optimizer, gradients=norms, fast=fast)
        found[recorded] = row, [p.detach().clone() for p in model.parameters()]
    for a, b in zip(found[True][1], found[False][1], strict=True):
        assert torch.equal(a, b)
    steps = [layer.weight.detach().double() - old for layer, old in zip((model[1], model[3]), before, strict=True)]
    ratios = [math.log10(step.norm() / old.norm()) for step, old in zip(steps, before, strict=True)]
    assert found[True][0]["update_log10_ratio"] == pytest.approx(ratios, abs=1e-5)


def test_a_weight_that_does_not_move_has_the_least_ratio():
    model, batch = mlp(), digits(0, 64).tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    row = train_epoch(model, [batch, batch], optimizer, gradients=GradientNorms(model))
    assert row["update_log10_ratio"] == pytest.approx([-30, -30])


def test_only_what_learns_is_measured():
    model, batch = mlp(), digits(0, 64).tensors
    model[1].requires_grad_(False)
    row = train_epoch(model, [batch], torch.optim.SGD(model[3].parameters(), lr=0.0), gradients=GradientNorms(model))
    for metric in ("gradient_log10_rms", "update_log10_ratio"):
        assert [value is None for value in row[metric]] == [True, False]  # one entry per weight layer
    assert row["gradient_norm_sum"] == pytest.approx(
        sum(float(p.grad.double().norm()) for p in model[3].parameters()), rel=1e-6
    )


# ---------------------------------------------------------------- an epoch, an evaluation


def test_an_epoch_is_the_plain_loop():
    """Compared with a plain loop and the optimizer's simplest implementation. Batches count by their images."""
    model, plain = mlp(), mlp()
    images, labels = digits(0, 100).tensors
    batches = [(images[:64], labels[:64]), (images[64:], labels[64:])]
    row = train_epoch(model, batches, torch.optim.Adam(model.parameters(), lr=0.01, fused=True))
    optimizer, losses, right = torch.optim.Adam(plain.parameters(), lr=0.01, foreach=False), 0.0, 0
    for x, y in batches:
        outputs = plain(x)
        loss = nn.functional.cross_entropy(outputs, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses, right = losses + loss.item() * len(y), right + int((outputs.argmax(1) == y).sum())
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert row["train_loss"] == pytest.approx(losses / 100, rel=1e-5)
    assert row["train_accuracy"] == right / 100
    assert (row["learning_rate"], row["steps"]) == (0.01, 2)
    assert row["train_seconds"] > 0
    assert "gradient_norm" not in row


def test_the_running_accuracy_is_taken_in_training_mode():
    # in training all outputs are 0, so the class is 0
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.999999))
    images, labels = digits(0, 100).tensors
    row = train_epoch(model, [(images, labels)], torch.optim.SGD(model.parameters(), lr=0.0))
    assert row["train_accuracy"] == float((labels == 0).double().mean())


def test_evaluation():
    model, data = normed(), digits(0, 700)  # more than one chunk
    before = state(model)
    measured, predictions = evaluate(model.train(), data, batch_size=500)
    assert same(state(model), before)
    assert not any(p.grad is not None for p in model.parameters())
    outputs = model.eval()(data.tensors[0])
    assert predictions.tolist() == [data.tensors[1].tolist(), outputs.argmax(1).tolist()]
    assert predictions.dtype == np.uint8
    assert measured["loss"] == pytest.approx(nn.functional.cross_entropy(outputs, data.tensors[1]).item(), rel=1e-5)
    assert measured["accuracy"] == float((outputs.argmax(1) == data.tensors[1]).double().mean())


# ---------------------------------------------------------------- accuracies, the probe


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=60))
def test_accuracies_against_counting(pairs):
    predictions = np.array(pairs, np.uint8).T
    right = [label == given_class for label, given_class in pairs]
    shares = [
        np.mean([r for r, (label, _) in zip(right, pairs, strict=True) if label == c])
        for c in {label for label, _ in pairs}
    ]
    assert accuracy(predictions) == pytest.approx(np.mean(right))
    assert macro_accuracy(predictions) == pytest.approx(np.mean(shares))


def test_probe():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, -1.0, 1.0]))
    inputs = torch.tensor([[0.0, 0.0], [2.0, 5.0], [2.0, 7.0]])
    found = probe(model, inputs)
    assert found["probe_dead"][0] == pytest.approx(1 / 3)
    assert found["probe_distinct"][0] == 2
    assert found["probe_variance"][0] == pytest.approx(float(torch.tensor([0.0, 2.0, 2.0]).var()) / 3)


def test_probe_of_dead_channels():
    convolution = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        convolution.bias.zero_()
    inputs = torch.zeros(4, 1, 3, 3)
    inputs[2, 0, 1, 1] = 5.0  # one pixel wakes the first channel; the second stays at or below 0
    assert probe(convolution, inputs)["probe_dead"] == [0.5]


def test_a_float64_net_is_probed_in_float64():
    net, inputs = nn.Linear(1, 1, bias=False).double(), 1 + 1e-12 * torch.arange(5.0, dtype=torch.float64).view(-1, 1)
    found = probe(net, inputs, "fp64")
    assert found["probe_distinct"] == [5]
    assert found["probe_variance"] == pytest.approx([(net.weight.square() * inputs.var()).item()], rel=1e-6)
