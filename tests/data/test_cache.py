"""The cache of decoded sets, which answers for the copy that it was made from and for no other."""

import pickle
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest
from copies import assert_published, each_set, no_reading, write_copy
from helpers import refused

from deepnet.data import sources
from deepnet.data.sets import cache_folder, load_images
from deepnet.data.sources import LocalCopy


@each_set
def test_second_opening_decodes_nothing(name, data_dir, published, monkeypatch):
    assert_published(name, published)
    monkeypatch.setattr(LocalCopy, "read", no_reading)
    assert_published(name, published)
    monkeypatch.delenv("DATA_DIR")  # the cache serves without the copy too
    assert_published(name, published)


def test_other_data_dir(data_dir, published, tmp_path, monkeypatch):
    load_images("mnist", "train", "cpu")
    rows = {part: found.copy() for part, found in published["mnist"].items()}
    rows["train"][0, 0] = (rows["train"][0, 0] + 1) % 10
    write_copy(tmp_path / "other" / "mnist", "mnist", rows)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "other"))
    refused(lambda: load_images("mnist", "train", "cpu"), "mnist's train part", "differ from the published set")
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    assert len(load_images("mnist", "train", "cpu")) == 300


def test_rewritten_shard(data_dir, published):
    load_images("mnist", "train", "cpu")
    shard = data_dir / "mnist" / "train-00000-of-00002.parquet"
    pq.write_table(sources.read_table(shard).slice(1), shard)
    refused(lambda: load_images("mnist", "train", "cpu"), "has 299 images, the published set 300", "fetch it again")


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"),
    lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'shape': (9" + bytes(100)),
    lambda path: path.write_bytes(pickle.dumps("no array")),
    lambda path: np.save(path, np.zeros((300, 785), np.uint8)),
], ids=["a bit", "header", "pickle", "other images"])  # fmt: skip
def test_damaged_cache(damage, data_dir, published):
    """It is written again."""
    load_images("mnist", "train", "cpu")
    path = cache_folder() / "mnist-complete-train.npy"
    good = path.read_bytes()
    damage(path)
    assert_published("mnist", published)
    assert path.read_bytes() == good
    assert not list(cache_folder().glob(".*"))


def test_read_only_cache(data_dir, published, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"file/cnn-and-deep-network cannot be written \(.+\); mnist is decoded again"):
        assert_published("mnist", published)


def test_full_disk(data_dir, published, monkeypatch):
    def full(file: BinaryIO, rows: np.ndarray) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        load_images("mnist", "train", "cpu")
    assert list(cache_folder().iterdir()) == []
