"""The hyperparameter search: it draws the values of trials, by Optuna or the agent of a W&B sweep, and runs them.

Every trial is an ordinary run, named `<name>_<number>`: it is recorded, resumable and stopped early. `trials.py` keeps
the trials in a database.
"""

import math
import os
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from deepnet.account import complaint, wandb_mode
from deepnet.data.sets import load_images
from deepnet.progress import bar, format_estimate
from deepnet.records.files import WriteError, first_line
from deepnet.records.reading import Record, runs_dir
from deepnet.runs.arguments import as_experiment, requested_rows, untrained_parents
from deepnet.search.sweep import Sweep, plain, read_sweep
from deepnet.search.trials import Study, describe_best, distributions, open_study, score, values_of
from deepnet.search.vocabulary import KEYS
from deepnet.seeds import combined_seed
from deepnet.text import counted
from deepnet.training.precision import resolve_precision
from deepnet.valid import whole
from experimentTable import (
    EXPERIMENTS,
    PROJECT,
    Experiment,
    RunLockedError,
    UsageError,
    current_profile,
    estimated_seconds,
    experiment,
)

STARTUP_TRIALS = 4  # drawn at random; with GPSampler's default of 10, only two of 12 trials would be Bayesian
POLL_SECONDS = 1  # how often the trials of other processes are checked
RESOLVED = {"precision": resolve_precision, "eps": lambda eps: 1e-8 if eps is None else eps}  # see `read_sweep`

Run = Callable[..., Record]
OpenForSweep = Callable[[Experiment], AbstractContextManager]


def search(
    config: dict, count: int, base: str | Experiment, name: str, profile: str, seed: int | None, storage: str, *,
    run: Run, open_for_sweep: OpenForSweep,
) -> list[Record]:  # fmt: skip
    """See `coreFunction.search`; `run` makes a record, `open_for_sweep` opens the W&B run of a sweep's agent."""
    (row,) = requested_rows([as_experiment(base)], profile, None if seed is None else [seed])
    config = plain(config)
    sweep = read_sweep(config, row, RESOLVED)
    count = int(min(whole("count", count, least=1), sweep.run_cap or math.inf, sweep.size))
    direction = "maximize" if sweep.maximize else "minimize"
    with open_study(name, row.profile, row.seed, storage, direction) as study:
        with study.locked():
            _begin(study, config, row, sweep, count)
        return _Search(study, row, sweep, count, run, open_for_sweep).work()


def join(
    name: str, profile: str, seed: int, storage: str, *, run: Run, open_for_sweep: OpenForSweep
) -> list[Record]:  # fmt: skip
    """See `coreFunction.join`; the last two arguments are those of `search`."""
    with open_study(name, current_profile(profile), seed, storage) as study:
        row, sweep = _asked(study)
        return _Search(study, row, sweep, study.attributes["count"], run, open_for_sweep).work()


def _begin(study: Study, config: dict, row: Experiment, sweep: Sweep, count: int) -> None:
    """Record the configuration. Raises UsageError if the search was begun with a different one."""
    begun = "asked" in study.attributes
    if begun and _asked(study) != (row, sweep):
        raise UsageError(f"the search {study.name!r} was begun with another configuration; give this one another name")
    if not begun:
        for note in sweep.notes:
            print(f"{study.name}: {note}")
        if wandb_mode() == "online":
            study.study.set_user_attr("sweep", make_wandb_sweep(config, study.name))
    study.study.set_user_attr("count", max(count, study.attributes.get("count", 0)))
    if not begun:  # this attribute is set last, since it lets other processes join
        fields = {key: value for key, value in asdict(row).items() if key not in ("profile", "seed")}
        in_table = row.name in EXPERIMENTS and replace(row, profile="", seed=0) == EXPERIMENTS[row.name]
        kept = {key: config[key] for key in KEYS if key in config}
        study.study.set_user_attr("asked", {"config": kept, "base": row.name if in_table else fields})


def _asked(study: Study) -> tuple[Experiment, Sweep]:
    """The experiment that a search varies, and its configuration, from its record."""
    asked, base = study.attributes["asked"], study.attributes["asked"]["base"]
    if isinstance(base, str):
        row = experiment(base)
    else:
        row = Experiment(**base | {"trainable": None if base["trainable"] is None else tuple(base["trainable"])})
    return replace(row, profile=study.folder.name, seed=study.seed), read_sweep(asked["config"])


# ---------------------------------------------------------------- the trials


@dataclass
class _Search:
    """The work of one process on a search: trials of `row`, until `count` have ended here or in other processes."""

    study: Study
    row: Experiment
    sweep: Sweep
    count: int
    run: Run
    open_for_sweep: OpenForSweep

    def work(self) -> list[Record]:
        """Run trials until the search has ended; returns the records of those with a score, best first."""
        self.prepare()
        self.trial_bar, self.line = bar(self.count, f"{self.study.name}: trials", unit="trial"), bar(1)
        while self.run_next_trial():
            pass
        for display in (self.trial_bar, self.line):
            display.close()
        scored = [trial for trial in self.trials() if trial.value is not None]
        scored.sort(key=lambda trial: trial.value, reverse=self.sweep.maximize)
        records = [self.record(trial) for trial in scored]
        config = self.study.attributes["asked"]["config"]
        print(f"{self.study.name}: {describe_best(config, records) if records else 'no trial has a score'}")
        return records

    def trials(self) -> list[Any]:
        return self.study.trials()[: self.count]

    def prepare(self) -> None:
        """Print an estimate, and make what all trials need: the parents' records and the data."""
        missing = self.count - sum(trial.state.is_finished() for trial in self.trials())
        if missing <= 0:
            return
        parents = untrained_parents(self.row)
        seconds = missing * estimated_seconds(self.row) + sum(map(estimated_seconds, parents))
        ended = f"{counted(self.count, 'trial')}, {self.count - missing} of them ended already"
        print(f"{ended}; to go: {format_estimate(seconds, self.row.profile)}")
        if "start_from" not in self.sweep.parameters:
            for parent in reversed(parents):
                self.run(parent, evidence=False)
        if "dataset" not in self.sweep.parameters:
            load_images(self.row.dataset, "train", self.row.profile)

    def run_next_trial(self) -> bool:
        """Run a trial that no other process works on, or wait for the others; returns False after the last trial."""
        with ExitStack() as claim:
            with self.study.locked():
                trials = self.trials()
                ended = sum(trial.state.is_finished() for trial in trials)
                self.trial_bar.update(ended - self.trial_bar.n)
                reached = any(trial.value is not None and self.sweep.reached(trial.value) for trial in trials)
                planned = len(trials) if reached else self.count
                if ended >= planned:
                    return False
                trial, wandb_sweep = self.study.claim(trials, claim), None
                if trial is None and len(trials) < planned:
                    wandb_sweep = self.study.attributes.get("sweep") if wandb_mode() == "online" else None
                    if not wandb_sweep:
                        trial = self.study.add(draw(self.study, trials, self.sweep), self.sweep, claim)
            if trial:
                with suppress(RunLockedError):  # another process trains this very run, or its parent
                    self.attempt(trial)
                    return True
        if wandb_sweep:
            ask_wandb_agent(wandb_sweep, self.run_agents_trial)
        else:
            time.sleep(POLL_SECONDS)
        return True

    def run_agents_trial(self) -> None:
        """Run a trial with the values that W&B's agent has set, and write it to the W&B run that the agent expects."""
        with ExitStack() as claim:
            wandb_run = claim.enter_context(self.open_for_sweep(self.row))
            with self.study.locked():
                if len(self.study.trials()) >= self.count:
                    return
                values = {key: wandb_run.config[key] for key in self.sweep.parameters}
                trial = self.study.add(values, self.sweep, claim)
            self.attempt(trial, wandb_run)

    def attempt(self, trial: Any, wandb_run: Any = None) -> None:
        """Run a claimed trial, and record its score or why it failed.

        Errors that are not the trial's own are raised: a locked run, a disk that cannot be written, a stopped agent.
        """
        value, reason = None, ""
        try:
            record = self.record(trial, wandb_run or True)
            if record.finished:
                value = score(record, self.sweep)
                if wandb_run:
                    wandb_run.summary[self.sweep.metric] = value  # where the sweep reads it
            else:
                reason = str(record.result["reason"])
        except (RunLockedError, WriteError):
            raise
        except Exception as error:
            if type(error) is Exception:  # W&B's agent stops a trial by raising this
                raise
            reason = first_line(error)
            print(f"{self.study.name}_{trial.number + 1} (seed {self.row.seed}) failed: {reason}")
        self.study.end(trial, value, reason)

    def record(self, trial: Any, wandb: Any = True) -> Record:
        exp = replace(self.row, name=f"{self.study.name}_{trial.number + 1}", **values_of(trial))
        return self.run(exp, line=self.line, wandb=wandb)


def draw(study: Study, trials: list, sweep: Sweep) -> dict:
    """The values of the next trial, which depend only on `trials` and on the search's name and seed.

    If values were drawn before, and so would give the same score, others are drawn at random instead, if there are any.
    """
    if sweep.method == "grid":
        return sweep.grid_point(len(trials))
    import optuna
    from optuna.samplers import GPSampler, RandomSampler

    # The 0 stays, since recorded searches were drawn with it.
    seed = combined_seed(int.from_bytes(study.name.encode()), study.seed, 0, len(trials)) % 2**32
    at_random, rng = RandomSampler(seed=seed), random.Random(seed)
    bayes = sweep.method == "bayes"
    sampler = GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS) if bayes else at_random
    drawing = optuna.create_study(sampler=sampler, direction=study.study.direction)
    drawing.add_trials([trial for trial in trials if trial.value is not None])
    drawn = [values_of(trial) for trial in trials]
    for _ in range(101):
        params = drawing.ask(distributions(sweep)).params
        values = {name: parameter.value(params[name]) for name, parameter in sweep.parameters.items()}
        for name, parameter in sweep.parameters.items():
            if parameter.probabilities:
                (values[name],) = rng.choices(parameter.choices, parameter.probabilities)
        if values not in drawn:
            break
        drawing.sampler = at_random
    return values


# ---------------------------------------------------------------- W&B's sweeps and agents

# wandb's `sweep-scheduler`, by which Optuna can suggest a sweep's runs, is not used: it asks W&B's server for each run,
# so it does not work offline, its study ends with its process, and only one process may drive a sweep.


def make_wandb_sweep(config: dict, name: str) -> str:
    """Create a W&B sweep with this configuration; returns its id. Raises UsageError if W&B refuses it."""
    import wandb

    kept = {key: config[key] for key in ("description", "method", "metric", "parameters") if key in config}
    try:
        return wandb.sweep({"name": name} | kept, project=PROJECT)
    except Exception as error:  # of many kinds
        without = "with WANDB_MODE=offline the search needs none"
        raise UsageError(f"W&B creates no sweep ({complaint(error)}); {without}") from None


def ask_wandb_agent(sweep: str, run_trial: Callable[[], None]) -> None:
    """Start a W&B agent that asks the sweep for one trial, and calls `run_trial`, in which wandb.init opens its run.

    An agent runs one trial only, since other processes may have taken the last one meanwhile. Raises what `run_trial`
    raises, and UsageError if the sweep gives no trial, or if the agent was stopped on the sweep's page or by Ctrl-C,
    which it does not pass on.
    """
    import wandb

    outcome: list[BaseException | None] = []

    def call() -> None:
        try:
            outcome.append(run_trial())  # type: ignore[func-returns-value]
        except BaseException as error:  # the agent would only print it, and count the trial
            outcome.append(error)

    os.environ.setdefault("WANDB_DIR", str(runs_dir().resolve()))  # the agent writes the values there
    ended = UsageError(f"W&B's sweep {sweep} gives no more trials; it has ended or was stopped")
    try:
        wandb.agent(sweep, call, project=PROJECT, count=1)
        error = outcome[0] if outcome else ended
    except Exception as refused:
        error = refused
    again = "the same call resumes the search"
    if isinstance(error, wandb.Error):
        raise UsageError(f"W&B: {complaint(error)}; {again}, with WANDB_MODE=offline without W&B") from None
    if type(error) is Exception:  # the agent stops a trial by raising this
        raise UsageError(f"W&B's agent was stopped; {again}") from None
    if error:
        raise error
