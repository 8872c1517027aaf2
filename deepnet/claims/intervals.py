"""Intervals, and how the numbers of a few seeds become the verdict on one part of a claim.

Pure functions; nothing here knows a run by name. The unit is a seed, one independent training: from three
seeds on, the mean is judged by a t interval over them; one or two are each judged by themselves.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt

import numpy as np

from deepnet.text import seeds_of
from experimentTable import UsageError

Interval = tuple[float, float]
FEW = 2  # up to so many seeds each is judged by itself, and all must agree
ROUND = 12  # decimals; .98 - .68 is .3 and must count as "at least .3"


# ---------------------------------------------------------------- intervals


def t_interval(values: Iterable[float], level: float) -> Interval:
    """Student's t interval at `level` of the mean of at least two `values`."""
    from scipy import stats

    values = np.asarray(list(values), dtype=float)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _z(level: float) -> float:
    """The two-sided normal quantile of `level`."""
    from scipy import stats

    return float(stats.norm.ppf((1 + level) / 2))


def wilson_interval(share: float, images: float, level: float) -> Interval:
    """Score interval of a share of `images` (E. B. Wilson, JASA 22, 1927)."""
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
    """What one seed measured. Without `alone` it is a bare number, which no images give an interval to."""

    value: float
    alone: Callable[[float], Interval] | None = None  # level -> the interval this seed gives by itself
    predictions: Callable[[], np.ndarray] | None = None  # of an accuracy: (2, N), label and class given


def accuracy_number(value: float, predictions: Callable[[], np.ndarray]) -> Number:
    """An accuracy (share of images) that the stored `predictions` give: Wilson's interval."""
    return Number(value, lambda level: wilson_interval(value, predictions().shape[1], level), predictions)


def macro_number(value: float, predictions: Callable[[], np.ndarray]) -> Number:
    """A macro accuracy (mean over classes) that the stored `predictions` give: Wilson's interval too.

    A mean over C classes of n_c images each varies like a share of C² / Σ 1/n_c images: all of them where the
    classes are equally frequent. (Unequal accuracies of the classes make it vary less, so it is on the safe side.)
    """

    def alone(level: float) -> Interval:
        counts = np.bincount(predictions()[0])
        counts = counts[counts > 0]
        return wilson_interval(value, len(counts) ** 2 / (1 / counts).sum(), level)

    return Number(value, alone)


def _alone(a: Callable[[], np.ndarray], b: Callable[[], np.ndarray], level: float) -> Interval:
    """The interval of a difference of two accuracies, paired by image. Raises UsageError for other images."""
    (labels, given_a), (labels_b, given_b) = a(), b()
    if not np.array_equal(labels, labels_b):
        raise UsageError("two runs to be compared were not evaluated on the same images; train both on the same data")
    return paired_interval(labels == given_a, labels == given_b, level)


def less(a: Mapping[int, Number], b: Mapping[int, Number]) -> dict[int, Number]:
    """a less b for each seed that both have; paired by image where both are accuracies with predictions."""

    def minus(x: Number, y: Number) -> Number:
        paired = partial(_alone, x.predictions, y.predictions) if x.predictions and y.predictions else None
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
    """Wholly above m; "better" is above 0. A tie is on neither side."""
    return Aim(f"above {m:g}", lambda low, high: _decide(low > m, high < m))


def below(m: float) -> Aim:
    """The mirror of `above`."""
    return Aim(f"below {m:g}", lambda low, high: _decide(high < m, low > m))


def at_least(m: float) -> Aim:
    """As `above`, m itself included."""
    return Aim(f"at least {m:g}", lambda low, high: _decide(low >= m, high < m))


def at_most(m: float) -> Aim:
    """As `below`, m itself included."""
    return Aim(f"at most {m:g}", lambda low, high: _decide(high <= m, low > m))


def alike(margin: float, to: float = 0.0) -> Aim:
    """Equivalence by two one-sided tests: the 90 % interval against `to` ± `margin`."""
    low_end, high_end = round(to - margin, ROUND), round(to + margin, ROUND)
    text = f"alike, margin {margin:.3g}" if to == 0 else f"alike {to:g}, margin {margin:.3g}"
    return Aim(
        text, lambda low, high: _decide(low_end < low and high < high_end, high < low_end or low > high_end), level=0.9
    )


NOT_BELOW = Aim("not below 0", lambda low, high: _decide(high >= 0, high < 0))  # fails only if wholly below
BESIDE = Aim("printed beside", lambda low, high: "not judged")


def _written(value: float) -> str:
    """Four significant digits; zero for what only rounding left of a difference."""
    return f"{value:.4g}" if abs(value) > 1e-14 else "0"


@dataclass(frozen=True)
class Part:
    """One judged (or only printed) part of a claim."""

    text: str
    verdict: str
    effect: float | None = None  # mean over the seeds; of a property, the share of seeds that have it
    interval: Interval | None = None  # None: bare numbers, a property, or two seeds (then see by_seed)
    seeds: tuple[int, ...] = ()
    level: float | None = None  # of the interval
    by_seed: tuple[tuple[float, Interval | None], ...] = ()  # effect and interval of each of up to two seeds
    count: int | None = None  # of a property: in how many of the seeds

    @property
    def ours(self) -> str:
        """The effect, in words for a table: one number, one a seed, or k of n."""
        if self.count is not None:
            return f"{self.count} of {len(self.seeds)}"
        if self.effect is None:
            return ""
        return "; ".join(_written(value) for value, _ in self.by_seed) or _written(self.effect)

    @property
    def span(self) -> str:
        """The interval or, of two seeds, both, with their level."""
        intervals = [interval for _, interval in self.by_seed] if self.by_seed else [self.interval]
        if all(interval is None for interval in intervals):
            return ""
        words = ("–" if interval is None else f"[{', '.join(map(_written, interval))}]" for interval in intervals)
        return f"{'; '.join(words)} ({self.level:.0%})"

    @property
    def number(self) -> str:
        """What was measured, with the effect and its interval."""
        return f"{self.text}: {self.ours} {self.span}".rstrip() if self.seeds else self.text

    def __str__(self) -> str:
        """In one line."""
        return f"{self.verdict:<11} {self.number}" + (f", {seeds_of({self.text: self.seeds})}" if self.seeds else "")


def judge(text: str, numbers: Mapping[int, Number], aim: Aim) -> Part:
    """Judge `numbers`, seed -> Number, by `aim`: over the seeds if there are three, else each by itself."""
    text, seeds = f"{text}, {aim.text}", tuple(numbers)
    if not numbers:
        return Part(text, "no evidence")

    def verdict(interval: Interval) -> str:
        return aim.verdict(*(round(end, ROUND) for end in interval))

    values = [number.value for number in numbers.values()]
    effect = float(np.mean(values))
    if len(values) > FEW:
        interval = t_interval(values, aim.level)
        return Part(text, verdict(interval), effect, interval, seeds, aim.level)
    intervals = [number.alone(aim.level) if number.alone else None for number in numbers.values()]
    by_seed = tuple(zip(values, intervals, strict=True))
    verdicts = {verdict(interval or (value, value)) for value, interval in by_seed}
    agreed = verdicts.pop() if len(verdicts) == 1 else "undecided"
    return Part(text, agreed, effect, intervals[0] if len(intervals) == 1 else None, seeds, aim.level, by_seed)


def judge_property(text: str, has: Mapping[int, bool]) -> Part:
    """Judge a yes/no property, seed -> bool: holds if every seed has it, fails if at most half have it.

    One of two seeds is half, but they disagree, and a verdict from two seeds needs both: undecided.
    """
    if not has:
        return Part(text, "no evidence")
    count, seeds = sum(map(bool, has.values())), len(has)
    agree = seeds > FEW or count == 0
    verdict = _decide(count == seeds, 2 * count <= seeds and agree)
    return Part(text, verdict, count / seeds, seeds=tuple(has), count=count)


def left_out(text: str) -> Part:
    """A part that hangs on an input of 128 pixels, in a profile that has fewer."""
    return Part(f"{text} (left out: needs 128 pixels)", "not judged")


def combine(parts: Iterable[Part]) -> str:
    """The verdict of a claim: holds if all judged parts hold, fails if one fails, else undecided."""
    verdicts = {part.verdict for part in parts} - {"not judged"}
    for verdict in ("no evidence", "fails", "undecided", "holds"):
        if verdict in verdicts:
            return verdict
    return "not judged"


def few_seeds(parts: Iterable[Part]) -> str:
    """The words a verdict from one or two seeds carries; empty from three on."""
    counts = {len(part.seeds) for part in parts if part.verdict not in ("not judged", "no evidence")}
    words = [word for count, word in ((1, "one seed"), (2, "two seeds")) if count in counts]
    return " and ".join(words) + (" in some parts" if words and len(counts) > 1 else "")
