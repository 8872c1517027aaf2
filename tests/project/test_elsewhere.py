"""The project among a reader's own files and tools: names that are theirs too, other line ends, papermill, other
folders.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from nbclient import NotebookClient
from test_install import MODULES, PACKAGE

from deepnet.records.files import sha256

# ---------------------------------------------------------------- a reader's own modules

TAKEN = (
    "report", "run", "records", "figures", "data", "utils", "train", "search", "text", "lab", "claims", "speed",
    "training", "model",
)  # fmt: skip
USE = """
import importlib, sys
from pathlib import Path
for name in sys.argv[1:]:
    importlib.import_module(name)
sys.path.append(str(Path(importlib.import_module("coreFunction").__file__).parent / "tests"))
from dataclasses import replace
from coreFunction import run
from experimentTable import EXPERIMENTS
from helpers import tiny_sample
from utilityFunction import check, curves, draw, ledger, save, show
with tiny_sample():
    record = run(replace(EXPERIMENTS["MLP_4"], name="mine", profile="sample"), wandb=False)
print(record.finished, draw("3.1", "paper").get_suptitle()[:3], check("3a", "paper").verdict, len(ledger("cpu")) > 20)
curves(record, "train_loss").draw_without_rendering()
"""


def test_a_readers_files_of_any_name_are_in_nobodys_way(tmp_path):
    for name in TAKEN:
        (tmp_path / f"{name}.py").write_text("raise ImportError(f'the reader\\'s own {__name__} was imported')")
    modules = [name for name in (*MODULES, *PACKAGE) if name not in TAKEN]
    assert len(modules) == len(MODULES) + len(PACKAGE) - 1  # all but run.py, which is the reader's here
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", USE, *modules], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True 3.1 fails True"


def test_the_utilities_name_what_they_lend_and_nothing_else():
    import utilityFunction
    from deepnet.claims.ledger import check
    from deepnet.figures.registry import draw

    assert (utilityFunction.draw, utilityFunction.check) == (draw, check)
    assert {"curves", "draw", "save", "show", "check", "ledger", "device"} <= set(dir(utilityFunction))
    with pytest.raises(AttributeError, match="module 'utilityFunction' has no attribute 'drawn'"):
        _ = utilityFunction.drawn
    code = "import sys, utilityFunction; print(any(name.startswith('matplotlib') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------- a clone with other line ends


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_a_clone_with_windows_line_ends_has_the_same_bytes(tmp_path):
    settings = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    command = ["git", "clone", "--quiet", "--no-hardlinks", *settings, str(ROOT), "clone"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    clone, checked = tmp_path / "clone", 0
    for result in clone.glob("report/records/**/result.json"):
        for file, digest in json.loads(result.read_text())["sha256"].items():
            if file != "weights.pt":
                assert sha256(result.parent / file) == digest, result.parent / file
                checked += 1
    assert checked > 400
    patterns = "tests/golden.json", "report/records/**/*.json*", "data/sample/**/*.parquet"
    fixed = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert all((clone / path.relative_to(ROOT)).read_bytes() == path.read_bytes() for path in fixed)
    assert b"\r" not in (clone / "experimentTable.py").read_bytes() + (clone / ".ci" / "run").read_bytes()


# ---------------------------------------------------------------- papermill


def begun(profile: str | None, tmp_path: Path) -> str:
    """What the notebook's first cells print, with a cell behind its parameters, as papermill puts one there."""
    notebook = nbformat.read(ROOT / "main.ipynb", as_version=4)
    (at,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    notebook.cells = notebook.cells[: at + 2]
    if profile:
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(f'PROFILE = "{profile}"'))
    notebook.cells.append(nbformat.v4.new_code_cell("print(current_profile())"))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", ()))


@pytest.mark.parametrize(
    ("environment", "parameter", "taken"), [("paper", "cpu", "cpu"), ("cpu", None, "cpu"), ("", None, "paper")]
)
def test_the_notebook_takes_its_profile_from_papermill_or_the_environment(
    environment, parameter, taken, tmp_path, monkeypatch
):
    monkeypatch.setenv("PROFILE", environment)
    said = begun(parameter, tmp_path).splitlines()
    assert said[0].startswith(f"profile {taken}: ") and said[-1] == taken


# ---------------------------------------------------------------- installed without -e


def test_an_installation_that_would_leave_the_data_behind_is_refused(tmp_path):
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns(".git", "runs", "records", "sample", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=ignored)
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--target"]
    command = [sys.executable, "-m", "pip", "install", *options, tmp_path / "there", clone]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "pip install -e ." in done.stdout + done.stderr
    assert not (tmp_path / "there").exists() or not list((tmp_path / "there").iterdir())
