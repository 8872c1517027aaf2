"""How each rule is applied: what it says stands in rules.md, which is not edited once there is evidence."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, pairwise
from math import log

from deepnet.claims import measures as m
from deepnet.claims.evidence import (
    RULES,
    Evidence,
    compare,
    nothing_learned,
    paper_only,
    property_of,
    rule,
    single,
    timing,
    vanished,
)
from deepnet.claims.intervals import (
    NOT_BELOW,
    SHOWN_ONLY,
    Number,
    Part,
    above,
    at_least,
    at_most,
    below,
    difference,
    equivalent,
    judge_property,
)
from deepnet.claims.measures import Measure, Record, Runs
from experimentTable import BOTH_PRECISIONS, EXPERIMENTS

__all__ = ["CHAPTER_5", "RULES"]

# ---------------------------------------------------------------- chapters 2 to 4: data, depth, residual connections

PLAIN_MLPS = ("MLP_4", "MLP_13", "MLP_23")
# the first is the report's, and judged
NORMS = {"norm": m.norm, "global L2 norm": m.global_norm, "mean RMS per layer": m.mean_rms}


@rule("2a")
def _(ev: Evidence) -> Iterator[Part]:
    counts = {seed: record.result["counts"] for seed, record in ev.runs("distribution").items()}
    for name in ("cifar10", "cifar100"):
        found = {seed: len(set(images[name])) == 1 for seed, images in counts.items()}
        yield judge_property(f"equal counts in {name}", found)
    ratio = {seed: Number(max(images["mnist"]) / min(images["mnist"])) for seed, images in counts.items()}
    yield ev.judge_numbers("largest / smallest class count in mnist", ratio, at_most(1.3, to=1))


@rule("2b")
def _(ev: Evidence) -> Iterator[Part]:
    yield single(ev, "5-NN skill", m.knn_skill, "tsne_mnist", at_least(0.9, to=1))
    yield single(ev, "5-NN skill", m.knn_skill, "tsne_cifar10", at_most(0.5, to=None))
    yield compare(ev, "5-NN skill", m.knn_skill, "tsne_cifar100", "tsne_cifar10", below())


def order_of_depth(ev: Evidence, loss: Measure, accuracy: Measure, epochs: str = "") -> Iterator[Part]:
    """That of two plain MLPs the deeper has the higher training loss and the lower test accuracy."""
    for shallow, deep in pairwise(PLAIN_MLPS):
        yield compare(ev, f"training loss{epochs}", loss, deep, shallow, above())
        yield compare(ev, f"test accuracy{epochs}", accuracy, shallow, deep, above())


@rule("3a")
def _(ev: Evidence) -> Iterator[Part]:
    yield from order_of_depth(ev, m.final_loss, m.final_accuracy)


@rule("3b")
def _(ev: Evidence) -> Iterator[Part]:
    for other in ("MLP_4", "MLP_13"):
        yield compare(
            ev, "mean test accuracy of epochs 1 to 3", lambda r: m.accuracies(r)[1:4].mean(),
            other, "MLP_23", at_least(0.05),
        )  # fmt: skip


@rule("3c")
def _(ev: Evidence) -> Iterator[Part]:
    yield from nothing_learned(ev, "MLP_33")


@rule("3d")
def _(ev: Evidence) -> Iterator[Part]:
    yield property_of(
        ev, "norm 4 < 13 < 23", lambda *runs: all(m.norm(a) < m.norm(b) for a, b in pairwise(runs)), *PLAIN_MLPS
    )
    yield from vanished(ev, "MLP_33")
    for words, measure in NORMS.items():
        for name in PLAIN_MLPS:
            yield single(ev, words, measure, name, SHOWN_ONLY)


@rule("3e")
def _(ev: Evidence) -> Iterator[Part]:
    deepest = [name for name in ("MLP_res_55", "MLP_res_96") if ev.find(name)]
    for name in ("MLP_res_15", "MLP_res_35", *deepest):
        yield compare(ev, "test accuracy", m.final_accuracy, name, "MLP_res_5", equivalent(0.01))
    yield compare(ev, "test accuracy of epoch 1", lambda r: m.accuracies(r)[1], "MLP_res_35", "MLP_res_5", SHOWN_ONLY)


@rule("3f")
def _(ev: Evidence) -> Iterator[Part]:
    yield from timing(ev, "timing_3")


@rule("3g")
def _(ev: Evidence) -> Iterator[Part]:
    for words, measure in NORMS.items():
        aim = equivalent(log(2)) if measure is m.norm else SHOWN_ONLY
        for name in ("MLP_res_15", "MLP_res_35"):
            yield compare(ev, f"log {words}", partial(m.logarithm, measure), name, "MLP_res_5", aim)


@rule("4a")
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "training loss", m.final_loss, "CNN_10", "CNN_13", above())
    yield compare(ev, "test accuracy", m.final_accuracy, "CNN_13", "CNN_10", above())


@rule("4b")
def _(ev: Evidence) -> Iterator[Part]:
    yield from nothing_learned(ev, "CNN_30")
    yield from vanished(ev, "CNN_30")


@rule("4c")
def _(ev: Evidence) -> Iterator[Part]:
    for a, b in combinations(("CNN_res_16", "CNN_res_35", "CNN_res_56"), 2):
        yield compare(ev, "test accuracy", m.final_accuracy, a, b, equivalent(0.03))
        yield compare(ev, "training loss", m.final_loss, a, b, equivalent(0.1))


@rule("4d")
def _(ev: Evidence) -> Iterator[Part]:
    yield from timing(ev, "timing_4")


# ---------------------------------------------------------------- chapter 5: from CIFAR-10 to CIFAR-100

ADAPTIVE = ("adam", "adamw", "rmsprop")
CHAPTER_5 = tuple(name for name, exp in EXPERIMENTS.items() if exp.chapter == 5)

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


@rule("5a")
def _(ev: Evidence) -> Iterator[Part]:
    yield paper_only(
        ev, "test accuracy of the baseline", ev.test_accuracy("baseline", ev.runs("baseline")), equivalent(0.03, 0.37)
    )


@rule("5b")
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "validation accuracy", m.final_accuracy, "fine_tune_1", "baseline", below())
    head_only = ev.numbers(ev.runs("fine_tune_1"), m.final_accuracy)
    yield paper_only(ev, "validation accuracy of fine_tune_1", head_only, equivalent(0.03, 0.29))


@rule("5c")
def _(ev: Evidence) -> Iterator[Part]:
    yield single(ev, "last training loss", m.last_loss, "fine_tune_2", at_most(0.1))
    yield single(ev, "last training − validation accuracy", m.last_gap, "fine_tune_2", at_least(0.3))


@rule("5d")
def _(ev: Evidence) -> Iterator[Part]:
    for name in ("fine_tune_2_lr", "fine_tune_3_lr"):
        yield property_of(ev, f"{name}'s training loss falls in at least 90% of the epochs", m.falls_steadily, name)
    yield compare(ev, "best validation accuracy", m.best_accuracy, "fine_tune_2", "fine_tune_3_lr", at_most(0.02))
    yield single(ev, "gain of the last five epochs", m.late_gain, "fine_tune_3_lr", at_least(0.005))


@rule("5e")
def _(ev: Evidence) -> Iterator[Part]:
    yield property_of(ev, "ends before its budget", m.ends_early, "early_stopping")
    yield single(ev, "last training loss", m.last_loss, "early_stopping", at_most(0.5))
    yield property_of(ev, "changes direction at least twice in the last five epochs", m.oscillates, "early_stopping")


@rule("5f")
def _(ev: Evidence) -> Iterator[Part]:
    for name, aim in (*((name, at_least(0.3)) for name in ADAPTIVE), ("sgd", below(0.3))):
        yield single(ev, "last training − validation accuracy", m.last_gap, name, aim)
    yield property_of(
        ev, "sgd alone ends early",
        lambda sgd, *others: m.ends_early(sgd) and not any(map(m.ends_early, others)), "sgd", *ADAPTIVE,
    )  # fmt: skip
    for name in ADAPTIVE:
        yield compare(ev, "best validation accuracy", m.best_accuracy, name, "sgd", at_least(0.05))


@rule("5g")
def _(ev: Evidence) -> Iterator[Part]:
    slow = [f"{name}_2" for name in ADAPTIVE]
    pairs = [(name, "sgd_2", at_least(0.1)) for name in slow]
    pairs += [(a, b, equivalent(0.05)) for a, b in combinations(slow, 2)]
    pairs += [("adam_2", name, NOT_BELOW) for name in slow[1:]]
    for a, b, aim in pairs:
        yield compare(ev, "best validation accuracy", m.best_accuracy, a, b, aim)


@rule("5h")
def _(ev: Evidence) -> Iterator[Part]:
    def in_range(record: Record) -> bool:
        return 1e-3 <= m.setting("lr", record) <= 1e-2 and m.setting("batch_size", record) in (64, 128)

    trials = twelve(ev, "search")
    yield best_have("the three best have a rate in [1e-3, 1e-2] and batch 64 or 128", trials, 3, in_range)
    best = winners(trials)
    for field in ("lr", "batch_size"):
        yield ev.judge_numbers(f"{field} of the best trial", ev.numbers(best, partial(m.setting, field)), SHOWN_ONLY)
    yield paper_only(
        ev, "validation accuracy of the best trial", ev.numbers(best, m.best_accuracy), equivalent(0.03, 0.507)
    )


@rule("5i")
def _(ev: Evidence) -> Iterator[Part]:
    seeds = ev.together(*CHAPTER_5)
    dropout = {seed: record for seed, record in ev.find("dropout").items() if seed in seeds}
    # train_resnet's accuracy is another data set's
    others = {s: [r for r in runs if r.name not in ("dropout", "train_resnet")] for s, runs in seeds.items()}
    numbers = {seed: ev.numbers(dict(enumerate(runs)), m.best_accuracy).values() for seed, runs in others.items()}
    best = {seed: max(found, key=lambda number: number.value) for seed, found in numbers.items()}
    ours, test = ev.numbers(dropout, m.best_accuracy), ev.test_accuracy("dropout", dropout)
    yield ev.judge_numbers("best validation accuracy, best other run − dropout", difference(best, ours), at_most(0.01))
    yield ev.judge_numbers("dropout's validation − test accuracy", difference(ours, test), at_most(0.03))
    yield paper_only(ev, "dropout's test accuracy", test, equivalent(0.03, 0.51))


@rule("5j")
def _(ev: Evidence) -> Iterator[Part]:
    for name in ADAPTIVE:
        yield compare(ev, "best validation accuracy", m.best_accuracy, f"{name}_2", name, above())
    points = twelve(ev, "sweep")
    yield best_have(
        "the best of the twelve points has a rate below 5e-4", points, 1, lambda run: m.setting("lr", run) < 5e-4
    )
    yield ev.judge_numbers("its rate", ev.numbers(winners(points), partial(m.setting, "lr")), SHOWN_ONLY)


@rule("5k")
def _(ev: Evidence) -> Iterator[Part]:
    pair = ("fine_tune_2", "fine_tune_3_lr")
    yield compare(ev, "last training − validation accuracy", m.last_gap, *pair, above())
    yield compare(ev, "validation accuracy", m.final_accuracy, *pair, at_most(0.02))


# ---------------------------------------------------------------- questions of our own, judged like the claims


def learning(claim: str, run: str) -> None:
    """Apply the rule of a question that asks whether an ablation learns."""

    @rule(claim)
    def _(ev: Evidence) -> Iterator[Part]:
        yield single(ev, "macro accuracy", m.macro_accuracy, run, above(0.5, to=None))


for question, run in (("q1", "MLP_33_eps"), ("q2", "CNN_30_eps"), ("q3", "MLP_33_he"), ("q5", "CNN_30_he")):
    learning(question, run)


@rule("q4")
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "test accuracy", m.final_accuracy, "MLP_4_he", "MLP_33_he", at_least(0.01))


@rule("q6")
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, "training loss", m.final_loss, "CNN_30_he", "CNN_13_he", above())


@rule("q7")
def _(ev: Evidence) -> Iterator[Part]:
    for model in BOTH_PRECISIONS:
        yield compare(ev, "test accuracy", m.final_accuracy, f"{model}_bf16", f"{model}_fp32", equivalent(0.01))
    for model in BOTH_PRECISIONS:
        yield compare(ev, "training loss", m.final_loss, f"{model}_bf16", f"{model}_fp32", SHOWN_ONLY)
