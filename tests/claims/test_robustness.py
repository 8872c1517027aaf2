"""Verdicts at other epochs, margins and levels, and without a seed, on made-up records."""

import pytest
from helpers import refused
from made_up_records import many, train, wide, world
from test_rules import H, runs_of, stopped

from deepnet.claims import intervals as st
from deepnet.claims.formulas import seeds_needed
from deepnet.claims.ledger import check
from deepnet.claims.robustness import Setting, robustness, settings_of


def cnns(last=0.7, seeds=3):
    """CNN_13 is ahead by a tenth in all epochs, but for the last."""
    accuracy = {seed: [0.7 + seed / 100] * 19 + [last + seed / 100] for seed in range(seeds)}
    return world(CNN_10={"loss": 0.5, "accuracy": 0.6}, CNN_13=many("CNN_13", seeds, loss=0.4, accuracy=accuracy))


def test_epochs_are_those_of_the_setting():
    runs = cnns(last=0.5)
    effects = {e: check("4a", "cpu", runs, setting=Setting(epochs=e)).parts[1].effect for e in ("last", "last five")}
    assert effects == pytest.approx({"last": -0.09, "last five": 0.07})
    assert check("4a", "cpu", runs, setting=Setting(epochs="best")).verdict == H
    assert check("4a", "cpu", runs, setting=Setting(epochs="last")).verdict == "fails"


def test_the_final_epoch_keeps_the_interval_that_the_images_give():
    runs = world(MLP_4_he=[train("MLP_4_he", accuracy=0.98)], MLP_33_he=[train("MLP_33_he", accuracy=0.9)])
    last, late = (check("q4", "paper", runs, setting=Setting(epochs=e)).parts[0] for e in ("last", "last five"))
    assert last.interval == check("q4", "paper", runs).parts[0].interval != late.interval is None


def test_a_loss_is_read_where_the_accuracy_is_best():
    runs = stopped(0.1, 0.4, 0.2, loss=[0.9, 0.3, 0.1])
    part = check("5e", "cpu", world(**runs), setting=Setting(epochs="best")).parts[1]
    assert part.effect == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("aim", "margin", "text"),
    [
        (st.at_least(0.05), 2, "at least 0.1"),
        (st.at_least(0.97, to=1), 2, "at least 0.94"),
        (st.at_most(0.02), 0.5, "at most 0.01"),
        (st.equivalent(0.03, 0.37), 0.5, "equivalent to 0.37 within 0.015"),
        (st.above(), 2, "above 0"),
        (st.above(0.5, to=None), 2, "above 0.5"),  # a threshold is no margin
    ],
)
def test_margins_are_scaled(aim, margin, text):
    assert aim.varied(margin, 0.95).text == text
    assert aim.varied(1, 0.95) == aim


def test_levels():
    assert st.above().varied(1, 0.99).level == pytest.approx(0.99)
    assert st.equivalent(0.1).varied(1, 0.99).level == pytest.approx(0.98)  # two one-sided tests at .01 each


def test_a_seed_is_left_out():
    verdict = check("4a", "cpu", cnns(seeds=4), setting=Setting(without=1))
    assert verdict.parts[0].seeds == (0, 2) and "without seed 1" in str(verdict).splitlines()[0]


def test_only_what_applies_is_varied():
    holding = {claim: world(**runs_of(claim, H)) for claim in ("3c", "2b", "3e")}
    texts = {claim: {setting.text for setting in settings_of(claim, "cpu", runs)} for claim, runs in holding.items()}
    assert texts["3c"] == {""}  # a property of three seeds
    runs = world(CNN_10={"loss": 0.5, "accuracy": 0.6}, CNN_13={"loss": 0.4, "accuracy": wide(0.7)})
    # without a margin, and where one epoch is as the other
    assert [s.text for s in settings_of("4a", "cpu", runs)] == ["", "level 0.9", "level 0.99"]
    assert "margin × 2, level 0.99" in texts["2b"] and "margin × 0.5" in texts["3e"]
    assert settings_of("4a", "cpu", world()) == []


def test_the_share_of_settings_in_which_a_verdict_stands():
    found = robustness("4a", "cpu", cnns(last=0.5))
    assert found.outcomes[0] == (Setting(), "fails") == (found.outcomes[0][0], found.verdict)
    by_setting = {setting.text: verdict for setting, verdict in found.outcomes}
    assert by_setting["level 0.9"] == "fails" and by_setting["best epoch"] == H
    assert found.share == found.of_rule.count("fails") / len(found.of_rule) and len(found.of_rule) == 9
    assert found.text in str(found) and str(found).count("| contradicted |") == found.of_rule.count("fails")
    assert robustness("4b", "cpu", world(CNN_30={"loss": 2.3, "rms": [-12, -8, -3]})) is None


def test_the_seeds_that_a_verdict_hangs_on():
    accuracies = {0: 0.7, 1: 0.71, 2: 0.7, 3: 0.71, 4: 0.5}
    deeper = many("CNN_13", 5, loss=0.4, accuracy=accuracies)
    found = robustness("4a", "cpu", world(CNN_10=many("CNN_10", 5, loss=0.5, accuracy=0.6), CNN_13=deeper))
    assert found.verdict == "undecided" and found.needed_seeds == [4] and found.text.endswith("not without seed 4")


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", "first"), ("margin", -1), ("margin", 0), ("level", 1), ("level", 0.05), ("without", -1)],
)
def test_a_setting_that_there_is_not_is_refused(field, value):
    refused(lambda: Setting(**{field: value}), field)
    refused(lambda: check("4a", "cpu", world(), setting={field: value}), "must be a Setting")


def test_seeds_needed():
    assert seeds_needed(0.01, 0.01, 0.95) == 7  # t(6) / √7 = .925, t(5) / √6 = 1.05
    assert seeds_needed(0.0, 0.0, 0.95) == 3
    assert seeds_needed(1.0, 0.001, 0.95) == 3841459 and seeds_needed(1.0, 0.0, 0.95) is None
    part = st.judge_numbers("x", {s: st.Number(v) for s, v in enumerate((0.0, 0.01, 0.02))}, st.equivalent(0.02))
    assert part.needed == seeds_needed(0.01, 0.01, 0.9)
