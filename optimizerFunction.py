"""Optimizers: made, restored from a checkpoint, and kept from what makes their steps slow on a CPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from experimentTable import Experiment
from utilityFunction import device

# Fused: one kernel a step. torch has no fused RMSprop; foreach is its next best.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": partial(torch.optim.Adam, fused=True),
    "AdamW": partial(torch.optim.AdamW, fused=True),
    "SGD": partial(torch.optim.SGD, fused=True),
    "RMSprop": partial(torch.optim.RMSprop, foreach=True),
}


def make_optimizer(exp: Experiment, model: nn.Module, graph: bool = False, fast: bool = True) -> torch.optim.Optimizer:
    """The experiment's optimizer over what the model lets learn.

    `fast`: in the fastest form that torch has of it, else as torch makes it by itself; `graph`: on a GPU one for a CUDA graph.
    """
    extra: dict = {} if exp.eps is None else {"eps": exp.eps}
    if graph and device().type == "cuda" and exp.optimizer != "SGD":  # which counts no steps
        extra["capturable"] = True  # the count of steps lies on the device too
    learned = [p for p in model.parameters() if p.requires_grad]
    fast = fast and all(p.is_floating_point() for p in learned)  # there is no fused step for complex weights
    make = OPTIMIZERS[exp.optimizer] if fast else getattr(torch.optim, exp.optimizer)
    return make(learned, lr=exp.lr, **extra)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a checkpoint's `state`, which is changed, made on whichever device: where the steps are counted is a matter of this one.

    So is the layout in memory, which fused steps take to be the weights'. Raises ValueError where it is of other weights.
    """
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        if "capturable" in own:
            saved["capturable"] = own["capturable"]
    optimizer.load_state_dict(state)
    for weight, averages in optimizer.state.items():
        for name in averages.keys() - {"step"}:
            if averages[name].shape != weight.shape:
                raise ValueError(f"{name} has shape {tuple(averages[name].shape)}, its weight {tuple(weight.shape)}")
            averages[name] = torch.empty_like(weight).copy_(averages[name])


def drop_subnormals(optimizer: torch.optim.Optimizer) -> None:
    """Set Adam's first moments to 0 where they are smaller than any normal number, as those of units that are silent become.

    There they stay, since 0.9 times the smallest number is rounded to it again, and a CPU takes many times as long for each. No
    weight can tell: a step of theirs, even over an eps of 1e-16, is far below what a weight of normal size resolves.
    """
    for moments in (state["exp_avg"] for state in optimizer.state.values() if "exp_avg" in state):
        moments.masked_fill_(moments.abs() < torch.finfo(moments.dtype).tiny, 0)


class AsTheyLie(TorchFunctionMode):
    """While it is on, fused optimizers see channels-last tensors as contiguous ones with other axes: the same numbers, to the bit.

    On a CPU torch makes a contiguous copy of each other gradient, and then does not use it: half of Adam's time (torch 2.14). It goes
    through memory as it lies, with this or without: weight, gradient and state must lie alike, and autograd and torch's states do.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (torch._fused_adam_, torch._fused_adamw_, torch._fused_sgd_):
            args = tuple([as_it_lies(t) for t in arg] if isinstance(arg, list) else arg for arg in args)
        return func(*args, **(kwargs or {}))


def as_it_lies(tensor: Tensor) -> Tensor:
    """The tensor, or a channels-last one with its axes in the order of its memory: (N, H, W, C), which is contiguous."""
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if channels_last else tensor
