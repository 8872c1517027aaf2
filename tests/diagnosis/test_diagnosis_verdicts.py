"""What a diagnosis says of losses of another kind, of models that need no learning, and where no step is possible."""

import pytest
import torch
from helpers import refused
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from deepnet.diagnosis.diagnosing import diagnose

DIGITS = load_digits()
X, Y = torch.tensor(DIGITS.data / 16, dtype=torch.float32), torch.tensor(DIGITS.target)
SET = TensorDataset(X, Y)


def net(outputs=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def fitted():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    return model


class Outer(nn.Module):
    """A model whose outputs have names."""

    def __init__(self, names):
        super().__init__()
        self.net, self.names = net(), names

    def forward(self, x):
        return {name: self.net[0](x) if name == "features" else self.net(x) for name in self.names}


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(reduction="none"), F.mse_loss, nn.CrossEntropyLoss(weight=torch.ones(9))],
    ids=["one per item", "of another shape", "too few weights"],
)
def test_where_no_step_can_be_taken_nothing_is_called_healthy(loss):
    found = diagnose(net(), SET, loss=loss, cures=False)
    assert not found.healthy and [finding.code for finding in found.causes] == ["no-step"]


def test_a_loss_that_adds_up_is_refused_and_one_below_zero_is_a_finding():
    refused(lambda: diagnose(net(), SET, loss=nn.CrossEntropyLoss(reduction="sum")), "loss adds the images up")
    for model in (net(), nn.Sequential(net(), nn.Softmax(1))):
        assert diagnose(model, SET, loss=F.nll_loss, lr=1e-3, cures=False).causes[0].code == "negative-loss"


def test_one_output_with_a_loss_of_its_own_has_two_classes():
    def loss(scores, targets):
        return F.binary_cross_entropy_with_logits(scores[:, 0], targets.float())

    found = diagnose(net(1), TensorDataset(X, (Y > 4).long()), loss=loss, lr=1e-3, cures=False)
    assert found.healthy and "ln(2) = 0.693" in found.text


def test_frozen_random_weights_are_no_cause_where_the_head_learns_well():
    model = net()
    model[0].requires_grad_(False)
    found = diagnose(model, SET, lr=1e-2, cures=False)
    assert found.healthy and "frozen" in {finding.code for finding in found.findings}


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_fitted_model_is_healthy_and_said_to_be_fitted(optimizer):
    found = diagnose(fitted(), SET, optimizer=optimizer, lr=1e-4)
    assert found.healthy and not found.trials and "already fits these items" in found.text


def test_of_outputs_with_names_those_called_logits_are_the_scores():
    assert diagnose(Outer(["features", "logits"]), SET, lr=1e-3, cures=False).measurements.outputs == 10
    assert diagnose(Outer(["y"]), SET, lr=1e-3, cures=False).measurements.outputs == 10
    refused(lambda: diagnose(Outer(["features", "y"]), SET), "the model gives features, y", "none of them is called")


def test_it_is_said_that_only_a_part_of_the_items_was_read():
    assert "Of the 1,797 items 1,024 were read." in diagnose(net(), SET, lr=1e-3, cures=False).text


def test_a_lower_rate_is_tried_where_no_rule_says_why():
    from deepnet.diagnosis.cures import Trial
    from deepnet.diagnosis.diagnosing import UNKNOWN

    assert "slower" in UNKNOWN
    dip = Trial("as it is", "", (2.3,) * 20 + (1.0,) * 20 + (2.3,) * 40, None, 30)
    assert not dip.stays_below and Trial("as it is", "", (2.3,) * 20 + (1.0,) * 60, None, 30).stays_below
