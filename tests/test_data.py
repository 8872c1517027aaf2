"""The sets: the same images from every source, bad copies refused in one line, the embedded sample, the batches."""

import importlib.util
import os
import pickle
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import refused
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

import dataFunction
import sourceFunction
from dataFunction import (
    CLASS_NAMES,
    COARSE_NAMES,
    COARSE_OF,
    FINGERPRINTS,
    NORMALISATION,
    SPLITS,
    ImageSet,
    cache_folder,
    channel_statistics,
    first_of_each_class,
    known_fingerprint,
    load_images,
    open_vault,
)
from experimentTable import CLASSES
from sourceFunction import SAMPLE, SETS, Source, decode

COMPLETE = os.environ.get("DATA_DIR")
needs_complete = pytest.mark.skipif(not COMPLETE, reason="DATA_DIR is not set to the complete sets")
ALL_PARTS = [(name, part) for name, parts in SPLITS.items() for part in parts]
COUNTS = {"mnist": (300, 100), "cifar10": (300, 100), "cifar100": (400, 200)}  # of a copy cut from the sample


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sets DATA_DIR itself."""
    monkeypatch.delenv("DATA_DIR", raising=False)


def every_image(data: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.images}


# ---------------------------------------------------------------- copies to read


def sample_rows(name: str, part: str, count: int) -> np.ndarray:
    """`count` rows of the sample in canonical order."""
    if part == "test" and name == "cifar100":
        found = [open_vault("sample")]
    else:
        found = [load_images(name, p, "sample") for p in SPLITS[name] if (p == "test") == (part == "test")]
    rows = np.concatenate([torch.cat([data.labels[:, None].to(torch.uint8), data.images.flatten(1)], 1).numpy() for data in found])
    rows = rows[dataFunction.canonical_order(rows)]
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


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def few() -> dict[str, dict[str, np.ndarray]]:
    """A few hundred rows of each part of each set, in canonical order."""
    return {
        name: {part: sample_rows(name, part, n) for part, n in zip(("train", "test"), counts, strict=True)}
        for name, counts in COUNTS.items()
    }


@pytest.fixture(scope="session")
def written(few: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good copy of all three sets; not to be changed."""
    folder = tmp_path_factory.mktemp("written")
    for name, parts in few.items():
        write_copy(folder / name, name, parts)
    return folder


@pytest.fixture
def published(few: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict]:
    """The sets as if no more than these few images had ever been published, and an empty cache."""
    for name, parts in few.items():
        known = {part: (len(rows), dataFunction.fingerprint(rows)) for part, rows in parts.items()}
        monkeypatch.setitem(FINGERPRINTS, (name, "complete"), known)
    monkeypatch.setitem(dataFunction.VALIDATION, "complete", 100)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield few
    dataFunction._tensors.cache_clear()


@pytest.fixture
def data_dir(published: dict, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DATA_DIR with a good copy of all three sets, to be damaged."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return shutil.copytree(written, tmp_path / "data")


def opened(name: str) -> tuple[ImageSet, ImageSet]:
    """Train and test part from DATA_DIR, as a new process opens them."""
    dataFunction._tensors.cache_clear()
    test = open_vault("cpu") if name == "cifar100" else load_images(name, "test", "cpu")
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


# ---------------------------------------------------------------- the sample


@pytest.mark.parametrize(("name", "part", "count"), [
    ("mnist", "train", 4000), ("mnist", "test", 1000), ("cifar10", "train", 3000), ("cifar10", "test", 1000),
    ("cifar100", "train", 4000), ("cifar100", "validation", 1000),
])  # fmt: skip
def test_sample_has_its_size_and_every_class_in_proportion(name, part, count):
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


def test_sample_parts_are_disjoint():
    for name, parts in SPLITS.items():
        sets = [load_images(name, part, "sample") for part in parts] + ([open_vault("sample")] * (name == "cifar100"))
        images = [every_image(data) for data in sets]
        assert len(set.union(*images)) == sum(map(len, images))


def test_samples_vault_holds_five_images_a_class():
    assert open_vault("sample").labels.bincount().tolist() == [5] * 100
    assert open_vault("sample", 64).size == 64


def test_sample_is_small_in_git():
    files = [path for path in SAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert max(path.stat().st_size for path in files) < 2e6


def test_sample_is_in_the_hugging_face_layout_with_its_own_superclasses():
    columns = {
        "mnist": ["image", "label"],
        "cifar10": ["img", "label"],
        "cifar100": ["img", "fine_label", "coarse_label"],
    }
    for name, wanted in columns.items():
        assert sourceFunction.read_table(next((SAMPLE / name).glob("train-*"))).column_names == wanted
    for path in (SAMPLE / "cifar100").glob("*.parquet"):
        table = sourceFunction.read_table(path)
        assert [COARSE_OF[fine] for fine in table["fine_label"].to_pylist()] == table["coarse_label"].to_pylist()


def test_sample_profile_reads_nothing_else(monkeypatch):
    monkeypatch.setenv("DATA_DIR", "/no/such/folder")
    assert len(load_images("mnist", "train", "sample")) == 4000
    refused(lambda: load_images("mnist", "train", "cpu"), "DATA_DIR=/no/such/folder")


def test_sample_that_is_gone_is_not_looked_for_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(dataFunction, "SAMPLE", tmp_path)
    monkeypatch.setattr(dataFunction, "fetch", no_reading)
    refused(lambda: load_images("mnist"), f"{tmp_path / 'mnist'} is gone", "git checkout data/sample")


def test_class_names_are_in_the_originals_order():
    assert {name: len(names) for name, names in CLASS_NAMES.items()} == CLASSES
    assert all(list(names) == sorted(set(names)) for names in (*CLASS_NAMES.values(), COARSE_NAMES))
    assert len(COARSE_NAMES) == 20 and np.bincount(COARSE_OF).tolist() == [5] * 20
    data = load_images("cifar100", "validation")
    assert data.coarse_labels is not None and data.coarse_classes == COARSE_NAMES
    fish = {data.classes[int(i)] for i in data.labels[data.coarse_labels == COARSE_NAMES.index("fish")]}
    assert fish == {"aquarium_fish", "flatfish", "ray", "shark", "trout"}
    assert load_images("mnist").coarse_labels is None


# ---------------------------------------------------------------- what is opened


def test_vault_is_shut_and_other_parts_unknown():
    refused(lambda: load_images("cifar100", "test", "sample"), "stays shut", "final_test")
    refused(lambda: load_images("mnist", "validation"), "unknown part of mnist 'validation'; choose train or test")
    refused(lambda: load_images("cifar100", "dev"), "'dev'", "choose train or validation")
    refused(lambda: load_images("cifar", "train"), "unknown data set 'cifar'", "cifar100")
    refused(lambda: load_images("mnist", profile="gpu"), "unknown profile 'gpu'")
    refused(lambda: known_fingerprint("svhn", "cpu"), "unknown data set 'svhn'")
    for size in (0, -1, 2.5, True, "64"):
        refused(partial(load_images, "mnist", size=size), f"{size!r}", "size must be a whole number")


def test_fingerprints_are_literals_of_the_complete_sets_and_the_sample():
    prints = {(name, profile): known_fingerprint(name, profile) for name in SETS for profile in ("sample", "cpu", "paper")}
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in prints.values())
    assert len(set(prints.values())) == 6
    assert all(prints[name, "cpu"] == prints[name, "paper"] for name in SETS)


def test_opening_train_reads_nothing_of_the_vault(data_dir):
    for shard in (data_dir / "cifar100").glob("test-*"):
        shard.write_bytes(b"no parquet")
    assert len(load_images("cifar100", "train", "cpu")) == 300
    assert not list(cache_folder().glob("*test*"))
    refused(lambda: open_vault("cpu"), "test-00000-of-00002.parquet cannot be read")


def test_split_is_stratified_fixed_and_whole(data_dir, published):
    train, held = (load_images("cifar100", part, "cpu") for part in ("train", "validation"))
    assert train.labels.bincount().tolist() == [3] * 100 and held.labels.bincount().tolist() == [1] * 100
    last = [np.flatnonzero(published["cifar100"]["train"][:, 0] == c)[-1] for c in range(100)]
    assert (held.images.flatten(1).numpy() == published["cifar100"]["train"][np.sort(last), 1:]).all()


def test_first_of_each_class_shares_out_in_proportion():
    labels = np.array([1, 0, 0, 1, 0, 0, 2, 2])
    assert first_of_each_class(labels, 4).tolist() == [0, 1, 2, 6]
    assert first_of_each_class(labels, 8).tolist() == list(range(8))
    assert first_of_each_class(labels, 0).tolist() == []


# ---------------------------------------------------------------- every source gives the same


def test_parquet_in_any_order_and_number_of_shards(name, data_dir, published):
    assert_published(name, published)


@pytest.mark.parametrize("nested", ["data", "plain_text", "mnist", "snapshots/0123abc/plain_text"])
def test_parquet_in_nested_folders(nested, published, tmp_path, monkeypatch):
    write_copy(tmp_path / "data" / "mnist" / nested, "mnist", published["mnist"], shards=1)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert_published("mnist", published)


def test_webp_grey_palette_and_opaque_alpha_decode_to_the_same(published, tmp_path, monkeypatch):
    encodings = [{"kind": "WEBP", "lossless": True}, {"mode": "L"}, {"mode": "P"}, {"mode": "RGBA"}, {"mode": "LA"}]
    for i, encoding in enumerate(encodings):
        write_copy(tmp_path / str(i) / "mnist", "mnist", published["mnist"], **encoding)
        monkeypatch.setenv("DATA_DIR", str(tmp_path / str(i)))
        assert_published("mnist", published)


def test_grey_image_of_a_colour_set_becomes_three_equal_channels():
    grey = np.arange(1024, dtype=np.uint16).astype(np.uint8).reshape(1, 32, 32)
    for mode in ("L", "LA", "P"):
        assert (decode(encode(grey, mode), (3, 32, 32), "here") == grey).all()


def test_odd_names_links_and_read_only_folders(published, tmp_path, monkeypatch):
    real = tmp_path / "Données d'été  (α)"
    copy = write_copy(real / "mnist", "mnist", published["mnist"])
    link = tmp_path / "a link"
    link.symlink_to(real)
    monkeypatch.setenv("DATA_DIR", str(link))
    before = sorted(real.rglob("*"))
    copy.chmod(0o555)
    real.chmod(0o555)
    try:
        assert_published("mnist", published)
        assert sorted(real.rglob("*")) == before
    finally:
        real.chmod(0o755)
        copy.chmod(0o755)


def test_relative_data_dir_with_a_linked_set(published, tmp_path, monkeypatch):
    write_copy(tmp_path / "elsewhere", "mnist", published["mnist"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", "data")
    assert_published("mnist", published)


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
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(np.array([2049, len(rows)], ">i4").tobytes() + rows[:, 0].tobytes())
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


@pytest.mark.parametrize("within", ["", "sub"])
def test_torchvisions_own_folder(name, within, published, tmp_path, monkeypatch):
    write_torchvision(tmp_path / "data" / (name if within else ""), name, published[name], monkeypatch)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert_published(name, published)


# ---------------------------------------------------------------- the cache


def no_reading(*_: object) -> None:
    raise AssertionError("a cached set was decoded again")


def test_second_opening_decodes_nothing(name, data_dir, published, monkeypatch):
    assert_published(name, published)
    monkeypatch.setattr(Source, "read", no_reading)
    assert_published(name, published)
    monkeypatch.delenv("DATA_DIR")  # what was decoded once serves without the source too
    assert_published(name, published)


def test_another_data_dir_is_read_and_never_answered_from_the_cache(data_dir, published, tmp_path, monkeypatch):
    load_images("mnist", "train", "cpu")
    rows = {part: found.copy() for part, found in published["mnist"].items()}
    rows["train"][0, 0] = (rows["train"][0, 0] + 1) % 10
    write_copy(tmp_path / "other" / "mnist", "mnist", rows)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "other"))
    refused(lambda: load_images("mnist", "train", "cpu"), "mnist's train part", "differ from the published set")
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    assert len(load_images("mnist", "train", "cpu")) == 300


def test_a_shard_written_again_is_read_again(data_dir, published):
    load_images("mnist", "train", "cpu")
    shard = data_dir / "mnist" / "train-00000-of-00002.parquet"
    pq.write_table(sourceFunction.read_table(shard).slice(1), shard)
    refused(lambda: load_images("mnist", "train", "cpu"), "has 299 images, the published set 300", "fetch it again")


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:5000]),
    lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"),
    lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'shape': (9" + bytes(100)),
    lambda path: path.write_bytes(pickle.dumps("no array")),
    lambda path: np.save(path, np.zeros((300, 785), np.uint8)),
    lambda path: np.save(path, np.zeros(3)),
], ids=["empty", "truncated", "a bit", "header", "pickle", "other images", "other shape"])  # fmt: skip
def test_damaged_cache_is_made_again(damage, data_dir, published):
    load_images("mnist", "train", "cpu")
    path = cache_folder() / "mnist-complete-train.npy"
    good = path.read_bytes()
    damage(path)
    assert_published("mnist", published)
    assert path.read_bytes() == good
    assert not list(cache_folder().glob("*.tmp*"))


def test_cache_that_cannot_be_written_is_done_without(data_dir, published, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"file/cnn-and-deep-network cannot be written \(.+\); mnist is decoded anew"):
        assert_published("mnist", published)


def test_full_disk_leaves_no_half_written_file(data_dir, published, monkeypatch):
    def full(path: Path, rows: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        load_images("mnist", "train", "cpu")
    assert list(cache_folder().iterdir()) == []


# ---------------------------------------------------------------- the network


def test_offline_with_nothing_cached_ends_in_one_line_within_seconds(name, published, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("HF_HOME", os.environ["XDG_CACHE_HOME"])
    start = time.monotonic()
    refused(lambda: load_images(name, "train", "cpu"), f"{name} is neither cached nor to be had", "does not answer",
            f"into a folder {name}/ and set DATA_DIR to the folder above it", "sample profile")  # fmt: skip
    assert time.monotonic() - start < 10


def test_a_name_server_that_never_answers_is_not_waited_for(monkeypatch):
    def silent(*_: object, **__: object) -> None:
        time.sleep(1)
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(sourceFunction, "SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    start = time.monotonic()
    assert not sourceFunction.answers("https://example.org")
    assert time.monotonic() - start < 0.8


def test_hub_is_asked_first_and_its_copy_is_kept(name, published, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot(repository: str, **options: object) -> str:
        asked.append((repository, options["repo_type"], options["local_files_only"]))
        return str(tmp_path / "snapshot")

    write_copy(tmp_path / "snapshot" / "plain_text", name, published[name], shards=1)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.setattr(sourceFunction, "answers", lambda url: True)
    assert_published(name, published)
    assert set(asked) == {(SETS[name].hub, "dataset", False)}
    monkeypatch.setattr(dataFunction, "fetch", no_reading)
    assert_published(name, published)


def test_torchvision_is_the_fallback(published, tmp_path, monkeypatch):
    class Downloads(datasets.MNIST):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            if download:
                write_torchvision(Path(root), "mnist", published["mnist"], monkeypatch)
                assert socket.getdefaulttimeout() == sourceFunction.STALL
            super().__init__(root, train=train)

        raw_folder = property(lambda self: os.path.join(self.root, "MNIST", "raw"))

    monkeypatch.setattr(datasets, "MNIST", Downloads)
    monkeypatch.setattr(sourceFunction, "answers", lambda url: "huggingface" not in url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    dataFunction._tensors.cache_clear()
    train = load_images("mnist", "train", "cpu")
    assert (train.images.flatten(1).numpy() == published["mnist"]["train"][:, 1:]).all()
    assert socket.getdefaulttimeout() is None


# ---------------------------------------------------------------- bad input


def test_data_dir_missing_a_file_or_empty(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "mnist").mkdir(parents=True)
    remedy = "set it to the folder that holds mnist/, cifar10/ and cifar100/, or unset it"
    monkeypatch.setattr(dataFunction, "fetch", no_reading)
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
    refused(lambda: load_images("cifar10", "train", "cpu"), str(data_dir / "cifar10"), f"lacks {first.name}; put it back")
    for shard in (data_dir / "mnist").glob("test-*"):
        shard.unlink()
    refused(lambda: load_images("mnist", "train", "cpu"), "must hold one complete set of test-*.parquet, and holds none")


def test_shard_that_is_a_dangling_link(data_dir):
    shard = data_dir / "mnist" / "train-00000-of-00002.parquet"
    shard.unlink()
    shard.symlink_to(data_dir / "nowhere")
    refused(lambda: load_images("mnist", "train", "cpu"), "cannot be read (", "fetch it again")


def change(shard: Path, column: str, row: int, value: object) -> None:
    """Write `value` into a row of a shard's column."""
    content = sourceFunction.read_table(shard).to_pydict()
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
    good = sourceFunction.read_table(shard)
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
    refused(lambda: load_images("mnist", "train", "cpu"), f"{shard}, row 0: the image is in colour; this set's are grey")


def test_damaged_torchvision_folder(tmp_path, monkeypatch):
    for name, file in [("mnist", "train-images-idx3-ubyte"), ("cifar10", "data_batch_1"), ("cifar100", "train")]:
        folder = tmp_path / SETS[name].folder
        folder.mkdir(parents=True)
        (folder / file).write_bytes(b"nothing")
        monkeypatch.setenv("DATA_DIR", str(tmp_path))
        refused(partial(load_images, name, "train", "cpu"), f"{folder} cannot be read (Dataset not found", "fetch")


# ---------------------------------------------------------------- a set in memory


@pytest.mark.parametrize(("name", "part"), ALL_PARTS)
def test_is_a_map_style_data_set(name, part):
    data = load_images(name, part, size=36)
    image, label = data[3]
    inputs, labels = data.batch(torch.tensor([3, -1, 3]))
    assert inputs.shape == (3, SETS[name].shape[0], 36, 36) and inputs.dtype == torch.float32
    assert labels.dtype == torch.int64 and labels.tolist() == [label, int(data.labels[-1]), label]
    assert type(label) is int and torch.equal(image, inputs[0]) and torch.equal(inputs[1], data[-1][0])
    with pytest.raises(IndexError, match=f"{name} {part} has {len(data)} images"):
        data[len(data)]
    loaded, targets = next(iter(DataLoader(data, batch_size=4)))
    assert torch.equal(loaded, data.batch(torch.arange(4))[0]) and torch.equal(targets, data.labels[:4])


def test_subset_and_device_leave_the_set_as_it_was():
    data = load_images("cifar100", "validation")
    some = data.subset(torch.tensor([5, 2]))
    assert len(some) == 2 and len(data) == 1000 and some.fingerprint == data.fingerprint
    assert torch.equal(some.images, data.images[[5, 2]]) and some.coarse_labels.tolist() == [
        COARSE_OF[label] for label in some.labels.tolist()
    ]
    assert len(data.subset([1, 2, 3])) == 3 and len(data.subset(data.labels == 7)) == 10
    moved = data.to("meta")
    assert moved.images.device.type == moved.labels.device.type == moved.coarse_labels.device.type == "meta"
    with pytest.raises(FrozenInstanceError):
        data.size = 64


def test_batches_equal_torchvisions_own_pipeline():
    """To the bit at the native size; scaled too where torch has Pillow's arithmetic, else at most one grey level off."""
    has_pillows = torch.backends.cpu.get_cpu_capability().startswith("AVX")  # for three channels
    for name in SETS:
        for size in (SETS[name].shape[-1], 16, 64, 128):
            data = load_images(name, "train", size=size)
            pipeline = Compose([Resize((size, size)), ToTensor(), Normalize(*NORMALISATION[name])])
            some = torch.arange(0, len(data), len(data) // 16)
            pictures = [Image.fromarray(data.images[i].permute(1, 2, 0).squeeze(2).numpy()) for i in some]
            inputs, wanted = data.batch(some)[0], torch.stack([pipeline(each) for each in pictures])
            if size == data.images.shape[-1] or (has_pillows and data.images.shape[1] == 3):
                assert torch.equal(inputs, wanted)
            levels = (inputs - wanted).abs() * torch.tensor(NORMALISATION[name][1]).view(-1, 1, 1) * 255
            assert levels.max() < 1.001


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("size", [32, 64])
def test_batches_on_a_gpu_are_at_most_one_grey_level_off(size):
    data = load_images("cifar10", size=size)
    some = torch.arange(0, 3000, 50)
    levels = (data.to("cuda").batch(some)[0].cpu() - data.batch(some)[0]).abs() * 0.2616 * 255
    assert levels.max() < (1.001 if size == 64 else 0.001)


def test_scaled_pixels_are_whole_grey_levels():
    data = load_images("cifar10", size=64)
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in NORMALISATION["cifar10"])
    levels = (data[0][0] * deviation + mean) * 255
    assert (levels - levels.round()).abs().max() < 1e-3


def test_channel_statistics_are_mean_and_deviation_of_all_pixels():
    images = torch.randint(0, 256, (50, 3, 8, 9), dtype=torch.uint8)
    mean, deviation = channel_statistics(images)
    pixels = images.double().div(255).transpose(0, 1).flatten(1)
    assert mean == pytest.approx(pixels.mean(1).tolist()) and deviation == pytest.approx(pixels.std(1, correction=0).tolist())


# ---------------------------------------------------------------- the complete sets


@needs_complete
def test_complete_sets_are_the_published_ones_and_open_in_a_second(name, monkeypatch):
    """Fingerprints, sizes, balance, constants, and that the sample is cut from them."""
    monkeypatch.setenv("DATA_DIR", COMPLETE)
    parts = {part: load_images(name, part, "cpu") for part in SPLITS[name]}
    counts = {"mnist": [60_000, 10_000], "cifar10": [50_000, 10_000], "cifar100": [45_000, 5_000]}
    assert [len(data) for data in parts.values()] == counts[name]
    if name != "mnist":
        each = {"cifar10": [5000, 1000], "cifar100": [450, 50]}[name]
        assert [data.labels.bincount().unique().tolist() for data in parts.values()] == [[n] for n in each]
    seconds = []
    for _ in range(3):
        dataFunction._tensors.cache_clear()
        start = time.perf_counter()
        load_images(name, "train", "cpu")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1

    train = [data.images for part, data in parts.items() if part != "test"]
    for found, literal in zip(channel_statistics(torch.cat(train)), NORMALISATION[name], strict=True):
        assert found == pytest.approx(literal, abs=6e-5)  # the published ones have four digits
    of_train = set.union(*(every_image(data) for part, data in parts.items() if part != "test"))
    for part, data in parts.items():
        pool = every_image(data) if part == "test" else of_train
        assert every_image(load_images(name, part, "sample")) <= pool


@needs_complete
def test_samples_vault_is_cut_from_the_train_set(monkeypatch):
    monkeypatch.setenv("DATA_DIR", COMPLETE)
    assert every_image(open_vault("sample")) <= every_image(load_images("cifar100", "train", "cpu"))


def make_sample() -> object:
    spec = importlib.util.spec_from_file_location("make_sample", SAMPLE.parent / "make_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_complete
def test_sample_is_made_again_to_the_byte(tmp_path, monkeypatch):
    """MNIST's, the quickest. The files name the version of pyarrow that wrote them, so what they hold is compared."""
    monkeypatch.setenv("DATA_DIR", COMPLETE)
    make_sample().make("mnist", tmp_path)
    names = [sorted(path.name for path in folder.iterdir()) for folder in (tmp_path, SAMPLE / "mnist")]
    assert names[0] == names[1]
    for path in tmp_path.iterdir():
        assert sourceFunction.read_table(path).equals(sourceFunction.read_table(SAMPLE / "mnist" / path.name))


def test_making_the_sample_needs_the_complete_sets(data_dir, tmp_path, monkeypatch):
    module = make_sample()
    monkeypatch.setattr(module, "COUNTS", {"mnist": {"train": ("train", 50), "test": ("train", 20)}})
    module.make("mnist", tmp_path / "made")
    made = [pq.read_table(tmp_path / "made" / f"{part}-00000-of-00001.parquet") for part in ("train", "test")]
    assert [len(table) for table in made] == [50, 20]
    originals = {cell["bytes"] for path in (data_dir / "mnist").glob("train-*")
                 for cell in pq.read_table(path)["image"].to_pylist()}  # fmt: skip
    assert len({cell["bytes"] for table in made for cell in table["image"].to_pylist()} & originals) == 70
    monkeypatch.delenv("DATA_DIR")
    refused(lambda: module.make("mnist", tmp_path / "made"), "set DATA_DIR to a folder that holds mnist as train-*.parquet")
    assert len(list((tmp_path / "made").iterdir())) == 2
