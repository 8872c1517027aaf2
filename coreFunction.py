"""Running experiments: the loop that every run goes through, `pipeline` for any model, `run` and `run_all` for the table's rows.

Every epoch seeds itself from (seed, epoch), so that a run that was cut off goes on as if it had not been.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataFunction import ImageSet, known_fingerprint, load_images
from experimentTable import (
    CLASSES,
    ROWS,
    Experiment,
    UsageError,
    choose,
    current_profile,
    experiment,
    has_budget,
    identity,
    price,
    with_budget,
)  # fmt: skip
from featureFunction import Source, as_source, cached, extract_features, split
from fileFunction import digest
from myModel import MODELS, initialise, replace_head, set_train_mode, train_only
from queueFunction import generation, work_off
from recordFunction import Record, RunFolder, check_identity, find_record, runs_dir, same_identity
from trainFunction import (
    EarlyStopping,
    GradientNorms,
    check_model,
    epoch_batches,
    evaluate,
    lay_out,
    make_optimizer,
    probe,
    restore_optimizer,
    train_epoch,
)
from utilityFunction import about, bar, cast, checkpoint_seconds, device, provenance, resolve_precision, seed_everything
from wandbFunction import Mirror, mirror

__all__ = ["build", "evaluate", "extract_features", "pipeline", "run", "run_all", "train_epoch"]

# Others start from them, or the final test needs them.
KEEP_WEIGHTS = {row.start_from for row in ROWS if row.start_from} | {"baseline", "dropout"}


# ---------------------------------------------------------------- the loop


def _fit(
    model: nn.Module, train: Source, held: Source, exp: Experiment, folder: RunFolder, checkpoint: dict | None, *, split_name: str,
    steps: int | None = None, graph: bool = False, keep_weights: bool = False, use_wandb: Any = True, line: Any = None,
    stop: Callable[[], bool] = bool,
) -> Record:  # fmt: skip
    """Train `model` in place as `exp` says, on from `checkpoint`; `stop` is asked after each epoch whether to leave off there.

    `graph`: the model may be run as a CUDA graph, as those of the table may.
    """
    precision = resolve_precision(exp.precision)
    model.to(device(), torch.float64 if precision == "fp64" else torch.float32)
    layout = lay_out(model, train)
    train, held = (source.to(device(), layout) if isinstance(source, ImageSet) else source for source in (train, held))
    train_only(model, exp.trainable)
    if checkpoint:
        with folder.restoring():
            model.load_state_dict(checkpoint["model"])
            frozen = {(name, digest) for name, digest in checkpoint["frozen"]}  # what moved before it must not go unseen
    else:
        frozen = _frozen_digests(model)
    probed = train.batch(torch.arange(min(256, len(train))))[0] if exp.record_gradients else None
    trained, train, held = _without_frozen_prefix(model, train, held, precision)
    optimizer = make_optimizer(exp, trained, graph)
    gradients = GradientNorms(trained) if exp.record_gradients else None
    stopping, best, first = EarlyStopping(exp.patience, exp.min_delta), None, 0
    if checkpoint:
        with folder.restoring():
            restore_optimizer(optimizer, checkpoint["optimizer"])
            stopping, best, first = EarlyStopping(**checkpoint["stopping"]), checkpoint["best"], checkpoint["epoch"] + 1
    shown = Mirror(Record(folder.path), None if use_wandb is True else use_wandb) if use_wandb else None
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
        if epoch:
            order = epoch_batches(len(train), exp.batch_size, seed_everything(exp.seed, epoch), steps)
            row |= train_epoch(trained, map(train.batch, order), optimizer, precision, gradients, graph)
        measured, predictions = evaluate(trained, held, precision)
        row |= {f"{split_name}_{metric}": value for metric, value in measured.items()}
        row |= {} if probed is None else probe(model, probed, precision)
        row = folder.append(row)
        if shown:
            shown.log(row)
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
                if shown:
                    shown.finish(record)
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
    if shown:
        shown.finish(record)
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
    if not (parts := split(model, cast(train.batch(torch.arange(min(4, len(train))))[0], precision))):
        return model, train, held
    seen_train, seen_held = cached(parts[0], train, precision), cached(parts[0], held, precision)
    return (parts[1], seen_train, seen_held) if seen_train and seen_held else (model, train, held)


# ---------------------------------------------------------------- a reader's own model and data

OPTIONS = {"lr", "optimizer", "epochs", "batch_size", "trainable", "patience", "min_delta", "record_gradients", "eps", "precision", "seed"}


def pipeline(
    model: nn.Module, train_set: Any, eval_set: Any, *, name: str, resume: bool = False, record: bool = True, wandb: bool = True,
    keep_weights: bool = False, **options: Any,
) -> Record:  # fmt: skip
    """Train any model on any map-style torch data set of (tensor, label) pairs, through the loop that the report's runs take.

    The model is trained in place. Always trains: a finished record of that `name` is moved aside; `resume=True` goes on with
    an interrupted one. `record=False` leaves nothing on the disk, `wandb=False` nothing in W&B; the record is returned all the same.
    `options` are fields of Experiment, those in OPTIONS. Raises UsageError for an unknown option or value,
    and for data that does not fit the model.
    """
    if unknown := sorted(set(options) - OPTIONS):
        raise UsageError(f"unknown option {unknown[0]!r}; choose from {', '.join(sorted(OPTIONS))}")
    if not isinstance(name, str):
        raise UsageError(f"name must be a word, as 'my_model', got {name!r}")
    exp = Experiment(name, model=type(model).__name__, dataset="own", profile="own", **{"lr": 1e-3, **options})
    train = as_source(train_set)
    held = as_source(eval_set, train.classes)
    check_model(model, train, held, exp)
    train_only(model, exp.trainable)  # an unknown child is refused before anything is moved aside
    makeup = asdict(exp) | {"architecture": str(model), "images": [len(train), len(held)], "classes": len(train.classes)}
    makeup = {key: value for key, value in makeup.items() if key not in ("name", "profile", "seed", "family")}
    scratch = None if record else tempfile.TemporaryDirectory()
    with RunFolder(exp, Path(scratch.name) if scratch else runs_dir()) as folder:
        checkpoint = folder.start(makeup, provenance(resolve_precision(exp.precision)), fresh=not resume or folder.ended)
        made = _fit(
            model, train, held, exp, folder, checkpoint, split_name="validation", keep_weights=keep_weights, use_wandb=wandb and record
        )
    made.scratch = scratch  # the folder lives as long as the record that reads it
    return made


# ---------------------------------------------------------------- the table's rows


def build(exp: Experiment) -> nn.Module:
    """The experiment's model with the weights it starts from: its own seed's, or its parent's with a new last layer where that differs.

    A parent whose weights are not here is trained first.
    """
    seed_everything(exp.seed, 0)
    if exp.start_from is None:
        model = MODELS[choose("model", exp.model, MODELS)](image_size=identity(exp)["image_size"])
        initialise(model, exp.initialisation)
        return _headed(model, exp) if exp.model == "resnet18" or exp.dropout else model
    parent = replace(experiment(exp.start_from), profile=exp.profile, seed=exp.seed)
    weights = _parent_weights(parent)
    model = build(replace(parent, start_from=None))
    model.load_state_dict(weights)
    seed_everything(exp.seed, 0)
    same_head = CLASSES[parent.dataset] == CLASSES[exp.dataset] and parent.dropout == exp.dropout
    return model if same_head else _headed(model, exp)


def _headed(model: nn.Module, exp: Experiment) -> nn.Module:
    return replace_head(model, CLASSES[exp.dataset], exp.dropout)


def _parent_weights(parent: Experiment) -> dict:
    found = find_record(parent.name, parent.profile, parent.seed, evidence=False)
    if not (found and found.finished and found.has_weights):
        _say_trained_first(parent)
        found = run(parent, evidence=False)
    if found.result and not found.finished:
        raise UsageError(f"{parent.name} (seed {parent.seed}) failed ({found.result['reason']}); what starts from it cannot run")
    return found.weights()


def _say_trained_first(parent: Experiment) -> None:
    print(f"{parent.name} (seed {parent.seed}) has no weights here; it is trained first, {about(price(parent), parent.profile)}")


def data_identity(exp: Experiment) -> dict:
    """The experiment's identity at its profile, and the fingerprint of its data, known without having them."""
    names = tuple(CLASSES) if exp.kind == "distribution" else (exp.dataset,)
    return identity(exp) | {"data": {name: known_fingerprint(name, exp.profile) for name in names}}


def _train(exp: Experiment, line: Any, stop: Callable[[], bool], use_wandb: Any) -> Record:
    split_name = "validation" if exp.dataset == "cifar100" else "test"
    makeup = data_identity(exp)
    if makeup["steps_per_epoch"] and exp.epochs not in {row.epochs for row in ROWS if row.family == exp.family}:
        print(f"{exp.name}: epochs={exp.epochs} has no effect in the profile {exp.profile}; its family has {makeup['epochs']} rows there")
    exp = replace(exp, epochs=makeup["epochs"])  # what its profile grants
    train, held = (load_images(exp.dataset, part, exp.profile, makeup["image_size"]) for part in ("train", split_name))
    model = build(exp)
    check_model(model, train, held, exp)
    with RunFolder(exp, runs_dir()) as folder:
        checkpoint = folder.start(makeup, provenance(resolve_precision(exp.precision)))
        return _fit(
            model, train, held, exp, folder, checkpoint, split_name=split_name, steps=makeup["steps_per_epoch"],
            graph=True, keep_weights=exp.name in KEEP_WEIGHTS, use_wandb=use_wandb, line=line, stop=stop,
        )  # fmt: skip


def run(
    exp: Experiment | str, evidence: bool = True, *, wandb: Any = True, line: Any = None, stop: Callable[[], bool] = lambda: False
) -> Record:
    """One experiment: its finished record is loaded, its interrupted run gone on with, else it is trained.

    `evidence=False` leaves the committed records aside. `wandb` says whether W&B sees the run, or is a W&B run to write it to.
    `stop` is asked after each epoch whether to leave off there. Raises UsageError for an unknown name or profile, for data that
    are missing, and where another run has that name.
    """
    exp = experiment(exp) if isinstance(exp, str) else exp
    exp = replace(exp, profile=current_profile(exp.profile))
    found = find_record(exp.name, exp.profile, exp.seed, evidence)
    if found and found.result:
        check_identity(found, data_identity(exp))
        return found
    if not has_budget(exp):
        raise UsageError(f"{exp.name} has no budget in the profile {exp.profile}; run it with profile {with_budget(exp)}")
    if exp.kind == "training":
        return _train(exp, line, stop, wandb)
    import analysisFunction

    line = bar(1) if line is None else line
    line.reset(total=1)
    line.set_description_str(exp.name)
    line.set_postfix_str("")  # a training before it has left its loss there
    with RunFolder(exp, runs_dir()) as folder:
        record = analysisFunction.analyse(exp, folder)
    if wandb:
        mirror(record)
    line.update(1)
    return record


def run_all(
    *names: Experiment | str, profile: str = "", seeds: Sequence[int] = (0,), evidence: bool = True,
    executor: Executor | None = None, wandb: bool = True, stop: Callable[[], bool] = lambda: False,
) -> list[Record]:  # fmt: skip
    """`run` for many, parents before children, with one estimate and one bar; returns the finished records, in the order asked for.

    What cannot run is said in one line, and the others go on. An `executor` of processes (any of concurrent.futures) runs
    independent ones side by side. An interrupt leaves off at once; the same call goes on from there.
    """
    if isinstance(executor, ThreadPoolExecutor):
        raise UsageError("threads share torch's random numbers, so no run would be its seed's; give a ProcessPoolExecutor")
    profile = current_profile(profile)
    if not isinstance(seeds, Iterable):
        raise UsageError(f"seeds are a sequence of whole numbers, such as (0, 1), not {seeds!r}")
    rows = [experiment(name) if isinstance(name, str) else name for name in names]
    wanted = list(dict.fromkeys(replace(row, profile=profile, seed=seed) for seed in seeds for row in rows))
    if beyond := [exp for exp in wanted if not has_budget(exp)]:
        listed = ", ".join(dict.fromkeys(exp.name for exp in beyond))
        print(f"no budget in the profile {profile} for {listed}; choose profile {with_budget(*beyond)}")
        wanted = [exp for exp in wanted if has_budget(exp)]
    asked = [exp for exp in wanted if not _ended(exp, evidence)]
    parents = list(dict.fromkeys(parent for exp in asked for parent in missing_parents(exp) if parent not in asked))
    for parent in parents:
        _say_trained_first(parent)
    calls = {exp: partial(run, exp, evidence=evidence and exp in asked, wandb=wandb) for exp in sorted([*asked, *parents], key=generation)}
    recorded = len(wanted) - len(asked)
    if calls and (held := work_off(calls, recorded, executor, stop)) and not stop():
        again = {exp: calls[exp] for exp in held}  # once more, since the others have taken their time
        work_off(again, recorded + len(calls) - len(again), executor, stop, together=False)
    ended = {exp: record for exp in wanted if (record := _ended(exp, evidence))}
    for failed in (record for exp, record in ended.items() if not record.finished and exp not in asked):
        print(failed)
    return [record for record in ended.values() if record.finished]


def missing_parents(exp: Experiment) -> list[Experiment]:
    """What has to be trained before this one, since its record in `RUNS_DIR` has no result: its parent, that one's parent, ..."""
    if exp.start_from is None:
        return []
    parent = replace(experiment(exp.start_from), profile=exp.profile, seed=exp.seed)
    return [] if _ended(parent, evidence=False) else [parent, *missing_parents(parent)]


def _ended(exp: Experiment, evidence: bool) -> Record | None:
    """The experiment's record, where it has a result. What is damaged or another's is none; `run` says what is wrong with it."""
    try:
        found = find_record(exp.name, exp.profile, exp.seed, evidence)
        return found if found and found.result and same_identity(found, data_identity(exp)) else None
    except UsageError:
        return None
