"""What other systems refuse, emulated: Windows' files and names, file systems without locks, read-only clones."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import QUICK, digits, held, mlp, refused
from small_records import EXPERIMENT, PROVENANCE, written

from coreFunction import pipeline
from deepnet.figures import registry
from deepnet.records import files, reading
from deepnet.records.files import append_line, atomic, first_line, lock
from deepnet.records.folder import RunFolder
from deepnet.records.reading import Record, find_records, runs_dir
from experimentTable import Experiment

fcntl = pytest.importorskip("fcntl", reason="the emulation asks the system how a file was opened")


@pytest.fixture
def flushing(monkeypatch):
    """Only what is open for writing can be flushed; returns how many files were."""
    real, flushed = os.fsync, []

    def fsync(number: int) -> None:
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(number)
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    return flushed


def test_flushing(flushing, tmp_path):
    with atomic(tmp_path / "file") as part:
        part.write_text("whole")
    append_line(tmp_path / "rows", {"epoch": 0})
    assert (tmp_path / "file").read_text() == "whole"
    assert len(flushing) == 2
    assert pipeline(mlp(), digits(), held(), name="flushed", keep_weights=True, **QUICK).finished


@pytest.fixture
def shared(monkeypatch):
    """A file that another process reads cannot be replaced in the first `refusals` attempts."""
    real, state = Path.replace, SimpleNamespace(tried=0, refusals=3)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)

    def replaced(part: Path, path: Path) -> Path:
        state.tried += 1
        if state.tried <= state.refusals:
            raise PermissionError(errno.EACCES, "Access is denied")
        return real(part, path)

    monkeypatch.setattr(Path, "replace", replaced)
    return state


@pytest.mark.parametrize("refusals", [3, 99])
def test_replacing_an_open_file(shared, tmp_path, refusals):
    def write():
        with atomic(tmp_path / "file") as part:
            part.write_text("new")

    (tmp_path / "file").write_text("old")
    shared.refusals = refusals
    if refusals == 3:
        write()
    else:
        refused(write, "cannot write records to", "Access is denied")
    assert (tmp_path / "file").read_text() == ("new" if refusals == 3 else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folder_that_is_moved_aside(runs_dir):
    """Windows refuses to rename a folder in which a file is open."""
    written(runs_dir)
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        assert not any("lock" in path.name for path in folder.path.rglob("*"))
        folder.start({"lr": 0.1}, PROVENANCE, fresh=True)
        opened = [os.readlink(link) for link in Path("/proc/self/fd").glob("*") if link.is_symlink()]
        assert not any(Path(path).is_relative_to(folder.path) for path in opened)


@pytest.mark.parametrize("name", ["CON", "nul", "com1.backup", "aux.x.y", "net.", "a:b", "a b", "net\n"])
def test_reserved_names(name):
    refused(lambda: Experiment(name, lr=0.1), "cannot name a folder on every system")


@pytest.mark.parametrize("name", ["console", "net.1", "com", "lpt10", "_mine", "x-y"])
def test_allowed_names(name):
    assert Experiment(name, model="MLP_4", lr=0.1).name == name


def test_file_system_without_locks(tmp_path, monkeypatch):
    from filelock import FileLock

    def acquire(*_, **__):
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    refused(lambda: lock(tmp_path / ".lock", "busy").__enter__(), "has no locks", "set RUNS_DIR")


def test_runs_dir_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS_DIR", "~/runs")
    monkeypatch.chdir(tmp_path)
    assert runs_dir() == tmp_path / "runs"
    written(runs_dir())
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [record.name for record in find_records("x", "sample")] == ["x"]
    monkeypatch.setenv("RUNS_DIR", "~nobody-of-that-name/runs")
    refused(runs_dir, "RUNS_DIR=~nobody-of-that-name/runs", "write the path out")


def test_figures_of_a_read_only_clone(tmp_path, monkeypatch, capsys):
    import IPython.display

    clone = tmp_path / "clone"
    shutil.copytree(reading.EVIDENCE / "cpu" / "MLP_4", clone / "cpu" / "MLP_4")
    before = {path: path.stat().st_mtime_ns for path in clone.rglob("*")}
    (tmp_path / "file").touch()  # below which nobody, root neither, makes a folder
    monkeypatch.setattr(reading, "EVIDENCE", clone)
    monkeypatch.setattr(registry, "FOLDER", tmp_path / "file" / "figures")
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    registry.show("3.1", "cpu")
    figure, _reading = shown
    assert figure.axes
    assert (
        capsys.readouterr().out
        == f"figures are not saved, since {registry.FOLDER / 'cpu'} cannot be written to (Not a directory)\n"
    )
    assert {path: path.stat().st_mtime_ns for path in clone.rglob("*")} == before


# ---------------------------------------------------------------- folders that are not records


@pytest.mark.parametrize("name", ["mine", "seed-", "seed-0.20261127-120000"])
def test_other_folder(tmp_path, name):
    refused(lambda: Record(tmp_path / "sample" / "x" / name), "is not the folder of a run", "seed-<n>")


def test_file_in_place_of_a_folder(runs_dir):
    """It is refused and kept."""
    path = runs_dir / "own" / "mine" / "seed-0"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    refused(lambda: pipeline(mlp(), digits(), held(), name="mine", **QUICK), "cannot write records to")
    assert path.read_text() == "mine"


def test_first_line():
    assert first_line(ValueError("\x1b[1mweights only\x1b[0m load failed\nmore")) == "weights only load failed"
