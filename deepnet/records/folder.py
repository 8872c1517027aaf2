"""The writing side of a record: begun, gone on with, ended, and taken back where it is refused."""

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
    write_json,
    writing,
)
from deepnet.records.reading import CHECKPOINT, POINTS, PREDICTIONS, WEIGHTS, Record, check_identity
from experimentTable import Experiment, UsageError


class RunFolder:
    """The writing side of a record: one process at a time holds it, and what it wrote survives being killed.

    Use as a context manager, and look under its lock whether another process has `ended` the run since. `start` returns
    the checkpoint to go on from, or None. Where the block ends with a UsageError before there is a checkpoint to go on
    from, every file is as it was before the block; what ends otherwise, by Ctrl-C for one, leaves what was written.

    Example::

        with RunFolder(exp, runs_dir()) as folder:
            if folder.ended:
                return folder.record.load()
            checkpoint = folder.start(data_identity(exp), provenance("fp32"))
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

    @property
    def record(self) -> Record:
        """What is there."""
        return Record(self.path)

    def __enter__(self) -> "RunFolder":
        busy = f"{self.exp.name} (seed {self.exp.seed}) is being trained by another process; wait for it"
        self._undo = ExitStack()  # how to take back what was done, the last first
        self._superseded = False  # whether a record that had ended was moved aside
        with ExitStack() as stack:
            stack.enter_context(lock(self.path.with_name(f".{self.path.name}.lock"), busy))
            with writing(self.path):
                if not self.path.is_dir():
                    self.path.mkdir()
                    self._undo.callback(shutil.rmtree, self.path)
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._held:
            # with nothing to go on from in its place
            lost = kind is not None and issubclass(kind, Exception) and self._superseded
            if lost or (kind is not None and issubclass(kind, UsageError)):
                with suppress(OSError, UsageError):  # a full disk may refuse that too, and has been named already
                    self._undo.close()

    def start(self, identity: dict, provenance: dict, fresh: bool = False, **more: Any) -> dict | None:
        """Begin, or go on: write the settings of a new run, or return an interrupted one's checkpoint, rows cut to it.

        `fresh` moves whatever is there aside. `more` are further keys of the settings. Each beginning and each going on
        adds its provenance to the settings' `parts`. Raises UsageError for another identity, precision or
        RESULTS_VERSION, and where the run has a result and `fresh` does not move it aside.
        """
        part = {"time": _now(), **provenance}
        if fresh:
            self._move_aside()
        if self.ended:
            check_identity(self.record, identity)
            raise UsageError(f"{self.path} holds a run that has ended; use another name, or move that folder away")
        if (self.path / "settings.json").exists():
            return self._go_on(identity, part)
        settings = {
            "experiment": asdict(self.exp),
            "identity": identity,
            "provenance": provenance,
            **more,
            "parts": [part],
        }
        write_json(self.path / "settings.json", settings)
        _write(self.path / "rows.jsonl", b"")
        return None

    def _go_on(self, identity: dict, part: dict) -> dict | None:
        old = self.record
        check_identity(old, identity)
        was = old.settings["provenance"]
        for key in ("results_version", "precision"):
            if was.get(key) != part.get(key):
                raise UsageError(
                    f"{self.path} was begun with {key} {was.get(key)!r}, this is {part.get(key)!r}; move the folder away to start again"
                )
        checkpoint = self._read_checkpoint()
        with self.restoring():
            if checkpoint and checkpoint["run"] != self._run:
                raise ValueError(f"it is that of {' '.join(map(str, checkpoint['run']))}")
            kept = checkpoint["epoch"] + 1 if checkpoint else 0  # rows count from epoch 0
        rows = self.path / "rows.jsonl"
        lines = rows.read_bytes().splitlines(keepends=True)[:kept] if rows.exists() else []
        if len(lines) < kept:
            raise UsageError(f"{rows} has fewer rows than its checkpoint; remove {self.path} to run it again")
        if checkpoint and checkpoint["rows"] != hashlib.sha256(b"".join(lines)).hexdigest():
            raise UsageError(
                f"{rows} has other rows than those before its checkpoint; remove {self.path} to run it again"
            )
        for path in (rows, self.path / "settings.json"):
            if path.exists():
                self._undo.callback(_write, path, path.read_bytes())
        _write(rows, b"".join(lines))
        write_json(self.path / "settings.json", old.settings | {"parts": [*old.settings.get("parts", [was]), part]})
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
        self._stays()

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
        """Write the result with the digests of what it vouches for, the final `weights` among them; drop the
        checkpoint.

        The result says when the run began and ended, and in `uncommitted` why it is not one commit's work, where it is
        not.
        """
        parts = self.record.settings["parts"]
        made = {"began": parts[0].get("time"), "ended": _now(), "uncommitted": why_not_one_commit(parts)}
        vouched = ("settings.json", "rows.jsonl", PREDICTIONS, POINTS)
        digests = {file: sha256(self.path / file) for file in vouched if (self.path / file).exists()}
        if weights:
            digests[WEIGHTS] = digest(weights)
        write_json(self.path / "result.json", {**rounded(result), **made, "sha256": digests})
        self._stays()
        (self.path / CHECKPOINT).unlink(missing_ok=True)
        return self.record.load()

    def _stays(self) -> None:
        """From here on there is something to go on from: nothing is taken back any more, and what a killed process left
        goes.
        """
        self._undo.pop_all()
        for part in self.path.glob(".*.part"):
            part.unlink(missing_ok=True)

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
            self._superseded = self.ended
            target = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            while target.exists():
                target = target.with_name(target.name + "+")
            with writing(self.path):
                self.path.rename(target)
                self._undo.callback(target.rename, self.path)
                self.path.mkdir()
                self._undo.callback(shutil.rmtree, self.path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as part:
        part.write_bytes(content)


def checkpoint_seconds() -> float:
    """Seconds of training between checkpoints: `CHECKPOINT_SECONDS` in the environment, else 30; infinity means never.

    Raises UsageError for what is no number, and for a negative one.
    """
    text = os.environ.get("CHECKPOINT_SECONDS") or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UsageError(f"CHECKPOINT_SECONDS={text} is no number of at least 0; write seconds, such as 30")
    return seconds
