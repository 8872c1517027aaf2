"""The numbers that the report's text may name: what is read off a record, and how several records become one number.

An expression is a word and its arguments: `{{accuracy MLP_4}}` is the mean test accuracy over the seeds. Options:

- `in=cpu` or `in=paper,cpu`: the profiles; `paper` where nothing is said. `seed=0`: that seed alone.
- `as=mean`, `span` ("0.967 to 0.975"), `spread` (mean ± standard deviation), `each` ("0.749, 0.747 and 0.752"), `min`,
  `max`, `word` ("five").
- `at=final` (the epoch whose weights are kept), `best`, `last`, `last5` (the mean of the last five), or an epoch's
  number, for the quantities in `CURVES`.
- `digits=2`: decimals. `signed=1`: a difference may be negative.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from deepnet.claims import measures as m
from deepnet.claims.intervals import t_interval
from deepnet.document.committed import Committed
from deepnet.records.reading import Record
from experimentTable import EXPERIMENTS, JUDGED, UsageError, choose

WORDS = (
    "none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen",
)  # fmt: skip


def in_words(number: int) -> str:
    """Small numbers as words: 3 -> "three", 27 -> "27"."""
    return WORDS[number] if number < len(WORDS) else f"{number}"


Options = Mapping[str, str]
OPTIONS = ("in", "seed", "as", "at", "digits", "signed", "rates", "width")
Found = dict[tuple[str, str, int], float]  # (run, profile, seed) -> what its record says

# ---------------------------------------------------------------- what one record says

# quantity -> its values over the epochs, the untrained model first
CURVES: dict[str, Callable[[Record], np.ndarray]] = {
    "accuracy": m.accuracies,
    "train_accuracy": lambda record: record.column("train_accuracy"),
    "loss": m.train_losses,
    "evaluation_loss": lambda record: record.column(f"{record.result['split']}_loss"),
}


def at_epoch(curve: str, record: Record, at: str = "final") -> float:
    """A quantity's value at an epoch, named as in the module's docstring."""
    if "epoch" not in record.result:  # the classical baseline
        return record.result[curve]
    values, last = CURVES[curve](record), record.result["last_epoch"]
    if at == "last5":
        return float(values[last - 4 : last + 1].mean())
    epochs = {"final": record.result["epoch"], "best": record.result["best_epoch"], "last": last}
    return float(values[epochs[at] if at in epochs else int(at)])


def plateau(record: Record) -> int:
    """The epoch in which the training loss first leaves ln(classes), by more than .05."""
    below = m.left_plateau(record)
    return int(np.argmax(below)) + 1 if below.any() else 0


def under_eps(record: Record) -> int:
    """How many layers, from the input on, have an RMS gradient below Adam's eps of 1e-8 in every epoch's mean."""
    rows = np.array([row["gradient_log10_rms"] for row in record.rows if "gradient_log10_rms" in row], dtype=float)
    above = (rows >= -8).any(axis=0)
    return int(np.argmax(above)) if above.any() else rows.shape[1]


def lost(record: Record) -> float:
    """Points of evaluation accuracy that restoring the last epoch in place of the best would cost."""
    return 100 * m.stopping_cost(record)


# quantity -> what it is in a record, and the decimals it is written with
MEASURES: dict[str, tuple[Callable[[Record], float], int]] = {
    **{curve: (partial(at_epoch, curve), 3) for curve in CURVES},
    "gap": (m.last_gap, 3),
    "skill": (m.knn_skill, 2),
    "epochs": (lambda record: record.result["last_epoch"], 0),
    "restored": (lambda record: record.result["epoch"], 0),
    "plateau": (plateau, 0),
    "under_eps": (under_eps, 0),
    "told_apart": (lambda record: record.rows[0]["probe_distinct"][-1], 0),
    "decades": (lambda record: -m.first_to_last(record), 1),
    "norm": (m.norm, 2),
    "global_norm": (m.global_norm, 2),
    "lost": (lost, 1),
}

# ---------------------------------------------------------------- the records that an expression names


def values(ev: Committed, quantity: str, names: Sequence[str], options: Options) -> Found:
    """A quantity of each record of the runs `names`, in the profiles and seeds that the options name."""
    measure, _ = MEASURES[choose("quantity", quantity, MEASURES)]
    if "at" in options:
        measure = partial(at_epoch, quantity, at=options["at"])
    records = [r for p in options.get("in", "paper").split(",") for name in names for r in ev.needed(name, p)]
    if "seed" in options:
        records = [record for record in records if record.seed == int(options["seed"])]
    if not records:
        raise UsageError(f"{quantity} is asked of no run, or of a seed that is not there")
    return {(r.name, r.profile, r.seed): float(measure(r)) for r in records}


def write(numbers: Sequence[float], digits: int, way: str) -> str:
    """Several numbers as the option `as` asks for."""
    shown = [float(number) for number in (np.mean(numbers), np.min(numbers), np.max(numbers), *numbers)]
    mean, low, high, *each = (f"{round(number, digits) + 0.0:,.{digits}f}".replace("-", "−") for number in shown)
    if way == "spread":  # of a single number there is none
        return f"{mean} ± {np.std(numbers, ddof=1):.{digits}f}"
    forms = {
        "mean": mean, "min": low, "max": high, "span": low if low == high else f"{low} to {high}", "each": joined(each),
        "word": in_words(round(shown[0])),
    }  # fmt: skip
    return forms[choose("form", way, [*forms, "spread"])]


def joined(words: Sequence[str]) -> str:
    """("a", "b", "c") -> "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def quantity(name: str, ev: Committed, *runs: str, **options: str) -> str:
    """`{{accuracy MLP_4}}`: a quantity of one run or several."""
    digits = int(options.get("digits", MEASURES[name][1]))
    return write([*values(ev, name, runs, options).values()], digits, options.get("as", "mean"))


# ---------------------------------------------------------------- two runs beside each other


def paired(ev: Committed, name: str, a: str, b: str, options: Options) -> list[tuple[float, float]]:
    """A quantity of both runs in every profile and seed that both have."""
    one, other = values(ev, name, [a], options), values(ev, name, [b], options)
    pairs = [(value, other[b, p, seed]) for (_, p, seed), value in one.items() if (b, p, seed) in other]
    if not pairs:
        raise UsageError(f"{a} and {b} have no seed in common")
    return pairs


def points(ev: Committed, name: str, a: str, b: str, **options: str) -> str:
    """`{{points accuracy A B}}`: how many percentage points A lies above B, paired by seed.

    Raises UsageError where A lies below B on average, since the sentence then says the opposite of the records.
    """
    found = [100 * (x - y) for x, y in paired(ev, name, a, b, options)]
    if np.mean(found) < 0 and "signed" not in options:
        raise UsageError(f"{a} does not lie above {b}")
    return write(found, int(options.get("digits", 1)), options.get("as", "mean"))


def interval(ev: Committed, name: str, a: str, b: str, **options: str) -> str:
    """`{{interval accuracy A B}}`: the 95 % interval over the seeds of A less B, in percentage points."""
    found = t_interval([100 * (x - y) for x, y in paired(ev, name, a, b, options)], 0.95)
    return f"[{write(found[:1], 1, 'mean')}, {write(found[1:], 1, 'mean')}]"


def ratio(ev: Committed, name: str, a: str, b: str, **options: str) -> str:
    """`{{ratio norm A B}}`: A over B, paired by seed."""
    found = [x / y for x, y in paired(ev, name, a, b, options)]
    return write(found, int(options.get("digits", 1)), options.get("as", "mean"))


def more(ev: Committed, name: str, a: str, b: str, **options: str) -> str:
    """`{{more accuracy A B}}`: in how many of the seeds A lies above B, as "nine of fifteen"."""
    found = [x > y for x, y in paired(ev, name, a, b, options)]
    return f"{in_words(sum(found))} of {in_words(len(found))}"


def moved(ev: Committed, name: str, run: str, **options: str) -> str:
    """`{{moved accuracy MLP_23}}`: by how many points a seed's value differs between the two profiles, at most."""
    here, there = (values(ev, name, [run], {**options, "in": profile}) for profile in JUDGED)
    found = [100 * abs(value - there[run, JUDGED[1], seed]) for (_, _, seed), value in here.items()]
    return write(found, 1, "max")


def seeds(ev: Committed, name: str, **options: str) -> str:
    """`{{seeds MLP_4}}`: over how many seeds, or trainings of several profiles, as a word."""
    return in_words(sum(len(ev.needed(name, profile)) for profile in options.get("in", "paper").split(",")))


# ---------------------------------------------------------------- other numbers


def opened(ev: Committed, name: str, **options: str) -> str:
    """`{{opened dropout}}`: the accuracy on CIFAR-100's test set, from the run's first opening of it."""
    profile = options.get("in", "paper")
    found = m.opened_accuracies({r.seed: r for r in ev.needed(name, profile)}, ev.openings(profile))
    if not found:
        raise UsageError(f"there is no final test of {name} (profile {profile})")
    return write([*found.values()], 3, "mean")


def class_size(ev: Committed, dataset: str, **options: str) -> str:
    """`{{class_size mnist as=span}}`: how many training images a class has."""
    counts = [n for record in ev.needed("distribution", "paper") for n in record.result["counts"][dataset]]
    return write(counts, 0, options.get("as", "mean"))


def stopped(ev: Committed, what: str, **options: str) -> str:
    """`{{stopped lost}}`: a quantity of the table's runs that early stopping ended; `{{stopped count}}`: how many."""
    every = ev.runs("*", options.get("in", "paper"))
    records = [record for record in every if record.name in EXPERIMENTS and record.result.get("stopped_early")]
    ev.forget_all_but(records)
    if what == "count":
        return f"{len(records)}"
    measure, digits = MEASURES[what]
    return write([measure(record) for record in records], digits, options.get("as", "mean"))


FUNCTIONS: dict[str, Callable[..., str]] = {
    **{name: partial(quantity, name) for name in MEASURES},
    "points": points, "interval": interval, "ratio": ratio, "moved": moved, "more": more, "seeds": seeds,
    "opened": opened, "class_size": class_size, "stopped": stopped,
}  # fmt: skip
