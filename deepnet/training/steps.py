"""The pieces of the loop: training for one epoch, and evaluation."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deepnet.data.datasets import BatchSource
from deepnet.speed.cuda_graph import CUDAGraphStep
from deepnet.speed.memory import release_memory
from deepnet.speed.optimizer_steps import ContiguousViews, drop_subnormals
from deepnet.speed.relus import with_cheap_relus
from deepnet.training.metrics import GradientNorms, accuracy, macro_accuracy
from deepnet.training.precision import arithmetic, cast
from deepnet.training.ready import batches_of, checked_scores, device_of, usable_precision
from experimentTable import UsageError
from myModel import set_train_mode

Loss = Callable[[Tensor, Tensor], Tensor]


def train_epoch(
    model: nn.Module, data: Any, optimizer: torch.optim.Optimizer, precision: str = "fp32",
    gradients: GradientNorms | None = None, graph: bool = False, *, batch_size: int | None = None,
    loss: Loss = cross_entropy, fast: bool = False, classes: Sequence[Any] | None = None,
    after_step: Callable[[], object] | None = None,
) -> dict:  # fmt: skip
    """Train for one epoch; returns the epoch's running means.

    Args:
        data: a data set of (tensor, label) pairs, which is shuffled by torch's global generator; a loader; or (inputs,
            labels) batches.
        precision: "fp32", "fp64" or "bf16"; it must suit the model's weights and the hardware.
        gradients: sums the gradient norms; made for this model.
        graph: on a GPU, run the steps as a CUDA graph, which the model must allow.
        batch_size: items per step if `data` is a data set (default 128).
        loss: a function from scores (B, classes) and targets (B,) to the mean over the batch.
        fast: use the faster implementations, which change rounding only.
        classes: the labels in the order of the model's outputs, unless the labels are the outputs' numbers.
        after_step: called after each optimizer step, for a schedule per step.

    Returns:
        train_loss, train_accuracy, learning_rate (at the epoch's end), steps, train_seconds (including the making of
        batches and the gradient norms, without evaluation), and with `gradients` its norms. Nothing is read from the
        device before the end.

    Raises:
        UsageError: if `data` has no batches, items that are not (tensor, label) pairs, or labels without an output, and
            if the optimizer has no trainable parameter of the model.

    Example:
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> train_epoch(model, train_set, optimizer)["train_accuracy"]
    """
    from_user = not isinstance(data, BatchSource)
    if from_user:
        precision = usable_precision(model, precision)
        check_loss(loss)
    check_optimizer(model, optimizer)
    batches = batches_of(model, data, precision, classes, batch_size, shuffle=True)
    set_train_mode(model)
    if gradients:
        gradients.reset()
    device = device_of(model)
    loss_sum = torch.zeros((), dtype=torch.float64 if precision == "fp64" else torch.float32, device=device)
    correct = torch.zeros((), device=device)
    images = steps = 0
    convolves = any(p.ndim == 4 for p in model.parameters())  # else intercepting convolutions costs 0.5 ms per step
    clean_up = fast and device.type == "cpu"
    network = with_cheap_relus(model) if fast else model
    start = time.perf_counter()

    def step(inputs: Tensor, labels: Tensor) -> None:
        with arithmetic(precision, convolves, fast):
            outputs = network(cast(inputs, precision))
            if from_user:
                check_targets(checked_scores(inputs, outputs, training=True), labels)
            value = loss(outputs, labels)
        optimizer.zero_grad()
        value.backward()
        if gradients:
            gradients.add()
        with ContiguousViews() if convolves and fast else nullcontext():
            optimizer.step()
        if gradients:
            gradients.add_updates()
        loss_sum.add_(value.detach() * len(labels))
        correct.add_((outputs.detach().argmax(1) == labels).sum())

    run_step = CUDAGraphStep(step) if graph and device.type == "cuda" else step
    for inputs, labels in batches:
        if clean_up and steps % 100 == 0:
            drop_subnormals(optimizer)  # a moment decays for some 800 steps before it is subnormal
            release_memory()  # in 100 steps, CNN_res_56 at 128 pixels accumulates 1 GB
        run_step(inputs.to(device), labels.to(device))
        images, steps = images + len(labels), steps + 1
        if after_step:
            after_step()
    if not steps:
        raise UsageError("the data gave no batch to train on; give at least one image")
    row = {"train_loss": float(loss_sum) / images, "train_accuracy": float(correct) / images}
    row |= {"learning_rate": optimizer.param_groups[0]["lr"], "steps": steps}
    row |= {"train_seconds": time.perf_counter() - start}
    return row | (gradients.row(steps) if gradients else {})


def check_loss(loss: Any) -> None:
    """Raise UsageError unless `loss` is a callable and not a class."""
    if isinstance(loss, type):
        raise UsageError(f"loss is the class {loss.__name__}; pass an instance, {loss.__name__}()")
    if not callable(loss):
        raise UsageError(f"loss must be a callable from scores and targets to their mean loss, got {loss!r:.60}")


def check_targets(outputs: Tensor, labels: Tensor) -> None:
    """Raise UsageError if a label is not the number of an output."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= outputs.shape[1]:
        found = f"labels {low} to {high} are in the data but the model has {outputs.shape[1]} outputs"
        raise UsageError(f"{found}; change its last layer, or pass classes=(...) in the order of the outputs")


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise UsageError unless this is an optimizer over the model's parameters, at least one of them trainable."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(
            f"optimizer must be a torch.optim.Optimizer over the model's parameters, got {optimizer!r:.60}"
        )
    learns = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    optimized = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if any(parameter not in learns for parameter in optimized):
        raise UsageError(
            "the optimizer holds parameters that are not the model's; make it from the model that is trained"
        )
    if not any(learns[parameter] for parameter in optimized):
        raise UsageError("the optimizer holds no parameter of the model that learns")


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Any, precision: str | None = None, *, batch_size: int | None = None,
    loss: Loss = cross_entropy, fast: bool = False, classes: Sequence[Any] | None = None,
) -> tuple[dict, np.ndarray]:  # fmt: skip
    """Measure loss, accuracy (over images) and macro accuracy (mean over classes). Leaves the model in evaluation mode.

    Args:
        data: a data set of (tensor, label) pairs, a loader, or (inputs, labels) batches.
        precision: "fp32", "fp64" or "bf16"; by default the model's own.
        batch_size: items per batch if `data` is a data set (default 128).
        loss: a function from scores (B, classes) and targets (B,) to the mean over the batch.
        fast: use the faster implementations, which change rounding only.
        classes: the labels in the order of the model's outputs, unless the labels are the outputs' numbers. For a run
            of `pipeline`, `record.settings["classes"]` lists them.

    Returns:
        {"accuracy", "macro_accuracy", "loss"}, and an array (2, N) of targets and predicted classes.

    Raises:
        UsageError: for labels without an output, and for any other data.

    Example:
        >>> measured, predictions = evaluate(model, test_set)
        >>> measured["accuracy"]
    """
    from_user = not isinstance(data, BatchSource)
    precision = usable_precision(model, precision) if from_user or precision is None else precision
    check_loss(loss)
    batches, device = batches_of(model, data, precision, classes, batch_size, shuffle=False), device_of(model)
    model.eval()
    network = with_cheap_relus(model) if fast else model
    losses, predicted, targets = [], [], []
    for inputs, labels in batches:
        inputs, labels = inputs.to(device), labels.to(device)
        with arithmetic(precision, fast=fast):
            outputs = checked_scores(inputs, network(cast(inputs, precision)))
        if from_user:
            check_targets(outputs, labels)
        exact = outputs.float() if precision == "bf16" else outputs
        if loss is cross_entropy:
            value = cross_entropy(exact, labels, reduction="sum")
        else:
            value = loss(exact, labels) * len(labels)
        if value.ndim:
            raise UsageError(
                f"loss returns {value.numel()} numbers for a batch; it must return their mean, as with reduction='mean'"
            )
        losses.append(value)
        predicted.append(outputs.argmax(1))
        targets.append(labels)
    if not targets:
        raise UsageError("the data gave no batch to evaluate on; give at least one image")
    predictions = torch.stack([torch.cat(targets), torch.cat(predicted)]).cpu().numpy()
    measured = {"accuracy": accuracy(predictions), "macro_accuracy": macro_accuracy(predictions)}
    measured["loss"] = float(torch.stack(losses).sum()) / predictions.shape[1]
    return measured, predictions.astype(np.min_scalar_type(outputs.shape[1] - 1))
