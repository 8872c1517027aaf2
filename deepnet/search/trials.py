"""A search's trials in Optuna's database, which several processes may share, and a description of the best one.

A trial is added with all its values, and gets its score when its run has ended. The process that works on a trial holds
its lock, which ends with the process. So an unfinished trial whose lock is free was interrupted, and the next process
resumes it. Finding, adding and ending trials is protected by one lock per search.
"""

import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepnet.progress import quiet_imports
from deepnet.records.files import atomic, first_line, lock, writing
from deepnet.records.reading import Record, roots, runs_dir
from deepnet.search.sweep import Parameter, Sweep, read_sweep
from deepnet.text import counted
from experimentTable import ROWS, RunLockedError, UsageError

EDGE = 0.05  # the share of a searched range, on its own scale, that counts as its edge
PATIENCE = 10  # seconds of waiting for the search's lock, which is held while a trial is drawn, until a message


class Study:
    """Optuna's study of one search. `attributes["asked"]` holds the configuration and the base once it has begun."""

    def __init__(self, study: Any, folder: Path, name: str, seed: int) -> None:
        self.study, self.folder, self.name, self.seed = study, folder, name, seed

    @property
    def attributes(self) -> dict:
        return self.study.user_attrs

    def locked(self) -> AbstractContextManager:
        """Hold the lock for finding, adding and ending trials."""
        return _search_lock(self.folder, self.name)

    def trials(self) -> list[Any]:
        """Optuna's frozen trials, in the order of their beginning."""
        return self.study.get_trials(deepcopy=False)

    def add(self, values: dict, sweep: Sweep, claim: ExitStack) -> Any:
        """Add a trial with these values, all in one transaction, and claim it."""
        from optuna.trial import TrialState, create_trial

        drawn = {name: parameter.drawn(values[name]) for name, parameter in sweep.parameters.items()}
        trial = create_trial(
            state=TrialState.RUNNING, params=drawn, distributions=distributions(sweep), user_attrs={"values": values}
        )
        self.study.add_trial(trial)
        return self.claim(self.trials()[-1:], claim)

    def claim(self, trials: Sequence[Any], claim: ExitStack) -> Any:
        """The first unfinished trial that no process works on, or None; its lock is held until `claim` is closed."""
        for trial in trials:
            if not trial.state.is_finished():
                with suppress(RunLockedError):
                    claim.enter_context(lock(self._lock_file(trial), "another process works on this trial"))
                    return trial
        return None

    def end(self, trial: Any, score: float | None, reason: str = "") -> None:
        """Record a trial's score or, without one, the reason why it failed."""
        from optuna.trial import TrialState

        with self.locked():
            if score is None:
                self.study.set_user_attr(f"failed_{trial.number + 1}", reason)
            self.study.tell(trial.number, score, state=TrialState.FAIL if score is None else None)
            with suppress(OSError):  # Windows does not remove open files
                self._lock_file(trial).unlink()

    def _lock_file(self, trial: Any) -> Path:
        return self.folder / f".{self.name}_{trial.number + 1}-seed{self.seed}.lock"


def values_of(trial: Any) -> dict:
    """The values of a trial's run."""
    return trial.user_attrs.get("values", trial.params)


def distributions(sweep: Sweep) -> dict[str, Any]:
    """Optuna's distribution of each parameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def distribution(parameter: Parameter) -> Any:
        if parameter.choices:
            return CategoricalDistribution(parameter.choices)
        if parameter.scale == "integer":
            return IntDistribution(int(parameter.low), int(parameter.high))
        return FloatDistribution(parameter.low, parameter.high, log=parameter.scale == "log")

    return {name: distribution(parameter) for name, parameter in sweep.parameters.items()}


# ---------------------------------------------------------------- the database


@contextmanager
def open_study(name: str, profile: str, seed: int, storage: str, direction: Any = None) -> Iterator[Study]:
    """The database's study of this search; with a `direction`, "maximize" or "minimize", it is created if necessary.

    Raises UsageError for an invalid name or seed; if there is no such search to join, without creating a file; and if
    the database cannot be opened, read or written, also later in the block.
    """
    replace(ROWS[0], name=name, seed=seed)  # refuses an invalid folder name or seed
    if taken := [row.name for row in ROWS if re.fullmatch(rf"{re.escape(name)}_\d+", row.name, re.IGNORECASE)]:
        raise UsageError(
            f"trials of a search {name!r} would take the place of the table's {taken[0]}; choose another name"
        )
    if not isinstance(storage, str):
        raise UsageError(f"storage must be a database's URL, got {storage!r}")
    folder = runs_dir() / profile
    shown = _without_password(storage) or str(folder / f"{name}.sqlite")
    absent = UsageError(f"no search {name!r} (profile {profile}, seed {seed}) in {shown}; begin it with search(...)")
    with _database_errors(shown, ImportError, ValueError, RuntimeError):
        study = _open(name, f"{name}-{profile}-seed{seed}", folder, storage, direction)
        # Without "asked" another process is about to begin the search, or was killed then.
        if study is None or (not direction and "asked" not in study.user_attrs):
            raise absent
    with _database_errors(shown):
        yield Study(study, folder, name, seed)


def _open(name: str, title: str, folder: Path, storage: str, direction: Any) -> Any:
    """Optuna's study of this title; None if it does not exist and is not to be created."""
    with quiet_imports():
        import optuna
        from sqlalchemy import URL, make_url
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = folder / f"{name}.sqlite"
    # A path may contain "?", "#" and "%", which have a meaning in a URL, so it is quoted as a URI for SQLite.
    quoted = own.resolve().as_uri()
    url = make_url(storage) if storage else URL.create("sqlite", database=quoted, query={"uri": "true"})
    if url.get_backend_name() == "sqlite":
        database = url.database or ":memory:"
        if ":memory:" in database or url.query.get("mode") == "memory":
            example = "sqlite:////folder/search.sqlite"
            raise UsageError(
                f"{storage} is a database in memory, which ends with its process; name a file, as {example}"
            )
        committed = [] if storage else [path for root in roots() if (path := root / folder.name / own.name).exists()]
        if not direction and not committed and not (storage and Path(database).exists()):
            return None
    # Only one process may create Optuna's tables. If a server refuses, no folder is left.
    with _search_lock(folder, name) if folder.exists() or not storage else nullcontext():
        if not storage and committed and not own.exists():
            with atomic(own) as part:
                shutil.copyfile(committed[0], part)
        template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")  # Optuna formats it
        options = {"pool_pre_ping": True}  # a server may have closed a connection during a trial
        opened = optuna.storages.RDBStorage(template, options)
        if direction:
            study = optuna.create_study(storage=opened, study_name=title, load_if_exists=True, direction=direction)
        elif title in optuna.get_all_study_names(opened):
            study = optuna.load_study(storage=opened, study_name=title)
        else:
            return None
        if storage:
            _check_records(study, folder / f"{title}.begun")
    return study


def _search_lock(folder: Path, name: str) -> AbstractContextManager:
    path = folder / f".{name}.lock"
    busy = f"another process of this search has held {path} for {PATIENCE} s (is it stopped?); waiting for it"
    return lock(path, busy, PATIENCE)


def _check_records(study: Any, mark: Path) -> None:
    """Mark the folder with the records of a search whose database is elsewhere.

    Raises UsageError if a search that was begun has no mark here: without the other processes' records and locks, this
    process would train their trials again.
    """
    if "asked" in study.user_attrs and not mark.exists():
        wrong = f"the search {study.study_name} does not have its records in {mark.parent}"
        raise UsageError(f"{wrong}; set RUNS_DIR to a folder that all share")
    with writing(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


@contextmanager
def _database_errors(shown: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the database's errors, and these other `errors`, into a UsageError of one line."""
    with quiet_imports():
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError
    errors += (SQLAlchemyError, StorageInternalError)
    try:
        yield
    except UsageError:  # which is a ValueError
        raise
    except errors as error:
        reason = _without_password(first_line(error.__cause__ or error))
        fault = f"the search's database {shown} cannot be opened or written ({reason})"
        raise UsageError(f"{fault}; make it available, or name another") from None


def _without_password(text: str) -> str:
    """A URL, or a message that may quote one, without the user, the password and the options in it."""
    return re.sub(r"\?.*", "", re.sub(r"^(\w+(\+\w+)?://)?.*@", r"\1***@", text))


# ---------------------------------------------------------------- the best trial


def score(record: Record, sweep: Sweep) -> float:
    """The trial's best value of the metric over its epochs."""
    values = [value for value in record.column(sweep.metric, trained_only=True) if not math.isnan(value)]
    return float(max(values) if sweep.maximize else min(values))


def describe_best(config: Mapping, records: Sequence[Record]) -> str:
    """The best of a search's trials, its values, and the position of each value in its range.

    The edge of a range is its outermost 5 % on its own scale; for listed numbers, it is the smallest or the largest. An
    edge is named only if another trial lies elsewhere: if all others failed, nothing is known of the rest of the range.
    """
    sweep = read_sweep(config)
    scores = [score(record, sweep) for record in records]
    best = max(scores) if sweep.maximize else min(scores)
    first, *others = [record for record, value in zip(records, scores, strict=True) if value == best]
    equals = f" (as good: {', '.join(record.name for record in others)})" if others else ""
    trials = [record.settings["experiment"] for record in records]
    point = describe_point(config, best, first.settings["experiment"], trials)
    return f"of {counted(len(records), 'trial')} {first.name} is best{equals}, {point}"


def describe_point(config: Mapping, best: float, values: Mapping, trials: Sequence[Mapping] | None = None) -> str:
    """A trial's score and values, as "validation accuracy 0.5, learning rate 0.002 (inside 1e-06 to 0.01)".

    trials: the values of all trials with a score; None: assume that they lie all over the range.
    """
    sweep = read_sweep(config)
    described = [f"{sweep.metric.replace('_', ' ')} {best:.4g}"]
    for name, parameter in sweep.parameters.items():
        word = "learning rate" if name == "lr" else name.replace("_", " ")
        described.append(f"{word} {_place(parameter, values[name], trials and [trial[name] for trial in trials])}")
    return ", ".join(described)


def _place(parameter: Parameter, value: Any, others: Sequence[Any] | None) -> str:
    """A value, and its position in its range or among the listed numbers."""
    choices = parameter.choices
    number = f"{value:.3g}" if isinstance(value, float) else str(value)
    if parameter.scale.endswith("normal"):
        return number
    if choices and (len(choices) == 1 or not all(type(choice) in (int, float) for choice in choices)):
        return str(value)
    low, high = (min(choices), max(choices)) if choices else (parameter.low, parameter.high)
    scale = math.log if parameter.scale == "log" else float

    def where(value: Any) -> str:
        share = (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5
        return "at the lower edge of" if share <= EDGE else "at the upper edge of" if share >= 1 - EDGE else "inside"

    alone = others is not None and {where(other) for other in others} == {where(value)} != {"inside"}
    return f"{number} ({'searched:' if alone else where(value)} {low:g} to {high:g})"
