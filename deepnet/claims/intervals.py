"""How the numbers of a few seeds become the verdict on one part of a claim.

Pure functions; nothing here knows a run by name. The formulas stand in formulas.py. The unit is a seed, one independent
training: from three seeds on, the mean is judged by a t interval over them; one or two are each judged by themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, isfinite
from typing import Any

import numpy as np

from deepnet.claims.formulas import Interval, paired_interval, seeds_needed, t_interval, t_tests, wilson_interval
from deepnet.text import counted, ranges
from experimentTable import UsageError

FEW_SEEDS = 2  # up to so many seeds each is judged by itself, and all must agree
ROUND = 12  # decimals; .98 - .68 is .3 and must count as "at least .3"


# ---------------------------------------------------------------- the number of one seed


@dataclass(frozen=True)
class Number:
    """What one seed measured. Without `interval` it is a bare number, to which the images give no interval."""

    value: float
    interval: Callable[[float], Interval] | None = None  # level -> the interval that this seed gives by itself
    predictions: Callable[[], np.ndarray] | None = None  # of an accuracy: (2, N), targets and predicted classes
    of: str = "images"  # what the interval is taken over
    per_image: Callable[[], np.ndarray] | None = None  # (N,), whose mean is the value of an accuracy or a difference


def accuracy_number(value: float, predictions: Callable[[], np.ndarray] | None) -> Number:
    """An accuracy (share of images), with Wilson's interval where there are stored `predictions`."""
    if predictions is None:
        return Number(value)

    def per_image() -> np.ndarray:
        return np.equal(*predictions()).astype(np.int8)

    return Number(
        value, lambda level: wilson_interval(value, len(per_image()), level), predictions, "images", per_image
    )


def macro_number(value: float, predictions: Callable[[], np.ndarray] | None) -> Number:
    """A macro accuracy (mean over classes), with Wilson's interval where there are stored `predictions`.

    A mean over C classes of n_c images each varies like a share of C² / Σ 1/n_c images, which are all of them where
    the classes are equally frequent. (Classes of unequal accuracy make it vary less, so the interval errs on the safe
    side.)
    """

    if predictions is None:
        return Number(value)

    def interval(level: float) -> Interval:
        _, counts = np.unique(predictions()[0], return_counts=True)
        return wilson_interval(value, len(counts) ** 2 / (1 / counts).sum(), level)

    def per_image() -> np.ndarray:
        targets, predicted = predictions()
        counts = np.bincount(targets)
        return (targets == predicted) * len(targets) / (np.count_nonzero(counts) * counts[targets])

    return Number(value, interval, per_image=per_image)


def _both(a: Callable[[], np.ndarray], b: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Which images each of two runs has right, from their predictions. Raises UsageError for other images."""
    (targets, predicted_a), (targets_b, predicted_b) = a(), b()
    if not np.array_equal(targets, targets_b):
        raise UsageError("two runs to be compared were not evaluated on the same images; train both on the same data")
    return targets == predicted_a, targets == predicted_b


def difference(a: Mapping[int, Number], b: Mapping[int, Number]) -> dict[int, Number]:
    """a − b for each seed that both have, paired by image where both are accuracies with predictions."""

    def minus(x: Number, y: Number) -> Number:
        if not (x.predictions and y.predictions):
            return Number(x.value - y.value)
        both = partial(_both, x.predictions, y.predictions)
        return Number(
            x.value - y.value,
            lambda level: paired_interval(*both(), level),
            per_image=lambda: np.subtract(*(right.astype(np.int8) for right in both())),
        )

    return {seed: minus(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())}


# ---------------------------------------------------------------- what a part of a claim says


@dataclass(frozen=True)
class Aim:
    """What is claimed of a number: that it lies between `least` and `most`, either of which may be infinite.

    `word` says how. The margin of a claim is how far its ends lie from `to`; None where it has no margin, but a
    threshold of its own, such as an accuracy above .5.
    """

    word: str
    least: float = -inf
    most: float = inf
    to: float | None = None
    level: float = 0.95

    @property
    def text(self) -> str:
        """As "above 0", "in [0.1, 0.9]" or "equivalent to 0.37 within 0.03"."""
        if self.word == "equivalent" and self.to is not None:
            return f"equivalent{f' to {self.to:g}' if self.to else ''} within {self.most - self.to:.3g}"
        if isfinite(self.least) and isfinite(self.most):
            return f"{self.word} [{self.least:.3g}, {self.most:.3g}]"
        return f"{self.word} {self.least if isfinite(self.least) else self.most:g}" if self.word else ""

    def verdict(self, low: Any, high: Any) -> Any:
        """The verdict for an interval; for arrays of lower and upper ends one for each. A bare number has no width."""
        if not self.word:
            return np.full(np.shape(low), "not judged")
        fails = np.less(high, self.least) | np.greater(low, self.most)
        if self.word == "not below":
            return _decide(np.greater_equal(high, self.least), fails)
        if self.word.startswith("at "):
            return _decide(np.greater_equal(low, self.least) & np.less_equal(high, self.most), fails)
        return _decide(np.greater(low, self.least) & np.less(high, self.most), fails)  # a tie is on neither side

    def varied(self, margin: float, level: float) -> "Aim":
        """The same with its margin times a factor, and its test at another level than .95."""
        aim = self
        if margin != 1 and self.to is not None:
            least, most = (round(self.to + margin * (end - self.to), ROUND) for end in (self.least, self.most))
            aim = replace(aim, least=least, most=most)
        return aim if level == 0.95 else replace(aim, level=1 - (1 - self.level) * (1 - level) / 0.05)

    def p_values(self, values: np.ndarray) -> tuple[Any, Any]:
        """`t_tests` of "holds" and of "fails" on (..., n); "not below" holds without anything being shown."""
        holds, fails = t_tests(values, self.least, self.most)
        return np.zeros_like(holds) if self.word == "not below" else holds, fails

    def precision(self, mean: float) -> float:
        """How far an interval about `mean` may reach to either side to be called decisive.

        Half the margin, or half the distance between the mean and the nearer end where that is more.
        """
        ends = [end for end in (self.least, self.most) if isfinite(end)]
        margin = 0.0 if self.to is None else min(abs(end - self.to) for end in ends)
        return max(margin, *(abs(mean - end) for end in ends)) / 2 if len(ends) == 1 else margin / 2


def _decide(holds: Any, fails: Any) -> Any:
    return np.where(holds, "holds", np.where(fails, "fails", "undecided"))


def above(m: float = 0.0, to: float | None = 0.0) -> Aim:
    """Wholly above m. A tie is on neither side. `to`: what its margin is measured from (see `Aim`)."""
    return Aim("above", least=m, to=to)


def below(m: float = 0.0, to: float | None = 0.0) -> Aim:
    """Wholly below m."""
    return Aim("below", most=m, to=to)


def at_least(m: float, to: float | None = 0.0) -> Aim:
    """As `above`, m itself included."""
    return Aim("at least", least=m, to=to)


def at_most(m: float, to: float | None = 0.0) -> Aim:
    """As `below`, m itself included."""
    return Aim("at most", most=m, to=to)


def equivalent(margin: float, to: float = 0.0) -> Aim:
    """Equivalence by two one-sided tests: the 90 % interval against `to` ± `margin`."""
    return Aim("equivalent", round(to - margin, ROUND), round(to + margin, ROUND), to, level=0.9)


NOT_BELOW = Aim("not below", least=0.0)  # fails only if wholly below
SHOWN_ONLY = Aim("")


def written(value: float) -> str:
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
    of: str = "images"  # what the interval of one seed is taken over
    p: tuple[float, ...] = ()  # from three seeds on: p-values of "holds" and of "fails" (see `t_tests`)
    aim: Aim | None = None  # what is claimed of a number
    values: tuple[float, ...] = ()  # the number of each seed
    # of each seed's accuracy or difference of two
    per_image: tuple[Callable[[], np.ndarray], ...] = field(default=(), compare=False, repr=False)
    needed: int | None = None  # from three seeds on: how many would make the interval decisive (see `Aim.precision`)

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
        return "; ".join(written(value) for value, _ in self.estimates)

    @property
    def span(self) -> str:
        """The intervals, with their level and, of one or two seeds, what they do not cover."""
        intervals = [interval for _, interval in self.estimates]
        if not any(intervals):
            return ""
        spans = (f"[{', '.join(map(written, interval))}]" if interval else "–" for interval in intervals)
        few = f", {self.of} only: says nothing of another {self.unit}" if len(self.seeds) <= FEW_SEEDS else ""
        return f"{'; '.join(spans)} ({self.level:.0%}{few})"

    @property
    def p_value(self) -> float | None:
        """Of the part's own verdict; of an undecided part the smaller one."""
        return {"holds": self.p[0], "fails": self.p[1]}.get(self.verdict, min(self.p)) if self.p else None

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
        return self.number + (f", {seeds}{self.which}" if self.seeds else "")


def agreed(verdicts: np.ndarray) -> np.ndarray:
    """The verdict of a few seeds that are each judged by itself, along the last axis: theirs if they agree."""
    return np.where((verdicts == verdicts[..., :1]).all(axis=-1), verdicts[..., 0], "undecided")


def judge_ends(low: Any, high: Any, aim: Aim) -> np.ndarray:
    """The verdict for the intervals of the estimates of a part, along the last axis: one mean, or one or two seeds."""
    return agreed(aim.verdict(np.round(low, ROUND), np.round(high, ROUND)))


def judge_numbers(text: str, numbers: Mapping[Any, Number], aim: Aim, unit: str = "seed") -> Part:
    """Judge `numbers`, seed -> Number, by `aim`: over the seeds if there are three, else each by itself.

    Where the `unit` is another than a seed, the keys name the units.
    """
    text = f"{text}, {aim.text}".removesuffix(", ")
    if not numbers:
        return Part(text, "no evidence", unit=unit)
    values = np.array([number.value for number in numbers.values()], dtype=float)
    estimates: list[tuple[float, Interval | None]]
    p: tuple[float, ...] = ()
    needed = None
    if len(values) > FEW_SEEDS:
        estimates = [(float(values.mean()), t_interval(values, aim.level))]
        if aim.word:
            p = tuple(map(float, aim.p_values(values)))
            needed = seeds_needed(float(values.std(ddof=1)), aim.precision(estimates[0][0]), aim.level)
    else:
        estimates = [(n.value, n.interval(aim.level) if n.interval else None) for n in numbers.values()]
    low, high = zip(*(interval or (value, value) for value, interval in estimates), strict=True)
    verdict = str(judge_ends(low, high, aim))
    images = tuple(number.per_image for number in numbers.values() if number.per_image)
    return Part(
        text, verdict, tuple(numbers), aim.level, tuple(estimates), unit=unit, of=next(iter(numbers.values())).of,
        p=p, aim=aim, values=tuple(map(float, values)), per_image=images if len(images) == len(numbers) else (),
        needed=needed,
    )  # fmt: skip


def judge_count(count: Any, seeds: int) -> np.ndarray:
    """The verdict where `count` of the seeds have a property: holds if all have it, fails if at most half have it.

    One of two seeds is half, but they disagree, and a verdict from two seeds needs both: undecided.
    """
    few = np.less_equal(2 * count, seeds) if seeds > FEW_SEEDS else np.equal(count, 0)
    return _decide(np.equal(count, seeds), few)


def judge_property(text: str, found: Mapping[int, bool]) -> Part:
    """Judge a yes/no property, seed -> bool."""
    if not found:
        return Part(text, "no evidence")
    count = sum(map(bool, found.values()))
    return Part(text, str(judge_count(count, len(found))), tuple(found), count=count)


def combine(verdicts: Any) -> np.ndarray:
    """The verdict of a claim from its parts', along the first axis: holds if all judged hold, fails if one fails."""
    verdicts = np.asarray(verdicts)
    order = ("no evidence", "fails", "undecided", "holds")
    return np.select([(verdicts == verdict).any(axis=0) for verdict in order], order, "not judged")
