"""Cures are tried on copies, and what came of each is said, also where it did not help or could not be tried."""

from itertools import pairwise

import pytest
import torch
from helpers import digits, mlp
from torch import nn
from torch.nn.functional import softmax
from torch.utils.data import TensorDataset

from deepnet.diagnosis.cures import CURES
from deepnet.diagnosis.rules import BRINGS, EXCUSED
from deepnet.diagnosis.sample import read_sample
from deepnet.diagnosis.setup import Setup, maker
from utilityFunction import diagnose


def standardised(change=lambda x, y: (x, y)):
    x, y = digits(0, 1000).tensors
    return TensorDataset(*change((x - x.mean()) / x.std(), y))


def helped(model, data, **options):
    """Name of each cure -> whether it helped."""
    found = diagnose(model, data, cure_steps=options.pop("cure_steps", 100), **options)
    assert found.trials[0].name == "as it is" and found.trials[0].helped is None
    return {trial.name: trial.helped for trial in found.trials[1:]}


def plain(depth, activation=nn.ReLU):
    torch.manual_seed(0)
    widths = [64, *[32] * depth, 10]
    return nn.Sequential(nn.Flatten(), *(m for pair in pairwise(widths) for m in (nn.Linear(*pair), activation())))[:-1]


def test_a_deep_plain_network_is_cured_by_some_and_not_by_others():
    found = helped(plain(30), standardised(), lr=1e-3, cure_steps=150, cures=3)
    assert found["he"] and found["shortcuts"] and not found["norm"]


def test_a_softmax_is_undone_wherever_it_is():
    class Squashed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return softmax(self.inner(x), 1)

    assert helped(Squashed(), standardised(), lr=1e-2, cure_steps=40) == {"raw-scores": True}


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (lambda x, y: (x, y + 1), "shifted-labels"),
        (lambda x, y: (torch.where(y[:, None, None, None] > 6, torch.nan, x), y), "finite-items"),
    ],
)
def test_data_are_mended_on_a_copy(change, cure):
    data = standardised(change)
    before = [tensor.clone() for tensor in data.tensors]
    assert helped(mlp(), data, lr=1e-2) == {cure: True}
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, data.tensors, strict=True))


def test_an_optimizer_of_the_reader_s_own_goes_on_with_a_changed_model():
    """A cure puts other modules in the places of the model's, whose parameters then have other names."""
    model = plain(3, nn.Identity)
    optimizer = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=1e-9)
    found = diagnose(model, standardised(), optimizer=optimizer, cure_steps=20)
    tried = {trial.name: trial for trial in found.trials}
    assert {"relus", "good-rate", "faster"} <= tried.keys()
    assert all(trial.helped is not None for name, trial in tried.items() if name != "as it is")


def test_a_cure_that_cannot_be_tried_says_why():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64 if i == 0 else 32, 32) for i in range(12))
            self.last = nn.Linear(32, 10)

        def forward(self, x):
            x = x.flatten(1)
            for layer in self.layers:
                x = layer(x).sigmoid()
            return self.last(x)

    found = diagnose(Functional(), standardised(), optimizer="SGD", lr=0.1, cure_steps=20)
    assert found.causes[0].code == "saturating-activation"
    trial = found.trials[1]
    assert trial.name == "relu-he" and trial.helped is None and "no modules that could be replaced" in str(found)


class Rows(nn.Module):
    """A transformer over the rows of an image, with Vaswani et al.'s initialization."""

    def __init__(self, layers, norm_first=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.position = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(1, 8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=norm_first)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for weight in self.body.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        return self.last(self.body(self.embed(x[:, 0]) + self.position).mean(1))


def test_a_deep_transformer_of_post_norm_layers_is_cured_by_pre_norm():
    found = diagnose(Rows(12), standardised(), lr=1e-2, cures=1, cure_steps=100)
    assert [cause.code for cause in found.causes] == ["post-norm"]
    assert [(trial.name, trial.helped) for trial in found.trials[1:]] == [("pre-norm", True)]
    for layers, lr in ((12, 1e-3), (2, 1e-2)):
        assert diagnose(Rows(layers), standardised(), lr=lr, cures=False).causes == ()


@pytest.mark.parametrize("name", ["norm", "relus"])
def test_cures_leave_the_layers_within_a_transformer_alone(name):
    model = Rows(2)
    setup = Setup(model, read_sample(model, standardised()), maker(model, "Adam", 1e-3, None))
    changed = CURES[name].change(setup.copied(), None)
    assert changed.sample.inputs[:4].given_to(changed.model).shape == (4, 10)
    assert len([*changed.model.modules()]) == len([*model.modules()]) + 2


def test_a_network_that_learns_late_is_healthy_and_the_step_is_said():
    torch.manual_seed(0)
    found = diagnose(plain(7), standardised(), lr=1e-3, steps=12)
    assert not found.measurements.learns and found.healthy
    assert f"From step {found.trials[0].left_at} on it stays below 2.3" in " ".join(str(found).split())


def test_rules_name_only_cures_and_findings_that_there_are():
    from test_diagnosis_findings import CODES

    assert EXCUSED | BRINGS.keys() | {code for several in BRINGS.values() for code in several} <= CODES
    assert all(cure.words for cure in CURES.values())
