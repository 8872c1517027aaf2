"""What is measured of a model: accuracies, gradient norms, each layer's signal."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from deepnet.machine import device, has_float64
from deepnet.speed.optimizer_steps import contiguous_view
from deepnet.training.precision import arithmetic, cast
from myModel import weight_layers

NORM_BLOCK = 2**16  # numbers whose squares are summed in one go


def l2_norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of each tensor, (len(tensors),) in float64, where the device has it.

    On a CPU torch copies what it sums in float64, so there squares are summed in float32, at most `NORM_BLOCK` numbers
    at a time (off by 3e-6 mostly, where a whole tensor of 8 million is by 3e-4), and in float64 where they may leave
    float32's range, as the gradients of a deep plain net's first layers do: at a norm of 1e-14 the squares that vanish
    add up to 4e-6 of it at most. On a device without float64 each tensor is divided by its largest number first.
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
    """Sums the norms of gradients and updates over steps on the device, for all parameters at once; read once an epoch.

    It reads the weights and keeps a copy of those of the weight layers; it changes none.
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
        """Take in the gradients as the backward pass left them, and the weights before the step."""
        norms = l2_norms([torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters])
        self._sum += norms.sum()
        self._global += l2_norms([norms])[0]
        self._log_rms += (norms[self._weights] / self._roots).clamp(min=1e-30).log10()
        if self._layers:
            torch._foreach_copy_(self._before, self._layers)

    @torch.no_grad()
    @torch.profiler.record_function("update norms")
    def add_updates(self) -> None:
        """Take in what the step has changed; call it once after each step, whose gradients `add` has taken in."""
        if self._layers:
            weights = l2_norms(self._before).clamp(min=1e-30)
            torch._foreach_sub_(self._before, self._layers)
            self._log_ratio += (l2_norms(self._before) / weights).clamp(min=1e-30).log10()

    def row(self, steps: int) -> dict:
        """Means per step of the global L2 norm, of log10 of each weight layer's RMS gradient, and of log10 of the RMS
        of its update over that of its weight; the report's own sum.

        That sum goes over tensors and steps. A weight layer that does not learn has None, so that the lists of a row
        line up with the model's weight layers. -30 is the least that a logarithm is counted as.
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
    """Each weight layer's outputs for `inputs` (B, ...), before any ReLU: what depth does to a signal.

    It is computed in training's precision and leaves the model in evaluation mode. probe_variance: variance across
    samples, mean over units; probe_dead: the share of units (features of a Linear, channels of a convolution) that are
    at most 0 for every sample, at every position; probe_distinct: how many of the B outputs differ. NaN stands for a
    layer that does not run, or is not called as a module, as in nn.MultiheadAttention.
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
    """How many of the rows (N, M) differ in any bit: by sums of their bits with random weights, modulo 2**64.

    So no row leaves the device. Two rows that differ have the same sum with a chance below 2**-32.
    """
    bits = rows.contiguous().view(torch.int32)
    weights = torch.randint(-(2**63), 2**63 - 1, bits.shape[1:], generator=torch.Generator().manual_seed(0)).to(
        bits.device
    )
    return len(torch.cat([(few * weights).sum(1) for few in bits.split(32)]).unique())
