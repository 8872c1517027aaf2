"""The same images from every source: parquet in any shape, torchvision's folders, the network."""

import os
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from copies import assert_published, each_set, encode, no_reading, write_copy, write_torchvision
from helpers import python, refused
from torchvision import datasets

from deepnet.data import sets, sources
from deepnet.data.sets import load_images
from deepnet.data.sources import SETS, decode

# ---------------------------------------------------------------- folders


@each_set
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
        assert (decode(encode(grey, mode), 3) == grey).all()


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


@each_set
@pytest.mark.parametrize("within", ["", "sub"])
def test_torchvisions_own_folder(name, within, published, tmp_path, monkeypatch):
    write_torchvision(tmp_path / "data" / (name if within else ""), name, published[name], monkeypatch)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert_published(name, published)


# ---------------------------------------------------------------- the network
@each_set
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

    monkeypatch.setattr(sources, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    start = time.monotonic()
    assert not sources.answers("https://example.org")
    assert time.monotonic() - start < 0.8


def test_a_process_that_has_imported_nothing_yet_asks_the_hub(tmp_path):
    """Its modules come when they are asked for, so only a process of its own shows what was imported for it."""
    done = python(
        "from deepnet.data import sources; from pathlib import Path; sources.answers = lambda url: print(url)\n"
        "try: sources.fetch('mnist', Path('none'), None)\n"
        "except sources.UsageError as error: print(error)"
    )
    hub, torchvision, said = done.stdout.splitlines()
    assert hub == "https://huggingface.co", done.stderr
    assert f"({hub} does not answer; {torchvision} does not answer)" in said


@each_set
def test_hub_is_asked_first_and_its_copy_is_kept(name, published, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot(repository: str, **options: object) -> str:
        asked.append((repository, options["repo_type"], options["local_files_only"]))
        return str(tmp_path / "snapshot")

    write_copy(tmp_path / "snapshot" / "plain_text", name, published[name], shards=1)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.setattr(sources, "answers", lambda url: True)
    assert_published(name, published)
    assert set(asked) == {(SETS[name].hub, "dataset", False)}
    monkeypatch.setattr(sets, "fetch", no_reading)
    assert_published(name, published)


@pytest.fixture
def damaged(published, tmp_path, monkeypatch) -> tuple[Path, list[bool]]:
    """A shard in the hub's cache that is cut short, and which of the hub's calls asked for it by force."""
    hub = pytest.importorskip("huggingface_hub")
    folder = write_copy(tmp_path / "snapshot" / "plain_text", "mnist", published["mnist"], shards=1)
    shard = next(folder.glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    forced = []

    def snapshot(repository: str, **options: object) -> str:
        forced.append(options["force_download"])
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.setattr(sources, "answers", lambda url: True)
    return shard, forced


def test_a_damaged_file_in_the_hubs_cache_is_downloaded_once_more(damaged, published, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    _, forced = damaged
    given = hub.snapshot_download

    def mended(*arguments: object, **options: object) -> str:
        if options["force_download"]:
            shutil.rmtree(tmp_path / "snapshot")
            write_copy(tmp_path / "snapshot" / "plain_text", "mnist", published["mnist"], shards=1)
        return given(*arguments, **options)

    monkeypatch.setattr(hub, "snapshot_download", mended)
    assert_published("mnist", published)
    assert forced == [False, False, True]  # the test part, then the damaged train part


def test_a_file_that_stays_damaged_leaves_it_to_the_next_place(damaged, published, tmp_path, monkeypatch):
    shard, forced = damaged
    monkeypatch.setattr(sources, "answers", lambda url: "huggingface" in url)
    refused(
        lambda: load_images("mnist", "train", "cpu"),
        "mnist is neither cached nor to be had",
        f"{shard} cannot be read (",
    )
    assert forced == [False, True]
    write_torchvision(tmp_path / "torchvision", "mnist", published["mnist"], monkeypatch)
    there = sources.LocalCopy("mnist", tmp_path / "torchvision")
    monkeypatch.setattr(sources, "_from_torchvision", lambda *_: there)
    assert_published("mnist", published)


def test_a_damaged_file_is_named_where_there_is_no_network(damaged, monkeypatch):
    monkeypatch.setattr(sources, "answers", lambda url: False)
    shard, forced = damaged
    refused(
        lambda: load_images("mnist", "train", "cpu"), f"{shard} cannot be read (", "fetch it again", "does not answer"
    )
    assert True not in forced


def test_torchvision_downloads_once_more_what_is_damaged(published, tmp_path, monkeypatch):
    downloads = []

    class Downloads(datasets.MNIST):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            if download and not Path(root, "MNIST", "raw").exists():
                write_torchvision(Path(root), "mnist", published["mnist"], monkeypatch)
                downloads.append(root)
                if len(downloads) == 1:
                    next(Path(root).rglob("train-images*")).write_bytes(b"cut short")
            super().__init__(root, train=train)

        raw_folder = property(lambda self: os.path.join(self.root, "MNIST", "raw"))

    monkeypatch.setattr(datasets, "MNIST", Downloads)
    monkeypatch.setattr(sources, "answers", lambda url: "huggingface" not in url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert_published("mnist", published)
    assert len(downloads) == 2


def test_torchvision_is_the_fallback(published, tmp_path, monkeypatch):
    class Downloads(datasets.MNIST):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            if download:
                write_torchvision(Path(root), "mnist", published["mnist"], monkeypatch)
                assert socket.getdefaulttimeout() == sources.STALL_SECONDS
            super().__init__(root, train=train)

        raw_folder = property(lambda self: os.path.join(self.root, "MNIST", "raw"))

    monkeypatch.setattr(datasets, "MNIST", Downloads)
    monkeypatch.setattr(sources, "answers", lambda url: "huggingface" not in url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    sets._tensors.cache_clear()
    train = load_images("mnist", "train", "cpu")
    assert (train.images.flatten(1).numpy() == published["mnist"]["train"][:, 1:]).all()
    assert socket.getdefaulttimeout() is None
