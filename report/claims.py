"""The report's claims and our questions, each judged by a rule fixed before any evidence.

A rule that turns out to be wrong is not edited: a new one is added under a new id beside it, with the reason, and
both verdicts are shown. Everything here is a function of records; nothing trains. How numbers become a verdict
stands in report/statistics.py. Where the rules leave a choice, the code that makes it says so.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from math import log
from typing import Any, Protocol

import numpy as np

from experimentTable import EXPERIMENTS, PROFILES, choose
from report.statistics import (
    BESIDE,
    NOT_BELOW,
    Aim,
    Number,
    Part,
    Verdict,
    above,
    accuracy_number,
    alike,
    at_least,
    at_most,
    below,
    combine,
    few_seeds,
    judge,
    judge_property,
    ledger_markdown,
    left_out,
    less,
    macro_number,
    t_interval,
)

__all__ = ["RULES", "Rule", "Verdict", "check", "ledger", "ledger_markdown"]


class Record(Protocol):
    """What the rules read of a finished run: a part of recordFunction.Record."""

    name: str
    seed: int
    settings: dict
    rows: list[dict]
    result: dict

    def column(self, metric: str, trained_only: bool = False) -> np.ndarray: ...

    def predictions(self) -> np.ndarray: ...


Runs = Mapping[int, Record]  # seed -> finished record of one run
Measure = Callable[[Record], Number | float]  # a float is a bare number, which no images give an interval to
Source = Callable[[str], Sequence[Any]]  # a run's name -> its finished records of all seeds


class Evidence:
    """The records and openings of one profile, and the names of what was looked for in vain."""

    def __init__(self, profile: str, records: Source, openings: Sequence[dict]) -> None:
        self.paper = profile == "paper"
        self.missing: list[str] = []
        self._records, self._openings = records, openings

    def find(self, name: str) -> Runs:
        """The finished records of run `name`, seed -> record, if there are any."""
        return {record.seed: record for record in self._records(name)}

    def runs(self, name: str) -> Runs:
        """As `find`, for a run that the rule needs: its absence is noted."""
        return self.find(name) or self._note(name)

    def together(self, *names: str) -> dict[int, tuple[Record, ...]]:
        """The records of several runs in the seeds that all of them have."""
        runs = [self.runs(name) for name in names]
        return {seed: tuple(run[seed] for run in runs) for seed in sorted(set.intersection(*map(set, runs)))}

    def test_accuracy(self, runs: Runs) -> dict[int, Number]:
        """CIFAR-100's test accuracy of each run, from its first opening: later ones are no second chance.

        Of the baseline, the classifier chosen on held-out images counts. An opening leaves no predictions, so a
        number from it has no interval of its own.
        """
        found: dict[int, Number] = {}
        for line in self._openings:
            record = runs.get(line["seed"])
            if record is None or record.name != line["run"]:
                continue
            if record.result.get("chosen") in (None, line.get("classifier")):
                found.setdefault(record.seed, Number(line["accuracy"]))
        return found or self._note(*(f"the final test of {name}" for name in {r.name for r in runs.values()}))

    def _note(self, *names: str) -> dict:
        self.missing += [name for name in names if name not in self.missing]
        return {}


# ---------------------------------------------------------------- what is measured on one run


def numbers(runs: Runs, measure: Measure) -> dict[int, Number]:
    """`measure` of each seed's record."""
    found = {seed: measure(record) for seed, record in runs.items()}
    return {seed: value if isinstance(value, Number) else Number(float(value)) for seed, value in found.items()}


def final_accuracy(record: Record) -> Number:
    """Of the last epoch without early stopping, of the restored best with it: what the stored predictions are of."""
    return accuracy_number(record.result["accuracy"], record.predictions)


def best_accuracy(record: Record) -> Number:
    """The best epoch's; the stored predictions give it only where that epoch is also the final one."""
    if record.result.get("best_epoch") == record.result.get("epoch"):
        return final_accuracy(record)
    return Number(record.result["best_accuracy"])


def macro_accuracy(record: Record) -> Number:
    """Final, mean over classes."""
    return macro_number(record.result["macro_accuracy"], record.predictions)


def accuracies(record: Record) -> np.ndarray:
    """Evaluation accuracy, one value an epoch, epoch 0 (untrained) included."""
    return record.column(f"{record.result['split']}_accuracy")


def final_loss(record: Record) -> float:
    """Train loss of the final epoch."""
    return float(record.column("train_loss")[record.result["epoch"]])


def last_loss(record: Record) -> float:
    """Train loss of the last epoch that ran."""
    return float(record.column("train_loss")[record.result["last_epoch"]])


def last_gap(record: Record) -> float:
    """Train accuracy less evaluation accuracy in the last epoch that ran."""
    last = record.result["last_epoch"]
    return float(record.column("train_accuracy")[last] - accuracies(record)[last])


def late_gain(record: Record) -> float:
    """Evaluation accuracy of the last epoch less that five epochs before."""
    last = record.result["last_epoch"]
    return float(accuracies(record)[last] - accuracies(record)[last - 5])


def norm(record: Record) -> float:
    """The report's sum of gradient norms, a step, averaged over training."""
    return float(np.mean(record.column("gradient_norm_sum", True) / record.column("steps", True)))


def global_norm(record: Record) -> float:
    """The gradient's global L2 norm, a step, averaged over training."""
    return float(np.mean(record.column("gradient_norm", True)))


def logarithm(measure: Callable[[Record], float], record: Record) -> float:
    """Natural logarithm of `measure`, so that a difference is the log of a ratio."""
    return log(measure(record))


def layer_rms(record: Record) -> np.ndarray:
    """log10 of each weight layer's RMS gradient in forward order, averaged over training."""
    layers = [row["gradient_log10_rms"] for row in record.rows if "gradient_log10_rms" in row]
    return np.array(layers, dtype=float).mean(axis=0)


def mean_rms(record: Record) -> float:
    """The RMS gradient of a layer: geometric mean over layers and training."""
    return float(10 ** layer_rms(record).mean())


def first_to_last(record: Record) -> float:
    """log10 of the first layer's RMS gradient less the last layer's, averaged over training."""
    return float(layer_rms(record)[0] - layer_rms(record)[-1])


def vanishes(record: Record) -> bool:
    """Whether the first layer's RMS gradient lies more than six orders below the last layer's."""
    return first_to_last(record) < -6


def learns_nothing(record: Record) -> bool:
    """Whether the final train loss and macro accuracy are those of guessing."""
    classes = record.result["classes"]
    return final_loss(record) >= log(classes) - 0.05 and record.result["macro_accuracy"] <= 1.5 / classes


def balanced(data: str, record: Record) -> bool:
    """Whether all classes of a data set are equally frequent."""
    return len(set(record.result["counts"][data])) == 1


def ends_early(record: Record) -> bool:
    """Whether the run ended before its budget."""
    return record.result["last_epoch"] < record.result["budget"]


def falls_steadily(record: Record) -> bool:
    """Whether the train loss falls in at least 90 % of the epochs; the first has none before it and is not counted."""
    return bool(np.mean(np.diff(record.column("train_loss", True)) < 0) >= 0.9)


def oscillates(record: Record) -> bool:
    """Whether the accuracies of the last five epochs change direction at least twice; standing still is none."""
    moves = np.sign(np.diff(accuracies(record)[1:][-5:]))
    return int(np.count_nonzero(np.diff(moves[moves != 0]))) >= 2


def step_ratio(record: Record, plain: str, residual: str) -> Number:
    """Seconds a step, residual to plain: mean of the alternating blocks' ratios, with a t interval over the blocks."""
    blocks = [row for row in record.rows if (row["plain"], row["residual"]) == (plain, residual)]
    ratios = [row["residual_seconds"] / row["plain_seconds"] for row in blocks]
    return Number(float(np.mean(ratios)), partial(t_interval, ratios))


def best_of(records: Iterable[Record], places: int) -> list[Record]:
    """The best `places` by best accuracy; ties are not ranked, so all that share the last place count."""
    ranked = sorted(records, key=lambda record: record.result["best_accuracy"], reverse=True)
    return [r for r in ranked if r.result["best_accuracy"] >= ranked[places - 1].result["best_accuracy"]]


def setting(field: str, record: Record) -> float:
    """A field of the experiment that the record is of."""
    return record.settings["experiment"][field]


# ---------------------------------------------------------------- the forms that parts take


def one(ev: Evidence, text: str, measure: Measure, name: str, aim: Aim) -> Part:
    """A number of one run."""
    return judge(f"{text} of {name}", numbers(ev.runs(name), measure), aim)


def compare(ev: Evidence, text: str, measure: Measure, a: str, b: str, aim: Aim) -> Part:
    """A number of run `a` less that of run `b`."""
    return judge(f"{text}, {a} less {b}", less(numbers(ev.runs(a), measure), numbers(ev.runs(b), measure)), aim)


def has(ev: Evidence, text: str, test: Callable[..., bool], *names: str) -> Part:
    """A yes/no property of the runs `names` in one seed."""
    return judge_property(text, {seed: test(*records) for seed, records in ev.together(*names).items()})


def nothing_learned(ev: Evidence, name: str) -> Iterator[Part]:
    """ "Learns nothing", with the numbers it hangs on beside it."""
    yield has(ev, f"{name} learns nothing", learns_nothing, name)
    yield one(ev, "final train loss", final_loss, name, BESIDE)
    yield one(ev, "macro accuracy", macro_accuracy, name, BESIDE)


def vanished(ev: Evidence, name: str) -> Iterator[Part]:
    """ "Vanishing", with the number it hangs on beside it."""
    yield has(ev, f"{name}'s gradient vanishes", vanishes, name)
    yield one(ev, "first layer's log10 RMS gradient less the last's", first_to_last, name, BESIDE)


def timing(ev: Evidence, name: str, *pairs: tuple[str, str]) -> Iterator[Part]:
    """That each residual model takes at least .97 of its plain one's time, in one run: its first seed's."""
    runs = dict(list(ev.runs(name).items())[:1])
    for plain, residual in pairs:
        measure = partial(step_ratio, plain=plain, residual=residual)
        yield judge(f"seconds a step, {residual} to {plain}", numbers(runs, measure), at_least(0.97))


def in_paper(ev: Evidence, text: str, found: Mapping[int, Number], aim: Aim) -> Part:
    """A part that hangs on 128-pixel input († in the rules): left out everywhere but in `paper`."""
    return judge(text, found, aim) if ev.paper else left_out(f"{text}, {aim.text}")


# ---------------------------------------------------------------- the rules


Parts = Callable[[Evidence], Iterable[Part]]


@dataclass(frozen=True)
class Rule:
    """A claim, the rule it is judged by, and the function that applies the rule."""

    id: str
    sentence: str  # what the report says (or the question)
    measured: str  # on what
    holds_if: str
    report: str  # the report's number, where it gives one
    parts: Parts

    @property
    def text(self) -> str:
        """The rule in one line."""
        return f"{self.measured}: {self.holds_if}" if self.measured else self.holds_if


RULES: dict[str, Rule] = {}

PLAIN_MLPS = ("MLP_4", "MLP_13", "MLP_23")
ADAPTIVE = ("adam", "adamw", "rmsprop")
CHAPTER_5 = tuple(name for name, exp in EXPERIMENTS.items() if exp.chapter == 5 and exp.family != "control")
NORMS = {"norm": norm, "global L2 norm": global_norm, "mean RMS a layer": mean_rms}  # the first is the report's, judged


def rule(claim: str, sentence: str, measured: str, holds_if: str, report: str = "") -> Callable[[Parts], Parts]:
    """Enter the decorated function, evidence -> parts, in RULES."""

    def enter(parts: Parts) -> Parts:
        RULES[claim] = Rule(claim, sentence, measured, holds_if, report, parts)
        return parts

    return enter


@rule(
    "2a", "both CIFAR train sets are perfectly balanced, MNIST nearly", "class counts of the three train sets",
    "both CIFAR exactly equal counts; MNIST's largest class at most 1.3 times its smallest",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for name in ("cifar10", "cifar100"):
        yield has(ev, f"equal counts in {name}", partial(balanced, name), "distribution")
    counts = {seed: record.result["counts"]["mnist"] for seed, record in ev.runs("distribution").items()}
    ratio = {seed: Number(max(classes) / min(classes)) for seed, classes in counts.items()}
    yield judge("largest to smallest class count in mnist", ratio, at_most(1.3))


@rule(
    "2b", "in two dimensions MNIST's classes separate, CIFAR-10's do not, CIFAR-100's still less",
    "5-nearest-neighbour accuracy in the 2-D embedding, the point itself left out, as (acc − chance) / (1 − chance), "
    "chance = 1 / classes, CIFAR-100 by its 100 fine classes; 10,000 images of the train set, 5 seeds that draw images "
    "and embedding; all three from pixels by PCA to 50",
    "MNIST at least .9; CIFAR-10 at most .5; CIFAR-100 below CIFAR-10",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    def skill(record: Record) -> float:
        return record.result["knn_skill"]

    yield one(ev, "5-NN skill", skill, "tsne_mnist", at_least(0.9))
    yield one(ev, "5-NN skill", skill, "tsne_cifar10", at_most(0.5))
    yield compare(ev, "5-NN skill", skill, "tsne_cifar100", "tsne_cifar10", below(0))


@rule(
    "3a", "plain MLPs: the deeper (4, 13, 23), the higher the train loss and the lower the test accuracy",
    "MLP_4, 13, 23", "train loss 4 < 13 < 23 and test accuracy 4 > 13 > 23, all four neighbours' differences",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for shallow, deep in pairwise(PLAIN_MLPS):
        yield compare(ev, "train loss", final_loss, deep, shallow, above(0))
        yield compare(ev, "test accuracy", final_accuracy, shallow, deep, above(0))


@rule(
    "3b", "MLP_23 is clearly worse in the first epochs", "mean test accuracy of epochs 1 to 3",
    "MLP_23 by at least .05 below MLP_4 and below MLP_13",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for other in ("MLP_4", "MLP_13"):
        yield compare(
            ev, "mean test accuracy of epochs 1 to 3", lambda r: accuracies(r)[1:4].mean(),
            other, "MLP_23", at_least(0.05),
        )  # fmt: skip


@rule("3c", "MLP_33 learns nothing: loss about 2.3, accuracy about 0.1", "MLP_33", "learns nothing", "loss 2.3, accuracy 0.1")
def _(ev: Evidence) -> Iterator[Part]:
    yield from nothing_learned(ev, "MLP_33")


@rule(
    "3d", "among 4, 13 and 23 a larger gradient norm goes with worse results; at 33 the gradient vanishes",
    "MLP_4, 13, 23; MLP_33",
    "norm 4 < 13 < 23 in the seed (yes/no; three models only, so it describes and does not explain); MLP_33 vanishes",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield has(ev, "norm 4 < 13 < 23", lambda *runs: all(norm(a) < norm(b) for a, b in pairwise(runs)), *PLAIN_MLPS)
    yield from vanished(ev, "MLP_33")
    for words, measure in NORMS.items():
        for name in PLAIN_MLPS:
            yield one(ev, words, measure, name, BESIDE)


@rule(
    "3e", "residual MLPs from 5 to 96 layers reach equal accuracy; the deeper may even be slightly better early on",
    "MLP_res_5, 15, 35 (55, 96 where they have seeds)",
    "final test accuracy of each alike res_5, margin .01. Printed beside, not judged: epoch 1's accuracy of 35 less "
    "that of 5",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    deepest = [name for name in ("MLP_res_55", "MLP_res_96") if ev.find(name)]
    for name in ("MLP_res_15", "MLP_res_35", *deepest):
        yield compare(ev, "test accuracy", final_accuracy, name, "MLP_res_5", alike(0.01))
    yield compare(ev, "test accuracy of epoch 1", lambda r: accuracies(r)[1], "MLP_res_35", "MLP_res_5", BESIDE)


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
        aim = alike(log(2)) if measure is norm else BESIDE
        for name in ("MLP_res_15", "MLP_res_35"):
            yield compare(ev, f"log {words}", partial(logarithm, measure), name, "MLP_res_5", aim)


@rule(
    "4a", "CNN_13 beats CNN_10 on train loss and test accuracy", "CNN_10, CNN_13",
    "13 lower in train loss and higher in test accuracy",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "train loss", final_loss, "CNN_10", "CNN_13", above(0))
    yield compare(ev, "test accuracy", final_accuracy, "CNN_13", "CNN_10", above(0))


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
        yield compare(ev, "test accuracy", final_accuracy, a, b, alike(0.03))
        yield compare(ev, "train loss", final_loss, a, b, alike(0.1))


@rule(
    "4d", "residual connections do not shorten training (13 beside res_16, 30 beside res_35)",
    "record `timing_4`, as 3f, pairs (13, res_16), (30, res_35)", "at least .97 in both",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield from timing(ev, "timing_4", ("CNN_13", "CNN_res_16"), ("CNN_30", "CNN_res_35"))


@rule(
    "5a", "the classical baseline reaches about 0.37",
    "test accuracy of the classical baseline (the better of the two, chosen on held-out train images)",
    "† alike .37, margin .03", "0.37",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield in_paper(ev, "test accuracy of the baseline", ev.test_accuracy(ev.runs("baseline")), alike(0.03, 0.37))


@rule(
    "5b", "training only the last layer reaches about 0.29, below the baseline",
    "fine_tune_1 and the baseline, both on validation", "below it. † alike .29, margin .03", "0.29",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "validation accuracy", final_accuracy, "fine_tune_1", "baseline", below(0))
    head_only = numbers(ev.runs("fine_tune_1"), final_accuracy)
    yield in_paper(ev, "validation accuracy of fine_tune_1", head_only, alike(0.03, 0.29))


@rule(
    "5c", "freeing layer4 at the same learning rate overfits: train loss near 0", "fine_tune_2",
    "last train loss at most .1, and train accuracy at least .3 above validation accuracy", "loss near 0",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield one(ev, "last train loss", last_loss, "fine_tune_2", at_most(0.1))
    yield one(ev, "last train less validation accuracy", last_gap, "fine_tune_2", at_least(0.3))


@rule(
    "5d", "at 1e-5 the loss falls smoothly, accuracy reaches fine_tune_2's level and has not levelled off",
    "fine_tune_2_lr, fine_tune_3_lr",
    "train loss falls in at least 90 % of the epochs of both; fine_tune_3_lr's best validation accuracy at most .02 "
    "below fine_tune_2's; its last at least .005 above the one five epochs before",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for name in ("fine_tune_2_lr", "fine_tune_3_lr"):
        yield has(ev, f"{name}'s train loss falls in at least 90 % of the epochs", falls_steadily, name)
    yield compare(ev, "best validation accuracy", best_accuracy, "fine_tune_2", "fine_tune_3_lr", at_most(0.02))
    yield one(ev, "gain of the last five epochs", late_gain, "fine_tune_3_lr", at_least(0.005))


@rule(
    "5e", "at 5e-3 early stopping ends the run; train loss is low, validation accuracy oscillates", "early_stopping",
    "ends before its budget; last train loss at most .5; validation accuracy changes direction at least twice in the "
    "last five epochs",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield has(ev, "ends before its budget", ends_early, "early_stopping")
    yield one(ev, "last train loss", last_loss, "early_stopping", at_most(0.5))
    yield has(ev, "changes direction at least twice in the last five epochs", oscillates, "early_stopping")


@rule(
    "5f", "at 5e-4 every optimizer overfits but SGD, the only one that stops early, with poor results",
    "adam, sgd, adamw, rmsprop",
    "last train accuracy at least .3 above validation accuracy for the three others and not for sgd; sgd alone ends "
    "early; sgd's best validation accuracy by at least .05 below each of them",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for name, aim in (*((name, at_least(0.3)) for name in ADAPTIVE), ("sgd", below(0.3))):
        yield one(ev, "last train less validation accuracy", last_gap, name, aim)
    yield has(
        ev, "sgd alone ends early",
        lambda sgd, *others: ends_early(sgd) and not any(map(ends_early, others)), "sgd", *ADAPTIVE,
    )  # fmt: skip
    for name in ADAPTIVE:
        yield compare(ev, "best validation accuracy", best_accuracy, name, "sgd", at_least(0.05))


@rule(
    "5g", "at 1e-5 SGD stays far below the other three, which are alike, Adam best",
    "adam_2, sgd_2, adamw_2, rmsprop_2: best validation accuracy",
    "sgd by at least .1 below each; the other three alike, margin .05; adam's best not below either (fails only if "
    "wholly below)",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    slow = [f"{name}_2" for name in ADAPTIVE]
    pairs = [(name, "sgd_2", at_least(0.1)) for name in slow]
    pairs += [(a, b, alike(0.05)) for a, b in combinations(slow, 2)]
    pairs += [("adam_2", name, NOT_BELOW) for name in slow[1:]]
    for a, b, aim in pairs:
        yield compare(ev, "best validation accuracy", best_accuracy, a, b, aim)


@rule(
    "5h", "the best sweep runs have a learning rate of the order of 1e-3 and batch 64 or 128; best validation accuracy "
    "0.507",
    "the search's own 12 trials",
    "the three best have a rate in [1e-3, 1e-2] and batch 64 or 128. † best alike .507, margin .03", "0.507",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    def in_range(record: Record) -> bool:
        return 1e-3 <= setting("lr", record) <= 1e-2 and setting("batch_size", record) in (64, 128)

    trials = ev.together(*(f"search_{i}" for i in range(1, 13)))
    three = {seed: all(map(in_range, best_of(runs, 3))) for seed, runs in trials.items()}
    yield judge_property("the three best have a rate in [1e-3, 1e-2] and batch 64 or 128", three)
    best = {seed: best_of(runs, 1)[0] for seed, runs in trials.items()}
    for field in ("lr", "batch_size"):
        yield judge(f"{field} of the best trial", numbers(best, partial(setting, field)), BESIDE)
    yield in_paper(ev, "validation accuracy of the best trial", numbers(best, best_accuracy), alike(0.03, 0.507))


@rule(
    "5i", "with dropout the validation accuracy is the best of all; test accuracy about 0.51, a little below it",
    "dropout's best validation accuracy; its test accuracy; the seeds in which all the report's chapter 5 runs have a "
    "record",
    "at most .01 below the best of the report's other chapter 5 runs of the same seed; test at most .03 below "
    "validation. † test alike .51, margin .03", "test 0.51",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    seeds = ev.together(*CHAPTER_5)
    dropout = {seed: record for seed, record in ev.find("dropout").items() if seed in seeds}
    # train_resnet's accuracy is another data set's
    others = {s: [r for r in runs if r.name not in ("dropout", "train_resnet")] for s, runs in seeds.items()}
    best = {seed: max(map(best_accuracy, runs), key=lambda number: number.value) for seed, runs in others.items()}
    ours, test = numbers(dropout, best_accuracy), ev.test_accuracy(dropout)
    yield judge("best validation accuracy, best other run's less dropout's", less(best, ours), at_most(0.01))
    yield judge("dropout's validation less test accuracy", less(ours, test), at_most(0.03))
    yield in_paper(ev, "dropout's test accuracy", test, alike(0.03, 0.51))


@rule(
    "5j", "(in passing, 5.4) a low learning rate is better when only some layers are freed",
    "in passing, 5.4: a low rate is better; best validation accuracy",
    "adam_2, adamw_2 and rmsprop_2 each above their 5e-4 twin; the best of the report's twelve points, trained by us, "
    "has a rate below 5e-4",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for name in ADAPTIVE:
        yield compare(ev, "best validation accuracy", best_accuracy, f"{name}_2", name, above(0))
    points = ev.together(*(f"sweep_{i}" for i in range(1, 13)))
    best = {seed: best_of(runs, 1) for seed, runs in points.items()}
    low = {seed: all(setting("lr", run) < 5e-4 for run in runs) for seed, runs in best.items()}
    yield judge_property("the best of the twelve points has a rate below 5e-4", low)
    yield judge("its rate", {seed: Number(setting("lr", runs[0])) for seed, runs in best.items()}, BESIDE)


@rule(
    "5k", "(in passing, 5.2) the lowered rate probably generalises better",
    "in passing, 5.2: the lowered rate generalises better",
    "last train accuracy less validation accuracy smaller in fine_tune_3_lr than in fine_tune_2, at a validation "
    "accuracy at most .02 lower",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    pair = ("fine_tune_2", "fine_tune_3_lr")
    yield compare(ev, "last train less validation accuracy", last_gap, *pair, above(0))
    yield compare(ev, "validation accuracy", final_accuracy, *pair, at_most(0.02))


# ---------------------------------------------------------------- questions of our own, judged like the claims


def learning(claim: str, question: str, run: str) -> None:
    """Enter a question that asks whether a control learns."""

    @rule(claim, question, "", f"{run} ends with macro accuracy above .5")
    def _(ev: Evidence) -> Iterator[Part]:
        yield one(ev, "macro accuracy", macro_accuracy, run, above(0.5))


learning("q1", "does MLP_33 fail because its gradient lies under Adam's eps?", "MLP_33_eps")
learning("q2", "does CNN_30?", "CNN_30_eps")
learning("q3", "does MLP_33 learn once the signal keeps its size?", "MLP_33_he")


@rule(
    "q4", "does depth still harm then (MLP)?", "",
    "MLP_33_he's final test accuracy below MLP_4_he's by at least .01",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "test accuracy", final_accuracy, "MLP_4_he", "MLP_33_he", at_least(0.01))


learning("q5", "does CNN_30 learn once the signal keeps its size?", "CNN_30_he")


@rule(
    "q6", "does depth still harm then (CNN)?", "",
    "CNN_30_he's final train loss above CNN_13_he's (He et al.'s degradation is one of training loss)",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "train loss", final_loss, "CNN_30_he", "CNN_13_he", above(0))


# ---------------------------------------------------------------- verdicts


def check(
    claim: str,
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
) -> Verdict:
    """Judge `claim` ("2a" .. "5k", "q1" .. "q6") by its rule on the evidence of one profile.

    profile: None is the environment's PROFILE, else "sample". records: name -> finished records of all seeds;
    None reads those of the profile, and its openings with them. Raises UsageError for an unknown claim or profile.
    """
    rule = RULES[choose("claim", claim, RULES)]
    profile = choose("profile", profile or os.environ.get("PROFILE", "sample"), PROFILES)
    verdict = partial(Verdict, rule.id, rule.sentence, rule=rule.text, report=rule.report, profile=profile)
    if profile == "sample":
        return verdict("not judged", note="the sample judges nothing")
    if records is None:
        from recordFunction import find_openings, find_records

        records = partial(find_records, profile=profile)
        openings = find_openings(profile) if openings is None else openings
    evidence = Evidence(profile, records, openings or ())
    parts = tuple(rule.parts(evidence))
    outcome, note = combine(parts), few_seeds(parts)
    if outcome == "no evidence":
        note = f"no record of {', '.join(evidence.missing)}" if evidence.missing else "its runs have no seed in common"
    elif outcome == "not judged":
        note = f"{profile} cannot show it"
    return verdict(outcome, parts, note)


def ledger(
    profile: str | None = None,
    records: Source | None = None,
    openings: Sequence[dict] | None = None,
) -> list[Verdict]:
    """The verdicts on all claims, then on our questions; the arguments are those of `check`."""
    return [check(claim, profile, records, openings) for claim in RULES]
