"""The rules that were added beside others once there was evidence, and how each is applied.

Why each was added stands in rules.md. A rule with a prime judges the same claim as the one without; both verdicts are
shown.
"""

from collections.abc import Iterator

from deepnet.claims import measures as m
from deepnet.claims.evidence import Evidence, compare, nothing_learned, property_of, rule, single, timing
from deepnet.claims.intervals import SHOWN_ONLY, Number, Part, above, at_least, at_most, judge_property
from deepnet.claims.rules import CHAPTER_5, order_of_depth
from experimentTable import EXPERIMENTS

LAST_FIVE = ", mean of the last five epochs"
# sweep_3 and sweep_8 have the same learning rate and batch size: one training, which counts once
STOPPING = [name for name in CHAPTER_5 if EXPERIMENTS[name].patience is not None and name != "sweep_8"]


@rule("3a′")
def _(ev: Evidence) -> Iterator[Part]:
    yield from ev.enough(10, "MLP_13", "MLP_23")
    yield from order_of_depth(ev, m.late_loss, m.late_accuracy, LAST_FIVE)


@rule("4a′")
def _(ev: Evidence) -> Iterator[Part]:
    yield compare(ev, f"training loss{LAST_FIVE}", m.late_loss, "CNN_10", "CNN_13", above())
    yield compare(ev, f"test accuracy{LAST_FIVE}", m.late_accuracy, "CNN_13", "CNN_10", above())


@rule("4b′")
def _(ev: Evidence) -> Iterator[Part]:
    yield from nothing_learned(ev, "CNN_30")
    found = {seed: m.first_to_last_alive(record) for seed, record in ev.runs("CNN_30").items()}
    alive = {seed: Number(difference) for seed, difference in found.items() if difference is not None}
    if found and not alive:
        ev.lacks("an epoch of CNN_30 after which no layer is dead")
    vanishes = {seed: number.value < -6 for seed, number in alive.items()}
    yield judge_property("CNN_30's gradient vanishes before a layer is dead", vanishes)
    yield ev.judge_numbers(
        "log10 of the RMS gradient, first layer − last layer, before a layer is dead", alive, SHOWN_ONLY
    )


@rule("5d′")
def _(ev: Evidence) -> Iterator[Part]:
    for name in ("fine_tune_2_lr", "fine_tune_3_lr"):
        yield property_of(ev, f"{name}'s training loss falls in at least 90% of the epochs", m.falls_steadily, name)
    pair = ("fine_tune_2", "fine_tune_3_lr")
    yield compare(ev, f"validation accuracy{LAST_FIVE}", m.late_accuracy, *pair, at_most(0.02))
    yield single(ev, "gain of the last five epochs on the five before", m.late_rise, "fine_tune_3_lr", at_least(0.005))


@rule("5k′")
def _(ev: Evidence) -> Iterator[Part]:
    pair = ("fine_tune_2", "fine_tune_3_lr")
    yield compare(ev, f"training − validation accuracy{LAST_FIVE}", m.late_gap, *pair, above())
    yield compare(ev, f"validation accuracy{LAST_FIVE}", m.late_accuracy, *pair, at_most(0.02))


@rule("q12")
def _(ev: Evidence) -> Iterator[Part]:
    runs = {f"{name} {seed}": record for name in STOPPING for seed, record in ev.find(name).items() if seed}
    cost = {run: Number(m.stopping_cost(record)) for run, record in runs.items() if m.ends_early(record)}
    if not cost:
        ev.lacks("a run of chapter 5 that stopped early, of seed 1 or above")
    yield ev.judge_numbers("validation accuracy, best − last epoch of a run", cost, above(0.005), unit="run")


def timed_again(claim: str, run: str) -> None:
    """Apply the rule of a claim on step times over several records of the timing `run`."""

    @rule(claim)
    def _(ev: Evidence) -> Iterator[Part]:
        yield from ev.enough(3, run)
        yield from timing(ev, run, records=None)


for claim, run in (("3f′", "timing_3"), ("4d′", "timing_4")):
    timed_again(claim, run)
