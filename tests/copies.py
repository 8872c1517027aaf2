"""Copies of the sets to read: a few hundred images of each, cut from the sample, as every source keeps them."""

import os
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import datasets

from deepnet.data import sets
from deepnet.data.sets import CLASS_NAMES, SPLITS, ImageSet, first_of_each_class, load_images, load_test_set
from deepnet.data.sources import SETS

COMPLETE = os.environ.get("DATA_DIR")
COUNTS = {"mnist": (300, 100), "cifar10": (300, 100), "cifar100": (400, 200)}  # train, test
each_set = pytest.mark.parametrize("name", SETS)
needs_complete = pytest.mark.skipif(not COMPLETE, reason="DATA_DIR is not set to the complete sets")


# ---------------------------------------------------------------- writing


def sample_rows(name: str, part: str, count: int) -> np.ndarray:
    """`count` rows of the sample in canonical order."""
    if part == "test" and name == "cifar100":
        found = [load_test_set("sample")]
    else:
        found = [load_images(name, p, "sample") for p in SPLITS[name] if (p == "test") == (part == "test")]
    rows = np.concatenate(
        [torch.cat([data.labels[:, None].to(torch.uint8), data.images.flatten(1)], 1).numpy() for data in found]
    )
    rows = rows[sets.canonical_order(rows)]
    return rows[first_of_each_class(rows[:, 0], count)]


def encode(pixels: np.ndarray, mode: str = "RGB", kind: str = "PNG", **options: object) -> bytes:
    """(C, H, W) pixels as an encoded image."""
    held = BytesIO()
    image = Image.fromarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0).copy())
    if mode not in ("RGB", "RGBA"):  # only by way of grey do palette and LA keep every level
        image = image.convert("L")
    image.convert(mode).save(held, kind, **options)
    return held.getvalue()


def table_of(name: str, rows: np.ndarray, mode: str = "RGB", kind: str = "PNG", **options: object) -> pa.Table:
    """Rows in the Hugging Face layout; the columns are the set's own."""
    shape = SETS[name].shape
    cells = [{"bytes": encode(row[1:].reshape(shape), mode, kind, **options), "path": f"{i}.png"}
             for i, row in enumerate(rows)]  # fmt: skip
    image, label = ("image" if name == "mnist" else "img"), ("fine_label" if name == "cifar100" else "label")
    return pa.table({image: cells, label: [int(row[0]) for row in rows]})


def write_copy(folder: Path, name: str, parts: dict[str, np.ndarray], shards: int = 2, **encoding: object) -> Path:
    """A copy of a set in `folder`, its rows shuffled."""
    folder.mkdir(parents=True)
    for part, rows in parts.items():
        rows = np.random.default_rng(1).permutation(rows)
        for i, some in enumerate(np.array_split(rows, shards)):
            pq.write_table(table_of(name, some, **encoding), folder / f"{part}-{i:05d}-of-{shards:05d}.parquet")
    return folder


def write_torchvision(root: Path, name: str, parts: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy as torchvision keeps it; what torchvision checks of CIFAR's files is set to this copy's."""
    folder = root / SETS[name].folder
    folder.mkdir(parents=True)
    for part, rows in parts.items():
        rows = np.random.default_rng(2).permutation(rows)
        if name == "mnist":
            stem = "train" if part == "train" else "t10k"
            head = np.array([2051, len(rows), 28, 28], ">i4").tobytes()
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + rows[:, 1:].tobytes())
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(
                np.array([2049, len(rows)], ">i4").tobytes() + rows[:, 0].tobytes()
            )
            continue
        key = "labels" if name == "cifar10" else "fine_labels"
        (folder / part).write_bytes(pickle.dumps({"data": rows[:, 1:], key: rows[:, 0].tolist()}))
        monkeypatch.setattr(getattr(datasets, SETS[name].torchvision), f"{part}_list", [(part, None)])
    if name != "mnist":
        names = {"label_names": list(CLASS_NAMES[name]), "fine_label_names": list(CLASS_NAMES[name])}
        (folder / "names").write_bytes(pickle.dumps(names))
        key = "label_names" if name == "cifar10" else "fine_label_names"
        kind = getattr(datasets, SETS[name].torchvision)
        monkeypatch.setattr(kind, "meta", {"filename": "names", "key": key, "md5": None})


# ---------------------------------------------------------------- reading


def every_image(data: ImageSet) -> set[bytes]:
    """The images' bytes."""
    return {image.numpy().tobytes() for image in data.images}


def opened(name: str) -> tuple[ImageSet, ImageSet]:
    """Train and test part from DATA_DIR, as a new process opens them."""
    sets._tensors.cache_clear()
    test = load_test_set("cpu") if name == "cifar100" else load_images(name, "test", "cpu")
    return load_images(name, "train", "cpu"), test


def assert_published(name: str, published: dict) -> None:
    """What is opened is the published set, in canonical order."""
    train, test = opened(name)
    found = {"train": train, "test": test}
    if name == "cifar100":  # its train part is split
        held = load_images(name, "validation", "cpu")
        rows = published[name]["train"]
        assert sorted(every_image(train) | every_image(held)) == sorted({row[1:].tobytes() for row in rows})
        del found["train"]
    for part, data in found.items():
        assert data.labels.tolist() == published[name][part][:, 0].tolist()
        assert (data.images.flatten(1).numpy() == published[name][part][:, 1:]).all()


def no_reading(*_: object) -> None:
    """In place of what reads a source: fails the test."""
    raise AssertionError("a cached set was decoded again")
