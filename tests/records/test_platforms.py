"""What other systems refuse, emulated: Windows' files, folders and names, file systems without locks, clones that
cannot be written to.
"""

import errno
import os
import shutil
from dataclasses import replace
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


def test_files_are_flushed_through_a_handle_that_is_open_for_writing(flushing, tmp_path):
    with atomic(tmp_path / "file") as part:
        part.write_text("whole")
    append_line(tmp_path / "rows", {"epoch": 0})
    assert (tmp_path / "file").read_text() == "whole"
    assert len(flushing) == 2


def test_a_whole_run_needs_no_flush_of_a_file_that_is_read(flushing, runs_dir):
    assert pipeline(mlp(), digits(), held(), name="flushed", keep_weights=True, **QUICK).finished
    assert len(flushing) > 5


@pytest.fixture
def shared(monkeypatch):
    """A file that another process reads cannot be replaced in the first tries; `refusals` says in how many."""
    real, state = Path.replace, SimpleNamespace(tried=0, refusals=3)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)

    def replaced(part: Path, path: Path) -> Path:
        state.tried += 1
        if state.tried <= state.refusals:
            raise PermissionError(errno.EACCES, "Access is denied")
        return real(part, path)

    monkeypatch.setattr(Path, "replace", replaced)
    return state


def test_a_file_that_is_being_read_is_replaced_once_it_is_not(shared, tmp_path):
    (tmp_path / "file").write_text("old")
    with atomic(tmp_path / "file") as part:
        part.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert shared.tried == 4


def test_a_file_that_stays_open_is_said_in_one_line_and_kept(shared, tmp_path):
    (tmp_path / "file").write_text("old")
    shared.refusals = 99

    def write():
        with atomic(tmp_path / "file") as part:
            part.write_text("new")

    refused(write, "cannot write records to", "Access is denied")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_the_folder_that_is_moved_aside_holds_no_lock(runs_dir):
    """Windows refuses to rename a folder in which a file is open."""
    written(runs_dir)
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        assert not any("lock" in path.name for path in folder.path.rglob("*"))
        folder.start({"lr": 0.1}, PROVENANCE, fresh=True)
        opened = (
            [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
            if Path("/proc").exists()
            else []
        )
        assert not any(Path(path).is_relative_to(folder.path) for path in opened)


@pytest.mark.parametrize("name", ["CON", "nul", "com1.backup", "LPT9", "aux.x.y", "net.", "a:b", "a*b", "a b", "net\n"])
def test_names_that_some_system_refuses_name_no_run(name):
    refused(lambda: Experiment(name, lr=0.1), "cannot name a folder on every system")
    refused(lambda: replace(EXPERIMENT, name=name), "cannot name a folder on every system")


@pytest.mark.parametrize("name", ["CONV", "console", "net.1", "com", "lpt10", "_mine", "x-y"])
def test_names_like_those_do(name):
    assert Experiment(name, model="MLP_4", lr=0.1).name == name


def test_a_lock_that_another_process_holds_is_waited_for_or_refused(tmp_path, capsys):
    path = tmp_path / "new" / ".lock"

    def take():
        with lock(path, "busy"):
            pass

    with lock(path, "busy"):
        refused(take, "busy")
    take()


def test_a_file_system_without_locks_is_said_in_one_line(tmp_path, monkeypatch):
    from filelock import FileLock

    def acquire(*_, **__):
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    refused(lambda: lock(tmp_path / ".lock", "busy").__enter__(), "knows no locks", "set RUNS_DIR")


def test_runs_dir_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS_DIR", "~/runs")
    monkeypatch.chdir(tmp_path)
    assert runs_dir() == tmp_path / "runs"
    written(runs_dir())
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [record.name for record in find_records("x", "sample")] == ["x"]
    monkeypatch.setenv("RUNS_DIR", "~nobody-of-that-name/runs")
    refused(runs_dir, "RUNS_DIR=~nobody-of-that-name/runs", "write the path out")


def test_a_clone_that_cannot_be_written_to_shows_its_figures(tmp_path, monkeypatch, capsys):
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
    assert len(shown) == 1 and shown[0].axes
    assert (
        capsys.readouterr().out
        == f"figures are not saved, since {registry.FOLDER / 'cpu'} cannot be written to (Not a directory)\n"
    )
    assert {path: path.stat().st_mtime_ns for path in clone.rglob("*")} == before


# ---------------------------------------------------------------- folders that are no record


def test_a_folder_that_is_no_run_s_is_refused_in_one_line(tmp_path):
    for name in ("mine", "seed-x", "seed-", "seed-0.20261127-120000"):
        refused(lambda name=name: Record(tmp_path / "sample" / "x" / name), "is no run's folder", "seed-<n>")


def test_a_result_without_its_settings_is_refused_and_kept(runs_dir):
    record = written(runs_dir)
    (record.path / "settings.json").unlink()
    refused(lambda: Record(record.path).load(), "settings.json is damaged", "remove the folder")
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        refused(lambda: folder.start({"lr": 0.1}, PROVENANCE), "settings.json is damaged")
    assert (record.path / "result.json").exists() and len(record.rows) == 2


def test_a_file_in_place_of_a_run_s_folder_is_refused_and_kept(runs_dir):
    path = runs_dir / "own" / "mine" / "seed-0"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    refused(lambda: pipeline(mlp(), digits(), held(), name="mine", **QUICK), "cannot write records to")
    assert path.read_text() == "mine"


def test_an_error_s_first_line_has_no_colours_of_a_terminal():
    assert first_line(ValueError("\x1b[1mweights only\x1b[0m load failed\nmore")) == "weights only load failed"
