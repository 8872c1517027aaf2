"""The pieces of the loop: training for an epoch, evaluation, what is measured on the way, early stopping."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deepnet.data.datasets import is_source
from deepnet.training.ready import batches_of, device_of, scores, usable_precision
from experimentTable import UsageError
from myModel import set_train_mode, weight_layers
from optimizerFunction import AsTheyLie, as_it_lies, drop_subnormals
from utilityFunction import arithmetic, cast, device, give_back, has_float64

Loss = Callable[[Tensor, Tensor], Tensor]
PIECE = 2**16  # numbers whose squares are summed in one go


def l2_norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of each tensor, (len(tensors),) in float64, where the device has it.

    On a CPU torch copies what it sums in float64, so there squares are summed in float32, at most `PIECE` numbers at a time (off by
    3e-6 mostly, where a whole tensor of 8 million is by 3e-4), and in float64 where they may leave float32's range, as the gradients of a
    deep plain net's first layers do: at a norm of 1e-14 the squares that vanish add up to 4e-6 of it at most. On a device without
    float64 each tensor is divided by its largest number first.
    """
    if not has_float64():
        largest = torch.stack(torch._foreach_norm(tensors, math.inf)).clamp(min=torch.finfo(torch.float32).tiny)
        return largest * torch.stack(torch._foreach_norm(torch._foreach_div(tensors, largest.unbind()), 2))
    if device().type != "cpu":
        return torch.stack(torch._foreach_norm(tensors, 2, torch.float64))
    split = [as_it_lies(t).flatten().split(PIECE) if t.numel() > PIECE else (t,) for t in tensors]
    pieces = [piece for parts in split for piece in parts]
    norms = torch.stack(torch._foreach_norm(pieces, 2)).double()
    outside = (~((norms > 1e-14) & (norms < 1e18))).nonzero().flatten()
    if len(outside):
        norms[outside] = torch.stack(torch._foreach_norm([pieces[i] for i in outside], 2, torch.float64))
    return torch.segment_reduce(norms.square(), "sum", lengths=torch.tensor([len(parts) for parts in split])).sqrt()


class GradientNorms:
    """Sums the gradients' norms over steps on the device, for all parameters at once; read once an epoch."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        position = {id(p): i for i, p in enumerate(self._parameters)}
        layers = [layer.weight for _, layer in weight_layers(model)]
        weights = [weight for weight in layers if id(weight) in position]
        self._learns = [id(weight) in position for weight in layers]
        self._weights = torch.tensor([position[id(w)] for w in weights], dtype=torch.long, device=device())
        widest = torch.float64 if has_float64() else torch.float32
        self._roots = torch.tensor([math.sqrt(w.numel()) for w in weights], dtype=widest, device=device())
        self.reset()

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sum, self._global = self._roots.new_zeros(2)
        self._log_rms = torch.zeros_like(self._roots)

    @torch.profiler.record_function("gradient norms")
    def add(self) -> None:
        """Take in the gradients as the backward pass left them."""
        norms = l2_norms([torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters])
        self._sum += norms.sum()
        self._global += l2_norms([norms])[0]
        self._log_rms += (norms[self._weights] / self._roots).clamp(min=1e-30).log10()

    def row(self, steps: int) -> dict:
        """The report's own sum over tensors and steps; the global L2 norm, and log10 of each weight layer's RMS, as means per step.

        A weight layer that does not learn has None, so that the lists of a row line up with the model's weight layers.
        """
        measured = iter((self._log_rms / steps).tolist())
        return {
            "gradient_norm_sum": float(self._sum),
            "gradient_norm": float(self._global) / steps,
            "gradient_log10_rms": [next(measured) if learns else None for learns in self._learns],
        }


class Graphed:
    """`step(inputs, labels)` as one CUDA graph: launched at once, where a deep net's hundreds of kernels would wait for Python.

    The first batches go through `step` itself, which allocates what it needs; then one is recorded, which runs nothing, and replayed
    from there on. A batch of another shape, the last one of an epoch, goes through `step`. All that `step` reads and writes must
    stay where it is, and it may ask nothing of the device.
    """

    WARM_UP = 3

    def __init__(self, step: Callable[[Tensor, Tensor], None]) -> None:
        self._step, self._seen = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, inputs: Tensor, labels: Tensor) -> None:
        """Take the step on this batch."""
        self._seen += 1
        if self._seen == self.WARM_UP + 1:
            self._inputs, self._labels = inputs.clone(), labels.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step(self._inputs, self._labels)
        if self._graph is None or inputs.shape != self._inputs.shape:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch's, that the optimizer could be in a graph and is not
                return self._step(inputs, labels)
        self._inputs.copy_(inputs)
        self._labels.copy_(labels)
        self._graph.replay()


def train_epoch(
    model: nn.Module, data: Any, optimizer: torch.optim.Optimizer, precision: str = "fp32", gradients: GradientNorms | None = None,
    graph: bool = False, *, batch_size: int | None = None, loss: Loss = cross_entropy, fast: bool = False,
    classes: Sequence[Any] | None = None, after_step: Callable[[], object] | None = None,
) -> dict:  # fmt: skip
    """Train for one epoch; returns the epoch's running means.

    Args:
        data: a data set of (tensor, label) pairs, which is shuffled by torch's global generator; a loader; or (inputs, labels) batches.
        precision: "fp32", "fp64" or "bf16", as the model's weights and the hardware have it.
        gradients: the norms to add up, made for this model.
        graph: on a GPU the steps go as a CUDA graph, which the model must allow.
        batch_size: items per step where `data` is a data set (default 128).
        loss: from outputs (B, classes) and targets (B,) to the mean over the batch.
        fast: use what only makes steps faster; it changes rounding alone.
        classes: the labels in the order of the model's outputs, where they are no whole numbers below those.
        after_step: called after each optimizer step, as a schedule per step wants it.

    Returns:
        train_loss, train_accuracy, learning_rate (at the epoch's end), steps, train_seconds (with the making of the batches and the
        gradient norms, without evaluation), and the gradient norms where asked for. Nothing is read from the device before the end.

    Raises:
        UsageError: where `data` has no batches, gives what are no (tensor, label) pairs or labels that mean no output, and where the
            optimizer holds nothing of the model that learns.

    Example:
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> train_epoch(model, train_set, optimizer)["train_accuracy"]
    """
    own = not is_source(data)
    if own:
        precision = usable_precision(model, precision)
        check_loss(loss)
    check_optimizer(model, optimizer)
    batches = batches_of(model, data, precision, classes, batch_size, shuffle=True)
    set_train_mode(model)
    if gradients:
        gradients.reset()
    where = device_of(model)
    loss_sum = torch.zeros((), dtype=torch.float64 if precision == "fp64" else torch.float32, device=where)
    correct = torch.zeros((), device=where)
    images = steps = 0
    convolves = any(p.ndim == 4 for p in model.parameters())  # a mode costs half a millisecond per step in a deep MLP
    tidy = fast and where.type == "cpu"
    start = time.perf_counter()

    def step(inputs: Tensor, labels: Tensor) -> None:
        with arithmetic(precision, convolves, fast):
            outputs = model(cast(inputs, precision))
            if own:
                check_targets(scores(model, inputs, outputs, training=True), labels)
            value = loss(outputs, labels)
        optimizer.zero_grad()
        value.backward()
        if gradients:
            gradients.add()
        with AsTheyLie() if convolves and fast else nullcontext():
            optimizer.step()
        loss_sum.add_(value.detach() * len(labels))
        correct.add_((outputs.detach().argmax(1) == labels).sum())

    take = Graphed(step) if graph and where.type == "cuda" else step
    for inputs, labels in batches:
        if tidy and steps % 100 == 0:
            drop_subnormals(optimizer)  # a moment sinks for some 800 steps before it is subnormal
            give_back()  # CNN_res_56 at 128 pixels keeps 1 GB more by then
        take(inputs.to(where), labels.to(where))
        images, steps = images + len(labels), steps + 1
        if after_step:
            after_step()
    if not steps:
        raise UsageError("the data gave no batch to train on; give at least one image")
    row = {"train_loss": float(loss_sum) / images, "train_accuracy": float(correct) / images}
    row |= {"learning_rate": optimizer.param_groups[0]["lr"], "steps": steps, "train_seconds": time.perf_counter() - start}
    return row | (gradients.row(steps) if gradients else {})


def check_loss(loss: Any) -> None:
    """Raise UsageError for what is no callable from outputs and targets to their mean loss, as a class is none."""
    if isinstance(loss, type):
        raise UsageError(f"loss is the class {loss.__name__}; give one made of it, as {loss.__name__}()")
    if not callable(loss):
        raise UsageError(f"loss must be a callable from outputs and targets to their mean loss, got {loss!r:.60}")


def check_targets(outputs: Tensor, labels: Tensor) -> None:
    """Raise UsageError where a label is none of the outputs' numbers."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= outputs.shape[1]:
        found = f"labels {low} to {high} are in the data but the model has {outputs.shape[1]} outputs"
        raise UsageError(f"{found}; change its last layer, or pass classes=(...) in the order of the outputs")


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise UsageError for what is no optimizer, or holds what is not the model's, or nothing of it that learns."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"optimizer must be a torch.optim.Optimizer over the model's parameters, got {optimizer!r:.60}")
    learns = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if any(parameter not in learns for parameter in held):
        raise UsageError("the optimizer holds parameters that are not the model's; make it from the model that is trained")
    if not any(learns[parameter] for parameter in held):
        raise UsageError("the optimizer holds no parameter of the model that learns")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Any,
    precision: str | None = None,
    *,
    batch_size: int | None = None,
    loss: Loss = cross_entropy,
    fast: bool = False,
    classes: Sequence[Any] | None = None,
) -> tuple[dict, np.ndarray]:
    """Loss, accuracy (share of images) and macro accuracy (mean over classes), and (2, N): targets and predicted classes.

    `data` is a data set of (tensor, label) pairs, read in batches of `batch_size` (default 128), or a loader. Labels are
    whole numbers, those of the model's outputs, or `classes` says which output each one is, as `record.settings["classes"]` does of a
    run of `pipeline`. `precision` is by default the model's own. Leaves the model in eval mode.
    Raises UsageError for labels that mean no output, and for what is no such data set.

    >>> measured, predictions = evaluate(model, test_set)
    >>> measured["accuracy"]
    """
    own = not is_source(data)
    precision = usable_precision(model, precision) if own or precision is None else precision
    check_loss(loss)
    batches, where = batches_of(model, data, precision, classes, batch_size, shuffle=False), device_of(model)
    model.eval()
    losses, predicted, targets = [], [], []
    for inputs, labels in batches:
        inputs, labels = inputs.to(where), labels.to(where)
        with arithmetic(precision, fast=fast):
            outputs = scores(model, inputs, model(cast(inputs, precision)))
        if own:
            check_targets(outputs, labels)
        exact = outputs.float() if precision == "bf16" else outputs
        value = cross_entropy(exact, labels, reduction="sum") if loss is cross_entropy else loss(exact, labels) * len(labels)
        if value.ndim:
            raise UsageError(f"loss gives {value.numel()} numbers for a batch; it must give their mean, as reduction='mean' does")
        losses.append(value)
        predicted.append(outputs.argmax(1))
        targets.append(labels)
    if not targets:
        raise UsageError("the data gave no batch to evaluate on; give at least one image")
    predictions = torch.stack([torch.cat(targets), torch.cat(predicted)]).cpu().numpy()
    mean = float(torch.stack(losses).sum()) / predictions.shape[1]
    kind = np.min_scalar_type(outputs.shape[1] - 1)
    return {"accuracy": accuracy(predictions), "macro_accuracy": macro_accuracy(predictions), "loss": mean}, predictions.astype(kind)


def accuracy(predictions: np.ndarray) -> float:
    """The share of images, from (2, N): labels and classes given."""
    return float((predictions[0] == predictions[1]).mean())


def macro_accuracy(predictions: np.ndarray) -> float:
    """The mean over classes of the share of their images, from (2, N): labels and classes given."""
    label, given = predictions.astype(np.int64)
    totals = np.bincount(label)
    hits = np.bincount(label, weights=label == given, minlength=len(totals))
    return float((hits[totals > 0] / totals[totals > 0]).mean())


@torch.no_grad()
def probe(model: nn.Module, inputs: Tensor, precision: str = "fp32", fast: bool = False) -> dict:
    """What depth does to a signal: each weight layer's outputs, before any ReLU, for `inputs` (B, ...), in training's precision.

    probe_variance: variance across samples, mean over units; probe_dead: the share of units (features of a Linear, channels of a
    convolution) that are at most 0 for every sample, at every position; probe_distinct: how many of the B outputs differ. NaN stands
    for a layer that does not run, or is not called as a module, as in nn.MultiheadAttention. Leaves the model in eval mode.
    """
    seen: dict[int, tuple[float, float, float]] = {}

    def look(number: int, layer: nn.Module, output: Tensor) -> None:
        output = output.float() if precision == "bf16" else output  # exact; bf16 cannot hold a variance
        units = output.flatten(0, -2) if isinstance(layer, nn.Linear) else output.transpose(0, 1).flatten(1).T  # (B * positions, units)
        samples = output.flatten(1)
        dead = (units.amax(0) <= 0).float().mean()
        seen[number] = (float(samples.var(0).mean()), float(dead), count_distinct(samples))

    layers = [layer for _, layer in weight_layers(model)]
    hooks = [layer.register_forward_hook(lambda m, _i, out, n=n: look(n, m, out)) for n, layer in enumerate(layers)]
    model.eval()
    try:
        with arithmetic(precision, fast=fast):
            model(cast(inputs, precision))
    finally:
        for hook in hooks:
            hook.remove()
    found = [seen.get(n, (math.nan,) * 3) for n in range(len(layers))]
    return {f"probe_{what}": [numbers[i] for numbers in found] for i, what in enumerate(("variance", "dead", "distinct"))}


def count_distinct(rows: Tensor) -> int:
    """How many of the rows (N, M) differ in any bit: by sums of their bits with random weights, modulo 2**64.

    So no row leaves the device. Two rows that differ have the same sum with a chance below 2**-32.
    """
    bits = rows.contiguous().view(torch.int32)
    weights = torch.randint(-(2**63), 2**63 - 1, bits.shape[1:], generator=torch.Generator().manual_seed(0)).to(bits.device)
    return len(torch.cat([(few * weights).sum(1) for few in bits.split(32)]).unique())


@dataclass
class EarlyStopping:
    """The best epoch and the patience counter are tracked separately.

    The counter resets when the accuracy exceeds its reference by more than `min_delta`, and the reference then moves
    to it; `patience` epochs in a row without that end the run. The best epoch is the highest, the earliest of equals.
    """

    patience: int | None
    min_delta: float = 0.0
    reference: float = 0.0
    waited: int = 0
    best: float = -1.0
    best_epoch: int = 0

    def update(self, epoch: int, accuracy: float) -> bool:
        """Take in an epoch; returns whether it is the best so far."""
        if accuracy - self.reference > self.min_delta + 1e-9:  # a gain of exactly min_delta, in binary, is none
            self.reference, self.waited = accuracy, 0
        else:
            self.waited += 1
        if better := accuracy > self.best:
            self.best, self.best_epoch = accuracy, epoch
        return better

    @property
    def over(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.waited >= self.patience
