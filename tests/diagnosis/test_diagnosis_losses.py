"""A loss that no step can be taken with is refused, and no rule of cross-entropy judges another loss."""

import pytest
import torch
from helpers import mlp
from test_diagnosis_findings import GOOD, Own, changed
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from experimentTable import UsageError
from utilityFunction import diagnose


def codes(found):
    return [cause.code for cause in found.causes]


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (nn.CrossEntropyLoss(reduction="none"), "gives shape .32,. for scores .32, 10. and targets .32,."),
        (nn.CrossEntropyLoss(weight=torch.ones(9)), "cannot take scores .32, 10."),
        (functional.mse_loss, "cannot take scores .32, 10."),
        (lambda scores, targets: 1.0, "gives float"),
        (nn.CrossEntropyLoss(reduction="sum"), "must be their mean"),
    ],
)
def test_a_loss_that_is_no_mean_of_a_batch_is_refused(loss, words):
    with pytest.raises(UsageError, match=words):
        diagnose(mlp(), GOOD, loss=loss)


def test_a_step_that_fails_is_a_finding():
    def picky(scores, targets):
        if targets[0] == 3 and targets[1] != 4:
            raise ValueError("a three comes first")
        return functional.cross_entropy(scores, targets)

    found = diagnose(mlp(), GOOD, loss=picky, cures=False)
    assert not found.healthy and codes(found) == ["no-step"] and "a three comes first" in str(found)


@pytest.mark.parametrize("model", [mlp, lambda: Own(lambda scores: scores.softmax(1))])
def test_nll_loss_of_what_are_no_log_probabilities(model):
    found = diagnose(model(), GOOD, loss=functional.nll_loss, lr=1e-2, cures=False)
    assert codes(found)[0] == "negative-loss" and "log-probabilities" in str(found)
    good = diagnose(Own(lambda scores: scores.log_softmax(1)), GOOD, loss=nn.NLLLoss(), lr=1e-2, cures=False)
    assert good.healthy and good.findings == ()


def test_one_output_and_a_binary_loss():
    def binary(scores, targets):
        return functional.binary_cross_entropy_with_logits(scores[:, 0], targets.float())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    found = diagnose(model, changed(lambda x, y: (x, (y > 4).long())), loss=binary, lr=1e-2, cures=False)
    assert found.healthy and found.findings == () and "ln(1)" not in str(found)


def trained(model, steps=200):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(GOOD.tensors[0]), GOOD.tensors[1]).backward()
        optimizer.step()
    return model


def test_a_frozen_body_with_which_the_head_learns_well_is_a_remark():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU()).requires_grad_(False)
    found = diagnose(nn.Sequential(body, nn.Linear(512, 10)), GOOD, lr=1e-3, cure_steps=150)
    assert found.healthy and [finding.code for finding in found.findings] == ["frozen"]


def test_a_fitted_model_is_healthy_and_said_to_be_fitted():
    found = diagnose(trained(mlp()), GOOD, optimizer="SGD", lr=1e-6)
    assert found.healthy and found.trials == () and "fitted to these data already" in str(found)


class Dict(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.body, self.head, self.names = nn.Linear(64, 32), nn.Linear(32, 10), names

    def forward(self, x):
        features = self.body(x.flatten(1)).relu()
        return dict(zip(self.names, (features, self.head(features)), strict=True))


def test_scores_in_a_dict_are_named_or_refused():
    found = diagnose(Dict(("features", "logits")), GOOD, lr=1e-2, cures=False)
    assert found.healthy and found.measurements.outputs == 10 and found.findings == ()
    with pytest.raises(UsageError, match="'features', 'out'"):
        diagnose(Dict(("features", "out")), GOOD)


def test_a_dip_that_passes_is_no_learning_and_a_lower_rate_is_tried():
    class Dips(nn.Module):
        """Learns for 60 calls, and then gives every input almost the same scores."""

        def __init__(self):
            super().__init__()
            self.inner, self.calls = mlp(), 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x) * (1.0 if 20 < self.calls < 80 else 1e-3)

    found = diagnose(Dips(), GOOD, lr=3e-3, steps=12, cure_steps=150)
    assert not found.healthy and found.trials[0].left_at is None, found
    assert "slower" in [trial.name for trial in found.trials]


def test_cures_of_several_causes_are_tried_together():
    model = mlp().requires_grad_(False)
    found = diagnose(model, changed(lambda x, y: (x, y + 1)), lr=1e-2, cure_steps=100)
    assert {"nothing-learns", "label-range"} <= set(codes(found)) and "not tried" not in str(found)
    joined = found.trials[-1]
    assert joined.name in ("unfreeze + shifted-labels", "shifted-labels + unfreeze") and joined.helped


def test_a_cause_that_a_gap_hides_is_found():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    nn.init.constant_(model[3].bias, -50)
    data = changed(lambda x, y: (torch.where(torch.arange(1000)[:, None, None, None] % 9 == 0, torch.nan, x), y))
    found = diagnose(model, data, lr=1e-2, cure_steps=100)
    assert codes(found)[0] == "nan-data" and "dead-units" in codes(found)
    assert found.trials[-1].name == "finite-items + he" and found.trials[-1].helped


def test_tensors_in_memory_are_looked_through_as_a_whole():
    x, y = (torch.cat([tensor] * 3) for tensor in GOOD.tensors)
    far = int(torch.randperm(3000, generator=torch.Generator().manual_seed(0))[-1])  # which is not read
    gap, label = x.clone(), y.clone()
    gap[far], label[far] = torch.nan, 10
    for data, code in ((TensorDataset(gap, y), "nan-data"), (TensorDataset(x, label), "label-range")):
        found = diagnose(mlp(), data, cures=False)
        assert codes(found)[0] == code and "Of 3,000 items 1,024 were read" in " ".join(str(found).split())


def test_a_loader_of_sorted_items_is_seen():
    x, y = GOOD.tensors
    data = TensorDataset(x[y.argsort()], y.sort()[0])
    found = diagnose(mlp(), DataLoader(data, 16), lr=1e-2, cures=False)
    assert codes(found) == ["sorted-labels"]
    assert diagnose(mlp(), DataLoader(data, 16, shuffle=True), lr=1e-2, cures=False).healthy


@pytest.mark.parametrize("change", [torch.Tensor.float, lambda y: y[:, None]])
def test_labels_that_cross_entropy_would_not_take_are_a_remark(change):
    data = TensorDataset(GOOD.tensors[0], change(GOOD.tensors[1]))
    for given in (data, DataLoader(data, 32, shuffle=True)):
        found = diagnose(mlp(), given, lr=1e-2, cures=False)
        assert found.healthy and [finding.code for finding in found.findings] == ["label-kind"]
