"""The notebook as a page: `python -m deepnet.figures.page paper` executes main.ipynb and writes report/notebook.html.

Papermill executes it, with a bar on the terminal and a line per section; nbconvert makes the page.
"""

import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from papermill import execute_notebook
from tqdm import tqdm
from traitlets.config import Config

from deepnet.records.reading import ROOT
from experimentTable import current_profile


def build(profile: str) -> Path:
    """Execute main.ipynb in `profile`, into report/notebook.ipynb and .html (others: notebook-<profile>); the page.

    A cell that fails ends it, and the notebook up to there is kept. Raises UsageError for an unknown profile.

    Example::

        build("paper")
    """
    name = "notebook" if current_profile(profile) == "paper" else f"notebook-{profile}"
    made = ROOT / "report" / f"{name}.ipynb"
    hooks: dict[str, Any] = {"on_cell_start": _progress()}
    execute_notebook(
        str(ROOT / "main.ipynb"), str(made), {"PROFILE": profile}, kernel_name="python3", cwd=str(ROOT),
        coalesce_streams=True, iopub_timeout=60, **hooks,
    )  # fmt: skip
    made.with_suffix(".html").write_text(html(nbformat.read(made, as_version=4)))
    return made.with_suffix(".html")


def _progress() -> Any:
    """What nbclient calls before each cell: it prints each section once, with the seconds since the beginning."""
    begun, section = time.monotonic(), ""

    def report(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal section
        headings = re.findall(r"^##+ (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        if headings and headings[-1] != section:
            section = headings[-1]
            tqdm.write(f"{time.monotonic() - begun:5.0f} s  {section}")

    return report


def html(notebook: nbformat.NotebookNode) -> str:
    """The executed notebook as one page for the folder report/.

    Cells tagged "reading" show what they say and not how it is computed; a figure has its description as alternative
    text, and links lead from report/ to the files that they name.
    """
    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = ("reading", "injected-parameters")
    config.HTMLExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    exporter = HTMLExporter(config=config, embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True)
    page = BeautifulSoup(exporter.from_notebook_node(notebook)[0], "html.parser")
    texts = [
        output.data["text/plain"].strip("<>")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    for image, text in zip(page.select(".jp-RenderedImage img"), texts, strict=True):
        image["alt"] = text
    for link in page.select("a[href]"):
        if (ROOT / link["href"].partition("#")[0]).exists() and not link["href"].startswith("#"):
            link["href"] = f"../{link['href']}"
    return str(page)


if __name__ == "__main__":
    print("Made", build(sys.argv[1]).relative_to(ROOT))
