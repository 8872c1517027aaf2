"""From numbers to a verdict, on made-up records whose answer is known: one seed, two, many, none."""

import numpy as np
import pytest
from helpers import python, refused
from made_up_records import many, seeds_of, train, world

from deepnet.claims import intervals as st
from deepnet.claims.ledger import RULES, check, ledger

# ---------------------------------------------------------------- from numbers to a part


@pytest.mark.parametrize(
    ("aim", "values", "verdict"),
    [
        (st.above(0), (1, 1.1, 0.9), "holds"),
        (st.above(0), (-1, -1.1, -0.9), "fails"),
        (st.above(0), (1, -1, 0.5), "undecided"),
        (st.above(0), (0, 0, 0), "undecided"),  # a tie is not ranked
        (st.above(0), (0,), "undecided"),
        (st.below(0), (-1, -1.1, -0.9), "holds"),
        (st.below(0), (1,), "fails"),
        (st.at_least(0.3), (0.98 - 0.68,), "holds"),  # .3 but for rounding
        (st.at_least(0.3), (0.29,), "fails"),
        (st.at_most(0.1), (0.1,), "holds"),
        (st.at_most(0.1), (0.05, 0.06, 0.07), "holds"),
        (st.at_most(0.1), (0.2, 0.21, 0.22), "fails"),
        (st.at_most(0.1), (0.05, 0.1, 0.15), "undecided"),
        (st.equivalent(0.1), (0.01, -0.01, 0.02), "holds"),
        (st.equivalent(0.1), (0.3, 0.31, 0.32), "fails"),
        (st.equivalent(0.1), (-0.3, -0.31, -0.32), "fails"),
        (st.equivalent(0.1), (0.05, 0.1, 0.15), "undecided"),
        (st.equivalent(0.03, 0.37), (0.38, 0.37, 0.36), "holds"),
        (st.equivalent(0.03, 0.37), (0.5,), "fails"),
        (st.NOT_BELOW, (1, -1, 0.5), "holds"),
        (st.NOT_BELOW, (-1, -1.1, -0.9), "fails"),
        (st.above(0), (float("nan"), 1, 1), "undecided"),
    ],
)
def test_aims(aim, values, verdict):
    assert st.judge_numbers("x", seeds_of(*values), aim).verdict == verdict


def test_equivalence_takes_the_90_percent_interval():
    values = (0.0, 0.01, 0.02)  # t: ±.0169 at 90 %, ±.0248 at 95 %, about .01
    assert st.judge_numbers("x", seeds_of(*values), st.equivalent(0.03)).verdict == "holds"
    part = st.judge_numbers("x", seeds_of(*values), st.at_most(0.03))
    assert part.verdict == "undecided" and part.interval == pytest.approx((-0.0148, 0.0348), abs=1e-4)


def test_two_seeds_must_agree():
    agree = st.judge_numbers("x", seeds_of(1, 2), st.above(0))
    assert (agree.verdict, agree.interval, agree.ours, agree.seeds) == ("holds", None, "1; 2", (0, 1))
    assert st.judge_numbers("x", seeds_of(1, -2), st.above(0)).verdict == "undecided"
    assert st.judge_numbers("x", seeds_of(-1, -2), st.above(0)).verdict == "fails"


@pytest.mark.parametrize(
    ("has", "verdict", "ours"),
    [
        ((True,), "holds", "1 of 1"),
        ((False,), "fails", "0 of 1"),
        ((True, True), "holds", "2 of 2"),
        ((True, False), "undecided", "1 of 2"),  # two seeds that disagree
        ((False, False), "fails", "0 of 2"),
        ((True, True, False), "undecided", "2 of 3"),
        ((True, True, False, False), "fails", "2 of 4"),
        ((True, True, True), "holds", "3 of 3"),
    ],
)
def test_properties(has, verdict, ours):
    part = st.judge_property("x", dict(enumerate(has)))
    assert (part.verdict, part.ours) == (verdict, ours)


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["holds", "holds", "not judged"], "holds"),
        (["holds", "undecided", "fails"], "fails"),
        (["holds", "undecided"], "undecided"),
        (["fails", "no evidence"], "no evidence"),
        (["not judged"], "not judged"),
    ],
)
def test_combination(verdicts, whole):
    assert st.combine(verdicts) == whole
    assert list(st.combine([[verdict, "undecided"] for verdict in verdicts])) == [whole, "undecided"]


def test_seeds_are_paired():
    """Two runs that both vary widely, but together: over the seeds that both have, the difference is sure."""
    a, b = seeds_of(1, 5, 9, 4), seeds_of(0.9, 4.89, 8.9)
    part = st.judge_numbers("x", st.difference(a, b), st.above(0))
    assert part.verdict == "holds" and part.seeds == (0, 1, 2)


def test_other_images_are_refused():
    a = st.accuracy_number(1.0, lambda: np.array([[0, 1], [0, 1]]))
    b = st.accuracy_number(1.0, lambda: np.array([[1, 1], [1, 1]]))
    refused(lambda: st.judge_numbers("x", st.difference({0: a}, {0: b}), st.above(0)), "same images")


# ---------------------------------------------------------------- one and two seeds, and no evidence


def test_one_seed_is_judged_by_its_images():
    def q4(shallow, deep):
        return check("q4", "paper", world(MLP_4_he=[train("MLP_4_he", accuracy=shallow)],
                                          MLP_33_he=[train("MLP_33_he", accuracy=deep)]))  # fmt: skip

    assert q4(0.98, 0.90).text == "seen once: yes"
    assert q4(0.98, 0.965).text == "seen once: undecided"  # of 1,000 images 15: too few for "at least .01"
    fails = q4(0.90, 0.98)
    assert fails.text == "seen once: no"
    low, high = fails.parts[0].interval
    assert low < -0.08 < high and fails.parts[0].level == 0.95
    assert fails.parts[0].span.endswith(" (95%, images only: says nothing of another seed)")


def test_one_seed_has_no_interval_where_predictions_give_none():
    runs = {"CNN_30_he": many("CNN_30_he", 1, loss=1.1), "CNN_13_he": many("CNN_13_he", 1)}
    part = check("q6", "paper", world(**runs)).parts[0]
    assert (part.verdict, part.interval) == ("holds", None) and part.effect == pytest.approx(0.1)


def test_two_seeds_carry_their_words():
    for accuracy, said in ((0.9, "yes"), ({0: 0.9, 1: 0.7}, "undecided")):
        runs = {"MLP_33_he": many("MLP_33_he", 2, accuracy=0.8), "MLP_4_he": many("MLP_4_he", 2, accuracy=accuracy)}
        assert check("q4", "paper", world(**runs)).text == f"seen twice: {said}"


def test_a_part_of_one_seed_says_so():
    res = {name: {"accuracy": 0.98} for name in ("MLP_res_5", "MLP_res_15", "MLP_res_35")}
    verdict = check("3e", "paper", world(**res, MLP_res_96=many("MLP_res_96", 1, accuracy=0.98)))
    assert verdict.text == "seen once in some parts: as claimed"
    assert [part.seeds for part in verdict.parts] == [(0, 1, 2), (0, 1, 2), (0,), (0, 1, 2)]


def test_missing_runs_are_named():
    verdict = check("4a", "cpu", world(CNN_10={}))
    assert verdict.text == "no evidence (no record of CNN_13)"


def test_runs_without_a_common_seed_are_no_evidence():
    verdict = check("q6", "cpu", world(CNN_13_he=[train("CNN_13_he", 0)], CNN_30_he=[train("CNN_30_he", 1)]))
    assert verdict.text == "no evidence (its runs have no seed in common)"


@pytest.mark.parametrize("claim", RULES)
def test_every_rule_without_records_is_no_evidence(claim):
    assert check(claim, "paper", world()).verdict == "no evidence"
    assert check(claim, "cpu", world()).verdict == ("not judged" if claim == "5a" else "no evidence")


def test_the_sample_judges_nothing(monkeypatch):
    monkeypatch.delenv("PROFILE", raising=False)
    assert {verdict.verdict for verdict in ledger()} == {"not judged"}


@pytest.mark.parametrize(("setting", "profile"), [("cpu", "cpu"), ("", "sample")])
def test_profile_comes_from_the_environment(monkeypatch, setting, profile):
    monkeypatch.setenv("PROFILE", setting)
    assert check("3c", records=world()).profile == profile


def test_claims_are_judged_without_torch_and_matplotlib():
    done = python("import sys, deepnet.claims.ledger as c; str(c.ledger('cpu', lambda name: [])); print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "matplotlib"} & set(done.stdout.split())


def test_a_prime_may_be_typed_as_an_apostrophe():
    assert check("4a'", "cpu", world()).id == check("4a′", "cpu", world()).id == "4a′"


def test_unknown_names_are_refused():
    refused(lambda: check("9z", "cpu", world()), "unknown claim '9z'")
    refused(lambda: check("3a", "gpu", world()), "unknown profile 'gpu'")
