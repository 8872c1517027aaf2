"""The embedded sample: its size and balance, that it needs nothing else, and how it is cut from the complete sets."""

import importlib.util
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from copies import COMPLETE, each_set, every_image, needs_complete, no_reading
from helpers import refused

from deepnet.data import sets, sources
from deepnet.data.sets import (
    CLASS_NAMES,
    COARSE_NAMES,
    COARSE_OF,
    NORMALISATION,
    SPLITS,
    known_fingerprint,
    load_images,
    load_test_set,
)
from deepnet.data.sources import SAMPLE, SETS
from experimentTable import CLASSES


@pytest.mark.parametrize(("name", "part", "count"), [
    ("mnist", "train", 4000), ("mnist", "test", 1000), ("cifar10", "train", 3000), ("cifar10", "test", 1000),
    ("cifar100", "train", 4000), ("cifar100", "validation", 1000),
])  # fmt: skip
def test_sizes_and_classes(name, part, count):
    data = load_images(name, part, "sample")
    assert len(data) == count == len(data.images) == len(data.labels)
    assert data.images.dtype == torch.uint8 and data.images.shape[1:] == SETS[name].shape
    assert data.labels.dtype == torch.int64 and data.fingerprint == known_fingerprint(name, "sample")
    assert (data.name, data.part, data.size) == (name, part, SETS[name].shape[-1])
    complete = {  # MNIST is not balanced
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    }
    shares = np.array(complete[part] if name == "mnist" else [1] * CLASSES[name])
    wanted = shares * count / shares.sum()
    assert np.abs(data.labels.bincount().numpy() - wanted).max() < (1 if name == "mnist" else 1e-6)


def test_parts_are_disjoint():
    for name, parts in SPLITS.items():
        images = [every_image(load_images(name, part, "sample")) for part in parts]
        images += [every_image(load_test_set("sample"))] * (name == "cifar100")
        assert len(set.union(*images)) == sum(map(len, images))


def test_test_set_of_cifar100():
    assert load_test_set("sample").labels.bincount().tolist() == [5] * 100
    assert load_test_set("sample", 64).size == 64


def test_sample_is_small():
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert max(path.stat().st_size for path in files) < 2e6


def test_layout_and_superclasses():
    columns = {
        "mnist": ["image", "label"],
        "cifar10": ["img", "label"],
        "cifar100": ["img", "fine_label", "coarse_label"],
    }
    for name, wanted in columns.items():
        assert sources.read_table(next((SAMPLE / name).glob("train-*"))).column_names == wanted
    for path in (SAMPLE / "cifar100").glob("*.parquet"):
        table = sources.read_table(path)
        assert [COARSE_OF[fine] for fine in table["fine_label"].to_pylist()] == table["coarse_label"].to_pylist()


def test_sample_profile_reads_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", "/no/such/folder")
    assert len(load_images("mnist", "train", "sample")) == 4000
    monkeypatch.setattr(sets, "SAMPLE", tmp_path)
    monkeypatch.setattr(sets, "fetch", no_reading)
    refused(lambda: load_images("mnist"), f"{tmp_path / 'mnist'} is missing", "git checkout data/sample")


def test_class_names():
    assert {name: len(names) for name, names in CLASS_NAMES.items()} == CLASSES
    assert all(list(names) == sorted(set(names)) for names in (*CLASS_NAMES.values(), COARSE_NAMES))
    assert len(COARSE_NAMES) == 20 and np.bincount(COARSE_OF).tolist() == [5] * 20
    data = load_images("cifar100", "validation")
    fish = {data.classes[int(i)] for i in data.labels[data.coarse_labels == COARSE_NAMES.index("fish")]}
    assert fish == {"aquarium_fish", "flatfish", "ray", "shark", "trout"}
    assert load_images("mnist").coarse_labels is None


# ---------------------------------------------------------------- the complete sets


@each_set
@needs_complete
def test_complete_sets(name, monkeypatch):
    """Fingerprints, sizes, balance, constants, that they open in a second, and that the sample is cut from them."""
    monkeypatch.setenv("DATA_DIR", COMPLETE)
    parts = {part: load_images(name, part, "cpu") for part in SPLITS[name]}
    counts = {"mnist": [60_000, 10_000], "cifar10": [50_000, 10_000], "cifar100": [45_000, 5_000]}
    assert [len(data) for data in parts.values()] == counts[name]
    if name != "mnist":
        each = {"cifar10": [5000, 1000], "cifar100": [450, 50]}[name]
        assert [data.labels.bincount().unique().tolist() for data in parts.values()] == [[n] for n in each]
    seconds = []
    for _ in range(3):
        sets._tensors.cache_clear()
        start = time.perf_counter()
        load_images(name, "train", "cpu")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1

    levels = torch.arange(256).double() / 255
    pixels = torch.cat([data.images for part, data in parts.items() if part != "test"])
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in pixels.unbind(1)])
    shares = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean, mean_square = shares @ levels, shares @ levels.square()
    for computed, literal in zip((mean, (mean_square - mean**2).sqrt()), NORMALISATION[name], strict=True):
        assert computed.tolist() == pytest.approx(literal, abs=6e-5)  # the literals have four digits
    of_train = set.union(*(every_image(data) for part, data in parts.items() if part != "test"))
    for part, data in parts.items():
        pool = every_image(data) if part == "test" else of_train
        assert every_image(load_images(name, part, "sample")) <= pool
    if name == "cifar100":  # the sample's test set is cut from the training set
        assert every_image(load_test_set("sample")) <= of_train


def make_sample() -> object:
    spec = importlib.util.spec_from_file_location("make_sample", SAMPLE.parent / "make_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_complete
def test_the_sample_is_rebuilt(tmp_path, monkeypatch):
    """MNIST's, the fastest. Tables are compared, since the files name the version of pyarrow that wrote them."""
    monkeypatch.setenv("DATA_DIR", COMPLETE)
    make_sample().make("mnist", tmp_path)
    names = [sorted(path.name for path in folder.iterdir()) for folder in (tmp_path, SAMPLE / "mnist")]
    assert names[0] == names[1]
    for path in tmp_path.iterdir():
        assert sources.read_table(path).equals(sources.read_table(SAMPLE / "mnist" / path.name))


def test_making_the_sample(data_dir, tmp_path, monkeypatch):
    """Its images are those of DATA_DIR, without which nothing is removed."""
    module = make_sample()
    monkeypatch.setattr(module, "COUNTS", {"mnist": {"train": ("train", 50), "test": ("train", 20)}})
    module.make("mnist", tmp_path / "made")
    made = [pq.read_table(tmp_path / "made" / f"{part}-00000-of-00001.parquet") for part in ("train", "test")]
    assert [len(table) for table in made] == [50, 20]
    shards = [pq.read_table(path) for path in (data_dir / "mnist").glob("train-*")]
    originals, copied = ({cell["bytes"] for table in tables for cell in table["image"].to_pylist()}
                         for tables in (shards, made))  # fmt: skip
    assert len(copied & originals) == 70
    monkeypatch.delenv("DATA_DIR")
    remedy = "set DATA_DIR to a folder that holds mnist as train-*.parquet"
    refused(lambda: module.make("mnist", tmp_path / "made"), remedy)
    assert len(list((tmp_path / "made").iterdir())) == 2
