"""The report's Bayesian search: one W&B sweep configuration; W&B's agent draws from it, or without an account Optuna.

Every trial is an ordinary run, named `<name>_<number>`: recorded, resumable, early-stopped, cached. Optuna's database
says which trials there are (`trials.py`).
"""

import os
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch

from deepnet.account import complaint, wandb_mode
from deepnet.data.sets import load_images
from deepnet.data.sources import SETS
from deepnet.progress import bar, format_estimate
from deepnet.records.files import WriteError, first_line
from deepnet.records.reading import Record, runs_dir
from deepnet.runs.asked import untrained_parents
from deepnet.search.sweep import Sweep, plain, read_sweep
from deepnet.search.trials import Study, describe_best, distribution, open_study, score, values_of
from deepnet.search.vocabulary import KEYS
from deepnet.seeds import mixed, preserved_random
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
    identity,
)
from myModel import MODELS

START_UP = 4  # random trials first; GPSampler's default of 10 would leave a search of 12 with two Bayesian ones
# which is the default of all three
MEANT = {"precision": resolve_precision, "eps": lambda eps: 1e-8 if eps is None else eps}
PAUSE = 1  # seconds before other processes' trials are looked at again


Run = Callable[..., Record]
Opens = Callable[[Experiment], AbstractContextManager]


def search(
    config: dict, count: int, base: str | Experiment, name: str, profile: str, seed: int | None, storage: str, *,
    run: Run, open_for_sweep: Opens,
) -> list[Record]:  # fmt: skip
    """See `coreFunction.search`; `run` makes a trial's record, and `open_for_sweep` the W&B run that a sweep's agent
    wants begun.
    """
    config, row = plain(config), _base(base, profile, seed)
    sweep = read_sweep(config, row, MEANT)
    _check_models(row, sweep)
    count = whole("count", count, least=1)
    count = int(min(count, sweep.run_cap or count, sweep.size))
    fields = {key: value for key, value in asdict(row).items() if key not in ("profile", "seed")}
    known = row.name in EXPERIMENTS and replace(row, profile="", seed=0) == EXPERIMENTS[row.name]
    with open_study(name, row.profile, row.seed, storage, "maximize" if sweep.maximize else "minimize") as study:
        with study.alone():
            asked = study.asked.get("asked")
            if asked is None:
                for note in sweep.notes:
                    print(f"{name}: {note}")
                if wandb_mode() == "online":
                    study.study.set_user_attr("sweep", begin_sweep(config, name))
            elif read_sweep(asked["config"]) != sweep or _row(asked, study) != row:
                raise UsageError(
                    f"the search {name!r} was begun with another configuration; give this one another name"
                )
            study.study.set_user_attr("count", max(count, study.asked.get("count", 0)))
            if asked is None:  # the last one: from now on others can join
                kept = {key: config[key] for key in KEYS if key in config}
                study.study.set_user_attr("asked", {"config": kept, "base": row.name if known else fields})
        return _Search(study, row, sweep, count, run, open_for_sweep).work()


def join(name: str, profile: str, seed: int, storage: str, *, run: Run, open_for_sweep: Opens) -> list[Record]:
    """See `coreFunction.join`; the last two as in `search`."""
    with open_study(name, current_profile(profile), seed, storage) as study:
        asked = study.asked["asked"]
        return _Search(
            study, _row(asked, study), read_sweep(asked["config"]), study.asked["count"], run, open_for_sweep
        ).work()


def _base(base: Any, profile: str, seed: int | None) -> Experiment:
    """The experiment that a search varies, at its profile and seed."""
    if not isinstance(base, Experiment):
        return experiment(str(base), current_profile(profile), 0 if seed is None else seed)
    if profile and base.profile not in ("", profile):
        raise UsageError(
            f"base is a row of profile {base.profile}, and profile={profile!r} is given too; give one of them"
        )
    if seed is not None and base.seed not in (0, seed):
        raise UsageError(f"base is a row of seed {base.seed}, and seed={seed!r} is given too; give one of them")
    return replace(base, profile=current_profile(profile or base.profile), seed=base.seed if seed is None else seed)


def _check_models(row: Experiment, sweep: Sweep) -> None:
    """Raise UsageError where a model that is searched cannot take the images of a data set beside it."""
    varied = {
        key: sweep.parameters[key].choices for key in ("model", "dataset", "start_from") if key in sweep.parameters
    }
    for values in product(*varied.values()) if varied else ():
        try:
            exp = replace(row, **dict(zip(varied, values, strict=True)))
        except UsageError:  # three values that do not go together; each two do
            continue
        size, channels = identity(exp)["image_size"], SETS[exp.dataset].shape[0]
        try:
            with preserved_random(), torch.no_grad():
                MODELS[exp.model](image_size=size).eval()(torch.zeros(2, channels, size, size))
        except Exception as error:  # of any kind, the model may be a reader's own
            shape, reason = (channels, size, size), first_line(error)
            raise UsageError(
                f"the sweep configuration cannot be searched: {exp.model} cannot take the images of {exp.dataset}, {shape} ({reason}); "
                "leave one of them out"
            ) from None


def _row(asked: dict, study: Study) -> Experiment:
    """The experiment that a search which was begun varies."""
    profile, base = study.folder.name, asked["base"]
    if isinstance(base, str):
        return experiment(base, profile, study.seed)
    trainable = None if base["trainable"] is None else tuple(base["trainable"])
    return Experiment(**base | {"trainable": trainable, "profile": profile, "seed": study.seed})


# ---------------------------------------------------------------- the trials


@dataclass
class _Search:
    """One process at a search: trials of `row` until `count` of them have ended, here or in other processes."""

    study: Study
    row: Experiment
    sweep: Sweep
    count: int
    run: Run
    open_for_sweep: Opens

    def work(self) -> list[Record]:
        """Run trials until there are enough, or one has reached the target; returns the finished ones' records, best
        first.
        """
        self.prepare()
        trial_bar, self.line = bar(self.count, f"{self.study.name}: trials", unit="trial"), bar(1)
        while True:
            with ExitStack() as held:
                with self.study.alone():
                    trials = self.trials()
                    ended = sum(trial.state.is_finished() for trial in trials)
                    trial_bar.update(ended - trial_bar.n)
                    reached = any(trial.value is not None and self.sweep.reached(trial.value) for trial in trials)
                    if ended >= (len(trials) if reached else self.count):
                        break
                    trial = self.study.take(trials, held)
                    wanting = trial is None and not reached and len(trials) < self.count
                    agent = self.study.asked.get("sweep") if wanting and wandb_mode() == "online" else None
                    if wanting and not agent:
                        trial = self.study.take([self.study.add(self.next_point(trials), self.sweep)], held)
                if trial:
                    with suppress(RunLockedError):  # another process trains this very run, or what it starts from
                        self.attempt(trial)
                        continue
            if agent:
                with_agent(agent, self.agents_trial)
            else:
                time.sleep(PAUSE)
        for display in (trial_bar, self.line):
            display.close()
        scored = [trial for trial in trials if trial.value is not None]
        scored.sort(key=lambda trial: trial.value, reverse=self.sweep.maximize)
        records = [self.record(trial) for trial in scored]
        best = describe_best(self.study.asked["asked"]["config"], records) if records else "no trial has a score"
        print(f"{self.study.name}: {best}")
        return records

    def trials(self) -> list[Any]:
        return self.study.trials()[: self.count]

    def prepare(self) -> None:
        """Say how long it will take, and have ready what all trials need: without it none of them is begun."""
        todo = self.count - sum(trial.state.is_finished() for trial in self.trials())
        if todo <= 0:
            return
        parents = untrained_parents(self.row)
        seconds = format_estimate(
            todo * estimated_seconds(self.row) + sum(map(estimated_seconds, parents)), self.row.profile
        )
        print(f"{counted(self.count, 'trial')}, {self.count - todo} of them ended already; to go: {seconds}")
        if "start_from" not in self.sweep.parameters:
            for parent in reversed(parents):
                self.run(parent, evidence=False)
        if "dataset" not in self.sweep.parameters:
            load_images(self.row.dataset, "train", self.row.profile)

    def next_point(self, trials: list[Any]) -> dict:
        """The values of the trial after these."""
        return (
            self.sweep.grid_point(len(trials)) if self.sweep.method == "grid" else _draw(self.study, trials, self.sweep)
        )

    def record(self, trial: Any, wandb: Any = True) -> Record:
        exp = replace(self.row, name=f"{self.study.name}_{trial.number + 1}", **values_of(trial))
        return self.run(exp, line=self.line, wandb=wandb)

    def attempt(self, trial: Any, begun: Any = None) -> None:
        """Run a trial that is ours, and write what came of it; `begun` is the W&B run that an agent wants used.

        What is no fault of the trial's is raised: another process is at its run, the disk cannot be written, the agent
        was stopped.
        """
        value, reason = None, ""
        try:
            record = self.record(trial, begun or True)
            if record.finished:
                value = score(record, self.sweep)
                if begun:
                    begun.summary[self.sweep.metric] = value  # what the sweep goes by
            else:
                reason = str(record.result["reason"])
        except (RunLockedError, WriteError):
            raise
        except Exception as error:
            if type(error) is Exception:  # with which W&B's agent stops a trial
                raise
            reason = first_line(error)
            print(f"{self.study.name}_{trial.number + 1} (seed {self.row.seed}) failed: {reason}")
        self.study.end(trial, value, reason)

    def agents_trial(self) -> None:
        """A trial with the values that W&B's agent has, written to the W&B run that it wants begun."""
        with ExitStack() as held:
            begun = held.enter_context(self.open_for_sweep(self.row))
            with self.study.alone():
                if len(self.study.trials()) >= self.count:
                    return
                trial = self.study.add({key: begun.config[key] for key in self.sweep.parameters}, self.sweep)
                self.study.take([trial], held)
            self.attempt(trial, begun)


def _draw(study: Study, trials: list, sweep: Sweep) -> dict:
    """The next trial's values: from the trials so far and the seed alone, however often the search was cut off.

    Values that were drawn before would give the same score: others are drawn at random in their place, as long as there
    are any.
    """
    import optuna
    from optuna.samplers import GPSampler, RandomSampler

    # The 0 keeps the draws of the searches that are recorded.
    seed = mixed(int.from_bytes(study.name.encode()), study.seed, 0, len(trials)) % 2**32
    distributions = {name: distribution(parameter) for name, parameter in sweep.parameters.items()}
    at_random, dice = RandomSampler(seed=seed), random.Random(seed)
    sampler = GPSampler(seed=seed, n_startup_trials=START_UP) if sweep.method == "bayes" else at_random
    drawing = optuna.create_study(sampler=sampler, direction=study.study.direction)
    drawing.add_trials([trial for trial in trials if trial.value is not None])
    drawn = [values_of(trial) for trial in trials]
    for _ in range(101):
        params = drawing.ask(distributions).params
        point = {
            name: dice.choices(parameter.choices, parameter.probabilities)[0]
            if parameter.probabilities
            else parameter.value(params[name])
            for name, parameter in sweep.parameters.items()
        }
        if point not in drawn:
            break
        drawing.sampler = at_random
    return point


# ---------------------------------------------------------------- at W&B

# wandb's `sweep-scheduler` can let Optuna suggest a sweep's runs too. It is not used: it asks W&B's server for the
# sweep and for every run, so it does nothing offline, its study must not outlive its process, and only one process may
# drive a sweep.


def begin_sweep(config: dict, name: str) -> str:
    """Have W&B make a sweep of this configuration; returns its id. Raises UsageError where it does not."""
    import wandb

    said = {key: config[key] for key in ("description", "method", "metric", "parameters") if key in config}
    try:
        return wandb.sweep({"name": name} | said, project=PROJECT)
    except Exception as error:  # of many kinds
        raise UsageError(
            f"W&B makes no sweep ({complaint(error)}); with WANDB_MODE=offline the search needs none"
        ) from None


def with_agent(sweep: str, trial: Callable[[], None]) -> None:
    """Have an agent of W&B's ask the sweep for one trial, and call `trial` in the surroundings in which wandb.init
    begins its run.

    One trial an agent, since other processes may have taken the last one meanwhile. Raises what `trial` does, and
    UsageError where the sweep gives no trial, or the agent was stopped: by Ctrl-C, which it keeps to itself, or on the
    sweep's page.
    """
    import wandb

    outcome: list[BaseException | None] = []

    def call() -> None:
        try:
            trial()
            outcome.append(None)
        except BaseException as error:  # the agent would print it, and count it as a trial
            outcome.append(error)

    # where the agent writes the values; else the current folder
    os.environ.setdefault("WANDB_DIR", str(runs_dir().resolve()))
    try:
        wandb.agent(sweep, call, project=PROJECT, count=1)
        error = (
            outcome[0]
            if outcome
            else UsageError(f"W&B's sweep {sweep} gives no more trials; it has ended or was stopped")
        )
    except Exception as refused:
        error = refused
    if isinstance(error, wandb.Error):
        raise UsageError(
            f"W&B: {complaint(error)}; the same call goes on, with WANDB_MODE=offline without W&B"
        ) from None
    if type(error) is Exception:  # with which the agent stops a trial
        raise UsageError("W&B's agent was stopped; the same call goes on from here") from None
    if error:
        raise error
