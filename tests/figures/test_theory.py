"""The recursion of the arc-cosine kernel, beside what was recorded before training."""

import numpy as np
import pytest

from deepnet.figures.layers import theory
from deepnet.figures.theory import signal_variance
from deepnet.records.reading import find_records


def test_theory_is_what_the_untrained_nets_show(monkeypatch):
    monkeypatch.setenv("EVIDENCE", "1")
    default, he = theory("MLP_33", "default"), theory("MLP_33", "he")
    assert default[:4].round(4).tolist() == [0.2363, 0.0292, 0.0038, 0.0005]
    assert [*he[:4].round(3), he[32].round(3)] == [1.418, 1.049, 0.823, 0.670, 0.091]
    recorded = np.mean([record.rows[0]["probe_variance"] for record in find_records("MLP_33", "paper")], axis=0)
    assert recorded[:4].round(4).tolist() == [0.2373, 0.0294, 0.0038, 0.0005]
    in_float64 = find_records("MLP_33_fp64", "paper")[0].rows[0]["probe_variance"]
    slopes = [np.polyfit(np.arange(33), np.log10(values), 1)[0] for values in (default, in_float64)]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.05)  # over 25 orders of magnitude, from one draw of weights


def test_the_recursion_is_that_of_a_wide_random_layer():
    rng = np.random.default_rng(0)
    inputs, width = rng.normal(size=(8, 50)), 20_000
    first = inputs @ rng.normal(size=(50, width)) * (2 / 50) ** 0.5
    variances = [first.var(0, ddof=1).mean()]
    second = np.maximum(first, 0) @ rng.normal(size=(width, 2_000)) * (2 / width) ** 0.5
    variances.append(second.var(0, ddof=1).mean())
    assert signal_variance(inputs, [50, width], "he") == pytest.approx(variances, rel=0.05)
