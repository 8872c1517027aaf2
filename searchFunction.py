"""The report's Bayesian search: one W&B sweep configuration; W&B's agent draws from it, or without an account Optuna.

Every trial is an ordinary run, named `<name>_<number>`: recorded, resumable, early-stopped, cached. Optuna's database says which
process is at which trial, whoever drew it: one that has been silent for GRACE seconds is dead, and its trial is tried again under
its old number.
"""

import json
import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from coreFunction import build, run
from experimentTable import Held, UsageError, choose, current_profile, experiment, price
from fileFunction import writing
from recordFunction import Record, runs_dir
from sweepFunction import REPORT_SWEEP, begin_sweep, space, with_agent
from utilityFunction import about, bar, import_quietly, mixed
from wandbFunction import open_for_sweep, wandb_mode

__all__ = ["REPORT_SWEEP", "asked_trials", "join", "search", "space"]

HEARTBEAT, GRACE = 5, 30  # seconds
START_UP = 4  # random trials first; GPSampler's default of 10 would leave a search of 12 with two Bayesian ones


def search(
    config: dict, count: int, *, base: str = "sweep_1", name: str = "search", profile: str = "", seed: int = 0, storage: str = ""
) -> list[Record]:
    """Run `count` trials of the table's row `base` with values drawn from `config`; returns the finished ones' records, best first.

    Method `bayes` is a Gaussian process, `random` draws at random, `grid` takes every combination: Optuna's, seeded, or with a W&B
    account those of a W&B sweep, whose agent gives each trial its values and its W&B run (never tried against W&B's servers). The
    trials are in a database: SQLite in the records folder, or the server at the URL `storage`. Called again, a finished search
    trains nothing, a larger `count` adds trials, and a search that was cut off goes on, the unfinished trial first. Other
    processes may `join` it meanwhile. Raises UsageError for a configuration that cannot be drawn from, or another than the search
    was begun with, and where W&B makes no sweep or gives no trial.
    """
    profile = current_profile(profile)
    distributions = space(config)
    choose("goal", config["metric"].get("goal"), ("maximize", "minimize"))
    if choose("method", config["method"], ("bayes", "random", "grid")) == "grid":
        if free := [key for key, drawn in distributions.items() if not hasattr(drawn, "choices")]:
            raise UsageError(f"a grid needs 'values' or 'value' for {free[0]!r}; list them, or use method bayes or random")
        grid = list(product(*(drawn.choices for drawn in distributions.values())))
        count = min(count, len(grid))
    experiment(base, profile)
    with _study(name, profile, seed, storage, config["metric"]["goal"]) as study:
        asked = json.loads(json.dumps({"config": config, "base": base}))
        if study.user_attrs.get("asked", asked) != asked:
            raise UsageError(f"the search {name!r} was begun with another configuration; give this one another name")
        if "asked" not in study.user_attrs and wandb_mode() == "online":
            study.set_user_attr("sweep", begin_sweep(config, name))
        study.set_user_attr("asked", asked)
        study.set_user_attr("count", max(count, study.user_attrs.get("count", 0)))
        if config["method"] == "grid" and not _sweep(study):  # Optuna's own grid sampler does not know trials that are tried again
            there = [trial.params for trial in study.get_trials(deepcopy=False)]
            points = (dict(zip(distributions, values, strict=True)) for values in grid)
            for point in points:
                if point not in there:
                    _queue(study, point, distributions)
        lock = _lock(study, profile)
        _wait_for_the_silent(study, lock)
        return _work(study, name, profile, seed, count, lock, worker=0)


def join(name: str = "search", *, profile: str = "", seed: int = 0, storage: str = "") -> list[Record]:
    """Work on a search that another process has begun, until it has its trials; returns the finished ones' records, best first.

    Raises UsageError where no search of that name has been begun.
    """
    profile = current_profile(profile)
    with _study(name, profile, seed, storage) as study:
        return _work(study, name, profile, seed, study.user_attrs["count"], _lock(study, profile), worker=os.getpid())


def asked_trials(name: str = "search", *, profile: str = "", seed: int = 0, storage: str = "") -> int:
    """How many trials were asked of a search that has been begun."""
    with _study(name, current_profile(profile), seed, storage) as study:
        return study.user_attrs["count"]


# ---------------------------------------------------------------- the study


@contextmanager
def _study(name: str, profile: str, seed: int, storage: str, goal: Any = None) -> Iterator[Any]:
    """The database's study of this search, begun where a `goal` is given.

    Raises UsageError where the database cannot be opened or, then or later, not be read or written.
    """
    optuna = import_quietly("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder, title = runs_dir() / profile, f"{name}-{profile}-seed{seed}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{folder / f'{name}.sqlite'}"
    with _answering(url, ImportError, ValueError, RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are called so since 2020
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
            raise UsageError(f"no search {name!r} (profile {profile}, seed {seed}) in {_shown(url)}; begin it with search(...)")
        if storage:
            _mark(study, folder / f"{title}.begun")
        yield study


def _mark(study: Any, mark: Path) -> None:
    """Mark the records of a search in a server's database. Raises UsageError where a search that was begun lacks its mark here.

    Elsewhere a process would find none of the others' records, and train their trials again.
    """
    if "asked" in study.user_attrs and not mark.exists():
        raise UsageError(
            f"{mark.parent} is not where the search {study.study_name} has its records; set RUNS_DIR to a folder that all share"
        )
    with writing(mark):
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
        reason = _shown(str(error.__cause__ or error).splitlines()[0])
        remedy = "make room, or name another" if url.startswith("sqlite") else "see that it runs and lets you in, or name another"
        if isinstance(error, ImportError):
            remedy = "install that, or name a driver that is there in the URL, as in postgresql+psycopg2://"
        raise UsageError(f"the search's database {_shown(url)} cannot be opened or written ({reason}); {remedy}") from None


def _shown(text: str) -> str:
    """A URL, or a message that may quote one, without the user, the password and the options in it."""
    return re.sub(r"\?.*", "", re.sub(r"^(\w+(\+\w+)?://)?.*@", r"\1***@", text))


def _sweep(study: Any) -> str | None:
    """The W&B sweep that draws this search's trials: there is one if W&B could be reached when it was begun, and can be now."""
    sweep = study.user_attrs.get("sweep")
    return sweep if sweep and wandb_mode() == "online" else None


def _queue(study: Any, point: dict, distributions: dict, **marks: Any) -> None:
    """Add a trial that waits to be run. It has all its values or is not there at all, so that a kill cannot part them."""
    from optuna.trial import TrialState, create_trial

    study.add_trial(create_trial(state=TrialState.WAITING, params=point, distributions=distributions, user_attrs=marks))


def _attempts(study: Any) -> list[list]:
    """Each trial's attempts, both in the order in which they were begun. Surplus trials are left out."""
    from optuna.trial import TrialState

    found: dict[int, list] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.PRUNED:
            found.setdefault(trial.system_attrs.get("failed_trial", trial.number), []).append(trial)
    return list(found.values())


def _rank(attempts: list[list], trial: Any) -> int:
    """How many trials were begun before this one's first attempt; it names the run."""
    return next(rank for rank, tried in enumerate(attempts) if trial.number in [attempt.number for attempt in tried])


def _ended(attempts: list) -> bool:
    """Whether one of a trial's attempts has a score, or its run a result without one. Optuna's FAIL alone may be a killed process's."""
    from optuna.trial import TrialState

    return any(trial.state == TrialState.COMPLETE or (trial.state.is_finished() and "failed" in trial.user_attrs) for trial in attempts)


def _take_over(study: Any) -> None:
    """Put the trials of dead processes back into the queue."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
    from optuna.trial import TrialState

    long_ago = datetime.now() - timedelta(seconds=GRACE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental since 2021
        fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "begun" not in trial.user_attrs and trial.datetime_start < long_ago:  # killed before its first heartbeat
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        for attempts in _attempts(study):
            if all(trial.state.is_finished() for trial in attempts) and not _ended(attempts):
                RetryHeartbeatStaleTrialCallback()(study, attempts[-1])


def _lock(study: Any, profile: str) -> Any:
    from filelock import FileLock

    return FileLock(runs_dir() / profile / f".{study.study_name}.lock")


@contextmanager
def _alone(lock: Any) -> Iterator[None]:
    """Hold the lock, under which one process at a time looks for a trial and takes it: else two take one, or repeat a dead one twice."""
    with writing(Path(lock.lock_file)):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _wait_for_the_silent(study: Any, lock: Any) -> None:
    """Wait until each running trial is known to be at work or dead, so that a search that was cut off goes on where it stood."""
    from optuna.trial import TrialState

    end = time.monotonic() + GRACE + HEARTBEAT
    if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        print(f"a trial was begun and has not ended; waiting up to {GRACE + HEARTBEAT} s for a sign of its process")
    while study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) and time.monotonic() < end:
        with _alone(lock):
            _take_over(study)
        time.sleep(GRACE / 30)


# ---------------------------------------------------------------- the trials


def _work(study: Any, name: str, profile: str, seed: int, count: int, lock: Any, worker: int) -> list[Record]:
    """Run trials until `count` of them have ended, here or elsewhere."""
    from optuna.exceptions import TrialPruned
    from optuna.trial import TrialState

    config = study.user_attrs["asked"]["config"]
    row, distributions = experiment(study.user_attrs["asked"]["base"], profile, seed), space(config)
    todo = count - sum(map(_ended, _attempts(study)))
    if todo > 0:
        print(f"{count} trials, {count - todo} of them ended already; to go: {about(todo * price(row))}")
    whole, line = bar(count, f"{name}: trials", unit="trial"), bar(1)

    def result(rank: int, params: dict, wandb: Any = True) -> Record:
        return run(replace(row, name=f"{name}_{rank + 1}", **params), line=line, wandb=wandb)

    def objective(begun: Any, trial: Any) -> float:
        study._storage.record_heartbeat(trial._trial_id)  # Optuna's own thread may come to it after a kill, and nobody would miss us
        trial.set_user_attr("begun", worker)
        lock.release()
        if (rank := _rank(_attempts(study), trial)) >= count:  # two processes began the last one at once
            raise TrialPruned
        # W&B knows one run alone within an agent: another trial than the one it is for goes without.
        its = bool(begun) and begun.id == trial.user_attrs.get("wandb")
        record = result(rank, trial.params, begun if its else not begun)
        if not record.finished:
            trial.set_user_attr("failed", record.result["reason"])
            return math.nan  # a failed trial to Optuna
        score = _score(record, config["metric"])
        if its:
            begun.summary[config["metric"]["name"]] = score  # what the sweep goes by
        return score

    def attempt(begun: Any = None) -> None:
        """Take a waiting trial, with the lock held until it is ours, and run it; `begun` is the W&B run in which an agent has us."""
        try:
            study.optimize(partial(objective, begun), n_trials=1)
        except Held:  # its process is slow, not dead; the next attempt will find the record
            time.sleep(HEARTBEAT)
        except (ValueError, AssertionError) as error:  # the second, which Optuna fails with as it handles the first, covers it
            if "Cannot tell" not in f"{error} {error.__context__}":  # else it was us who were slow: another process has this trial now
                raise

    def agents_trial() -> None:
        with open_for_sweep(row) as begun, _alone(lock):
            if len(_attempts(study)) < count:
                _queue(study, {key: begun.config[key] for key in distributions}, distributions, wandb=begun.id)
                attempt(begun)

    if todo > 0 and _sweep(study) and row.start_from:
        build(row)  # trains what the trials start from, if need be: a W&B run that cannot be within an agent
    while True:
        with _alone(lock):
            _take_over(study)
            attempts = _attempts(study)
            ended = sum(map(_ended, attempts))
            whole.update(ended - whole.n)
            if ended >= count:
                break
            waiting = any(trial.state == TrialState.WAITING for tried in attempts for trial in tried)
            sweep = None if waiting or len(attempts) >= count else _sweep(study)
            if not waiting and len(attempts) < count and not sweep:
                _queue(study, _draw(study, config["method"], distributions, mixed(seed, worker, len(attempts)) % 2**32), distributions)
                waiting = True
            if waiting:
                attempt()
        if sweep:
            with_agent(sweep, agents_trial)
        elif not waiting:  # other processes are at the last ones
            time.sleep(GRACE / 30)
    for display in (whole, line):
        display.close()
    ranked = enumerate(attempts[:count])
    counted = [(trial.value, rank, trial.params) for rank, tried in ranked for trial in tried if trial.state == TrialState.COMPLETE]
    counted.sort(key=lambda trial: trial[0], reverse=config["metric"]["goal"] == "maximize")
    return [result(rank, params) for _, rank, params in counted]


def _draw(study: Any, method: str, distributions: dict, seed: int) -> dict:
    """The next trial's values: from the trials so far and the seed alone, however often the search was cut off.

    Values that were drawn before would give the same score: others are drawn at random in their place, as long as there are any.
    """
    import optuna
    from optuna.samplers import GPSampler, RandomSampler

    at_random = RandomSampler(seed=seed)
    sampler = GPSampler(seed=seed, n_startup_trials=START_UP) if method == "bayes" else at_random
    drawing = optuna.create_study(sampler=sampler, direction=study.direction)
    drawing.add_trials(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
    drawn = [trial.params for trial in study.get_trials(deepcopy=False)]
    point = drawing.ask(distributions).params
    drawing.sampler = at_random
    for _ in range(100):
        if point not in drawn:
            break
        point = drawing.ask(distributions).params
    return point


def _score(record: Record, metric: dict) -> float:
    """The trial's best value of the metric over its epochs. Raises UsageError for a metric that its rows do not have."""
    choose("metric", metric["name"], [key for key, value in record.rows[-1].items() if isinstance(value, float)])
    values = record.column(metric["name"], trained_only=True)
    return float(np.nanmax(values) if metric["goal"] == "maximize" else np.nanmin(values))
