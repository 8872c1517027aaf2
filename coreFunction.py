"""Running experiments: `pipeline` for any model, `run` and `run_all` for the table's rows."""

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from dataFunction import known_fingerprint, load_images
from deepnet.records.folder import RunFolder
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
from featureFunction import as_source, extract_features
from loopFunction import fit
from myModel import MODELS, initialise, replace_head, train_only
from queueFunction import check_executor, generation, work_off
from recordFunction import Record, check_identity, find_record, runs_dir, same_identity
from trainFunction import check_model, evaluate, train_epoch
from utilityFunction import about, bar, provenance, resolve_precision, seed_everything
from wandbFunction import mirror

__all__ = ["build", "evaluate", "extract_features", "pipeline", "run", "run_all", "train_epoch"]

# Others start from them, or the final test needs them.
KEEP_WEIGHTS = {row.start_from for row in ROWS if row.start_from} | {"baseline", "dropout"}

# ---------------------------------------------------------------- a reader's own model and data

OPTIONS = {"lr", "optimizer", "epochs", "batch_size", "trainable", "patience", "min_delta", "record_gradients", "eps", "precision", "seed"}


@contextmanager
def _learning(model: nn.Module, children: Collection[str] | None) -> Iterator[None]:
    """Let these children alone learn meanwhile; afterwards, refusal or not, what could learn before can again, in eval mode."""
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        train_only(model, children)
        yield
    finally:
        for parameter, could_learn in learned:
            parameter.requires_grad_(could_learn)
        model.eval()


def pipeline(
    model: nn.Module, train_set: Any, eval_set: Any, *, name: str, resume: bool = False, record: bool = True, wandb: bool = True,
    keep_weights: bool = False, **options: Any,
) -> Record:  # fmt: skip
    """Train any model on any map-style torch data set of (tensor, label) pairs, through the loop that the report's runs take.

    Always trains: a finished record of that `name` is moved aside; `resume=True` goes on with an interrupted one.
    `record=False` leaves nothing on the disk, `wandb=False` nothing in W&B; the record is returned all the same.
    The model is trained in place: with `patience` it ends with its best epoch's weights, and it is left on the device, in eval mode,
    channels last where that is faster. What is frozen stays so, unless `trainable` names its child: those alone learn in this call.
    Each epoch seeds torch's, numpy's and Python's global generators.
    `options` are fields of Experiment, those in OPTIONS, and default to lr 1e-3, Adam, 20 epochs, batch_size 128, no patience and
    precision "fp32"; "auto" is bf16 where the hardware has it, and several times as fast for convolutions there.
    Raises UsageError for an unknown option or value, for data that does not fit the model, and where nothing could learn.
    """
    if unknown := sorted(set(options) - OPTIONS):
        raise UsageError(f"unknown option {unknown[0]!r}; choose from {', '.join(sorted(OPTIONS))}")
    if not isinstance(name, str):
        raise UsageError(f"name must be a word, as 'my_model', got {name!r}")
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module, got {model!r:.60}")
    exp = Experiment(name, model=type(model).__name__, dataset="own", profile="own", **{"lr": 1e-3, "precision": "fp32", **options})
    train = as_source(train_set)
    held = as_source(eval_set, train.classes)
    with _learning(model, exp.trainable):
        check_model(model, train, held, exp)  # before anything is moved aside
        makeup = asdict(exp) | {"architecture": str(model), "images": [len(train), len(held)], "classes": len(train.classes)}
        makeup = {key: value for key, value in makeup.items() if key not in ("name", "profile", "seed", "family")}
        if frozen := [name for name, parameter in model.named_parameters() if not parameter.requires_grad]:
            makeup["frozen"] = frozen
        scratch = None if record else tempfile.TemporaryDirectory()
        with RunFolder(exp, Path(scratch.name) if scratch else runs_dir()) as folder:
            checkpoint = folder.start(makeup, provenance(resolve_precision(exp.precision)), fresh=not resume or folder.ended)
            made = fit(
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


def _train(exp: Experiment, makeup: dict, line: Any, stop: Callable[[], bool], use_wandb: Any) -> Callable[[RunFolder], Record]:
    """Prepare a training of the table's, and return the function that trains it to its record in a folder, or goes on there."""
    split_name = "validation" if exp.dataset == "cifar100" else "test"
    if makeup["steps_per_epoch"] and exp.epochs not in {row.epochs for row in ROWS if row.family == exp.family}:
        print(f"{exp.name}: epochs={exp.epochs} has no effect in the profile {exp.profile}; its family has {makeup['epochs']} rows there")
    exp = replace(exp, epochs=makeup["epochs"])  # what its profile grants
    train, held = (load_images(exp.dataset, part, exp.profile, makeup["image_size"]) for part in ("train", split_name))
    model = build(exp)
    train_only(model, exp.trainable)
    check_model(model, train, held, exp)

    def write(folder: RunFolder) -> Record:
        checkpoint = folder.start(makeup, provenance(resolve_precision(exp.precision)))
        return fit(
            model, train, held, exp, folder, checkpoint, split_name=split_name, steps=makeup["steps_per_epoch"],
            graph=True, keep_weights=exp.name in KEEP_WEIGHTS, use_wandb=use_wandb, line=line, stop=stop,
        )  # fmt: skip

    return write


def _analyse(exp: Experiment, makeup: dict, line: Any, use_wandb: Any) -> Callable[[RunFolder], Record]:
    """Prepare an analysis, and return the function that writes its record to a folder."""
    import analysisFunction

    analyse = analysisFunction.analyse(exp, makeup)

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
    exp: Experiment | str, evidence: bool = True, *, wandb: Any = True, line: Any = None, stop: Callable[[], bool] = lambda: False
) -> Record:
    """One experiment: its finished record is loaded, its interrupted run resumed, else it is trained.

    The record that is returned stays what it is, whatever is trained or moved afterwards.
    `evidence=False` leaves the committed records aside. `wandb` says whether W&B sees the run, or is a W&B run to write it to.
    `stop` is asked after each epoch whether to leave off there. Raises UsageError for an unknown name or profile, for data that
    are missing, where another run has that name, and while another process trains this one.

    Example::

        run("MLP_4").result["accuracy"]
    """
    exp = _row(exp)
    exp = replace(exp, profile=current_profile(exp.profile))
    makeup = data_identity(exp)
    if (found := find_record(exp.name, exp.profile, exp.seed, evidence)) and found.result:  # spares data, model and lock
        check_identity(found, makeup)
        return found.load()
    if not has_budget(exp):
        raise UsageError(f"{exp.name} has no budget in the profile {exp.profile}; run it with profile {with_budget(exp)}")
    write = _train(exp, makeup, line, stop, wandb) if exp.kind == "training" else _analyse(exp, makeup, line, wandb)
    with RunFolder(replace(exp, epochs=makeup["epochs"]), runs_dir()) as folder:  # as many as its profile grants
        if not folder.ended:
            return write(folder).load()
        check_identity(folder.record, makeup)  # by another process, since it was looked for
        return folder.record.load()


def run_all(
    *names: Experiment | str, profile: str | None = None, seeds: Sequence[int] | None = None, evidence: bool = True,
    executor: Executor | None = None, wandb: bool = True, stop: Callable[[], bool] = lambda: False,
) -> list[Record]:  # fmt: skip
    """`run` for many, parents before children, with one estimate and one bar; returns the finished records, in the order asked for.

    profile, seeds: those of the rows that have none of their own; by default the current profile and seed 0.
    What cannot run is said in one line, and the others go on. An `executor` of processes (any of concurrent.futures) runs
    independent ones side by side. An interrupt leaves off at once; the same call goes on from there.
    Raises UsageError for an unknown name or profile, for a row whose own profile or seed is not the one asked for, and for an
    executor whose processes could not work.

    Example::

        run_all("MLP_4", replace(EXPERIMENTS["MLP_4"], seed=2), executor=ProcessPoolExecutor(2, mp_context=get_context("spawn")))
    """
    if executor is not None:
        check_executor(executor)
    wanted = list(dict.fromkeys(_asked(list(map(_row, names)), profile, seeds)))
    if beyond := [exp for exp in wanted if not has_budget(exp)]:
        listed = ", ".join(dict.fromkeys(exp.name for exp in beyond))
        profiles = " and ".join(dict.fromkeys(exp.profile for exp in beyond))
        print(f"no budget in the profile {profiles} for {listed}; choose profile {with_budget(*beyond)}")
        wanted = [exp for exp in wanted if has_budget(exp)]
    records = {exp: record for exp in wanted if (record := _ended(exp, evidence))}
    for failed in (record for record in records.values() if not record.finished):
        print(failed)
    asked = [exp for exp in wanted if exp not in records]
    parents = list(dict.fromkeys(parent for exp in asked for parent in missing_parents(exp) if parent not in asked))
    for parent in parents:
        _say_trained_first(parent)
    calls = {exp: partial(run, exp, evidence=evidence and exp in asked, wandb=wandb) for exp in sorted([*asked, *parents], key=generation)}
    recorded = len(wanted) - len(asked)
    if calls:
        made, held = work_off(calls, recorded, executor, stop)
        if held and not stop():
            again = {exp: calls[exp] for exp in held}  # once more, since the others have taken their time
            made |= work_off(again, recorded + len(calls) - len(again), executor, stop, together=False)[0]
        records |= made
    return [records[exp] for exp in wanted if exp in records and records[exp].finished]


def _asked(rows: Sequence[Experiment], profile: str | None, seeds: Sequence[int] | None) -> Iterator[Experiment]:
    """The rows with profile and seed: their own, else those asked for. Raises UsageError where both are there and differ."""
    if not (seeds is None or isinstance(seeds, Iterable)):
        raise UsageError(f"seeds are a sequence of whole numbers, such as (0, 1), not {seeds!r}")
    chosen = None if seeds is None else list(seeds)
    if chosen == []:
        raise UsageError("seeds are empty; give at least one, as in seeds=(0,), or leave them out")
    asked = current_profile(profile)
    for row in rows:
        if profile and row.profile not in ("", profile):
            raise UsageError(f"{row.name} is a row of the profile {row.profile}, and profile={profile!r} is asked for; give one of them")
        if chosen is not None and row.seed and chosen != [row.seed]:
            raise UsageError(f"{row.name} is a row of seed {row.seed}, and seeds={tuple(chosen)} are asked for; give one of them")
    for seed in [None] if chosen is None else chosen:
        for row in rows:
            yield replace(row, profile=row.profile or asked, seed=row.seed if seed is None else seed)


def _row(exp: Any) -> Experiment:
    if isinstance(exp, Experiment):
        return exp
    if not isinstance(exp, str):
        raise UsageError(f"expected an experiment or its name, as 'MLP_4', several as 'MLP_4', 'MLP_13', got {exp!r:.60}")
    return experiment(exp)


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
        return found.load() if found and found.result and same_identity(found, data_identity(exp)) else None
    except UsageError:
        return None
