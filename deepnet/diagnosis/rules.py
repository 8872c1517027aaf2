"""From measurements to findings: every rule in turn, and which finding explains which.

Thresholds stand beside the rules, with their reasons.
"""

from collections.abc import Sequence
from dataclasses import replace

# Each of these adds its rules to RULES.
from deepnet.diagnosis import rules_data, rules_model, rules_steps  # noqa: F401
from deepnet.diagnosis.findings import RULES, Finding
from deepnet.diagnosis.measure import Measurements

# These are remarks where the loss falls all the same.
EXCUSED = {
    "vanishing", "saturating-activation", "exploding", "learning-rate-low", "learning-rate-high", "dead-units",
    "labels-unrelated", "dropout", "input-range", "eps", "weight-decay", "half-precision",
    "post-norm",
}  # fmt: skip
# And these where it falls well: a body may be frozen on purpose, and a model be meant to be linear.
EXCUSED_WELL = {"frozen", "no-nonlinearity"}
# A cause on the left brings about the findings on the right, which are then remarks.
BRINGS = {
    "nan-data": {"not-finite", "learning-rate-high", "labels-unrelated", "exploding"},
    "nan-weights": {"not-finite", "learning-rate-high", "exploding"},
    "constant-inputs": {"labels-unrelated", "vanishing", "dead-units", "input-range"},
    "one-class": {"labels-unrelated"},
    "input-range": {"exploding", "learning-rate-high", "learning-rate-low", "vanishing", "dead-units"},
    "nothing-learns": {"frozen", "no-step"},
    "label-range": {"no-step"},
    "not-optimised": {"vanishing", "learning-rate-low"},
    "constant-weights": {"dead-units", "vanishing", "saturating-activation", "learning-rate-low", "exploding"},
    "detached": {"vanishing", "no-step"},
    "half-precision": {"no-step", "not-finite", "learning-rate-high"},
    "eval-mode": {"vanishing", "exploding", "dead-units", "learning-rate-high"},
    "dead-units": {"vanishing", "learning-rate-low", "eps"},
    "exploding": {"learning-rate-high", "learning-rate-low", "vanishing", "dead-units", "dropout"},
    "learning-rate-high": {"dead-units", "vanishing"},
    "maximizing": {"learning-rate-high", "exploding", "dead-units", "vanishing"},
    "dropout": {"learning-rate-low", "vanishing"},
    "saturating-activation": {"vanishing", "dropout", "half-precision"},
    "vanishing": {"dropout", "weight-decay", "half-precision"},
    "eps": {"vanishing", "learning-rate-low", "saturating-activation"},
    "weight-decay": {"vanishing", "learning-rate-high"},
    "output-activation": {"dead-units"},
}


def judge(m: Measurements, later: Sequence[float] = ()) -> list[Finding]:
    """All findings, most likely first; one that another explains, or that did no harm, has half its confidence.

    `later` are the losses of a longer training of the same model.
    """
    found = [finding for rule in RULES if (finding := rule(m))]
    well = m.fitted or m.learns_well(later)
    excused = (EXCUSED if well or m.learns else set()) | (EXCUSED_WELL if well else set())
    harmful = {finding.code for finding in found} - excused
    explained = {code for cause in harmful for code in BRINGS.get(cause, ())}
    weighed = [f if f.code in harmful - explained else replace(f, confidence=round(f.confidence / 2, 3)) for f in found]
    return sorted(weighed, key=lambda finding: -finding.confidence)
