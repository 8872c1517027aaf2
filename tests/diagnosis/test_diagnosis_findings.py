"""Each cause is named, in its layer, and healthy networks are called healthy."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import digits, mlp
from torch import nn
from torch.nn.functional import dropout, linear, softmax
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.data import DataLoader, TensorDataset

from coreFunction import build
from deepnet.data.sets import load_images
from deepnet.diagnosis.findings import RULES
from deepnet.diagnosis.layers import looks_random
from experimentTable import experiment
from utilityFunction import diagnose

LN_10 = math.log(10)


def stack(*widths, activation=nn.ReLU, ends=()):
    torch.manual_seed(0)
    modules = [nn.Flatten()]
    for before, after in pairwise(widths):
        modules += [nn.Linear(before, after), activation()]
    return nn.Sequential(*modules[:-1], *ends)


def changed(change):
    """1,000 digits, standardised, with inputs and labels changed."""
    x, y = digits(0, 1000).tensors
    return TensorDataset(*change((x - x.mean()) / x.std(), y))


GOOD = changed(lambda x, y: (x, y))


def with_(model, change):
    with torch.no_grad():
        change(model)
    return model


class Own(nn.Module):
    """A forward pass that a function changes, which no module shows."""

    def __init__(self, change, inner=None):
        super().__init__()
        self.inner = inner or mlp()
        self.change = change

    def forward(self, x):
        return self.change(self.inner(x))


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).relu().detach())


def sgd(**options):
    return lambda parameters: torch.optim.SGD(parameters, **options)


def blown(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter)


ORDER = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
NETS = {  # code, layer -> model, data, options
    ("nan-data", ""): (mlp, changed(lambda x, y: (torch.where(x > 1, torch.nan, x), y)), {}),
    ("label-range", ""): (mlp, changed(lambda x, y: (x, y + 1)), {}),
    ("one-class", ""): (mlp, changed(lambda x, y: (x, 0 * y + 3)), {}),
    ("constant-inputs", ""): (mlp, changed(lambda x, y: (0 * x + 1, y)), {}),
    ("input-range", ""): (mlp, changed(lambda x, y: (100 * x + 128, y)), {"optimizer": sgd(lr=0.1)}),
    ("labels-unrelated", ""): (mlp, changed(lambda x, y: (x, y[ORDER])), {"lr": 1e-3}),
    ("nan-weights", "1"): (lambda: with_(mlp(), lambda m: m[1].weight[0].fill_(torch.nan)), GOOD, {}),
    ("nothing-learns", ""): (lambda: mlp().requires_grad_(False), GOOD, {}),
    ("frozen", "1"): (lambda: with_(mlp(), lambda m: m[1].requires_grad_(False)), GOOD, {}),
    ("detached", "body"): (Cut, GOOD, {}),
    ("detached", ""): (lambda: Own(torch.Tensor.detach), GOOD, {}),
    ("eval-mode", "2"): (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(),
                                               nn.Linear(16, 10)).eval(), GOOD, {}),
    ("output-activation", ""): (lambda: Own(lambda scores: softmax(scores, 1)), GOOD, {}),
    ("constant-weights", "1"): (lambda: with_(stack(64, 32, 32, 10), lambda m: [p.zero_() for p in m.parameters()]),
                                GOOD, {"lr": 1e-3}),
    ("no-nonlinearity", "1"): (lambda: stack(64, 32, 32, 10, activation=nn.Identity), GOOD, {}),
    ("dropout", "2"): (lambda: stack(64, 32, 10, activation=lambda: nn.Dropout(0.95)), GOOD, {}),
    ("dropout", ""): (lambda: Own(lambda scores: dropout(scores, 0.95)), GOOD, {}),
    ("exploding", "5"): (lambda: with_(stack(64, 256, 256, 256, 10), blown), GOOD, {}),
    ("dead-units", "3"): (lambda: with_(stack(64, 32, 32, 10), lambda m: m[3].bias.fill_(-50)), GOOD, {"lr": 1e-3}),
    ("learning-rate-high", ""): (lambda: stack(64, 32, 32, 10), GOOD, {"lr": 10.0}),
    ("learning-rate-low", ""): (lambda: stack(64, 32, 32, 10), GOOD, {"lr": 1e-8}),
    ("eps", "1"): (lambda: stack(64, 32, 32, 10), GOOD, {"eps": 1.0}),
    ("weight-decay", ""): (lambda: stack(64, 32, 32, 10), GOOD, {"optimizer": sgd(lr=0.01, weight_decay=5.0)}),
    ("saturating-activation", "1"): (lambda: stack(64, *[32] * 12, 10, activation=nn.Sigmoid), GOOD,
                                     {"optimizer": sgd(lr=0.1)}),
    ("vanishing", "1"): (lambda: stack(64, *[32] * 30, 10), GOOD, {}),
}  # fmt: skip

CODES = {code for code, _ in NETS} | {  # and those that a test of its own brings about
    "unused", "not-finite", "not-optimised", "no-step", "negative-loss", "sorted-labels", "label-kind",
    "half-precision", "post-norm", "no-log-probabilities", "maximizing",
}  # fmt: skip


@pytest.mark.parametrize("expected", NETS, ids=lambda key: f"{key[0]}-{key[1] or 'whole'}")
def test_the_cause_is_named_first_in_its_layer(expected):
    torch.manual_seed(0)
    model, data, options = NETS[expected]
    found = diagnose(model(), data, cures=False, **options)
    assert found.causes and (found.causes[0].code, found.causes[0].layer) == expected, found
    assert not found.healthy
    assert all(finding.words.endswith(".") and finding.cure.endswith(".") for finding in found.findings)


def test_every_rule_has_a_network_here():
    named = {code.replace("-", "_") for code in CODES}
    names = {"bad_data": "nan_data", "bad_weights": "nan_weights", "large_eps": "eps"}
    assert {names.get(rule.__name__, rule.__name__) for rule in RULES} == named


@pytest.mark.parametrize(
    "model",
    [mlp, lambda: stack(64, 128, 128, 10, activation=nn.GELU), lambda: stack(64, 10), lambda: stack(64, *[32] * 6, 10)],
)
def test_a_healthy_network_is_called_healthy(model):
    found = diagnose(model(), GOOD, lr=3e-3, cures=False)
    assert found.healthy and "Nothing wrong was found" in str(found)


def test_images_of_whole_numbers_leave_the_copy_in_training_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    whole = changed(lambda x, y: ((255 * (x - x.min()) / (x.max() - x.min())).byte(), y))
    found = diagnose(model, whole, lr=1e-3, cures=False)
    assert found.healthy and "eval-mode" not in [finding.code for finding in found.findings]
    ids = TensorDataset(GOOD.tensors[0].flatten(1).gt(0).long() + 2 * torch.arange(64), GOOD.tensors[1])
    drops = nn.Sequential(nn.Embedding(128, 4), nn.Flatten(), nn.ReLU(), nn.Dropout(0.95), nn.Linear(256, 10))
    assert diagnose(drops, ids, cures=False).causes[0].code == "dropout"


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        return self.last(self.a(x.flatten(1)) * self.b(x.flatten(1)))


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x):
        return self.last(self.lstm(x.flatten(1, 2))[0][:, -1])


@pytest.mark.parametrize(
    "model",
    [
        Product,
        Rows,
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)),
        lambda: Own(lambda scores: scores * (scores > 0)),
    ],
)
def test_a_product_a_maximum_and_a_recurrent_layer_are_not_linear(model):
    found = diagnose(model(), GOOD, cures=False)
    assert "no-nonlinearity" not in [finding.code for finding in found.findings]


def test_a_linear_model_that_learns_well_is_meant():
    found = diagnose(stack(64, 16, 10, activation=nn.Identity), GOOD, lr=3e-3)
    assert found.measurements.last_loss > LN_10 / 2 > found.trials[0].last_loss
    assert found.healthy and [finding.code for finding in found.findings] == ["no-nonlinearity"]


def test_a_frozen_layer_with_trained_weights_is_meant():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for x, y in DataLoader(GOOD, 64):
        for _ in range(10):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert looks_random(mlp()[1].weight) and not looks_random(model[1].weight)
    model[1].requires_grad_(False)
    assert "frozen" not in [finding.code for finding in diagnose(model, GOOD, cures=False).findings]


def test_an_optimizer_made_before_the_head_was_replaced():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    model[3] = nn.Linear(16, 10)
    found = diagnose(model, GOOD, optimizer=optimizer, cures=False)
    assert (found.causes[0].code, found.causes[0].layer) == ("not-optimised", "3")


def groups_of(model, *options):
    """One parameter group for each layer of `mlp()`, the body and the head."""
    return [{"params": model[number].parameters(), **own} for number, own in zip((1, 3), options, strict=True)]


def test_each_group_of_the_optimizer_counts():
    model = stack(64, 32, 10)
    decays = torch.optim.AdamW(groups_of(model, {"weight_decay": 0.0}, {"weight_decay": 100.0}), lr=3e-3)
    found = diagnose(model, GOOD, optimizer=decays, cure_steps=20)
    assert found.causes[0].code == "weight-decay" and found.measurements.options["weight_decay"] == 100
    assert "no-decay" in [trial.name for trial in found.trials]


@pytest.mark.parametrize(("rate", "causes"), [(0.0, [("not-optimised", "1")]), (1e-6, [])])
def test_a_group_that_is_slow_on_purpose_is_no_vanishing_gradient(rate, causes):
    model = stack(64, 32, 10)
    optimizer = torch.optim.Adam(groups_of(model, {"lr": rate}, {"lr": 1e-2}))
    found = diagnose(model, GOOD, optimizer=optimizer, cures=1, cure_steps=60)
    assert [(cause.code, cause.layer) for cause in found.causes] == causes
    assert "vanishing" not in [finding.code for finding in found.findings]
    assert [trial.helped for trial in found.trials[1:]] == [True] * len(causes)


class Sign(torch.optim.Optimizer):
    """Needs a rate, which it calls by another name, and keeps a setting outside its groups."""

    def __init__(self, params, rate, scale=1.0):
        super().__init__(params, {"rate": rate})
        self.scale = scale

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p -= self.scale * group["rate"] * p.grad.sign()


def test_optimizers_of_any_kind_are_taken():
    model = mlp()
    found = diagnose(model, GOOD, optimizer=torch.optim.Adam(model.parameters(), lr=torch.tensor(1e-2)), cures=False)
    assert found.measurements.options["lr"] == pytest.approx(1e-2) and "learning rate of 0.01 the loss" in str(found)
    still = diagnose(model, GOOD, optimizer=Sign(model.parameters(), 1e-2, scale=1e-7), cure_steps=20)
    assert still.causes[0].code == "learning-rate-low" and "Sign has no learning rate" in str(still)
    assert "steps of Sign the loss" in str(still)


def test_a_layer_that_is_not_called_is_a_remark():
    model = Own(lambda scores: scores)
    model.extra = nn.Linear(3, 3)
    found = diagnose(model, GOOD, lr=1e-3, cures=False)
    assert [finding.code for finding in found.findings] == ["unused"] and found.healthy


@pytest.mark.parametrize(("number", "code"), [(1, "vanishing"), (3, "detached")])
def test_hooks_on_gradients_run_on_the_copy(number, code):
    model = mlp()
    model[number].weight.register_hook(torch.zeros_like)
    found = diagnose(model, GOOD, cures=False)
    assert [(finding.code, finding.layer) for finding in found.findings] == [(code, str(number))]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        first, last = self.inner[1], self.inner[3]
        return linear(linear(x.flatten(1), first.weight, first.bias).relu(), last.weight, last.bias)


def normalized(depth=1):
    model = stack(64, *[32] * depth, 10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            (weight_norm if layer.in_features == 64 else spectral_norm)(layer)
    return model


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(32), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(10))


def compiled_in_place():
    model = mlp()
    model.compile()
    return model


@pytest.mark.parametrize(
    "model",
    [Functional, normalized, lazy, lambda: torch.compile(mlp()), compiled_in_place],
    ids=["functional", "normalized", "lazy", "compiled", "compiled in place"],
)
def test_models_of_any_structure_are_taken(model):
    torch.manual_seed(0)
    found = diagnose(model(), GOOD, lr=1e-2, cures=False)
    assert found.healthy and found.findings == () and found.figure().axes
    assert [layer.learns and layer.reached for layer in found.measurements.layers] == [True, True]
    assert all(layer.update > 0 and (layer.ran or model is Functional) for layer in found.measurements.layers)


def test_weights_that_are_computed_are_drawn_anew():
    model = with_(normalized(2), lambda m: m[3].bias.fill_(-50))
    found = diagnose(model, GOOD, lr=1e-2, cures=1)
    assert (found.causes[0].code, found.causes[0].layer) == ("dead-units", "3")
    assert [(trial.name, trial.helped) for trial in found.trials[1:]] == [("he", True)]


def test_an_auxiliary_head_is_no_cut_off_layer():
    class TwoHeads(Cut):
        def forward(self, x):
            x = self.body(x.flatten(1)).relu()
            return self.head(x), self.more(x)

    model = TwoHeads()
    model.more = nn.Linear(16, 10)
    found = diagnose(model, GOOD, lr=1e-2, cures=False)
    assert found.healthy and [finding.code for finding in found.findings] == ["detached"]


def test_a_loss_that_is_not_finite_at_the_start():
    found = diagnose(Own(lambda scores: scores / scores.relu().min()), GOOD, cures=False)
    assert found.causes[0].code == "not-finite"


@pytest.mark.parametrize(
    ("name", "first_update"),
    [("MLP_4", -2.7), ("MLP_13", -2.7), ("MLP_23", -5.8), ("MLP_33", -10.9), ("MLP_33_he", -3.3)],
)
def test_the_report_s_mlps_move_as_is_known(name, first_update):
    """log10 of the first layer's update over its weight, which tells MLP_33 from MLP_13 after a few steps."""
    found = diagnose(build(experiment(name, "sample")), load_images("mnist"), cures=False)
    first = found.measurements.layers[0]
    assert math.log10(first.update) == pytest.approx(first_update, abs=0.4)
    assert [cause.code for cause in found.causes] == (["vanishing"] if first_update < -5 else [])
    assert found.measurements.first_loss == pytest.approx(LN_10, abs=0.3)


def test_the_signal_falls_as_theory_says():
    found = diagnose(build(experiment("MLP_13", "sample")), load_images("mnist"), cures=False)
    for layer in found.measurements.layers:
        assert math.log10(layer.before.variance) == pytest.approx(math.log10(layer.expected), abs=0.4)
