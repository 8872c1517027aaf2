"""Intervals, p-values and sample sizes: statistics of plain numbers, which know neither claims nor seeds."""

from collections.abc import Iterable, Sequence
from functools import cache
from math import ceil, isfinite, sqrt
from typing import Any

import numpy as np

Interval = tuple[float, float]
MOST_SEEDS = 1000  # up to which `seeds_needed` takes Student's quantile


@cache
def t_quantile(level: float, freedom: int) -> float:
    """The two-sided quantile of Student's t at `level`."""
    from scipy.special import stdtrit  # as all of SciPy here: its `stats` takes half a second to import

    return float(stdtrit(freedom, (1 + level) / 2))


@cache
def z_quantile(level: float) -> float:
    """The two-sided normal quantile of `level`."""
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def standard_error(values: np.ndarray) -> Any:
    """Of the mean along the last axis of (..., n)."""
    return values.std(axis=-1, ddof=1) / sqrt(values.shape[-1])


def t_interval(values: Iterable[float] | np.ndarray, level: float) -> Any:
    """Student's t interval at `level` of the mean of at least two `values`: its lower and upper end.

    Of an array (..., n) the mean is taken along the last axis, and each end is an array (...).
    """
    values = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=float)
    middle, half = values.mean(axis=-1), t_quantile(level, values.shape[-1] - 1) * standard_error(values)
    return (middle - half, middle + half) if values.ndim > 1 else (float(middle - half), float(middle + half))


def t_tests(values: np.ndarray, least: float, most: float) -> tuple[Any, Any]:
    """p-values of two claims on the mean of (..., n): that it lies between `least` and `most`, and that it does not.

    Either end may be infinite. With both ends the first is that of two one-sided tests (D. J. Schuirmann, "A comparison
    of the two one-sided tests procedure and the power approach", J. Pharmacokinet. Biopharm. 15, 1987), with one end
    that of the two-sided t test, if the mean lies on the claimed side. Each claim is significant at .05 exactly where
    the 90 % interval (two ends) or the 95 % interval (one end) excludes its contrary.
    """
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: infinitely sure, or 0 / 0, which tells nothing
        scores = [
            sign * (values.mean(axis=-1) - end) / standard_error(values)
            for sign, end in ((1, least), (-1, most))
            if isfinite(end)
        ]
    inside = [np.nan_to_num(stdtr(values.shape[-1] - 1, -score), nan=1.0) for score in scores]
    outside = [np.nan_to_num(stdtr(values.shape[-1] - 1, score), nan=1.0) for score in scores]
    sides = 3 - len(scores)
    return np.minimum(1, sides * np.max(inside, axis=0)), np.minimum(1, sides * np.min(outside, axis=0))


def seeds_needed(spread: float, half_width: float, level: float) -> int | None:
    """How many seeds make the t interval at `level` reach `half_width` to either side, with this standard deviation.

    At least three; None where no number does. Beyond `MOST_SEEDS` the normal quantile stands for Student's.

    >>> seeds_needed(spread=0.01, half_width=0.01, level=0.95)
    7
    """
    enough = np.flatnonzero(spread * _half_widths(level) <= half_width)
    if len(enough):
        return int(enough[0]) + 3
    return ceil((z_quantile(level) * spread / half_width) ** 2) if half_width > 0 and isfinite(spread) else None


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p-values, by which the chance of any false rejection stays below the level, whatever the tests share.

    Of (..., tests) each row by itself. S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J.
    Statist. 6, 1979. SciPy has only corrections of the false discovery rate.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, axis=-1)
    stepped = np.take_along_axis(values, order, axis=-1) * np.arange(values.shape[-1], 0, -1)
    adjusted = np.empty_like(values)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(stepped, axis=-1)), axis=-1)
    return adjusted


@cache
def _half_widths(level: float) -> np.ndarray:
    """Of the t interval with a standard deviation of 1, for 3 to `MOST_SEEDS` seeds."""
    from scipy.special import stdtrit

    seeds = np.arange(3, MOST_SEEDS + 1)
    return stdtrit(seeds - 1, (1 + level) / 2) / np.sqrt(seeds)


def wilson_interval(share: Any, images: float, level: float) -> Any:
    """Score interval of a share of `images` (E. B. Wilson, JASA 22, 1927); of an array of shares, arrays of its ends.

    SciPy's takes whole counts only, and the images that a macro accuracy is worth (`macro_number`) are none.
    """
    z = z_quantile(level)
    scale = 1 + z**2 / images
    centre = (share + z**2 / (2 * images)) / scale
    half = z * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5 / scale
    return centre - half, centre + half


def exact_interval(count: int, of: int, level: float) -> Interval:
    """Interval of a share, `count` of `of` (C. J. Clopper and E. S. Pearson, Biometrika 26, 1934).

    >>> exact_interval(0, 10, 0.95)
    (0.0, 0.3084971078187607)
    """
    from scipy.special import betaincinv

    low = betaincinv(count, of - count + 1, (1 - level) / 2) if count else 0
    high = betaincinv(count + 1, of - count, (1 + level) / 2) if count < of else 1
    return float(low), float(high)


def paired_interval(right_a: np.ndarray, right_b: np.ndarray, level: float) -> Interval:
    """Interval of accuracy a less accuracy b, from two bool (N,): which of the same N images each has right."""
    only_a, only_b = np.count_nonzero(right_a & ~right_b), np.count_nonzero(right_b & ~right_a)
    return discordant_interval(only_a, only_b, len(right_a), level)


def discordant_interval(only_a: Any, only_b: Any, images: int, level: float) -> Any:
    """The same from the number of images that only a has right, and only b; of arrays, arrays of its ends.

    Only McNemar's discordant pairs count. Wald's interval after half an image is added to each of the four
    cells: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24, 2005. Unlike Wald's own it keeps a width where no pair is discordant.
    """
    only_a, only_b, images = only_a + 0.5, only_b + 0.5, images + 2
    centre = (only_a - only_b) / images
    half = z_quantile(level) * (only_a + only_b - (only_a - only_b) ** 2 / images) ** 0.5 / images
    return centre - half, centre + half


def two_way_interval(values: np.ndarray, level: float, draws: int = 4000, seed: int = 0) -> Interval:
    """Interval of the mean of (seeds, images) where both are drawn from many: Student's, with a bootstrap's spread.

    Seeds and images are drawn anew, with replacement, by a generator of this `seed`. All seeds see the same images, so
    each draw of images serves all its seeds: A. B. Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 1, 2007. The
    draws' own quantiles would be too narrow for a few seeds, so their standard deviation, corrected for the number of
    seeds, is multiplied with Student's quantile.
    """
    rng, (seeds, images) = np.random.default_rng(seed), values.shape
    patterns, counts = np.unique(values, axis=1, return_counts=True)  # images with the same values are drawn together
    images_drawn = rng.multinomial(images, counts / images, size=draws) / images
    seeds_drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    spread = ((images_drawn @ patterns.T) * seeds_drawn).sum(axis=1).std() * sqrt(seeds / (seeds - 1))
    middle, half = float(values.mean()), float(t_quantile(level, seeds - 1) * spread)
    return middle - half, middle + half
