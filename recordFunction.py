"""What a run leaves behind: settings, rows, result, predictions, weights, checkpoint. Find, append, resume.

A run is a folder `<root>/<profile>/<name>/seed-<n>/`. There are two roots: `RUNS_DIR` (else `runs/` beside this
file), where runs are written, and `report/records`, the committed evidence: the same tree without weights.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experimentTable import Experiment, UsageError
from fileFunction import (
    append_line,
    atomic,
    digest,
    first_line,
    load_tensors,
    lock,
    read_json,
    read_lines,
    rounded,
    sha256,
    write_json,
    writing,
)

ROOT = Path(__file__).resolve().parent
EVIDENCE = ROOT / "report" / "records"
RESULTS_VERSION = 1  # raised by hand when the training loop's results change beyond rounding
ROUNDING_VERSION = 1  # raised by hand when they change by rounding alone, as where sums come in another order; older records have none
WEIGHTS, CHECKPOINT, PREDICTIONS = "weights.pt", "checkpoint.pt", "predictions.npy"


def runs_dir() -> Path:
    """The folder that runs are written to."""
    return Path(os.environ.get("RUNS_DIR") or ROOT / "runs")


class Record:
    """One run's folder, read when asked.

    A finished record's files are checked against the sha256 in its result when they are first read; UsageError where they differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.scratch: object = None  # keeps a temporary folder alive
        self.profile, self.name = self.path.parent.parent.name, self.path.parent.name
        self.seed = int(self.path.name.removeprefix("seed-"))

    def __repr__(self) -> str:
        if not self.result:
            return f"<Record {self.name} ({self.profile}, seed {self.seed}): unfinished, {len(self.rows)} rows>"
        if not self.finished:
            return f"<Record {self.name} ({self.profile}, seed {self.seed}): failed, {self.result['reason']}>"
        accuracy = self.result.get("accuracy")
        score = f", {self.result['split']} accuracy {accuracy:.4g}" if accuracy is not None else ""
        return f"<Record {self.name} ({self.profile}, seed {self.seed}): {len(self.rows)} rows{score}>"

    @cached_property
    def settings(self) -> dict:
        """`experiment`, `identity` and `provenance`, as they were when the run began. UsageError where they are another run's."""
        path = self.path / "settings.json"
        settings = read_json(path, experiment=dict, identity=dict, provenance=dict)
        if "settings.json" in self.result.get("sha256", {}):  # the first results did not vouch for it
            self._checked("settings.json")
        belongs = tuple(settings["experiment"].get(key) for key in ("name", "profile", "seed"))
        if belongs != (self.name, self.profile, self.seed):
            raise UsageError(f"{path} belongs to {' '.join(map(str, belongs))}; restore it or remove {self.path}")
        return settings

    @cached_property
    def result(self) -> dict:
        """How the run ended; empty while it has not."""
        path = self.path / "result.json"
        if not path.exists():
            return {}
        result = read_json(path, status=str, sha256=dict)
        return result if result["status"] == "finished" else read_json(path, reason=str)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; one stopped by a loss that is not finite has a result, but did not."""
        return self.result.get("status") == "finished"

    @cached_property
    def rows(self) -> list[dict]:
        """One dict of metrics an epoch; a torn last line of an unfinished run is left out."""
        return read_lines(self._checked("rows.jsonl"))

    def column(self, metric: str, trained_only: bool = False) -> np.ndarray:
        """One metric over the rows, NaN where a row lacks it; `trained_only` leaves row 0 (the untrained model) out."""
        rows = self.rows[1:] if trained_only else self.rows
        return np.array([math.nan if row.get(metric) is None else row[metric] for row in rows], dtype=float)

    def predictions(self) -> np.ndarray:
        """(2, N): the label of each evaluation image, and the class the final weights give it."""
        return np.load(self._checked(PREDICTIONS), allow_pickle=False)

    def points(self) -> dict[str, np.ndarray]:
        """An embedding's points: `xy` (N, 2), `label` (N,)."""
        with np.load(self._checked("points.npz"), allow_pickle=False) as file:
            return dict(file)

    def weights(self) -> dict:
        """The final weights (a state dict); UsageError where they were not kept."""
        if not self.has_weights:
            raise UsageError(f"{self.name} (seed {self.seed}) has no weights in {self.path}; train it with keep_weights=True")
        state = load_tensors(self.path / WEIGHTS)
        if digest(state) != self.result["sha256"][WEIGHTS]:
            raise UsageError(f"{self.path / WEIGHTS} holds other weights than its result.json names; remove {self.path} to train again")
        return state

    @property
    def has_weights(self) -> bool:
        """Whether the final weights are there."""
        return (self.path / WEIGHTS).exists()

    def _checked(self, file: str) -> Path:
        """The file's path; of a run with a result, only where the file is what the result vouches for."""
        path = self.path / file
        expected, there = self.result.get("sha256", {}).get(file), sha256(path) if path.exists() else None
        if self.result and there != expected:
            raise UsageError(f"{path} is not the file that its result.json names; restore it or remove {self.path}")
        return path


def roots(evidence: bool = True) -> list[Path]:
    """Where records are looked for, in this order; `EVIDENCE=0` in the environment leaves the committed ones aside."""
    return [runs_dir(), EVIDENCE] if evidence and os.environ.get("EVIDENCE") != "0" else [runs_dir()]


def find_record(name: str, profile: str, seed: int = 0, evidence: bool = True) -> Record | None:
    """The run's record: a finished one from either root, else the unfinished one, else None."""
    found = [Record(root / profile / name / f"seed-{seed}") for root in roots(evidence)]
    found = [record for record in found if (record.path / "settings.json").exists()]
    return next((record for record in found if record.finished), found[0] if found else None)


def find_records(name: str, profile: str, evidence: bool = True, failed: bool = False) -> list[Record]:
    """The finished records of all seeds, by seed; with `failed` those that ended without success too."""
    folders = [folder for root in roots(evidence) for folder in (root / profile / name).glob("seed-*")]
    seeds = sorted({int(f.name[5:]) for f in folders if f.name[5:].isdigit()})
    found = [find_record(name, profile, seed, evidence) for seed in seeds]
    return [record for record in found if record and (record.finished or (failed and record.result))]


def find_openings(profile: str, evidence: bool | None = None) -> list[dict]:
    """Every opening of chapter 5's test set in this profile, oldest first; `evidence=True` reads the committed ones despite `EVIDENCE=0`.

    Raises UsageError for a damaged log.
    """
    openings: dict[str, dict] = {}
    for root in [runs_dir(), EVIDENCE] if evidence else roots(evidence is None):
        log = root / profile / "openings.jsonl"
        try:
            openings |= {json.dumps(opening): opening for opening in read_lines(log)}
        except UsageError:
            raise UsageError(f"{log} has a damaged line; mend that line by hand and keep the others, they tell what was opened") from None
    return sorted(openings.values(), key=lambda opening: opening["time"])


def _plain(value: Any) -> Any:
    """`value` as JSON gives it back (tuples are lists there)."""
    return json.loads(json.dumps(value))


def same_identity(record: Record, expected: dict) -> bool:
    """Whether the record was made with this identity."""
    return record.settings["identity"] == _plain(expected)


def check_identity(record: Record, expected: dict) -> None:
    """Raise UsageError, showing the difference and the way on, when the record was made with another identity."""
    if not same_identity(record, expected):
        was, now = record.settings["identity"], _plain(expected)
        keys = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
        difference = ", ".join(f"{key} {was.get(key)!r} there, {now.get(key)!r} here" for key in keys)
        raise UsageError(f"{record.path} holds another run named {record.name}: {difference}; use another name, or move that folder away")


class RunFolder:
    """The writing side of a record: one process at a time holds it, and what it wrote survives being killed.

    Use as a context manager. `start` returns the checkpoint to go on from, or None.
    """

    def __init__(self, exp: Experiment, root: Path) -> None:
        self.path = root / str(exp.profile) / exp.name / f"seed-{exp.seed}"
        self.exp = exp

    @property
    def _run(self) -> list:
        return [self.exp.name, str(self.exp.profile), self.exp.seed]

    @property
    def ended(self) -> bool:
        """Whether a result is there already."""
        return (self.path / "result.json").exists()

    def __enter__(self) -> "RunFolder":
        busy = f"{self.exp.name} (seed {self.exp.seed}) is being trained by another process; wait for it"
        with ExitStack() as stack:
            stack.enter_context(lock(self.path.with_name(f".{self.path.name}.lock"), busy))
            with writing(self.path):
                self.path.mkdir(exist_ok=True)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def start(self, identity: dict, provenance: dict, fresh: bool = False) -> dict | None:
        """Begin, or go on: write the settings of a new run, or return an interrupted one's checkpoint, rows cut to it.

        `fresh` moves whatever is there aside. Raises UsageError for another identity, precision or RESULTS_VERSION.
        """
        if fresh:
            self._move_aside()
        for part in self.path.glob(".*.part"):  # of a process that was killed as it wrote
            part.unlink()
        if (self.path / "settings.json").exists():
            old = Record(self.path)
            check_identity(old, identity)
            was = old.settings["provenance"]
            for key in ("results_version", "precision"):
                if was[key] != provenance[key]:
                    raise UsageError(
                        f"{self.path} was begun with {key} {was[key]!r}, this is {provenance[key]!r}; move the folder away to start again"
                    )
            checkpoint = self._read_checkpoint()
        else:
            write_json(self.path / "settings.json", {"experiment": asdict(self.exp), "identity": identity, "provenance": provenance})
            checkpoint = None
        with self.restoring():
            if checkpoint and checkpoint["run"] != self._run:
                raise ValueError(f"it is that of {' '.join(map(str, checkpoint['run']))}")
            kept = checkpoint["epoch"] + 1 if checkpoint else 0  # rows count from epoch 0
        rows = self.path / "rows.jsonl"
        lines = rows.read_text().splitlines(keepends=True)[:kept] if rows.exists() else []
        if len(lines) < kept:
            raise UsageError(f"{rows} has fewer rows than its checkpoint; remove {self.path} to run it again")
        if checkpoint and checkpoint["rows"] != hashlib.sha256("".join(lines).encode()).hexdigest():
            raise UsageError(f"{rows} has other rows than those before its checkpoint; remove {self.path} to run it again")
        with atomic(rows) as part:
            part.write_text("".join(lines))
        return checkpoint

    def append(self, row: dict) -> dict:
        """Write one row, rounded; returns it as written."""
        row = rounded(row)
        append_line(self.path / "rows.jsonl", row)
        return row

    def checkpoint(self, state: dict) -> None:
        """Replace the checkpoint (tensors and primitives); with it, whose it is and which rows came before it."""
        marked = state | {"run": self._run, "rows": sha256(self.path / "rows.jsonl")}
        with atomic(self.path / CHECKPOINT) as part, part.open("wb") as stream:
            torch.save(marked, stream)

    def save_weights(self, state: dict) -> None:
        """Write the final weights."""
        with atomic(self.path / WEIGHTS) as part, part.open("wb") as stream:
            torch.save(state, stream)

    def save_array(self, file: str, **arrays: np.ndarray) -> None:
        """Write `predictions.npy` (one array) or an `.npz` of several."""
        with atomic(self.path / file) as part, part.open("wb") as stream:
            if file.endswith(".npy"):
                np.save(stream, next(iter(arrays.values())))
            else:
                np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    def finish(self, result: dict, weights: dict | None = None) -> Record:
        """Write the result with the digests of what it vouches for, the final `weights` among them; drop the checkpoint."""
        vouched = ("settings.json", "rows.jsonl", PREDICTIONS, "points.npz")
        digests = {file: sha256(self.path / file) for file in vouched if (self.path / file).exists()}
        if weights:
            digests[WEIGHTS] = digest(weights)
        write_json(self.path / "result.json", {**rounded(result), "sha256": digests})
        (self.path / CHECKPOINT).unlink(missing_ok=True)
        return Record(self.path)

    def _read_checkpoint(self) -> dict | None:
        path = self.path / CHECKPOINT
        return load_tensors(path) if path.exists() else None

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Say in one line that a checkpoint holds what this run cannot go on from. Raises UsageError."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"{self.path / CHECKPOINT} is no checkpoint of this run ({first_line(error)}); remove it to start again"
            ) from None

    def _move_aside(self) -> None:
        if any(self.path.iterdir()):
            target = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            while target.exists():
                target = target.with_name(target.name + "+")
            self.path.rename(target)
            self.path.mkdir()


def publish(record: Record) -> Path:
    """Copy a record, weights left out, its openings of the test set, and of a search's trial the search's database, to the evidence.

    Raises UsageError for an unfinished, a damaged or a dirty one.
    """
    if not record.result:
        raise UsageError(f"{record.name} (seed {record.seed}) is not finished; train it first")
    if record.settings["provenance"]["dirty"] or not record.settings["provenance"]["commit"]:
        raise UsageError(f"{record.name} (seed {record.seed}) was made from uncommitted code; commit, and train it with --fresh")
    for file in record.result["sha256"].keys() - {WEIGHTS}:
        record._checked(file)
    target = EVIDENCE / record.profile / record.name / record.path.name
    shutil.copytree(record.path, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pt", ".*"))
    if (database := record.path.parents[1] / f"{record.name.rpartition('_')[0]}.sqlite").exists():
        with atomic(EVIDENCE / record.profile / database.name) as part:
            shutil.copyfile(database, part)
    logged = EVIDENCE / record.profile / "openings.jsonl"
    for opening in find_openings(record.profile, evidence=False):
        if (opening["run"], opening["seed"]) == (record.name, record.seed) and opening not in read_lines(logged):
            append_line(logged, opening)
    return target
