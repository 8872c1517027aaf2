"""Files that are written atomically, and refused in one line if they are damaged."""

import hashlib
import json
import math
import os
import pickle
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experimentTable import RunLockedError, UsageError


class WriteError(UsageError):
    """The disk or its file system cannot be written to."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message without terminal colours, or its type if it has no message."""
    return (re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__).splitlines()[0]


def utc_now() -> str:
    """The time, such as 2026-01-31T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(state: dict) -> str:
    """sha256 of the names and bytes in a state dict (a saved file's own sha256 depends on the file's name)."""
    total = hashlib.sha256()
    for name, tensor in state.items():
        if hasattr(tensor, "detach"):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor_bytes(tensor))
        else:  # the extra state of a module
            total.update(name.encode() + pickle.dumps(tensor))
    return total.hexdigest()


def tensor_bytes(tensor: Any) -> bytes:
    """The bytes of a tensor of any type, in the order of its axes."""
    import torch

    # NumPy lacks some of torch's types
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def load_tensors(path: Path) -> dict:
    """Read a file of tensors and primitives; nothing else is unpickled.

    Raises UsageError for a damaged or hostile file.
    """
    import torch  # late, since reading records needs no torch

    try:
        with zipfile.ZipFile(path) as archive:  # torch does not check the checksums that it writes
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} has another checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for such files
        raise UsageError(f"{path} cannot be read ({first_line(error)}); remove it to start this run again") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise WriteError, a UsageError of one line, if the disk is full or read-only."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save replaces an error in its stream, also Ctrl-C, by its own
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        if isinstance(error, NotImplementedError):  # filelock's
            raise WriteError(f"the file system of {path} has no locks; set RUNS_DIR to a folder on another") from None
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        raise WriteError(
            f"cannot write records to {path} ({reason}); make room, or set RUNS_DIR to a folder you can write to"
        ) from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; flush it and rename it to `path` if the block ends without an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            yield part
            with part.open("rb+") as file:  # Windows flushes only what is open for writing
                os.fsync(file.fileno())
            _replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _replace(part: Path, path: Path) -> None:
    """Rename `part` to `path`, trying for a second, since Windows refuses this while another process reads `path`."""
    for seconds in (0.01, 0.1, 0.3, 0.6):
        try:
            part.replace(path)
            return
        except PermissionError:
            time.sleep(seconds)
    part.replace(path)


@contextmanager
def lock(path: Path, busy: str, patience: float | None = None) -> Iterator[None]:
    """Hold the lock file at `path`, which one process at a time can; a process that ends releases its locks.

    Args:
        path: the lock file; its folder is made, and must not be renamed while the lock is held, which Windows refuses.
        busy: the message if another process holds the lock.
        patience: None raises RunLockedError, a UsageError, at once; with a number, the call waits for the lock, and
            prints the message after this many seconds.

    Raises:
        UsageError: if the lock is held and `patience` is None, and if it cannot be written.

    Example::

        with lock(folder / ".table.lock", "another process writes the table; wait for it"):
            write_json(folder / "table.json", table)
    """
    from filelock import FileLock, Timeout

    file_lock = FileLock(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file_lock.acquire(timeout=patience or 0)
        except Timeout:
            if patience is None:
                raise RunLockedError(busy) from None
            print(busy)
            file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def rounded(value: Any) -> Any:
    """Floats to four significant digits, NaN and infinity (which JSON lacks) to None, within lists and dicts too."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def write_json(path: Path, value: dict) -> None:
    """Replace the file by one JSON object. Raises UsageError if it cannot be written."""
    with atomic(path) as part:
        # bytes, so that lines end alike on every system
        part.write_bytes((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def parse_json(path: Path, content: bytes | None = None, **kinds: type) -> dict:
    """The JSON object in a file, which must have these keys with values of these types.

    `content`: the file's bytes, if they have been read already. Raises UsageError for a file that is damaged or cannot
    be read.
    """
    with _refusing_damage(path):
        return _object(path.read_bytes() if content is None else content, kinds)


def read_lines(path: Path, content: bytes | None = None) -> list[dict]:
    """The JSON objects in the lines of a file, none if it does not exist; an incomplete last line is left out.

    `content`: the file's bytes, if they have been read already. Raises UsageError for a damaged line.
    """
    with _refusing_damage(path):
        if content is None:
            content = path.read_bytes() if path.exists() else b""
        return [_object(line, {}) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UsageError(f"{path} is damaged ({reason}); remove the folder {path.parent} to run it again") from None


def _object(text: bytes, kinds: dict[str, type]) -> dict:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind):
            raise ValueError(f"{key!r} is {value[key]!r}" if key in value else f"no {key!r}")
    return value


def append_line(path: Path, *rows: dict) -> None:
    """Append rows as JSON lines in one write and flush them to the disk, after cutting off an incomplete last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("a+b") as file:
        file.seek(0)
        complete, newline, last = file.read().rpartition(b"\n")
        missing = b""
        try:  # a last line that only lacks its newline is complete
            missing = b"\n" if last and json.loads(last) else b""
        except ValueError:
            file.truncate(len(complete + newline))
        file.write(missing + "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())
