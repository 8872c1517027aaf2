"""A search's trials in Optuna's database, shared by processes: who is at which, in which order they were begun, what a dead one left.

A trial whose process has been silent for GRACE seconds is tried again under its old number.
"""

import re
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from experimentTable import ROWS, UsageError
from fileFunction import atomic, first_line, writing
from recordFunction import roots, runs_dir
from utilityFunction import quiet_imports

HEARTBEAT, GRACE = 5, 30  # seconds


def _check_name(name: Any, seed: Any) -> None:
    """Raise UsageError for a seed or a name that no search can have: its trials, runs `<name>_<number>`, must not be rows of the table."""
    if not isinstance(name, str):
        raise UsageError(f"the search's name must be a word, got {name!r}")
    replace(ROWS[0], name=name, seed=seed)  # refuses what cannot name a folder, and what is no seed
    if taken := [row.name for row in ROWS if re.fullmatch(rf"{re.escape(name)}_\d+", row.name, re.IGNORECASE)]:
        raise UsageError(f"trials of a search {name!r} would take the place of the table's {taken[0]}; give it another name")


@contextmanager
def open_study(name: str, profile: str, seed: int, storage: str, goal: Any = None) -> Iterator[Any]:
    """The database's study of this search, begun where a `goal` is given.

    Raises UsageError for a name that no search can have, and where the database cannot be opened or, then or later, not be
    read or written. Nothing is written where there is nothing to join.
    """
    _check_name(name, seed)
    if not isinstance(storage, str):
        raise UsageError(f"storage must be a database's URL, got {storage!r}")
    with quiet_imports():
        import optuna
        from filelock import FileLock
        from sqlalchemy import make_url
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder, title = runs_dir() / profile, f"{name}-{profile}-seed{seed}"
    own = folder / f"{name}.sqlite"
    url = storage or f"sqlite:///{own}"
    committed = None if storage else next((path for root in roots()[1:] if (path := root / profile / own.name).exists()), None)
    with _answering(url):
        parts = make_url(url)
    absent = UsageError(f"no search {name!r} (profile {profile}, seed {seed}) in {_shown(url)}; begin it with search(...)")
    if parts.get_backend_name() == "sqlite":
        if not parts.database or ":memory:" in parts.database or parts.query.get("mode") == "memory":
            raise UsageError(f"{url} is a database in memory, gone with its process; name a file, as sqlite:////folder/search.sqlite")
        if not goal and not committed and not Path(parts.database).exists():
            raise absent
    if not storage and (goal or committed):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    opening = alone(FileLock(folder / f".{name}.opening")) if folder.exists() else nullcontext()  # Optuna's tables are made by one alone
    with opening, _answering(url, ImportError, ValueError, RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are called so since 2020
        if committed and not own.exists():
            with atomic(own) as part:
                shutil.copyfile(committed, part)
        template = url.replace("{", "{{").replace("}", "}}")  # Optuna fills it in
        options = {"pool_pre_ping": True}  # a server may have closed a connection during a trial
        database = optuna.storages.RDBStorage(template, options, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    with _answering(url):
        sampler = optuna.samplers.RandomSampler()  # asked for nothing: trials are queued with their values
        if goal:
            study = optuna.create_study(storage=database, study_name=title, load_if_exists=True, direction=goal, sampler=sampler)
        elif title in optuna.get_all_study_names(database):
            study = optuna.load_study(storage=database, study_name=title, sampler=sampler)
        else:
            raise absent
        if not goal and "asked" not in study.user_attrs:  # another process is about to begin it, or was killed then
            raise absent
        if storage:
            _mark(study, folder / f"{title}.begun")
        yield study


def _mark(study: Any, mark: Path) -> None:
    """Mark the records of a search whose database lies elsewhere. Raises UsageError where a search that was begun lacks its mark here.

    Elsewhere a process would find none of the others' records, and train their trials again.
    """
    if "asked" in study.user_attrs and not mark.exists():
        raise UsageError(
            f"{mark.parent} is not where the search {study.study_name} has its records; set RUNS_DIR to a folder that all share"
        )
    with writing(mark):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


@contextmanager
def _answering(url: str, *errors: type[Exception]) -> Iterator[None]:
    """Say in one line what the database at `url` refuses, or these other `errors`. Raises UsageError."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    errors += (SQLAlchemyError, StorageInternalError)
    try:
        yield
    except errors as error:
        reason = _shown(first_line(error.__cause__ or error))
        remedy = "make room, or name another" if url.startswith("sqlite") else "see that it runs and lets you in, or name another"
        if isinstance(error, ImportError):
            remedy = "install that, or name a driver that is there in the URL, as in postgresql+psycopg2://"
        raise UsageError(f"the search's database {_shown(url)} cannot be opened or written ({reason}); {remedy}") from None


def _shown(text: str) -> str:
    """A URL, or a message that may quote one, without the user, the password and the options in it."""
    return re.sub(r"\?.*", "", re.sub(r"^(\w+(\+\w+)?://)?.*@", r"\1***@", text))


# ---------------------------------------------------------------- its trials


def queue_trial(study: Any, point: dict, distributions: dict, **marks: Any) -> None:
    """Add a trial that waits to be run. It has all its values or is not there at all, so that a kill cannot part them."""
    from optuna.trial import TrialState, create_trial

    study.add_trial(create_trial(state=TrialState.WAITING, params=point, distributions=distributions, user_attrs=marks))


def attempts_of(study: Any) -> list[list]:
    """Each trial's attempts, both in the order in which they were begun. Surplus trials are left out."""
    from optuna.trial import TrialState

    found: dict[int, list] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.PRUNED:
            found.setdefault(trial.system_attrs.get("failed_trial", trial.number), []).append(trial)
    return list(found.values())


def rank_of(attempts: list[list], trial: Any) -> int:
    """How many trials were begun before this one's first attempt; it names the run."""
    return next(rank for rank, tried in enumerate(attempts) if trial.number in [attempt.number for attempt in tried])


def has_ended(attempts: list) -> bool:
    """Whether one of a trial's attempts has a score, or its run a result without one. Optuna's FAIL alone may be a killed process's."""
    from optuna.trial import TrialState

    return any(trial.state == TrialState.COMPLETE or (trial.state.is_finished() and "failed" in trial.user_attrs) for trial in attempts)


def take_over(study: Any) -> None:
    """Put the trials of dead processes back into the queue; to be called with the lock held."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
    from optuna.trial import TrialState

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental since 2021
        fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "begun" not in trial.user_attrs:  # killed before its first heartbeat, for until then it would hold the lock
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        for attempts in attempts_of(study):
            if all(trial.state.is_finished() for trial in attempts) and not has_ended(attempts):
                RetryHeartbeatStaleTrialCallback()(study, attempts[-1])


def trial_lock(study: Any, profile: str) -> Any:
    """The lock under which one process at a time looks for a trial of this search; it ends with its process."""
    from filelock import FileLock

    return FileLock(runs_dir() / profile / f".{study.study_name}.lock")


@contextmanager
def alone(lock: Any) -> Iterator[None]:
    """Hold the lock, under which one process at a time looks for a trial and takes it: else two take one, or repeat a dead one twice.

    Says so where it has to wait for longer than a trial takes to be drawn.
    """
    from filelock import Timeout

    with writing(Path(lock.lock_file)):
        try:
            lock.acquire(timeout=GRACE / 3)
        except Timeout:
            print(f"another process of this search has held {lock.lock_file} for {GRACE / 3:.0f} s (is it stopped?); waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def wait_for_the_silent(study: Any, lock: Any) -> None:
    """Wait until each running trial is known to be at work or dead, so that a search that was cut off goes on where it stood."""
    from optuna.trial import TrialState

    end = time.monotonic() + GRACE + HEARTBEAT
    if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        print(f"a trial was begun and has not ended; waiting up to {GRACE + HEARTBEAT} s for a sign of its process")
    while study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) and time.monotonic() < end:
        with alone(lock):
            take_over(study)
        pause()


def pause() -> None:
    """Wait for a little of what a silent process is granted, before looking again."""
    time.sleep(GRACE / 30)
