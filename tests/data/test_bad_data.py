"""A copy of a set that is missing, damaged or another's is refused in one line that names it and the remedy."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from copies import no_reading
from helpers import refused
from PIL import Image

from deepnet.data import sets
from deepnet.data.sets import load_images
from deepnet.data.sources import SETS, read_table


def test_data_dir_without_the_set(data_dir, tmp_path, monkeypatch):
    """It is refused although the set is cached, and nothing is downloaded instead."""
    load_images("mnist", "train", "cpu")
    (tmp_path / "file").write_text("")
    (tmp_path / "hollow" / "mnist").mkdir(parents=True)
    monkeypatch.setattr(sets, "fetch", no_reading)
    for folder in ("missing", "file", "hollow"):
        monkeypatch.setenv("DATA_DIR", str(tmp_path / folder))
        refused(
            lambda: load_images("mnist", "train", "cpu"),
            f"DATA_DIR={tmp_path / folder} holds no mnist, neither mnist/train-*.parquet nor MNIST/raw",
            "set it to the folder that holds mnist/, cifar10/ and cifar100/, or unset it",
        )


@pytest.mark.parametrize("content", [
    lambda good: good[: len(good) // 2],
    lambda good: b"",
    lambda good: b"PAR1" + bytes(range(250)) * 2 + b"PAR1",
    lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
], ids=["truncated", "empty", "corrupt", "git-lfs pointer"])  # fmt: skip
def test_damaged_parquet(content, data_dir):
    shard = data_dir / "cifar10" / "train-00001-of-00002.parquet"
    shard.write_bytes(content(shard.read_bytes()))
    refused(lambda: load_images("cifar10", "train", "cpu"), f"{shard} cannot be read (", "fetch it again")


def test_corrupt_bytes(data_dir):
    """Wherever they are, the reader, the decoder or the fingerprint notices."""
    shard = data_dir / "cifar10" / "train-00001-of-00002.parquet"
    for i in range(4):
        good = shard.read_bytes()
        at = len(good) * (2 * i + 1) // 8
        shard.write_bytes(good[:at] + bytes(64) + good[at + 64 :])
        refused(lambda: load_images("cifar10", "train", "cpu"), str(data_dir / "cifar10"), "fetch it again")
        shard.write_bytes(good)


def test_shards_missing_or_too_many(data_dir):
    first = data_dir / "cifar10" / "train-00000-of-00002.parquet"
    extra = first.with_name("train-00000-of-00004.parquet")
    for change, found in [
        (lambda: extra.write_bytes(first.read_bytes()), "has 450 images, the published set 300; fetch it again"),
        (extra.unlink, ""),
        (first.unlink, "has 150 images, the published set 300; fetch it again"),
        (lambda: first.symlink_to(data_dir / "nowhere"), f"{data_dir / 'cifar10'} cannot be read ("),
    ]:
        change()
        if found:
            refused(lambda: load_images("cifar10", "train", "cpu"), str(data_dir / "cifar10"), found)
    for shard in (data_dir / "mnist").glob("test-*"):
        shard.unlink()
    refused(lambda: load_images("mnist", "test", "cpu"), f"{data_dir / 'mnist'}/test-*.parquet cannot be read (")


def change(shard: Path, column: str, value: object) -> None:
    """Write `value` into a row of a shard's column."""
    content = read_table(shard).to_pydict()
    content[column][7] = value
    pq.write_table(pa.table(content), shard)


@pytest.mark.parametrize("label", [9, 10, -1, None])
def test_wrong_label(label, data_dir):
    change(data_dir / "mnist" / "train-00000-of-00002.parquet", "label", label)
    refused(lambda: load_images("mnist", "train", "cpu"), str(data_dir / "mnist"), "fetch it again")


@pytest.mark.parametrize("other", [
    lambda good: good.rename_columns(["picture", "label"]),
    lambda good: good.select(["image"]),
    lambda good: good.set_column(0, "image", pa.array(["a"] * len(good))),
    lambda good: good.set_column(1, "label", pa.array(["a"] * len(good))),
], ids=["no image", "no label", "words as images", "words as labels"])  # fmt: skip
def test_wrong_columns(other: Callable, data_dir):
    shard = data_dir / "mnist" / "train-00000-of-00002.parquet"
    pq.write_table(other(read_table(shard)), shard)
    refused(lambda: load_images("mnist", "train", "cpu"), f"{shard} cannot be read (", "fetch it again")


def picture(mode: str, size: tuple[int, int] = (32, 32), kind: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    Image.new(mode, size).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("encoded", [
    picture("RGB", (33, 32)), picture("RGB", (1, 1)), picture("RGBA"), picture("P", transparency=0), picture("I;16"),
    picture("RGB", kind="BMP"), picture("RGB")[:60], b"", None,
], ids=["size", "one pixel", "RGBA", "palette", "16 bits", "BMP", "cut off", "empty", "none"])  # fmt: skip
@pytest.mark.parametrize(("name", "column"), [("cifar10", "img"), ("mnist", "image")])
def test_wrong_image(encoded, name, column, data_dir):
    change(data_dir / name / "train-00000-of-00002.parquet", column, {"bytes": encoded, "path": "x.png"})
    refused(lambda: load_images(name, "train", "cpu"), str(data_dir / name), "fetch it again")


@pytest.mark.parametrize("name,file", [
    ("mnist", "train-images-idx3-ubyte"), ("cifar10", "data_batch_1"), ("cifar100", "train"),
])  # fmt: skip
def test_damaged_torchvision_folder(name, file, tmp_path, monkeypatch):
    folder = tmp_path / SETS[name].folder
    folder.mkdir(parents=True)
    (folder / file).write_bytes(b"nothing")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    refused(lambda: load_images(name, "train", "cpu"), f"{folder} cannot be read (Dataset not found", "fetch")
