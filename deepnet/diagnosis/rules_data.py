"""Rules on the data: gaps, labels, the scale of the inputs."""

import math

from deepnet.diagnosis.findings import Finding, percent, power, rule
from deepnet.diagnosis.measure import Measurements
from deepnet.diagnosis.sample import significance

LARGE_INPUT, SMALL_INPUT = 10.0, 0.02  # RMS of inputs, and their spread across samples; standardised, both are near 1
CHANCE_SIGMAS = 2.5  # agreement of neighbours less than so many standard deviations above chance is called none


@rule
def bad_data(m: Measurements) -> Finding | None:
    if not m.bad_items:
        return None
    words = f"{percent(m.bad_items)} of the items hold a NaN or an infinity, which makes the loss and all weights NaN."
    return Finding("nan-data", "", words, "Leave those items out, or fill the gaps.", 0.99, ("finite-items",))


@rule
def label_range(m: Measurements) -> Finding | None:
    low, high = m.labels
    if (low >= 0 and high < m.outputs) or not (m.is_cross_entropy or m.failure):  # another loss may take such labels
        return None
    words = f"The labels run from {low} to {high}, and the model's {m.outputs} outputs stand for 0 to {m.outputs - 1}."
    if high - low < m.outputs:
        cure = f"Subtract {low} from each label." if low > 0 else f"Add {-low} to each label."
        return Finding("label-range", "", words, cure, 0.99, ("shifted-labels",))
    return Finding("label-range", "", words, f"Give the last layer {high - low + 1} outputs.", 0.99)


@rule
def one_class(m: Measurements) -> Finding | None:
    if m.classes > 1:
        return None
    words = f"All {m.items} items that were read have the label {m.labels[0]}, so there is nothing to tell apart."
    return Finding("one-class", "", words, "Shuffle the data, or check how labels are read.", 0.97)


@rule
def sorted_labels(m: Measurements) -> Finding | None:
    if not m.by_class:
        return None
    words = "Most batches of the loader hold items of one class only: the items are sorted, and are not shuffled."
    return Finding("sorted-labels", "", words, "Give the loader shuffle=True.", 0.9)


@rule
def label_kind(m: Measurements) -> Finding | None:
    if not m.label_kind or not m.is_cross_entropy:
        return None
    words = f"Each label is {m.label_kind}; it was read as a whole number, but cross_entropy takes int64 labels (N,)."
    return Finding("label-kind", "", words, "Convert the labels by .long() and .flatten().", 0.4)


@rule
def constant_inputs(m: Measurements) -> Finding | None:
    if not m.input_variance <= 1e-10 * m.input_rms**2 or m.bad_items == 1:
        return None
    words = f"All {m.items} items that were read have the same inputs."
    return Finding("constant-inputs", "", words, "Check how the inputs are read and scaled.", 0.97)


@rule
def input_range(m: Measurements) -> Finding | None:
    spread = math.sqrt(m.input_variance) if m.input_variance > 0 else 0.0
    if not m.input_floats:  # token ids
        return None
    if m.input_rms > LARGE_INPUT:
        words = f"The inputs are large: their root mean square is {power(m.input_rms)}, where 1 is usual."
    elif 0 < spread < SMALL_INPUT:
        words = f"The inputs hardly differ: their standard deviation is {power(spread)}, where 1 is usual."
    else:
        return None
    cure = "Subtract the mean of the inputs and divide by their standard deviation."
    return Finding("input-range", "", words, cure, 0.9, ("standardise",))


@rule
def labels_unrelated(m: Measurements) -> Finding | None:
    if m.neighbours is None or m.classes < 2:
        return None
    nearest, central, chance = m.neighbours
    if max(significance(share, chance, m.items) for share in (nearest, central)) > CHANCE_SIGMAS:
        return None
    words = (
        "No relation between inputs and labels is seen: the nearest neighbour has the same label in "
        f"{percent(nearest)} of the items and the nearest class mean in {percent(central)}, where chance gives "
        f"{percent(chance)}."
    )
    return Finding("labels-unrelated", "", words, "Check that inputs and labels are shuffled together.", 0.75)
