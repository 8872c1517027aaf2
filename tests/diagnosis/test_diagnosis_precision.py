"""Models in half precision are diagnosed as they are, and half precision itself is a cause where it stalls them."""

import math

import pytest
import torch
from helpers import mlp, refused, same, state
from test_diagnosis_findings import GOOD, Own, stack
from torch import nn

from deepnet.diagnosis import diagnosing
from deepnet.diagnosis.sample import dtype_of
from utilityFunction import diagnose

BF16, FP16 = torch.bfloat16, torch.float16


def codes(found):
    return [cause.code for cause in found.causes]


@pytest.mark.parametrize(("dtype", "optimizer"), [(BF16, "Adam"), (FP16, "SGD")])
def test_a_model_in_half_precision_that_learns_is_healthy_and_stays_as_it_is(dtype, optimizer):
    model = stack(64, 32, 32, 10).to(dtype)
    before, addresses = state(model), [p.data_ptr() for p in model.parameters()]
    found = diagnose(model, GOOD, optimizer=optimizer, lr=1e-2 if dtype == BF16 else 0.3, cures=False)
    assert found.healthy and found.findings == () and found.measurements.half == str(dtype)[6:]
    assert same(state(model), before) and [p.data_ptr() for p in model.parameters()] == addresses
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_updates_that_bfloat16_rounds_away_are_a_cause_and_float32_its_cure():
    found = diagnose(stack(64, 32, 32, 10).to(BF16), GOOD, lr=1e-4)
    assert [(cause.code, cause.layer) for cause in found.causes] == [("half-precision", "1")]
    assert [(trial.name, trial.helped) for trial in found.trials] == [("as it is", None), ("float32", True)]
    layer = found.measurements.layers[0]
    assert 3e-5 < layer.update < found.measurements.rounding == 2**-8
    assert diagnose(stack(64, 32, 32, 10), GOOD, lr=1e-4, cures=False).findings == ()


def test_adam_s_eps_is_nothing_in_float16():
    found = diagnose(stack(64, 32, 32, 10).to(FP16), GOOD, lr=1e-3)
    assert codes(found) == ["half-precision"] and "eps of 1e-08 is 0 in float16" in " ".join(str(found).split())
    assert [(trial.name, trial.helped) for trial in found.trials[1:]] == [("float32", True)]


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (lambda: stack(64, *[32] * 30, 10), {"lr": 1e-3}, "vanishing"),
        (lambda: stack(64, 32, 32, 10), {"lr": 1e-8}, "learning-rate-low"),
        (lambda: stack(64, 32, 32, 10, activation=nn.Identity), {"lr": 1e-3}, "no-nonlinearity"),
        (lambda: Own(lambda scores: scores.softmax(1)), {"lr": 1e-2}, "output-activation"),
    ],
)
def test_other_causes_are_found_in_bfloat16_too(model, options, expected):
    assert codes(diagnose(model().to(BF16), GOOD, cures=False, **options)) == [expected]


def test_a_last_activation_is_undone_in_float32():
    model = Own(lambda scores: (20 * scores).sigmoid()).to(BF16)  # of which some are exactly 1 in bfloat16
    found = diagnose(model, GOOD, lr=1e-2, cure_steps=100)
    assert codes(found)[0] == "output-activation" and math.isfinite(found.trials[1].last_loss)


def test_an_optimizer_of_the_reader_s_own_goes_on_with_a_copy_in_float32():
    model = stack(64, 32, 32, 10).to(BF16)
    found = diagnose(model, GOOD, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4), cure_steps=20)
    assert codes(found) == ["half-precision"] and found.trials[1].helped is not None


def test_what_half_precision_cannot_do_is_said_in_one_line():
    def missing(scores):
        if scores.dtype == FP16:
            raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")
        return scores

    class Missing(Own):
        def forward(self, x):
            return missing(super().forward(x))

    model = Missing(lambda scores: scores).half()
    refused(lambda: diagnose(model, GOOD), "not implemented for 'Half'", "make it float32 by model.float()")
    eight = mlp()
    eight[1].weight.data = eight[1].weight.data.to(torch.float8_e4m3fn)
    refused(lambda: diagnose(eight, GOOD), "float8_e4m3fn", "model.float()")


def test_a_step_that_only_float16_fails_is_half_precision():
    class NoHalfLoss(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, scores, targets):
            self.calls += 1
            if scores.dtype == FP16 and self.calls > 6:
                raise RuntimeError("not implemented for 'Half'")
            return super().forward(scores, targets)

    found = diagnose(stack(64, 32, 10).half(), GOOD, optimizer="SGD", lr=0.1, loss=NoHalfLoss(), cures=False)
    assert codes(found) == ["half-precision"] and "fails; in float32 all is well" in str(found)


def test_a_model_that_converts_within_is_diagnosed_without_a_copy_in_float32():
    class Converts(Own):
        def forward(self, x):
            return super().forward(x.to(BF16))

    found = diagnose(Converts(lambda scores: scores).to(BF16), GOOD, lr=1e-2, cures=False)
    assert found.healthy and not found.measurements.trains_in_float32


def test_the_type_is_that_of_the_weights_that_learn():
    model = nn.Sequential(nn.Linear(2, 2).half().requires_grad_(False), nn.Linear(2, 2))
    assert dtype_of(model) == torch.float32 and dtype_of(nn.ReLU()) == torch.float32


def test_the_loss_is_checked_without_a_copy(monkeypatch):
    copies = []
    copied = diagnosing.Setup.copied
    monkeypatch.setattr(diagnosing.Setup, "copied", lambda self: copies.append(1) or copied(self))
    diagnose(mlp(), GOOD, lr=1e-2, cures=False)
    assert copies == [1]
