"""Intervals against published values, and how often they hold the truth."""

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from deepnet.claims import formulas
from deepnet.claims import intervals as st


def test_wilson_interval_of_newcombe_1998():
    assert st.wilson_interval(81 / 263, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert st.wilson_interval(0, 20, 0.95) == pytest.approx((0, 0.1611), abs=5e-5)


@pytest.mark.parametrize("count", [0, 1, 4, 10])
def test_exact_interval_of_scipy(count):
    expected = binomtest(count, 10).proportion_ci(0.95, "exact")
    assert formulas.exact_interval(count, 10, 0.95) == pytest.approx((expected.low, expected.high))


def test_t_interval():
    assert st.t_interval([1, 2, 3], 0.95) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert st.t_interval([1, 2, 3], 0.90) == pytest.approx((2 - 1.6859, 2 + 1.6859), abs=1e-3)


def test_paired_interval_of_agresti():
    """Approval of a prime minister, asked twice: 794 both, 150 then 86 once, 570 never; known as .04 ± 1.96 · .0095."""
    first = np.repeat([True, True, False, False], [794, 150, 86, 570])
    second = np.repeat([True, False, True, False], [794, 150, 86, 570])
    assert st.paired_interval(first, second, 0.95) == pytest.approx((0.0214, 0.0586), abs=3e-4)
    low, high = st.paired_interval(first, first, 0.95)
    assert low == -high and 0 < high < 0.002  # equal predictions: narrow, not without width


def test_paired_interval_covers():
    """95 % of the intervals hold the true difference, within what 2,000 draws can tell."""
    draws = np.random.default_rng(0).multinomial(200, [0.6, 0.1, 0.06, 0.24], size=2000)
    cells = [(True, True), (True, False), (False, True), (False, False)]
    columns = [[np.repeat([cell[i] for cell in cells], draw) for draw in draws] for i in (0, 1)]
    ends = np.array([st.paired_interval(a, b, 0.95) for a, b in zip(*columns, strict=True)])
    assert np.mean((ends[:, 0] <= 0.04) & (ends[:, 1] >= 0.04)) == pytest.approx(0.95, abs=0.015)


def test_macro_accuracy_counts_the_images_of_rare_classes():
    balanced, skewed = np.arange(100) % 2, np.repeat([0, 1], [90, 10])
    span = lambda labels: st.macro_number(0.5, lambda: np.stack([labels, labels])).interval(0.95)  # noqa: E731
    assert span(balanced) == pytest.approx(st.wilson_interval(0.5, 100, 0.95))
    assert span(skewed) == pytest.approx(st.wilson_interval(0.5, 36, 0.95))


def test_holm_of_a_textbook():
    assert formulas.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert formulas.holm([0.9, 0.8]) == pytest.approx([1, 1]) and len(formulas.holm([])) == 0


@pytest.mark.parametrize("aim", [st.above(0.1), st.below(0.1), st.at_least(0.1), st.at_most(0.1), st.equivalent(0.1)])
def test_a_p_value_is_below_05_exactly_where_the_interval_decides(aim):
    values = np.random.default_rng(0).normal(0.1, 0.1, (500, 4))
    holds, fails = aim.p_values(values)
    verdicts = aim.verdict(*formulas.t_interval(values, aim.level))
    assert np.array_equal(verdicts == "holds", holds < 0.05) and np.array_equal(verdicts == "fails", fails < 0.05)
    assert {"holds", "fails", "undecided"} == set(verdicts)


def test_p_values_of_scipy():
    values = np.array([0.1, 0.3, 0.2, 0.25])
    (holds, fails), known = st.above(0.1).p_values(values), ttest_1samp(values, 0.1)
    assert (holds, fails) == pytest.approx((known.pvalue, 1)) and known.statistic > 0
    sides = [ttest_1samp(values, end, alternative=side).pvalue for end, side in ((-0.4, "greater"), (0.4, "less"))]
    assert st.equivalent(0.4).p_values(values)[0] == pytest.approx(max(sides))
    assert st.NOT_BELOW.p_values(-values) == pytest.approx((0, ttest_1samp(values, 0).pvalue))
    assert st.above().p_values(np.zeros(3)) == (1, 1) and st.above().p_values(np.ones(3)) == (0, 1)
