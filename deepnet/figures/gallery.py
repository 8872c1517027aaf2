"""The committed gallery of figures, table of runs and RO-Crate: `python -m deepnet.figures.gallery` writes them."""

from collections.abc import Mapping

from deepnet.figures.plots import Sheet
from deepnet.figures.registry import FIGURES, FOLDER, draw, found, save
from deepnet.records.crate import crate_json
from deepnet.records.reading import ROOT
from deepnet.records.table import records_csv
from experimentTable import EXPERIMENTS, JUDGED

LEAD = "1.1"  # the figure that the README shows
CHAPTERS = {
    "1": "The question",
    "2": "Dataset analysis",
    "3": "Multilayer perceptrons",
    "4": "Convolutional networks",
    "5": "Fine-tuning a pre-trained model",
}
HEAD = """# Figures

Every figure of the report by its number, and our own beside them: 1.1, 3.7, 4.5, 4.6, 5.9 and those with a letter.
`python -m deepnet.figures.gallery` draws them from [the records](records). The profile `paper` is the report's own
setting; where `cpu`, with smaller images in chapters 4 and 5, has records that `paper` lacks, it is shown as well or
instead.
[The findings](findings.md) discuss what the figures show. All runs stand in one table, [records.csv](records.csv),
whose columns are [explained](../docs/data.md).
"""


def shown_in(number: str) -> list[str]:
    """The profiles that the gallery shows a figure from: the first one, and another that has runs which it lacks.

    The first is left out where it has at most half of the figure's runs.
    """
    entry = FIGURES[number]
    wanted = {name for name in (*entry.runs, *entry.also) if name in EXPERIMENTS}
    first, second = ({name for name in wanted if found(name, profile)} for profile in JUDGED)
    if not second - first:
        return [JUDGED[0]]
    return [*JUDGED] if len(first) > len(wanted) / 2 else [JUDGED[1]]


def drawn() -> dict[tuple[str, str], Sheet]:
    """(number, profile) -> figure, of all that the gallery shows, in its order."""
    return {(number, profile): draw(number, profile) for number in FIGURES for profile in shown_in(number)}


def page(figures: Mapping[tuple[str, str], Sheet]) -> str:
    """The gallery as Markdown: each figure with its alternative text, where it comes from, and how it is read."""
    parts, before = [HEAD], ""
    for (number, profile), figure in figures.items():
        chapter, place = number.split(".")[0], f"figures/{profile}/{number}"
        if chapter != before.split(".")[0]:
            parts.append(f"## {chapter} {CHAPTERS[chapter]}\n")
        if number != before:
            parts += [
                f"### {number} {FIGURES[number].caption}\n",
                *([f"{reading}\n"] if (reading := FIGURES[number].reading) else []),
            ]
        parts += [f"![{figure.alt}]({place}.png)\n", f"<sub>{figure.provenance} · [SVG]({place}.svg)</sub>\n"]
        before = number
    return "\n".join(parts)


def write() -> None:
    """Write the page, its pictures, the README's, the table of runs and the RO-Crate into report/."""
    figures = drawn()
    for (number, profile), figure in figures.items():
        save(number, profile, figure)
    (FOLDER / "README.png").write_bytes(figures[LEAD, JUDGED[0]].png)
    (ROOT / "report" / "README.md").write_text(page(figures))
    (ROOT / "report" / "records.csv").write_text(records_csv())
    (ROOT / "report" / "ro-crate-metadata.json").write_text(crate_json())


if __name__ == "__main__":
    write()
