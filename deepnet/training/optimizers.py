"""Optimizers: how they are made, and restored from a checkpoint."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from deepnet.machine import device
from experimentTable import Experiment

# Fused: one kernel per step. torch has no fused RMSprop; foreach is the fastest that it has.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": partial(torch.optim.Adam, fused=True),
    "AdamW": partial(torch.optim.AdamW, fused=True),
    "SGD": partial(torch.optim.SGD, fused=True),
    "RMSprop": partial(torch.optim.RMSprop, foreach=True),
}


def make_optimizer(exp: Experiment, model: nn.Module, graph: bool = False, fast: bool = True) -> torch.optim.Optimizer:
    """The experiment's optimizer over the model's trainable parameters.

    `fast`: in torch's fastest implementation, else in torch's default one. `graph`: on a GPU, usable in a CUDA graph.
    """
    extra: dict = {} if exp.eps is None else {"eps": exp.eps}
    extra |= {"momentum": exp.momentum} if exp.momentum else {}
    if graph and device().type == "cuda" and exp.optimizer != "SGD":  # SGD counts no steps
        extra["capturable"] = True  # keeps the step count on the device
    learned = [p for p in model.parameters() if p.requires_grad]
    fast = fast and all(p.is_floating_point() for p in learned)  # no fused implementation takes complex weights
    make = OPTIMIZERS[exp.optimizer] if fast else getattr(torch.optim, exp.optimizer)
    return make(learned, lr=exp.lr, **extra)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a checkpoint's `state`, which may come from another device. `state` is modified.

    Whether the step count is on the device is decided by this process's optimizer, not by the checkpoint.
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
