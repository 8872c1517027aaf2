"""Running experiments: `pipeline` for any model, `run` and `run_all` for the table's rows."""

import copy
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from deepnet.account import wandb_wanted
from deepnet.analyses.final_test import final_test as run_final_test
from deepnet.analyses.kinds import analyse as prepared_analysis
from deepnet.data.datasets import BatchSource, as_source
from deepnet.data.digests import full_digest
from deepnet.data.sets import load_images
from deepnet.machine import device
from deepnet.progress import bar, format_estimate
from deepnet.records.files import digest
from deepnet.records.folder import RunFolder, checkpoint_seconds
from deepnet.records.provenance import provenance
from deepnet.records.reading import Record, check_identity, find_record, roots, runs_dir
from deepnet.runs import verification
from deepnet.runs.asked import (
    as_experiment,
    asked_for,
    check_options,
    data_identity,
    ended,
    is_without_weights,
    untrained_parents,
)
from deepnet.runs.queue import check_executor, count_ancestors, run_queue
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
from deepnet.training.own import check_schedule, checked_sets, own_optimizer
from deepnet.training.precision import cast, resolve_precision
from deepnet.training.ready import BATCH_SIZE, count_outputs, materialise, own_precision, size_of_batches
from deepnet.training.recipe import Recipe, advance, fast_by_default, rehearse, set_precision, trial_of
from deepnet.training.steps import Loss, check_loss, evaluate, train_epoch
from deepnet.valid import truth, whole
from experimentTable import (
    EVAL_SPLIT,
    NOT_COMPUTED,
    Experiment,
    UsageError,
    current_profile,
    estimated_seconds,
    is_supported,
    keeps_weights,
    supporting_profiles,
)  # fmt: skip
from myModel import train_only, weight_layers
from utilityFunction import Mirror, closing, mirror, open_for_sweep

__all__ = [
    "build", "evaluate", "extract_features", "final_test", "join", "pipeline", "run", "run_all", "search", "train_epoch", "verify",
]  # fmt: skip

# ---------------------------------------------------------------- a reader's own model and data


@contextmanager
def _learning(model: nn.Module, children: Collection[str] | None) -> Iterator[None]:
    """Let these children alone learn meanwhile; afterwards, refusal or not, what could learn before can again."""
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        train_only(model, children)
        yield
    finally:
        for parameter, could_learn in learned:
            parameter.requires_grad = could_learn


# model -> the run that trained it last in this process, and the digest of its weights then
_left: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()


def pipeline(
    model: nn.Module, train_set: Any, eval_set: Any, *, name: str, lr: float | None = None,
    optimizer: str | Callable[[list[nn.Parameter]], Optimizer] = "Adam", eps: float | None = None, epochs: int = 20,
    batch_size: int | None = None, eval_batch_size: int | None = None, trainable: Collection[str] | None = None, loss: Loss = cross_entropy,
    schedule: Callable[[Optimizer], Any] | None = None, schedule_per_step: bool = False, patience: int | None = None,
    min_delta: float = 0.0, classes: Sequence[Any] | None = None, workers: int = 0, precision: str | None = None, seed: int = 0,
    fast: bool = False, cache_frozen: bool = False, record_gradients: bool = False, keep_weights: bool = False, resume: bool = False,
    record: bool = True, wandb: bool | None = None,
) -> Record:  # fmt: skip
    """Train any model on any map-style data set of (tensor, label) pairs, or on a loader of one, and record the run.

    It always trains: a finished record of that name is superseded, which leaves it beside the new one. The model is
    trained in place and used as it is: its own `forward` and `train`, torch's own operations, and every item is read
    again in each epoch. It is left on the device, in eval mode, with its best epoch's weights where `patience` is
    given. What is frozen stays frozen.

    Args:
        model: gives scores (N, classes) for a batch of N inputs, in training too.
        train_set: a data set with a length whose items are (tensor, label) pairs, or a `DataLoader`, whose own batches
            are taken.
        eval_set: likewise, for the evaluation before the first epoch and after each.
        name: of the run and of its folder.
        lr: the learning rate of a named optimizer (default 1e-3).
        optimizer: "Adam", "AdamW", "RMSprop" or "SGD" with torch's defaults, or a callable from the parameters that
            learn to an optimizer, as `lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)`.
        eps: the eps of a named optimizer (default: torch's).
        epochs: passes over the training set.
        batch_size: items per step of a data set (default 128). A last batch of one item joins the one before it.
        eval_batch_size: items per batch in evaluation (default: `batch_size`).
        trainable: names of the child modules to train; by default every parameter that requires a gradient.
        loss: from scores (B, classes) and targets (B,) to the mean over the batch.
        schedule: from the optimizer to a scheduler of torch.optim.lr_scheduler, which is stepped after each epoch; one
            that waits for a plateau goes by the evaluation loss.
        schedule_per_step: step the schedule after each optimizer step instead.
        patience: epochs in a row without a gain in evaluation accuracy of more than `min_delta` that end the run. The
            first gain is counted from an accuracy of 0, as in the report.
        min_delta: see `patience`.
        classes: the labels in the order of the model's outputs; names alone where labels are whole numbers. Unless it
            is given, whole numbers from 0 to outputs - 1 stay what they are, and others, or words, are numbered in
            ascending order. The record says how.
        workers: processes that read the data sets.
        precision: "fp32", "fp64", "bf16" (torch's autocast) or "auto", which is bf16 where the hardware has it
            (default: the model's own type). "fp32" and "fp64" convert the model, and it stays so.
        seed: of the order, of dropout and of random transforms: each epoch seeds torch's, numpy's and Python's global
            generators. The initial weights are the caller's own; call `torch.manual_seed` before the model is made to
            have them again.
        fast: use all that only makes it faster: fused optimizers, channels-last memory, products computed otherwise on
            small maps, memory that is kept, and a frozen front that is computed once where its forward is known to be a
            chain of modules (nn.Sequential; torchvision's ResNet) and the data are tensors in memory. Results differ by
            rounding alone.
        cache_frozen: compute the frozen front once in any case: the caller vouches that the model runs its children in
            turn and that the data are the same at each reading.
        record_gradients: record gradient norms and each layer's signal per epoch.
        keep_weights: keep the final weights beside the record.
        resume: go on with an interrupted run of this name.
        record: leave files on the disk; without it the record is returned all the same.
        wandb: mirror the run to Weights & Biases (default: only where an account is logged in or WANDB_MODE is set).

    Returns:
        The run's record.

    Raises:
        UsageError: for a value that has no effect or cannot be had, for data that do not fit the model, where nothing
            could learn, and for whatever fails when a copy of the model is trained on batches of the sizes that will
            come; files are then as they were.

    Example:
        >>> torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        >>> pipeline(model, train_set, test_set, name="linear", epochs=2).result["accuracy"]
    """
    if not isinstance(name, str):
        raise UsageError(f"name must be a word, as 'my_model', got {name!r}")
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, got {model!r:.60}")
    convert, precision = precision is not None, resolve_precision(precision or own_precision(model))
    if not isinstance(optimizer, str) and not callable(optimizer):
        raise UsageError(
            f"optimizer must be a name, or a callable from parameters to an optimizer, got {optimizer!r:.60}"
        )
    if not isinstance(optimizer, str) and (lr is not None or eps is not None):
        raise UsageError("lr and eps belong to an optimizer that is named; set them where yours is made")
    if isinstance(trainable, Collection) and not isinstance(trainable, str):
        trainable = tuple(trainable)
    batch_size = size_of_batches("batch_size", train_set, batch_size, BATCH_SIZE)
    exp = Experiment(
        name, model=type(model).__name__, dataset="own", profile="own", lr=1e-3 if lr is None else lr,
        optimizer=optimizer if isinstance(optimizer, str) else "Adam", eps=eps, epochs=epochs, batch_size=batch_size, trainable=trainable,  # type: ignore[arg-type]
        patience=patience, min_delta=min_delta, record_gradients=record_gradients, precision=precision, seed=seed,
    )  # fmt: skip
    recipe = Recipe(
        partial(make_optimizer, exp, fast=fast) if isinstance(optimizer, str) else partial(own_optimizer, optimizer),
        precision, loss, schedule,
        schedule_per_step, size_of_batches("eval_batch_size", eval_set, eval_batch_size, exp.batch_size), fast,
        cache_frozen=cache_frozen,
    )  # fmt: skip
    switches = {
        "fast": fast,
        "cache_frozen": cache_frozen,
        "keep_weights": keep_weights,
        "resume": resume,
        "record": record,
    }
    for switch, value in (switches | {"schedule_per_step": schedule_per_step}).items():
        truth(switch, value)
    check_schedule(schedule, schedule_per_step)
    check_loss(loss)
    train, evaluation = (as_source(data, whole("workers", workers, 0)) for data in (train_set, eval_set))
    mirrored = wandb_wanted(wandb) and record
    modes = [(module, module.training) for module in model.modules()]
    try:
        with _learning(model, exp.trainable):
            train, evaluation, settings = checked_sets(model, train, evaluation, exp, recipe, classes, convert)
            materialise(model, train)
            run_of = asdict(exp) | settings
            identity = {key: value for key, value in run_of.items() if key not in NOT_COMPUTED}
            begun = digest(model.state_dict())
            if _left.get(model, ("", ""))[1] == begun:
                print(
                    f"{name}: begins with the weights that {_left[model][0]} left in this model; make it anew to train it from scratch"
                )
            scratch = None if record else tempfile.TemporaryDirectory()
            root = Path(scratch.name) if scratch else runs_dir()
            with kept_memory(fast), RunFolder(exp, root) as folder:
                try:
                    checkpoint = folder.start(
                        identity, provenance(precision), fresh=not resume or folder.ended, initial_weights=begun,
                        classes=list(evaluation.classes), layers=[layer for layer, _ in weight_layers(model)],
                    )  # fmt: skip
                    if convert:
                        set_precision(model, precision)
                    made = fit(
                        model, train, evaluation, exp, recipe, folder, checkpoint, split_name="validation", keep_weights=keep_weights,
                        use_wandb=mirrored,
                    )  # fmt: skip
                finally:
                    _left[model] = name, digest(model.state_dict())
                    modes = [(module, False) for module in model.modules()]  # it has been trained, to the end or not
    finally:
        for module, mode in modes:
            module.training = mode
    made.scratch = scratch  # the folder lives as long as the record that reads it
    return made


# ---------------------------------------------------------------- the table's rows


def build(exp: Experiment) -> nn.Module:
    """The experiment's model with the weights it starts from: its own seed's, or its parent's with a new last layer
    where that differs.

    A parent whose weights are not here is trained first.
    """
    return built(exp, _parent_weights)


def _parent_weights(parent: Experiment) -> dict:
    found = find_record(parent.name, parent.profile, parent.seed, evidence=False)
    if not (found and found.finished and found.has_weights):
        _say_trained_first(parent)
        found = run(replace(parent, keep_weights=True), evidence=False)
    if found.result and not found.finished:
        raise UsageError(
            f"{parent.name} (seed {parent.seed}) failed ({found.result['reason']}); what starts from it cannot run"
        )
    return found.weights()


def _say_trained_first(parent: Experiment) -> None:
    # what has a result is not trained again; `run` says what is wrong with it
    if not RunFolder(parent, runs_dir()).ended:
        print(
            f"{parent.name} (seed {parent.seed}) has no weights here; it is trained first, {format_estimate(estimated_seconds(parent), parent.profile)}"
        )


def _train(
    exp: Experiment, identity: dict, line: Any, stop: Callable[[], bool], use_wandb: Any
) -> Callable[[RunFolder], Record]:
    """Prepare a training of the table's, and return the function that trains it to its record in a folder, or goes on
    there.
    """
    split_name = EVAL_SPLIT[exp.dataset]
    precision, fast = resolve_precision(exp.precision), fast_by_default()
    exp = replace(exp, epochs=identity["epochs"])  # what its profile grants
    train, held = (
        load_images(exp.dataset, part, exp.profile, identity["image_size"]) for part in ("train", split_name)
    )
    model = build(exp)
    train_only(model, exp.trainable)
    set_precision(model, precision)
    recipe = Recipe(partial(make_optimizer, exp, graph=True, fast=fast), precision, fast=fast, graph=True)
    with trial_of(model) as trial:
        with torch.no_grad():
            count_outputs(trial, cast(train.first_inputs(2).to(device()), precision))
        rehearse(trial, train, held, exp, recipe, record_gradients=False)

    @kept_memory(fast)
    def write(folder: RunFolder) -> Record:
        checkpoint = folder.start(identity, provenance(precision))
        return fit(
            model, train, held, exp, recipe, folder, checkpoint, split_name=split_name, steps=identity["steps_per_epoch"],
            keep_weights=keeps_weights(exp), use_wandb=use_wandb, line=line, stop=stop,
        )  # fmt: skip

    return write


def _analyse(exp: Experiment, identity: dict, line: Any, use_wandb: Any) -> Callable[[RunFolder], Record]:
    """Prepare an analysis, and return the function that writes its record to a folder."""
    analyse = prepared_analysis(exp, identity, build)

    def write(folder: RunFolder) -> Record:
        shown = bar(1) if line is None else line
        shown.reset(total=1)
        shown.set_description_str(exp.name)
        shown.set_postfix_str("")  # a training before it has left its loss there
        record = analyse(folder)
        if use_wandb:
            mirror(record)
        shown.update(1)
        return record

    return write


def run(
    exp: Experiment | str,
    evidence: bool = True,
    *,
    wandb: Any = True,
    line: Any = None,
    stop: Callable[[], bool] = lambda: False,
) -> Record:
    """One experiment: its finished record is loaded, its interrupted run resumed, else it is trained.

    The record that is returned stays what it is, whatever is trained or moved afterwards. `evidence=False` leaves the
    committed records aside. `wandb` says whether W&B sees the run, or is a W&B run to write it to. `stop` is asked
    after each epoch whether to leave off there. Raises UsageError for an unknown name, profile or option, for data that
    are missing, where another run has that name, and while another process trains this one.

    Example::

        run("MLP_4").result["accuracy"]
    """
    check_options(evidence, wandb, stop)
    exp = as_experiment(exp)
    exp = replace(exp, profile=current_profile(exp.profile))
    identity = data_identity(exp)
    # the committed records have no weights
    found = find_record(exp.name, exp.profile, exp.seed, evidence and not exp.keep_weights)
    if found and found.result:  # spares data, model and lock
        check_identity(found, identity)
        if is_without_weights(exp, found):
            raise UsageError(
                f"the weights of {exp.name} (seed {exp.seed}) were not kept; move {found.path} away, and it is trained again"
            )
        return found.load()
    if not is_supported(exp):
        raise UsageError(
            f"{exp.name} has no budget in the profile {exp.profile}; run it with profile {supporting_profiles(exp)}"
        )
    write = _train(exp, identity, line, stop, wandb) if exp.kind == "training" else _analyse(exp, identity, line, wandb)
    with RunFolder(replace(exp, epochs=identity["epochs"]), runs_dir()) as folder:  # as many as its profile grants
        if not folder.ended:
            return write(folder).load()
        check_identity(folder.record, identity)  # by another process, since it was looked for
        return folder.record.load()


def run_all(
    *names: Experiment | str, profile: str | None = None, seeds: Sequence[int] | None = None, evidence: bool = True,
    executor: Executor | None = None, wandb: bool = True, stop: Callable[[], bool] = lambda: False,
) -> list[Record]:  # fmt: skip
    """`run` for many, parents before children, with one estimate and one bar; returns the finished records, in the
    order asked for.

    profile, seeds: those of the rows that have none of their own; by default the current profile and seed 0. What
    cannot run is said in one line, and the others go on. An `executor` of processes (any of concurrent.futures) runs
    independent ones side by side. An interrupt leaves off at once; the same call goes on from there. What another
    process is training is tried once more at the end. What it still trains then is said, and is not among the records
    returned; the same call returns it once it has ended. Raises UsageError for an unknown name or profile, for a row
    whose own profile or seed is not the one asked for, and for an executor whose processes could not work.

    Example::

        run_all("MLP_4", replace(EXPERIMENTS["MLP_4"], seed=2), executor=ProcessPoolExecutor(2,
        mp_context=get_context("spawn")))
    """
    check_options(evidence, wandb, stop)
    if executor is not None:
        check_executor(executor)
    roots()  # refused once, where no folder is named, and not with each run
    wanted = list(dict.fromkeys(asked_for(list(map(as_experiment, names)), profile, seeds)))
    if beyond := [exp for exp in wanted if not is_supported(exp)]:
        listed = ", ".join(dict.fromkeys(exp.name for exp in beyond))
        profiles = " and ".join(dict.fromkeys(exp.profile for exp in beyond))
        print(f"no budget in the profile {profiles} for {listed}; choose profile {supporting_profiles(*beyond)}")
        wanted = [exp for exp in wanted if is_supported(exp)]
    records = {exp: record for exp in wanted if (record := ended(exp, evidence))}
    for failed in (record for record in records.values() if not record.finished):
        print(failed)
    asked = [exp for exp in wanted if exp not in records]
    parents = list(dict.fromkeys(parent for exp in asked for parent in untrained_parents(exp) if parent not in asked))
    for parent in parents:
        _say_trained_first(parent)
    calls = {
        exp: partial(run, exp, evidence=evidence and exp in asked, wandb=wandb)
        for exp in sorted([*asked, *parents], key=count_ancestors)
    }
    recorded = len(wanted) - len(asked)
    if calls:
        made, held = run_queue(calls, recorded, executor, stop)
        if held and not stop():
            again = {exp: calls[exp] for exp in held}  # once more, since the others have taken their time
            made |= run_queue(again, recorded + len(calls) - len(again), executor, stop, together=False)[0]
        records |= made
        # Others may have finished meanwhile what they were at.
        records |= {exp: record for exp in asked if exp not in records and (record := ended(exp, evidence))}
    return [records[exp] for exp in wanted if exp in records and records[exp].finished]


@closing()
def fit(
    model: nn.Module, train: BatchSource, eval_set: BatchSource, exp: Experiment, recipe: Recipe, folder: RunFolder, checkpoint: dict | None, *,
    split_name: str, steps: int | None = None, keep_weights: bool = False, use_wandb: Any = True, line: Any = None,
    stop: Callable[[], bool] = lambda: False,
) -> Record:  # fmt: skip
    """Train what may learn of `model`, in place, as `exp` and `recipe` say, on from `checkpoint`.

    `stop` is asked after each epoch whether to leave off there.
    """
    precision, fast = recipe.precision, recipe.fast
    model.to(device())
    if fast:
        layout = fast_layout(model, train.first_inputs(2))
        model.to(memory_format=layout)
        train, eval_set = (
            source.to(device(), layout) if hasattr(source, "to") else source for source in (train, eval_set)
        )
    data = [full_digest(source) for source in (train, eval_set)]
    if checkpoint:
        if any(None not in pair and pair[0] != pair[1] for pair in zip(checkpoint.get("data", []), data, strict=False)):
            raise UsageError(
                f"{exp.name} was begun with other data; give the same, use another name, or leave out resume"
            )
        with folder.restoring():
            model.load_state_dict(checkpoint["model"])
            frozen = set(map(tuple, checkpoint["frozen"]))  # what moved before it must not go unseen
    else:
        frozen = frozen_digests(model)
    seed_everything(exp.seed, 0)  # a reader's data set may be random
    probed = train.first_inputs(min(256, recipe.eval_batch_size)).to(device()) if exp.record_gradients else None
    trained = model
    if fast or recipe.cache_frozen:
        trained, train, eval_set = without_frozen_prefix(
            model, train, eval_set, precision, recipe.eval_batch_size, recipe.cache_frozen
        )
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
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": best,
            "epoch": epoch,
            "frozen": sorted(frozen),
        }
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
                trained,
                batches,
                optimizer,
                precision,
                gradients,
                recipe.graph,
                loss=recipe.loss,
                fast=fast,
                after_step=after_step,
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
        line.set_postfix_str(
            f"train loss {row.get('train_loss')}, {split_name} accuracy {row[f'{split_name}_accuracy']}"
        )
        # NaN and infinity are None there
        if epoch and (broken := [part for part in ("train", split_name) if row[f"{part}_loss"] is None]):
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

    # before the best weights are restored, which would hide what moved after them
    moved = frozen ^ frozen_digests(model)
    if best is not None:  # the restored weights' own measure and predictions, not the last epoch's
        model.load_state_dict(best)
        measured, predictions = measure()
        moved |= frozen ^ frozen_digests(model)
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


# ---------------------------------------------------------------- the final test, the search, verification


def final_test(record: Record, why_again: str = "") -> dict[str, dict]:
    """The only door to chapter 5's test set: opens it once for this run and seed, logs the opening, returns
    {classifier: its line}.

    Asked again it returns what was logged, here or in the committed evidence; `why_again` opens it once more, and
    stands in the log. Raises UsageError for a row without `final_test` (in the table `dropout` and `baseline` have it)
    or one that has not finished, while another chapter 5 run or search trial of that profile and seed is unfinished,
    where the weights are not here, where others were tested before, and while another process is at it.
    """
    return run_final_test(record, build, why_again)


def search(
    config: dict, count: int, *, base: str | Experiment = "sweep_1", name: str = "search", profile: str = "", seed: int | None = None,
    storage: str = "",
) -> list[Record]:  # fmt: skip
    """Run `count` trials of the experiment `base` with values drawn from `config`; returns the finished ones' records,
    best first.

    `config` is what W&B calls a sweep configuration. Method `bayes` is a Gaussian process, `random` draws at random,
    `grid` takes every combination: Optuna's, seeded, or with a W&B account those of a W&B sweep, whose agent gives each
    trial its values and its W&B run (never tried against W&B's servers). What has no meaning here (program, command,
    description, ...) is named and passed over. `base` is a row of the table or its name; a row's own profile and seed
    hold unless others are given.

    The trials are in a database: SQLite in the records folder, or the server at the URL `storage`. Called again, a
    finished search trains nothing, a larger `count` adds trials, and a search that was cut off goes on, the unfinished
    trial first; so does one whose database and records are committed. Other processes may `join` it meanwhile. A trial
    that fails is recorded as failed, and the others go on.

    Raises UsageError, before anything is written, for what no trial could be drawn from or run with, all of it in one
    message; for another configuration than the search was begun with; and where W&B makes no sweep or gives no trial.

    >>> search(REPORT_SWEEP, 12, profile="sample")  # doctest: +SKIP
    [<Record search_9 (sample, seed 0): ...>, ...]
    """
    return searching.search(config, count, base, name, profile, seed, storage, run=run, open_for_sweep=open_for_sweep)


def join(name: str = "search", *, profile: str = "", seed: int = 0, storage: str = "") -> list[Record]:
    """Work on a search that another process has begun, until it has its trials; returns the finished ones' records,
    best first.

    Raises UsageError where no search of that name has been begun.

    >>> join("search", profile="sample")  # doctest: +SKIP
    [<Record search_9 (sample, seed 0): ...>, ...]
    """
    return searching.join(name, profile, seed, storage, run=run, open_for_sweep=open_for_sweep)


def verify(name: str, profile: str | None = None, seed: int = 0, epochs: int | None = None) -> Difference:
    """Train a committed run again, its first `epochs` alone where that is given, and compare; says first how long it
    takes.

    It is trained in the record's precision, in a temporary folder: the records in RUNS_DIR are left alone, but for
    weights of a parent that are the evidence's. W&B is off. Raises UsageError for a run without a committed record, for
    one that is no longer in the table as it was, for more epochs than its record has, and for step times, which no two
    runs have in common.
    """
    return verification.verify(name, profile, seed, epochs, run)
