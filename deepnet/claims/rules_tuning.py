"""The rules of chapter 5 (ResNet-18 from CIFAR-10 to CIFAR-100).

They were fixed before any evidence and are not edited: deepnet/claims/ledger.py says what is done instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations

from deepnet.claims import measures as m
from deepnet.claims.evidence import Evidence, compare, paper_only, property_of, rule, single
from deepnet.claims.intervals import (
    NOT_BELOW,
    SHOWN_ONLY,
    Part,
    above,
    at_least,
    at_most,
    below,
    difference,
    equivalent,
    judge,
    judge_property,
)
from deepnet.claims.measures import Record, Runs, numbers
from experimentTable import EXPERIMENTS

ADAPTIVE = ("adam", "adamw", "rmsprop")
CHAPTER_5 = tuple(name for name, exp in EXPERIMENTS.items() if exp.chapter == 5 and exp.family != "control")

Trials = Mapping[int, Sequence[Record]]  # seed -> the records of a search's trials


def twelve(ev: Evidence, name: str) -> Trials:
    """The twelve runs `name`_1 to `name`_12 in the seeds that all of them have."""
    return ev.together(*(f"{name}_{i}" for i in range(1, 13)))


def best_have(text: str, trials: Trials, places: int, test: Callable[[Record], bool]) -> Part:
    """A yes/no property of all the `places` best in one seed."""
    return judge_property(text, {seed: all(map(test, m.best_of(runs, places))) for seed, runs in trials.items()})


def winners(trials: Trials) -> Runs:
    """The best of each seed, of several the first."""
    return {seed: m.best_of(runs, 1)[0] for seed, runs in trials.items()}


@rule(
    "5a", "the classical baseline reaches about 0.37",
    "test accuracy of the classical baseline (the better of the two, chosen on held-out train images)",
    "† alike .37, margin .03", "0.37",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield paper_only(
        ev, "test accuracy of the baseline", ev.test_accuracy("baseline", ev.runs("baseline")), equivalent(0.03, 0.37)
    )


@rule(
    "5b", "training only the last layer reaches about 0.29, below the baseline",
    "fine_tune_1 and the baseline, both on validation", "below it. † alike .29, margin .03", "0.29",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "validation accuracy", m.final_accuracy, "fine_tune_1", "baseline", below())
    head_only = numbers(ev.runs("fine_tune_1"), m.final_accuracy)
    yield paper_only(ev, "validation accuracy of fine_tune_1", head_only, equivalent(0.03, 0.29))


@rule(
    "5c", "freeing layer4 at the same learning rate overfits: train loss near 0", "fine_tune_2",
    "last train loss at most .1, and train accuracy at least .3 above validation accuracy", "loss near 0",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield single(ev, "last training loss", m.last_loss, "fine_tune_2", at_most(0.1))
    yield single(ev, "last training − validation accuracy", m.last_gap, "fine_tune_2", at_least(0.3))


@rule(
    "5d", "at 1e-5 the loss falls smoothly, accuracy reaches fine_tune_2's level and has not levelled off",
    "fine_tune_2_lr, fine_tune_3_lr",
    "train loss falls in at least 90 % of the epochs of both; fine_tune_3_lr's best validation accuracy at most .02 "
    "below fine_tune_2's; its last at least .005 above the one five epochs before",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for name in ("fine_tune_2_lr", "fine_tune_3_lr"):
        yield property_of(ev, f"{name}'s training loss falls in at least 90% of the epochs", m.falls_steadily, name)
    yield compare(ev, "best validation accuracy", m.best_accuracy, "fine_tune_2", "fine_tune_3_lr", at_most(0.02))
    yield single(ev, "gain of the last five epochs", m.late_gain, "fine_tune_3_lr", at_least(0.005))


@rule(
    "5e", "at 5e-3 early stopping ends the run; train loss is low, validation accuracy oscillates", "early_stopping",
    "ends before its budget; last train loss at most .5; validation accuracy changes direction at least twice in the "
    "last five epochs",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    yield property_of(ev, "ends before its budget", m.ends_early, "early_stopping")
    yield single(ev, "last training loss", m.last_loss, "early_stopping", at_most(0.5))
    yield property_of(ev, "changes direction at least twice in the last five epochs", m.oscillates, "early_stopping")


@rule(
    "5f", "at 5e-4 every optimizer overfits but SGD, the only one that stops early, with poor results",
    "adam, sgd, adamw, rmsprop",
    "last train accuracy at least .3 above validation accuracy for the three others and not for sgd; sgd alone ends "
    "early; sgd's best validation accuracy by at least .05 below each of them",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for name, aim in (*((name, at_least(0.3)) for name in ADAPTIVE), ("sgd", below(0.3))):
        yield single(ev, "last training − validation accuracy", m.last_gap, name, aim)
    yield property_of(
        ev, "sgd alone ends early",
        lambda sgd, *others: m.ends_early(sgd) and not any(map(m.ends_early, others)), "sgd", *ADAPTIVE,
    )  # fmt: skip
    for name in ADAPTIVE:
        yield compare(ev, "best validation accuracy", m.best_accuracy, name, "sgd", at_least(0.05))


@rule(
    "5g", "at 1e-5 SGD stays far below the other three, which are alike, Adam best",
    "adam_2, sgd_2, adamw_2, rmsprop_2: best validation accuracy",
    "sgd by at least .1 below each; the other three alike, margin .05; adam's best not below either (fails only if "
    "wholly below)",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    slow = [f"{name}_2" for name in ADAPTIVE]
    pairs = [(name, "sgd_2", at_least(0.1)) for name in slow]
    pairs += [(a, b, equivalent(0.05)) for a, b in combinations(slow, 2)]
    pairs += [("adam_2", name, NOT_BELOW) for name in slow[1:]]
    for a, b, aim in pairs:
        yield compare(ev, "best validation accuracy", m.best_accuracy, a, b, aim)


@rule(
    "5h", "the best sweep runs have a learning rate of the order of 1e-3 and batch 64 or 128; best validation accuracy "
    "0.507",
    "the search's own 12 trials",
    "the three best have a rate in [1e-3, 1e-2] and batch 64 or 128. † best alike .507, margin .03", "0.507",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    def in_range(record: Record) -> bool:
        return 1e-3 <= m.setting("lr", record) <= 1e-2 and m.setting("batch_size", record) in (64, 128)

    trials = twelve(ev, "search")
    yield best_have("the three best have a rate in [1e-3, 1e-2] and batch 64 or 128", trials, 3, in_range)
    best = winners(trials)
    for field in ("lr", "batch_size"):
        yield judge(f"{field} of the best trial", numbers(best, partial(m.setting, field)), SHOWN_ONLY)
    yield paper_only(
        ev, "validation accuracy of the best trial", numbers(best, m.best_accuracy), equivalent(0.03, 0.507)
    )


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
    best = {seed: max(map(m.best_accuracy, runs), key=lambda number: number.value) for seed, runs in others.items()}
    ours, test = numbers(dropout, m.best_accuracy), ev.test_accuracy("dropout", dropout)
    yield judge("best validation accuracy, best other run − dropout", difference(best, ours), at_most(0.01))
    yield judge("dropout's validation − test accuracy", difference(ours, test), at_most(0.03))
    yield paper_only(ev, "dropout's test accuracy", test, equivalent(0.03, 0.51))


@rule(
    "5j", "(in passing, 5.4) a low learning rate is better when only some layers are freed",
    "in passing, 5.4: a low rate is better; best validation accuracy",
    "adam_2, adamw_2 and rmsprop_2 each above their 5e-4 twin; the best of the report's twelve points, trained by us, "
    "has a rate below 5e-4",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    for name in ADAPTIVE:
        yield compare(ev, "best validation accuracy", m.best_accuracy, f"{name}_2", name, above())
    points = twelve(ev, "sweep")
    yield best_have(
        "the best of the twelve points has a rate below 5e-4", points, 1, lambda run: m.setting("lr", run) < 5e-4
    )
    yield judge("its rate", numbers(winners(points), partial(m.setting, "lr")), SHOWN_ONLY)


@rule(
    "5k", "(in passing, 5.2) the lowered rate probably generalises better",
    "in passing, 5.2: the lowered rate generalises better",
    "last train accuracy less validation accuracy smaller in fine_tune_3_lr than in fine_tune_2, at a validation "
    "accuracy at most .02 lower",
)  # fmt: skip
def _(ev: Evidence) -> Iterator[Part]:
    pair = ("fine_tune_2", "fine_tune_3_lr")
    yield compare(ev, "last training − validation accuracy", m.last_gap, *pair, above())
    yield compare(ev, "validation accuracy", m.final_accuracy, *pair, at_most(0.02))
