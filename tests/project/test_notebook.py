"""The notebook, top to bottom and twice, in the sample profile with its budgets cut to a step and its sets to a few
images.
"""

import json
import os
import re
import shutil

import nbformat
import pytest
from helpers import ROOT, untimed
from nbclient import NotebookClient

from deepnet.figures.registry import FIGURES

SMALL = """
import os, pathlib, deepnet.figures.registry
from helpers import tiny_sample
deepnet.figures.registry.FOLDER = pathlib.Path(os.environ["RUNS_DIR"]) / "figures"
small = tiny_sample()
small.__enter__()
"""


def executed(figures: bool = True) -> nbformat.NotebookNode:
    """The notebook after its execution; without the lines that show a figure where `figures` is False."""
    notebook = nbformat.read(ROOT / "main.ipynb", as_version=4)
    if not figures:
        for cell in notebook.cells:
            cell.source = re.sub(r"^show\(.*\n?", "", cell.source, flags=re.MULTILINE)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SMALL))
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    return notebook


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list:
    return [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == kind
    ]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[nbformat.NotebookNode, dict, nbformat.NotebookNode, dict]:
    """The executed notebook and when each result was written, for two executions one after the other."""
    runs = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_DIR", str(runs))
        patch.setenv("PROFILE", "sample")
        patch.setenv("CHECKPOINT_SECONDS", "3600")  # a slow machine writes no gigabytes that nobody goes on from
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        first = executed()
        written = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}
        openings = (runs / "sample" / "openings.jsonl").read_bytes()
        second = executed(figures=False)  # the first has drawn them
        assert (runs / "sample" / "openings.jsonl").read_bytes() == openings
        again = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json") if "/own/" not in str(path)}
        yield first, written, second, again
    shutil.rmtree(runs)


def test_every_figure_is_drawn(twice):
    pictures = [out for out in outputs(twice[0], "display_data") if "image/png" in out.data]
    controls = {"3.7", "3.7b", "4.5", "4.5b", "4.6"}  # no budget in the sample
    assert len(pictures) == len(FIGURES) - len(controls)


def test_every_row_has_a_record(twice):
    from experimentTable import ROWS, experiment, is_supported

    recorded = {path.parent.parent.name for path in twice[1]}
    assert {row.name for row in ROWS if is_supported(experiment(row.name, "sample"))} <= recorded


def test_the_second_time_nothing_is_trained(twice):
    _, written, _, again = twice
    assert again == {path: time for path, time in written.items() if "/own/" not in str(path)}


def test_the_readers_own_model_is_trained_anew_and_comes_out_the_same(twice):
    (result,) = [path for path in twice[1] if "/own/" in str(path)]
    folders = list(result.parent.parent.glob("seed-0*"))  # the first one has been moved aside
    first, second = (untimed([json.loads(line) for line in (folder / "rows.jsonl").open()]) for folder in folders)
    assert first == second and len(first) == 11


def test_nothing_is_said_on_standard_error_and_no_verdict_in_the_sample(twice):
    streams = outputs(twice[0], "stream") + outputs(twice[2], "stream")
    assert [out.text for out in streams if out.name == "stderr"] == []
    said = " ".join(out.text for out in streams)
    assert not any(verdict in said for verdict in ("holds", "fails", "undecided"))


def test_the_committed_notebook_names_no_error():
    notebook = nbformat.read(ROOT / "main.ipynb", as_version=4)
    assert outputs(notebook, "error") == []
