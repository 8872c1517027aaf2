"""Training and evaluation: `pipeline` for any model and data, `run` for the rows of the table, and what follows."""

import copy
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from deepnet.account import wandb_wanted
from deepnet.analyses.final_test import final_test as run_final_test
from deepnet.analyses.kinds import prepare_analysis
from deepnet.data.datasets import BatchSource, as_source
from deepnet.data.digests import full_digest
from deepnet.data.sets import data_identity
from deepnet.machine import device
from deepnet.progress import bar
from deepnet.records.files import digest
from deepnet.records.folder import RunFolder, checkpoint_seconds
from deepnet.records.provenance import provenance
from deepnet.records.reading import Record, check_identity, find_record, runs_dir
from deepnet.runs import verification
from deepnet.runs.arguments import announce_parent, as_experiment, check_options, lacks_weights, requested_rows
from deepnet.runs.queue import check_executor, run_missing
from deepnet.runs.single import Observe, prepare_training
from deepnet.runs.verification import Difference
from deepnet.search import searching
from deepnet.seeds import seed_everything
from deepnet.speed.layout import fast_layout
from deepnet.speed.memory import kept_memory
from deepnet.training.build import built
from deepnet.training.early_stopping import EarlyStopping
from deepnet.training.features import extract_features
from deepnet.training.frozen_prefix import frozen_digests, without_frozen_prefix
from deepnet.training.metrics import GradientNorms, probe
from deepnet.training.optimizers import make_optimizer, restore_optimizer
from deepnet.training.own import check_schedule, checked_sets, own_optimizer, restored_afterwards
from deepnet.training.precision import resolve_precision
from deepnet.training.ready import BATCH_SIZE, materialise, own_precision, size_of_batches
from deepnet.training.recipe import Recipe, advance, set_precision
from deepnet.training.steps import Loss, check_loss, evaluate, train_epoch
from deepnet.valid import truth, whole
from experimentTable import NOT_COMPUTED, Experiment, UsageError, current_profile, is_supported, supporting_profiles
from myModel import weight_layers
from utilityFunction import Mirror, closing, mirror, open_for_sweep

__all__ = [
    "build", "evaluate", "extract_features", "final_test", "join", "pipeline", "run", "run_all", "search",
    "train_epoch", "verify",
]  # fmt: skip

# ---------------------------------------------------------------- the training loop


def fit(
    model: nn.Module, train_set: BatchSource, eval_set: BatchSource, exp: Experiment, recipe: Recipe, folder: RunFolder,
    checkpoint: dict | None, *, split: str, steps_per_epoch: int | None = None, keep_weights: bool = False,
    observe: Observe | None = None, line: Any = None, stop: Callable[[], bool] = lambda: False,
) -> Record:  # fmt: skip
    """Train the parameters of `model` that are not frozen, in place. Every run goes through this loop.

    Epoch 0 evaluates the untrained model. Every epoch seeds itself from (seed, epoch), so that a run that is resumed
    from a checkpoint gives the same numbers as one that was never interrupted.

    Args:
        exp: gives the epochs, batch size, patience and seed, and whether gradients are recorded.
        recipe: optimizer, loss, schedule and precision, and whether the faster implementations are used.
        folder: where rows, checkpoints and the result are written. This process holds its lock.
        checkpoint: that of an interrupted run, or None.
        split: the name of the evaluation set in the rows, "test" or "validation".
        steps_per_epoch: None for one pass over the training set.
        keep_weights: keep the final weights in the record's folder.
        observe: makes the observer that is shown each row, such as W&B's mirror.
        line: the progress bar to use; None for a new one.
        stop: called after each epoch; training stops there when it returns True.

    Returns:
        The run's record, which is unfinished if `stop` ended the training.
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
            frozen = set(map(tuple, checkpoint["frozen"]))  # to notice also a change from before the interruption
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

    changed = frozen ^ frozen_digests(model)  # before the best weights are restored, which would hide a change
    if best is not None:  # the result describes the restored weights, not those of the last epoch
        model.load_state_dict(best)
        measured, predictions = measure()
        changed |= frozen ^ frozen_digests(model)
    if names := sorted({name for name, _ in changed}):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        failure = failure or f"frozen weights or statistics changed in training: {names[0]}{more}"
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


# ---------------------------------------------------------------- a reader's own model and data


@closing()
def pipeline(
    model: nn.Module, train_set: Any, eval_set: Any, *, name: str, lr: float | None = None,
    optimizer: str | Callable[[list[nn.Parameter]], Optimizer] = "Adam", eps: float | None = None, epochs: int = 20,
    batch_size: int | None = None, eval_batch_size: int | None = None, trainable: Collection[str] | None = None,
    loss: Loss = cross_entropy, schedule: Callable[[Optimizer], Any] | None = None, schedule_per_step: bool = False,
    patience: int | None = None, min_delta: float = 0.0, classes: Sequence[Any] | None = None, workers: int = 0,
    precision: str | None = None, seed: int = 0, fast: bool = False, cache_frozen: bool = False,
    record_gradients: bool = False, keep_weights: bool = False, resume: bool = False, record: bool = True,
    wandb: bool | None = None,
) -> Record:  # fmt: skip
    """Train any model on any map-style data set of (tensor, label) pairs, or on a loader of one, and record the run.

    It always trains: the folder of an earlier run of that name is renamed and kept. The model is trained in place and
    used as it is, with its own `forward` and `train` and torch's own operations, and every item is read again in each
    epoch. Afterwards it is on the device, in evaluation mode, and has its best epoch's weights if `patience` is given.
    Frozen parameters stay frozen.

    Args:
        model: returns scores (N, classes) for a batch of N inputs, in training mode too.
        train_set: a data set with a length whose items are (tensor, label) pairs, or a `DataLoader`, whose own batches
            are used.
        eval_set: the same, for the evaluation before the first epoch and after each epoch.
        name: the name of the run and of its folder.
        lr: the learning rate of a named optimizer (default 1e-3).
        optimizer: "Adam", "AdamW", "RMSprop" or "SGD" with torch's defaults, or a function that makes an optimizer of
            the trainable parameters, such as
            `lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)`.
        eps: the eps of a named optimizer (default: torch's).
        epochs: passes over the training set.
        batch_size: items per step of a data set (default 128). A last batch of one item is added to the one before it.
        eval_batch_size: items per batch in evaluation (default: `batch_size`).
        trainable: names of the child modules to train; by default every parameter that requires a gradient.
        loss: a function from scores (B, classes) and targets (B,) to the mean over the batch.
        schedule: a function from the optimizer to a scheduler of torch.optim.lr_scheduler, which is stepped after each
            epoch; ReduceLROnPlateau is given the evaluation loss.
        schedule_per_step: step the schedule after each optimizer step instead.
        patience: end the run after this many epochs in a row without a gain in evaluation accuracy of more than
            `min_delta`. The first gain is counted from an accuracy of 0, as in the report.
        min_delta: see `patience`.
        classes: the labels in the order of the model's outputs, or their names if the labels are whole numbers. By
            default, whole numbers from 0 to outputs - 1 are used as they are, and other labels are numbered in
            ascending order, which the record holds.
        workers: processes that read the data sets.
        precision: "fp32", "fp64", "bf16" (torch's autocast) or "auto", which is bf16 where the hardware has it
            (default: the model's own type). "fp32" and "fp64" convert the model for good.
        seed: decides the order, dropout and random transforms: each epoch seeds the global generators of torch, numpy
            and Python. The initial weights are the caller's own; call `torch.manual_seed` before you build the model to
            reproduce them.
        fast: use the faster implementations: fused optimizers, channels-last memory, convolutions on small maps as
            matrix products, freed memory kept for reuse, and a frozen prefix that is computed once if the model is
            known to be a chain of modules (nn.Sequential; torchvision's ResNet) and the data are tensors in memory.
            Results differ by rounding only.
        cache_frozen: compute the frozen prefix once in any case: the caller asserts that the model runs its children in
            turn and that the data are the same at each reading.
        record_gradients: record gradient norms and each layer's signal per epoch.
        keep_weights: keep the final weights in the record's folder.
        resume: resume an interrupted run of this name.
        record: write files to the disk; if False, the record is only returned.
        wandb: mirror the run to Weights & Biases (default: only if an account is logged in or WANDB_MODE is set).

    Returns:
        The run's record.

    Raises:
        UsageError: for a value that has no effect or is not available here, for data that do not fit the model, if no
            parameter could learn, and if training a copy of the model on batches of the run's sizes fails. No file has
            been changed then.

    Example:
        >>> torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        >>> pipeline(model, train_set, test_set, name="linear", epochs=2).result["accuracy"]
    """
    if not isinstance(name, str):
        raise UsageError(f"name must be a string, such as 'my_model', got {name!r}")
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, got {model!r:.60}")
    convert, precision = precision is not None, resolve_precision(precision or own_precision(model))
    named = isinstance(optimizer, str)
    if not named and not callable(optimizer):
        what = "a name, or a callable from parameters to an optimizer"
        raise UsageError(f"optimizer must be {what}, got {optimizer!r:.60}")
    if not named and (lr is not None or eps is not None):
        raise UsageError("lr and eps apply to a named optimizer only; set them in your own optimizer")
    if isinstance(trainable, Collection) and not isinstance(trainable, str):
        trainable = tuple(trainable)
    exp = Experiment(
        name, model=type(model).__name__, dataset="own", profile="own", lr=1e-3 if lr is None else lr,
        optimizer=optimizer if named else "Adam", eps=eps, epochs=epochs,  # type: ignore[arg-type]
        batch_size=size_of_batches("batch_size", train_set, batch_size, BATCH_SIZE),
        trainable=trainable, patience=patience, min_delta=min_delta,  # type: ignore[arg-type]
        record_gradients=record_gradients, precision=precision, seed=seed,
    )  # fmt: skip
    recipe = Recipe(
        partial(make_optimizer, exp, fast=fast) if isinstance(optimizer, str) else partial(own_optimizer, optimizer),
        precision, loss, schedule, schedule_per_step,
        eval_batch_size=size_of_batches("eval_batch_size", eval_set, eval_batch_size, exp.batch_size),
        fast=fast, cache_frozen=cache_frozen,
    )  # fmt: skip
    switches = {"fast": fast, "cache_frozen": cache_frozen, "keep_weights": keep_weights, "resume": resume}
    for switch, value in (switches | {"record": record, "schedule_per_step": schedule_per_step}).items():
        truth(switch, value)
    check_schedule(schedule, schedule_per_step)
    check_loss(loss)
    train, evaluation = (as_source(data, whole("workers", workers, 0)) for data in (train_set, eval_set))
    mirrored = wandb_wanted(wandb) and record
    with restored_afterwards(model, exp.trainable) as training_begins:
        train, evaluation, settings = checked_sets(model, train, evaluation, exp, recipe, classes, convert)
        materialise(model, train)
        identity = {key: value for key, value in (asdict(exp) | settings).items() if key not in NOT_COMPUTED}
        initial_digest = digest(model.state_dict())
        if (last := _last_run.get(model)) and last[1] == initial_digest:
            remedy = "build it again to train it from scratch"
            print(f"{name}: starts from the weights that {last[0]} left in this model; {remedy}")
        scratch = None if record else tempfile.TemporaryDirectory()
        with kept_memory(fast), RunFolder(exp, Path(scratch.name) if scratch else runs_dir()) as folder:
            try:
                checkpoint = folder.start(
                    identity, provenance(precision), fresh=not resume or folder.ended, initial_weights=initial_digest,
                    classes=list(evaluation.classes), layers=[layer for layer, _ in weight_layers(model)],
                )  # fmt: skip
                if convert:
                    set_precision(model, precision)
                trained = fit(
                    model, train, evaluation, exp, recipe, folder, checkpoint, split="validation",
                    keep_weights=keep_weights, observe=_observer(mirrored),
                )  # fmt: skip
            finally:
                _last_run[model] = name, digest(model.state_dict())
                training_begins()
    trained.scratch = scratch  # keeps the folder as long as the record that reads it
    return trained


# The run that trained a model last in this process, and the digest of the weights that it left there.
_last_run: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()


# ---------------------------------------------------------------- the table's rows


def build(exp: Experiment) -> nn.Module:
    """The experiment's model with its initial weights.

    These are drawn from its seed, or are its parent's, with a new last layer if classes or dropout differ. A parent
    whose weights are not in `RUNS_DIR` is trained first.
    """
    return built(exp, _parent_weights)


def _parent_weights(parent: Experiment) -> dict:
    found = find_record(parent.name, parent.profile, parent.seed, evidence=False)
    if not (found and found.finished and found.has_weights):
        announce_parent(parent)
        found = run(replace(parent, keep_weights=True), evidence=False)
    if found.result and not found.finished:
        failed = f"{parent.name} (seed {parent.seed}) failed ({found.result['reason']})"
        raise UsageError(f"{failed}; what starts from it cannot run")
    return found.weights()


@closing()
def run(
    exp: Experiment | str, evidence: bool = True, *, wandb: Any = True, line: Any = None,
    stop: Callable[[], bool] = lambda: False,
) -> Record:  # fmt: skip
    """Run one experiment: load its finished record, resume it if it was interrupted, or train it.

    The returned record does not change when its folder does.

    Args:
        exp: a row of the table, its name, or a variant of a row.
        evidence: search the committed records too.
        wandb: whether the run is written to W&B, or an open W&B run to write it to.
        line: the progress bar to use; None for a new one.
        stop: called after each epoch; training stops there when it returns True.

    Raises:
        UsageError: for an unknown name, profile or option, for missing data, if the name belongs to a different run,
            and while another process trains this one.

    Example:
        >>> run("MLP_4").result["accuracy"]
    """
    check_options(evidence, wandb, stop)
    exp = as_experiment(exp)
    exp = replace(exp, profile=current_profile(exp.profile))
    identity = data_identity(exp)
    found = find_record(exp.name, exp.profile, exp.seed, evidence and not exp.keep_weights)  # evidence has no weights
    if found and found.result:  # needs neither data, model nor lock
        check_identity(found, identity)
        if lacks_weights(exp, found):
            remedy = f"move {found.path} away to train it again"
            raise UsageError(f"the weights of {exp.name} (seed {exp.seed}) were not kept; {remedy}")
        return found.load()
    if not is_supported(exp):
        remedy = f"run it with profile {supporting_profiles(exp)}"
        raise UsageError(f"{exp.name} has no budget in the profile {exp.profile}; {remedy}")
    observe = _observer(wandb)
    if exp.kind == "training":
        write = prepare_training(exp, identity, build, fit, observe, line, stop)
    else:
        write = prepare_analysis(exp, identity, build, line)
    with RunFolder(replace(exp, epochs=identity["epochs"]), runs_dir()) as folder:
        if folder.ended:
            check_identity(folder.record, identity)  # another process has finished it in the meantime
            return folder.record.load()
        record = write(folder)
        if wandb and exp.kind != "training":  # a training run was mirrored while it ran
            mirror(record)
        return record.load()


def _observer(wandb: Any) -> Observe | None:
    """What writes a run to W&B while it trains; `wandb` as for `run`."""
    return partial(Mirror, wandb_run=None if wandb is True else wandb) if wandb else None


def run_all(
    *names: Experiment | str, profile: str | None = None, seeds: Sequence[int] | None = None, evidence: bool = True,
    executor: Executor | None = None, wandb: bool = True, stop: Callable[[], bool] = lambda: False,
) -> list[Record]:  # fmt: skip
    """Run several experiments, parents before children, with one estimate and one progress bar.

    A run that cannot start is reported in one line, and the others continue. A run that another process is training is
    tried once more at the end; if it is still being trained then, this is reported and its record is left out. After an
    interrupt, the same call resumes.

    Args:
        names: rows of the table, their names, or variants of rows.
        profile: for rows without a profile of their own; by default the current one.
        seeds: for rows without a seed of their own; by default seed 0.
        evidence: search the committed records too.
        executor: an executor of processes in the sense of concurrent.futures, for independent experiments in parallel.
        wandb: whether the runs are written to W&B.
        stop: called after each epoch; training stops there when it returns True.

    Returns:
        The finished records, in the requested order.

    Raises:
        UsageError: for an unknown name or profile, for a row whose own profile or seed is not the requested one, and
            for an executor whose processes could not work.

    Example:
        >>> run_all("MLP_4", "MLP_13", seeds=(0, 1))
        >>> run_all("MLP_4", "MLP_13", executor=ProcessPoolExecutor(2, mp_context=get_context("spawn")))
    """
    check_options(evidence, wandb, stop)
    if executor is not None:
        check_executor(executor)
    rows = requested_rows(list(map(as_experiment, names)), profile, seeds)
    return run_missing(list(dict.fromkeys(rows)), evidence, executor, wandb, stop, run)


# ---------------------------------------------------------------- the final test, the search, verification


def final_test(record: Record, why_again: str = "") -> dict[str, dict]:
    """Open chapter 5's test set for this run and seed, log the opening, and return {classifier: its line of the log}.

    Nothing else opens that test set, and it is opened once: a further call returns what was logged, here or in the
    committed evidence. To open it again, give the reason as `why_again`, which is logged.

    Raises:
        UsageError: for a row without `final_test` (in the table, `dropout` and `baseline` have it), for an unfinished
            one, while another chapter 5 run or search trial of that profile and seed is unfinished, if the weights are
            not here, if other weights were tested before, and while another process opens the test set.

    Example:
        >>> final_test(run(experiment("dropout", "cpu")))["resnet18"]["accuracy"]  # doctest: +SKIP
    """
    return run_final_test(record, build, why_again)


def search(
    config: dict, count: int, *, base: str | Experiment = "sweep_1", name: str = "search", profile: str = "",
    seed: int | None = None, storage: str = "",
) -> list[Record]:  # fmt: skip
    """Search hyperparameters: run `count` trials of the experiment `base` with values drawn from `config`.

    A trial is an ordinary run, named NAME_1, NAME_2, ... The trials are kept in a database: SQLite in the records'
    folder, or the server at the URL `storage`. The same call resumes an interrupted search, a larger `count` adds
    trials, and other processes may `join` it. A trial that fails is recorded as failed, and the others continue.

    Args:
        config: what W&B calls a sweep configuration. Method "bayes" is a Gaussian process, "random" draws at random,
            "grid" takes every combination. Offline these are Optuna's samplers, seeded; with a W&B account, a W&B
            sweep, whose agent gives each trial its values (never tried against W&B's servers). Keys without a meaning
            here (program, command, description, ...) are reported and ignored.
        base: the row to vary, or its name. Its own profile and seed hold unless others are given.

    Returns:
        The finished trials' records, best first.

    Raises:
        UsageError: before anything is written, for everything that is wrong in the configuration, in one message; if
            the search was begun with a different configuration; and if W&B creates no sweep or gives no trial.

    Example:
        >>> search(REPORT_SWEEP, 12, profile="sample")  # doctest: +SKIP
        [<Record search_9 (sample, seed 0): ...>, ...]
    """
    return searching.search(config, count, base, name, profile, seed, storage, run=run, open_for_sweep=open_for_sweep)


def join(name: str = "search", *, profile: str = "", seed: int = 0, storage: str = "") -> list[Record]:
    """Work on a search that another process has begun, until it has all its trials; see `search`.

    Returns the finished trials' records, best first. Raises UsageError for a search that has not been begun.

    >>> join("search", profile="sample")  # doctest: +SKIP
    [<Record search_9 (sample, seed 0): ...>, ...]
    """
    return searching.join(name, profile, seed, storage, run=run, open_for_sweep=open_for_sweep)


def verify(name: str, profile: str | None = None, seed: int = 0, epochs: int | None = None) -> Difference:
    """Train a committed run again, in the precision of its record, and compare the two.

    It is trained in a temporary folder, without W&B. With `epochs`, only the first epochs are trained and compared. An
    estimate of the time is printed first.

    Raises:
        UsageError: for a run without a committed record, for a run whose row in the table has changed, for more epochs
            than its record has, and for step times, which are never the same twice.

    Example:
        >>> print(verify("MLP_4", "cpu", epochs=2))  # doctest: +SKIP
    """
    return verification.verify(name, profile, seed, epochs, run)
