"""The committed gallery of figures, table of runs and RO-Crate: `python -m deepnet.figures.gallery` writes them."""

from collections.abc import Mapping

from deepnet.figures import atlas
from deepnet.figures.plots import Sheet
from deepnet.figures.registry import ALL, FIGURES, FOLDER, draw, folder_of, found, save
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
[The degradation atlas](atlas.md) has a page of its own.
"""
ATLAS_HEAD = """# The degradation atlas

What the end of learning with depth depends on, as maps of [a grid of runs](../docs/atlas.md). Hatched cells have no
record. `python -m deepnet.figures.gallery` draws the figures from [the records](records); a figure is left out as long
as none of its runs has one.
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


def atlas_drawn() -> dict[tuple[str, str], Sheet]:
    """As `drawn`, of the atlas: each figure in the profile that has most of its runs, if any has one."""
    figures = {}
    for number, entry in atlas.FIGURES.items():
        counts = {profile: sum(bool(found(name, profile)) for name in entry.runs) for profile in JUDGED}
        if counts[profile := max(counts, key=lambda profile: counts[profile])]:
            figures[number, profile] = draw(number, profile)
    return figures


def page(figures: Mapping[tuple[str, str], Sheet], head: str = HEAD) -> str:
    """The gallery as Markdown: each figure with its alternative text, where it comes from, and how it is read."""
    parts, before = [head], ""
    for (number, profile), figure in figures.items():
        chapter, place = number.split(".")[0], f"figures/{folder_of(number, profile)}/{number}"
        if chapter in CHAPTERS and chapter != before.split(".")[0]:
            parts.append(f"## {chapter} {CHAPTERS[chapter]}\n")
        if number != before:
            parts.append(f"### {number} {ALL[number].caption}\n")
            parts += [f"{reading}\n"] if (reading := ALL[number].reading) else []
        picture = str(figure.table) if figure.table else f"![{figure.alt}]({place}.png)"
        parts += [f"{picture}\n", f"<sub>{figure.provenance} · [SVG]({place}.svg)</sub>\n"]
        before = number
    return "\n".join(parts)


def write() -> None:
    """Write both pages, their pictures, the README's, the table of runs and the RO-Crate into report/."""
    figures, of_atlas = drawn(), atlas_drawn()
    for (number, profile), figure in (figures | of_atlas).items():
        save(number, profile, figure)
    (FOLDER / "README.png").write_bytes(figures[LEAD, JUDGED[0]].png)
    (ROOT / "report" / "README.md").write_text(page(figures))
    (ROOT / "report" / "atlas.md").write_text(page(of_atlas, ATLAS_HEAD))
    (ROOT / "report" / "records.csv").write_text(records_csv())
    (ROOT / "report" / "ro-crate-metadata.json").write_text(crate_json())


if __name__ == "__main__":
    write()
