"""The code that makes a record: its commit, what differs from it, and what is refused as evidence because of that."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, refused
from small_records import EXPERIMENT, PROVENANCE, written

from deepnet.records import code
from deepnet.records.folder import RunFolder
from deepnet.records.provenance import provenance
from deepnet.records.publish import publish
from deepnet.records.reading import Record

CLEAN = PROVENANCE | {"uncommitted": None}


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A repository of the project's modules, all committed."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "deepnet", folder / "deepnet", ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "all")
    return folder


# ---------------------------------------------------------------- the commit, and what differs from it


def test_clean_clone(clone, tmp_path, monkeypatch):
    """Files that are not modules do not count, nor do line endings that git converts, nor GIT_DIR."""
    git(clone, "config", "core.autocrlf", "true")
    path = clone / "coreFunction.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (clone / "tests").mkdir()
    (clone / "tests" / "test_mine.py").touch()
    (clone / "notes.md").touch()
    commit = git(clone, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    found = code.state(clone)
    assert (found["commit"], found["dirty"], found["uncommitted"]) == (commit, False, None)
    assert len(found["code"]) == 64


def edit(clone: Path) -> None:
    (clone / "coreFunction.py").write_text("x = 1\n")


def edit_assumed_unchanged(clone: Path) -> None:
    git(clone, "update-index", "--assume-unchanged", "coreFunction.py")
    edit(clone)


def remove(clone: Path) -> None:
    (clone / "coreFunction.py").unlink()


@pytest.mark.parametrize("change", [edit, edit_assumed_unchanged, remove])
def test_changed_module(clone, change):
    before = code.state(clone)
    change(clone)
    found = code.state(clone)
    assert (found["commit"], found["dirty"]) == (before["commit"], True)
    assert found["uncommitted"] == f"differs from commit {before['commit'][:7]}: coreFunction.py"
    assert found["code"] != before["code"]


def said_in(clone: Path, *command: str) -> str:
    """What a Python started in the clone prints."""
    return subprocess.run([sys.executable, *command], cwd=clone, capture_output=True, text=True, check=True).stdout


UNTRACKED = """
import importlib, json, pathlib, sys
from deepnet.records import code
path, imported = pathlib.Path(sys.argv[1]), sys.argv[2]
begun = code.state()
path.write_text("x = 1\\n")
states = [code.state()]
path.write_text("x = 2\\n")
at_the_ends = [code.why_not_one_commit([begun])]
importlib.import_module(imported)
states.append(code.state())
at_the_ends.append(code.why_not_one_commit([begun]))
print(json.dumps([[state["uncommitted"] for state in states], at_the_ends, begun["code"] == states[0]["code"]]))
"""


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    ("path", "name"), [("scratchpad.py", "scratchpad"), ("deepnet/records/mine.py", "deepnet.records.mine")]
)
def test_uncommitted_module(clone, path, name, ignored):
    """It counts once it is imported."""
    if ignored:
        (clone / ".git" / "info" / "exclude").write_text(f"{path}\n")
    (beside, imported), (kept, changed), same = json.loads(said_in(clone, "-c", UNTRACKED, path, name))
    assert (beside, kept, same) == (None, None, True)
    assert imported == f"differs from commit {git(clone, 'rev-parse', 'HEAD')[:7]}: {path}"
    assert changed == f"its code was changed while it ran: {path}"


def test_uncommitted_script(clone):
    (clone / "mine.py").write_text("from deepnet.records import code\nprint(code.state()['uncommitted'])\n")
    assert said_in(clone, "mine.py").strip().endswith(": mine.py")


REVERTED = """
import importlib
from deepnet.records import code
import deepnet.text
path = "deepnet/text.py"
before, state = open(path).read(), code.state()
assert not state["dirty"], state
open(path, "w").write(before + "# edited\\n")
importlib.reload(deepnet.text)
print(code.state()["uncommitted"])
open(path, "w").write(before)
print(code.state()["uncommitted"])
print(code.why_not_one_commit([state]))
"""


def test_edit_that_was_reverted(clone):
    """What the process has imported may be the edited module, though the file is the commit's again."""
    edited, reverted, at_the_end = said_in(clone, "-c", REVERTED).splitlines()
    assert edited.endswith(": deepnet/text.py")
    assert reverted == "written after this process had begun: deepnet/text.py; restart it"
    assert at_the_end == "its code was changed while it ran: deepnet/text.py"


def test_without_a_repository(tmp_path, clone, monkeypatch):
    """No commit counts: not another repository's, and none where git is missing."""
    shutil.rmtree(clone / ".git")
    reasons = [f"{clone} is not a git repository with a commit"]
    found = [code.state(clone)]
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "another")
    reasons.append(f"{clone} lies within another repository, {tmp_path}")
    found.append(code.state(clone))
    monkeypatch.setenv("PATH", "")
    reasons.append("git does not answer (FileNotFoundError)")
    found.append(code.state(clone))
    assert [state["uncommitted"] for state in found] == reasons
    assert {(state["commit"], state["dirty"]) for state in found} == {(None, True)}


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder to another user"
)
def test_clone_of_another_user(clone, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # where no folder is trusted
    monkeypatch.delenv("SUDO_UID", raising=False)
    for path in (clone, clone / ".git"):
        os.chown(path, 1234, 1234)
    found = code.state(clone)
    assert (found["commit"], found["dirty"]) == (None, True)
    assert f"`git config --global --add safe.directory {clone}`" in found["uncommitted"]


# ---------------------------------------------------------------- the parts of a run


def in_parts(runs_dir, *parts):
    """A record that was begun with the first of these and went on with each of the others."""
    for part in parts:
        with RunFolder(EXPERIMENT, runs_dir) as folder:
            folder.start({"lr": 0.1}, part)
            for epoch in (0, 1):
                folder.append({"epoch": epoch, "test_accuracy": 0.5})
            folder.checkpoint({"epoch": 1})
            if part is parts[-1]:
                return folder.finish({"status": "finished", "reason": None, "split": "test", "accuracy": 0.5})


def test_parts(runs_dir):
    record = in_parts(runs_dir, CLEAN | {"threads": 1}, CLEAN | {"threads": 2})
    assert [part["threads"] for part in record.settings["parts"]] == [1, 2]
    assert all(CLEAN.items() <= part.items() for part in record.settings["parts"])
    assert record.result["began"] == record.settings["parts"][0]["time"] <= record.result["ended"]
    assert record.result["uncommitted"] is None
    assert record.result["sha256"].keys() == {"settings.json", "rows.jsonl"}


def test_a_run_that_begins_again_is_made_by_its_last_call_alone(runs_dir):
    for commit in "cd":
        with RunFolder(EXPERIMENT, runs_dir) as folder:
            folder.start({"lr": 0.1}, CLEAN | {"commit": commit * 40})
            folder.append({"epoch": 0, "test_accuracy": 0.5})  # and no checkpoint
            if commit == "d":
                record = folder.finish({"status": "finished", "reason": None, "split": "test", "accuracy": 0.5})
    assert record.settings["provenance"] == CLEAN | {"commit": "d" * 40}
    assert [part["commit"] for part in record.settings["parts"]] == ["d" * 40] and len(record.rows) == 1
    assert record.result["uncommitted"] is None


EDITED = CLEAN | {"dirty": True, "uncommitted": "differs from commit ccccccc: coreFunction.py"}


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((CLEAN, EDITED), "differs from commit ccccccc: coreFunction.py"),
        ((EDITED, CLEAN), "differs from commit ccccccc: coreFunction.py"),
        ((CLEAN, CLEAN | {"commit": "d" * 40}), "its parts were made by several commits, ccccccc, ddddddd"),
        ((CLEAN | {"code": "another"},), "its code was changed while it ran"),
    ],
    ids=["edited after a kill", "edited before a kill", "committed after a kill", "edited while it ran"],
)
def test_mixed_or_changed_code(runs_dir, evidence, parts, why):
    record = in_parts(runs_dir, *parts)
    assert record.result["uncommitted"] == why
    refused(lambda: publish(record), f"x (seed 0) was made from uncommitted code ({why})", "train it with --fresh")
    assert not evidence.exists()


def test_provenance_on_the_processor(monkeypatch):
    from deepnet import machine

    monkeypatch.setattr(machine, "device", lambda: pytest.fail("the device was used"))
    made = provenance("fp32", on_processor=True)
    assert (made["device"], made["precision"]) == ("cpu", "fp32")


def test_missing_package():
    remedy = "no-such-package is not installed; pip install no-such-package"
    refused(lambda: provenance("fp32", packages=["no-such-package"]), remedy)


# ---------------------------------------------------------------- attempts before the one that counts


def test_superseded_attempts(runs_dir, evidence):
    written(runs_dir, finished=False)
    for accuracy in (0.3, 0.6):
        with RunFolder(EXPERIMENT, runs_dir) as folder:
            folder.start({"lr": 0.1}, PROVENANCE, fresh=True)
            folder.save_weights({})
            record = folder.finish({"status": "failed", "reason": f"stopped at {accuracy}", "accuracy": accuracy})
    publish(record)
    kept = {path.name: path for path in (evidence / "superseded" / "sample" / "x").iterdir()}
    assert len(kept) == 2 and all(name.startswith("seed-0.") for name in kept)
    results = [path / "result.json" for path in kept.values() if (path / "result.json").exists()]
    assert ["stopped at 0.3" in result.read_text() for result in results] == [True]
    assert not list(evidence.rglob("*.pt"))
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE, fresh=True)
        again = folder.finish({"status": "finished", "reason": None, "split": "test", "accuracy": 0.9})
    shutil.rmtree(
        next(path.parent for path in runs_dir.glob("sample/x/seed-0.*/result.json") if "0.6" in path.read_text())
    )
    assert Record(publish(again)).result == again.result
    assert sum("stopped at 0.6" in path.read_text() for path in evidence.glob("superseded/sample/x/*/result.json")) == 1
