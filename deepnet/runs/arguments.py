"""The arguments of `run` and `run_all`: rows with their profile and seed, and which of them have a record."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from deepnet.data.sets import data_identity
from deepnet.progress import format_estimate
from deepnet.records.folder import RunFolder
from deepnet.records.reading import Record, find_record, runs_dir, same_identity
from deepnet.valid import truth
from experimentTable import Experiment, UsageError, current_profile, estimated_seconds, experiment


def check_options(evidence: Any, wandb: Any, stop: Any) -> None:
    """Raise UsageError for invalid values of these options of `run` and `run_all`."""
    truth("evidence", evidence)
    if not isinstance(wandb, bool) and not hasattr(wandb, "summary"):
        raise UsageError(f"wandb must be True, False or a W&B run, got {wandb!r:.60}")
    if not callable(stop):
        raise UsageError(f"stop must be a function without arguments, such as `lambda: False`, got {stop!r:.60}")


def requested_rows(
    rows: Sequence[Experiment], profile: str | None, seeds: Sequence[int] | None
) -> Iterator[Experiment]:
    """The rows with their own profile and seed, else the requested ones. Raises UsageError if these differ."""
    if not (seeds is None or isinstance(seeds, Iterable)):
        raise UsageError(f"seeds are a sequence of whole numbers, such as (0, 1), not {seeds!r}")
    chosen = [None] if seeds is None else list(seeds)
    if not chosen:
        raise UsageError("seeds are empty; give at least one, as in seeds=(0,), or leave them out")
    default = current_profile(profile)
    for row in rows:
        own = f"{row.name} is a row of"
        if profile and row.profile not in ("", profile):
            raise UsageError(f"{own} the profile {row.profile}, and {profile=} is requested; give one of them")
        if row.seed and chosen not in ([None], [row.seed]):
            raise UsageError(f"{own} seed {row.seed}, and seeds={tuple(chosen)} are requested; give one of them")
    for seed in chosen:
        for row in rows:
            yield replace(row, profile=row.profile or default, seed=row.seed if seed is None else seed)


def as_experiment(exp: Any) -> Experiment:
    """The experiment itself, or the table's row of that name. Raises UsageError for anything else."""
    if isinstance(exp, Experiment):
        return exp
    if not isinstance(exp, str):
        examples = "such as 'MLP_4', or several, 'MLP_4', 'MLP_13'"
        raise UsageError(f"expected an experiment or its name, {examples}, got {exp!r:.60}")
    return experiment(exp)


def untrained_parents(exp: Experiment) -> list[Experiment]:
    """The parent, the parent's parent and so on, up to the first with a result in `RUNS_DIR`, which is excluded."""
    if exp.start_from is None:
        return []
    parent = replace(experiment(exp.start_from, exp.profile, exp.seed), keep_weights=True)
    return [] if ended(parent, evidence=False) else [parent, *untrained_parents(parent)]


def announce_parent(parent: Experiment) -> None:
    """Print that a parent without weights here is trained before its children, with an estimated time."""
    if not RunFolder(parent, runs_dir()).ended:  # `run` reports a parent that has ended without weights
        estimate = format_estimate(estimated_seconds(parent), parent.profile)
        print(f"{parent.name} (seed {parent.seed}) has no weights here; it is trained first, {estimate}")


def ended(exp: Experiment, evidence: bool) -> Record | None:
    """The experiment's record if it has a result; None for a damaged or foreign record, which `run` reports."""
    try:
        found = find_record(exp.name, exp.profile, exp.seed, evidence and not exp.keep_weights)
        if found and found.result and same_identity(found, data_identity(exp)) and not lacks_weights(exp, found):
            return found.load()
        return None
    except UsageError:
        return None


def lacks_weights(exp: Experiment, found: Record) -> bool:
    """Whether the experiment keeps its weights and the finished record has none."""
    return exp.keep_weights and found.finished and not found.has_weights
