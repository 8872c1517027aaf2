"""The rules of the atlas on made-up records whose answer is known."""

from itertools import product
from math import log

import numpy as np
import pytest
from made_up_records import train, world
from sklearn.linear_model import LogisticRegression

from deepnet.claims.atlas import bootstrap_interval, half_depth, leaves_plateau
from deepnet.claims.ledger import check
from deepnet.grid import CNN_ROW, CURES, EPS, EPS_DEPTHS, RATE_ROWS, eps_row

FLAT, LEARNED = log(10), 1.0
BY_RULE = 1 / np.log10(np.sqrt(6))


def eps_map(per_decade, seeds=5, middle=30.0, spread=4.0):
    """Runs leave the plateau down to a depth that moves with eps, `per_decade`, and with the seed, `spread` in all."""
    made = {eps_row(*cell): [] for cell in product(EPS_DEPTHS, EPS)}
    for (depth, eps), seed in product(product(EPS_DEPTHS, EPS), range(seeds)):
        limit = middle + per_decade * (-np.log10(eps) - 11) + spread * (seed / max(seeds - 1, 1) - 0.5)
        loss = LEARNED if depth < limit else FLAT
        made[eps_row(depth, eps)].append(train(eps_row(depth, eps), seed, loss=loss, epochs=4))
    return made


def rates(losses, accuracies, seeds=3):
    """(depth, rate) -> training loss, depth -> test accuracy at every rate, which differs a little by seed."""
    return {
        row: [
            train(row, seed, loss=losses.get((depth, lr), 0.5), accuracy=accuracies[depth] + seed / 1000, epochs=10)
            for seed in range(seeds)
        ]
        for (depth, lr), row in RATE_ROWS.items()
    }


def cnns(outcomes, first=2):
    return {
        CNN_ROW: [train(CNN_ROW, seed, loss=LEARNED if left else FLAT) for seed, left in enumerate(outcomes, first)]
    }


ACCURACIES = {4: 0.98, 13: 0.96, 23: 0.94, 33: 0.1}
CASES = [
    ("q8", "holds", eps_map(BY_RULE)),
    ("q8", "fails", eps_map(6.0, middle=35)),
    ("q8", "fails", eps_map(0.5)),
    ("q8", "undecided", eps_map(BY_RULE, middle=1000)),  # all leave
    ("q8", "no evidence", {name: runs for name, runs in eps_map(BY_RULE).items() if name != eps_row(53, 1e-6)}),
    ("q9", "holds", rates({}, ACCURACIES)),
    ("q9", "fails", rates({}, ACCURACIES | {13: 0.975})),  # by less than .01
    ("q9", "no evidence", {n: r for n, r in rates({}, ACCURACIES).items() if n != RATE_ROWS[23, 1e-5]}),
    ("q11", "holds", cnns([True, False] * 5)),
    ("q11", "undecided", cnns([True] + [False] * 9)),
    ("q11", "undecided", cnns([False] * 10)),  # ten seeds cannot show that it is none
    ("q11", "no evidence", cnns([True, True], first=0)),  # seeds that had been seen before
    *((f"q10{letter}", "holds", {row: {"macro": 0.9}}) for letter, row in zip("abcde", CURES.values(), strict=True)),
    *((f"q10{letter}", "fails", {row: {"macro": 0.1}}) for letter, row in zip("abcde", CURES.values(), strict=True)),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "verdict", "runs"), CASES)
def test_verdicts(claim, verdict, runs):
    assert check(claim, "cpu", world(**runs)).verdict == verdict


def test_the_slope_is_that_of_the_records_and_the_depths_are_shown():
    slope, *depths = check("q8", "cpu", world(**eps_map(BY_RULE))).parts
    assert slope.effect == pytest.approx(BY_RULE, rel=0.15)
    assert slope.interval[0] < slope.effect < slope.interval[1]
    assert [depth.verdict for depth in depths] == ["not judged"] * len(depths)


def test_outcomes_that_depth_separates_give_the_middle_between_them():
    assert half_depth((10, 20, 30, 40), (5, 5, 0, 0), 5) == pytest.approx(25, abs=0.1)
    assert half_depth((10, 20, 30, 40), (5, 0, 0, 0), 5) == pytest.approx(15, abs=0.5)
    assert np.isnan(half_depth((10, 20), (5, 5), 5)) and np.isnan(half_depth((10, 20), (0, 0), 5))


@pytest.mark.parametrize(
    "left", [(5, 4, 0, 0, 0, 0, 0), (5, 5, 5, 5, 5, 5, 1), (5, 5, 4, 1, 0, 2, 0), (5, 5, 0, 0, 0, 0, 0)]
)
def test_the_depth_is_that_of_the_library_s_logistic_regression(left):
    scaled = (np.array(EPS_DEPTHS) - np.mean(EPS_DEPTHS)) / np.std(EPS_DEPTHS)
    weights = np.concatenate([left, 5 - np.array(left)])
    fit = LogisticRegression(C=1e6, max_iter=1000)
    fit.fit(np.tile(scaled, 2)[:, None], np.repeat([1, 0], len(left)), weights)
    expected = np.mean(EPS_DEPTHS) - np.std(EPS_DEPTHS) * fit.intercept_[0] / fit.coef_[0, 0]
    assert half_depth(EPS_DEPTHS, left, 5) == pytest.approx(expected, rel=1e-9)


def test_the_bootstrap_is_the_same_each_time_and_resamples_seeds():
    limits = np.add.outer(5 * np.arange(3), 13 + 5 * np.arange(len(EPS)))  # of each seed and eps
    left = np.array(EPS_DEPTHS)[None, :, None] < limits[:, None, :]
    assert bootstrap_interval(left, 0.95) == bootstrap_interval(left, 0.95)
    low, high = bootstrap_interval(left[:1], 0.95)
    assert low == high  # one seed can only be drawn again


def test_the_best_rate_is_chosen_by_training_loss_over_the_seeds():
    verdict = check("q9", "cpu", world(**rates({(13, 3e-4): 0.1}, ACCURACIES)))
    assert [part.text.split("(")[-1] for part in verdict.parts[2:4]] == ["1e-05) of MLP_4", "0.0003) of MLP_13"]


def test_the_plateau_is_left_in_any_epoch():
    assert leaves_plateau(train("x", loss=[FLAT, FLAT - 0.06, FLAT], epochs=3, accuracy=0.1))
    assert not leaves_plateau(train("x", loss=FLAT - 0.04))
