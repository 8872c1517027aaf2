"""Committed records made again: a run is trained anew in a folder of its own, and its record compared with the evidence.

On the same processor, versions, precision, device and threads the two must be equal to the bit. Elsewhere rounding
differs and training amplifies it, so there the accuracy is judged: it must lie where another run's is to be expected.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest
from math import sqrt
from pathlib import Path
from typing import Any

import torch

import recordFunction
from coreFunction import data_identity, run
from deepnet.claims.intervals import Interval, t_interval, wilson_interval
from experimentTable import Experiment, UsageError, current_profile, experiment, price
from recordFunction import WEIGHTS, Record, check_identity, runs_dir
from utilityFunction import about, duration, provenance, resolve_precision

# What must be the same for bits to be equal; for the analyses that scikit-learn does, its version too
CONDITIONS = ("processor", "device", "threads", "precision", "torch", "numpy", "results_version", "rounding_version")
LEVEL = 0.95
OWN = ("settings.json", "rows.jsonl")  # these have commit and times in them; rows are compared one by one
NOT_COMPARED = {"train_seconds", "sha256"}  # a clock's time; digests are compared one by one


# ---------------------------------------------------------------- the difference


@dataclass(frozen=True)
class Change:
    """One value that is another in the second run: `there` is the evidence's."""

    row: int | None  # of a training it is the epoch; None: the value is the result's
    metric: str
    there: Any
    here: Any

    def __str__(self) -> str:
        """In words; of values that are lists, one entry a layer, how many differ and by how much."""
        if not (isinstance(self.there, list) and isinstance(self.here, list)):
            return f"{self.metric} {self.there} there, {self.here} here"
        pairs = list(zip_longest(self.there, self.here))
        apart = [(a, b) for a, b in pairs if a != b]
        most = max((abs(a - b) for a, b in apart if a is not None and b is not None), default=None)
        return f"{self.metric} in {len(apart)} of {len(pairs)} places" + (f", by at most {most:.4g}" if most is not None else "")


@dataclass(frozen=True)
class Difference:
    """What a second run differs in from the evidence, and whether the two agree."""

    name: str
    profile: str
    seed: int
    kind: str
    epochs: int | None  # how many were compared, their rows alone; None: the whole run
    verdict: str  # "bit-equal"; "equal" where there are no weights to compare; what the accuracy is within; "not agreed"
    agreed: bool
    conditions: dict[str, tuple[Any, Any]]  # those that are not the same, there and here; none: equality was demanded
    commits: tuple[str, str]  # there and here
    changes: tuple[Change, ...]  # from where the two part
    accuracy: tuple[float | None, float | None] | None  # there and here, where equality was not demanded
    expected: Interval | None  # the accuracy must lie in it
    ground: str = ""  # what the interval is
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The verdict in one line, then what it rests on and, row by row, what differs."""
        part = "" if self.epochs is None else f", rows 0 to {self.epochs} alone"
        lines = [f"{self.name} ({self.profile}, seed {self.seed}): {self.verdict}{part}"]
        if not self.changes:
            return lines[0]
        if not self.conditions:
            lines += ["equality was demanded: processor, device, threads, precision and versions are the same"]
        else:
            lines += ["not the same: " + ", ".join(f"{key} {there} there, {here} here" for key, (there, here) in self.conditions.items())]
        if self.accuracy and self.expected:
            low, high = self.expected
            lines += ["accuracy {} there, {} here".format(*self.accuracy) + f"; expected from {low:.4g} to {high:.4g}, {self.ground}"]
        lines += ["commit {} there, {} here".format(*self.commits), *self.notes]
        for row, changes in groupby(self.changes, lambda change: change.row):
            where = "result" if row is None else f"epoch {row}" if self.kind == "training" else f"row {row}"
            lines.append(f"{where}: " + "; ".join(map(str, changes)))
        return "\n  ".join(lines)


def compare(evidence: Record, again: Record, seeds: Sequence[Record] = ()) -> Difference:
    """The difference of two records of one run, and the verdict on it.

    Of a second run that was left off before its end the rows alone are compared. `seeds` are the evidence's records of that
    run: where something other than the code differs (see CONDITIONS), they say what accuracy is to be expected.
    """
    whole = bool(again.result)
    epoch = None if whole else len(again.rows) - 1
    there, here, kind = evidence.settings["provenance"], again.settings["provenance"], evidence.settings["identity"]["kind"]
    conditions = differing(there, here, kind)
    changes = _row_changes(evidence.rows if whole else evidence.rows[: len(again.rows)], again.rows)
    changes += _result_changes(evidence.result, again.result) if whole else []
    verdict, accuracy, expected, ground = "not agreed", None, None, ""
    if not changes:
        verdict = "bit-equal" if whole and WEIGHTS in evidence.result["sha256"] else "equal"
    elif conditions and (forecast := expectation(evidence, seeds, epoch)):
        expected, ground = forecast
        accuracy = _accuracy(evidence, evidence, epoch), _accuracy(again, evidence, epoch)
        ended_alike = not whole or again.result["status"] == evidence.result["status"]
        if ended_alike and accuracy[1] is not None and expected[0] <= accuracy[1] <= expected[1]:
            verdict = f"within {ground}"
    return Difference(
        evidence.name, evidence.profile, evidence.seed, kind, epoch, verdict, verdict != "not agreed", conditions,
        (_commit(there), _commit(here)), tuple(changes), accuracy, expected, ground,
    )  # fmt: skip


def differing(there: dict, here: dict, kind: str) -> dict[str, tuple[Any, Any]]:
    """The CONDITIONS in which two provenances differ; what one does not name counts as different."""
    keys = (*CONDITIONS, *(["scikit-learn"] if kind in ("tsne", "baseline") else []))
    return {key: (there.get(key), here.get(key)) for key in keys if there.get(key) != here.get(key)}


def _commit(made: dict) -> str:
    return f"{(made['commit'] or 'unknown')[:7]}{' with uncommitted changes' if made['commit'] and made['dirty'] else ''}"


def _row_changes(there: list[dict], here: list[dict]) -> list[Change]:
    nothing: dict = {}
    pairs = enumerate(zip_longest(there, here, fillvalue=nothing))
    return [change for number, (a, b) in pairs for change in _changes(number, a, b)]


def _result_changes(there: dict, here: dict) -> list[Change]:
    a, b = ({file: value for file, value in result["sha256"].items() if file not in OWN} for result in (there, here))
    return _changes(None, there, here) + _changes(None, a, b)


def _changes(row: int | None, there: dict, here: dict) -> list[Change]:
    metrics = [metric for metric in there | here if metric not in NOT_COMPARED and there.get(metric) != here.get(metric)]
    return [Change(row, metric, there.get(metric), here.get(metric)) for metric in metrics]


def _accuracy(record: Record, evidence: Record, epoch: int | None) -> float | None:
    """The record's final accuracy (an embedding's is its neighbours'), or that of a row; None where it has none."""
    if epoch is None:
        return record.result.get("accuracy", record.result.get("knn_accuracy"))
    return record.rows[epoch].get(f"{evidence.result['split']}_accuracy") if epoch < len(record.rows) else None


def expectation(evidence: Record, seeds: Sequence[Record], epoch: int | None = None) -> tuple[Interval, str] | None:
    """The interval for the accuracy of another run at LEVEL, and what it is; None where the run has no accuracy.

    From two seeds on it is Student's prediction interval for one more run, mean ± t s √(1 + 1/n), since on another machine
    the same seed's run is not the same run. Of one seed, or of seeds that do not differ at all, the spread is not known:
    then it is Wilson's interval, the sampling error of the evaluation images, around the evidence's own accuracy.
    """
    own = _accuracy(evidence, evidence, epoch)
    if own is None:
        return None
    values = [value for record in seeds if (value := _accuracy(record, evidence, epoch)) is not None]
    if len(set(values)) > 1:
        low, high = t_interval(values, LEVEL)  # of the mean; one more value's is √(n + 1) times as wide
        half = (high - low) / 2 * sqrt(len(values) + 1)
        interval, ground = ((low + high) / 2 - half, (low + high) / 2 + half), f"the seeds' spread ({LEVEL:.0%}, {len(values)} seeds)"
    else:
        images = evidence.result.get("images") or evidence.predictions().shape[1]
        interval = wilson_interval(own, images, LEVEL)
        ground = f"the sampling error of {images} images ({LEVEL:.0%}; the seeds' spread is not known)"
    return (max(interval[0], 0.0), min(interval[1], 1.0)), ground


# ---------------------------------------------------------------- making it again


def committed(name: str, profile: str) -> dict[int, Record]:
    """The committed records of a run that have a result, seed -> record."""
    found = [Record(path.parent) for path in (recordFunction.EVIDENCE / profile / name).glob("seed-*/result.json")]
    return {record.seed: record for record in sorted(found, key=lambda record: record.seed)}


def verify(name: str, profile: str | None = None, seed: int = 0, epochs: int | None = None) -> Difference:
    """Train a committed run again, its first `epochs` alone where that is given, and compare; says first how long it takes.

    It runs in a temporary folder: the records in RUNS_DIR are left alone, but for weights of a parent that are the evidence's.
    W&B is off. Raises UsageError for a run without a committed record, for one that is no longer in the table as it was, and
    for step times, which no two runs have in common.
    """
    exp = experiment(name, current_profile(profile), seed)
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs must be a whole number of at least 1, got {epochs!r}")
    if exp.kind == "timing":
        raise UsageError(f"{name} holds times, which differ from run to run and cannot be verified; `train {name} --fresh` takes them anew")
    records = committed(name, exp.profile)
    if (evidence := records.get(seed)) is None:
        raise UsageError(f"{name} (seed {seed}) has no committed record in {exp.profile}; train it and `python run.py publish {name}`")
    check_identity(evidence, data_identity(exp))
    if exp.kind != "training" or (epochs is not None and epochs >= len(evidence.rows) - 1):
        epochs = None  # the whole of it
    seeds = [record for record in records.values() if record.finished]
    was, now = evidence.settings["provenance"], provenance(resolve_precision(exp.precision))
    elsewhere = differing(was, now, exp.kind).keys() - {"threads"}
    parents, weights = _lineage(exp)
    for parent in parents:
        found = committed(parent.name, exp.profile).get(seed)
        print(f"{parent.name} (seed {seed}) is trained again first, its weights are not here; {_takes(parent, found)}")
    forecast = expectation(evidence, seeds, epochs) if elsewhere else None
    demand = f"its accuracy must lie within {forecast[1]}" if forecast else "it must be equal"
    print(f"{name} (seed {seed}) is trained again; {_takes(exp, evidence, epochs)}; {demand}", flush=True)
    # With the record's number of threads the bits are the record's, whatever OMP_NUM_THREADS says here.
    with _own_folder() as folder, nullcontext() if elsewhere else _threads(was["threads"]):
        if weights:
            shutil.copytree(weights.path, folder / exp.profile / weights.name / weights.path.name)
        others = [run(parent, evidence=False, wandb=False) for parent in parents]
        made = folder / exp.profile / name / f"seed-{seed}"
        run(exp, evidence=False, wandb=False, stop=lambda: epochs is not None and len(Record(made).rows) > epochs)
        notes = [f"its parent {other.name}, trained again too, has other weights than its record" for other in others if _strays(other)]
        return replace(compare(evidence, Record(made), seeds), notes=tuple(notes))


def _takes(exp: Experiment, record: Record | None, epochs: int | None = None) -> str:
    """How long a run takes: what its record took, else its price."""
    rows = record.rows[: None if epochs is None else epochs + 1] if record else []
    if seconds := sum(row.get("train_seconds", 0) for row in rows):
        return f"its training took {duration(seconds)} there"
    return about(price(exp), exp.profile)


def _lineage(exp: Experiment) -> tuple[list[Experiment], Record | None]:
    """The runs to be trained before `exp`, the first one first, and the record in RUNS_DIR that the first of them starts from."""
    parents: list[Experiment] = []
    while exp.start_from is not None:
        exp = experiment(exp.start_from, exp.profile, exp.seed)
        mine, known = Record(runs_dir() / exp.profile / exp.name / f"seed-{exp.seed}"), committed(exp.name, exp.profile).get(exp.seed)
        if known and mine.has_weights and mine.finished and mine.result["sha256"][WEIGHTS] == known.result["sha256"][WEIGHTS]:
            mine.weights()  # refused here, under its own path, where the file holds others
            return parents, mine
        parents.insert(0, exp)
    return parents, None


def _strays(parent: Record) -> bool:
    """Whether a parent's weights are others than those of its committed record."""
    known = committed(parent.name, parent.profile).get(parent.seed)
    return known is not None and known.result["sha256"].get(WEIGHTS) != parent.result["sha256"].get(WEIGHTS)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A temporary RUNS_DIR; no checkpoints are written there, since nothing will go on from them."""
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
    """So many threads for torch, and for the BLAS that the analyses use beside it."""
    before, limits = torch.get_num_threads(), nullcontext()
    try:
        import sklearn.manifold  # noqa: F401 - brings libraries of its own, which must be loaded to be limited
        from threadpoolctl import threadpool_limits

        limits = threadpool_limits(number)
    except ImportError:  # then no analysis that needs them runs either
        pass
    torch.set_num_threads(number)
    try:
        with limits:
            yield
    finally:
        torch.set_num_threads(before)
