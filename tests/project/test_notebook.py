"""The notebook: what each of its sections has, what the committed one says, the page that is made of it, and its
execution, twice, in the sample profile with its budgets cut to a step and its sets to a few images.
"""

import json
import os
import re
import shutil
import subprocess
import sys

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


def committed() -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "main.ipynb", as_version=4)


def executed(again: bool = False) -> nbformat.NotebookNode:
    """The notebook after its execution; `again`: without what was shown the first time, figures and lessons."""
    notebook = committed()
    if again:
        notebook.cells = [cell for cell in notebook.cells if "live" not in tags(cell) or "my_digits" in cell.source]
        for cell in notebook.cells:
            cell.source = re.sub(r"^show\(.*\n?", "", cell.source, flags=re.MULTILINE)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SMALL))
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    return notebook


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list:
    all_outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output for output in all_outputs if output.output_type == kind]


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
        second = executed(again=True)
        assert (runs / "sample" / "openings.jsonl").read_bytes() == openings
        again = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json") if "/own/" not in str(path)}
        yield first, written, second, again
    shutil.rmtree(runs)


def test_every_figure_is_drawn(twice):
    shown = "\n".join(out.data["text/plain"] for out in outputs(twice[0], "display_data"))
    assert set(FIGURES) - set(re.findall(r"^<(\S+) ", shown, flags=re.MULTILINE)) == set()


def test_every_row_has_a_record(twice):
    from experimentTable import ROWS, experiment, is_supported

    recorded = {path.parent.parent.name for path in twice[1]}
    assert {row.name for row in ROWS if is_supported(experiment(row.name, "sample"))} <= recorded


def test_the_second_time_nothing_is_trained(twice):
    _, written, _, again = twice
    assert again == {path: time for path, time in written.items() if "/own/" not in str(path)}


def test_the_readers_own_model_is_trained_again_with_equal_results(twice):
    (result,) = [path for path in twice[1] if "/own/" in str(path)]
    folders = list(result.parent.parent.glob("seed-0*"))  # the first one has been moved aside
    first, second = (untimed([json.loads(line) for line in (folder / "rows.jsonl").open()]) for folder in folders)
    assert first == second and len(first) == 11


def test_nothing_is_said_on_standard_error_and_no_verdict_in_the_sample(twice):
    streams = outputs(twice[0], "stream") + outputs(twice[2], "stream")
    assert [out.text for out in streams if out.name == "stderr"] == []
    said = " ".join(out.text for out in streams)
    assert not any(verdict in said for verdict in ("as claimed", "contradicted", "undecided"))


# ---------------------------------------------------------------- what it says

PARTS = {  # what each section has, and how it is known
    "the idea": r"\*\*The idea\.\*\*",
    "what the report said": r"\*\*The report said\*\*",
    "the code as it stands": r"^code\(",
    "the run": r"run_all\(",
    "a figure": r"^(show|\w+_diagram)\(",
    "a table": r"^\w+_table\(",
    "what it shows": r"\*\*What it shows",
    "the verdict": r"^verdicts_of\(",
    "something to try": r"\*\*Try it\.\*\*",
}
FAILED = ("neither cached", "no finished record", "does not answer", "no budget", "  0%|", "http")


def sections() -> dict[str, list[nbformat.NotebookNode]]:
    """The cells of each section by its heading; a section's heading may stand at the end of a cell of text."""
    found: dict[str, list[nbformat.NotebookNode]] = {}
    heading = ""
    for cell in committed().cells:
        for piece in re.split(r"^(?=##)", cell.source, flags=re.MULTILINE) if cell.cell_type == "markdown" else [""]:
            if piece.startswith("##"):
                heading = piece.splitlines()[0].strip("# ")
            part = nbformat.from_dict({**cell, "source": piece}) if piece else cell
            found.setdefault(heading, []).append(part)
    return found


def test_each_section_has_its_parts():
    numbered = {heading: cells for heading, cells in sections().items() if re.match(r"\d\.\d ", heading)}
    assert len(numbered) == 13
    for heading, cells in numbered.items():
        source = "\n".join(cell.source for cell in cells)
        lacking = [part for part, sign in PARTS.items() if not re.search(sign, source, re.MULTILINE)]
        assert not lacking, f"{heading} lacks {', '.join(lacking)}"
        assert sum("live" in tags(cell) for cell in cells) == 1, heading


def test_each_chapter_ends_with_an_exercise():
    source = "\n".join(cell.source for cell in committed().cells)
    assert [int(number) for number in re.findall(r"^\*\*Exercise (\d)\.\*\*", source, re.MULTILINE)] == [2, 3, 4, 5]


def test_links_lead_to_headings_and_files():
    source = "\n".join(cell.source for cell in committed().cells if cell.cell_type == "markdown")
    headings = {heading.replace(" ", "-") for heading in sections()}
    for link in re.findall(r"\]\(([^)]+)\)", source):
        assert (link[1:] in headings) if link.startswith("#") else (ROOT / link).exists(), link


def test_no_number_of_a_result_is_typed():
    """What the text says of results it computes: numbers with three decimals stand in no text as they are."""
    source = "\n".join(cell.source for cell in committed().cells if cell.cell_type == "markdown")
    assert re.findall(r"0\.\d{3,}", source.replace("is 0.507", "")) == []  # the report's own


def test_the_committed_notebook_shows_no_failure_and_is_small():
    notebook = committed()
    assert (ROOT / "main.ipynb").stat().st_size < 3_000_000
    assert outputs(notebook, "error") == []
    streams = outputs(notebook, "stream")
    assert [out.text for out in streams if out.name == "stderr"] == []
    shown = [out.data for kind in ("display_data", "execute_result") for out in outputs(notebook, kind)]
    text = [data.get("text/markdown", data["text/plain"]) for data in shown if "image/png" not in data]
    said = "\n".join([*(out.text for out in streams), *text])
    assert [word for word in FAILED if word in said.lower()] == []
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code" and "parameters" not in tags(cell))


def test_every_picture_is_described_for_a_reader_who_does_not_see_it():
    notebook = committed()
    pictures = [
        out for kind in ("display_data", "execute_result") for out in outputs(notebook, kind) if "image/png" in out.data
    ]
    assert len(pictures) > len(FIGURES) / 2
    assert all(len(out.metadata["image/png"]["alt"]) > 20 for out in pictures)


# ---------------------------------------------------------------- the page


def test_an_unknown_profile_is_refused_in_one_line():
    made = subprocess.run(
        [sys.executable, "-m", "deepnet.figures.page", "papr"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode and made.stderr.startswith("unknown profile 'papr'") and made.stderr.count("\n") == 1


def test_the_page_needs_no_network():
    page = pytest.importorskip("deepnet.figures.page").html(committed())
    assert not re.search(r'(src|href)="http[^"]*\.(js|css)', page) and "<script" not in page
    assert "<math" in page and not re.search(r"\$\$|\\\\frac", page)
    assert 'href="../myModel.py"' in page and 'alt=""' not in page
    assert "verdicts_of" in page and "results_of(" not in page  # how a sentence is computed is left to the notebook
