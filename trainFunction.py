"""The pieces of the loop: what a model must take, batches, training, evaluation, what is measured on the way, early stopping."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experimentTable import Experiment, UsageError
from featureFunction import CHUNK, Source, first_inputs
from fileFunction import first_line
from myModel import set_train_mode, weight_layers
from optimizerFunction import AsTheyLie, as_it_lies, drop_subnormals
from utilityFunction import arithmetic, cast, device, give_back, has_float64

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
        weights = [layer.weight for _, layer in weight_layers(model) if id(layer.weight) in position]
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
        """The report's own sum over tensors and steps; the global L2 norm, mean a step; log10 of each weight layer's RMS, mean a step."""
        return {
            "gradient_norm_sum": float(self._sum),
            "gradient_norm": float(self._global) / steps,
            "gradient_log10_rms": (self._log_rms / steps).tolist(),
        }


def epoch_batches(images: int, batch_size: int, generator: torch.Generator, steps: int | None = None) -> list[Tensor]:
    """Shuffled indices in batches: one pass over all images, or exactly `steps` batches out of as many passes as it takes.

    A last batch of one image, which batch normalisation cannot train on, joins the batch before it.
    """
    batches: list[Tensor] = []
    while not batches or (steps and len(batches) < steps):
        parts = list(torch.randperm(images, generator=generator).split(batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        batches += parts
    return batches[:steps]


def check_model(model: nn.Module, train: Source, held: Source, exp: Experiment) -> None:
    """Raise UsageError where the model cannot take the images, has too few outputs for the classes, or nothing in it may learn.

    Or where it cannot train on batches of one image, and the data or `batch_size` make such. Moves the model to the device.
    """
    outputs = min(_outputs(model, source) for source in (train, held))
    if outputs < len(train.classes):
        raise UsageError(f"the model gives {outputs} outputs but the train set has {len(train.classes)} classes; change its last layer")
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("nothing in the model can be trained; name some of its children in trainable, or unfreeze some")
    if min(len(train), exp.batch_size) == 1:
        try:
            set_train_mode(copy.deepcopy(model))(first_inputs(train, 1).to(device()).float())
        except ValueError as error:  # of batch normalisation
            raise UsageError(f"the model cannot train on a batch of one image ({error}); give more, and a larger batch_size") from None


@torch.no_grad()
def lay_out(model: nn.Module, source: Source) -> torch.memory_format:
    """Lay the model out in memory as it is fastest, and say how: channels last where it has convolutions.

    Contiguous where it cannot be, as when it flattens its maps by `view`; asked of a copy, in evaluation and in training. And on
    MPS, where the gradients of a channels-last batch normalisation come out wrong (pytorch/pytorch#175189).
    """
    inputs = first_inputs(source, 2)
    layout = torch.contiguous_format
    if device().type != "mps" and inputs.ndim == 4 and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        with suppress(RuntimeError, ValueError, TypeError):
            trial = copy.deepcopy(model).to(memory_format=torch.channels_last)
            for training in (False, True):
                trial.train(training)(inputs.to(device(), next(model.parameters()).dtype, memory_format=torch.channels_last))
            layout = torch.channels_last
    model.to(memory_format=layout)
    return layout


@torch.no_grad()
def _outputs(model: nn.Module, source: Source) -> int:
    inputs = first_inputs(source, 2)
    try:
        outputs = model.to(device()).eval()(inputs.to(device()).float())
    except Exception as error:  # whatever a reader's own model raises
        shape = tuple(inputs.shape)
        raise UsageError(f"the model cannot take a batch of shape {shape} from the data set: {first_line(error)}") from None
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != len(inputs):
        given = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise UsageError(f"the model gives {given} for {len(inputs)} images; it must give scores (N, classes), so flatten them first")
    return outputs.shape[1]


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
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer, precision: str = "fp32",
    gradients: GradientNorms | None = None, graph: bool = False,
) -> dict:  # fmt: skip
    """One epoch of cross-entropy: (inputs (B, ...), labels (B,)) batches in, the epoch's running means out.

    Batches lie on the device, one at least; `gradients` are those of this model. Returns train_loss, train_accuracy,
    learning_rate, steps, train_seconds (with the making of the batches and the gradient norms, without evaluation, probe and
    checkpoint), and the gradient norms where asked for.
    Nothing is read back from the device before the end. `graph`: on a GPU the steps go as a CUDA graph, which the model must allow.
    """
    set_train_mode(model)
    if gradients:
        gradients.reset()
    loss_sum = torch.zeros((), dtype=torch.float64 if precision == "fp64" else torch.float32, device=device())
    correct = torch.zeros((), device=device())
    images = steps = 0
    convolves = any(p.ndim == 4 for p in model.parameters())  # a mode costs half a millisecond a step in a deep MLP
    start = time.perf_counter()

    def step(inputs: Tensor, labels: Tensor) -> None:
        with arithmetic(precision, convolves):
            outputs = model(cast(inputs, precision))
            loss = cross_entropy(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        if gradients:
            gradients.add()
        with AsTheyLie() if convolves else nullcontext():
            optimizer.step()
        loss_sum.add_(loss.detach() * len(labels))
        correct.add_((outputs.detach().argmax(1) == labels).sum())

    take = Graphed(step) if graph and device().type == "cuda" else step
    for inputs, labels in batches:
        if device().type == "cpu" and steps % 100 == 0:
            drop_subnormals(optimizer)  # a moment sinks for some 800 steps before it is subnormal
            give_back()  # CNN_res_56 at 128 pixels keeps 1 GB more by then
        take(inputs, labels)
        images, steps = images + len(labels), steps + 1
    row = {"train_loss": float(loss_sum) / images, "train_accuracy": float(correct) / images}
    row |= {"learning_rate": optimizer.param_groups[0]["lr"], "steps": steps, "train_seconds": time.perf_counter() - start}
    return row | (gradients.row(steps) if gradients else {})


@torch.no_grad()
def evaluate(model: nn.Module, source: Source, precision: str = "fp32") -> tuple[dict, np.ndarray]:
    """Loss, accuracy (share of images) and macro accuracy (mean over classes), and (2, N): labels and classes given.

    Leaves the model in eval mode.
    """
    model.eval()
    losses, given, truth = [], [], []
    for indices in torch.arange(len(source)).split(CHUNK):
        inputs, labels = source.batch(indices)
        with arithmetic(precision):
            outputs = model(cast(inputs, precision))
        losses.append(cross_entropy(outputs.float() if precision == "bf16" else outputs, labels, reduction="sum"))
        given.append(outputs.argmax(1))
        truth.append(labels)
    predictions = torch.stack([torch.cat(truth), torch.cat(given)]).cpu().numpy()
    loss = float(torch.stack(losses).sum()) / len(source)
    kind = np.uint8 if outputs.shape[1] <= 256 else np.uint16
    return {"accuracy": accuracy(predictions), "macro_accuracy": macro_accuracy(predictions), "loss": loss}, predictions.astype(kind)


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
def probe(model: nn.Module, inputs: Tensor, precision: str = "fp32") -> dict:
    """What depth does to a signal: each weight layer's outputs, before any ReLU, for `inputs` (B, ...), in training's precision.

    probe_variance: variance across samples, mean over units; probe_dead: the share of units (channels of a convolution)
    that are at most 0 for every sample; probe_distinct: how many of the B outputs differ. NaN stands for a layer that does
    not run, or is not called as a module, as in nn.MultiheadAttention. Leaves the model in eval mode.
    """
    seen: dict[int, tuple[float, float, float]] = {}

    def look(number: int, output: Tensor) -> None:
        output = output.float() if precision == "bf16" else output  # exact; bf16 cannot hold a variance
        units = output.transpose(0, 1).flatten(1)  # (units, B * positions)
        samples = output.flatten(1)
        dead = (units.amax(1) <= 0).float().mean()
        seen[number] = (float(samples.var(0).mean()), float(dead), count_distinct(samples))

    layers = [layer for _, layer in weight_layers(model)]
    hooks = [layer.register_forward_hook(lambda _m, _i, out, n=n: look(n, out)) for n, layer in enumerate(layers)]
    model.eval()
    with arithmetic(precision):
        model(cast(inputs, precision))
    for hook in hooks:
        hook.remove()
    variance, dead, distinct = zip(*(seen.get(n, (math.nan,) * 3) for n in range(len(layers))), strict=True)
    return {"probe_variance": list(variance), "probe_dead": list(dead), "probe_distinct": list(distinct)}


def count_distinct(rows: Tensor) -> int:
    """How many of the rows (N, M) differ in any bit: by sums of their bits with random weights, modulo 2**64.

    So no row leaves the device. Two rows that differ have the same sum with a chance below 2**-32.
    """
    bits = rows.contiguous().view(torch.int32)
    weights = torch.randint(-(2**63), 2**63 - 1, bits.shape[1:], generator=torch.Generator().manual_seed(0)).to(bits.device)
    return len(torch.cat([(few * weights).sum(1) for few in bits.split(32)]).unique())


@dataclass
class EarlyStopping:
    """The best epoch and the patience counter are two things.

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
