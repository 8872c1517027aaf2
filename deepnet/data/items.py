"""Items of a reader's data set, which are checked to be (tensor, label) pairs and collated to batches."""

from typing import Any

import torch
from torch import Tensor

from experimentTable import UsageError

Collated = tuple[Tensor, list[Any]]  # inputs (B, ...), and labels as they are


def is_pair(item: Any, second: type = object) -> bool:
    """Whether the item is a pair of a tensor and a `second`."""
    pair = isinstance(item, tuple | list) and len(item) == 2
    return pair and isinstance(item[0], Tensor) and isinstance(item[1], second)


def as_pair(item: Any) -> tuple[Tensor, Any]:
    """Return the item if it is a (tensor, label) pair; else raise UsageError with what was found and what to do."""
    if not (isinstance(item, tuple | list) and len(item) == 2):
        raise UsageError(f"a data set's items must be (tensor, label) pairs, found {found_in(item)}; {_remedy(item)}")
    if not isinstance(item[0], Tensor):
        raise UsageError(f"a data set's inputs must be tensors, found {found_in(item[0])}; {_remedy(item[0])}")
    return item[0], item[1]


def collate(items: list[Any]) -> Collated | str:
    """The items as a batch; or the reason why they form none, since a worker process cannot raise in one line."""
    try:
        pairs = [as_pair(item) for item in items]
    except UsageError as error:
        return str(error)
    if len(shapes := sorted({tuple(inputs.shape) for inputs, _ in pairs})) > 1:
        return f"the data set's images differ in size ({shapes[0]}, {shapes[1]}); resize them to one size first"
    return torch.stack([inputs for inputs, _ in pairs]), [label for _, label in pairs]


def found_in(item: Any) -> str:
    """A description of what was found."""
    if isinstance(item, dict):
        return f"a {type(item).__name__} with the keys {', '.join(map(repr, item))}"
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {len(item)}: {', '.join(type(part).__name__ for part in item)}"[:120]
    library = type(item).__module__.partition(".")[0]
    return {"PIL": "a PIL image", "numpy": "a numpy array"}.get(library, f"a {type(item).__name__}")


def _remedy(item: Any) -> str:
    if isinstance(item, dict):
        image, label = [*item, *["image", "label"][len(item) :]][:2]
        return f"give pairs, as [(to_tensor(item[{image!r}]), item[{label!r}]) for item in data]"
    library = type(item).__module__.partition(".")[0]
    if library == "PIL":
        return "make tensors of them: transform=torchvision.transforms.ToTensor()"
    if library == "numpy":
        return "make tensors of them: torch.from_numpy(item).float()"
    return "wrap the data set in one that gives such pairs"
