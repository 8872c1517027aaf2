"""Verification: a committed run is trained again in a folder of its own, and the two records are compared.

It is trained in the record's own precision. With the same processor, versions, device and threads, the two must be
bitwise equal. Otherwise rounding differs and training amplifies the difference, so only the accuracy is judged: first
against the rows of the same seed, then against the interval in which the accuracy of another run is expected.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest
from pathlib import Path
from statistics import mean, pvariance
from typing import Any

import torch

from deepnet.analyses.kinds import ON_PROCESSOR, PACKAGES
from deepnet.claims.intervals import Interval, wilson_interval
from deepnet.data.sets import data_identity
from deepnet.progress import format_estimate
from deepnet.records import reading
from deepnet.records.provenance import provenance
from deepnet.records.reading import WEIGHTS, Record, check_identity, runs_dir
from deepnet.text import counted
from deepnet.training.precision import resolve_precision
from deepnet.valid import whole
from experimentTable import Experiment, UsageError, current_profile, estimated_seconds, experiment

CONDITIONS = ("processor", "device", "threads", "precision", "torch", "numpy", "results_version", "rounding_version")
LEVEL = 0.95
FEW_SEEDS = 5  # with fewer, the seeds' variance is pooled with that of other runs of the model and data set
OWN_FILES = ("settings.json", "rows.jsonl")  # their digests always differ (commit, times); rows are compared singly
NOT_COMPARED = {"train_seconds", "began", "ended", "uncommitted", "sha256"}  # digests are compared singly
ADDED_LATER = {"update_log10_ratio"}  # metrics that older records lack


# ---------------------------------------------------------------- the difference


@dataclass(frozen=True)
class Change:
    """One value that differs in the second run: `there` is the evidence's, `here` the second run's."""

    row: int | None  # in a training run, the epoch; None: the value is in the result
    metric: str
    there: Any
    here: Any

    def __str__(self) -> str:
        if not (isinstance(self.there, list) and isinstance(self.here, list)):
            return f"{self.metric} {self.there} there, {self.here} here"
        pairs = list(zip_longest(self.there, self.here))  # of lists, one entry per layer
        differing = [(a, b) for a, b in pairs if a != b]
        most = max((abs(a - b) for a, b in differing if a is not None and b is not None), default=math.nan)
        return f"{self.metric} in {len(differing)} of {len(pairs)} places, by at most {most:.4g}"


@dataclass(frozen=True)
class Difference:
    """How a second run differs from the evidence, and whether the two agree."""

    name: str
    profile: str
    seed: int
    kind: str
    epochs: int | None  # None: the whole run was compared, else only the rows up to this epoch
    verdict: str  # "bit-equal", "equal" (no weights were compared), "within ..." or "not agreed"
    agreed: bool
    conditions: dict[str, tuple[Any, Any]]  # those that differ, there and here; if none do, equality is required
    commits: tuple[str, str]  # there and here
    changes: tuple[Change, ...]
    accuracy: tuple[float | None, float | None] | None  # there and here, if equality is not required
    expected: Interval | None  # the interval in which the accuracy must lie
    ground: str = ""  # the name of that interval

    def __str__(self) -> str:
        """The verdict in one line and, if anything differs, the grounds of the verdict and the changes by row."""
        part = "" if self.epochs is None else f", only rows 0 to {self.epochs}"
        lines = [f"{self.name} ({self.profile}, seed {self.seed}): {self.verdict}{part}"]
        if not self.changes:
            return lines[0]
        conditions = ", ".join(f"{key} {there} there, {here} here" for key, (there, here) in self.conditions.items())
        same = "equality is required: processor, device, threads, precision and versions are the same"
        lines.append(f"not the same: {conditions}" if conditions else same)
        if self.accuracy and self.expected:
            (there, here), (low, high) = self.accuracy, self.expected
            lines.append(f"accuracy {there} there, {here} here; expected from {low:.4g} to {high:.4g}, {self.ground}")
        lines.append("commit {} there, {} here".format(*self.commits))
        for row, changes in groupby(self.changes, lambda change: change.row):
            place = "result" if row is None else f"{'epoch' if self.kind == 'training' else 'row'} {row}"
            lines.append(f"{place}: " + "; ".join(map(str, changes)))
        return "\n  ".join(lines)


def compare(
    evidence: Record, again: Record, seeds: Sequence[Record] = (), others: Sequence[Sequence[Record]] = ()
) -> Difference:
    """The difference between two records of one run, and the verdict.

    If the second run is unfinished, only its rows are compared. If CONDITIONS differ, equality is not required: every
    row's accuracy must agree with the evidence's within the sampling error of the evaluation images. If one does not,
    the last accuracy must lie in the `expected_interval` of `seeds`, the evidence's records of this run, and `others`,
    those of other runs.
    """
    complete = bool(again.result)
    epoch = None if complete else len(again.rows) - 1
    there, here = (record.settings["provenance"] for record in (evidence, again))
    kind = evidence.settings["identity"]["kind"]
    conditions = differing(there, here, kind)
    nothing: dict = {}
    rows = zip_longest(evidence.rows if complete else evidence.rows[: len(again.rows)], again.rows, fillvalue=nothing)
    changes = [change for number, (a, b) in enumerate(rows) for change in _changes(number, a, b)]
    if complete:
        digests = [
            {file: value for file, value in record.result["sha256"].items() if file not in OWN_FILES}
            for record in (evidence, again)
        ]
        changes += _changes(None, evidence.result, again.result) + _changes(None, *digests)
    verdict, accuracy, expected, ground = "not agreed", None, None, ""
    if not changes:
        verdict = "bit-equal" if complete and WEIGHTS in evidence.result["sha256"] else "equal"
    elif conditions and (last := _accuracy(evidence, evidence, epoch)) is not None:
        epochs = [*range(len(again.rows) if kind == "training" else 0), epoch]
        pairs = [(_accuracy(evidence, evidence, row), _accuracy(again, evidence, row)) for row in epochs]
        accuracy = pairs[-1]
        images = evidence.result.get("images") or evidence.predictions().shape[1]
        if all(_within(value, sampling_error(own, images)) for own, value in pairs if own is not None):
            expected = sampling_error(last, images)
            ground = f"the sampling error of {images} images, in each row of the same seed"
        else:
            own_seeds = [_accuracy(record, evidence, epoch) for record in seeds]
            other_runs = [[_accuracy(record, record, epoch) for record in run] for run in others]
            expected, ground = expected_interval(last, images, own_seeds, other_runs)
        same_end = not complete or again.result["status"] == evidence.result["status"]
        if same_end and _within(accuracy[1], expected):
            verdict = f"within {ground}"
    return Difference(
        evidence.name, evidence.profile, evidence.seed, kind, epoch, verdict, verdict != "not agreed", conditions,
        (_commit(there), _commit(here)), tuple(changes), accuracy, expected, ground,
    )  # fmt: skip


def differing(there: dict, here: dict, kind: str) -> dict[str, tuple[Any, Any]]:
    """The CONDITIONS in which two provenances differ; a missing one counts as different.

    For kinds that are always computed on the processor in fp32, device and precision are not compared, since the first
    records hold other ones.
    """
    keys = [key for key in CONDITIONS if not (kind in ON_PROCESSOR and key in ("device", "precision"))]
    keys += [package for package in PACKAGES.get(kind, ()) if package in there]
    return {key: (there.get(key), here.get(key)) for key in keys if there.get(key) != here.get(key)}


def _commit(made: dict) -> str:
    uncommitted = " with uncommitted changes" if made["commit"] and made["dirty"] else ""
    return f"{(made['commit'] or 'unknown')[:7]}{uncommitted}"


def _changes(row: int | None, there: dict, here: dict) -> list[Change]:
    left_out = NOT_COMPARED | (ADDED_LATER - there.keys())
    pairs = {key: (there.get(key), here.get(key)) for key in there | here if key not in left_out}
    return [Change(row, key, *pair) for key, pair in pairs.items() if pair[0] != pair[1]]


def _accuracy(record: Record, evidence: Record, epoch: int | None) -> float | None:
    """The record's accuracy (for an embedding, that of its nearest neighbours), or that of a row; None without one."""
    if epoch is None:
        return record.result.get("accuracy", record.result.get("knn_accuracy"))
    return record.rows[epoch].get(f"{evidence.result['split']}_accuracy") if epoch < len(record.rows) else None


def _within(accuracy: float | None, interval: Interval) -> bool:
    return accuracy is not None and interval[0] <= accuracy <= interval[1]


def sampling_error(accuracy: float, images: int) -> Interval:
    """Wilson's interval at LEVEL for the accuracy on other images of the same kind."""
    low, high = wilson_interval(accuracy, images, LEVEL)
    return max(low, 0.0), min(high, 1.0)


def expected_interval(
    accuracy: float, images: int, seeds: Sequence[float | None], others: Sequence[Sequence[float | None]]
) -> tuple[Interval, str]:
    """The interval for the accuracy of another run at LEVEL, and its name.

    It is Student's prediction interval for one more run, mean ± t s √(1 + 1/n), since with other rounding the same seed
    gives another run. s is the seeds' standard deviation; for fewer than FEW_SEEDS it is pooled with that of `others`,
    each about its own mean. Without a standard deviation, the interval is the sampling error of the `images` around the
    evidence's `accuracy`.
    """
    from scipy import stats

    values, *pool = (
        [value for value in run if value is not None] for run in [seeds, *(others if len(seeds) < FEW_SEEDS else [])]
    )
    pool = [run for run in pool if len(run) > 1]
    runs = pool + [values] * (len(values) > 1)
    squares = sum(len(run) * pvariance(run) for run in runs)
    freedom = sum(len(run) - 1 for run in runs)
    if not (values and squares):
        unknown = f"{LEVEL:.0%}; the variance over seeds is not known"
        return sampling_error(accuracy, images), f"the sampling error of {images} images ({unknown})"
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(squares / freedom * (1 + 1 / len(values)))
    pooled = f", pooled with {counted(len(pool), 'other run')}" if pool else ""
    interval = max(mean(values) - half, 0.0), min(mean(values) + half, 1.0)
    return interval, f"the seeds' prediction interval ({LEVEL:.0%}, {counted(len(values), 'seed')}{pooled})"


# ---------------------------------------------------------------- training again


def committed(name: str, profile: str) -> dict[int, Record]:
    """The committed records of a run that have a result, by seed."""
    found = [Record(path.parent) for path in (reading.EVIDENCE / profile / name).glob("seed-*/result.json")]
    return {record.seed: record for record in sorted(found, key=lambda record: record.seed)}


def verify(name: str, profile: str | None, seed: int, epochs: int | None, run: Callable[..., Record]) -> Difference:
    """See `coreFunction.verify`; `run` makes a record."""
    exp = experiment(name, current_profile(profile), seed)
    epochs = None if epochs is None else whole("epochs", epochs, least=1)
    if exp.kind == "timing":
        times = f"{name} holds times, which differ from run to run and cannot be verified"
        raise UsageError(f"{times}; `train {name} --fresh` measures them again")
    records = committed(name, exp.profile)
    if (evidence := records.get(seed)) is None:
        missing = f"{name} (seed {seed}) has no committed record in {exp.profile}"
        raise UsageError(f"{missing}; train it and `python run.py publish {name}`")
    check_identity(evidence, data_identity(exp))
    trained = len(evidence.rows) - 1
    if exp.kind == "training" and epochs is not None and epochs > trained:
        more = f"epochs={epochs} are more than the record of {name} (seed {seed}) has"
        raise UsageError(f"{more}; give at most {trained}, or leave them out")
    if exp.kind != "training" or epochs == trained:
        epochs = None  # the whole run
    there = evidence.settings["provenance"]
    exp = _in_precision_of(evidence, exp)
    here = provenance(resolve_precision(exp.precision), packages=PACKAGES.get(exp.kind, ()))
    elsewhere = differing(there, here, exp.kind).keys() - {"threads"}
    parents, start = _parents(exp)
    for run_again in (*parents, exp):
        estimate = format_estimate(estimated_seconds(run_again), exp.profile)
        print(f"{run_again.name} (seed {seed}) is trained again; {estimate}", flush=True)
    # The bits depend on the number of threads, so the record's number is used, whatever OMP_NUM_THREADS is here.
    with _own_folder() as folder, nullcontext() if elsewhere else _threads(there["threads"]):
        if start:
            shutil.copytree(start.path, folder / exp.profile / start.name / start.path.name)
        for parent in parents:
            run(parent, evidence=False, wandb=False)
        made = folder / exp.profile / name / f"seed-{seed}"
        run(exp, evidence=False, wandb=False, stop=lambda: epochs is not None and len(Record(made).rows) > epochs)
        seeds = [record for record in records.values() if record.finished]
        return compare(evidence, Record(made), seeds, _of_the_same_model(evidence) if elsewhere else [])


def _in_precision_of(record: Record | None, exp: Experiment) -> Experiment:
    if record is None or exp.kind in ON_PROCESSOR:
        return exp
    return replace(exp, precision=record.settings["provenance"]["precision"])


def _of_the_same_model(evidence: Record) -> list[list[Record]]:
    """The finished records of the evidence's other runs of that kind, model and data set, one list per run."""

    def computed(record: Record) -> list:
        return [record.settings["identity"][key] for key in ("kind", "model", "dataset")]

    folders = sorted(
        path for path in evidence.path.parents[1].iterdir() if path.is_dir() and path.name != evidence.name
    )
    runs = [[r for r in committed(path.name, evidence.profile).values() if r.finished] for path in folders]
    return [run for run in runs if run and computed(run[0]) == computed(evidence)]


def _parents(exp: Experiment) -> tuple[list[Experiment], Record | None]:
    """The runs to train before `exp`, in order, and the record in RUNS_DIR that the first one starts from.

    That record, if any, has the weights of the evidence.
    """
    parents: list[Experiment] = []
    while exp.start_from is not None:
        exp = experiment(exp.start_from, exp.profile, exp.seed)
        known = committed(exp.name, exp.profile).get(exp.seed)
        mine = Record(runs_dir() / exp.profile / exp.name / f"seed-{exp.seed}")
        same = known and mine.finished and mine.result["sha256"][WEIGHTS] == known.result["sha256"][WEIGHTS]
        if same and mine.has_weights:
            mine.weights()  # refuses a damaged file here, under its own path
            return parents, mine
        parents.insert(0, _in_precision_of(known, exp))
    return parents, None


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A temporary RUNS_DIR, without checkpoints, since nothing resumes from it."""
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        before = {key: os.environ.get(key) for key in ("RUNS_DIR", "CHECKPOINT_SECONDS")}
        os.environ |= {"RUNS_DIR": folder, "CHECKPOINT_SECONDS": "inf"}
        try:
            yield Path(folder)
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                os.environ |= {} if value is None else {key: value}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Use this number of threads in torch and in the analyses' libraries within the block."""
    before, limits = torch.get_num_threads(), nullcontext()
    with suppress(ImportError):  # without these libraries, no analysis that needs them runs
        import sklearn.manifold  # noqa: F401 - its libraries must be loaded to be limited
        from threadpoolctl import threadpool_limits

        limits = threadpool_limits(number)
    torch.set_num_threads(number)
    try:
        with limits:
            yield
    finally:
        torch.set_num_threads(before)
