"""`pip install -e .`: every module can be imported from any folder, and finds the sample; only the core is needed."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["py-modules"]
PACKAGE = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "deepnet").rglob("*.py"))]
OPTIONAL = ("wandb", "optuna", "sklearn", "scipy", "matplotlib", "tqdm", "pyarrow", "huggingface_hub", "IPython")

NOTEBOOK = """
import importlib, json, sys
files = {name: importlib.import_module(name).__file__ for name in sys.argv[1:]}
from dataFunction import load_images
print(json.dumps({"files": files, "images": len(load_images("mnist", "train", "sample"))}))
"""


def output(command: list[str | Path], folder: Path, **environment: str) -> str:
    """What the command prints, run in `folder` with no way to the modules but an install; its errors fail the test."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DATA_DIR")} | environment
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_editable_install_serves_a_notebook_in_any_folder(tmp_path):
    """In an environment of its own that sees this one's packages (torch is not installed twice), without the network."""
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
