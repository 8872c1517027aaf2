"""The measurements: accuracies, gradient norms, and each layer's signal."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from deepnet.machine import device, has_float64
from deepnet.speed.optimizer_steps import contiguous_view
from deepnet.training.precision import arithmetic, cast
from myModel import weight_layers

NORM_BLOCK = 2**16  # numbers whose squares are summed in one call


def l2_norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of each tensor, (len(tensors),), in float64 if the device has it.

    On a CPU, torch would copy a tensor to sum it in float64. Squares are therefore summed in float32, at most
    `NORM_BLOCK` numbers at a time: the relative error is mostly 3e-6, where one sum over 8 million numbers has 3e-4.
    Sums that may leave float32's range, as those of the gradients of a deep plain network's first layers do, are taken
    in float64; at the limit, a norm of 1e-14, squares that underflow change the norm by at most 4e-6. On a device
    without float64, each tensor is first divided by its largest number.
    """
    if not has_float64():
        largest = torch.stack(torch._foreach_norm(tensors, math.inf)).clamp(min=torch.finfo(torch.float32).tiny)
        return largest * torch.stack(torch._foreach_norm(torch._foreach_div(tensors, largest.unbind()), 2))
    if device().type != "cpu":
        return torch.stack(torch._foreach_norm(tensors, 2, torch.float64))
    split = [contiguous_view(t).flatten().split(NORM_BLOCK) if t.numel() > NORM_BLOCK else (t,) for t in tensors]
    pieces = [piece for parts in split for piece in parts]
    norms = torch.stack(torch._foreach_norm(pieces, 2)).double()
    outside = (~((norms > 1e-14) & (norms < 1e18))).nonzero().flatten()
    if len(outside):
        norms[outside] = torch.stack(torch._foreach_norm([pieces[i] for i in outside], 2, torch.float64))
    return torch.segment_reduce(norms.square(), "sum", lengths=torch.tensor([len(parts) for parts in split])).sqrt()


class GradientNorms:
    """Sums the norms of gradients and updates over the steps of an epoch, on the device, for all parameters at once.

    It keeps a copy of the weight layers' weights, and changes nothing in the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        position = {id(p): i for i, p in enumerate(self._parameters)}
        layers = [layer.weight for _, layer in weight_layers(model)]
        self._layers = [weight for weight in layers if id(weight) in position]
        self._learns = [id(weight) in position for weight in layers]
        self._weights = torch.tensor([position[id(w)] for w in self._layers], dtype=torch.long, device=device())
        widest = torch.float64 if has_float64() else torch.float32
        self._roots = torch.tensor([math.sqrt(w.numel()) for w in self._layers], dtype=widest, device=device())
        self._before = [torch.empty_like(weight, requires_grad=False) for weight in self._layers]
        self.reset()

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sum, self._global = self._roots.new_zeros(2)
        self._log_rms, self._log_ratio = torch.zeros_like(self._roots), torch.zeros_like(self._roots)

    @torch.no_grad()
    @torch.profiler.record_function("gradient norms")
    def add(self) -> None:
        """Add the gradients' norms, and copy the weights; call it between the backward pass and the step."""
        norms = l2_norms([torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters])
        self._sum += norms.sum()
        self._global += l2_norms([norms])[0]
        self._log_rms += (norms[self._weights] / self._roots).clamp(min=1e-30).log10()
        if self._layers:
            torch._foreach_copy_(self._before, self._layers)

    @torch.no_grad()
    @torch.profiler.record_function("update norms")
    def add_updates(self) -> None:
        """Add the norms of the step's updates; call it once after each step."""
        if self._layers:
            weights = l2_norms(self._before).clamp(min=1e-30)
            torch._foreach_sub_(self._before, self._layers)
            self._log_ratio += (l2_norms(self._before) / weights).clamp(min=1e-30).log10()

    def row(self, steps: int) -> dict:
        """The report's sum of norms over tensors and steps, and means per step: of the global L2 norm, of log10 of each
        weight layer's RMS gradient, and of log10 of the RMS of its update over that of its weights.

        A frozen weight layer has None, so that the lists correspond to the model's weight layers. Logarithms below -30
        count as -30.
        """

        def by_layer(sums: Tensor) -> list[float | None]:
            measured = iter((sums / steps).tolist())
            return [next(measured) if learns else None for learns in self._learns]

        return {
            "gradient_norm_sum": float(self._sum),
            "gradient_norm": float(self._global) / steps,
            "gradient_log10_rms": by_layer(self._log_rms),
            "update_log10_ratio": by_layer(self._log_ratio),
        }


def accuracy(predictions: np.ndarray) -> float:
    """The share of images that are classified correctly, from (2, N): targets and predictions."""
    return float((predictions[0] == predictions[1]).mean())


def macro_accuracy(predictions: np.ndarray) -> float:
    """The mean over classes of the share of correctly classified images, from (2, N): targets and predictions."""
    targets, predicted = predictions.astype(np.int64)
    totals = np.bincount(targets)
    hits = np.bincount(targets, weights=targets == predicted, minlength=len(totals))
    return float((hits[totals > 0] / totals[totals > 0]).mean())


@torch.no_grad()
def probe(model: nn.Module, inputs: Tensor, precision: str = "fp32", fast: bool = False) -> dict:
    """Statistics of each weight layer's outputs for `inputs` (B, ...), before any ReLU.

    They are computed in `precision`, and the model is left in evaluation mode. probe_variance is the variance across
    samples, averaged over units; probe_dead is the share of units (features of a Linear layer, channels of a
    convolution) that are at most 0 for every sample and at every position; probe_distinct is the number of distinct
    outputs among the B. A layer that does not run, or is not called as a module, as in nn.MultiheadAttention, has NaN.
    """
    seen: dict[int, tuple[float, float, float]] = {}

    def look(number: int, layer: nn.Module, output: Tensor) -> None:
        output = output.float() if precision == "bf16" else output  # exact; bf16 cannot hold a variance
        # (B * positions, units)
        units = output.flatten(0, -2) if isinstance(layer, nn.Linear) else output.transpose(0, 1).flatten(1).T
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
    return {
        f"probe_{what}": [numbers[i] for numbers in found] for i, what in enumerate(("variance", "dead", "distinct"))
    }


def count_distinct(rows: Tensor) -> int:
    """The number of distinct rows of (N, M), compared bit by bit.

    Rows are compared on the device, by sums of their bits with random weights modulo 2**64; two different rows have the
    same sum with a probability below 2**-32.
    """
    bits = rows.contiguous().view(torch.int32)
    weights = torch.randint(-(2**63), 2**63 - 1, bits.shape[1:], generator=torch.Generator().manual_seed(0)).to(
        bits.device
    )
    return len(torch.cat([(few * weights).sum(1) for few in bits.split(32)]).unique())
