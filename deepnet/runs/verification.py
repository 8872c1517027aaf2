"""Committed records made again: a run is trained anew in a folder of its own, and its record compared with the
evidence.

It is trained in the record's own precision. On the same processor, versions, device and threads the two must be equal
to the bit. Elsewhere rounding differs and training amplifies it, so the accuracy is judged there: first beside the same
seed's rows, then by what another run's accuracy is expected to be.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest
from math import sqrt
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
from deepnet.text import duration
from deepnet.training.precision import resolve_precision
from deepnet.valid import whole
from experimentTable import Experiment, UsageError, current_profile, estimated_seconds, experiment

# What must be the same for bits to be equal; the version of scikit-learn too, of a record that has it
CONDITIONS = ("processor", "device", "threads", "precision", "torch", "numpy", "results_version", "rounding_version")
LEVEL = 0.95
FEW = 5  # seeds: of fewer than these the spread is pooled with that of other runs of the model and data set
OWN = ("settings.json", "rows.jsonl")  # these have commit and times in them; rows are compared one by one
# times and code; digests are compared one by one
NOT_COMPARED = {"train_seconds", "began", "ended", "uncommitted", "sha256"}


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
        return f"{self.metric} in {len(apart)} of {len(pairs)} places" + (
            f", by at most {most:.4g}" if most is not None else ""
        )


@dataclass(frozen=True)
class Difference:
    """What a second run differs in from the evidence, and whether the two agree."""

    name: str
    profile: str
    seed: int
    kind: str
    epochs: int | None  # how many were compared, their rows alone; None: the whole run
    # "bit-equal"; "equal" where there are no weights to compare; what the accuracy is within; "not agreed"
    verdict: str
    agreed: bool
    conditions: dict[str, tuple[Any, Any]]  # those that are not the same, there and here; none: equality was demanded
    commits: tuple[str, str]  # there and here
    changes: tuple[Change, ...]  # from where the two part
    accuracy: tuple[float | None, float | None] | None  # there and here, where equality was not demanded
    expected: Interval | None  # the accuracy must lie in it
    ground: str = ""  # what the interval is: the comparison that decided
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
            lines += [
                "not the same: "
                + ", ".join(f"{key} {there} there, {here} here" for key, (there, here) in self.conditions.items())
            ]
        if self.accuracy and self.expected:
            low, high = self.expected
            lines += [
                "accuracy {} there, {} here".format(*self.accuracy)
                + f"; expected from {low:.4g} to {high:.4g}, {self.ground}"
            ]
        lines += ["commit {} there, {} here".format(*self.commits), *self.notes]
        for row, changes in groupby(self.changes, lambda change: change.row):
            where = "result" if row is None else f"epoch {row}" if self.kind == "training" else f"row {row}"
            lines.append(f"{where}: " + "; ".join(map(str, changes)))
        return "\n  ".join(lines)


def compare(
    evidence: Record, again: Record, seeds: Sequence[Record] = (), others: Sequence[Sequence[Record]] = ()
) -> Difference:
    """The difference of two records of one run, and the verdict on it.

    Of a second run that was left off before its end the rows alone are compared. Where something other than the code
    differs (see CONDITIONS), equality is not demanded. Then the accuracy of every row is compared with the same seed's,
    within the sampling error of the evaluation images; where one lies beyond it, the last one with the `expectation`
    from `seeds`, the evidence's records of that run, and from `others`, those of other runs. `ground` says which
    comparison decided.
    """
    whole = bool(again.result)
    epoch = None if whole else len(again.rows) - 1
    there, here, kind = (
        evidence.settings["provenance"],
        again.settings["provenance"],
        evidence.settings["identity"]["kind"],
    )
    conditions = differing(there, here, kind)
    changes = _row_changes(evidence.rows if whole else evidence.rows[: len(again.rows)], again.rows)
    changes += _result_changes(evidence.result, again.result) if whole else []
    verdict, accuracy, expected, ground = "not agreed", None, None, ""
    if not changes:
        verdict = "bit-equal" if whole and WEIGHTS in evidence.result["sha256"] else "equal"
    elif conditions and (there_last := _accuracy(evidence, evidence, epoch)) is not None:
        accuracy = there_last, _accuracy(again, evidence, epoch)
        last = len(again.rows) if kind == "training" else 0
        pairs = [(_accuracy(evidence, evidence, row), _accuracy(again, evidence, row)) for row in range(last)]
        images = _images(evidence)
        if all(_within(now, sampling_error(then, images)) for then, now in [*pairs, accuracy] if then is not None):
            expected, ground = (
                sampling_error(there_last, images),
                f"the sampling error of {images} images, in each row of the same seed",
            )
        else:
            expected, ground = expectation(there_last, images, [_accuracy(record, evidence, epoch) for record in seeds], [
                [_accuracy(record, record, epoch) for record in run] for run in others
            ])  # fmt: skip
        ended_alike = not whole or again.result["status"] == evidence.result["status"]
        if ended_alike and _within(accuracy[1], expected):
            verdict = f"within {ground}"
    return Difference(
        evidence.name, evidence.profile, evidence.seed, kind, epoch, verdict, verdict != "not agreed", conditions,
        (_commit(there), _commit(here)), tuple(changes), accuracy, expected, ground,
    )  # fmt: skip


def differing(there: dict, here: dict, kind: str) -> dict[str, tuple[Any, Any]]:
    """The CONDITIONS in which two provenances differ; what one does not name counts as different.

    What is computed on the processor in fp32 is so whatever the first records say of its device and precision.
    """
    keys = [key for key in CONDITIONS if not (kind in ON_PROCESSOR and key in ("device", "precision"))]
    keys += [package for package in PACKAGES.get(kind, ()) if package in there]
    return {key: (there.get(key), here.get(key)) for key in keys if there.get(key) != here.get(key)}


def _commit(made: dict) -> str:
    return (
        f"{(made['commit'] or 'unknown')[:7]}{' with uncommitted changes' if made['commit'] and made['dirty'] else ''}"
    )


def _row_changes(there: list[dict], here: list[dict]) -> list[Change]:
    nothing: dict = {}
    pairs = enumerate(zip_longest(there, here, fillvalue=nothing))
    return [change for number, (a, b) in pairs for change in _changes(number, a, b)]


def _result_changes(there: dict, here: dict) -> list[Change]:
    a, b = ({file: value for file, value in result["sha256"].items() if file not in OWN} for result in (there, here))
    return _changes(None, there, here) + _changes(None, a, b)


def _changes(row: int | None, there: dict, here: dict) -> list[Change]:
    metrics = [
        metric for metric in there | here if metric not in NOT_COMPARED and there.get(metric) != here.get(metric)
    ]
    return [Change(row, metric, there.get(metric), here.get(metric)) for metric in metrics]


def _accuracy(record: Record, evidence: Record, epoch: int | None) -> float | None:
    """The record's final accuracy (an embedding's is its neighbours'), or that of a row; None where it has none."""
    if epoch is None:
        return record.result.get("accuracy", record.result.get("knn_accuracy"))
    return record.rows[epoch].get(f"{evidence.result['split']}_accuracy") if epoch < len(record.rows) else None


def _images(record: Record) -> int:
    return record.result.get("images") or record.predictions().shape[1]


def _within(accuracy: float | None, interval: Interval) -> bool:
    return accuracy is not None and interval[0] <= accuracy <= interval[1]


def sampling_error(accuracy: float, images: int) -> Interval:
    """Wilson's interval at LEVEL: what an accuracy on other images of the same kind would be."""
    low, high = wilson_interval(accuracy, images, LEVEL)
    return max(low, 0.0), min(high, 1.0)


def expectation(
    own: float, images: int, seeds: Sequence[float | None], others: Sequence[Sequence[float | None]] = ()
) -> tuple[Interval, str]:  # fmt: skip
    """The interval for the accuracy of another run at LEVEL, and what it is.

    It is Student's prediction interval for one more run, mean ± t s √(1 + 1/n), since on another machine the same
    seed's run is not the same run. s is the seeds' standard deviation; of fewer than FEW it is pooled with that of
    `others`, each about its own mean. Where no spread is known it is the sampling error of the `images` around the
    evidence's `own` accuracy.
    """
    from scipy import stats

    values, *pool = (
        [value for value in run if value is not None] for run in [seeds, *(others if len(seeds) < FEW else [])]
    )
    runs = [run for run in [values, *pool] if len(run) > 1]
    squares = sum(len(run) * pvariance(run) for run in runs)
    freedom = sum(len(run) - 1 for run in runs)
    if not (values and squares):
        return sampling_error(
            own, images
        ), f"the sampling error of {images} images ({LEVEL:.0%}; the seeds' spread is not known)"
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * sqrt(squares / freedom * (1 + 1 / len(values)))
    pooled = f", pooled with {len(runs) - (len(values) > 1)} other runs" if len(runs) > (len(values) > 1) else ""
    number = f"{len(values)} seed{'s' * (len(values) > 1)}"
    return (
        max(mean(values) - half, 0.0),
        min(mean(values) + half, 1.0),
    ), f"the seeds' spread ({LEVEL:.0%}, {number}{pooled})"


# ---------------------------------------------------------------- making it again


def committed(name: str, profile: str) -> dict[int, Record]:
    """The committed records of a run that have a result, seed -> record."""
    found = [Record(path.parent) for path in (reading.EVIDENCE / profile / name).glob("seed-*/result.json")]
    return {record.seed: record for record in sorted(found, key=lambda record: record.seed)}


def verify(name: str, profile: str | None, seed: int, epochs: int | None, run: Callable[..., Record]) -> Difference:
    """See `coreFunction.verify`; `run` makes a record."""
    exp = experiment(name, current_profile(profile), seed)
    epochs = None if epochs is None else whole("epochs", epochs, least=1)
    if exp.kind == "timing":
        raise UsageError(
            f"{name} holds times, which differ from run to run and cannot be verified; `train {name} --fresh` takes them anew"
        )
    records = committed(name, exp.profile)
    if (evidence := records.get(seed)) is None:
        raise UsageError(
            f"{name} (seed {seed}) has no committed record in {exp.profile}; train it and `python run.py publish {name}`"
        )
    check_identity(evidence, data_identity(exp))
    trained = len(evidence.rows) - 1
    if exp.kind == "training" and epochs is not None and epochs > trained:
        raise UsageError(
            f"epochs={epochs} are more than the record of {name} (seed {seed}) has; give at most {trained}, or leave them out"
        )
    if exp.kind != "training" or epochs == trained:
        epochs = None  # the whole of it
    seeds = [record for record in records.values() if record.finished]
    was = evidence.settings["provenance"]
    exp = _in_precision_of(evidence, exp)
    now = provenance(resolve_precision(exp.precision), packages=PACKAGES.get(exp.kind, ()))
    elsewhere = differing(was, now, exp.kind).keys() - {"threads"}
    parents, weights = _lineage(exp)
    for parent in parents:
        found = committed(parent.name, exp.profile).get(seed)
        print(f"{parent.name} (seed {seed}) is trained again first, its weights are not here; {_takes(parent, found)}")
    print(f"{name} (seed {seed}) is trained again; {_takes(exp, evidence, epochs)}", flush=True)
    # With the record's number of threads the bits are the record's, whatever OMP_NUM_THREADS says here.
    with _own_folder() as folder, nullcontext() if elsewhere else _threads(was["threads"]):
        if weights:
            shutil.copytree(weights.path, folder / exp.profile / weights.name / weights.path.name)
        again = [run(parent, evidence=False, wandb=False) for parent in parents]
        made = folder / exp.profile / name / f"seed-{seed}"
        run(exp, evidence=False, wandb=False, stop=lambda: epochs is not None and len(Record(made).rows) > epochs)
        notes = [
            f"its parent {other.name}, trained again too, has other weights than its record"
            for other in again
            if _strays(other)
        ]
        others = _of_the_same_model(evidence) if elsewhere else []
        return replace(compare(evidence, Record(made), seeds, others), notes=tuple(notes))


def _in_precision_of(record: Record, exp: Experiment) -> Experiment:
    return exp if exp.kind in ON_PROCESSOR else replace(exp, precision=record.settings["provenance"]["precision"])


def _of_the_same_model(evidence: Record) -> list[list[Record]]:
    """The finished records of the evidence's other runs of that kind, model and data set, one list per run."""

    def computed(record: Record) -> list:
        return [record.settings["identity"][key] for key in ("kind", "model", "dataset")]

    folders = sorted(
        folder for folder in evidence.path.parents[1].iterdir() if folder.is_dir() and folder.name != evidence.name
    )
    runs = [
        [record for record in committed(folder.name, evidence.profile).values() if record.finished]
        for folder in folders
    ]
    return [run for run in runs if run and computed(run[0]) == computed(evidence)]


def _takes(exp: Experiment, record: Record | None, epochs: int | None = None) -> str:
    """How long a run takes: what its record took, else its price."""
    rows = record.rows[: None if epochs is None else epochs + 1] if record else []
    if seconds := sum(row.get("train_seconds", 0) for row in rows):
        return f"its training took {duration(seconds)} there"
    return format_estimate(estimated_seconds(exp), exp.profile)


def _lineage(exp: Experiment) -> tuple[list[Experiment], Record | None]:
    """The runs to be trained before `exp`, the first one first, and the record in RUNS_DIR that the first of them
    starts from.
    """
    parents: list[Experiment] = []
    while exp.start_from is not None:
        exp = experiment(exp.start_from, exp.profile, exp.seed)
        mine, known = (
            Record(runs_dir() / exp.profile / exp.name / f"seed-{exp.seed}"),
            committed(exp.name, exp.profile).get(exp.seed),
        )
        if (
            known
            and mine.has_weights
            and mine.finished
            and mine.result["sha256"][WEIGHTS] == known.result["sha256"][WEIGHTS]
        ):
            mine.weights()  # refused here, under its own path, where the file holds others
            return parents, mine
        parents.insert(0, _in_precision_of(known, exp) if known else exp)
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
