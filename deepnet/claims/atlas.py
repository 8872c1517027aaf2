"""How the questions of the degradation atlas (q8 to q11) are judged; what they say stands in rules.md."""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import product
from math import log10

import numpy as np

from deepnet.claims.evidence import Evidence, rule
from deepnet.claims.formulas import exact_interval
from deepnet.claims.intervals import ROUND, SHOWN_ONLY, Aim, Interval, Part, above, difference
from deepnet.claims.measures import Record, Runs, left_plateau, numbers
from deepnet.claims.rules import learning
from deepnet.grid import CNN_ROW, CURES, EPS, EPS_DEPTHS, PLATEAU_SEEDS, RATE_ROWS, RATES, WITH_SHORTCUTS, eps_row

# Layers by which each power of ten in eps moves the depth, if a layer shrinks the gradient by √6
LAYERS_PER_DECADE = 1 / log10(6**0.5)
RESAMPLES, BOOTSTRAP_SEED = 10_000, 0


def inside(low: float, high: float) -> Aim:
    """The 95 % interval lies within [low, high]."""
    return Aim("in", low, high)


def leaves_plateau(record: Record) -> bool:
    """Whether the training loss of an epoch is below that of guessing, ln(classes), by more than 0.05."""
    return bool(left_plateau(record).any())


def late(metric: str, record: Record) -> float:
    """A metric's mean over the last three epochs."""
    return float(np.mean(record.column(metric, True)[-3:]))


# ---------------------------------------------------------------- q8: the depth at which half of the seeds leave


@cache
def half_depth(depths: tuple[int, ...], left: tuple[int, ...], seeds: int) -> float:
    """The depth at which half of the `seeds` leave the plateau, by logistic regression on depth.

    left: how many of the seeds leave it at each of `depths`. NaN where all or none of them do. The slope is all but
    free (a penalty of 1e-6 on its square), so that outcomes which the depth separates give the middle between them. The
    descent and where it ends are those of scikit-learn's LogisticRegression, with a loss that is written for the few
    depths, since the bootstrap fits hundreds of outcomes. (Of such separated outcomes the depth still moves by up to a
    layer if the descent goes on.)

    >>> round(half_depth((10, 20, 30, 40), (5, 5, 0, 0), 5))
    25
    """
    from scipy.optimize import minimize

    if sum(left) in (0, seeds * len(depths)):
        return float("nan")
    depth, spread, shares = np.mean(depths), np.std(depths), np.array(left) / seeds
    design = np.column_stack([(np.array(depths) - depth) / spread, np.ones(len(depths))])
    penalty = np.array([1e-6 / (seeds * len(depths)), 0])

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ point
        value = (np.logaddexp(0, logits).sum() - shares @ logits) / len(depths) + penalty @ point**2 / 2
        return value, (1 / (1 + np.exp(-logits)) - shares) @ design / len(depths) + penalty * point

    ends = {"maxiter": 1000, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}
    slope, intercept = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", options=ends).x
    return float(depth - spread * intercept / slope)


def half_depths(left: np.ndarray, seeds: int) -> np.ndarray:
    """`half_depth` at each eps. left: int (..., depths, eps), how many of the `seeds` runs leave the plateau."""
    by_eps = left.swapaxes(-1, -2)
    outcomes = map(tuple, by_eps.reshape(-1, len(EPS_DEPTHS)).tolist())
    return np.reshape([half_depth(EPS_DEPTHS, outcome, seeds) for outcome in outcomes], by_eps.shape[:-1])


def depth_slopes(depths: np.ndarray) -> np.ndarray:
    """Least-squares slopes on -log10 eps of the `half_depths` (..., eps), in layers per decade of eps.

    NaN where the depths at fewer than two eps are known.
    """
    known = np.isfinite(depths)
    decades = np.broadcast_to(-np.log10(EPS), depths.shape)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where fewer than two are known
        centred = decades - (decades.sum(axis=-1, where=known) / known.sum(axis=-1))[..., None]
        return (centred * depths).sum(axis=-1, where=known) / (centred**2).sum(axis=-1, where=known)


def bootstrap_interval(left: np.ndarray, level: float) -> Interval:
    """Percentile interval of the slope over resampled seeds; resamples without a slope are left out.

    left: bool (seeds, depths, eps), whether each run leaves the plateau.
    """
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(len(left), size=(RESAMPLES, len(left)))
    counts = np.array([left[drawn].sum(axis=0) for drawn in draws])
    low, high = np.nanquantile(depth_slopes(half_depths(counts, len(left))), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def judge_interval(text: str, value: float, interval: Interval | None, seeds: Sequence[int], aim: Aim) -> Part:
    """Judge a number over all the seeds by an interval that is not Student's, or by itself where it has none."""
    low, high = interval or (value, value)
    verdict = str(aim.verdict(round(low, ROUND), round(high, ROUND)))
    text = f"{text}, {aim.text}".removesuffix(", ")
    return Part(text, verdict, tuple(seeds), aim.level, ((value, interval),))


def outcomes_by_eps(ev: Evidence) -> tuple[list[int], np.ndarray]:
    """The seeds in which all runs of the map have a record, and whether each leaves the plateau.

    The latter is bool (seeds, depths, eps).
    """
    seeds = ev.together(*(eps_row(*cell) for cell in product(EPS_DEPTHS, EPS)))
    left = [list(map(leaves_plateau, records)) for records in seeds.values()]
    return list(seeds), np.reshape(left, (len(seeds), len(EPS_DEPTHS), len(EPS))).astype(bool)


@rule("q8")
def _(ev: Evidence) -> Iterator[Part]:
    seeds, left = outcomes_by_eps(ev)
    aim = inside(0.75 * LAYERS_PER_DECADE, 1.25 * LAYERS_PER_DECADE)
    text, depths = "layers gained per decade of eps", half_depths(left.sum(axis=0), len(seeds))
    slope = float(depth_slopes(depths))
    if np.isnan(slope):
        few = " (fewer than two eps at which some runs leave the plateau and others do not)" if seeds else ""
        yield Part(f"{text}, {aim.text}{few}", "undecided" if seeds else "no evidence")
    else:
        yield judge_interval(text, slope, bootstrap_interval(left, aim.level), seeds, aim)
    for eps, depth in zip(EPS, depths, strict=True):
        text = f"depth at which half leave, eps {eps:g}"
        if np.isfinite(depth):
            yield judge_interval(text, depth, None, seeds, SHOWN_ONLY)
        else:  # a part all the same, so that a claim has the same parts in every setting
            yield Part(f"{text} (all or none of the runs leave)", "not judged")


# ---------------------------------------------------------------- q9 to q11


def best_rate(ev: Evidence, depth: int) -> tuple[float, Runs]:
    """The rate with the lowest training loss over the seeds that all rates have, and its runs in these."""
    seeds = ev.together(*(RATE_ROWS[depth, lr] for lr in RATES))
    if not seeds:
        return float("nan"), {}
    losses = np.mean([[late("train_loss", record) for record in records] for records in seeds.values()], axis=0)
    best = int(np.argmin(losses))
    return RATES[best], {seed: records[best] for seed, records in seeds.items()}


@rule("q9")
def _(ev: Evidence) -> Iterator[Part]:
    best = {depth: best_rate(ev, depth) for depth in WITH_SHORTCUTS}
    accuracy = {depth: numbers(runs, partial(late, "test_accuracy")) for depth, (_, runs) in best.items()}
    text = "test accuracy of the last three epochs at the best rate"
    for a, b in ((4, 13), (13, 23)):
        yield ev.judge_numbers(f"{text}, MLP_{a} − MLP_{b}", difference(accuracy[a], accuracy[b]), above(0.01))
    for depth, (rate, runs) in best.items():
        if runs:
            yield ev.judge_numbers(f"{text} ({rate:g}) of MLP_{depth}", accuracy[depth], SHOWN_ONLY)


for letter, row in zip("abcde", CURES.values(), strict=True):  # an outcome for each cure, and no sum
    learning(f"q10{letter}", row)


@rule("q11")
def _(ev: Evidence) -> Iterator[Part]:
    runs = {seed: run for seed, run in ev.runs(CNN_ROW).items() if seed in PLATEAU_SEEDS}
    left = sum(map(leaves_plateau, runs.values()))
    text, aim = "share of the seeds that leave the plateau", inside(0.1, 0.9)
    if not runs:
        yield Part(f"{text}, {aim.text}", "no evidence")
        return
    yield judge_interval(text, left / len(runs), exact_interval(left, len(runs), aim.level), list(runs), aim)
