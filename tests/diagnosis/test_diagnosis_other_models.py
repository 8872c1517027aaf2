"""Models, losses and data that differ from the usual: each is judged by what it does, and no sentence is false."""

import math

import pytest
import torch
from test_diagnosis_findings import GOOD, Own, mlp, stack
from torch import nn
from torch.nn.functional import cross_entropy, dropout, linear, mse_loss, nll_loss, one_hot
from torch.utils.data import TensorDataset

from deepnet.diagnosis.findings import percent
from utilityFunction import diagnose


class Adapted(nn.Module):
    """A frozen Linear layer beside which a product of two small matrices learns (LoRA, arXiv:2106.09685)."""

    def __init__(self, width, outputs, rank=8):
        super().__init__()
        whole = nn.Linear(width, outputs).requires_grad_(False)
        self.weight, self.bias = whole.weight, whole.bias
        self.down = nn.Parameter(torch.randn(width, rank) / math.sqrt(width))
        self.up = nn.Parameter(torch.zeros(rank, outputs))

    def forward(self, x):
        return linear(x, self.weight, self.bias) + x @ self.down @ self.up


class Listed(nn.Module):
    """A deep chain whose weights lie in a list, and not in modules that are called."""

    def __init__(self, depth=20):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(64, 64) * 0.05) for _ in range(depth)])
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        for weight in self.weights:
            x = (x @ weight).relu()
        return self.head(x)


def stuck(depth=24):
    """A plain chain that runs one layer again and again, and gives all inputs the same scores."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), *[m for _ in range(depth) for m in (layer, nn.ReLU())], nn.Linear(64, 10))


def one_line(found):
    return " ".join(str(found).split())


def test_weights_beside_frozen_ones_are_measured():
    torch.manual_seed(0)
    layers = [m for width in (64, 64, 10) for m in (Adapted(64, width), nn.ReLU())]
    found = diagnose(nn.Sequential(nn.Flatten(), *layers[:-1]), GOOD, lr=1e-2)
    assert found.healthy and "frozen: no parameter" not in str(found)
    moved = {layer.name: layer.update for layer in found.measurements.layers if layer.learns}
    assert set(moved) == {f"{i}.{name}" for i in (1, 3, 5) for name in ("down", "up")}
    assert all(update > 1e-4 for update in moved.values())


def test_training_only_biases_is_no_frozen_model():
    model = mlp()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    assert "nothing-learns" not in [finding.code for finding in diagnose(model, GOOD, cures=False).findings]


def test_weights_in_a_list_are_measured_in_their_order():
    torch.manual_seed(0)
    found = diagnose(Listed(), GOOD, lr=1e-3, cures=1, cure_steps=20)
    assert (found.causes[0].code, found.causes[0].layer) == ("vanishing", "weights.0")
    assert "no layer before the last is a Linear or convolutional one" in one_line(found)


def test_all_weights_of_a_recurrent_layer_are_measured():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.head = nn.LSTM(8, 16, num_layers=2, batch_first=True), nn.Linear(16, 10)

        def forward(self, x):
            return self.head(self.cells(x.flatten(1).unflatten(1, (8, 8)))[0][:, -1])

    found = diagnose(Read(), GOOD, lr=1e-2, cures=False)
    names = {f"cells.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)}
    assert {layer.name for layer in found.measurements.layers if layer.update > 0} == names | {"head"}


def half_focal(scores, targets):
    share = cross_entropy(scores, targets, reduction="none")
    return 0.5 * ((1 - (-share).exp()) ** 2 * share).mean()


def squared(scores, targets):
    return mse_loss(scores, one_hot(targets, scores.shape[1]).float())


@pytest.mark.parametrize("loss", [cross_entropy, half_focal, squared], ids=["cross-entropy", "focal", "squared"])
def test_a_network_that_gives_all_inputs_the_same_scores_is_not_called_healthy(loss):
    without = diagnose(stuck(), GOOD, lr=1e-3, loss=loss, cures=False)
    assert not without.healthy and "Nothing wrong" not in str(without)
    if not without.causes:
        assert "do not show that it learns" in one_line(without)
    found = diagnose(stuck(), GOOD, lr=1e-3, loss=loss, cures=1, cure_steps=60)
    assert not found.healthy and "Nothing wrong" not in str(found)


@pytest.mark.parametrize("scale", [0.001, 100.0])
def test_the_scale_of_a_loss_decides_nothing(scale):
    found = diagnose(mlp(), GOOD, lr=3e-3, loss=lambda scores, targets: scale * cross_entropy(scores, targets))
    assert found.healthy
    plain = diagnose(mlp(), GOOD, cures=False)
    assert found.measurements.guess == pytest.approx(scale * plain.measurements.guess, rel=1e-3)


def test_a_cure_that_changes_nothing_was_not_tried():
    found = diagnose(Own(lambda scores: dropout(scores, 0.95)), GOOD, lr=1e-3, cure_steps=30)
    none = next(trial for trial in found.trials if trial.name == "no-dropout")
    assert none.helped is None and "it changes nothing in this model (not tried)" in one_line(found)


def test_sparse_gradients_reach_their_layer():
    torch.manual_seed(0)
    labels = torch.randint(0, 10, (600,))
    words = labels[:, None] * 10 + torch.randint(0, 10, (600, 5))
    model = nn.Sequential(nn.EmbeddingBag(100, 32, sparse=True), nn.Linear(32, 10))
    assert diagnose(model, TensorDataset(words, labels), optimizer="SGD", lr=1.0).healthy


def test_a_trained_model_is_called_fitted_though_its_loss_rises_a_little():
    model, (x, y) = mlp(), GOOD.tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    found = diagnose(model, GOOD, optimizer=torch.optim.Adam(model.parameters(), lr=3e-3))
    assert found.healthy and "fitted to these data already" in one_line(found)


def test_a_learning_rate_of_zero_is_said():
    model = mlp()
    found = diagnose(model, GOOD, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), cures=1, cure_steps=20)
    assert "The learning rate is 0." in str(found) and "(1e-03 in place of 0e+00)" in one_line(found)


def test_a_dropout_of_all_inputs_explains_why_nothing_moves():
    found = diagnose(
        stack(64, 32, 10, activation=lambda: nn.Sequential(nn.ReLU(), nn.Dropout(1.0))), GOOD, lr=1e-3, cures=False
    )
    assert [finding.code for finding in found.causes] == ["dropout"] and "nothing passes it" in one_line(found)


def test_a_softmax_over_the_items_is_no_log_probability():
    model = nn.Sequential(mlp(), nn.LogSoftmax(0))
    found = diagnose(model, GOOD, loss=nll_loss, lr=3e-3, cures=1)
    assert found.causes[0].code == "no-log-probabilities" and found.trials[1].helped
    right = nn.Sequential(mlp(), nn.LogSoftmax(1))
    assert diagnose(right, GOOD, loss=nll_loss, lr=3e-3, cures=False).healthy


def test_an_optimizer_that_maximizes_is_named():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    found = diagnose(model, GOOD, optimizer=optimizer, cures=1)
    assert [finding.code for finding in found.causes] == ["maximizing"] and found.trials[1].helped


def test_a_small_share_is_not_rounded_up():
    assert [percent(share) for share in (0.0, 1e-3, 0.006, 0.5)] == ["0 %", "less than 1 %", "1 %", "50 %"]
