"""Every rule on made-up records whose answer is known."""

from math import log

import pytest
from made_up_records import analysis, baseline, blocks, many, opened, wide, world

from deepnet.claims import intervals as st
from deepnet.claims.ledger import check
from deepnet.claims.rules import CHAPTER_5
from experimentTable import BOTH_PRECISIONS

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


def precisions(**others):
    sides = [f"{model}_{side}" for model in BOTH_PRECISIONS for side in ("fp32", "bf16")]
    return {side: {"accuracy": 0.7} for side in sides} | others


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
    return {"fine_tune_2": {"accuracy": 0.4, "train": 0.9}, "fine_tune_3_lr": {"accuracy": accuracy, "train": train}}


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
    ("q7", H, precisions()),
    ("q7", H, precisions(resnet18_bf16={"accuracy": 0.705, "loss": 2.0})),  # the loss is printed beside
    ("q7", F, precisions(CNN_13_bf16={"accuracy": 0.68})),
    ("q7", F, precisions(CNN_13_bf16={"accuracy": 0.72})),  # better is another result too
    ("q7", U, precisions(CNN_res_56_bf16={"accuracy": wide(0.7)})),
    ("q7", "no evidence", {run: more for run, more in precisions().items() if run != "CNN_10_fp32"}),
]


def runs_of(claim, verdict):
    """The runs of the first case in which a claim has this verdict."""
    return next(runs for name, found, runs in CASES if (name, found) == (claim, verdict))


@pytest.mark.parametrize(("claim", "verdict", "runs"), CASES, ids=[f"{c}-{v}-{i}" for i, (c, v, _) in enumerate(CASES)])
def test_rule(claim, verdict, runs):
    found = check(claim, "paper", world(**runs))
    assert found.verdict == verdict, str(found)


@pytest.mark.parametrize(
    ("test", "verdict"), [((0.37, 0.38, 0.37), H), ((0.5, 0.5, 0.5), F), ((0.3, 0.37, 0.44), U), ((), "no evidence")]
)
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
    assert verdict.text == "seen once: as claimed"
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
    assert verdict.text == "seen once: as claimed" and verdict.parts[1].effect == pytest.approx(1.05)
    assert verdict.parts[1].interval == pytest.approx(st.t_interval([1.0, 1.1] * 5, 0.95))
    assert verdict.parts[1].span.endswith("(95%, blocks only: says nothing of another seed)")
