"""Where the three sets come from, and how a copy of one becomes plain numbers.

A copy is either Hugging Face parquet shards or torchvision's own folder. Whatever its encoding and its order, it is
read into rows: uint8 (N, 1 + C*H*W), one image a row, first its label, then its pixels, channel by channel.
"""

import hashlib
import os
import re
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
from experimentTable import CLASSES, UsageError

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
PARTS = ("train", "test")  # the parts that the sets are published in
SECONDS = 3.0  # to wait for a server's first answer
FORMATS = ("PNG", "WEBP")  # the lossless ones in use; Pillow would try forty, slowly
STALL = 30.0  # seconds without a byte that end a download


@dataclass(frozen=True)
class Published:
    """What is fixed about a set, and where it is published."""

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
class Source:
    """One copy of one set on this machine. `shards`: its parquet files by part; None: torchvision's folder."""

    name: str
    folder: Path  # holds the shards, or torchvision's folder
    shards: dict[str, list[Path]] | None = None

    def stamp(self, part: str) -> str:
        """Changes when a file that `part` is read from is another, or was written again."""
        with _refusing(str(self.folder)):
            files = self.shards[part] if self.shards else sorted((self.folder / SETS[self.name].folder).iterdir())
            seen = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:32]

    def read(self, part: str) -> np.ndarray:
        """The rows of `part`, in the order of the files. Raises UsageError for a copy that cannot be read."""
        if self.shards is None:
            return _read_torchvision(self, part)
        return np.concatenate([_read_shard(self.name, shard) for shard in self.shards[part]])


# ---------------------------------------------------------------- the places to look


def in_data_dir(name: str) -> Source | None:
    """The copy of `name` in DATA_DIR; None if that is unset or "". Raises UsageError if it is set and holds none."""
    if not (value := os.environ.get("DATA_DIR")):
        return None
    root = Path(os.path.expanduser(value))
    remedy = "set it to the folder that holds mnist/, cifar10/ and cifar100/, or unset it"
    if not os.path.isdir(root):  # unlike Path's, it raises nothing
        raise UsageError(f"DATA_DIR={value} {'is a file' if os.path.exists(root) else 'does not exist'}; {remedy}")
    if source := in_folder(name, root / name, root):
        return source
    wanted = f"neither {name}/train-*.parquet nor {SETS[name].folder}"
    raise UsageError(f"DATA_DIR={value} holds no {name}, {wanted}; {remedy}")


def in_folder(name: str, *folders: Path) -> Source | None:
    """The copy of `name` in `folders`: shards in the first, up to three folders deep, or torchvision's in any."""
    for depth in range(4):
        for first in sorted(folders[0].glob("*/" * depth + "train-*.parquet")):
            return Source(name, first.parent, {part: _all_shards(first.parent, part) for part in PARTS})
    for folder in folders:
        if (folder / SETS[name].folder).is_dir():
            return Source(name, folder)
    return None


def _all_shards(folder: Path, part: str) -> list[Path]:
    """The shards of `part` in `folder`, none missing by the number that their names give (`-of-00004`)."""
    shards = sorted(folder.glob(f"{part}-*.parquet"))
    numbers = [re.match(r"\w+-(\d+)-of-(\d+)", shard.name) for shard in shards]
    counted = [(int(number[1]), int(number[2])) for number in numbers if number]
    totals = {total for _, total in counted} or {len(shards)}
    if len(totals) > 1 or not shards or len(counted) not in (0, len(shards)):
        raise UsageError(f"{folder} must hold one complete set of {part}-*.parquet, and holds "
                         f"{', '.join(s.name for s in shards) or 'none'}; fetch them again")  # fmt: skip
    total = totals.pop()
    if counted and (missing := sorted(set(range(total)) - {index for index, _ in counted})):
        names = ", ".join(f"{part}-{index:05d}-of-{total:05d}.parquet" for index in missing)
        raise UsageError(f"{folder} lacks {names}; put it back, or fetch the set again")
    return shards


def fetch(name: str, cache: Path, read: Callable[[Source], np.ndarray]) -> np.ndarray:
    """What `read` makes of a copy of `name` from the Hugging Face hub, or else of torchvision's download.

    A copy that `read` refuses, such as a damaged file in the hub's cache, is downloaded once more before the next place
    is tried. Raises UsageError where no place has a copy that can be read, offline within seconds.
    """
    reasons = []
    for attempt in (_from_hub, _from_torchvision):
        for again in (False, True):
            try:
                return read(attempt(name, cache, again))
            except Exception as error:  # whatever a library says about a download, the next place is tried
                reasons.append(str(error).strip().split("\n")[0] or type(error).__name__)
                if isinstance(error, ConnectionError):
                    break
    raise UsageError(
        f"{name} is neither cached nor to be had ({'; '.join(dict.fromkeys(reasons))}); put its train-*.parquet and test-*.parquet "
        f"into a folder {name}/ and set DATA_DIR to the folder above it, or use the sample profile"
    )


def _from_hub(name: str, cache: Path, again: bool) -> Source:
    """The set from the hub's own cache, or downloaded where it lacks a file, or where `again` says that one is
    damaged.
    """
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
    if source := in_folder(name, Path(folder)):
        return source
    raise FileNotFoundError(f"{ENDPOINT} has no shards of {SETS[name].hub}")


def _from_torchvision(name: str, cache: Path, again: bool) -> Source:
    """The set as torchvision downloads it, into a folder of the cache; `again` does so where it is there already."""
    from torchvision import datasets

    kind: Any = getattr(datasets, SETS[name].torchvision)
    server = kind.mirrors[0] if name == "mnist" else kind.url
    if not answers(server):
        raise ConnectionError(f"{server} does not answer")
    if again:  # it looks at the files' names alone
        shutil.rmtree(cache / "torchvision" / SETS[name].folder, ignore_errors=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL)  # torchvision sets none, and a stalled server would be waited for without end
    try:
        kind(str(cache / "torchvision"), download=True)
    finally:
        socket.setdefaulttimeout(patience)
    return Source(name, cache / "torchvision")


def answers(url: str) -> bool:
    """Whether the server of `url` answers within SECONDS."""
    answer = []

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=SECONDS).close()
            answer.append(True)
        except HTTPError as error:
            answer.append(error.code < 500)
        except Exception:  # no network, a wrong address, a server that speaks no HTTP: all the same here
            answer.append(False)

    thread = Thread(target=ask, daemon=True)  # a thread, since looking up a name obeys no time limit
    thread.start()
    thread.join(SECONDS)
    return answer == [True]


# ---------------------------------------------------------------- decoding


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn whatever a reading library raises into one line: it was handed a file that it cannot read."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UsageError(f"{what} cannot be read ({reason or type(error).__name__}); fetch it again") from None


def read_table(shard: Path) -> Any:
    """The pyarrow table in a parquet file. Raises UsageError for a damaged one."""
    import pyarrow.parquet as pq

    with _refusing(str(shard)), pq.ParquetFile(shard) as file:
        return file.read()


def _read_shard(name: str, shard: Path) -> np.ndarray:
    """One parquet file of `name` as rows. Raises UsageError, naming file and row, for what does not belong there."""
    import pyarrow as pa

    table = read_table(shard)
    image = next((c for c in ("image", "img") if c in table.column_names), None)
    label = next((c for c in ("fine_label", "label") if c in table.column_names), None)
    if image is None or label is None:
        raise UsageError(f"{shard} has the columns {', '.join(table.column_names)}; {name} needs 'image' or 'img', "
                         "and 'label' or 'fine_label'")  # fmt: skip
    kind = table.schema.field(image).type
    if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise UsageError(f"{shard}: column {image!r} is {kind}; it needs to be {{bytes, path}}, as Hugging Face has it")
    if not pa.types.is_integer(table.schema.field(label).type):
        raise UsageError(f"{shard}: column {label!r} is {table.schema.field(label).type}; it needs whole numbers")

    shape, classes = SETS[name].shape, CLASSES[name]
    rows = np.empty((len(table), 1 + np.prod(shape)), np.uint8)
    for i, (cell, target) in enumerate(zip(table[image].to_pylist(), table[label].to_pylist(), strict=True)):
        where = f"{shard}, row {i}"
        if target is None or not 0 <= target < classes:
            raise UsageError(f"{where}: label {target} is not one of {name}'s 0 to {classes - 1}; fetch the file again")
        rows[i, 0] = target
        rows[i, 1:] = decode(cell and cell["bytes"], shape, where).ravel()
    return rows


def decode(encoded: bytes | None, shape: tuple[int, int, int], where: str) -> np.ndarray:
    """One encoded image as uint8 pixels of `shape` (C, H, W).

    Grey, palette and opaque images with alpha are converted, which loses nothing. An image that would lose something
    is refused, with `where` it is: one that can be seen through, colour in a grey set, more than 8 bits, another size.
    """
    from PIL import Image

    try:
        image = Image.open(BytesIO(encoded or b""), formats=FORMATS)
        image.load()
    except Exception:  # a damaged image can make Pillow raise nearly anything
        raise UsageError(f"{where}: the image is damaged or not {' or '.join(FORMATS)}; fetch the file again") from None
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise UsageError(f"{where}: the image has mode {image.mode}; convert it to 8-bit grey or RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        pixels = np.asarray(image)
    else:
        pixels = np.asarray(image.convert("RGBA"))
        if pixels[..., 3].min() < 255:
            raise UsageError(f"{where}: the image can be seen through; put it on a background first")
    channels, height, width = shape
    if pixels.shape[:2] != (height, width):
        found = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise UsageError(f"{where}: the image has {found} pixels; all of this set's have {width}x{height}")
    if channels == 1 and (pixels[..., :3] != pixels[..., :1]).any():
        raise UsageError(f"{where}: the image is in colour; this set's are grey")
    return pixels[..., :channels].transpose(2, 0, 1)


def _read_torchvision(source: Source, part: str) -> np.ndarray:
    """torchvision's own folder as rows, parsed (and CIFAR's pickles checked) by torchvision."""
    from torchvision import datasets

    channels, height, width = SETS[source.name].shape
    with _refusing(str(source.folder / SETS[source.name].folder)):
        found = getattr(datasets, SETS[source.name].torchvision)(str(source.folder), train=part == "train")
        pixels = np.asarray(found.data).reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        labels = np.asarray(found.targets, np.uint8).reshape(-1, 1)
        return np.concatenate([labels, pixels.reshape(len(pixels), -1)], axis=1)
