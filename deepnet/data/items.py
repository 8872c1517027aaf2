"""What a reader's data set hands out: (tensor, label) pairs, told from all else, and stacked to batches."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experimentTable import UsageError


@dataclass(frozen=True)
class Stacked:
    """A batch as a worker process hands it out: inputs (B, ...), and labels as they are."""

    inputs: Tensor
    labels: list[Any]


class Pair:
    """One item of a data set. Raises UsageError, saying what was found and what to do, for what is no (tensor, label)
    pair.
    """

    def __init__(self, item: Any) -> None:
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise UsageError(
                f"a data set's items must be (tensor, label) pairs, found {found_in(item)}; {_remedy(item)}"
            )
        self.inputs, self.label = item
        if not isinstance(self.inputs, Tensor):
            raise UsageError(
                f"a data set's inputs must be tensors, found {found_in(self.inputs)}; {_remedy(self.inputs)}"
            )


def found_in(item: Any) -> str:
    """What a reader has handed over, in words."""
    if isinstance(item, dict):
        return f"a {type(item).__name__} with the keys {', '.join(map(repr, item))}"
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {len(item)}: {', '.join(type(part).__name__ for part in item)}"[:120]
    module = type(item).__module__.partition(".")[0]
    return {"PIL": "a PIL image", "numpy": "a numpy array"}.get(module, f"a {type(item).__name__}")


def _remedy(item: Any) -> str:
    if isinstance(item, dict):
        keys = list(item) + ["image", "label"][len(item) :]
        return f"give pairs, as [(to_tensor(item[{keys[0]!r}]), item[{keys[1]!r}]) for item in data]"
    if type(item).__module__.startswith("PIL"):
        return "make tensors of them: transform=torchvision.transforms.ToTensor()"
    if type(item).__module__.startswith("numpy"):
        return "make tensors of them: torch.from_numpy(item).float()"
    return "wrap the data set in one that gives such pairs"


def collate(items: list[Any]) -> Stacked | str:
    """The items as a batch, or why they are none, in a word that a worker process can hand on."""
    try:
        pairs = [Pair(item) for item in items]
    except UsageError as error:
        return str(error)
    if len(shapes := sorted({tuple(pair.inputs.shape) for pair in pairs})) > 1:
        return f"the data set's images differ in size ({shapes[0]}, {shapes[1]}); resize them to one size first"
    return Stacked(torch.stack([pair.inputs for pair in pairs]), [pair.label for pair in pairs])
