"""What a reader's labels mean: which output of a model each of them is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from experimentTable import UsageError

IGNORED = -100  # torch's default ignore_index


def plain_label(label: Any) -> int | str:
    """A label as a whole number or a word. Raises UsageError for what is neither, as a regression's target or a one-hot
    vector.

    >>> plain_label(torch.tensor([3]))
    3
    """
    plain = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
    while isinstance(plain, list) and len(plain) == 1:
        plain = plain[0]
    if isinstance(plain, list):
        raise UsageError(
            f"a label must be one number or word, found {len(plain)} numbers; of one-hot labels give label.argmax()"
        )
    if isinstance(plain, float):
        if plain != plain:
            raise UsageError("a label is NaN; give it its class, or leave its image out")
        if not plain.is_integer():
            raise UsageError(
                f"label {plain:g} is no class; classes are whole numbers or words, a regression cannot be trained here"
            )
        return int(plain)
    if not isinstance(plain, int | str):
        raise UsageError(f"a label must be one number or word, found {label!r:.60}")
    return plain if isinstance(plain, str) else int(plain)


@dataclass(frozen=True)
class LabelMap:
    """`names[i]` is what output `i` stands for. Without `numbers`, labels are targets already: whole numbers below
    `outputs`.
    """

    names: Sequence[Any] = ()
    outputs: int | None = None
    numbers: dict[Any, int] | None = field(default=None)

    def target(self, label: int | str) -> int:
        """The output that a label means. Raises UsageError for one that means none."""
        if self.numbers is not None:
            if label not in self.numbers:
                listed = ", ".join(map(repr, list(self.numbers)[:12]))
                raise UsageError(
                    f"label {label!r} is none of the classes {listed}; leave it out, train on it, or name it in classes"
                )
            return self.numbers[label]
        if isinstance(label, str):
            raise UsageError(f"the labels are words, as {label!r}; say by classes=(...) which output each one is")
        if label < 0 or (self.outputs is not None and label >= self.outputs):
            raise UsageError(
                f"label {label} means none of the model's {self.outputs} outputs; change the last layer, or give classes"
            )
        return label


class AnyLabel(LabelMap):
    """For a reading in which labels play no part: whatever they are, the target is 0."""

    def target(self, label: int | str) -> int:
        """0."""
        return 0


def label_map(train: Iterable[Any], evaluation: Iterable[Any], outputs: int, classes: Any, own_names: Any) -> LabelMap:
    """Which output each label means.

    Whole numbers from 0 to outputs - 1 stay what they are. Others, and words, are numbered in the order of `classes`,
    else of the data set's own `classes` where they are those words, else in ascending order of the training set's
    labels.

    Args:
        train: labels that the training set holds.
        evaluation: labels that the evaluation set holds.
        outputs: the model's outputs.
        classes: the reader's own order, or None; names alone where labels are whole numbers and these are words.
        own_names: the data set's `classes`, or None.

    Raises:
        UsageError: for labels of two kinds, more classes than outputs, and evaluation labels that training lacks.
    """
    train, evaluation = set(train), set(evaluation)
    both = train | evaluation
    if len({isinstance(label, str) for label in both}) > 1:
        raise UsageError("the data set's labels are words and numbers; use labels of one kind")
    words = any(isinstance(label, str) for label in both)
    if IGNORED in both:
        raise UsageError(
            f"label {IGNORED} marks what a loss of torch's ignores, which no accuracy can count; leave those items out"
        )
    order = _order(classes, "classes")
    if len(order) > outputs:
        raise UsageError(
            f"classes names {len(order)} classes but the model gives {outputs} outputs; change its last layer"
        )
    names_alone = not words and all(isinstance(name, str) for name in order)
    if order and names_alone and len(order) <= max(both, default=0):
        raise UsageError(
            f"classes names {len(order)} classes but label {max(both)} is in the data; name them all, from label 0 on"
        )
    if order and not names_alone:
        return LabelMap(order, outputs, _checked({label: i for i, label in enumerate(order)}, both))
    if not words and all(0 <= label < outputs for label in both):
        own = tuple(own_names) if _are_names(own_names, outputs) and len(own_names) == outputs else ()
        return LabelMap(order or own or tuple(range(outputs)), outputs)
    if not words and all(0 <= label < outputs for label in train):
        far = max(evaluation, key=abs)
        raise UsageError(
            f"label {far} is in the evaluation set but the model gives {outputs} outputs; leave it out, or change its last layer"
        )
    found = (
        tuple(own_names)
        if words and _are_names(own_names, outputs) and train <= set(own_names)
        else tuple(sorted(train))
    )
    if len(found) > outputs:
        remedy = "change its last layer to one output per class (two for a binary problem)"
        raise UsageError(f"the model gives {outputs} outputs but the labels are of {len(found)} classes; {remedy}")
    return LabelMap(found, outputs, _checked({label: i for i, label in enumerate(found)}, both))


def _checked(numbers: dict[Any, int], labels: set) -> dict[Any, int]:
    if unknown := sorted(labels - numbers.keys()):
        raise UsageError(
            f"label {unknown[0]!r} is in the data but not among the training set's classes; leave it out, or train on it"
        )
    return numbers


def _order(classes: Any, what: str) -> tuple:
    if classes is None:
        return ()
    if isinstance(classes, str | set | frozenset | Mapping) or not isinstance(classes, Iterable):
        raise UsageError(f"{what} must be a sequence of labels, in the order of the outputs, got {classes!r:.60}")
    order = tuple(plain_label(label) for label in classes)
    if len(set(order)) < len(order):
        raise UsageError(f"{what} names a class twice: {order!r:.80}")
    return order


def _are_names(names: Any, outputs: int) -> bool:
    return (
        isinstance(names, list | tuple) and 0 < len(names) <= outputs and all(isinstance(name, str) for name in names)
    )
