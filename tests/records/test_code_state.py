"""The code that made a record: which commit counts, what makes it count no more, and what is refused as evidence for
it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, refused
from small_records import EXPERIMENT, PROVENANCE, written

from deepnet.records import code, reading
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


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "EVIDENCE", tmp_path / "evidence")
    return tmp_path / "evidence"


# ---------------------------------------------------------------- the commit, and what differs from it


def test_what_is_committed_is_its_commit_s(clone):
    found = code.state(clone)
    assert (found["commit"], found["dirty"], found["uncommitted"]) == (git(clone, "rev-parse", "HEAD"), False, None)
    assert len(found["code"]) == 64


def edit_staged(clone):
    (clone / "coreFunction.py").write_text("x = 1\n")
    git(clone, "add", ".")


def edit_unseen(clone):
    git(clone, "update-index", "--assume-unchanged", "coreFunction.py")
    (clone / "coreFunction.py").write_text("x = 1\n")


CHANGES = {
    "an edit": (lambda clone: (clone / "coreFunction.py").write_text("x = 1\n"), "coreFunction.py"),
    "an edit that is staged": (edit_staged, "coreFunction.py"),
    "an edit that git does not look at": (edit_unseen, "coreFunction.py"),
    "a module that is gone": (lambda clone: (clone / "coreFunction.py").unlink(), "coreFunction.py"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_module_that_differs_makes_it_dirty_and_is_named(clone, change):
    act, module = CHANGES[change]
    before = code.state(clone)
    act(clone)
    found = code.state(clone)
    assert (found["commit"], found["dirty"]) == (before["commit"], True)
    assert found["uncommitted"] == f"not as commit {before['commit'][:7]} has it: {module}"
    assert found["code"] != before["code"]


def test_what_is_no_module_of_the_project_does_not_count(clone):
    (clone / "tests").mkdir()
    (clone / "tests" / "test_mine.py").touch()
    (clone / "notes.md").touch()
    assert not code.state(clone)["dirty"]


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
def test_a_module_that_is_not_committed_counts_once_it_is_imported(clone, path, name, ignored):
    if ignored:
        (clone / ".git" / "info" / "exclude").write_text(f"{path}\n")
    done = subprocess.run(
        [sys.executable, "-c", UNTRACKED, path, name], cwd=clone, capture_output=True, text=True, check=True
    )
    (beside, imported), (kept, changed), same = json.loads(done.stdout)
    assert (beside, kept, same) == (None, None, True)
    assert imported == f"not as commit {git(clone, 'rev-parse', 'HEAD')[:7]} has it: {path}"
    assert changed == f"its code was changed while it ran: {path}"


def test_a_script_that_is_not_committed_counts_where_it_is_run(clone):
    (clone / "mine.py").write_text("from deepnet.records import code\nprint(code.state()['uncommitted'])\n")
    done = subprocess.run([sys.executable, "mine.py"], cwd=clone, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("has it: mine.py")


def test_a_checkout_with_other_line_ends_is_the_commit_s(clone):
    git(clone, "config", "core.autocrlf", "true")
    path = clone / "coreFunction.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert not code.state(clone)["dirty"]


def test_another_repository_around_the_project_is_not_its_commit(tmp_path, clone):
    shutil.rmtree(clone / ".git")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "another")
    found = code.state(clone)
    assert (found["commit"], found["dirty"]) == (None, True)
    assert found["uncommitted"] == f"{clone} lies within another repository, {tmp_path}"


def test_the_environment_names_no_other_repository(tmp_path, clone, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert not code.state(clone)["dirty"]


def test_without_a_repository_there_is_no_commit(clone):
    shutil.rmtree(clone / ".git")
    found = code.state(clone)
    assert (found["commit"], found["uncommitted"]) == (None, f"{clone} is no git repository with a commit")


def test_without_git_there_is_no_commit(clone, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code.state(clone)["uncommitted"] == "git does not answer (FileNotFoundError)"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder to another user"
)
def test_a_clone_of_another_user_s_is_told_how_to_be_trusted(clone, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # where no folder is trusted
    monkeypatch.delenv("SUDO_UID", raising=False)
    for path in (clone, clone / ".git"):
        os.chown(path, 1234, 1234)
    found = code.state(clone)
    assert (found["commit"], found["dirty"]) == (None, True)
    assert f"`git config --global --add safe.directory {clone}`" in found["uncommitted"]


IN_ONE_PROCESS = """
import importlib, os, subprocess, sys, time
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


def test_an_edit_and_a_reload_count_even_where_the_edit_is_taken_back(clone):
    """What the process has imported may be the edited module then, though the file is the commit's again."""
    done = subprocess.run([sys.executable, "-c", IN_ONE_PROCESS], cwd=clone, capture_output=True, text=True, check=True)
    edited, taken_back, at_the_end = done.stdout.splitlines()
    assert edited.endswith("has it: deepnet/text.py")
    assert taken_back == "written after this process had begun: deepnet/text.py; start it anew"
    assert at_the_end == "its code was changed while it ran: deepnet/text.py"


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


def test_every_part_of_a_run_is_in_its_record_with_what_made_it(runs_dir):
    record = in_parts(runs_dir, CLEAN | {"threads": 1}, CLEAN | {"threads": 2})
    assert [part["threads"] for part in record.settings["parts"]] == [1, 2]
    assert all(CLEAN.items() <= part.items() for part in record.settings["parts"])
    assert record.result["began"] == record.settings["parts"][0]["time"] <= record.result["ended"]
    assert record.result["uncommitted"] is None
    assert record.result["sha256"].keys() == {"settings.json", "rows.jsonl"}


EDITED = CLEAN | {"dirty": True, "uncommitted": "not as commit ccccccc has it: coreFunction.py"}


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((CLEAN, EDITED), "not as commit ccccccc has it: coreFunction.py"),
        ((EDITED, CLEAN), "not as commit ccccccc has it: coreFunction.py"),
        ((CLEAN, CLEAN | {"commit": "d" * 40}), "its parts were made by several commits, ccccccc, ddddddd"),
        ((CLEAN | {"code": "another"},), "its code was changed while it ran"),
    ],
    ids=["edited after a kill", "edited before a kill", "committed after a kill", "edited while it ran"],
)
def test_mixed_or_changed_code_stands_in_the_record_and_is_no_evidence(runs_dir, evidence, parts, why):
    record = in_parts(runs_dir, *parts)
    assert record.result["uncommitted"] == why
    refused(lambda: publish(record), f"x (seed 0) was made from uncommitted code ({why})", "train it with --fresh")
    assert not evidence.exists()


def test_settings_that_were_changed_after_the_result_are_refused(runs_dir):
    record = in_parts(runs_dir, EDITED)
    path = record.path / "settings.json"
    path.write_text(path.read_text().replace("true", "false"))
    refused(lambda: Record(record.path).settings, "settings.json is not the file that its result.json names")


def test_what_was_computed_on_the_processor_names_no_gpu(monkeypatch):
    from deepnet import machine

    monkeypatch.setattr(machine, "device", lambda: pytest.fail("the device was asked for"))
    made = provenance("fp32", on_processor=True)
    assert (made["device"], made["precision"]) == ("cpu", "fp32")


@pytest.mark.parametrize(
    ("name", "has"), [("tsne_mnist", True), ("baseline", True), ("distribution", False), ("MLP_4", False)]
)
def test_scikit_learn_s_version_is_in_the_records_that_it_computed(made, name, has):
    from importlib.metadata import version

    made_by = Record(made / "sample" / name / "seed-0").settings["provenance"]
    assert made_by.get("scikit-learn") == (version("scikit-learn") if has else None)
    if name in ("tsne_mnist", "distribution"):
        assert (made_by["device"], made_by["precision"]) == ("cpu", "fp32")


def test_a_package_that_is_missing_is_named():
    refused(
        lambda: provenance("fp32", packages=["no-such-package"]),
        "no-such-package is not installed",
        "pip install no-such-package",
    )


# ---------------------------------------------------------------- attempts before the one that counts


def test_attempts_that_were_moved_aside_or_replaced_are_published_as_superseded(runs_dir, evidence):
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
