"""What the original program's defects cost: our records with a defect beside those without it. Nothing is judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deepnet.claims import measures as m
from deepnet.claims.evidence import Evidence, Source
from deepnet.claims.intervals import SHOWN_ONLY, Number, difference, judge_numbers
from deepnet.claims.ledger import evidence_of
from deepnet.text import Table
from experimentTable import EXPERIMENTS, current_profile

Found = Mapping[Any, Number]  # seed, or what else is counted -> what it measured


@dataclass(frozen=True)
class Price:
    """A defect of the original program, what is measured of it, and the claims that it bears on."""

    defect: str
    measured: str  # in words, with the unit
    claims: str
    numbers: Callable[[Evidence], Found]
    unit: str = "seed"


def _in_points(number: Number) -> Number:
    """A share of images in percentage points."""
    interval = number.interval
    ends = (lambda level: tuple(100 * end for end in interval(level))) if interval else None
    return Number(100 * number.value, ends, of=number.of)  # type: ignore[arg-type]


def _less(a: Found, b: Found) -> Found:
    """a − b for each seed that both have, in points."""
    return {seed: _in_points(number) for seed, number in difference(a, b).items()}


def _with_and_without(defective: str, ours: str, evidence: Evidence) -> Found:
    """Final accuracy of a run with a defect, less that of ours, in points."""
    return _less(*(m.numbers(evidence.find(name), m.final_accuracy) for name in (defective, ours)))


def _last_weights(evidence: Evidence) -> Found:
    """Accuracy of the last epoch less that of the best, in points, of each run that early stopping ended."""
    runs = [r for row in EXPERIMENTS.values() if row.patience for r in evidence.find(row.name).values()]
    stopped = [run for run in runs if run.result.get("stopped_early")]
    return {(run.name, run.seed): Number(-100 * m.stopping_cost(run)) for run in stopped}


def _opened(evidence: Evidence) -> Found:
    runs = evidence.find("baseline")
    opened = evidence.test_accuracy("baseline", runs)
    return _less(opened, m.numbers(runs, lambda record: record.result["accuracy"]))


def _epochs(evidence: Evidence) -> Found:
    usual = EXPERIMENTS["sweep_6"].epochs
    return m.numbers(evidence.find("dropout"), lambda record: float(max(0, record.result["last_epoch"] - usual)))


def _macro(evidence: Evidence) -> Found:
    runs = evidence.find("MLP_33")
    return _less(*(m.numbers(runs, measure) for measure in (m.macro_accuracy, m.final_accuracy)))


def _growth(evidence: Evidence) -> Found:
    """How many times more the report's sum of norms grows with depth than the gradient's global norm."""
    pairs = evidence.together("MLP_res_5", "MLP_res_35")
    growth = {seed: [f(deep) / f(shallow) for f in (m.norm, m.global_norm)] for seed, (shallow, deep) in pairs.items()}
    return {seed: Number(of_sum / of_norm) for seed, (of_sum, of_norm) in growth.items()}


def _whole_epochs(evidence: Evidence) -> Found:
    """The mean over the pairs of residual over plain time, of whole epochs less that of steps."""

    def mean_ratio(record: m.Record) -> Number:
        return Number(float(np.mean([np.mean(ratios) for ratios in m.step_ratios([record]).values()])))

    return difference(*(m.numbers(evidence.find(name), mean_ratio) for name in ("defect_timing", "timing_3")))


_LESS = "accuracy with it less ours (points)"
PRICES = (
    Price(
        "The last weights kept after early stopping, not the best",
        "accuracy of the last epoch less the best (points); at most, as the same images chose the best", "5e to 5i",
        _last_weights, unit="run",
    ),
    Price(
        "Frozen layers updated their batch normalization", _LESS, "5b",
        partial(_with_and_without, "defect_statistics", "fine_tune_1"),
    ),
    Price("Baseline's features not scaled", _LESS, "5a, 5b", partial(_with_and_without, "defect_unscaled", "baseline")),
    Price("Baseline's C left at 1", _LESS, "5a, 5b", partial(_with_and_without, "defect_untuned", "baseline")),
    Price("Both of these", _LESS, "5a, 5b", partial(_with_and_without, "defect_baseline", "baseline")),
    Price("Baseline scored on the test set, networks not", "test less validation (points)", "5a, 5b", _opened),
    *(
        Price(
            "SGD at one rate, without momentum", f"less momentum 0.9 at {lr.replace('-0', '-')} (points)", "5f, 5j",
            partial(_with_and_without, "sgd", f"defect_sgd_{lr}"),
        )
        for lr in ("5e-04", "5e-03", "5e-02")
    ),
    Price("100 epochs for dropout, 20 for the others", "epochs that ours takes beyond 20", "5i", _epochs),
    Price("The mean over classes called accuracy", "MLP_33: it less the share of images (points)", "3c", _macro),
    Price(
        "Evaluation and start-up counted as training time", "MLPs' residual over plain time, with it less ours (ratio)",
        "3f", _whole_epochs,
    ),
    Price(
        "Gradient norms summed over tensors and steps",
        "MLP_res_5 to 35: the sum's growth over the norm's (ratio)", "3d, 3g", _growth,
    ),
)  # fmt: skip


def priced(
    profile: str | None = None, records: Source | None = None, openings: Sequence[dict] | None = None
) -> list[str]:
    """What each of PRICES comes to in a profile: the mean, its 95 % interval and over what, or that no record tells.

    Three seeds or more have a t interval over the seeds; fewer have one over the images each, which says nothing of
    other seeds. The arguments are those of `check`.
    """
    profile = current_profile(profile)
    evidence = Evidence(profile, *evidence_of(profile, records, openings))
    cells = []
    for price in PRICES:
        part = judge_numbers("", price.numbers(evidence), SHOWN_ONLY, price.unit)
        over = f"seed{'s' * (len(part.seeds) > 1)} {part.which}" if price.unit == "seed" else part.which
        number = f"{part.ours} {part.span.partition(' (')[0]}".rstrip()
        cells.append(f"{number}, {over}" if part.seeds else "no record yet")
    return cells


def price_list(*profiles: str, of: Callable[[str], list[str]] = priced) -> Table:
    """A line per defect: what is measured of it, what it comes to in each profile, and the claims that it bears on.

    `of`: profile -> what `priced` returns for it. Raises UsageError for an unknown profile.
    Example: `price_list("paper", "cpu")`.
    """
    columns = zip(*map(of, profiles), strict=True)
    rows = [(p.defect, p.measured, *cells, p.claims) for p, cells in zip(PRICES, columns, strict=True)]
    return Table(("defect of the original program", "what is measured", *profiles, "claims"), rows)
