"""The same images from every source: parquet in any layout, torchvision's folders, the network."""

import os
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

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
def test_shuffled_shards(name, data_dir, published):
    assert_published(name, published)


@pytest.mark.parametrize("nested", ["data", "mnist", "snapshots/0123abc/plain_text"])
def test_nested_folders(nested, published, tmp_path, monkeypatch):
    write_copy(tmp_path / "data" / "mnist" / nested, "mnist", published["mnist"], shards=1)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert_published("mnist", published)


@pytest.mark.parametrize(
    "encoding", [{"kind": "WEBP", "lossless": True}, {"mode": "L"}, {"mode": "P"}, {"mode": "RGBA"}, {"mode": "LA"}]
)
def test_encodings(encoding, published, tmp_path, monkeypatch):
    write_copy(tmp_path / "mnist", "mnist", published["mnist"], **encoding)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert_published("mnist", published)


@pytest.mark.parametrize("mode", ["L", "LA", "P"])
def test_grey_image_in_a_colour_set(mode):
    grey = np.arange(1024, dtype=np.uint16).astype(np.uint8).reshape(1, 32, 32)
    assert (decode(encode(grey, mode), 3) == grey.repeat(3, 0)).all()


def test_odd_names_links_and_read_only_folders(published, tmp_path, monkeypatch):
    real = tmp_path / "Données d'été  (α)"
    copy = write_copy(real / "elsewhere", "mnist", published["mnist"])
    (real / "mnist").symlink_to(copy)
    monkeypatch.chdir(tmp_path)
    Path("a link").symlink_to(real)
    monkeypatch.setenv("DATA_DIR", "a link")
    before = sorted(real.rglob("*"))
    copy.chmod(0o555)
    real.chmod(0o555)
    try:
        assert_published("mnist", published)
        assert sorted(real.rglob("*")) == before
    finally:
        real.chmod(0o755)
        copy.chmod(0o755)


@each_set
@pytest.mark.parametrize("within", ["", "sub"])
def test_torchvisions_own_folder(name, within, published, tmp_path, monkeypatch):
    write_torchvision(tmp_path / "data" / (name if within else ""), name, published[name], monkeypatch)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert_published(name, published)


# ---------------------------------------------------------------- the network
@each_set
def test_offline_with_nothing_cached(name, published, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("HF_HOME", os.environ["XDG_CACHE_HOME"])
    start = time.monotonic()
    refused(lambda: load_images(name, "train", "cpu"), f"{name} is neither cached nor available", "does not answer",
            f"into a folder {name}/ and set DATA_DIR to the folder above it", "sample profile")  # fmt: skip
    assert time.monotonic() - start < 10


def test_name_server_that_never_answers(monkeypatch):
    def silent(*_: object, **__: object) -> None:
        time.sleep(1)
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(sources, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    start = time.monotonic()
    assert not sources.answers("https://example.org")
    assert time.monotonic() - start < 0.8


def test_late_imports():
    """Only a new process shows whether the hub's library is imported where it is needed."""
    done = python(
        "from deepnet.data import sources; from pathlib import Path; sources.answers = lambda url: print(url)\n"
        "try: sources.fetch('mnist', Path('none'), None)\n"
        "except sources.UsageError as error: print(error)"
    )
    hub, torchvision, said = done.stdout.splitlines()
    assert hub == "https://huggingface.co", done.stderr
    assert f"({hub} does not answer; {torchvision} does not answer)" in said


@pytest.fixture
def hub(published, tmp_path, monkeypatch) -> SimpleNamespace:
    """A hub that answers, whose downloads are copies in `folder`; `calls` are the options of its calls."""
    library = pytest.importorskip("huggingface_hub")
    found = SimpleNamespace(folder=tmp_path / "snapshot", calls=[], mend=lambda: None)

    def snapshot(repository: str, **options: object) -> str:
        found.calls.append(options | {"repository": repository})
        if options["force_download"]:
            found.mend()
        return str(found.folder)

    monkeypatch.setattr(library, "snapshot_download", snapshot)
    monkeypatch.setattr(sources, "answers", lambda url: True)
    found.write = lambda name: write_copy(found.folder / "plain_text", name, published[name], shards=1)
    return found


@each_set
def test_hub_comes_first_and_is_cached(name, hub, published, monkeypatch):
    hub.write(name)
    assert_published(name, published)
    asked = {(call["repository"], call["repo_type"], call["local_files_only"]) for call in hub.calls}
    assert asked == {(SETS[name].hub, "dataset", False)}
    monkeypatch.setattr(sets, "fetch", no_reading)
    assert_published(name, published)


@pytest.fixture
def damaged(hub) -> Path:
    """A shard in the hub's cache that is cut short."""
    shard = next(hub.write("mnist").glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    return shard


def test_damaged_file_is_downloaded_once_more(damaged, hub, published):
    hub.mend = lambda: (shutil.rmtree(hub.folder), hub.write("mnist"))
    assert_published("mnist", published)
    assert [call["force_download"] for call in hub.calls] == [False, False, True]  # the test part, then the train part


def test_file_that_stays_damaged(damaged, hub, published, tmp_path, monkeypatch):
    """The next place is tried."""
    monkeypatch.setattr(sources, "answers", lambda url: "huggingface" in url)
    message = "mnist is neither cached nor available"
    refused(lambda: load_images("mnist", "train", "cpu"), message, f"{damaged} cannot be read (")
    assert [call["force_download"] for call in hub.calls] == [False, True]
    write_torchvision(tmp_path / "torchvision", "mnist", published["mnist"], monkeypatch)
    there = sources.LocalCopy("mnist", tmp_path / "torchvision")
    monkeypatch.setattr(sources, "_from_torchvision", lambda *_: there)
    assert_published("mnist", published)


def test_damaged_file_without_network(damaged, hub, monkeypatch):
    monkeypatch.setattr(sources, "answers", lambda url: False)
    remedy = f"{damaged} cannot be read ("
    refused(lambda: load_images("mnist", "train", "cpu"), remedy, "fetch it again", "does not answer")
    assert not any(call["force_download"] for call in hub.calls)


@pytest.mark.parametrize("damages", [0, 1])
def test_torchvision_is_the_fallback(damages, published, tmp_path, monkeypatch):
    """What it has downloaded is downloaded once more if it is damaged."""
    downloads = []

    class Downloads(datasets.MNIST):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            if download and not Path(root, "MNIST", "raw").exists():
                write_torchvision(Path(root), "mnist", published["mnist"], monkeypatch)
                downloads.append(socket.getdefaulttimeout())
                if len(downloads) <= damages:
                    next(Path(root).rglob("train-images*")).write_bytes(b"cut short")
            super().__init__(root, train=train)

        raw_folder = property(lambda self: os.path.join(self.root, "MNIST", "raw"))

    monkeypatch.setattr(datasets, "MNIST", Downloads)
    monkeypatch.setattr(sources, "answers", lambda url: "huggingface" not in url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert_published("mnist", published)
    assert downloads == [sources.STALL_SECONDS] * (1 + damages)
    assert socket.getdefaulttimeout() is None
