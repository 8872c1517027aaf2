"""Finding, reading and comparing records of runs (settings, rows, result, predictions, weights).

A record is a folder `<root>/<profile>/<name>/seed-<n>/`. There are two roots: `RUNS_DIR` (default `runs/` in the
clone), where runs are written, and `report/records`, the committed evidence, which is the same tree without weights.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from deepnet.records.files import digest, first_line, load_tensors, parse_json, read_lines
from experimentTable import Experiment, UsageError, choose

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "report" / "records"
RESULTS_VERSION = 1  # increased by hand when the training loop's results change beyond rounding
# increased by hand when only rounding changes, such as the order of a sum; older records have none
ROUNDING_VERSION = 1
WEIGHTS, CHECKPOINT, PREDICTIONS, POINTS = "weights.pt", "checkpoint.pt", "predictions.npy", "points.npz"


def runs_dir() -> Path:
    """The folder that runs are written to: `RUNS_DIR` with `~` expanded, else `runs/` in the clone.

    Raises UsageError if `~user` names a user that does not exist.
    """
    try:
        return Path(os.environ.get("RUNS_DIR") or ROOT / "runs").expanduser()
    except RuntimeError:
        raise UsageError(f"RUNS_DIR={os.environ['RUNS_DIR']} names an unknown user; write the path out") from None


SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def switched_on(variable: str) -> bool:
    """Whether a switch in the environment is on, which is the default. Raises UsageError for any other value.

    Example::

        switched_on("FAST")  # False with FAST=0, FAST=no, FAST=False or FAST=off
    """
    text = os.environ.get(variable) or "1"
    if (on := SWITCHES.get(text.strip().lower())) is None:
        raise UsageError(f"{variable}={text} is neither on nor off; set it to 1 or 0, or unset it")
    return on


class Record:
    """One run's folder.

    A record from `find_record` reads each file at its first use. A record that a run returns has been read already (see
    `load`), and does not change when its folder does. The files of a run that has ended are checked against the sha256
    in its result when they are read; UsageError is raised if they differ.

    Example::

        find_record("MLP_4", "cpu").column("test_accuracy")
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        self.scratch: object = None  # keeps a temporary folder alive
        self.profile, self.name = self.path.parent.parent.name, self.path.parent.name
        if not re.fullmatch(r"seed-\d+", self.path.name):
            raise UsageError(f"{self.path} is not the folder of a run, <profile>/<name>/seed-<n>; name one that is")
        self.seed = int(self.path.name.removeprefix("seed-"))
        self._arrays: dict[str, Any] = {}

    def __repr__(self) -> str:
        state = f"{len(self.rows)} rows"
        if not self.result:
            state = f"unfinished, {state}"
        elif not self.finished:
            state = f"failed, {self.result['reason']}"
        else:
            accuracy, version = self.result.get("accuracy"), self.settings["provenance"].get("results_version", 1)
            state += f", {self.result['split']} accuracy {accuracy:.4g}" if accuracy is not None else ""
            state += f", results of version {version} (now {RESULTS_VERSION})" if version != RESULTS_VERSION else ""
        return f"<Record {self.name} ({self.profile}, seed {self.seed}): {state}>"

    def load(self) -> "Record":
        """Read everything but the weights into memory, and return the record. Raises UsageError as reading does."""
        _ = self.settings, self.rows
        for file in self.result.get("sha256", {}).keys() & {PREDICTIONS, POINTS}:
            self._array(file)
        return self

    @cached_property
    def settings(self) -> dict:
        """`experiment`, `identity` and `provenance`, from the beginning of the run.

        Raises UsageError if they belong to another run.
        """
        path = self.path / "settings.json"
        # the first results did not hash their settings
        content = self.read("settings.json") if "settings.json" in self.result.get("sha256", {}) else None
        settings = parse_json(path, content, experiment=dict, identity=dict, provenance=dict)
        owner = tuple(settings["experiment"].get(key) for key in ("name", "profile", "seed"))
        if owner != (self.name, self.profile, self.seed):
            raise UsageError(f"{path} belongs to {' '.join(map(str, owner))}; restore it or remove {self.path}")
        return settings

    @cached_property
    def result(self) -> dict:
        """How the run ended; empty if it has not."""
        path = self.path / "result.json"
        if not path.exists():
            return {}
        result = parse_json(path, status=str, sha256=dict)
        return result if result["status"] == "finished" else parse_json(path, reason=str)

    @property
    def finished(self) -> bool:
        """Whether the run ended successfully; a failed run, for example after a non-finite loss, has a result too."""
        return self.result.get("status") == "finished"

    @cached_property
    def rows(self) -> list[dict]:
        """One dict of metrics per epoch; an incomplete last line of an unfinished run is left out."""
        return read_lines(self.path / "rows.jsonl", self.read("rows.jsonl"))

    def column(self, metric: str, trained_only: bool = False) -> np.ndarray:
        """One metric over the rows, NaN in rows without it; `trained_only` leaves out row 0, the untrained model.

        Raises UsageError for a metric that no row has, naming those that exist, and for one that is not a number.
        """
        if not isinstance(metric, str):
            raise UsageError(f"metric must be one name, such as 'train_loss', got {metric!r:.60}")
        values = [row.get(metric) for row in self.rows]
        example = next((value for value in values if value is not None), None)
        if isinstance(example, list | str):
            raise UsageError(f"{metric} is not one number per row ({example!r:.40}); take it from record.rows")
        if example is None:
            others = dict.fromkeys(name for row in self.rows for name in row)
            lists = {name for row in self.rows for name, value in row.items() if isinstance(value, list | str)}
            choose("metric", metric, [name for name in others if name not in lists])
        return np.array(values[1:] if trained_only else values, dtype=float)  # None becomes NaN

    def to_frame(self) -> Any:
        """The rows as a pandas DataFrame, one row per epoch. Raises UsageError if pandas cannot be imported.

        Example::

            run("MLP_4").to_frame().plot(x="epoch", y="test_accuracy")
        """
        try:
            from pandas import DataFrame
        except Exception as error:  # a pandas that does not match its numpy raises other errors than ImportError
            raise UsageError(f"to_frame needs pandas ({first_line(error)}); pip install pandas") from None
        return DataFrame(self.rows)

    def predictions(self) -> np.ndarray:
        """(2, N): the target of each evaluation image, and the prediction of the final weights."""
        return self._array(PREDICTIONS).copy()

    def points(self) -> dict[str, np.ndarray]:
        """The points of an embedding: `xy` (N, 2) and `label` (N,)."""
        return {name: array.copy() for name, array in self._array(POINTS).items()}

    def weights(self) -> dict:
        """The final weights (a state dict), from the record's folder, also after this was moved aside.

        Raises UsageError if they were not kept, and if the file holds others.
        """
        files = self._weights_files()
        if not self.result or not files:
            raise UsageError(
                f"{self.name} (seed {self.seed}) has no weights in {self.path}; train it with keep_weights=True"
            )
        for file in files:
            if digest(state := load_tensors(file)) == self.result["sha256"].get(WEIGHTS):
                return state
        raise UsageError(
            f"{files[0]} holds other weights than its result.json names; remove {self.path} to train again"
        )

    @property
    def has_weights(self) -> bool:
        """Whether the final weights exist."""
        return bool(self._weights_files())

    def _weights_files(self) -> list[Path]:
        """Files that may hold this record's weights: in its folder or in folders moved aside, by their results."""
        wanted = self.result.get("sha256", {}).get(WEIGHTS)
        folders = [self.path, *sorted(self.path.parent.glob(f"{self.path.name}.*"))]
        return [folder / WEIGHTS for folder in folders if (folder / WEIGHTS).exists() and _digest_in(folder) == wanted]

    def _array(self, file: str) -> Any:
        if file not in self._arrays:
            if not (content := self.read(file)):
                raise UsageError(f"{self.name} (seed {self.seed}) has no {file}")
            found = np.load(BytesIO(content), allow_pickle=False)
            self._arrays[file] = dict(found) if file == POINTS else found
        return self._arrays[file]

    def read(self, file: str) -> bytes:
        """The bytes of a file, empty if it does not exist.

        Raises UsageError if the run has ended and the file's sha256 is not the one in its result.
        """
        path = self.path / file
        content = path.read_bytes() if path.is_file() else None
        found = None if content is None else hashlib.sha256(content).hexdigest()
        if self.result and found != self.result["sha256"].get(file):
            raise UsageError(f"{path} is not the file that its result.json names; restore it or remove {self.path}")
        return content or b""


def _digest_in(folder: Path) -> str | None:
    """The digest of the weights in a folder's result; None without a readable result."""
    try:
        return parse_json(folder / "result.json", sha256=dict)["sha256"].get(WEIGHTS)
    except UsageError:
        return None


def roots(evidence: bool = True) -> list[Path]:
    """The folders that are searched for records, in order; `EVIDENCE=0` in the environment excludes the evidence."""
    return [runs_dir(), EVIDENCE] if evidence and switched_on("EVIDENCE") else [runs_dir()]


def find_record(name: str, profile: str, seed: int = 0, evidence: bool = True) -> Record | None:
    """The run's record: a finished one from either root, else an unfinished one, else None."""
    return _choose([root / profile / name / f"seed-{seed}" for root in roots(evidence)])


def _choose(folders: Iterable[Path]) -> Record | None:
    """The record in the folders of one run that `find_record` finds."""
    found = [Record(folder) for folder in folders if (folder / "settings.json").exists()]
    return next((record for record in found if record.finished), found[0] if found else None)


def find_records(name: str, profile: str, evidence: bool = True, failed: bool = False) -> list[Record]:
    """The finished records of all seeds, in the order of the seeds; with `failed`, also those of failed runs."""
    folders: dict[int, list[Path]] = {}
    for root in roots(evidence):
        for folder in (root / profile / name).glob("seed-*"):
            if re.fullmatch(r"seed-(0|[1-9]\d*)", folder.name):
                folders.setdefault(int(folder.name[5:]), []).append(folder)
    found = [_choose(folders[seed]) for seed in sorted(folders)]
    return [record for record in found if record and (record.finished or (failed and record.result))]


def find_openings(profile: str, evidence: bool | None = None) -> list[dict]:
    """Every opening of chapter 5's test set in this profile, oldest first.

    `evidence`: whether to include the committed ones; None follows `EVIDENCE`. Raises UsageError for a damaged log.
    """
    openings: dict[str, dict] = {}
    for root in [runs_dir(), EVIDENCE] if evidence else roots(evidence is None):
        log = root / profile / "openings.jsonl"
        try:
            openings |= {json.dumps(opening): opening for opening in read_lines(log)}
        except UsageError:
            raise UsageError(
                f"{log} has a damaged line; repair it by hand and keep the others, which say what was opened"
            ) from None
    return sorted(openings.values(), key=lambda opening: opening["time"])


def _complete(identity: dict) -> dict:
    """An identity after a round trip through JSON (tuples become lists), with defaults for fields that it lacks."""
    defaults = {field.name: field.default for field in fields(Experiment) if field.default is not MISSING}
    return json.loads(json.dumps(defaults | identity))


def same_identity(record: Record, expected: dict) -> bool:
    """Whether the record was made with this identity."""
    return _complete(record.settings["identity"]) == _complete(expected)


def check_identity(record: Record, expected: dict) -> None:
    """Raise UsageError, showing the difference and what to do, unless the record was made with this identity."""
    old, new = _complete(record.settings["identity"]), _complete(expected)
    if keys := sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        difference = ", ".join(f"{key} {old.get(key)!r} there, {new.get(key)!r} here" for key in keys)
        raise UsageError(
            f"{record.path} holds another run named {record.name}: {difference}; "
            "use another name, or move that folder away"
        )
