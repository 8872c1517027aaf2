"""The mapping from a reader's labels to the model's outputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from experimentTable import UsageError

IGNORED = -100  # torch's default ignore_index


def plain_label(label: Any) -> int | str:
    """A label as a plain whole number or string. Raises UsageError for any other, such as a regression's target.

    >>> plain_label(torch.tensor([3]))
    3
    """
    plain = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
    while isinstance(plain, list) and len(plain) == 1:
        plain = plain[0]
    if isinstance(plain, str):
        return plain
    if isinstance(plain, int) or (isinstance(plain, float) and plain.is_integer()):
        return int(plain)
    if isinstance(plain, list):
        raise UsageError(
            f"a label must be one number or word, found {len(plain)} numbers; for one-hot labels, give "
            "label.argmax(); items with several labels each cannot be used"
        )
    if isinstance(plain, float) and plain != plain:
        raise UsageError("a label is NaN; give it its class, or leave its image out")
    if isinstance(plain, float):
        raise UsageError(
            f"label {plain:g} is not a class; classes are whole numbers or words, a regression cannot be trained here"
        )
    raise UsageError(f"a label must be one number or word, found {label!r:.60}")


@dataclass(frozen=True)
class LabelMap:
    """Maps labels to outputs; `names[i]` is the class of output `i`.

    Without `numbers`, labels are already targets: whole numbers below `outputs`.
    """

    names: Sequence[Any] = ()
    outputs: int | None = None
    numbers: dict[Any, int] | None = None

    def target(self, label: int | str) -> int:
        """The output of a label. Raises UsageError for a label without one."""
        if self.numbers is not None:
            if label not in self.numbers:
                listed = ", ".join(map(repr, list(self.numbers)[:12]))
                raise UsageError(
                    f"label {label!r} is none of the classes {listed}; leave it out, train on it, or name it in classes"
                )
            return self.numbers[label]
        if isinstance(label, str):
            raise UsageError(f"the labels are words, such as {label!r}; pass classes=(...) in the order of the outputs")
        if label < 0 or (self.outputs is not None and label >= self.outputs):
            raise UsageError(
                f"label {label} is none of the model's {self.outputs} outputs; change the last layer, or give classes"
            )
        return label


def label_map(train: Iterable[Any], evaluation: Iterable[Any], outputs: int, classes: Any, own_names: Any) -> LabelMap:
    """The mapping from labels to outputs.

    Whole numbers from 0 to outputs - 1 are used as they are. Other labels are numbered in the order of `classes`, else
    of the data set's own `classes` if these are the labels, else in ascending order of the training set's labels.

    Args:
        train: labels in the training set.
        evaluation: labels in the evaluation set.
        outputs: the number of the model's outputs.
        classes: the reader's own order, or None; for whole-number labels, words are only their names.
        own_names: the data set's `classes`, or None.

    Raises:
        UsageError: for labels of two kinds, more classes than outputs, and evaluation labels that training lacks.
    """
    train, evaluation = set(train), set(evaluation)
    both = train | evaluation
    words = any(isinstance(label, str) for label in both)
    if words and not all(isinstance(label, str) for label in both):
        raise UsageError("the data set's labels are words and numbers; use labels of one kind")
    if IGNORED in both:
        raise UsageError(
            f"label {IGNORED} marks items that torch's losses ignore but accuracies would count; leave them out"
        )
    order = _order(classes)
    if len(order) > outputs:
        raise UsageError(
            f"classes names {len(order)} classes but the model has {outputs} outputs; change its last layer"
        )
    if order and (words or not all(isinstance(name, str) for name in order)):
        return _numbered(order, outputs, both)
    if order and len(order) <= max(both, default=0):
        raise UsageError(
            f"classes names {len(order)} classes but label {max(both)} is in the data; name them all, from label 0 on"
        )
    is_named = isinstance(own_names, list | tuple) and all(isinstance(name, str) for name in own_names)
    own = tuple(own_names) if is_named and len(own_names) <= outputs else ()
    if not words and all(0 <= label < outputs for label in both):
        return LabelMap(order or (own if len(own) == outputs else ()) or tuple(range(outputs)), outputs)
    if not words and all(0 <= label < outputs for label in train):
        raise UsageError(
            f"label {max(evaluation, key=abs)} is in the evaluation set but the model has {outputs} outputs; "
            "leave it out, or change its last layer"
        )
    found = own if words and train <= set(own) else tuple(sorted(train))
    if len(found) > outputs:
        raise UsageError(
            f"the model has {outputs} outputs but the labels have {len(found)} classes; "
            "change its last layer to one output per class (two for a binary problem)"
        )
    return _numbered(found, outputs, both)


def _numbered(order: tuple, outputs: int, labels: set) -> LabelMap:
    """The labels numbered in this order. Raises UsageError for a label of the data that is not in it."""
    if unknown := sorted(labels - set(order)):
        raise UsageError(
            f"label {unknown[0]!r} is in the data but not among the training set's classes; "
            "leave it out, or train on it"
        )
    return LabelMap(order, outputs, {label: i for i, label in enumerate(order)})


def _order(classes: Any) -> tuple:
    if classes is None:
        return ()
    if isinstance(classes, str | set | frozenset | Mapping) or not isinstance(classes, Iterable):
        raise UsageError(f"classes must be a sequence of labels, in the order of the outputs, got {classes!r:.60}")
    order = tuple(plain_label(label) for label in classes)
    if len(set(order)) < len(order):
        raise UsageError(f"classes names a class twice: {order!r:.80}")
    return order
