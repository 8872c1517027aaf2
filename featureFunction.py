"""What is frozen is computed once: a frozen prefix's outputs, feature extraction, the classical baseline."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from deepnet.data.datasets import MemorySet, ReaderSet, as_source, listed_batches
from deepnet.data.labels import AnyLabel
from deepnet.training.ready import BATCH_SIZE, as_the_model_takes, device_of, size_of_batches, usable_precision
from experimentTable import UsageError
from fileFunction import digest
from myModel import set_train_mode
from utilityFunction import arithmetic, cast, free_bytes, kept_memory, preserved_random

MOST_BYTES = 6 * 2**30  # a larger cache, or one of more than half of the free memory, is not made; the whole model runs instead

# ---------------------------------------------------------------- the frozen prefix

# Modules of these packages do in evaluation mode the same for an image each time, but for those below.
KNOWN = ("torch.nn.", "torchvision.models.resnet", "torchvision.ops.misc", "modelBlock", "myModel")
DRAW_IN_TRAINING = (
    nn.modules.dropout._DropoutNd, nn.RReLU, nn.modules.batchnorm._NormBase, nn.RNNBase, nn.MultiheadAttention,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip


def chain_of(model: nn.Module) -> list[nn.Module] | None:
    """The modules that the model's forward is known to run one after the other; None where it may do anything else.

    Known are nn.Sequential's own forward, and that of torchvision's ResNet, which flattens its maps before the last layer.
    """
    forward = getattr(type(model), "forward", None)  # a scripted module's class has none
    if "forward" in vars(model) or _hooked(model) or any(True for _ in model.parameters(recurse=False)):
        return None
    if isinstance(model, nn.Sequential) and forward is nn.Sequential.forward:
        return list(model)
    resnet = torchvision.models.ResNet
    if isinstance(model, resnet) and forward is resnet.forward and type(model)._forward_impl is resnet._forward_impl:
        stages = [model.conv1, model.bn1, model.relu, model.maxpool, model.layer1, model.layer2, model.layer3, model.layer4, model.avgpool]
        return [*stages, nn.Sequential(nn.Flatten(1), model.fc)]
    return None


def split(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential] | None:
    """Part a model into its frozen first modules and the rest, so that rest(prefix(x)) is model(x) in training and in evaluation.

    None where the forward is not known to be a chain of modules, where nothing at the front is frozen, and where a frozen module
    is not known to give the same output for an image each time.
    """
    if (chain := chain_of(model)) is None:
        return None
    set_train_mode(model)
    frozen = 0
    while frozen < len(chain) and not any(p.requires_grad for p in chain[frozen].parameters()) and _constant(chain[frozen]):
        frozen += 1
    if frozen == len(chain) or not any(True for module in chain[:frozen] for _ in module.parameters()):
        return None
    return nn.Sequential(*chain[:frozen]), nn.Sequential(*chain[frozen:])


def _hooked(module: nn.Module) -> bool:
    return any(vars(module).get(hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"))


def _constant(module: nn.Module) -> bool:
    """Whether the module is known to do the same for an image each time, in the mode it is in, whatever else is in its batch."""
    for part in module.modules():
        if not (type(part).__module__ + ".").startswith(KNOWN) or _hooked(part) or "forward" in vars(part):
            return False
        if part.training and isinstance(part, DRAW_IN_TRAINING):
            return False
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:  # it has the batch's statistics always
            return False
        if isinstance(part, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
            return False
    return True


def split_as_asked(model: nn.Module, sample: Tensor) -> tuple[nn.Sequential, nn.Sequential]:
    """As `split`, for a caller who vouches that the model runs its children in turn and that what is frozen never changes.

    Raises UsageError where nothing at the front is frozen, and where the children in turn do not give the model's output for `sample`.
    """
    children = [child for _, child in model.named_children()]
    frozen = 0
    while frozen < len(children) and not any(p.requires_grad for p in children[frozen].parameters()):
        frozen += 1
    anything = any(True for child in children[:frozen] for _ in child.parameters())
    chain = chain_of(model) or children
    if chain is children and isinstance(children[-1], nn.Linear):
        chain = [*children[:-1], nn.Sequential(nn.Flatten(1), children[-1])]
    parts = nn.Sequential(*chain[:frozen]), nn.Sequential(*chain[frozen:])
    try:
        model.eval()
        with torch.no_grad(), preserved_random():
            same = anything and frozen < len(children) and torch.equal(parts[1](parts[0](sample)), model(sample))
    except Exception:  # whatever a reader's own model raises
        same = False
    if not same:
        raise UsageError("cache_frozen needs a model that runs its children in turn, the first of them frozen; leave it out")
    return parts


@torch.no_grad()
def forward_all(
    model: nn.Module, data: Any, precision: str = "fp32", most_bytes: float = math.inf, *, batch_size: int = 500, fast: bool = True
) -> tuple[Tensor, Tensor] | None:
    """The outputs (N, ...) of `model`, left in eval mode, for all of `data`, laid out as they are, and the targets (N,).

    `data` is read once, in batches of `batch_size`, or a loader's own. None where the outputs take more than `most_bytes`.
    """
    model.eval()
    source, where = as_source(data), device_of(model)
    outputs, pieces, targets, done = None, [], [], 0
    known = getattr(source, "loader", None) is None  # a loader may leave items out, or draw them more than once
    for inputs, labels in source.in_order(batch_size):
        with arithmetic(precision, fast=fast):
            chunk = model(cast(inputs.to(where), precision))
        if known and outputs is None:
            if chunk[0].numel() * chunk.element_size() * len(source) > most_bytes:
                return None
            channels_last = chunk.ndim == 4 and chunk.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            outputs = torch.empty((len(source), *chunk.shape[1:]), dtype=chunk.dtype, device=chunk.device, memory_format=layout)
        if outputs is None:
            pieces.append(chunk)
        else:
            outputs[done : done + len(chunk)] = chunk
        targets.append(labels)
        done += len(chunk)
    if not targets:
        raise UsageError("the data gave no batch; give at least one image")
    outputs = torch.cat(pieces) if outputs is None else outputs
    return (outputs, torch.cat(targets).to(outputs.device)) if outputs.nbytes <= most_bytes else None


def cached(prefix: nn.Module, data: Any, precision: str, batch_size: int) -> MemorySet | None:
    """`data` as the rest of the model sees it, read once; None where that does not fit in memory.

    It fits where it takes at most `MOST_BYTES` and half of the memory that is free now, so a resumed run may do without; where it does
    not, a line says so. Outputs for the report's own sets are shared by all runs of one prefix in this process, as long as there is room.
    """
    key = _key(prefix, data, precision)
    found = _shared.pop(key, None) if key else None
    if found is None:
        while len(_shared) > 1 and free_bytes() / 2 < MOST_BYTES:  # the last may be this run's other set
            del _shared[next(iter(_shared))]
        if (found := forward_all(prefix, data, precision, min(MOST_BYTES, free_bytes() / 2), batch_size=batch_size)) is None:
            print("what the frozen layers give does not fit in memory; they are computed anew in each epoch")
            return None
    if key:  # the latest used stands last
        _shared[key] = found
        while len(_shared) > 2 and sum(tensor.nbytes for tensor, _ in _shared.values()) > MOST_BYTES:  # a run's own two sets stay
            del _shared[next(iter(_shared))]
    return MemorySet(*found, data.classes)


_shared: dict[tuple, tuple[Tensor, Tensor]] = {}


def without_frozen_prefix(
    model: nn.Module, train: Any, evaluation: Any, precision: str, batch_size: int, asked: bool = False
) -> tuple[nn.Module, Any, Any]:
    """The part of the model that learns, and both sets as that part sees them; all as they are where nothing can be cut off.

    A data set that is read item by item, as random transforms need it, is cached only where the caller has `asked` for that.
    """
    if asked:
        parts: Any = split_as_asked(model, cast(train.first(4).to(device_of(model)), precision))
    else:
        parts = None if isinstance(train, ReaderSet) or isinstance(evaluation, ReaderSet) else split(model)
    if not parts or (seen := cached(parts[0], train, precision, batch_size)) is None:
        return model, train, evaluation
    seen_too = cached(parts[0], evaluation, precision, batch_size)
    return (parts[1], seen, seen_too) if seen_too else (model, train, evaluation)


def _key(prefix: nn.Module, data: Any, precision: str) -> tuple | None:
    fingerprint = getattr(data, "fingerprint", None)
    if not isinstance(fingerprint, str):  # one of the report's own sets has one
        return None
    prefix.eval()
    with torch.no_grad(), arithmetic(precision):  # an edited `forward` has the same weights and name
        few = prefix(cast(data.first(4), precision))
    made_of = digest(prefix.state_dict() | {"": few.float()}), str(prefix), precision
    return *made_of, fingerprint, data.size, data.memory_format, digest({"images": data.images})


@kept_memory()
def extract_features(
    model: nn.Module, data: Any, precision: str | None = None, *, batch_size: int | None = None, fast: bool = False
) -> Tensor:
    """What the Linear layer that runs last gets to see, flat: (N, features) in float32. Leaves the model in eval mode.

    For ResNet-18 these are the 512 average-pooled features that the report's baseline is fitted on. `data` is a data set of (tensor,
    label) pairs, read in batches of `batch_size` (default 128), or a loader; labels play no part. `precision` is by
    default the model's own. Raises UsageError for a model that has no Linear layer, or calls none.

    >>> extract_features(torchvision.models.resnet18(), test_set).shape
    torch.Size([10000, 512])
    """
    size = size_of_batches("batch_size", data, batch_size, BATCH_SIZE)
    precision = usable_precision(model, precision)
    if listed_batches(data):
        data = [(image, 0) for inputs, *_ in data for image in inputs]
    source = as_source(data)
    if isinstance(source, ReaderSet):
        source.labels = AnyLabel()
    source = as_the_model_takes(model, source)
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
        forward_all(model, source, precision, batch_size=size, fast=fast)
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
