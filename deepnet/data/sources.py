"""The sources of the three sets, and the decoding of their files.

A copy of a set is either a folder of Hugging Face's parquet shards or torchvision's own folder. Both are decoded into
rows: uint8 (N, 1 + C*H*W), one image per row, its label first and then its pixels, channel by channel. `sets.checked`
compares the rows with the published ones.
"""

import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np

from deepnet.progress import quiet_imports
from deepnet.records.files import first_line
from experimentTable import UsageError

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
PARTS = ("train", "test")  # the parts that the sets are published in
ANSWER_SECONDS = 3.0  # how long a server may take to answer at all
STALL_SECONDS = 30.0  # how long a download may stall
FORMATS = ("PNG", "WEBP")  # the lossless formats in use; Pillow would try forty others on a damaged image


@dataclass(frozen=True)
class Published:
    """The shape of a set's images, and where the set is published."""

    shape: tuple[int, int, int]  # channels, height, width
    hub: str  # repository on the Hugging Face hub
    torchvision: str  # torchvision's class
    folder: str  # the folder that this class keeps


SETS = {
    "mnist": Published((1, 28, 28), "ylecun/mnist", "MNIST", "MNIST/raw"),
    "cifar10": Published((3, 32, 32), "uoft-cs/cifar10", "CIFAR10", "cifar-10-batches-py"),
    "cifar100": Published((3, 32, 32), "uoft-cs/cifar100", "CIFAR100", "cifar-100-python"),
}


@dataclass(frozen=True)
class LocalCopy:
    """One copy of a set on this machine: its parquet files by part, or torchvision's folder if `shards` is None."""

    name: str
    folder: Path  # holds the shards, or torchvision's folder
    shards: dict[str, list[Path]] | None = None

    def stamp(self, part: str) -> str:
        """A hash that changes when a file that `part` is read from is replaced or rewritten."""
        with _refusing(str(self.folder)):
            files = self.shards[part] if self.shards else sorted((self.folder / SETS[self.name].folder).iterdir())
            seen = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:32]

    def read(self, part: str) -> np.ndarray:
        """The rows of `part`, in the order of the files. Raises UsageError for a copy that cannot be read."""
        if self.shards is None:
            return _read_torchvision(self, part)
        with _refusing(f"{self.folder / part}-*.parquet"):
            return np.concatenate([_read_shard(self.name, shard) for shard in self.shards[part]])


# ---------------------------------------------------------------- the places to look


def in_data_dir(name: str) -> LocalCopy | None:
    """The copy of `name` in DATA_DIR, or None if DATA_DIR is unset. Raises UsageError if it is set and holds none."""
    if not (value := os.environ.get("DATA_DIR")):
        return None
    root = Path(os.path.expanduser(value))
    # os.path.isdir returns False for a path that cannot be looked up; Path.is_dir raises
    if os.path.isdir(root) and (copy := in_folder(name, root / name, root)):
        return copy
    raise UsageError(
        f"DATA_DIR={value} holds no {name}, neither {name}/train-*.parquet nor {SETS[name].folder}; "
        "set it to the folder that holds mnist/, cifar10/ and cifar100/, or unset it"
    )


def in_folder(name: str, *folders: Path) -> LocalCopy | None:
    """The copy of `name` in `folders`: shards in the first, up to three folders deep, or torchvision's in any."""
    for depth in range(4):
        for shard in sorted(folders[0].glob("*/" * depth + "train-*.parquet")):
            shards = {part: sorted(shard.parent.glob(f"{part}-*.parquet")) for part in PARTS}
            return LocalCopy(name, shard.parent, shards)
    return next((LocalCopy(name, folder) for folder in folders if (folder / SETS[name].folder).is_dir()), None)


def fetch(name: str, cache: Path, read: Callable[[LocalCopy], np.ndarray]) -> np.ndarray:
    """Download `name` from the Hugging Face hub, or else by torchvision, and return the rows that `read` returns.

    A copy that `read` refuses, such as a damaged file in the hub's cache, is downloaded again before the next source is
    tried. Raises UsageError if no source has a readable copy; without a network, this takes only seconds.
    """
    reasons = []
    for attempt in (_from_hub, _from_torchvision):
        for again in (False, True):
            try:
                return read(attempt(name, cache, again))
            except Exception as error:  # whatever a library raises during a download, the next source is tried
                reasons.append(first_line(error))
                if isinstance(error, ConnectionError):
                    break
    raise UsageError(
        f"{name} is neither cached nor available ({'; '.join(dict.fromkeys(reasons))}); "
        f"put its train-*.parquet and test-*.parquet into a folder {name}/ and set DATA_DIR to the folder above it, "
        "or use the sample profile"
    )


def _from_hub(name: str, cache: Path, again: bool) -> LocalCopy:
    """The set from the hub's own cache; missing files are downloaded, and with `again` all files."""
    with quiet_imports():
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import ENDPOINT
    offline = not answers(ENDPOINT)
    try:
        folder = snapshot_download(
            SETS[name].hub, repo_type="dataset", local_files_only=offline, force_download=again and not offline,
            allow_patterns=[f"*{part}-*.parquet" for part in PARTS],
        )  # fmt: skip
    except Exception:
        if offline:
            raise ConnectionError(f"{ENDPOINT} does not answer") from None
        raise
    if copy := in_folder(name, Path(folder)):
        return copy
    raise FileNotFoundError(f"{ENDPOINT} has no shards of {SETS[name].hub}")


def _from_torchvision(name: str, cache: Path, again: bool) -> LocalCopy:
    """The set as torchvision downloads it into a folder of the cache; with `again`, even if it is there already."""
    from torchvision import datasets

    kind: Any = getattr(datasets, SETS[name].torchvision)
    server = kind.mirrors[0] if name == "mnist" else kind.url
    if not answers(server):
        raise ConnectionError(f"{server} does not answer")
    if again:  # torchvision checks only the files' names
        shutil.rmtree(cache / "torchvision" / SETS[name].folder, ignore_errors=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)  # torchvision sets none, and would wait for a stalled server forever
    try:
        kind(str(cache / "torchvision"), download=True)
    finally:
        socket.setdefaulttimeout(timeout)
    return LocalCopy(name, cache / "torchvision")


def answers(url: str) -> bool:
    """Whether the server of `url` answers within ANSWER_SECONDS."""
    answer = []

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
            answer.append(True)
        except HTTPError as error:
            answer.append(error.code < 500)
        except Exception:  # no network, a wrong address, not an HTTP server
            answer.append(False)

    thread = Thread(target=ask, daemon=True)  # a thread, since looking up a host name has no timeout
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answer == [True]


# ---------------------------------------------------------------- decoding


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn whatever a reading library raises into a UsageError of one line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} cannot be read ({first_line(error)[:200]}); fetch it again") from None


def read_table(shard: Path) -> Any:
    """The pyarrow table in a parquet file. Raises UsageError for a damaged one."""
    import pyarrow.parquet as pq

    with _refusing(str(shard)), pq.ParquetFile(shard) as file:
        return file.read()


def _read_shard(name: str, shard: Path) -> np.ndarray:
    with _refusing(str(shard)):
        return decode_table(name, read_table(shard))


def decode_table(name: str, table: Any) -> np.ndarray:
    """The rows of a parquet table in Hugging Face's layout for the set `name`.

    Other image and number formats are converted; the fingerprint shows later whether that changed the values.
    """
    image = "image" if "image" in table.column_names else "img"
    label = "fine_label" if "fine_label" in table.column_names else "label"
    rows = np.empty((len(table), 1 + np.prod(SETS[name].shape)), np.uint8)
    for row, cell, target in zip(rows, table[image].to_pylist(), table[label].to_pylist(), strict=True):
        row[0], row[1:] = target, decode(cell["bytes"], SETS[name].shape[0]).ravel()
    return rows


def decode(encoded: bytes, channels: int) -> np.ndarray:
    """One encoded image as uint8 pixels (C, H, W), in grey if `channels` is 1, else in RGB."""
    from PIL import Image

    pixels = np.asarray(Image.open(BytesIO(encoded), formats=FORMATS).convert("L" if channels == 1 else "RGB"))
    return np.atleast_3d(pixels).transpose(2, 0, 1)


def _read_torchvision(copy: LocalCopy, part: str) -> np.ndarray:
    """The rows of torchvision's own folder, parsed (and CIFAR's pickles checked) by torchvision."""
    from torchvision import datasets

    channels, height, width = SETS[copy.name].shape
    with _refusing(str(copy.folder / SETS[copy.name].folder)):
        found = getattr(datasets, SETS[copy.name].torchvision)(str(copy.folder), train=part == "train")
        pixels = np.asarray(found.data).reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        labels = np.asarray(found.targets, np.uint8).reshape(-1, 1)
        return np.concatenate([labels, pixels.reshape(len(pixels), -1)], axis=1)
