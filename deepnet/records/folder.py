"""Writing a record: it is begun, resumed and finished here, and undone if a run is refused."""

import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepnet.records.code import why_not_one_commit
from deepnet.records.files import (
    append_line,
    atomic,
    digest,
    first_line,
    load_tensors,
    lock,
    rounded,
    sha256,
    utc_now,
    write_json,
    writing,
)
from deepnet.records.reading import CHECKPOINT, POINTS, PREDICTIONS, WEIGHTS, Record, check_identity
from experimentTable import Experiment, UsageError


class RunFolder:
    """Writes a record. One process at a time holds its lock, and written files survive a kill.

    Use it as a context manager, and check within the block whether another process has `ended` the run meanwhile.
    `start` returns the checkpoint to resume from, or None. If the block raises UsageError before there is a checkpoint,
    every file is restored; other errors, such as Ctrl-C, leave what was written.

    Example::

        with RunFolder(exp, runs_dir()) as folder:
            if folder.ended:
                return folder.record.load()
            checkpoint = folder.start(data_identity(exp), provenance("fp32"))
    """

    def __init__(self, exp: Experiment, root: Path) -> None:
        self.path = root / str(exp.profile) / exp.name / f"seed-{exp.seed}"
        self.exp = exp
        self._run = [exp.name, str(exp.profile), exp.seed]

    @property
    def ended(self) -> bool:
        """Whether the run has a result."""
        return (self.path / "result.json").exists()

    @property
    def record(self) -> Record:
        """The record as it is now."""
        return Record(self.path)

    def __enter__(self) -> "RunFolder":
        busy = f"{self.exp.name} (seed {self.exp.seed}) is being trained by another process; wait for it"
        self._undo = ExitStack()  # undoes what was done, in reverse order
        self._superseded = False  # whether a record that had ended was moved aside
        with ExitStack() as stack:
            stack.enter_context(lock(self.path.with_name(f".{self.path.name}.lock"), busy))
            with writing(self.path):
                if not self.path.is_dir():
                    self._make_folder()
            self._lock = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            # an error before the first checkpoint must not leave a finished record moved aside
            displaced = kind is not None and issubclass(kind, Exception) and self._superseded
            if displaced or (kind is not None and issubclass(kind, UsageError)):
                with suppress(OSError, UsageError):  # a full disk, which has been reported, may refuse this too
                    self._undo.close()

    def start(self, identity: dict, provenance: dict, fresh: bool = False, **more: Any) -> dict | None:
        """Begin or resume: write the settings of a new run, or return the checkpoint of an interrupted one.

        Rows after the checkpoint are removed. Each call adds its provenance to the settings' `parts`, but a run without
        a checkpoint begins again, with the provenance of this call.

        Args:
            identity: what the run computes; see `deepnet.data.sets.data_identity`.
            provenance: what it is made with; see `deepnet.records.provenance`.
            fresh: move an existing run aside and begin a new one.
            more: further keys of the settings.

        Raises:
            UsageError: for another identity, precision or RESULTS_VERSION, and if the run has a result already.
        """
        part = {"time": utc_now(), **provenance}
        if fresh:
            self._move_aside()
        if self.ended:
            check_identity(self.record, identity)
            raise UsageError(f"{self.path} holds a run that has ended; use another name, or move that folder away")
        if (self.path / "settings.json").exists():
            return self._resume(identity, part)
        begun = {"experiment": asdict(self.exp), "identity": identity, "provenance": provenance}
        write_json(self.path / "settings.json", {**begun, **more, "parts": [part]})
        _write(self.path / "rows.jsonl", b"")
        return None

    def _resume(self, identity: dict, part: dict) -> dict | None:
        settings = self.record.settings
        check_identity(self.record, identity)
        begun = settings["provenance"]
        for key in ("results_version", "precision"):
            if begun.get(key) != part.get(key):
                raise UsageError(
                    f"{self.path} was begun with {key} {begun.get(key)!r} and not {part.get(key)!r}; "
                    "move the folder away to start again"
                )
        checkpoint = load_tensors(self.path / CHECKPOINT) if (self.path / CHECKPOINT).exists() else None
        with self.restoring():
            if checkpoint and checkpoint["run"] != self._run:
                raise ValueError(f"it belongs to {' '.join(map(str, checkpoint['run']))}")
            count = checkpoint["epoch"] + 1 if checkpoint else 0  # rows count from epoch 0
        rows = self.path / "rows.jsonl"
        content = b"".join(rows.read_bytes().splitlines(keepends=True)[:count]) if rows.exists() else b""
        if checkpoint and checkpoint["rows"] != hashlib.sha256(content).hexdigest():
            raise UsageError(f"{rows} does not have the rows of its checkpoint; remove {self.path} to run it again")
        for path in (rows, self.path / "settings.json"):
            if path.exists():
                self._undo.callback(_write, path, path.read_bytes())
        _write(rows, content)
        if checkpoint:
            settings |= {"parts": [*settings.get("parts", [begun]), part]}
        else:  # it begins again, and nothing of the earlier calls is in it
            settings |= {"provenance": {key: value for key, value in part.items() if key != "time"}, "parts": [part]}
        write_json(self.path / "settings.json", settings)
        return checkpoint

    def append(self, row: dict) -> dict:
        """Write one row, rounded; returns it as written."""
        row = rounded(row)
        append_line(self.path / "rows.jsonl", row)
        return row

    def checkpoint(self, state: dict) -> None:
        """Replace the checkpoint by `state` (tensors and primitives), the run's name and the hash of its rows."""
        self._save(CHECKPOINT, state | {"run": self._run, "rows": sha256(self.path / "rows.jsonl")})
        self._keep()

    def save_weights(self, state: dict) -> None:
        """Write the final weights."""
        self._save(WEIGHTS, state)

    def _save(self, file: str, state: dict) -> None:
        with atomic(self.path / file) as part, part.open("wb") as stream:
            torch.save(state, stream)

    def save_array(self, file: str, **arrays: np.ndarray) -> None:
        """Write `predictions.npy` (one array) or an `.npz` of several."""
        with atomic(self.path / file) as part, part.open("wb") as stream:
            if file.endswith(".npy"):
                np.save(stream, next(iter(arrays.values())))
            else:
                np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    def finish(self, result: dict, weights: dict | None = None) -> Record:
        """Write the result with the hashes of the record's files and final `weights`, and remove the checkpoint.

        The result also holds when the run began and ended, and in `uncommitted` why it was not made by one commit, or
        None.
        """
        parts = self.record.settings["parts"]
        made = {"began": parts[0].get("time"), "ended": utc_now(), "uncommitted": why_not_one_commit(parts)}
        hashed = ("settings.json", "rows.jsonl", PREDICTIONS, POINTS)
        digests = {file: sha256(self.path / file) for file in hashed if (self.path / file).exists()}
        if weights:
            digests[WEIGHTS] = digest(weights)
        write_json(self.path / "result.json", {**rounded(result), **made, "sha256": digests})
        self._keep()
        (self.path / CHECKPOINT).unlink(missing_ok=True)
        return self.record.load()

    def _keep(self) -> None:
        """Undo nothing from here on, since the run can be resumed; remove temporary files of killed processes."""
        self._undo.pop_all()
        for part in self.path.glob(".*.part"):
            part.unlink(missing_ok=True)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Raise a UsageError of one line if the block cannot use the checkpoint's content."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"{self.path / CHECKPOINT} is not of this run ({first_line(error)}); remove it to start again"
            ) from None

    def _move_aside(self) -> None:
        if any(self.path.iterdir()):
            self._superseded = self.ended
            target = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            while target.exists():
                target = target.with_name(target.name + "+")
            with writing(self.path):
                self.path.rename(target)
                self._undo.callback(target.rename, self.path)
                self._make_folder()

    def _make_folder(self) -> None:
        self.path.mkdir()
        self._undo.callback(shutil.rmtree, self.path)


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as part:
        part.write_bytes(content)


def checkpoint_seconds() -> float:
    """Seconds of training between checkpoints: `CHECKPOINT_SECONDS` in the environment, else 30; `inf` means never.

    Raises UsageError for what is not a number of at least 0.
    """
    text = os.environ.get("CHECKPOINT_SECONDS") or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UsageError(f"CHECKPOINT_SECONDS={text} is not a number of at least 0; write seconds, such as 30")
    return seconds
