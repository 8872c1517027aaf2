"""What is committed and made from the evidence still matches it: the notebook's outputs, the tables of the guides and
findings.

`REMAKE=1 python -m pytest tests/project/test_committed.py` makes them anew. The notebook is replayed as in a clone with
no data and no network.
"""

import base64
import json
import os
import re
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
from helpers import ROOT
from nbclient import NotebookClient
from pictures import alike, picture

from benchmarks import benchmark, peers
from deepnet.claims import simulation
from deepnet.claims.beside import side_by_side, statistics_table
from deepnet.claims.ledger import RULES, check, ledger
from deepnet.figures.plots import Sheet
from deepnet.figures.registry import draw
from deepnet.figures.words import prices, results_table, sources, verdicts_of
from deepnet.runs.families import families_table
from experimentTable import EXPERIMENTS

REMAKE = "REMAKE=1 python -m pytest tests/project/test_committed.py"
NOTEBOOK = ROOT / "main.ipynb"
RESULTS, STATISTICS, PROFILES, SPEED, ATLAS = (
    ROOT / "docs" / f"{page}.md" for page in ("results", "statistics", "profiles", "speed", "atlas")
)
FINDINGS, PROVENANCE = (ROOT / "report" / f"{page}.md" for page in ("findings", "provenance"))
PROFILE = "paper"  # the best that has evidence: whose outputs the notebook carries


def measured(machine: str, table: ModuleType = benchmark) -> str:
    return table.markdown(json.loads((ROOT / "benchmarks" / "results" / f"{machine}.json").read_text()))


TRAINED = [*(name for name, exp in EXPERIMENTS.items() if exp.kind in ("training", "baseline")), "search_*"]
BLOCKS: dict[str, tuple[Path, Callable[[], str]]] = {  # what stands between the marks of that name, and where
    "ledger": (RESULTS, lambda: str(ledger(PROFILE))),
    **{f"statistics-{p}": (RESULTS, lambda p=p: str(statistics_table(p))) for p in ("paper", "cpu")},
    "simulation": (STATISTICS, simulation.report),
    "benchmark": (SPEED, lambda: measured("intel-r-xeon-r-processor-family-6-model-207-2-cores")),
    "benchmark-gpu": (SPEED, lambda: measured("nvidia-h200-16-cores")),
    "benchmark-peers": (SPEED, lambda: measured("amd-epyc-family-25-model-17-2-cores-cpu-peers", peers)),
    **{claim: (FINDINGS, lambda claim=claim: str(side_by_side(claim, "paper", "cpu"))) for claim in RULES},
    **{
        f"results-{p}": (PROVENANCE, lambda p=p: str(results_table(*TRAINED, profile=p, most=len(TRAINED) + 12)))
        for p in ("paper", "cpu")
    },
    **{f"sources-{p}": (PROVENANCE, lambda p=p: str(sources(p))) for p in ("paper", "cpu")},
    "families": (ATLAS, lambda: str(families_table())),
    "prices": (
        PROFILES,
        lambda: str(prices(EXPERIMENTS if os.environ.get("REMAKE") else re.findall(r"\w+", PROFILES.read_text()))),
    ),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_table_is_what_the_records_say(block):
    file, made = BLOCKS[block]
    text, marked = file.read_text(), f"<!-- {block} -->\n{made().strip()}\n<!-- /{block} -->"
    if os.environ.get("REMAKE"):
        text = re.sub(f"<!-- {block} -->.*<!-- /{block} -->", lambda _: marked, text, flags=re.DOTALL)
        file.write_text(text)
    assert marked in text, (
        f"the {block} in {file.name} are not what the records say; run `{REMAKE}` and read what has changed"
    )


@pytest.mark.parametrize("claim", RULES)
def test_the_findings_say_of_each_claim_what_its_rule_says(claim):
    """Each begins with its answer and its verdict in both profiles, in words that say where one or two seeds are all
    there is.
    """
    text = " ".join(FINDINGS.read_text().split("## Claim by claim")[1].split())
    said = re.findall(rf"\*\*{claim}, [^*]*\*\* \(paper: ([^,()]*), cpu: ([^,()]*)\)", text)
    assert said == [(check(claim, "paper").outcome, check(claim, "cpu").outcome)]


def test_no_paragraph_of_the_findings_is_long():
    prose = re.sub(r"<!-- (\S+) -->.*?<!-- /\1 -->", "", FINDINGS.read_text(), flags=re.DOTALL)
    assert max(len(paragraph.split()) for paragraph in re.split(r"\n\n|\n- ", prose)) <= 90


def replayed(profile: str, folder: Path, live: bool = False) -> nbformat.NotebookNode:
    """The notebook in this profile, from the committed records alone; `live`: with the cells that train."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = notebook.cells if live else [cell for cell in notebook.cells if not trains(cell)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "PROFILE": profile,
            "RUNS_DIR": folder / "runs",
            "XDG_CACHE_HOME": folder / "cache",
        }.items():
            patch.setenv(name, str(value))
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")  # where nobody answers
        NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
        ).execute()
    return notebook


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    return replayed(PROFILE, tmp_path_factory.mktemp("replay"), live=bool(os.environ.get("REMAKE")))


def outputs(cell: nbformat.NotebookNode) -> tuple[str, list[np.ndarray]]:
    """What a cell has printed and shown as text, figures' titles and footers too, without bars, which have times; and
    its pictures.
    """
    said, pictures = [], []
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            pictures.append(picture(base64.b64decode(data["image/png"])))
            said.append(data["text/plain"])
        elif output.output_type != "display_data" or "text/markdown" in data:
            said.append(output.get("text") or data.get("text/markdown") or data.get("text/plain", ""))
    return "".join(said), pictures


def trains(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell trains before the reader's eyes: what it prints is another machine's."""
    return "live" in cell.metadata.get("tags", ())


def evidence(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells that show what is recorded."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not trains(cell)]


def test_the_notebook_s_outputs_are_those_of_the_records(replay):
    if os.environ.get("REMAKE"):
        kept = nbformat.from_dict(replay)
        for cell in kept.cells:
            cell.metadata.pop("execution", None)  # times
        nbformat.write(kept, NOTEBOOK)
    committed = nbformat.read(NOTEBOOK, as_version=4)
    for now, kept in zip_longest(evidence(replay), evidence(committed)):
        (said, drawn), (expected, pictures) = outputs(now), outputs(kept)
        remedy = f"of the cell {kept.source!r}: run `{REMAKE}` and look at it"
        assert said == expected, f"other text {remedy}"
        assert len(drawn) == len(pictures) and all(map(alike, drawn, pictures)), f"another figure {remedy}"


def _a_curve_less(figure: Sheet) -> None:
    figure.axes[1].lines[0].remove()


def _another_number(figure: Sheet) -> None:
    y = figure.axes[0].lines[0]
    y.set_ydata(np.asarray(y.get_ydata()) * 1.03)


@pytest.mark.parametrize("change", [_a_curve_less, _another_number])
def test_a_small_change_makes_another_figure(change):
    drawn, again, changed = (draw("5.3", PROFILE) for _ in range(3))
    change(changed)
    assert alike(picture(drawn.png), picture(again.png))
    assert not alike(picture(drawn.png), picture(changed.png))


def test_the_other_profile_with_evidence_is_replayed_too(tmp_path):
    cells = evidence(replayed("cpu", tmp_path))  # an error would have ended it
    said = "".join(outputs(cell)[0] for cell in cells)
    assert str(verdicts_of(profile="cpu")) in said
    assert sum(len(outputs(cell)[1]) for cell in cells) > 20
