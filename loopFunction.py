"""The loop that every run goes through: epochs, checkpoints, early stopping, and what is frozen held to it.

Every epoch seeds itself from (seed, epoch), so that a run that was cut off goes on as if it had not been.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from dataFunction import ImageSet
from deepnet.records.folder import RunFolder
from experimentTable import Experiment
from featureFunction import Source, cached, first_inputs, split
from fileFunction import digest
from myModel import set_train_mode
from optimizerFunction import make_optimizer, restore_optimizer
from recordFunction import Record
from trainFunction import (
    EarlyStopping,
    GradientNorms,
    epoch_batches,
    evaluate,
    lay_out,
    probe,
    train_epoch,
)
from utilityFunction import bar, cast, checkpoint_seconds, device, kept_memory, resolve_precision, seed_everything
from wandbFunction import Mirror


@kept_memory()
def fit(
    model: nn.Module, train: Source, held: Source, exp: Experiment, folder: RunFolder, checkpoint: dict | None, *, split_name: str,
    steps: int | None = None, graph: bool = False, keep_weights: bool = False, use_wandb: Any = True, line: Any = None,
    stop: Callable[[], bool] = lambda: False,
) -> Record:  # fmt: skip
    """Train what may learn of `model`, in place, as `exp` says, on from `checkpoint`.

    `stop` is asked after each epoch whether to leave off there. `graph`: the model may be run as a CUDA graph, as those of the table may.
    """
    precision = resolve_precision(exp.precision)
    model.to(device(), torch.float64 if precision == "fp64" else torch.float32)
    layout = lay_out(model, train)
    train, held = (source.to(device(), layout) if isinstance(source, ImageSet) else source for source in (train, held))
    if checkpoint:
        with folder.restoring():
            model.load_state_dict(checkpoint["model"])
            frozen = set(map(tuple, checkpoint["frozen"]))  # what moved before it must not go unseen
    else:
        frozen = _frozen_digests(model)
    seed_everything(exp.seed, 0)  # a reader's data set may be random
    probed = first_inputs(train, 256) if exp.record_gradients else None
    trained, train, held = _without_frozen_prefix(model, train, held, precision)
    optimizer = make_optimizer(exp, trained, graph)
    gradients = GradientNorms(trained) if exp.record_gradients else None
    stopping, best, first = EarlyStopping(exp.patience, exp.min_delta), None, 0
    if checkpoint:
        with folder.restoring():
            restore_optimizer(optimizer, checkpoint["optimizer"])
            stopping, best, first = EarlyStopping(**checkpoint["stopping"]), checkpoint["best"], checkpoint["epoch"] + 1
    mirrored = Mirror(Record(folder.path), None if use_wandb is True else use_wandb) if use_wandb else None
    line = bar(exp.epochs) if line is None else line
    line.reset(total=exp.epochs)
    line.set_description_str(exp.name)
    line.update(max(first - 1, 0))
    reason, saved, seconds_between = None, time.monotonic(), checkpoint_seconds()

    def save(epoch: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": best, "epoch": epoch, "frozen": sorted(frozen)}
        folder.checkpoint(state | {"stopping": asdict(stopping)})

    for epoch in range(first, exp.epochs + 1):
        row: dict = {"epoch": epoch}
        generator = seed_everything(exp.seed, epoch)
        if epoch:
            order = epoch_batches(len(train), exp.batch_size, generator, steps)
            row |= train_epoch(trained, map(train.batch, order), optimizer, precision, gradients, graph)
        measured, predictions = evaluate(trained, held, precision)
        row |= {f"{split_name}_{metric}": value for metric, value in measured.items()}
        row |= {} if probed is None else probe(model, probed, precision)
        row = folder.append(row)
        if mirrored:
            mirrored.log(row)
        line.update(min(epoch, 1))
        line.set_postfix_str(f"train loss {row.get('train_loss')}, {split_name} accuracy {row[f'{split_name}_accuracy']}")
        if epoch and (broken := [part for part in ("train", split_name) if row[f"{part}_loss"] is None]):  # NaN and infinity are None there
            reason = f"the {broken[0]} loss is not finite in epoch {epoch}; try a lower learning rate than {exp.lr}"
            break
        if epoch and stopping.update(epoch, measured["accuracy"]) and exp.patience:
            best = {key: value.detach().clone() for key, value in model.state_dict().items()}
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
        measured, predictions = evaluate(trained, held, precision)
        moved |= frozen ^ _frozen_digests(model)
    if names := sorted({name for name, _ in moved}):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        reason = reason or f"frozen weights or statistics moved in training: {names[0]}{more}"
    weights = model.state_dict()
    if keep_weights and reason is None:
        folder.save_weights(weights)
    folder.save_array("predictions.npy", predictions=predictions)
    result = {
        "status": "failed" if reason else "finished", "reason": reason, "split": split_name, "classes": len(held.classes),
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


def _frozen_digests(model: nn.Module) -> set[tuple[str, str]]:
    """Name and sha256 of each parameter and buffer that training must not move; leaves the model in training mode as the loop has it."""
    set_train_mode(model)
    learned = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    modules = model.named_modules(remove_duplicate=False)
    moving = {name for prefix, m in modules if m.training for name, _ in m.named_buffers(prefix, recurse=False)}
    return {(key, digest({key: value})) for key, value in model.state_dict().items() if key not in learned | moving}


def _without_frozen_prefix(model: nn.Module, train: Source, held: Source, precision: str) -> tuple[nn.Module, Source, Source]:
    """The part of the model that learns, and both sets as that part sees them; all as they are where nothing can be cut off."""
    if not (parts := split(model, cast(first_inputs(train, 4), precision))):
        return model, train, held
    seen_train = cached(parts[0], train, precision)
    seen_held = cached(parts[0], held, precision) if seen_train else None
    return (parts[1], seen_train, seen_held) if seen_train and seen_held else (model, train, held)
