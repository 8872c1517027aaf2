"""A copy of a set that is missing, damaged or another's is refused in one line that names the file, the row and the
remedy.
"""

from functools import partial
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from copies import no_reading
from helpers import refused
from PIL import Image

from deepnet.data import sets, sources
from deepnet.data.sets import load_images
from deepnet.data.sources import SETS
from experimentTable import CLASSES


def test_data_dir_missing_a_file_or_empty(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "mnist").mkdir(parents=True)
    remedy = "set it to the folder that holds mnist/, cifar10/ and cifar100/, or unset it"
    monkeypatch.setattr(sets, "fetch", no_reading)
    for folder, words in [
        ("missing", "does not exist"),
        ("file", "is a file"),
        ("empty", "holds no mnist, neither mnist/train-*.parquet nor MNIST/raw"),
        ("hollow", "holds no mnist, neither mnist/train-*.parquet nor MNIST/raw"),
    ]:
        monkeypatch.setenv("DATA_DIR", str(tmp_path / folder))
        refused(lambda: load_images("mnist", "train", "cpu"), f"DATA_DIR={tmp_path / folder} ", words, remedy)


def test_data_dir_without_a_copy_is_an_error_though_the_set_is_cached(data_dir, tmp_path, monkeypatch):
    load_images("mnist", "train", "cpu")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "empty"))
    refused(lambda: load_images("mnist", "train", "cpu"), "holds no mnist")


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


def test_corrupt_bytes_within_a_parquet(data_dir):
    shard = data_dir / "cifar10" / "train-00001-of-00002.parquet"
    for i in range(4):  # wherever it lies, it is seen: by the reader, the decoder or the fingerprint
        good = shard.read_bytes()
        at = len(good) * (2 * i + 1) // 8
        shard.write_bytes(good[:at] + bytes(64) + good[at + 64 :])
        refused(lambda: load_images("cifar10", "train", "cpu"), str(data_dir / "cifar10"), "fetch")
        shard.write_bytes(good)


def test_missing_shards(data_dir):
    first = data_dir / "cifar10" / "train-00000-of-00002.parquet"
    extra = first.with_name("train-00000-of-00004.parquet")
    extra.write_bytes(first.read_bytes())
    refused(lambda: load_images("cifar10", "train", "cpu"), "must hold one complete set of train-*.parquet", extra.name)
    extra.unlink()
    first.unlink()
    refused(
        lambda: load_images("cifar10", "train", "cpu"), str(data_dir / "cifar10"), f"lacks {first.name}; put it back"
    )
    for shard in (data_dir / "mnist").glob("test-*"):
        shard.unlink()
    refused(
        lambda: load_images("mnist", "train", "cpu"), "must hold one complete set of test-*.parquet, and holds none"
    )


def test_shard_that_is_a_dangling_link(data_dir):
    shard = data_dir / "mnist" / "train-00000-of-00002.parquet"
    shard.unlink()
    shard.symlink_to(data_dir / "nowhere")
    refused(lambda: load_images("mnist", "train", "cpu"), "cannot be read (", "fetch it again")


def change(shard: Path, column: str, row: int, value: object) -> None:
    """Write `value` into a row of a shard's column."""
    content = sources.read_table(shard).to_pydict()
    content[column][row] = value
    pq.write_table(pa.table(content), shard)


@pytest.mark.parametrize(("name", "column", "label"), [
    ("mnist", "label", 10), ("cifar10", "label", -1), ("cifar100", "fine_label", 100), ("cifar10", "label", None),
])  # fmt: skip
def test_labels_out_of_range(name, column, label, data_dir):
    shard = data_dir / name / "train-00000-of-00002.parquet"
    change(shard, column, 7, label)
    wanted = f"{shard}, row 7: label {label} is not one of {name}'s 0 to {CLASSES[name] - 1}"
    refused(lambda: load_images(name, "train", "cpu"), wanted)


def test_wrong_columns(data_dir):
    shard = data_dir / "mnist" / "train-00000-of-00002.parquet"
    good = sources.read_table(shard)
    for table, words in [
        (good.rename_columns(["picture", "label"]), "has the columns picture, label; mnist needs 'image' or 'img'"),
        (good.select(["image"]), "has the columns image; mnist needs 'image' or 'img', and 'label' or 'fine_label'"),
        (
            good.set_column(0, "image", pa.array(["a"] * len(good))),
            "column 'image' is string; it needs to be {bytes, path}",
        ),
        (good.set_column(1, "label", pa.array(["a"] * len(good))), "column 'label' is string; it needs whole numbers"),
    ]:
        pq.write_table(table, shard)
        refused(lambda: load_images("mnist", "train", "cpu"), str(shard), words)


def picture(mode: str, size: tuple[int, int] = (32, 32), kind: str = "PNG", **options: object) -> bytes:
    held = BytesIO()
    Image.new(mode, size).save(held, kind, **options)
    return held.getvalue()


@pytest.mark.parametrize(("encoded", "words"), [
    (picture("RGB", (33, 32)), "the image has 33x32 pixels; all of this set's have 32x32"),
    (picture("RGBA"), "the image can be seen through"),
    (picture("LA"), "the image can be seen through"),
    (picture("P", transparency=0), "the image can be seen through"),
    (picture("RGB", transparency=(0, 0, 0)), "the image can be seen through"),
    (picture("I;16"), "the image has mode I;16; convert it"),
    (picture("RGB", kind="BMP"), "the image is damaged or not PNG or WEBP"),
    (picture("RGB")[:60], "the image is damaged or not PNG or WEBP"),
    (None, "the image is damaged or not PNG or WEBP"),
], ids=["size", "RGBA", "LA", "palette", "key colour", "16 bits", "BMP", "cut off", "none"])  # fmt: skip
def test_images_that_cannot_be_taken_are_refused_by_row(encoded, words, data_dir):
    shard = data_dir / "cifar10" / "train-00001-of-00002.parquet"
    change(shard, "img", 5, {"bytes": encoded, "path": "x.png"})
    refused(lambda: load_images("cifar10", "train", "cpu"), f"{shard}, row 5: {words}")


def test_colour_in_a_grey_set_is_refused_by_row(data_dir):
    shard = data_dir / "mnist" / "train-00000-of-00002.parquet"
    held = BytesIO()
    Image.new("RGB", (28, 28), (9, 9, 8)).save(held, "PNG")
    change(shard, "image", 0, {"bytes": held.getvalue(), "path": "x.png"})
    refused(
        lambda: load_images("mnist", "train", "cpu"), f"{shard}, row 0: the image is in colour; this set's are grey"
    )


def test_damaged_torchvision_folder(tmp_path, monkeypatch):
    for name, file in [("mnist", "train-images-idx3-ubyte"), ("cifar10", "data_batch_1"), ("cifar100", "train")]:
        folder = tmp_path / SETS[name].folder
        folder.mkdir(parents=True)
        (folder / file).write_bytes(b"nothing")
        monkeypatch.setenv("DATA_DIR", str(tmp_path))
        refused(partial(load_images, name, "train", "cpu"), f"{folder} cannot be read (Dataset not found", "fetch")
