"""A search's trials in Optuna's database, shared by processes, and how the best of them is described.

A trial is added with all its values, and told its score when its run has ended. While a process is at it, it holds the
trial's lock, which ends with the process: a trial that has no end and whose lock is free was cut off, and is whoever's
comes next. All looking and writing is done under one lock for each database.
"""

import math
import re
import shutil
import warnings
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

EDGE = 0.05  # a share of a searched range, on its own scale
PATIENCE = 10  # seconds until a lock that another process has is said to be waited for; a trial is drawn under it


class Study:
    """The database's study of one search: its trials, in the order in which they were begun, and what was asked of
    it.
    """

    def __init__(self, study: Any, profile: str, name: str, seed: int) -> None:
        self.study, self.folder, self.name, self.seed = study, runs_dir() / profile, name, seed

    @property
    def asked(self) -> dict:
        """The configuration and the experiment that it varies, and the number of trials; empty before it is begun."""
        return self.study.user_attrs

    def alone(self) -> AbstractContextManager:
        """Hold the lock under which trials are looked for, added and ended."""
        return _alone(self.folder, self.name)

    def trials(self) -> list[Any]:
        """Optuna's frozen trials."""
        return self.study.get_trials(deepcopy=False)

    def add(self, point: dict, sweep: Sweep) -> Any:
        """Add a trial with these values, which is there wholly or not at all."""
        from optuna.trial import TrialState, create_trial

        drawn = {name: parameter.drawn(point[name]) for name, parameter in sweep.parameters.items()}
        distributions = {name: distribution(parameter) for name, parameter in sweep.parameters.items()}
        marks = {"values": point}
        self.study.add_trial(
            create_trial(state=TrialState.RUNNING, params=drawn, distributions=distributions, user_attrs=marks)
        )
        return self.trials()[-1]

    def take(self, trials: list, held: ExitStack) -> Any:
        """The first of these trials that has no end and that no process is at; `held` has its lock from now on. None if
        there is none.
        """
        for trial in trials:
            if not trial.state.is_finished():
                with suppress(RunLockedError):
                    held.enter_context(lock(self._lock_file(trial), "another process is at it"))
                    return trial
        return None

    def end(self, trial: Any, score: float | None, reason: str = "") -> None:
        """Write a trial's score, or for which `reason` it has none."""
        from optuna.trial import TrialState

        with self.alone():
            if score is None:
                self.study.set_user_attr(f"failed_{trial.number + 1}", reason)
            self.study.tell(trial.number, score, state=TrialState.FAIL if score is None else None)
            with suppress(OSError):  # Windows removes no open file
                self._lock_file(trial).unlink()

    def _lock_file(self, trial: Any) -> Path:
        return self.folder / f".{self.name}_{trial.number + 1}-seed{self.seed}.lock"


def values_of(trial: Any) -> dict:
    """The values that a trial's run has."""
    return trial.user_attrs.get("values", trial.params)


def distribution(parameter: Any) -> Any:
    """A parameter as Optuna's samplers know it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.scale == "whole":
        return IntDistribution(parameter.low, parameter.high)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.scale == "log")


# ---------------------------------------------------------------- the database


def _check_name(name: Any, seed: Any) -> None:
    """Raise UsageError for a seed or a name that no search can have: its trials, runs `<name>_<number>`, must not be
    rows of the table.
    """
    if not isinstance(name, str):
        raise UsageError(f"the search's name must be a word, got {name!r}")
    replace(ROWS[0], name=name, seed=seed)  # refuses what cannot name a folder, and what is no seed
    if taken := [row.name for row in ROWS if re.fullmatch(rf"{re.escape(name)}_\d+", row.name, re.IGNORECASE)]:
        raise UsageError(
            f"trials of a search {name!r} would take the place of the table's {taken[0]}; give it another name"
        )


@contextmanager
def open_study(name: str, profile: str, seed: int, storage: str, goal: Any = None) -> Iterator[Study]:
    """The database's study of this search, begun where a `goal`, "maximize" or "minimize", is given.

    Raises UsageError for a name that no search can have, and where the database cannot be opened or, then or later, not
    be read or written. Nothing is written where there is nothing to join.
    """
    _check_name(name, seed)
    if not isinstance(storage, str):
        raise UsageError(f"storage must be a database's URL, got {storage!r}")
    with quiet_imports():
        import optuna
        from sqlalchemy import URL, make_url
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder, title = runs_dir() / profile, f"{name}-{profile}-seed{seed}"
    own = folder / f"{name}.sqlite"
    shown = _shown(storage) or str(own)
    committed = (
        None if storage else next((path for root in roots()[1:] if (path := root / profile / own.name).exists()), None)
    )
    with _answering(shown):
        # A path may hold "?", "#" and "%", which have a meaning in a URL; in SQLite's own they are quoted.
        url = (
            make_url(storage)
            if storage
            else URL.create("sqlite", database=own.resolve().as_uri(), query={"uri": "true"})
        )
    absent = UsageError(f"no search {name!r} (profile {profile}, seed {seed}) in {shown}; begin it with search(...)")
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and (not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"):
        raise UsageError(
            f"{storage} is a database in memory, gone with its process; name a file, as sqlite:////folder/search.sqlite"
        )
    file = own if not storage else Path(str(url.database)) if sqlite else None
    if file and not goal and not committed and not file.exists():
        raise absent
    writes = not storage and (goal or committed)
    with _alone(folder, name) if writes or folder.exists() else nullcontext():  # Optuna's tables are made by one alone
        with _answering(shown, ImportError, ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if committed and not own.exists():
                with atomic(own) as part:
                    shutil.copyfile(committed, part)
            # Optuna fills it in
            template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
            options = {"pool_pre_ping": True}  # a server may have closed a connection during a trial
            database = optuna.storages.RDBStorage(template, options)
        with _answering(shown):
            if goal:
                study = optuna.create_study(storage=database, study_name=title, load_if_exists=True, direction=goal)
            elif title in optuna.get_all_study_names(database):
                study = optuna.load_study(storage=database, study_name=title)
            else:
                raise absent
            if not goal and "asked" not in study.user_attrs:  # another process is about to begin it, or was killed then
                raise absent
            if storage:
                _mark(study, folder / f"{title}.begun")
    with _answering(shown):
        yield Study(study, profile, name, seed)


def _alone(folder: Path, name: str) -> AbstractContextManager:
    path = folder / f".{name}.lock"
    return lock(
        path,
        f"another process of this search has held {path} for {PATIENCE} s (is it stopped?); waiting for it",
        PATIENCE,
    )


def _mark(study: Any, mark: Path) -> None:
    """Mark the records of a search whose database lies elsewhere. Raises UsageError where a search that was begun lacks
    its mark here.

    Elsewhere a process would find none of the others' records and locks, and train their trials again.
    """
    if "asked" in study.user_attrs and not mark.exists():
        raise UsageError(
            f"{mark.parent} is not where the search {study.study_name} has its records; set RUNS_DIR to a folder that all share"
        )
    with writing(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


@contextmanager
def _answering(shown: str, *errors: type[Exception]) -> Iterator[None]:
    """Say in one line what the database refuses, or these other `errors`. Raises UsageError."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    errors += (SQLAlchemyError, StorageInternalError)
    try:
        yield
    except UsageError:
        raise
    except errors as error:
        reason = _shown(first_line(error.__cause__ or error))
        remedy = "see that it runs and lets you in, or name another"
        if shown.startswith("sqlite") or "://" not in shown:
            remedy = "make room, or name another"
        if isinstance(error, ImportError):
            remedy = "install that, or name a driver that is there in the URL, as in postgresql+psycopg2://"
        raise UsageError(f"the search's database {shown} cannot be opened or written ({reason}); {remedy}") from None


def _shown(text: str) -> str:
    """A URL, or a message that may quote one, without the user, the password and the options in it."""
    return re.sub(r"\?.*", "", re.sub(r"^(\w+(\+\w+)?://)?.*@", r"\1***@", text))


# ---------------------------------------------------------------- what came of it


def score(record: Record, sweep: Sweep) -> float:
    """The trial's best value of the metric over its epochs."""
    values = [value for value in record.column(sweep.metric, trained_only=True) if not math.isnan(value)]
    return float(max(values) if sweep.maximize else min(values))


def describe_best(config: Mapping, records: Sequence[Record]) -> str:
    """Which of a search's trials is best, its values, and where each lies in its range.

    An edge is the outermost 5 % of a range, on its own scale, or the least or the greatest of listed numbers. It is
    said where another trial lies elsewhere: where all others have failed, nothing is known of the rest of the range.
    """
    sweep = read_sweep(config)
    scores = [score(record, sweep) for record in records]
    best = max(scores) if sweep.maximize else min(scores)
    first, *others = [record for record, own in zip(records, scores, strict=True) if own == best]
    equals = f" (as good: {', '.join(record.name for record in others)})" if others else ""
    point = describe_point(
        config, best, first.settings["experiment"], [record.settings["experiment"] for record in records]
    )
    return f"of {counted(len(records), 'trial')} {first.name} is best{equals}, {point}"


def describe_point(config: Mapping, best: float, values: Mapping, trials: Sequence[Mapping] | None = None) -> str:
    """A trial's score and values, as "validation accuracy 0.5, learning rate 0.002 (inside 1e-06 to 0.01)".

    trials: the values of all trials that have a score, without which it is taken that there are some all over the
        range.
    """
    sweep = read_sweep(config)
    others = {name: None if trials is None else [trial[name] for trial in trials] for name in sweep.parameters}
    places = (
        f"{'learning rate' if name == 'lr' else name.replace('_', ' ')} {_place(parameter, values[name], others[name])}"
        for name, parameter in sweep.parameters.items()
    )
    return ", ".join([f"{sweep.metric.replace('_', ' ')} {best:.4g}", *places])


def _place(parameter: Parameter, value: Any, others: Sequence[Any] | None) -> str:
    """A value, and where it lies in the range or among the numbers that it was drawn from."""
    listed = parameter.choices
    number = f"{value:.3g}" if isinstance(value, float) else str(value)
    if parameter.scale.endswith("normal"):
        return number
    if listed and (len(listed) == 1 or not all(type(one) in (int, float) for one in listed)):
        return str(value)
    low, high = (min(listed), max(listed)) if listed else (parameter.low, parameter.high)
    scale = math.log if parameter.scale == "log" else float

    def where(value: Any) -> str:
        share = (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5
        return "at the lower edge of" if share <= EDGE else "at the upper edge of" if share >= 1 - EDGE else "inside"

    alone = others is not None and {where(other) for other in others} == {where(value)} != {"inside"}
    return f"{number} ({'searched:' if alone else where(value)} {low:g} to {high:g})"
