"""How verdicts and the ledger are written."""

import pytest
from made_up_records import seeds_of, world
from test_rules import F, H, U, chapter_5, runs_of

from deepnet.claims import intervals as st
from deepnet.claims.ledger import RULES, check, ledger
from deepnet.claims.rules import CHAPTER_5
from deepnet.claims.verdicts import Verdict, after_holm
from experimentTable import EXPERIMENTS


def test_the_rules_are_complete_and_in_order():
    chapters = {
        "2": "a b",
        "3": "a a′ b c d e f f′ g",
        "4": "a a′ b b′ c d d′",
        "5": "a b c d d′ e f g h i j k k′",
        "q": "1 2 3 4 5 6 7 8 9 10a 10b 10c 10d 10e 11 12",
    }
    assert list(RULES) == [chapter + rest for chapter, ids in chapters.items() for rest in ids.split()]
    assert all(rule.sentence and rule.holds_if for rule in RULES.values())


def test_chapter_5_are_the_reports_runs():
    assert len(CHAPTER_5) == 29 and set(CHAPTER_5) <= set(EXPERIMENTS)
    assert {"train_resnet", "baseline", "dropout", "sweep_12", "rmsprop_2"} <= set(CHAPTER_5)


def test_a_difference_of_nothing_but_rounding_is_written_as_zero():
    part = st.judge_numbers("x", seeds_of(0.1 + 0.2 - 0.3), st.above(0))
    assert part.ours == "0" and st.judge_numbers("x", seeds_of(-1e-17), st.above(0)).ours == "0"
    even = st.judge_numbers("x", seeds_of(0.3, 0.1 + 0.2, 0.3), st.above(0))
    assert (even.ours, even.span) == ("0.3", "[0.3, 0.3] (95%)")


def test_a_verdict_prints_its_parts():
    verdict = check("4a", "paper", world(**runs_of("4a", H)))
    lines = str(verdict).splitlines()
    assert lines[0] == "4a as claimed, profile paper" and lines[1] == f"says: {RULES['4a'].sentence}"
    assert lines[-1] == "  as claimed   test accuracy, CNN_13 − CNN_10, above 0: 0.1 [0.1, 0.1] (95%), seeds 0-2"
    text = "training loss, CNN_10 − CNN_13, above 0"
    assert verdict.table().rows[0] == (text, "0.1", "[0.1, 0.1] (95%)", "0-2", "as claimed", "0", "3")
    html = verdict._repr_html_()
    assert html.startswith("<details><summary><b>4a</b> ") and text in html


@pytest.mark.parametrize("claim", RULES)
def test_a_verdict_fits_on_a_screen(claim):
    assert len(str(check(claim, "paper", world(**chapter_5()))).splitlines()) <= 24


def some():
    """A claim that holds, one that fails, one undecided, one that lacks runs."""
    return ledger("cpu", world(**runs_of("4a", H), **runs_of("3a", F), **runs_of("5c", U)))


def table_of(text):
    """The cells of a Markdown table, and the line above it."""
    head, _, *lines = text.strip().split("\n")
    assert len({line.count("|") for line in lines}) == 1  # no cell is missing anywhere
    return head, [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_ledger_has_one_line_per_claim_with_the_number_that_decides():
    verdicts = some()
    assert [verdict.id for verdict in verdicts] == list(RULES)
    head, rows = table_of(str(verdicts))
    assert head == verdicts.summary
    assert head == (
        "Profile cpu: 24 claims, 7 amended rules and 16 questions. Judged over at least three seeds: as claimed or "
        "yes 2, contradicted or no 2, undecided 1. Seen once or twice: 0. Without a verdict: no evidence 41, not "
        "judged 1."
    )
    assert rows[0] == ["id", "sentence", "verdict", "the number that decides"]
    lines = {row[0]: row[1:] for row in rows[2:]}
    assert list(lines) == list(RULES)
    number = "training loss, CNN_10 − CNN_13, above 0: 0.1 [0.1, 0.1] (95%)"
    assert lines["4a"] == [RULES["4a"].sentence, "as claimed (after Holm: as claimed)", number]
    number = "training loss, MLP_23 − MLP_13, above 0: -0.1 [-0.1, -0.1] (95%)"
    assert lines["3a"][1:] == ["contradicted (after Holm: contradicted)", number]
    assert lines["5c"][1] == "undecided (about 64 seeds would decide)"
    assert lines["5c"][2].startswith("last training loss of fine_tune_2, at most 0.1: ")
    assert lines["4b"][1:] == ["no evidence (no record of CNN_30)", "–"]


def test_holm_s_correction_is_over_the_claims_with_a_p_value():
    """Of three claims with p = .03, .04 and one without any, none stands at .05; alone the first would."""

    def claim(name, p, verdict=H):
        return Verdict(name, "", verdict, (st.Part("x", verdict, (0, 1, 2), p=p),))

    made = [claim("3a", (0.03, 1)), claim("q4", (1, 0.04), F), claim("3c", ()), claim("5c", (0.6, 0.7), U)]
    assert [v.p for v in made] == [0.03, 0.04, None, 0.6]
    assert [v.adjusted for v in after_holm(made)] == [U, U, "", U]
    assert after_holm(made)[0].text == "as claimed (after Holm: undecided)"
    assert after_holm(made[:1])[0].adjusted == H and after_holm([]) == []


def test_the_p_value_of_a_claim_is_that_of_all_or_of_any_of_its_parts():
    def claim(verdict, *parts):
        return Verdict("3a", "", verdict, tuple(st.Part("x", v, (0, 1, 2), p=p) for v, p in parts)).p

    assert claim(H, (H, (0.01, 1)), (H, (0.03, 0.9))) == 0.03  # the largest: all parts have to hold
    assert claim(F, (H, (0.01, 1)), (F, (1, 0.02))) == 0.04  # twice the smallest: any of two may fail
    assert claim(U, (H, (0.01, 1)), (U, (0.2, 0.8))) == 0.2
    assert claim(H, (H, (0.01, 1)), ("not judged", ())) == 0.01
    assert claim(H, (H, (0.01, 1)), (H, ())) is None  # a property has none


def test_an_undecided_claim_says_what_would_decide_it():
    near = [st.Part("x", U, (0, 1, 2), needed=3), st.Part("x", H, (0, 1, 2), needed=90)]
    assert Verdict("3a", "", U, tuple(near)).text == "undecided (the effect lies at the threshold)"
    far = Verdict("3a", "", U, (*near, st.Part("x", U, (0, 1, 2), needed=1200)))
    assert far.outlook == "about 1,200 seeds would decide"
    assert Verdict("3a", "", U, (*near, st.Part("x", U, (0,)))).outlook == ""


def test_many_missing_runs_are_counted_not_listed():
    assert check("5h", "cpu", world()).text == "no evidence (no record of search_1, search_2, search_3 and 9 more)"
