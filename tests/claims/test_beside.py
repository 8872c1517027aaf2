"""What is shown beside a verdict and decides nothing."""

import numpy as np
import pytest
from made_up_records import many, train, wide, world
from test_rules import H, runs_of

from deepnet.claims import beside
from deepnet.claims.beside import side_by_side, statistics_table, two_level
from deepnet.claims.formulas import t_interval, two_way_interval
from deepnet.claims.ledger import check


@pytest.fixture
def cpu(monkeypatch):
    """Gives the profile `cpu` these records, and others none."""

    def given(**runs):
        records = world(**runs)
        monkeypatch.setattr(
            "deepnet.claims.ledger.find_records", lambda name, profile: records(name) if profile == "cpu" else []
        )

    return given


def test_other_images_widen_the_interval():
    """Of seeds that do not differ, only the images are left: 100 of 1,000, so the standard error is .0095."""
    alike = np.tile(np.arange(1000) < 100, (5, 1)).astype(np.int8)
    low, high = two_way_interval(alike, 0.95)
    assert (low + high) / 2 == pytest.approx(0.1) and high - low == pytest.approx(2 * 2.776 * 0.0095 * 1.118, rel=0.05)
    differing = np.stack([np.arange(100_000) < share * 100_000 for share in (0.1, 0.2, 0.3, 0.4, 0.5)]).astype(np.int8)
    ends = t_interval([0.1, 0.2, 0.3, 0.4, 0.5], 0.95)
    assert two_way_interval(differing, 0.95) == pytest.approx(ends, abs=0.01)  # images enough: the seeds alone
    assert two_way_interval(differing, 0.95) == two_way_interval(differing, 0.95)  # the draws are the same


def test_only_accuracies_of_three_seeds_have_an_interval_over_seeds_and_images():
    accuracies = {"accuracy": wide(0.7, 0.01), "loss": 0.4}
    runs = {"CNN_10": {"loss": 0.5, "accuracy": 0.6}, "CNN_13": accuracies}
    intervals = two_level("4a", "cpu", world(**runs))
    assert list(intervals) == ["test accuracy, CNN_13 − CNN_10, above 0"]
    ((low, high),) = intervals.values()
    registered = check("4a", "cpu", world(**runs)).parts[1].interval
    assert low < registered[0] < registered[1] < high
    few = {"CNN_10": many("CNN_10", 2), "CNN_13": [train("CNN_13"), train("CNN_13", 1)]}
    assert two_level("4a", "cpu", world(**few)) == {}
    assert two_level("4a′", "cpu", world(**runs)) == {}  # a mean over epochs has no predictions


def test_the_parts_of_a_claim_stand_side_by_side(cpu):
    cpu(**runs_of("4a", H))
    table = side_by_side("4a", "paper", "cpu")
    assert table.head == ("4a", "paper", "cpu")
    assert table.rows[0] == ("training loss, CNN_10 − CNN_13, above 0", "–", "as claimed: 0.1 [0.1, 0.1] (95%), n = 3")
    assert table.rows[1][2].startswith("as claimed: 0.1 [0.1, 0.1] (95%), n = 3, over seeds and images [0.0")
    assert table.rows[-1] == ("*the verdict stands*", "–", "–")  # no other setting changes a number


def test_the_statistics_of_every_judged_claim(cpu):
    cpu(CNN_10={"loss": 0.5, "accuracy": 0.6}, CNN_13={"loss": 0.4, "accuracy": wide(0.7, 0.02)})
    table = statistics_table("cpu")
    assert [row[0] for row in table.rows] == ["4a", "4a′"]
    assert table.rows[0][1:] == ("as claimed", "0.013", "as claimed", "in 2 of 3 settings", "3")
    assert beside.statistics_table("sample").rows == []
