"""The rules of chapters 2 to 4 (the data; depth and residual connections) and of our questions, which ask about depth.

They were fixed before any evidence and are not edited: deepnet/claims/ledger.py says what is done instead.
"""

from collections.abc import Iterator
from functools import partial
from itertools import combinations, pairwise
from math import log

from deepnet.claims import measures as m
from deepnet.claims.evidence import Evidence, compare, nothing_learned, property_of, rule, single, timing, vanished
from deepnet.claims.intervals import (
    SHOWN_ONLY,
    Number,
    Part,
    above,
    at_least,
    at_most,
    below,
    equivalent,
    judge,
    judge_property,
)
from experimentTable import BOTH_PRECISIONS

PLAIN_MLPS = ("MLP_4", "MLP_13", "MLP_23")
# the first is the report's, and judged
NORMS = {"norm": m.norm, "global L2 norm": m.global_norm, "mean RMS per layer": m.mean_rms}


@rule(
    "2a", "both CIFAR train sets are perfectly balanced, MNIST nearly", "class counts of the three train sets",
    "both CIFAR exactly equal counts; MNIST's largest class at most 1.3 times its smallest",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    counts = {seed: record.result["counts"] for seed, record in ev.runs("distribution").items()}
    for name in ("cifar10", "cifar100"):
        found = {seed: len(set(images[name])) == 1 for seed, images in counts.items()}
        yield judge_property(f"equal counts in {name}", found)
    ratio = {seed: Number(max(images["mnist"]) / min(images["mnist"])) for seed, images in counts.items()}
    yield judge("largest / smallest class count in mnist", ratio, at_most(1.3))


@rule(
    "2b", "in two dimensions MNIST's classes separate, CIFAR-10's do not, CIFAR-100's still less",
    "5-nearest-neighbour accuracy in the 2-D embedding, the point itself left out, as (acc − chance) / (1 − chance), "
    "chance = 1 / classes, CIFAR-100 by its 100 fine classes; 10,000 images of the train set, 5 seeds that draw images "
    "and embedding; all three from pixels by PCA to 50",
    "MNIST at least .9; CIFAR-10 at most .5; CIFAR-100 below CIFAR-10",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield single(ev, "5-NN skill", m.knn_skill, "tsne_mnist", at_least(0.9))
    yield single(ev, "5-NN skill", m.knn_skill, "tsne_cifar10", at_most(0.5))
    yield compare(ev, "5-NN skill", m.knn_skill, "tsne_cifar100", "tsne_cifar10", below())


@rule(
    "3a", "plain MLPs: the deeper (4, 13, 23), the higher the train loss and the lower the test accuracy",
    "MLP_4, 13, 23", "train loss 4 < 13 < 23 and test accuracy 4 > 13 > 23, all four neighbours' differences",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for shallow, deep in pairwise(PLAIN_MLPS):
        yield compare(ev, "training loss", m.final_loss, deep, shallow, above())
        yield compare(ev, "test accuracy", m.final_accuracy, shallow, deep, above())


@rule(
    "3b", "MLP_23 is clearly worse in the first epochs", "mean test accuracy of epochs 1 to 3",
    "MLP_23 by at least .05 below MLP_4 and below MLP_13",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for other in ("MLP_4", "MLP_13"):
        yield compare(
            ev, "mean test accuracy of epochs 1 to 3", lambda r: m.accuracies(r)[1:4].mean(),
            other, "MLP_23", at_least(0.05),
        )  # fmt: skip


@rule(
    "3c", "MLP_33 learns nothing: loss about 2.3, accuracy about 0.1", "MLP_33", "learns nothing",
    "loss 2.3, accuracy 0.1",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield from nothing_learned(ev, "MLP_33")


@rule(
    "3d", "among 4, 13 and 23 a larger gradient norm goes with worse results; at 33 the gradient vanishes",
    "MLP_4, 13, 23; MLP_33",
    "norm 4 < 13 < 23 in the seed (yes/no; three models only, so it describes and does not explain); MLP_33 vanishes",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield property_of(
        ev, "norm 4 < 13 < 23", lambda *runs: all(m.norm(a) < m.norm(b) for a, b in pairwise(runs)), *PLAIN_MLPS
    )
    yield from vanished(ev, "MLP_33")
    for words, measure in NORMS.items():
        for name in PLAIN_MLPS:
            yield single(ev, words, measure, name, SHOWN_ONLY)


@rule(
    "3e", "residual MLPs from 5 to 96 layers reach equal accuracy; the deeper may even be slightly better early on",
    "MLP_res_5, 15, 35 (55, 96 where they have seeds)",
    "final test accuracy of each alike res_5, margin .01. Printed beside, not judged: epoch 1's accuracy of 35 less "
    "that of 5",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    deepest = [name for name in ("MLP_res_55", "MLP_res_96") if ev.find(name)]
    for name in ("MLP_res_15", "MLP_res_35", *deepest):
        yield compare(ev, "test accuracy", m.final_accuracy, name, "MLP_res_5", equivalent(0.01))
    yield compare(ev, "test accuracy of epoch 1", lambda r: m.accuracies(r)[1], "MLP_res_35", "MLP_res_5", SHOWN_ONLY)


@rule(
    "3f", "residual connections do not shorten training at equal depth",
    "record `timing_3`: seconds a step, both models in fp32 with the same threads, residual to plain, pairs (4, 5), "
    "(13, 15), (33, 35), ten alternating blocks in one run, interval over the blocks' ratios",
    "at least .97 in every pair",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield from timing(ev, "timing_3", ("MLP_4", "MLP_res_5"), ("MLP_13", "MLP_res_15"), ("MLP_33", "MLP_res_35"))


@rule(
    "3g", "with residuals, depth changes the gradient norms little", "log ratio of norms, res_15 and res_35 to res_5",
    "alike, margin log 2",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for words, measure in NORMS.items():
        aim = equivalent(log(2)) if measure is m.norm else SHOWN_ONLY
        for name in ("MLP_res_15", "MLP_res_35"):
            yield compare(ev, f"log {words}", partial(m.logarithm, measure), name, "MLP_res_5", aim)


@rule(
    "4a", "CNN_13 beats CNN_10 on train loss and test accuracy", "CNN_10, CNN_13",
    "13 lower in train loss and higher in test accuracy",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "training loss", m.final_loss, "CNN_10", "CNN_13", above())
    yield compare(ev, "test accuracy", m.final_accuracy, "CNN_13", "CNN_10", above())


@rule(
    "4b", "CNN_30 learns nothing: its loss stays high, its gradient vanishes", "CNN_30",
    "learns nothing, and vanishes",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield from nothing_learned(ev, "CNN_30")
    yield from vanished(ev, "CNN_30")


@rule(
    "4c", "CNN_res_16, 35 and 56 are alike in loss and accuracy", "CNN_res_16, 35, 56",
    "each pair alike: test accuracy, margin .03; train loss, margin .1",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for a, b in combinations(("CNN_res_16", "CNN_res_35", "CNN_res_56"), 2):
        yield compare(ev, "test accuracy", m.final_accuracy, a, b, equivalent(0.03))
        yield compare(ev, "training loss", m.final_loss, a, b, equivalent(0.1))


@rule(
    "4d", "residual connections do not shorten training (13 beside res_16, 30 beside res_35)",
    "record `timing_4`, as 3f, pairs (13, res_16), (30, res_35)", "at least .97 in both",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield from timing(ev, "timing_4", ("CNN_13", "CNN_res_16"), ("CNN_30", "CNN_res_35"))


# ---------------------------------------------------------------- questions of our own, judged like the claims


def learning(claim: str, question: str, run: str) -> None:
    """Enter a question that asks whether a control learns."""

    @rule(claim, question, "", f"{run} ends with macro accuracy above .5")
    def _(ev: Evidence) -> Iterator[Part]:
        yield single(ev, "macro accuracy", m.macro_accuracy, run, above(0.5))


learning("q1", "does MLP_33 fail because its gradient lies under Adam's eps?", "MLP_33_eps")
learning("q2", "does CNN_30?", "CNN_30_eps")
learning("q3", "does MLP_33 learn once the signal keeps its size?", "MLP_33_he")


@rule(
    "q4", "does depth still harm then (MLP)?", "",
    "MLP_33_he's final test accuracy below MLP_4_he's by at least .01",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "test accuracy", m.final_accuracy, "MLP_4_he", "MLP_33_he", at_least(0.01))


learning("q5", "does CNN_30 learn once the signal keeps its size?", "CNN_30_he")


@rule(
    "q6", "does depth still harm then (CNN)?", "",
    "CNN_30_he's final train loss above CNN_13_he's (He et al.'s degradation is one of training loss)",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "training loss", m.final_loss, "CNN_30_he", "CNN_13_he", above())


@rule(
    "q7", "does bf16 end where fp32 does?",
    "after 5 epochs on CIFAR-10 at 32 pixels, bf16 less fp32 from the same weights",
    "test accuracy alike, margin .01, of CNN_10, 13, res_16, res_56 and ResNet-18. Printed beside, not judged: train "
    "loss",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for model in BOTH_PRECISIONS:
        yield compare(ev, "test accuracy", m.final_accuracy, f"{model}_bf16", f"{model}_fp32", equivalent(0.01))
    for model in BOTH_PRECISIONS:
        yield compare(ev, "training loss", m.final_loss, f"{model}_bf16", f"{model}_fp32", SHOWN_ONLY)
