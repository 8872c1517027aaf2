"""Intervals, and how the numbers of a few seeds become the verdict on one part of a claim.

Pure functions; nothing here knows a run by name. The unit is a seed, one independent training: from three
seeds on, the mean is judged by a t interval over them; one or two are each judged by themselves.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from deepnet.text import counted, ranges
from experimentTable import UsageError

Interval = tuple[float, float]
FEW_SEEDS = 2  # up to so many seeds each is judged by itself, and all must agree
ROUND = 12  # decimals; .98 - .68 is .3 and must count as "at least .3"


# ---------------------------------------------------------------- intervals


def t_interval(values: Iterable[float], level: float) -> Interval:
    """Student's t interval at `level` of the mean of at least two `values`."""
    from scipy import stats

    values = np.asarray(list(values), dtype=float)
    low, high = values.mean() + np.array(stats.t.interval(level, len(values) - 1)) * stats.sem(values)
    return float(low), float(high)


def _z(level: float) -> float:
    """The two-sided normal quantile of `level`."""
    from scipy import stats

    return float(stats.norm.ppf((1 + level) / 2))


def wilson_interval(share: float, images: float, level: float) -> Interval:
    """Score interval of a share of `images` (E. B. Wilson, JASA 22, 1927).

    SciPy's takes whole counts only, and the images that a macro accuracy is worth (`macro_number`) are none.
    """
    z = _z(level)
    scale = 1 + z**2 / images
    centre = (share + z**2 / (2 * images)) / scale
    half = z * sqrt(share * (1 - share) / images + z**2 / (4 * images**2)) / scale
    return centre - half, centre + half


def paired_interval(right_a: np.ndarray, right_b: np.ndarray, level: float) -> Interval:
    """Interval of accuracy a less accuracy b, from two bool (N,): which of the same N images each has right.

    Only McNemar's discordant pairs count. Wald's interval after half an image is added to each of the four
    cells: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24, 2005. Unlike Wald's own it keeps a width where no pair is discordant.
    """
    only_a = np.count_nonzero(right_a & ~right_b) + 0.5
    only_b = np.count_nonzero(right_b & ~right_a) + 0.5
    images = len(right_a) + 2
    centre = (only_a - only_b) / images
    half = _z(level) * sqrt(only_a + only_b - (only_a - only_b) ** 2 / images) / images
    return centre - half, centre + half


# ---------------------------------------------------------------- the number of one seed


@dataclass(frozen=True)
class Number:
    """What one seed measured. Without `interval` it is a bare number, to which the images give no interval."""

    value: float
    interval: Callable[[float], Interval] | None = None  # level -> the interval that this seed gives by itself
    predictions: Callable[[], np.ndarray] | None = None  # of an accuracy: (2, N), targets and predicted classes


def accuracy_number(value: float, predictions: Callable[[], np.ndarray]) -> Number:
    """An accuracy (share of images) that the stored `predictions` give, with Wilson's interval."""
    return Number(value, lambda level: wilson_interval(value, predictions().shape[1], level), predictions)


def macro_number(value: float, predictions: Callable[[], np.ndarray]) -> Number:
    """A macro accuracy (mean over classes) that the stored `predictions` give, with Wilson's interval too.

    A mean over C classes of n_c images each varies like a share of C² / Σ 1/n_c images, which are all of them where
    the classes are equally frequent. (Classes of unequal accuracy make it vary less, so the interval errs on the safe
    side.)
    """

    def interval(level: float) -> Interval:
        counts = np.bincount(predictions()[0])
        counts = counts[counts > 0]
        return wilson_interval(value, len(counts) ** 2 / (1 / counts).sum(), level)

    return Number(value, interval)


def _paired(a: Callable[[], np.ndarray], b: Callable[[], np.ndarray], level: float) -> Interval:
    """The interval of a difference of two accuracies, paired by image. Raises UsageError for other images."""
    (targets, predicted_a), (targets_b, predicted_b) = a(), b()
    if not np.array_equal(targets, targets_b):
        raise UsageError("two runs to be compared were not evaluated on the same images; train both on the same data")
    return paired_interval(targets == predicted_a, targets == predicted_b, level)


def difference(a: Mapping[int, Number], b: Mapping[int, Number]) -> dict[int, Number]:
    """a − b for each seed that both have, paired by image where both are accuracies with predictions."""

    def minus(x: Number, y: Number) -> Number:
        paired = partial(_paired, x.predictions, y.predictions) if x.predictions and y.predictions else None
        return Number(x.value - y.value, paired)

    return {seed: minus(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())}


# ---------------------------------------------------------------- what a part of a claim says


@dataclass(frozen=True)
class Aim:
    """What is claimed of a number: the verdict for an interval (a bare number is one of no width)."""

    text: str
    verdict: Callable[[float, float], str]
    level: float = 0.95


def _decide(holds: bool, fails: bool) -> str:
    return "holds" if holds else "fails" if fails else "undecided"


def above(m: float = 0.0) -> Aim:
    """Wholly above m. A tie is on neither side."""
    return Aim(f"above {m:g}", lambda low, high: _decide(low > m, high < m))


def below(m: float = 0.0) -> Aim:
    """Wholly below m."""
    return Aim(f"below {m:g}", lambda low, high: _decide(high < m, low > m))


def at_least(m: float) -> Aim:
    """As `above`, m itself included."""
    return Aim(f"at least {m:g}", lambda low, high: _decide(low >= m, high < m))


def at_most(m: float) -> Aim:
    """As `below`, m itself included."""
    return Aim(f"at most {m:g}", lambda low, high: _decide(high <= m, low > m))


def equivalent(margin: float, to: float = 0.0) -> Aim:
    """Equivalence by two one-sided tests: the 90 % interval against `to` ± `margin`."""
    least, most = round(to - margin, ROUND), round(to + margin, ROUND)
    text = f"equivalent{f' to {to:g}' if to else ''} within {margin:.3g}"
    return Aim(text, lambda low, high: _decide(least < low and high < most, high < least or low > most), level=0.9)


NOT_BELOW = Aim("not below 0", lambda low, high: _decide(high >= 0, high < 0))  # fails only if wholly below
SHOWN_ONLY = Aim("", lambda low, high: "not judged")


def _written(value: float) -> str:
    """Three significant digits; zero for what only rounding left of a difference."""
    return f"{value:.3g}" if abs(value) > 1e-14 else "0"


@dataclass(frozen=True)
class Part:
    """One part of a claim: what was measured, and its verdict."""

    text: str
    verdict: str
    seeds: tuple = ()
    level: float | None = None  # of the intervals
    # a value and its interval: of the mean over three seeds or more, else of each seed; a bare number has no interval
    estimates: tuple[tuple[float, Interval | None], ...] = ()
    count: int | None = None  # of a property: how many of the seeds have it
    unit: str = "seed"  # what `seeds` lists; of another unit, the names of each

    @property
    def effect(self) -> float | None:
        """The mean over the seeds; of a property, the share of seeds that have it."""
        if self.count is not None:
            return self.count / len(self.seeds)
        return float(np.mean([value for value, _ in self.estimates])) if self.estimates else None

    @property
    def interval(self) -> Interval | None:
        """The interval, where there is exactly one."""
        return self.estimates[0][1] if len(self.estimates) == 1 else None

    @property
    def ours(self) -> str:
        """The effect for a table: one number, one per seed, or k of n."""
        if self.count is not None:
            return f"{self.count} of {len(self.seeds)}"
        return "; ".join(_written(value) for value, _ in self.estimates)

    @property
    def span(self) -> str:
        """The intervals, with their level."""
        intervals = [interval for _, interval in self.estimates]
        if not any(intervals):
            return ""
        written = (f"[{', '.join(map(_written, interval))}]" if interval else "–" for interval in intervals)
        return f"{'; '.join(written)} ({self.level:.0%})"

    @property
    def which(self) -> str:
        """The seeds, as "0-2, 5"; of another unit how many there are."""
        return ranges(self.seeds) if self.unit == "seed" else counted(len(self.seeds), self.unit)

    @property
    def number(self) -> str:
        """What was measured, with the effect and its interval."""
        return f"{self.text}: {self.ours} {self.span}".rstrip() if self.seeds else self.text

    def __str__(self) -> str:
        seeds = f"seed{'s' * (len(self.seeds) > 1)} " if self.unit == "seed" else ""
        return f"{self.verdict:<11} {self.number}" + (f", {seeds}{self.which}" if self.seeds else "")


def judge(text: str, numbers: Mapping[Any, Number], aim: Aim, unit: str = "seed") -> Part:
    """Judge `numbers`, seed -> Number, by `aim`: over the seeds if there are three, else each by itself.

    Where the `unit` is another than a seed, the keys name the units.
    """
    values = [number.value for number in numbers.values()]
    estimates: list[tuple[float, Interval | None]]
    if len(values) > FEW_SEEDS:
        estimates = [(float(np.mean(values)), t_interval(values, aim.level))]
    else:
        estimates = [(n.value, n.interval(aim.level) if n.interval else None) for n in numbers.values()]
    ends = (interval or (value, value) for value, interval in estimates)
    verdicts = {aim.verdict(round(low, ROUND), round(high, ROUND)) for low, high in ends} or {"no evidence"}
    verdict = verdicts.pop() if len(verdicts) == 1 else "undecided"
    text = f"{text}, {aim.text}".removesuffix(", ")
    return Part(text, verdict, tuple(numbers), aim.level, tuple(estimates), unit=unit)


def judge_property(text: str, found: Mapping[int, bool]) -> Part:
    """Judge a yes/no property, seed -> bool: holds if every seed has it, fails if at most half have it.

    One of two seeds is half, but they disagree, and a verdict from two seeds needs both: undecided.
    """
    if not found:
        return Part(text, "no evidence")
    count, seeds = sum(map(bool, found.values())), len(found)
    verdict = _decide(count == seeds, 2 * count <= seeds and (seeds > FEW_SEEDS or count == 0))
    return Part(text, verdict, tuple(found), count=count)


def combine(parts: Iterable[Part]) -> str:
    """The verdict of a claim: holds if all judged parts hold, fails if one fails, else undecided."""
    verdicts = {part.verdict for part in parts}
    order = ("no evidence", "fails", "undecided", "holds", "not judged")
    return next((verdict for verdict in order if verdict in verdicts), "not judged")


def few_seeds(parts: Iterable[Part]) -> str:
    """The words that a verdict from one or two seeds carries; empty from three on."""
    counts = {(len(part.seeds), part.unit) for part in parts if part.verdict not in ("not judged", "no evidence")}
    words = [f"{('one', 'two')[n - 1]} {unit}{'s' * (n > 1)}" for n, unit in sorted(counts) if 1 <= n <= FEW_SEEDS]
    return " and ".join(words) + (" in some parts" if words and len(counts) > 1 else "")
