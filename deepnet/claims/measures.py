"""What the rules read off the record of one run: its final accuracy, its gradient's norm, whether it learned at all."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import takewhile
from math import log

import numpy as np

from deepnet.claims.intervals import Number, accuracy_number, macro_number, t_interval
from deepnet.records.reading import Record
from experimentTable import UsageError

Runs = Mapping[int, Record]  # seed -> finished record of one run
Column = Callable[[Record], np.ndarray]  # one value per epoch, epoch 0 (untrained) included
Measure = Callable[[Record], Number | float]  # a float is a bare number, which no images give an interval to


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
    """The mean over classes, of the final epoch."""
    return macro_number(record.result["macro_accuracy"], record.predictions)


def accuracies(record: Record) -> np.ndarray:
    """Evaluation accuracy, one value per epoch, epoch 0 (untrained) included."""
    return record.column(f"{record.result['split']}_accuracy")


def macro_accuracies(record: Record) -> np.ndarray:
    """The mean over classes, one value per epoch."""
    return record.column(f"{record.result['split']}_macro_accuracy")


def opened_accuracies(runs: Runs, openings: Iterable[Mapping]) -> dict[int, float]:
    """Seed -> CIFAR-100's test accuracy, from the first opening of a run's weights; a later one is no second chance.

    Of the baseline, the classifier that was chosen on held-out images counts.
    """
    found: dict[int, float] = {}
    for line in openings:
        record, opened = runs.get(line["seed"]), (line["run"], line["weights"])
        if record is None or (record.name, record.result["sha256"].get("weights.pt")) != opened:
            continue
        if record.result.get("chosen") in (None, line.get("classifier")):
            found.setdefault(record.seed, line["accuracy"])
    return found


def final_loss(record: Record) -> float:
    """Training loss of the final epoch."""
    return float(record.column("train_loss")[record.result["epoch"]])


def last_loss(record: Record) -> float:
    """Training loss of the last epoch that ran."""
    return float(record.column("train_loss")[record.result["last_epoch"]])


def last_gap(record: Record) -> float:
    """Training accuracy minus evaluation accuracy in the last epoch that ran."""
    return float(gaps(record)[record.result["last_epoch"]])


def train_losses(record: Record) -> np.ndarray:
    """Training loss, one value per epoch; NaN for epoch 0."""
    return record.column("train_loss")


def gaps(record: Record) -> np.ndarray:
    """Training accuracy minus evaluation accuracy, one value per epoch; NaN for epoch 0."""
    return record.column("train_accuracy") - accuracies(record)


def last_five(column: Column, record: Record) -> float:
    """The mean of a column over the last five epochs that ran."""
    return float(column(record)[1:][-5:].mean())


late_loss, late_accuracy, late_gap = (partial(last_five, column) for column in (train_losses, accuracies, gaps))


def late_rise(record: Record) -> float:
    """Evaluation accuracy, the mean of the last five epochs minus that of the five before."""
    return float(accuracies(record)[1:][-5:].mean() - accuracies(record)[1:][-10:-5].mean())


def late_gain(record: Record) -> float:
    """Evaluation accuracy of the last epoch minus that of five epochs before."""
    last = record.result["last_epoch"]
    return float(accuracies(record)[last] - accuracies(record)[last - 5])


def norm(record: Record) -> float:
    """The report's sum of gradient norms, per step, averaged over training."""
    return float(np.mean(record.column("gradient_norm_sum", True) / record.column("steps", True)))


def global_norm(record: Record) -> float:
    """The gradient's global L2 norm, per step, averaged over training."""
    return float(np.mean(record.column("gradient_norm", True)))


def logarithm(measure: Callable[[Record], float], record: Record) -> float:
    """Natural logarithm of `measure`, so that a difference is the log of a ratio."""
    return log(measure(record))


def layer_rms(record: Record) -> np.ndarray:
    """log10 of each weight layer's RMS gradient in forward order, averaged over training."""
    layers = [row["gradient_log10_rms"] for row in record.rows if "gradient_log10_rms" in row]
    if not layers:
        raise UsageError(
            f"{record.name} (seed {record.seed}) has no gradient_log10_rms; train it with record_gradients"
        )
    return np.array(layers, dtype=float).mean(axis=0)


def mean_rms(record: Record) -> float:
    """The RMS gradient of a layer: the geometric mean over layers and training."""
    return float(10 ** layer_rms(record).mean())


def first_to_last(record: Record) -> float:
    """log10 of the first layer's RMS gradient minus the last layer's, averaged over training."""
    return float(layer_rms(record)[0] - layer_rms(record)[-1])


def vanishes(record: Record) -> bool:
    """Whether the first layer's RMS gradient lies more than six orders below the last layer's."""
    return first_to_last(record) < -6


def dies(row: Mapping) -> bool:
    """Whether a hidden layer is dead as a whole at the end of an epoch. The last layer is followed by no ReLU."""
    return 1.0 in row.get("probe_dead", [])[:-1]


def first_to_last_alive(record: Record) -> float | None:
    """`first_to_last` in the last epoch before any hidden layer is dead as a whole; None where there is none.

    Once a layer is dead the gradient below it is exactly 0, for which rows have a floor, not a measurement.
    """
    alive = list(takewhile(lambda row: not dies(row), record.rows))[1:]
    return alive[-1]["gradient_log10_rms"][0] - alive[-1]["gradient_log10_rms"][-1] if alive else None


def left_plateau(record: Record) -> np.ndarray:
    """For each trained epoch, whether its training loss is below that of guessing, ln(classes), by more than 0.05."""
    return record.column("train_loss", True) < log(record.result["classes"]) - 0.05


def learns_nothing(record: Record) -> bool:
    """Whether the final train loss and macro accuracy are those of guessing."""
    classes = record.result["classes"]
    return final_loss(record) >= log(classes) - 0.05 and record.result["macro_accuracy"] <= 1.5 / classes


def ends_early(record: Record) -> bool:
    """Whether the run ended before its budget."""
    return record.result["last_epoch"] < record.result["budget"]


def stopping_cost(record: Record) -> float:
    """Evaluation accuracy of the best epoch minus that of the last that ran."""
    return float(record.result["best_accuracy"] - accuracies(record)[record.result["last_epoch"]])


def falls_steadily(record: Record) -> bool:
    """Whether the training loss falls in at least 90% of the epochs, of which the first is not counted."""
    return bool(np.mean(np.diff(record.column("train_loss", True)) < 0) >= 0.9)


def oscillates(record: Record) -> bool:
    """Whether the accuracy changes direction at least twice in the last five epochs; standing still is no change."""
    moves = np.sign(np.diff(accuracies(record)[1:][-5:]))
    return int(np.count_nonzero(np.diff(moves[moves != 0]))) >= 2


def step_ratios(records: Iterable[Record]) -> dict[tuple[str, str], list[float]]:
    """(plain, residual) -> seconds per step, residual / plain, of each alternating block."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for row in (row for record in records for row in record.rows):
        ratios.setdefault((row["plain"], row["residual"]), []).append(row["residual_seconds"] / row["plain_seconds"])
    return ratios


def step_ratio(record: Record, plain: str, residual: str) -> Number:
    """Seconds per step, residual / plain: the mean over the alternating blocks, with a t interval over them."""
    ratios = step_ratios([record]).get((plain, residual), [])
    return Number(float(np.mean(ratios)), partial(t_interval, ratios), of="blocks")


def best_of(records: Iterable[Record], places: int) -> list[Record]:
    """The best `places` by best accuracy; ties are not ranked, so all that share the last place count."""
    ranked = sorted(records, key=lambda record: record.result["best_accuracy"], reverse=True)
    return [r for r in ranked if r.result["best_accuracy"] >= ranked[places - 1].result["best_accuracy"]]


def knn_skill(record: Record) -> float:
    """5-nearest-neighbour accuracy in the embedding, 0 at chance and 1 if all are right."""
    return record.result["knn_skill"]


def setting(field: str, record: Record) -> float:
    """A field of the experiment that the record is of."""
    return record.settings["experiment"][field]


# ---------------------------------------------------------------- the same at other epochs

EPOCHS = ("registered", "last", "last five", "best")
# what can be read at other epochs than the registered ones, and from which column
COLUMNS: dict[Measure, Column] = {
    final_accuracy: accuracies, best_accuracy: accuracies, late_accuracy: accuracies, macro_accuracy: macro_accuracies,
    final_loss: train_losses, last_loss: train_losses, late_loss: train_losses, last_gap: gaps, late_gap: gaps,
}  # fmt: skip
STORED = {accuracies: final_accuracy, macro_accuracies: macro_accuracy}  # what the final epoch's predictions give


def at_epochs(epochs: str, measure: Measure) -> Measure:
    """`measure`, read at the last epoch, at the mean of the last five or at the best in place of its registered epochs.

    The best epoch is that of the evaluation accuracy, for a loss too. A measure of another kind stays as it is, and so
    does any measure of a record without epochs.
    """
    if epochs == "registered" or measure not in COLUMNS:
        return measure
    column = COLUMNS[measure]

    def read(record: Record) -> Number | float:
        last = record.result.get("last_epoch")
        if last is None:
            return measure(record)
        first = {"last": last, "last five": max(1, last - 4)}.get(epochs, record.result["best_epoch"])
        chosen = [first] if epochs == "best" else list(range(first, last + 1))
        if chosen == [record.result["epoch"]] and column in STORED:
            return STORED[column](record)
        return float(column(record)[chosen].mean())

    return read
