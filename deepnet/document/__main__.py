"""`python -m deepnet.document` writes report/report.md, report.pdf and report.html from the committed records."""

import sys
from pathlib import Path
from typing import Any

import pypandoc
import typst

from deepnet.document.rendering import Rendered, render
from deepnet.records.reading import ROOT
from experimentTable import UsageError

FOLDER = ROOT / "report"
HERE = Path(__file__).parent
# No guesses at widths from the length of a line; a level-1 heading is the title.
READER = "markdown-smart-auto_identifiers+gfm_auto_identifiers"


def converted(text: str, to: str, *options: str) -> str:
    """Pandoc's rendering of the report's Markdown."""
    options = ("--columns=10000", "--shift-heading-level-by=-1", *options)
    return pypandoc.convert_text(text, to, format=READER, extra_args=options)


def pdf(report: Rendered) -> bytes:
    """The report as PDF, with the lines of the appendix in two columns; the digest of its sources stands in it."""
    body, lines = (converted(text, "typst") for text in (report.text, "\n\n".join(report.appendix)))
    text = (HERE / "page.typ").read_text("utf-8")
    for name, content in {"SHA256": report.sha256, "TITLE": report.title, "BODY": body, "APPENDIX": lines}.items():
        text = text.replace(name, content)
    source: Any = text.encode()  # its stubs take paths only
    return typst.compile(source, root=str(FOLDER), ignore_system_fonts=True)


def page(report: Rendered) -> str:
    """The report as one HTML file that needs no other: formulas are MathML, figures and styles stand in it."""
    appendix = "\n".join(["## Appendix: where each number comes from", "", *(f"- {line}" for line in report.appendix)])
    options = ("--standalone", "--embed-resources", "--mathml", f"--css={HERE / 'page.css'}")
    return converted(f"{report.text}\n\n{appendix}", "html5", *options, f"--resource-path={FOLDER}")


def build(folder: Path = FOLDER) -> list[Path]:
    """Write the three forms into `folder`. Raises UsageError where a record that the text needs is missing."""
    report = render()
    forms = {"report.md": report.markdown.encode(), "report.pdf": pdf(report), "report.html": page(report).encode()}
    for name, content in forms.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in forms]


if __name__ == "__main__":
    try:
        for made in build():
            print("Made", made.relative_to(ROOT))
    except UsageError as error:
        sys.exit(str(error))
