"""The training loop, through which every run goes."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from torch import nn

from deepnet.data.datasets import BatchSource
from deepnet.data.digests import full_digest
from deepnet.machine import device
from deepnet.progress import bar
from deepnet.records.folder import RunFolder, checkpoint_seconds
from deepnet.records.reading import Record
from deepnet.seeds import seed_everything
from deepnet.speed.layout import fast_layout
from deepnet.training.early_stopping import EarlyStopping
from deepnet.training.frozen_prefix import frozen_digests, without_frozen_prefix
from deepnet.training.metrics import GradientNorms, probe
from deepnet.training.optimizers import restore_optimizer
from deepnet.training.recipe import Recipe, advance
from deepnet.training.steps import evaluate, train_epoch
from experimentTable import Experiment, UsageError


class Observer(Protocol):
    """What is shown each row of a run, and its record in the end, as `utilityFunction.Mirror` is for W&B."""

    def log(self, row: dict) -> None: ...

    def finish(self, record: Record) -> None: ...


Observe = Callable[..., Observer]  # called with the record as it is when the loop begins, and the `model`


def fit(
    model: nn.Module, train_set: BatchSource, eval_set: BatchSource, exp: Experiment, recipe: Recipe, folder: RunFolder,
    checkpoint: dict | None, *, split: str, steps_per_epoch: int | None = None, keep_weights: bool = False,
    observe: Observe | None = None, line: Any = None, stop: Callable[[], bool] = lambda: False,
) -> Record:  # fmt: skip
    """Train what is not frozen in `model`, in place. Every run goes through this loop.

    Epoch 0 evaluates the untrained model. Every epoch seeds itself from (seed, epoch), so that a run that is resumed
    from a checkpoint gives the same numbers as one that was never interrupted.

    Args:
        exp: its epochs, batch size, patience and seed, and whether gradients are recorded.
        recipe: optimizer, loss, schedule and precision, and whether to use what only makes training faster.
        folder: where rows, checkpoints and the result go. This process holds its lock.
        checkpoint: what an interrupted run has left in the folder, or None.
        split: what the evaluation set is called in the rows, "test" or "validation".
        steps_per_epoch: how many steps an epoch has; None for one pass over the training set.
        keep_weights: keep the final weights beside the record.
        observe: makes what is shown each row; None for nothing.
        line: the progress bar to show it on; None for a new one.
        stop: asked after each epoch whether to leave off there.

    Returns:
        The run's record, which is unfinished where `stop` said to leave off.
    """
    precision, fast = recipe.precision, recipe.fast
    model.to(device())
    if fast:
        layout = fast_layout(model, train_set.first_inputs(2))
        model.to(memory_format=layout)
        train_set, eval_set = (s.to(device(), layout) if hasattr(s, "to") else s for s in (train_set, eval_set))
    data = [full_digest(source) for source in (train_set, eval_set)]
    if checkpoint:
        before = zip(checkpoint.get("data", []), data, strict=False)
        if any(None not in pair and pair[0] != pair[1] for pair in before):
            remedy = "give the same, use another name, or leave out resume"
            raise UsageError(f"{exp.name} was begun with other data; {remedy}")
        with folder.restoring():
            model.load_state_dict(checkpoint["model"])
            frozen = set(map(tuple, checkpoint["frozen"]))  # a change made before the interruption is noticed too
    else:
        frozen = frozen_digests(model)
    seed_everything(exp.seed, 0)  # a reader's data set may draw random numbers
    probed = train_set.first_inputs(min(256, recipe.eval_batch_size)).to(device()) if exp.record_gradients else None
    trained = model
    if fast or recipe.cache_frozen:
        trained, train_set, eval_set = without_frozen_prefix(
            model, train_set, eval_set, precision, recipe.eval_batch_size, recipe.cache_frozen, fast
        )
    optimizer = recipe.optimizer(trained)
    schedule = recipe.schedule(optimizer) if recipe.schedule else None
    after_step = schedule.step if schedule is not None and recipe.schedule_per_step else None
    gradients = GradientNorms(model) if exp.record_gradients else None
    stopping, best, first = EarlyStopping(exp.patience, exp.min_delta), None, 0
    if checkpoint:
        with folder.restoring():
            restore_optimizer(optimizer, checkpoint["optimizer"])
            if schedule is not None:
                schedule.load_state_dict(checkpoint["schedule"])
            stopping, best, first = EarlyStopping(**checkpoint["stopping"]), checkpoint["best"], checkpoint["epoch"] + 1
    observer = observe(Record(folder.path), model=model) if observe else None
    line = bar(exp.epochs) if line is None else line
    line.reset(total=exp.epochs)
    line.set_description_str(exp.name)
    line.update(max(first - 1, 0))
    failure, saved, seconds_between = None, time.monotonic(), checkpoint_seconds()

    def save(epoch: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": best, "epoch": epoch}
        state |= {"frozen": sorted(frozen), "data": data, "stopping": asdict(stopping)}
        folder.checkpoint(state | ({} if schedule is None else {"schedule": schedule.state_dict()}))

    def measure() -> tuple[dict, Any]:
        return evaluate(trained, eval_set, precision, batch_size=recipe.eval_batch_size, loss=recipe.loss, fast=fast)

    for epoch in range(first, exp.epochs + 1):
        row: dict = {"epoch": epoch}
        generator = seed_everything(exp.seed, epoch)
        if epoch:
            batches = train_set.shuffled(exp.batch_size, generator, steps_per_epoch)
            row |= train_epoch(
                trained, batches, optimizer, precision, gradients, recipe.graph,
                loss=recipe.loss, fast=fast, after_step=after_step,
            )  # fmt: skip
        measured, predictions = measure()
        if epoch and schedule is not None and not recipe.schedule_per_step:
            advance(schedule, measured["loss"])
        row |= {f"{split}_{metric}": value for metric, value in measured.items()}
        row |= {} if probed is None else probe(model, probed, precision, fast)
        row = folder.append(row)
        if observer:
            observer.log(row)
        line.update(min(epoch, 1))
        line.set_postfix_str(f"train loss {row.get('train_loss')}, {split} accuracy {row[f'{split}_accuracy']}")
        not_finite = [part for part in ("train", split) if epoch and row[f"{part}_loss"] is None]
        if not_finite:  # a row holds None for NaN and infinity
            failure = (
                f"the {not_finite[0]} loss is not finite in epoch {epoch}; try a lower learning rate than {exp.lr}"
            )
            break
        if epoch and stopping.update(epoch, measured["accuracy"]) and exp.patience:
            best = copy.deepcopy(model.state_dict())  # with its metadata, which modules with versions need
        if epoch == exp.epochs or stopping.over:
            break
        if (stopped := stop()) or time.monotonic() - saved >= seconds_between:
            save(epoch)
            saved = time.monotonic()
            if stopped:
                record = Record(folder.path)
                if observer:
                    observer.finish(record)
                return record

    moved = frozen ^ frozen_digests(model)  # looked at before the best weights are restored, which would hide it
    if best is not None:  # then measure and predictions are those of the restored weights, not of the last epoch
        model.load_state_dict(best)
        measured, predictions = measure()
        moved |= frozen ^ frozen_digests(model)
    if names := sorted({name for name, _ in moved}):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        failure = failure or f"frozen weights or statistics moved in training: {names[0]}{more}"
    weights = model.state_dict()
    if keep_weights and failure is None:
        folder.save_weights(weights)
    folder.save_array("predictions.npy", predictions=predictions)
    result = {
        "status": "failed" if failure else "finished", "reason": failure, "split": split,
        "classes": len(eval_set.classes),
        "epoch": stopping.best_epoch if best is not None else epoch, "last_epoch": epoch, "budget": exp.epochs,
        "best_epoch": stopping.best_epoch, "best_accuracy": stopping.best, "stopped_early": stopping.over, **measured,
        "train_seconds": sum(row.get("train_seconds", 0.0) for row in Record(folder.path).rows),
    }  # fmt: skip
    record = folder.finish(result, weights)
    if observer:
        observer.finish(record)
    if failure:
        print(f"{exp.name} (seed {exp.seed}) failed: {failure}")
    return record
