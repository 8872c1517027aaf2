"""The loop that every run goes through: epochs, checkpoints, early stopping, and what is frozen held to it.

Every epoch seeds itself from (seed, epoch), so that a resumed run goes on as if it had not been interrupted.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from dataFunction import ImageSet
from deepnet.data.datasets import Source, whole_digest
from deepnet.records.folder import RunFolder
from deepnet.training.recipe import Recipe, advance
from experimentTable import Experiment, UsageError
from featureFunction import without_frozen_prefix
from fileFunction import digest
from myModel import set_train_mode
from optimizerFunction import restore_optimizer
from recordFunction import Record
from trainFunction import EarlyStopping, GradientNorms, evaluate, probe, train_epoch
from utilityFunction import bar, checkpoint_seconds, device, seed_everything
from wandbFunction import Mirror, closing


@closing()
def fit(
    model: nn.Module, train: Source, eval_set: Source, exp: Experiment, recipe: Recipe, folder: RunFolder, checkpoint: dict | None, *,
    split_name: str, steps: int | None = None, keep_weights: bool = False, use_wandb: Any = True, line: Any = None,
    stop: Callable[[], bool] = lambda: False,
) -> Record:  # fmt: skip
    """Train what may learn of `model`, in place, as `exp` and `recipe` say, on from `checkpoint`.

    `stop` is asked after each epoch whether to leave off there.
    """
    precision, fast = recipe.precision, recipe.fast
    model.to(device())
    if fast:
        train, eval_set = in_fast_memory(model, train, eval_set)
    data = [whole_digest(source) for source in (train, eval_set)]
    if checkpoint:
        if any(None not in pair and pair[0] != pair[1] for pair in zip(checkpoint.get("data", []), data, strict=False)):
            raise UsageError(f"{exp.name} was begun with other data; give the same, use another name, or leave out resume")
        with folder.restoring():
            model.load_state_dict(checkpoint["model"])
            frozen = set(map(tuple, checkpoint["frozen"]))  # what moved before it must not go unseen
    else:
        frozen = _frozen_digests(model)
    seed_everything(exp.seed, 0)  # a reader's data set may be random
    probed = train.first(min(256, recipe.eval_batch_size)).to(device()) if exp.record_gradients else None
    trained = model
    if fast or recipe.cache_frozen:
        trained, train, eval_set = without_frozen_prefix(model, train, eval_set, precision, recipe.eval_batch_size, recipe.cache_frozen)
    optimizer = recipe.optimizer(trained)
    schedule = recipe.schedule(optimizer) if recipe.schedule else None
    gradients = GradientNorms(model) if exp.record_gradients else None
    stopping, best, first = EarlyStopping(exp.patience, exp.min_delta), None, 0
    if checkpoint:
        with folder.restoring():
            restore_optimizer(optimizer, checkpoint["optimizer"])
            if schedule is not None:
                schedule.load_state_dict(checkpoint["schedule"])
            stopping, best, first = EarlyStopping(**checkpoint["stopping"]), checkpoint["best"], checkpoint["epoch"] + 1
    mirrored = Mirror(Record(folder.path), None if use_wandb is True else use_wandb, model) if use_wandb else None
    line = bar(exp.epochs) if line is None else line
    line.reset(total=exp.epochs)
    line.set_description_str(exp.name)
    line.update(max(first - 1, 0))
    reason, saved, seconds_between = None, time.monotonic(), checkpoint_seconds()
    after_step = schedule.step if schedule is not None and recipe.schedule_per_step else None

    def save(epoch: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": best, "epoch": epoch, "frozen": sorted(frozen)}
        state |= {"data": data} | ({"schedule": schedule.state_dict()} if schedule is not None else {})
        folder.checkpoint(state | {"stopping": asdict(stopping)})

    def measure() -> tuple[dict, Any]:
        return evaluate(trained, eval_set, precision, batch_size=recipe.eval_batch_size, loss=recipe.loss, fast=fast)

    for epoch in range(first, exp.epochs + 1):
        row: dict = {"epoch": epoch}
        generator = seed_everything(exp.seed, epoch)
        if epoch:
            batches = train.shuffled(exp.batch_size, generator, steps)
            row |= train_epoch(
                trained, batches, optimizer, precision, gradients, recipe.graph, loss=recipe.loss, fast=fast, after_step=after_step
            )
        measured, predictions = measure()
        if epoch and schedule is not None and not recipe.schedule_per_step:
            advance(schedule, measured["loss"])
        row |= {f"{split_name}_{metric}": value for metric, value in measured.items()}
        row |= {} if probed is None else probe(model, probed, precision, fast)
        row = folder.append(row)
        if mirrored:
            mirrored.log(row)
        line.update(min(epoch, 1))
        line.set_postfix_str(f"train loss {row.get('train_loss')}, {split_name} accuracy {row[f'{split_name}_accuracy']}")
        if epoch and (broken := [part for part in ("train", split_name) if row[f"{part}_loss"] is None]):  # NaN and infinity are None there
            reason = f"the {broken[0]} loss is not finite in epoch {epoch}; try a lower learning rate than {exp.lr}"
            break
        if epoch and stopping.update(epoch, measured["accuracy"]) and exp.patience:
            best = copy.deepcopy(model.state_dict())  # with its metadata, which versioned modules need
        if epoch == exp.epochs or stopping.over:
            break
        if (stopped := stop()) or time.monotonic() - saved >= seconds_between:
            save(epoch)
            saved = time.monotonic()
            if stopped:
                record = Record(folder.path)
                if mirrored:
                    mirrored.finish(record)
                return record

    moved = frozen ^ _frozen_digests(model)  # before the best weights are restored, which would hide what moved after them
    if best is not None:  # the restored weights' own measure and predictions, not the last epoch's
        model.load_state_dict(best)
        measured, predictions = measure()
        moved |= frozen ^ _frozen_digests(model)
    if names := sorted({name for name, _ in moved}):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        reason = reason or f"frozen weights or statistics moved in training: {names[0]}{more}"
    weights = model.state_dict()
    if keep_weights and reason is None:
        folder.save_weights(weights)
    folder.save_array("predictions.npy", predictions=predictions)
    result = {
        "status": "failed" if reason else "finished", "reason": reason, "split": split_name, "classes": len(eval_set.classes),
        "epoch": stopping.best_epoch if best is not None else epoch, "last_epoch": epoch, "budget": exp.epochs,
        "best_epoch": stopping.best_epoch, "best_accuracy": stopping.best, "stopped_early": stopping.over, **measured,
        "train_seconds": sum(row.get("train_seconds", 0.0) for row in Record(folder.path).rows),
    }  # fmt: skip
    record = folder.finish(result, weights)
    if mirrored:
        mirrored.finish(record)
    if reason:
        print(f"{exp.name} (seed {exp.seed}) failed: {reason}")
    return record


def in_fast_memory(model: nn.Module, train: Source, eval_set: Source) -> tuple[Any, Any]:
    """Lay the model out in memory as it is fastest, in place, and the batches of both sets likewise."""
    layout = fast_layout(model, train)
    model.to(memory_format=layout)
    train, eval_set = (source.to(device(), layout) if isinstance(source, ImageSet) else source for source in (train, eval_set))
    return train, eval_set


@torch.no_grad()
def fast_layout(model: nn.Module, source: Source) -> torch.memory_format:
    """Channels last where the model has convolutions and takes images that lie so, in evaluation and in training; else contiguous.

    A model that flattens its maps by `view` does not take them, which a copy is asked. On MPS the gradients of a channels-last batch
    normalisation come out wrong (pytorch/pytorch#175189).
    """
    inputs = source.first(2)
    if device().type == "mps" or inputs.ndim != 4 or not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return torch.contiguous_format
    try:
        trial = copy.deepcopy(model).to(device()).to(memory_format=torch.channels_last)
        inputs = inputs.to(device(), next(model.parameters()).dtype, memory_format=torch.channels_last)
        for training in (False, True):
            trial.train(training)(inputs)
    except Exception:  # whatever a reader's own model raises
        return torch.contiguous_format
    return torch.channels_last


def _frozen_digests(model: nn.Module) -> set[tuple[str, str]]:
    """Name and sha256 of each parameter and buffer that training must not move; leaves the model in training mode as the loop has it."""
    set_train_mode(model)
    learned = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    modules = model.named_modules(remove_duplicate=False)
    moving = {name for prefix, m in modules if m.training for name, _ in m.named_buffers(prefix, recurse=False)}
    return {
        (key, digest({key: value}))
        for key, value in model.state_dict().items()
        if key not in learned | moving and isinstance(value, torch.Tensor)
    }
