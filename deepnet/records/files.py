"""Files that survive: written whole or not at all, read with care, and refused in one line when they are not what they
should be.
"""

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
    """The disk or its file system refuses to be written to, whoever asks."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line and without a terminal's colours; its kind where it says nothing."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error) or type(error).__name__).splitlines()[0]


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(state: dict) -> str:
    """sha256 of a state dict's names and bytes, whatever file holds it (a saved file's bytes depend on its own
    name).
    """
    total = hashlib.sha256()
    for name, tensor in state.items():
        if not hasattr(tensor, "detach"):  # no tensor but a module's extra state
            total.update(name.encode() + pickle.dumps(tensor))
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor_bytes(tensor))
    return total.hexdigest()


def tensor_bytes(tensor: Any) -> bytes:
    """The bytes of a tensor's numbers, of whatever type they are, in the order of its axes."""
    import torch

    # NumPy lacks some of torch's types
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def load_tensors(path: Path) -> dict:
    """Read a file of tensors and primitives; nothing else is unpickled. UsageError for a damaged or hostile file."""
    import torch  # late: what else is read needs none

    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums that it writes
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} has another checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for such files
        raise UsageError(f"{path} cannot be read ({first_line(error)}); remove it to start this run again") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line what a full or read-only disk refuses; Ctrl-C stays Ctrl-C. Raises WriteError, a UsageError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save covers what ended its writing with its own error
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        if isinstance(error, NotImplementedError):  # filelock's
            raise WriteError(
                f"the file system of {path} knows no locks; set RUNS_DIR to a folder on another one"
            ) from None
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        raise WriteError(
            f"cannot write records to {path} ({reason}); make room, or set RUNS_DIR to a folder you can write to"
        ) from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a path to write to beside `path`; flush it to the disk and rename it once the block has ended well."""
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
    """Rename `part` to `path`. Windows refuses that while another process reads `path`, so it is tried for a second."""
    for seconds in (0.01, 0.1, 0.3, 0.6):
        try:
            part.replace(path)
            return
        except PermissionError:
            time.sleep(seconds)
    part.replace(path)


@contextmanager
def lock(path: Path, busy: str, patience: float | None = None) -> Iterator[None]:
    """Hold the lock file at `path`, as one process at a time can; its folder is made. The lock ends with its process.

    path: it must not lie in a folder that is renamed meanwhile, which Windows refuses. busy: what is said of it where
        another
    process holds it. patience: None raises RunLockedError, a UsageError, with that message at once; a number waits as
    long as it takes, and prints the message after so many seconds. Raises UsageError where no lock can be written.

    Example::

        with lock(folder / ".table.lock", "another process writes the table; wait for it"):
            write_json(folder / "table.json", table)
    """
    from filelock import FileLock, Timeout

    held = FileLock(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=patience or 0)
        except Timeout:
            if patience is None:
                raise RunLockedError(busy) from None
            print(busy)
            held.acquire()
    try:
        yield
    finally:
        held.release()


def rounded(value: Any) -> Any:
    """Floats to four significant digits, NaN and infinity to None (JSON knows neither), lists and dicts through."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def write_json(path: Path, value: dict) -> None:
    """Replace the file by one JSON object. Raises UsageError where it cannot be written."""
    with atomic(path) as part:
        # the same bytes on every system
        part.write_bytes((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def parse_json(path: Path, content: bytes | None = None, **kinds: type) -> dict:
    """The file's JSON object, which has these keys with values of these kinds; `content`: its bytes, where they are
    read already.

    Raises UsageError for a file that cannot be read, or is damaged.
    """
    try:
        return _object(path.read_bytes() if content is None else content, kinds)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def read_lines(path: Path, content: bytes | None = None) -> list[dict]:
    """The JSON lines of a file, if it is there; a torn last one is left out. `content`: its bytes, where they are read
    already.

    Raises UsageError for a damaged one.
    """
    try:
        if content is None:
            content = path.read_bytes() if path.exists() else b""
        return [_object(line, {}) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _object(text: bytes, kinds: dict[str, type]) -> dict:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind):
            raise ValueError(f"{key!r} is {value[key]!r}" if key in value else f"no {key!r}")
    return value


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} is damaged ({first_line(error)}); remove the folder {path.parent} to run it again")


def append_line(path: Path, *rows: dict) -> None:
    """Add a JSON line a row, all in one write, and flush them to the disk; what a kill left of a last line is cut off
    before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("a+b") as file:
        file.seek(0)
        whole, newline, torn = file.read().rpartition(b"\n")
        missing = b""
        try:  # a line that lacks its newline alone is whole
            missing = b"\n" if torn and json.loads(torn) else b""
        except ValueError:
            file.truncate(len(whole + newline))
        file.write(missing + "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())
