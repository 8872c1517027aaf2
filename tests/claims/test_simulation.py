"""Rates of false verdicts on made-up ledgers, against what theory says of them."""

import re

import numpy as np
import pytest

from deepnet.claims import intervals as st
from deepnet.claims import simulation as sim
from deepnet.claims.ledger import RULES
from deepnet.claims.simulation import Form, Ledgers

LEDGERS = 4000
FORMS = ("above, accuracy", "above, loss", "at least, accuracy", "equivalent, accuracy", "yes/no, of 75% of the seeds")


def rate(aim, share=1.0, seeds=3, parts=1, **more):
    form = Form("test accuracy of a", aim, more.pop("spread", 0.01), **more)
    (false,) = Ledgers({"a": [form] * parts}, share, seeds, LEDGERS, seed=1).false_claims.values()
    return false.mean()


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("aim", "share", "theory"),
    [
        (st.above(), 0, 0.05),  # at a threshold either verdict is false
        (st.at_least(0.05), 1, 0.025),  # at the margin itself "at least" is true
        (st.at_least(0.05), 0, 0.0),
        (st.equivalent(0.05), 1, 0.10),  # 5 % to either side
        (st.equivalent(0.05), 0, 0.0),
        (st.above(0.5, to=None), 0, 0.05),
    ],
)
def test_one_part_errs_as_often_as_its_level_allows(aim, share, theory, seeds):
    assert rate(aim, share, seeds) == pytest.approx(theory, abs=0.014)


def test_one_seed_errs_where_its_images_say_nothing_of_seeds():
    assert rate(st.above(), seeds=1) == 1  # a bare number is on one side
    images = {"images": 10_000, "discordant": 0.02}  # a standard error of .0014
    assert rate(st.above(), seeds=1, spread=0.0014, **images) == pytest.approx(0.05, abs=0.02)  # seeds alike
    assert rate(st.above(), seeds=1, spread=0.02, **images) > 0.8
    assert rate(st.above(0.5, to=None), seeds=1, spread=0.0, images=10_000) == pytest.approx(0.05, abs=0.014)


def test_several_parts_err_more_often_and_holm_less():
    """Of four parts without effect each fails in 2.5 % of the ledgers, and all hold in next to none."""
    assert rate(st.above(), parts=4) == pytest.approx(1 - 0.975**4, abs=0.014)
    forms = {f"{i}": [Form("x", st.above(), 1.0)] for i in range(10)}
    some = Ledgers(forms, 0, 5, LEDGERS, seed=1)
    assert np.any(list(some.false_claims.values()), axis=0).mean() == pytest.approx(1 - 0.95**10, abs=0.03)
    assert some.false_after_holm().mean() == pytest.approx(0.05, abs=0.014)


def test_a_property_that_most_seeds_have_is_often_misjudged():
    assert sim.false_properties(1, LEDGERS, 0) == 1
    assert sim.false_properties(3, LEDGERS, 0) == pytest.approx(0.75**3 + 0.25**3 + 3 * 0.25**2 * 0.75, abs=0.03)


def test_the_forms_are_those_of_the_records():
    forms = sim.forms()
    assert [form.aim for form in forms["q4"]] == [st.at_least(0.01)] and 0.001 < forms["q4"][0].spread < 0.02
    assert forms["q4"][0].images == 10_000 and 0 < forms["q4"][0].discordant < 0.1
    assert forms["5k"][0].images == 0  # a gap has no predictions
    assert not {"2a", "3c", "3f"} & set(forms)


def test_the_page_says_of_the_rates_what_its_tables_have():
    page = sim.PAGE.read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:2] == "| "]
    rows_of = [row for row in rows if row[0] in (*RULES, *FORMS)]
    of = {row[0]: [float(cell) for cell in row[2:] if re.fullmatch(r"[\d.]+", cell)] for row in rows_of}
    several = {name: [rate for i, rate in enumerate(rates) if i % 3] for name, rates in of.items()}
    assert all(max(several[name]) < 5.5 for name in ("above, accuracy", "above, loss", "at least, accuracy"))
    assert 9 < max(several["equivalent, accuracy"]) < 11 and max(several["equivalent, accuracy"][:4]) < 0.5
    assert of["above, loss"][::3] == [100] * 3 and all(35 < rate < 45 for rate in of["above, accuracy"][::3])
    assert 55 < of["yes/no, of 75% of the seeds"][1] < 65
    assert all(20 < rate < 30 for claim in ("4c", "5g", "q7") for rate in of[claim][1:])
    assert max(max(rates[1:]) for claim, rates in of.items() if len(rates) == 3) < 30
    whole = [row for row in rows if row[0] in sim.EFFECTS and row[1] in "35"]
    some, after = ([float(row[i]) for row in whole] for i in (2, 4))
    assert all(60 < rate < 70 for rate in some[:4]) and min(some[4:]) > 90 and max(after) < 5
