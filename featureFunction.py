"""What is frozen is computed once: a frozen prefix's outputs, feature extraction, the classical baseline."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from experimentTable import UsageError
from fileFunction import digest
from myModel import set_train_mode
from utilityFunction import arithmetic, cast, device, free_bytes, kept_memory

CHUNK = 500  # images a forward pass without gradients takes; fixed, so that a cache made again is the same to the bit
MOST_BYTES = 6 * 2**30  # a larger cache, or one of more than half of the free memory, is not made; the whole model runs instead


class Source(Protocol):
    """What the loop trains on: a number of images, handed out by index."""

    @property
    def classes(self) -> Sequence[Any]: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...) float inputs and (B,) int64 labels from 0 to len(classes) - 1."""
        ...


@dataclass(frozen=True)
class MemorySet:
    """Tensors in memory as a Source: `inputs` (N, ...), `labels` (N,) from 0 to len(classes) - 1."""

    inputs: Tensor
    labels: Tensor
    classes: Sequence[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels at `indices`, in the cache's precision."""
        indices = indices.to(self.inputs.device, non_blocking=True)  # else the device would be waited for, batch by batch
        return self.inputs[indices], self.labels[indices]


class AnySet:
    """Any map-style torch data set of (input, label) pairs as a Source; its labels may be any numbers or words.

    It is read an item at a time, so that random transforms stay random. Raises UsageError for an empty data set,
    for items that are not such pairs and for a label not among `classes`.
    """

    def __init__(self, dataset: Any, classes: Sequence[Any] | None = None) -> None:
        self.dataset = dataset
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise UsageError(f"a {type(dataset).__name__} cannot be read by number; give the data set of (tensor, label) pairs itself")
        if len(dataset) == 0:
            raise UsageError("the data set is empty; give one with at least two images")
        item = dataset[0]
        if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], Tensor)):
            raise UsageError("a data set's items must be (tensor, label) pairs; add a ToTensor transform, or wrap it")
        labels = [_plain_label(dataset[i][1]) for i in range(len(dataset))]
        if len({isinstance(label, str) for label in labels}) > 1:
            raise UsageError("the data set's labels are words and numbers; use labels of one kind")
        self.classes = tuple(sorted(set(labels))) if classes is None else tuple(classes)
        numbers = {label: number for number, label in enumerate(self.classes)}
        if unknown := set(labels) - set(numbers):
            raise UsageError(f"label {sorted(unknown)[0]!r} is in the evaluation set but not in the train set; leave it out or train on it")
        self.labels = torch.tensor([numbers[label] for label in labels])

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Items stacked, in float32; UsageError where their shapes differ."""
        inputs = [self.dataset[i][0] for i in indices.tolist()]
        if len({x.shape for x in inputs}) > 1:
            shapes = sorted({tuple(x.shape) for x in inputs})
            raise UsageError(f"the data set's images differ in size ({shapes[0]}, {shapes[1]}); resize them to one size first")
        return torch.stack(inputs).float().to(device()), self.labels[indices].to(device())


def _plain_label(label: Any) -> Any:
    label = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
    if not isinstance(label, int | float | str):
        raise UsageError(f"a label must be one number or word, got {label!r:.60}")
    if label != label:
        raise UsageError("a label is NaN; give it its class, or leave its image out")
    return label


def as_source(dataset: Any, classes: Sequence[Any] | None = None) -> Source:
    """`dataset` itself where it already is a Source, else wrapped in AnySet."""
    return dataset if hasattr(dataset, "batch") and hasattr(dataset, "classes") else AnySet(dataset, classes)


def first_inputs(source: Source, most: int) -> Tensor:
    """The first inputs (B, ...) of a source, at most so many."""
    return source.batch(torch.arange(min(most, len(source))))[0]


# ---------------------------------------------------------------- the frozen prefix


def split(model: nn.Module, sample: Tensor) -> tuple[nn.Sequential, nn.Sequential] | None:
    """Part a model into its frozen first children and the rest, so that rest(prefix(x)) == model(x).

    None where nothing at the front is frozen, or where the model does more than run its children in turn (asked of the model itself, in
    training and in evaluation, on `sample`, a batch of its inputs), or where training changes what the prefix does, as a dropout there
    would; a last child without weights is then left to the rest. A flattening between the children, as ResNet's forward has before its
    last layer, is put in.
    """
    children = list(model.children())
    if any(p.requires_grad for p in model.parameters(recurse=False)):  # of its own; one that begins as 1 or 0 would not be seen below
        return None
    frozen = 0
    while frozen < len(children) and not any(p.requires_grad for p in children[frozen].parameters()):
        frozen += 1
    if frozen == len(children):
        return None
    while frozen and any(True for child in children[:frozen] for _ in child.parameters()):
        if parts := _split_at(frozen, model, sample):
            return parts
        if any(True for _ in children[frozen - 1].parameters()):
            return None
        frozen -= 1  # a last one without weights, such as a dropout, may belong to what learns
    return None


def _split_at(frozen: int, model: nn.Module, sample: Tensor) -> tuple[nn.Sequential, nn.Sequential] | None:
    parts = []
    for child in model.children():
        last = child[-1] if isinstance(child, nn.Sequential) and len(child) else child
        parts.append(nn.Sequential(nn.Flatten(1), child) if isinstance(last, nn.Linear) else child)
    prefix, rest = nn.Sequential(*parts[:frozen]), nn.Sequential(*parts[frozen:])
    was_training = [(m, m.training) for m in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng([torch.cuda.current_device()] if device().type == "cuda" else []):
            set_train_mode(model)
            in_training = copy.deepcopy(prefix)(sample)
            whole, halves = (_drawn_alike(copy.deepcopy(run), sample) for run in (model, nn.Sequential(prefix, rest)))
            model.eval()
            outputs = prefix(sample)
            same = torch.equal(in_training, outputs) and torch.equal(rest(outputs), model(sample)) and torch.equal(whole, halves)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        same = False
    for module, training in was_training:
        module.training = training
    return (prefix, rest) if same else None


def _drawn_alike(model: nn.Module, sample: Tensor) -> Tensor:
    """The model's outputs with the same random numbers each time."""
    torch.manual_seed(0)
    return model(sample)


@torch.no_grad()
def forward_all(model: nn.Module, data: Source, precision: str = "fp32", most_bytes: float = MOST_BYTES) -> Tensor | None:
    """The outputs (N, ...) of `model`, left in eval mode, for all of `data`, in chunks of fixed size, laid out as they are.

    None where they take more than `most_bytes`.
    """
    model.eval()
    outputs = None
    for indices in torch.arange(len(data)).split(CHUNK):
        inputs, _ = data.batch(indices)
        with arithmetic(precision):
            chunk = model(cast(inputs, precision))
        if outputs is None:
            if chunk[0].numel() * chunk.element_size() * len(data) > most_bytes:
                return None
            channels_last = chunk.ndim == 4 and chunk.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            outputs = torch.empty((len(data), *chunk.shape[1:]), dtype=chunk.dtype, device=chunk.device, memory_format=layout)
        outputs[indices] = chunk
    return outputs


def cached(prefix: nn.Module, data: Source, precision: str) -> MemorySet | None:
    """`data` as the rest of the model sees it; None where that does not fit in memory or differs from one reading to the next.

    It fits where it takes at most `MOST_BYTES` and half of the memory that is free now, so a run that is gone on with may do without;
    where it does not, a line says so. Outputs for the report's own sets are shared by all runs of one prefix in this process, as
    long as there is room.
    """
    if (labels := getattr(data, "labels", None)) is None:
        return None
    key = _key(prefix, data, precision)
    if not key and _read_differently(data):
        return None
    outputs = _shared.pop(key, None) if key else None
    if outputs is None:
        while len(_shared) > 1 and free_bytes() / 2 < MOST_BYTES:  # the last may be this run's other set
            del _shared[next(iter(_shared))]
        if (outputs := forward_all(prefix, data, precision, min(MOST_BYTES, free_bytes() / 2))) is None:
            print("what the frozen layers give does not fit in memory; they are computed anew in each epoch")
            return None
    if key:  # the latest used stands last
        _shared[key] = outputs
        while len(_shared) > 2 and sum(tensor.nbytes for tensor in _shared.values()) > MOST_BYTES:  # a run's own two sets stay
            del _shared[next(iter(_shared))]
    return MemorySet(outputs, labels.to(outputs.device), data.classes)


_shared: dict[tuple, Tensor] = {}


def _read_differently(data: Source) -> bool:
    """Whether the data set's first inputs differ from one reading to the next, as behind a random transform."""
    inputs = first_inputs(data, CHUNK)
    return not all(torch.equal(inputs, first_inputs(data, CHUNK)) for _ in range(1 + 50 // len(data)))  # few may fall alike by chance


def _key(prefix: nn.Module, data: Any, precision: str) -> tuple | None:
    fingerprint = getattr(data, "fingerprint", None)
    if fingerprint is None:
        return None
    prefix.eval()
    with torch.no_grad(), arithmetic(precision):  # an edited `forward` has the same weights and name
        few = prefix(cast(first_inputs(data, 4), precision))
    made_of = digest(prefix.state_dict() | {"": few.float()}), str(prefix), precision
    return *made_of, fingerprint, data.size, data.memory_format, digest({"images": data.images})


@kept_memory()
def extract_features(model: nn.Module, data: Any, precision: str = "fp32") -> Tensor:
    """What the Linear layer that runs last gets to see, flat: (N, features) in float32. Leaves the model on the device, in eval mode.

    For ResNet-18 these are the 512 average-pooled features that the report's baseline is fitted on. Raises UsageError for a
    model that has no Linear layer, or calls none.
    """
    source = as_source(data)
    if not (layers := [m for m in model.modules() if isinstance(m, nn.Linear)]):
        raise UsageError(f"{type(model).__name__} has no Linear layer to take the features before; use forward_all(model, data)")
    features: list[Tensor] = []
    latest: list[Tensor] = []

    def look(_layer: nn.Module, inputs: tuple, named: dict) -> None:
        latest[:] = inputs or named.values()

    def keep(*_: Any) -> None:
        if not latest:
            raise UsageError(f"no Linear layer of {type(model).__name__} is called as a module; use forward_all(model, data)")
        features.append(latest.pop().flatten(1).float())

    hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    hooks.append(model.register_forward_hook(keep))
    try:
        forward_all(model.to(device()), source, precision, most_bytes=math.inf)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(features)


# ---------------------------------------------------------------- the classical baseline

CS = {"svm": (1e-5, 1e-4, 1e-3), "logistic_regression": (1e-4, 1e-3, 1e-2, 1e-1)}  # the regularisation strengths tried


def linear(state: dict) -> Callable[[np.ndarray], np.ndarray]:
    """The decision function of a fitted classifier from its tensors: features (N, F) to class numbers (N,)."""
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    return lambda x: arrays["classes"][(((x - arrays["mean"]) / arrays["scale"]) @ arrays["coef"].T + arrays["intercept"]).argmax(1)]


def classical_baseline(train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray]) -> tuple[list[dict], dict[str, dict]]:
    """Fit a linear SVM and a logistic regression on (features, labels), C chosen on `held_out`.

    Features are standardised. Returns one row for each classifier and C (`classifier`, `C`, `held_out_accuracy`, `converged`), and
    for each classifier the tensors (see `linear`) of a fit on both parts with its best C, among equals the smallest; that row says
    by `refit_converged` how the fit on both parts ended.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    makers = {
        "svm": lambda c: LinearSVC(C=c, dual=True, tol=0.1, max_iter=2000, random_state=0),  # tol: liblinear's own for the dual
        "logistic_regression": lambda c: LogisticRegression(C=c, tol=1e-3, max_iter=2000),
    }

    def fit(name: str, c: float, inputs: np.ndarray, labels: np.ndarray) -> tuple[dict, bool]:
        scaler = StandardScaler().fit(inputs)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            fitted = makers[name](c).fit(scaler.transform(inputs), labels)
        signs = np.array([[-1.0], [1.0]]) if len(fitted.classes_) == 2 else np.ones((1, 1))  # of two classes it keeps one row
        coef, intercept = signs * fitted.coef_, np.ravel(signs * fitted.intercept_)
        arrays = {"coef": coef, "intercept": intercept, "mean": scaler.mean_, "scale": scaler.scale_}
        state = {key: torch.from_numpy(np.asarray(value, np.float64)) for key, value in arrays.items()}
        state["classes"] = torch.from_numpy(fitted.classes_.astype(np.int64))  # a small part may lack some
        return state, not any(issubclass(w.category, ConvergenceWarning) for w in caught)

    rows: list[dict[str, Any]] = []
    states = {}
    everything = tuple(np.concatenate(pair) for pair in zip(train, held_out, strict=True))
    for name in makers:
        for c in CS[name]:
            state, converged = fit(name, c, *train)
            accuracy = float((linear(state)(held_out[0]) == held_out[1]).mean())
            rows.append({"classifier": name, "C": c, "held_out_accuracy": accuracy, "converged": converged})
        best = max((row for row in rows if row["classifier"] == name), key=lambda row: row["held_out_accuracy"])
        states[name], best["refit_converged"] = fit(name, best["C"], *everything)
    return rows, states
