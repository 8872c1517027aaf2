"""`pip install -e .`: every module can be imported from any folder, and finds the sample; only the core is needed."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES: list[str] = PROJECT["tool"]["setuptools"]["py-modules"]
PACKAGE = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "deepnet").rglob("*.py"))]
OPTIONAL = ("wandb", "optuna", "sklearn", "scipy", "matplotlib", "tqdm", "pyarrow", "huggingface_hub", "IPython")

NOTEBOOK = """
import importlib, json, sys
files = {name: importlib.import_module(name).__file__ for name in sys.argv[1:]}
from deepnet.data.sets import load_images
print(json.dumps({"files": files, "images": len(load_images("mnist", "train", "sample"))}))
"""


def output(command: list[str | Path], folder: Path, **environment: str) -> str:
    """What the command prints, run in `folder` with no way to the modules but an install; its errors fail the test."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DATA_DIR")} | environment
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_editable_install_serves_a_notebook_in_any_folder(tmp_path):
    """In an environment of its own that sees this one's packages (torch is not installed twice), without the
    network.
    """
    place, elsewhere = tmp_path / "environment", tmp_path / "my notebooks"
    venv.create(place, symlinks=os.name != "nt")
    paths = sysconfig.get_paths("venv", {"base": str(place), "platbase": str(place)})
    python = Path(paths["scripts"]) / "python"
    Path(paths["purelib"], "these.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    output([*pip, "--no-build-isolation", "--editable", ROOT], tmp_path, PIP_DISABLE_PIP_VERSION_CHECK="1")

    elsewhere.mkdir()
    (elsewhere / "notebook.py").write_text(NOTEBOOK)
    seen = json.loads(output([python, "notebook.py", *MODULES, *PACKAGE], elsewhere).splitlines()[-1])

    assert seen["files"] == {name: str(ROOT / f"{name.replace('.', '/')}.py") for name in [*MODULES, *PACKAGE]}
    assert seen["images"] > 0


def test_the_modules_are_imported_without_what_only_some_calls_need():
    blocked = f"import importlib, sys; sys.modules.update(dict.fromkeys({OPTIONAL}))"
    output([sys.executable, "-c", f"{blocked}; [importlib.import_module(name) for name in {MODULES}]"], ROOT)


def test_the_lowest_versions_that_are_allowed_are_those_that_were_tried():
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    allowed = dict(
        re.fullmatch(r"([\w-]+)>=([\d.]+)", entry).groups() for group in groups for entry in group if "[" not in entry
    )
    lines = (ROOT / "requirements-lowest.txt").read_text().splitlines()
    tried = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert allowed.keys() == tried.keys()
    assert {name for name, version in allowed.items() if not f"{tried[name]}.0.0".startswith(f"{version}.")} == set()


def test_the_package_is_whole():
    packages = {name.rpartition(".")[0] for name in PACKAGE if name.endswith(".__init__")}
    assert set(find_packages(ROOT, include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])) == packages
    assert {f"{name}.py" for name in MODULES} == {path.name for path in ROOT.glob("*.py")} - {"setup.py"}
    assert not list((ROOT / "report").rglob("*.py"))  # what is read, no code
