"""Imports point one way: each module stands on those below it, and nothing is imported late but what is heavy."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from helpers import ROOT

# From the ground up. A room imports its own modules and those of the lines above it.
ORDER = [
    "deepnet.valid", "deepnet.text", "deepnet.grid", "experimentTable", "modelBlock", "myModel", "deepnet.machine",
    "deepnet.seeds", "deepnet.progress", "deepnet.records", "deepnet.account", "deepnet.claims",
    "deepnet.speed", "deepnet.data", "deepnet.training", "deepnet.analyses", "deepnet.runs", "deepnet.search",
    "deepnet.figures", "deepnet.diagnosis", "deepnet.document", "deepnet.explorer", "deepnet.command_line",
    "utilityFunction", "coreFunction", "run",
]  # fmt: skip
FILES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in ROOT.glob("deepnet/**/*.py")
}
FILES = {name.removesuffix(".__init__"): path for name, path in FILES.items()} | {
    path.stem: path for path in ROOT.glob("*.py") if path.stem != "setup"
}
# What takes long to import, or need not be installed.
HEAVY = {
    "IPython", "PIL", "altair", "dask", "filelock", "huggingface_hub", "matplotlib", "optuna", "pandas", "pyarrow",
    "rocrate", "scipy", "sklearn", "sqlalchemy", "threadpoolctl", "torch", "torchvision", "tqdm", "vl_convert",
    "wandb",
}  # fmt: skip


def room(name: str) -> str:
    """The line of ORDER that a module stands in."""
    return next(line for line in ORDER if name == line or name.startswith(line + "."))


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a file imports, and whether it does so within a function."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}" if f"{module}.{alias.name}" in FILES else module for alias in node.names]
        for name in dict.fromkeys(names):
            yield name, id(node) not in top


@functools.cache
def brings(name: str) -> frozenset[str]:
    """The heavy libraries that importing a module of the project imports, in which there is no circle."""
    found: set[str] = set()
    for other, late in imported(FILES[name]):
        if not late and other.partition(".")[0] in HEAVY:
            found.add(other.partition(".")[0])
        elif not late and other in FILES:
            found |= brings(other)
    return frozenset(found)


def test_every_module_stands_in_a_room():
    assert {room(name) for name in FILES if name != "deepnet"} == set(ORDER)


def test_imports_point_one_way():
    against = [
        f"{name} imports {other}"
        for name, path in FILES.items()
        for other, _ in imported(path)
        if other in FILES and name != "deepnet" and ORDER.index(room(other)) > ORDER.index(room(name))
    ]
    assert against == []


def test_there_is_no_circle():
    TopologicalSorter({name: [o for o, _ in imported(path) if o in FILES] for name, path in FILES.items()}).prepare()


def test_only_heavy_libraries_are_imported_late():
    for name, path in FILES.items():
        for other, late in imported(path):
            if late and other in FILES:
                assert brings(other) - brings(name), f"{name} imports {other} late, which brings nothing heavy"
            elif late:
                assert other.partition(".")[0] in HEAVY, f"{name} imports {other} late"


def test_reading_needs_no_torch():
    rooms = ("records.reading", "claims.ledger", "figures.registry", "figures.words", "command_line")
    reading = [*(f"deepnet.{name}" for name in rooms), "run"]
    code = f"import importlib, sys; sys.modules['torch'] = None; [importlib.import_module(name) for name in {reading}]"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
