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
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from papermill import execute_notebook
from tqdm import tqdm
from traitlets.config import Config

from deepnet.records.reading import ROOT
from experimentTable import UsageError, current_profile

HIDDEN = ("setup", "reading", "injected-parameters")  # cells with these tags show what they say, not their code
STYLE = """
main { max-width: 1000px; margin: auto; }
.jp-RenderedMarkdown p, .jp-RenderedMarkdown li { max-width: 52em; }
.jp-RenderedMarkdown pre, .jp-RenderedMarkdown code { font-family: var(--jp-code-font-family); font-size: 13px; }
.jp-RenderedMarkdown pre { background: #f7f7f7; padding: 0.6em; overflow-x: auto; white-space: pre; line-height: 1.35; }
.jp-RenderedImage img { max-width: 100%; height: auto; }
"""
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)


def build(profile: str) -> Path:
    """Execute main.ipynb in `profile` and return the page: report/notebook.html, beside the executed notebook.

    Other profiles than `paper` stand in the files' names. A cell that fails ends it, and the notebook up to there is
    kept. Raises UsageError for an unknown profile.
    """
    profile = current_profile(profile)
    name = "notebook" if profile == "paper" else f"notebook-{profile}"
    made = ROOT / "report" / f"{name}.ipynb"
    # Encrypted where the kernel can be, else it warns on the terminal that its TCP ports are not.
    encrypted = Config(KernelManager={"transport_encryption": "auto"})
    options: dict[str, Any] = {"on_cell_start": _sections(), "config": encrypted}
    execute_notebook(
        str(ROOT / "main.ipynb"), str(made), {"PROFILE": profile}, kernel_name="python3", cwd=str(ROOT),
        iopub_timeout=60, **options,
    )  # fmt: skip
    page = made.with_suffix(".html")
    page.write_text(html(nbformat.read(made, as_version=4)), encoding="utf-8")
    return page


def _sections() -> Any:
    """What nbclient calls before each cell: it prints each section's title and the seconds since the beginning."""
    begun = time.monotonic()

    def report(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "markdown":
            for heading in re.findall(r"^##+ (.+)$", cell.source, re.MULTILINE):
                tqdm.write(f"{time.monotonic() - begun:4.0f} s  {heading}")

    return report


def html(notebook: nbformat.NotebookNode) -> str:
    """The executed notebook as one page that needs no network, for the folder report/.

    Formulas are MathML, figures have their descriptions as alternative text, and links lead from report/ to the files.
    """
    config = Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": HIDDEN})
    exporter = HTMLExporter(
        config=config, preprocessors=["nbconvert.preprocessors.TagRemovePreprocessor"],
        exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip
    page: Any = BeautifulSoup(exporter.from_notebook_node(notebook)[0], "html.parser")
    for script in page.select("script"):  # MathJax and RequireJS, from the network
        script.decompose()
    page.title.string = "CNN and deep network"
    page.head.append(BeautifulSoup(f"<style>{STYLE}</style>", "html.parser"))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    for image, output in zip(page.select(".jp-RenderedImage img"), pictures, strict=True):
        image["alt"] = output.metadata.get("image/png", {}).get("alt") or output.data["text/plain"].strip("<>")
    for link in page.select("a[href]"):
        if not link["href"].startswith("#") and (ROOT / link["href"].partition("#")[0]).exists():
            link["href"] = f"../{link['href']}"
    for text in page.select_one("main").find_all(string=MATH):
        if not text.find_parent(["code", "pre"]):
            text.replace_with(BeautifulSoup(MATH.sub(_mathml, text), "html.parser"))
    return str(page)


def _mathml(formula: re.Match) -> str:
    block, inline = formula.groups()
    return convert(block or inline, display="block" if block else "inline")


if __name__ == "__main__":
    try:
        print("Made", build(sys.argv[1]).relative_to(ROOT))
    except UsageError as error:
        sys.exit(str(error))
