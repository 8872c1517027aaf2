"""The report's Bayesian search: one W&B sweep configuration; W&B's agent draws from it, or without an account Optuna.

Every trial is an ordinary run, named `<name>_<number>`: recorded, resumable, early-stopped, cached. Optuna's database says which
process is at which trial, whoever drew it (`trialFunction.py`).
"""

import json
import math
import time
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import trialFunction
from coreFunction import build, missing_parents, run
from deepnet.text import counted
from experimentTable import Held, UsageError, current_profile, experiment, price
from recordFunction import Record
from sweepFunction import REPORT_SWEEP, begin_sweep, check_trials, said_best, score, space, with_agent
from trialFunction import alone, attempts_of, has_ended, open_study, pause, queue_trial, rank_of, take_over, trial_lock, wait_for_the_silent
from utilityFunction import about, bar, mixed
from wandbFunction import open_for_sweep, wandb_mode

__all__ = ["REPORT_SWEEP", "asked_trials", "join", "search", "space"]

START_UP = 4  # random trials first; GPSampler's default of 10 would leave a search of 12 with two Bayesian ones


def search(
    config: dict, count: int, *, base: str = "sweep_1", name: str = "search", profile: str = "", seed: int = 0, storage: str = ""
) -> list[Record]:
    """Run `count` trials of the table's row `base` with values drawn from `config`; returns the finished ones' records, best first.

    Method `bayes` is a Gaussian process, `random` draws at random, `grid` takes every combination: Optuna's, seeded, or with a W&B
    account those of a W&B sweep, whose agent gives each trial its values and its W&B run (never tried against W&B's servers). The trials
    are in a database: SQLite in the records folder, or the server at the URL `storage`. Called again, a finished search trains nothing, a
    larger `count` adds trials, and a search that was cut off goes on, the unfinished trial first; so does one whose database and records
    are committed. Other processes may `join` it meanwhile. Raises UsageError, before anything is written, for what no trial could be
    drawn from or run with; for another configuration than the search was begun with; and where W&B makes no sweep or gives no trial.
    """
    profile, distributions = current_profile(profile), space(config)
    if type(count) is not int or count < 1:
        raise UsageError(f"count must be a whole number of at least 1, got {count!r}")
    check_trials(experiment(str(base), profile, seed), config, distributions)
    grid: list[tuple] = []
    if config["method"] == "grid":
        if free := [key for key, drawn in distributions.items() if not hasattr(drawn, "choices")]:
            raise UsageError(f"a grid needs 'values' or 'value' for {free[0]!r}; list them, or use method bayes or random")
        grid = list(product(*(drawn.choices for drawn in distributions.values())))
        count = min(count, len(grid))
    with open_study(name, profile, seed, storage, config["metric"]["goal"]) as study:
        asked = json.loads(json.dumps({"config": config, "base": base}))
        if study.user_attrs.get("asked", asked) != asked:
            raise UsageError(f"the search {name!r} was begun with another configuration; give this one another name")
        if "asked" not in study.user_attrs and wandb_mode() == "online":
            study.set_user_attr("sweep", begin_sweep(config, name))
        study.set_user_attr("count", max(count, study.user_attrs.get("count", 0)))
        study.set_user_attr("asked", asked)  # the last one: from now on others can join
        if grid and not _sweep(study):  # Optuna's own grid sampler does not know trials that are tried again
            there = [trial.params for trial in study.get_trials(deepcopy=False)]
            for values in grid:
                if (point := dict(zip(distributions, values, strict=True))) not in there:
                    queue_trial(study, point, distributions)
        lock = trial_lock(study, profile)
        wait_for_the_silent(study, lock)
        return _Worker(study, name, profile, seed, count, lock, number=0).work()


def join(name: str = "search", *, profile: str = "", seed: int = 0, storage: str = "") -> list[Record]:
    """Work on a search that another process has begun, until it has its trials; returns the finished ones' records, best first.

    Raises UsageError where no search of that name has been begun.
    """
    profile = current_profile(profile)
    with open_study(name, profile, seed, storage) as study:
        lock = trial_lock(study, profile)
        with alone(lock):
            number = study.user_attrs.get("joined", 0) + 1
            study.set_user_attr("joined", number)
        return _Worker(study, name, profile, seed, study.user_attrs["count"], lock, number).work()


def asked_trials(name: str = "search", *, profile: str = "", seed: int = 0, storage: str = "") -> int:
    """How many trials were asked of a search that has been begun."""
    with open_study(name, current_profile(profile), seed, storage) as study:
        return study.user_attrs["count"]


def _sweep(study: Any) -> str | None:
    """The W&B sweep that draws this search's trials: there is one if W&B could be reached when it was begun, and can be now."""
    sweep = study.user_attrs.get("sweep")
    return sweep if sweep and wandb_mode() == "online" else None


# ---------------------------------------------------------------- the trials


class _Worker:
    """One process at a search, until `count` trials have ended, here or elsewhere; `number` 0 calls `search`, 1, 2, ... join it."""

    def __init__(self, study: Any, name: str, profile: str, seed: int, count: int, lock: Any, number: int) -> None:
        self.study, self.name, self.seed, self.count, self.lock, self.number = study, name, seed, count, lock, number
        self.config, base = (study.user_attrs["asked"][key] for key in ("config", "base"))
        self.row, self.distributions = experiment(base, profile, seed), space(self.config)

    def work(self) -> list[Record]:
        """Run trials; returns the finished ones' records, best first."""
        from optuna.trial import TrialState

        todo = self.count - sum(map(has_ended, attempts_of(self.study)))
        if todo > 0:
            seconds = todo * price(self.row) + sum(map(price, missing_parents(self.row)))
            print(f"{counted(self.count, 'trial')}, {self.count - todo} of them ended already; to go: {about(seconds, self.row.profile)}")
            if _sweep(self.study) and self.row.start_from:
                build(self.row)  # trains what the trials start from, if need be: a W&B run that cannot be within an agent
        whole, self.line = bar(self.count, f"{self.name}: trials", unit="trial"), bar(1)
        point: dict | None = None  # is drawn without the lock, for that takes seconds
        begun_then = 0  # trials, when it was drawn
        while True:
            with alone(self.lock):
                take_over(self.study)
                attempts = attempts_of(self.study)
                ended = sum(map(has_ended, attempts))
                whole.update(ended - whole.n)
                if ended >= self.count:
                    break
                waiting = any(trial.state == TrialState.WAITING for tried in attempts for trial in tried)
                wanting = not waiting and len(attempts) < self.count
                sweep = _sweep(self.study) if wanting else None
                taken = len(attempts) > begun_then and any(trial.params == point for tried in attempts for trial in tried)
                if wanting and point and not taken and not sweep:
                    queue_trial(self.study, point, self.distributions)
                    waiting = True
                if waiting:
                    self._attempt()
            point = None
            if sweep:
                with_agent(sweep, self._agents_trial)
            elif not waiting and wanting:
                begun_then = len(attempts)
                drawing = mixed(int.from_bytes(self.name.encode()), self.seed, self.number, begun_then) % 2**32
                point = _draw(self.study, self.config["method"], self.distributions, drawing)
            elif not waiting:  # other processes are at the last ones
                pause()
        for display in (whole, self.line):
            display.close()
        return self._best_first(attempts[: self.count])

    def _run(self, rank: int, params: dict, wandb: Any = True) -> Record:
        return run(replace(self.row, name=f"{self.name}_{rank + 1}", **params), line=self.line, wandb=wandb)

    def _objective(self, begun: Any, trial: Any) -> float:
        from optuna.exceptions import TrialPruned

        self.study._storage.record_heartbeat(trial._trial_id)  # Optuna's thread may come to it after a kill, and nobody would miss us
        trial.set_user_attr("begun", self.number)
        self.lock.release()
        if (rank := rank_of(attempts_of(self.study), trial)) >= self.count:  # a grid's trials are all queued, however few were asked for
            raise TrialPruned
        # W&B knows one run alone within an agent: another trial than the one it is for goes without.
        its = bool(begun) and begun.id == trial.user_attrs.get("wandb")
        record = self._run(rank, trial.params, begun if its else not begun)
        if not record.finished:
            trial.set_user_attr("failed", record.result["reason"])
            return math.nan  # a failed trial to Optuna
        value = score(record, self.config["metric"])
        if its:
            begun.summary[self.config["metric"]["name"]] = value  # what the sweep goes by
        return value

    def _attempt(self, begun: Any = None) -> None:
        """Take a waiting trial, with the lock held until it is ours, and run it; `begun` is the W&B run in which an agent has us."""
        try:
            self.study.optimize(partial(self._objective, begun), n_trials=1)
        except Held:  # its process is slow, not dead; the next attempt will find the record
            time.sleep(trialFunction.HEARTBEAT)
        except (ValueError, AssertionError) as error:  # the second, which Optuna fails with as it handles the first, covers it
            if "Cannot tell" not in f"{error} {error.__context__}":  # else it was us who were slow: another process has this trial now
                raise

    def _agents_trial(self) -> None:
        with open_for_sweep(self.row) as begun, alone(self.lock):
            if len(attempts_of(self.study)) < self.count:
                values = {key: begun.config[key] for key in self.distributions}
                queue_trial(self.study, values, self.distributions, wandb=begun.id)
                self._attempt(begun)

    def _best_first(self, attempts: list[list[Any]]) -> list[Record]:
        """The records of the trials that have a score, which is said of the best."""
        from optuna.trial import TrialState

        scored = [
            (trial.value, rank, trial.params)
            for rank, tried in enumerate(attempts)
            for trial in tried
            if trial.state == TrialState.COMPLETE
        ]
        scored.sort(key=lambda trial: trial[0], reverse=self.config["metric"]["goal"] == "maximize")
        records = [self._run(rank, params) for _, rank, params in scored]
        print(f"{self.name}: {said_best(self.config, records)}" if records else f"{self.name}: no trial has a score")
        return records


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
