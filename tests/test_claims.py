"""The verdicts on made-up records whose answer is known."""

from dataclasses import dataclass, field
from math import log

import numpy as np
import pytest
from helpers import python

from experimentTable import EXPERIMENTS, UsageError
from report import intervals as st
from report.claims import RULES, check, ledger, ledger_markdown, ledger_short
from report.rules_tuning import CHAPTER_5

IMAGES = 1000


# ---------------------------------------------------------------- made-up records


@dataclass
class FakeRecord:
    """What the rules read of a record."""

    name: str
    seed: int
    result: dict
    rows: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    images: int = IMAGES

    def column(self, metric, trained_only=False):
        rows = self.rows[1:] if trained_only else self.rows
        return np.array([row.get(metric, np.nan) for row in rows], dtype=float)

    def predictions(self):
        """The first images are right, so of two runs all discordant pairs are on one side."""
        labels = np.arange(self.images) % 10
        right = np.arange(self.images) < round(self.result["accuracy"] * self.images)
        return np.stack([labels, np.where(right, labels, (labels + 1) % 10)])


def curve(value, epochs):
    """`value`, one an epoch; a list is taken as it is."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * epochs


def train(name, seed=0, loss=1.0, accuracy=0.5, train=0.5, macro=None, epochs=20, stop=None, **more):
    """A finished training: `accuracy` and `loss` a number or one an epoch; `stop`: early stopping, after so many."""
    ran = stop or epochs
    losses, accuracies, norm, rms = curve(loss, ran), curve(accuracy, ran), more.get("norm", 1.0), more.get("rms")
    rows = [{"epoch": 0, "validation_accuracy": 0.9, "test_accuracy": 0.9}]  # as no rule may count it
    for epoch, (epoch_loss, epoch_accuracy) in enumerate(zip(losses, accuracies, strict=True), start=1):
        row = {"epoch": epoch, "steps": 10, "train_loss": epoch_loss, "train_accuracy": train}
        row |= {"validation_accuracy": epoch_accuracy, "test_accuracy": epoch_accuracy}
        row |= {"gradient_norm_sum": 10 * norm, "gradient_norm": norm, "gradient_log10_rms": rms or [-3, -3, -3]}
        rows.append(row)
    best = int(np.argmax(accuracies)) + 1
    final = best if stop else ran
    result = {
        "status": "finished", "split": more.get("split", "validation"), "classes": 10, "epoch": final, "last_epoch": ran,
        "best_epoch": best, "budget": epochs, "accuracy": accuracies[final - 1], "best_accuracy": max(accuracies),
        "macro_accuracy": accuracies[final - 1] if macro is None else macro,
    }  # fmt: skip
    experiment = {"lr": more.get("lr", 5e-4), "batch_size": more.get("batch_size", 128)}
    return FakeRecord(name, seed, result, rows, {"experiment": experiment})


def many(name, seeds=3, **values):
    """The same in several seeds; a dict is a value for each seed."""
    return [train(name, s, **{k: v[s] if isinstance(v, dict) else v for k, v in values.items()}) for s in range(seeds)]


def world(**runs):
    """Three seeds of each run, from its values: what a `records` function gives."""
    made = {name: many(name, **values) if isinstance(values, dict) else values for name, values in runs.items()}
    return lambda name: made.get(name, [])


def analysis(name, **results):
    """An analysis with these results, a list being one value a seed."""
    seeds = max(len(v) if isinstance(v, list) else 1 for v in results.values())
    return [FakeRecord(name, s, {k: v[s] if isinstance(v, list) else v for k, v in results.items()}) for s in range(seeds)]


def baseline(accuracy, seeds=3, chosen="svm"):
    return analysis("baseline", accuracy=[accuracy] * seeds, chosen=chosen)


def blocks(name, *pairs):
    """A timing record: `pairs` are (plain, residual, ratios)."""
    rows = [
        {"plain": plain, "residual": residual, "block": i, "plain_seconds": 2.0, "residual_seconds": 2.0 * ratio}
        for plain, residual, ratios in pairs
        for i, ratio in enumerate(ratios)
    ]
    return [FakeRecord(name, 0, {}, rows)]


def opened(run, *accuracies, classifier=None):
    """An opening of the test set for each seed."""
    return [{"run": run, "classifier": classifier, "seed": s, "accuracy": accuracy} for s, accuracy in enumerate(accuracies)]


# Values of three seeds about a middle, too wide to tell a small difference from none.
def wide(middle, by=0.2):
    return {0: middle - by, 1: middle, 2: middle + by}


# ---------------------------------------------------------------- intervals


def test_wilson_interval_of_newcombe_1998():
    assert st.wilson_interval(81 / 263, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert st.wilson_interval(0, 20, 0.95) == pytest.approx((0, 0.1611), abs=5e-5)


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
    span = lambda labels: st.macro_number(0.5, lambda: np.stack([labels, labels])).alone(0.95)  # noqa: E731
    assert span(balanced) == pytest.approx(st.wilson_interval(0.5, 100, 0.95))
    assert span(skewed) == pytest.approx(st.wilson_interval(0.5, 36, 0.95))


# ---------------------------------------------------------------- from numbers to a part


def seeds_of(*values):
    return dict(enumerate(map(st.Number, values)))


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
        (st.alike(0.1), (0.01, -0.01, 0.02), "holds"),
        (st.alike(0.1), (0.3, 0.31, 0.32), "fails"),
        (st.alike(0.1), (-0.3, -0.31, -0.32), "fails"),
        (st.alike(0.1), (0.05, 0.1, 0.15), "undecided"),
        (st.alike(0.03, 0.37), (0.38, 0.37, 0.36), "holds"),
        (st.alike(0.03, 0.37), (0.5,), "fails"),
        (st.NOT_BELOW, (1, -1, 0.5), "holds"),
        (st.NOT_BELOW, (-1, -1.1, -0.9), "fails"),
        (st.above(0), (float("nan"), 1, 1), "undecided"),
    ],
)
def test_aims(aim, values, verdict):
    assert st.judge("x", seeds_of(*values), aim).verdict == verdict


def test_alike_takes_the_90_percent_interval():
    values = (0.0, 0.01, 0.02)  # t: ±.0169 at 90 %, ±.0248 at 95 %, about .01
    assert st.judge("x", seeds_of(*values), st.alike(0.03)).verdict == "holds"
    part = st.judge("x", seeds_of(*values), st.at_most(0.03))
    assert part.verdict == "undecided" and part.interval == pytest.approx((-0.0148, 0.0348), abs=1e-4)


def test_two_seeds_must_agree():
    agree = st.judge("x", seeds_of(1, 2), st.above(0))
    assert (agree.verdict, agree.interval, agree.ours, agree.seeds) == ("holds", None, "1; 2", (0, 1))
    assert st.judge("x", seeds_of(1, -2), st.above(0)).verdict == "undecided"
    assert st.judge("x", seeds_of(-1, -2), st.above(0)).verdict == "fails"


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
    assert st.combine(st.Part("x", verdict) for verdict in verdicts) == whole


def test_seeds_are_paired():
    """Two runs that both vary widely, but together: over the seeds that both have, the difference is sure."""
    a, b = seeds_of(1, 5, 9, 4), seeds_of(0.9, 4.89, 8.9)
    part = st.judge("x", st.less(a, b), st.above(0))
    assert part.verdict == "holds" and part.seeds == (0, 1, 2)


def test_other_images_are_refused():
    a = st.accuracy_number(1.0, lambda: np.array([[0, 1], [0, 1]]))
    b = st.accuracy_number(1.0, lambda: np.array([[1, 1], [1, 1]]))
    with pytest.raises(UsageError, match="same images"):
        st.judge("x", st.less({0: a}, {0: b}), st.above(0))


# ---------------------------------------------------------------- one and two seeds, and no evidence


def test_one_seed_is_judged_by_its_images():
    def q4(shallow, deep):
        return check("q4", "paper", world(MLP_4_he=[train("MLP_4_he", accuracy=shallow)],
                                          MLP_33_he=[train("MLP_33_he", accuracy=deep)]))  # fmt: skip

    assert q4(0.98, 0.90).text == "holds (one seed)"
    assert q4(0.98, 0.965).text == "undecided (one seed)"  # of 1,000 images 15: too few for "at least .01"
    fails = q4(0.90, 0.98)
    assert fails.text == "fails (one seed)"
    low, high = fails.parts[0].interval
    assert low < -0.08 < high and fails.parts[0].level == 0.95


def test_one_seed_has_no_interval_where_predictions_give_none():
    runs = {"CNN_30_he": many("CNN_30_he", 1, loss=1.1), "CNN_13_he": many("CNN_13_he", 1)}
    part = check("q6", "paper", world(**runs)).parts[0]
    assert (part.verdict, part.interval) == ("holds", None) and part.effect == pytest.approx(0.1)


def test_two_seeds_carry_their_words():
    he = many("MLP_33_he", 2, accuracy=0.8)
    ahead = many("MLP_4_he", 2, accuracy=0.9)
    assert check("q4", "paper", world(MLP_4_he=ahead, MLP_33_he=he)).text == "holds (two seeds)"
    split = many("MLP_4_he", 2, accuracy={0: 0.9, 1: 0.7})
    assert check("q4", "paper", world(MLP_4_he=split, MLP_33_he=he)).text == "undecided (two seeds)"


def test_a_part_of_one_seed_says_so():
    res = {name: {"accuracy": 0.98} for name in ("MLP_res_5", "MLP_res_15", "MLP_res_35")}
    verdict = check("3e", "paper", world(**res, MLP_res_96=many("MLP_res_96", 1, accuracy=0.98)))
    assert verdict.text == "holds (one seed in some parts)"
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
    done = python("import sys, report.claims as c; c.ledger_short(c.ledger('cpu', lambda name: [])); print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "matplotlib"} & set(done.stdout.split())


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="unknown claim '9z'"):
        check("9z", "cpu", world())
    with pytest.raises(UsageError, match="unknown profile 'gpu'"):
        check("3a", "gpu", world())


# ---------------------------------------------------------------- every rule

MLPS = ("MLP_4", "MLP_13", "MLP_23")
FLAT = log(10)
GONE = [-12, -8, -3]


def mlps(losses=(0.1, 0.2, 0.3), accuracies=(0.98, 0.97, 0.95), norms=(1, 2, 3), **more):
    """MLP_4, 13 and 23, each with its own."""
    values = zip(MLPS, losses, accuracies, norms, strict=True)
    return {name: {"loss": loss, "accuracy": acc, "norm": norm, **more} for name, loss, acc, norm in values}


def counts(mnist=(100, 130), cifar10=(50, 50), cifar100=(5, 5)):
    return {"distribution": analysis("distribution", counts={"mnist": mnist, "cifar10": cifar10, "cifar100": cifar100})}


def skills(mnist, cifar10, cifar100):
    values = {"mnist": mnist, "cifar10": cifar10, "cifar100": cifar100}
    return {f"tsne_{name}": analysis(f"tsne_{name}", knn_skill=value) for name, value in values.items()}


def timing_3(*last):
    even = [1.0, 1.01] * 5
    pairs = (("MLP_4", "MLP_res_5", even), ("MLP_13", "MLP_res_15", even), ("MLP_33", "MLP_res_35", last))
    return {"timing_3": blocks("timing_3", *pairs)}


def timing_4(*last):
    pairs = (("CNN_13", "CNN_res_16", [1.2, 1.1] * 5), ("CNN_30", "CNN_res_35", last))
    return {"timing_4": blocks("timing_4", *pairs)}


def residual(key, a, b, c):
    return {"MLP_res_5": {key: a}, "MLP_res_15": {key: b}, "MLP_res_35": {key: c}}


def cnns(accuracies=(0.7, 0.71, 0.7), losses=(0.5, 0.52, 0.5)):
    names = ("CNN_res_16", "CNN_res_35", "CNN_res_56")
    return {n: {"accuracy": a, "loss": x} for n, a, x in zip(names, accuracies, losses, strict=True)}


FALLING = [2 - 0.05 * i for i in range(20)]
RISING = [0.3 + 0.005 * i for i in range(20)]  # .025 in the last five epochs; best, last: .395


def slow_tuning(losses=FALLING, accuracies=RISING, rival=0.4):
    return {
        "fine_tune_2": {"accuracy": rival},
        "fine_tune_2_lr": {"loss": FALLING},
        "fine_tune_3_lr": {"loss": losses, "accuracy": accuracies},
    }


def stopped(*accuracies, loss=0.1, epochs=20):
    """early_stopping, ended after as many epochs as accuracies are given."""
    values = {"accuracy": list(accuracies), "loss": loss, "epochs": epochs, "stop": len(accuracies)}
    return {"early_stopping": values}


def optimizers(gap=0.5, sgd_train=0.3, sgd=0.2, sgd_stop=10, adam_stop=20):
    """At 5e-4; the others' best validation accuracy is .45."""
    runs = {name: {"accuracy": 0.45, "train": 0.45 + gap, "stop": 20} for name in ("adam", "adamw", "rmsprop")}
    runs["adam"]["stop"] = adam_stop
    return runs | {"sgd": {"accuracy": sgd, "train": sgd_train, "stop": sgd_stop}}


def slow_optimizers(adam=0.45, sgd=0.1, adamw=0.45, rmsprop=0.45):
    values = {"adam_2": adam, "sgd_2": sgd, "adamw_2": adamw, "rmsprop_2": rmsprop}
    return {name: {"accuracy": accuracy, "stop": 20} for name, accuracy in values.items()}


def twelve(prefix, *best, rest=0.3):
    """Twelve trials or points: `best` are (accuracy, rate, batch), the others have `rest`."""
    values = [*best, *[(rest, 1e-6, 16)] * (12 - len(best))]
    return {
        f"{prefix}_{i}": {"accuracy": accuracy, "lr": lr, "batch_size": batch, "stop": 20}
        for i, (accuracy, lr, batch) in enumerate(values, start=1)
    }


GOOD = [(0.50, 1e-3, 64), (0.49, 1e-2, 128), (0.48, 5e-3, 64)]


def chapter_5(dropout=0.5, other=0.49):
    """Every run of the chapter, at `other` or less; train_resnet, on another data set, is higher."""
    runs = {name: {"accuracy": other, "stop": 20} for name in CHAPTER_5}
    runs["baseline"] = baseline(0.3)
    return runs | {"dropout": {"accuracy": dropout, "stop": 20}, "train_resnet": {"accuracy": 0.9}}


def twins(low=0.46, high=0.45, best=(0.5, 1e-4, 16)):
    names = ("adam", "adamw", "rmsprop")
    runs = {f"{name}_2": {"accuracy": low, "stop": 20} for name in names}
    return runs | {name: {"accuracy": high, "stop": 20} for name in names} | twelve("sweep", best)


def lowered(train=0.5, accuracy=0.4):
    return {
        "fine_tune_2": {"accuracy": 0.4, "train": 0.9},
        "fine_tune_3_lr": {"accuracy": accuracy, "train": train},
    }


H, F, U = "holds", "fails", "undecided"
CASES = [
    ("2a", H, counts()),
    ("2a", F, counts(mnist=(100, 131))),
    ("2a", F, counts(cifar100=(5, 6))),
    ("2b", H, skills([0.92, 0.93, 0.92], [0.2, 0.21, 0.2], [0.1, 0.11, 0.1])),
    ("2b", F, skills([0.85, 0.84, 0.85], [0.2, 0.21, 0.2], [0.1, 0.11, 0.1])),
    ("2b", F, skills([0.92, 0.93, 0.92], [0.1, 0.11, 0.1], [0.2, 0.21, 0.21])),
    ("2b", U, skills([0.88, 0.90, 0.92], [0.2, 0.21, 0.2], [0.1, 0.11, 0.1])),
    ("3a", H, mlps()),
    ("3a", F, mlps(losses=(0.1, 0.3, 0.2))),
    ("3a", F, mlps(accuracies=(0.95, 0.97, 0.98))),
    ("3a", U, mlps(losses=(0.1, wide(0.12), 0.4))),
    ("3b", H, mlps(accuracies=(0.9, 0.9, [0.1, 0.5, 0.8] + [0.99] * 17))),
    ("3b", F, mlps(accuracies=(0.9, 0.9, [0.9, 0.9, 0.86] + [0.1] * 17))),
    ("3b", U, mlps(accuracies=(0.9, 0.9, wide(0.8)))),
    ("3c", H, {"MLP_33": {"loss": FLAT - 0.04, "macro": 0.15}}),
    ("3c", F, {"MLP_33": {"loss": FLAT - 0.06, "macro": 0.1}}),
    ("3c", F, {"MLP_33": {"loss": FLAT, "macro": 0.16}}),
    ("3c", U, {"MLP_33": {"loss": {0: FLAT, 1: FLAT, 2: 1.0}, "macro": 0.1}}),
    ("3d", H, mlps() | {"MLP_33": {"rms": GONE}}),
    ("3d", F, mlps(norms=(1, 3, 2)) | {"MLP_33": {"rms": GONE}}),
    ("3d", F, mlps() | {"MLP_33": {"rms": [-9, -8, -3]}}),  # exactly 6 is not more than 6
    ("3d", U, mlps(norms=(1, 2, {0: 3, 1: 3, 2: 1})) | {"MLP_33": {"rms": GONE}}),
    ("3e", H, residual("accuracy", 0.98, 0.981, 0.979)),
    ("3e", F, residual("accuracy", 0.98, 0.981, 0.96)),
    ("3e", U, residual("accuracy", 0.7, wide(0.7), 0.7)),
    ("3e", F, residual("accuracy", 0.98, 0.981, 0.979) | {"MLP_res_55": {"accuracy": 0.9}}),
    ("3f", H, timing_3(*[1.1, 1.2] * 5)),
    ("3f", H, timing_3(*[0.98, 0.975] * 5)),
    ("3f", F, timing_3(*[0.9, 0.91] * 5)),
    ("3f", U, timing_3(*[0.8, 1.15] * 5)),
    ("3g", H, residual("norm", 1.0, 1.5, 0.7)),
    ("3g", F, residual("norm", 1.0, 1.5, 3.0)),
    ("3g", F, residual("norm", 1.0, 0.4, 1.0)),
    ("3g", U, residual("norm", 1.0, {0: 1.0, 1: 2.0, 2: 4.0}, 1.0)),
    ("4a", H, {"CNN_10": {"loss": 0.5, "accuracy": 0.6}, "CNN_13": {"loss": 0.4, "accuracy": 0.7}}),
    ("4a", F, {"CNN_10": {"loss": 0.5, "accuracy": 0.6}, "CNN_13": {"loss": 0.6, "accuracy": 0.7}}),
    ("4a", U, {"CNN_10": {"loss": 0.5, "accuracy": 0.6}, "CNN_13": {"loss": 0.4, "accuracy": wide(0.6)}}),
    ("4b", H, {"CNN_30": {"loss": FLAT, "macro": 0.1, "rms": GONE}}),
    ("4b", F, {"CNN_30": {"loss": FLAT, "macro": 0.1}}),
    ("4b", F, {"CNN_30": {"loss": 1.0, "macro": 0.1, "rms": GONE}}),
    ("4b", U, {"CNN_30": {"loss": FLAT, "macro": 0.1, "rms": {0: GONE, 1: GONE, 2: None}}}),
    ("4c", H, cnns()),
    ("4c", F, cnns(losses=(0.5, 0.52, 0.7))),
    ("4c", F, cnns(accuracies=(0.7, 0.71, 0.6))),
    ("4c", U, cnns(accuracies=(0.7, wide(0.7), 0.7))),
    ("4d", H, timing_4(*[1.1, 1.2] * 5)),
    ("4d", F, timing_4(*[0.9, 0.91] * 5)),
    ("4d", U, timing_4(*[0.8, 1.15] * 5)),
    ("5b", H, {"fine_tune_1": {"accuracy": 0.29}, "baseline": baseline(0.37)}),
    ("5b", F, {"fine_tune_1": {"accuracy": 0.30}, "baseline": baseline(0.25)}),
    ("5b", F, {"fine_tune_1": {"accuracy": 0.20}, "baseline": baseline(0.25)}),  # below, but far from .29
    ("5b", U, {"fine_tune_1": {"accuracy": wide(0.29, 0.1)}, "baseline": baseline(0.37)}),
    ("5c", H, {"fine_tune_2": {"loss": 0.05, "train": 0.99, "accuracy": 0.4}}),
    ("5c", F, {"fine_tune_2": {"loss": 0.15, "train": 0.99, "accuracy": 0.4}}),
    ("5c", F, {"fine_tune_2": {"loss": 0.05, "train": 0.6, "accuracy": 0.4}}),
    ("5c", U, {"fine_tune_2": {"loss": wide(0.1), "train": 0.99, "accuracy": 0.4}}),
    ("5d", H, slow_tuning()),
    ("5d", H, slow_tuning(losses=[*FALLING[:-1], 2.0])),  # 18 of 19 fall
    ("5d", F, slow_tuning(losses=[*FALLING[:-2], 2.0, 2.1])),  # 17 of 19
    ("5d", F, slow_tuning(rival=0.42)),
    ("5d", F, slow_tuning(accuracies=[0.395] * 20)),
    ("5d", U, slow_tuning(rival=wide(0.4))),
    ("5e", H, stopped(0.1, 0.2, 0.3, 0.2, 0.3, 0.2, 0.3)),
    ("5e", F, stopped(0.1, 0.2, 0.3, 0.2, 0.3, 0.2, 0.3, epochs=7)),
    ("5e", F, stopped(0.1, 0.2, 0.3, 0.2, 0.3, 0.2, 0.3, loss=0.6)),
    ("5e", F, stopped(0.3, 0.1, 0.3, 0.2, 0.3, 0.31, 0.31, 0.32)),  # .2 .3 .31 .31 .32: no change in the last five
    ("5e", U, stopped(0.1, 0.2, 0.3, 0.2, 0.3, 0.2, 0.3, loss=wide(0.5))),
    ("5f", H, optimizers()),
    ("5f", F, optimizers(gap=0.2)),
    ("5f", F, optimizers(sgd_train=0.6)),
    ("5f", F, optimizers(adam_stop=10)),
    ("5f", F, optimizers(sgd_stop=20)),
    ("5f", F, optimizers(sgd=0.42)),
    ("5f", U, optimizers(sgd=wide(0.4))),
    ("5g", H, slow_optimizers()),
    ("5g", F, slow_optimizers(sgd=0.4)),
    ("5g", F, slow_optimizers(adamw=0.3)),
    ("5g", F, slow_optimizers(adam=0.43)),  # alike within .05, yet wholly below
    ("5g", H, slow_optimizers(adam={0: 0.44, 1: 0.45, 2: 0.455})),  # below, but not wholly
    ("5g", U, slow_optimizers(rmsprop=wide(0.45, 0.1))),
    ("5h", H, twelve("search", *GOOD)),
    ("5h", F, twelve("search", *GOOD[:2], (0.48, 5e-3, 32))),
    ("5h", F, twelve("search", *GOOD[:2], (0.48, 9e-4, 64))),
    ("5h", F, twelve("search", *GOOD, (0.48, 5e-3, 16))),  # shares the third place
    ("5h", F, twelve("search", (0.6, 1e-3, 64), *GOOD)),
    ("5h", U, twelve("search", (wide(0.55, 0.04), 1e-3, 64), *GOOD[1:])),
    ("5j", H, twins()),
    ("5j", F, twins(low=0.44)),
    ("5j", F, twins(best=(0.5, 5e-4, 16))),
    ("5j", U, twins(low=wide(0.46))),
    ("5k", H, lowered()),
    ("5k", F, lowered(train=0.95)),
    ("5k", F, lowered(accuracy=0.35)),
    ("5k", U, lowered(accuracy=wide(0.4, 0.1))),
    *(
        (claim, verdict, {run: {"macro": macro}})
        for claim, run in (("q1", "MLP_33_eps"), ("q2", "CNN_30_eps"), ("q3", "MLP_33_he"), ("q5", "CNN_30_he"))
        for verdict, macro in ((H, 0.9), (F, 0.1), (U, wide(0.5)))
    ),
    ("q4", H, {"MLP_4_he": {"accuracy": 0.98}, "MLP_33_he": {"accuracy": 0.97}}),
    ("q4", F, {"MLP_4_he": {"accuracy": 0.98}, "MLP_33_he": {"accuracy": 0.975}}),
    ("q4", U, {"MLP_4_he": {"accuracy": wide(0.7)}, "MLP_33_he": {"accuracy": 0.7}}),
    ("q6", H, {"CNN_30_he": {"loss": 0.6}, "CNN_13_he": {"loss": 0.5}}),
    ("q6", F, {"CNN_30_he": {"loss": 0.4}, "CNN_13_he": {"loss": 0.5}}),
    ("q6", U, {"CNN_30_he": {"loss": wide(0.6)}, "CNN_13_he": {"loss": 0.5}}),
]


@pytest.mark.parametrize(("claim", "verdict", "runs"), CASES, ids=[f"{c}-{v}-{i}" for i, (c, v, _) in enumerate(CASES)])
def test_rule(claim, verdict, runs):
    found = check(claim, "paper", world(**runs))
    assert found.verdict == verdict, str(found)


@pytest.mark.parametrize(("test", "verdict"), [((0.37, 0.38, 0.37), H), ((0.5, 0.5, 0.5), F), ((0.3, 0.37, 0.44), U), ((), "no evidence")])
def test_rule_5a(test, verdict):
    openings = opened("baseline", *(0.1 for _ in test), classifier="logistic_regression")  # not the chosen one
    openings += opened("baseline", *test, classifier="svm")
    openings += opened("baseline", *(0.9 for _ in test), classifier="svm")  # a second opening
    assert check("5a", "paper", world(baseline=baseline(0.37)), openings).verdict == verdict
    assert check("5a", "cpu", world(baseline=baseline(0.37)), openings).verdict == "not judged"


@pytest.mark.parametrize(
    ("runs", "test", "verdict"),
    [
        (chapter_5(), (0.49, 0.50, 0.49), H),
        (chapter_5(dropout=0.485), (0.49, 0.49, 0.49), H),  # at most .01 below the best other
        (chapter_5(dropout=0.47), (0.49, 0.49, 0.49), F),
        (chapter_5(dropout=0.55), (0.5, 0.5, 0.5), F),  # test too far below validation
        (chapter_5(dropout=0.6), (0.6, 0.6, 0.6), F),  # test not alike .51
        (chapter_5(dropout=wide(0.5, 0.02)), (0.49, 0.50, 0.49), U),
        (chapter_5(), (), "no evidence"),
    ],
)  # fmt: skip
def test_rule_5i(runs, test, verdict):
    assert check("5i", "paper", world(**runs), opened("dropout", *test)).verdict == verdict


def test_5i_takes_the_seeds_in_which_every_run_has_a_record():
    runs = chapter_5() | {"sweep_7": many("sweep_7", 1, accuracy=0.49, stop=20)}
    verdict = check("5i", "paper", world(**runs), opened("dropout", 0.5, 0.1, 0.1))
    assert verdict.text == "holds (one seed)"
    del runs["sweep_7"]
    assert check("5i", "paper", world(**runs), []).text == "no evidence (no record of sweep_7)"


def test_parts_that_need_128_pixels_are_left_out_elsewhere():
    runs = {"fine_tune_1": {"accuracy": 0.20}, "baseline": baseline(0.25)}
    verdict = check("5b", "cpu", world(**runs))
    assert [part.verdict for part in verdict.parts] == ["holds", "not judged"] and verdict.verdict == "holds"
    assert check("5h", "cpu", world(**twelve("search", (0.6, 1e-3, 64), *GOOD))).verdict == "holds"


def test_best_epoch_has_an_interval_only_where_it_is_the_final_one():
    last = many("fine_tune_2", 1, accuracy=RISING)
    early = many("fine_tune_2", 1, accuracy=RISING[::-1])
    slow = many("fine_tune_3_lr", 1, accuracy=RISING, loss=FALLING)
    runs = {"fine_tune_2_lr": many("fine_tune_2_lr", 1, loss=FALLING), "fine_tune_3_lr": slow}
    parts = [check("5d", "paper", world(fine_tune_2=rival, **runs)).parts[2] for rival in (last, early)]
    assert parts[0].interval is not None and parts[1].interval is None
    assert parts[0].effect == parts[1].effect == 0


def test_timing_is_judged_over_the_blocks_of_one_run():
    verdict = check("4d", "cpu", world(**timing_4(*[1.0, 1.1] * 5)))
    assert verdict.text == "holds (one seed)" and verdict.parts[1].effect == pytest.approx(1.05)
    assert verdict.parts[1].interval == pytest.approx(st.t_interval([1.0, 1.1] * 5, 0.95))


# ---------------------------------------------------------------- rules and ledger


def test_the_rules_are_complete_and_in_order():
    chapters = {"2": "ab", "3": "abcdefg", "4": "abcd", "5": "abcdefghijk", "q": "123456"}
    assert list(RULES) == [chapter + letter for chapter, letters in chapters.items() for letter in letters]
    assert all(rule.sentence and rule.holds_if for rule in RULES.values())


def test_chapter_5_are_the_reports_runs():
    assert len(CHAPTER_5) == 29 and set(CHAPTER_5) <= set(EXPERIMENTS)
    assert {"train_resnet", "baseline", "dropout", "sweep_12", "rmsprop_2"} <= set(CHAPTER_5)


def test_a_difference_of_nothing_but_rounding_is_written_as_zero():
    part = st.judge("x", seeds_of(0.1 + 0.2 - 0.3), st.above(0))
    assert part.ours == "0" and st.judge("x", seeds_of(-1e-17), st.above(0)).ours == "0"
    even = st.judge("x", seeds_of(0.3, 0.1 + 0.2, 0.3), st.above(0))
    assert (even.ours, even.span) == ("0.3", "[0.3, 0.3] (95%)")


def test_a_verdict_prints_its_parts():
    verdict = check("4a", "paper", world(**CASES[[case[0] for case in CASES].index("4a")][2]))
    lines = str(verdict).splitlines()
    assert lines[0] == "4a holds, profile paper" and lines[1] == f"says: {RULES['4a'].sentence}"
    assert lines[-1] == "  holds       test accuracy, CNN_13 less CNN_10, above 0: 0.1 [0.1, 0.1] (95%), seeds 0-2"
    markdown = verdict._repr_markdown_()
    assert "| train loss, CNN_10 less CNN_13, above 0 | 0.1 | [0.1, 0.1] (95%) | 0-2 | holds |" in markdown


@pytest.mark.parametrize("claim", RULES)
def test_a_verdict_fits_on_a_screen(claim):
    assert len(str(check(claim, "paper", world(**chapter_5()))).splitlines()) <= 24


def some():
    """A claim that holds, one that fails, one undecided, one that lacks runs."""
    holds = next(runs for claim, verdict, runs in CASES if (claim, verdict) == ("4a", H))
    fails = next(runs for claim, verdict, runs in CASES if (claim, verdict) == ("3a", F))
    undecided = next(runs for claim, verdict, runs in CASES if (claim, verdict) == ("5c", U))
    return ledger("cpu", world(**holds, **fails, **undecided))


def table_of(text):
    """The cells of a Markdown table, and the line above it."""
    head, _, *lines = text.strip().split("\n")
    assert len({line.count("|") for line in lines}) == 1  # no cell is missing anywhere
    return head, [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_ledger():
    verdicts = some()
    assert [verdict.id for verdict in verdicts] == list(RULES)
    head, rows = table_of(ledger_markdown(verdicts))
    assert head == (
        "Profile cpu: 24 claims and 6 questions, with no correction for their number "
        "(holds 1, fails 2, undecided 1, no evidence 25, not judged 1)."
    )
    assert rows[0] == ["id", "sentence", "the report", "ours", "interval", "seeds", "verdict"]
    at = next(i for i, row in enumerate(rows) if row[0] == "4a")
    assert rows[at] == ["4a", f"**{RULES['4a'].sentence}**", "", "", "", "", "**holds**"]
    assert rows[at + 1] == ["", "train loss, CNN_10 less CNN_13, above 0", "", "0.1", "[0.1, 0.1] (95%)", "0-2", "holds"]
    assert rows[at + 3][0] == "4b"
    fails = next(i for i, row in enumerate(rows) if row[0] == "3a")
    assert [row[-1] for row in rows[fails : fails + 5]] == ["**fails**", "holds", "holds", "fails", "holds"]
    assert next(row for row in rows if row[0] == "5b")[2] == "0.29"


def test_the_short_ledger_has_a_line_a_claim_with_the_number_that_decides():
    verdicts = some()
    head, rows = table_of(ledger_short(verdicts))
    assert head == ledger_markdown(verdicts).split("\n")[0]
    assert rows[0] == ["id", "sentence", "verdict", "the number that decides"]
    lines = {row[0]: row[1:] for row in rows[2:]}
    assert list(lines) == list(RULES)
    assert lines["4a"] == [RULES["4a"].sentence, "holds", "train loss, CNN_10 less CNN_13, above 0: 0.1 [0.1, 0.1] (95%)"]
    assert lines["3a"][1:] == ["fails", "train loss, MLP_23 less MLP_13, above 0: -0.1 [-0.1, -0.1] (95%)"]
    assert lines["5c"][1] == "undecided" and lines["5c"][2].startswith("last train loss of fine_tune_2, at most 0.1: ")
    assert lines["4b"][1:] == ["no evidence (no record of CNN_30)", "–"]


def test_many_missing_runs_are_counted_not_listed():
    assert check("5h", "cpu", world()).text == "no evidence (no record of search_1, search_2, search_3 and 9 more)"
