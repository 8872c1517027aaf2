"""The general pieces of every figure: style, axes, legend, heat map, table, title.

Data in, figure out. Only matplotlib's object interface is used: nothing is kept in pyplot's global state, so no
figure leaks, and a notebook shows each figure once.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from math import ceil, log10
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import offset_copy
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deepnet.figures.looks import GREY, GRID, INK, SMALL, TEXT, WIDTH
from deepnet.records.reading import Record
from deepnet.text import DATA, Table, ranges, seeds_of
from experimentTable import OWN

Groups = Mapping[str, Sequence[Record]]  # name of a run -> its records, one per seed
EMPTY: Mapping = MappingProxyType({})


@contextmanager
def default_style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever style or rcParams the reader has set; also a decorator.

    A figure needs it twice, where its parts are made and where it is drawn, since matplotlib reads some settings only
    then.
    """
    with rc_context():
        rcdefaults()
        rcParams["svg.hashsalt"] = "deepnet"  # without one, the ids in an SVG are random
        yield


class Sheet(Figure):
    """A figure that shows itself in a notebook, once, whether or not matplotlib's inline backend is active.

    One that is a table shows itself there as text, which can be copied and searched; a picture of it is what is saved.
    """

    alt = ""  # what a reader who does not see the figure is told
    provenance = ""  # which records it shows
    table: Table | None = None

    @default_style()
    def draw(self, renderer: Any) -> None:
        """As matplotlib's, in its default style; whatever saves or shows a figure calls this."""
        super().draw(renderer)

    @default_style()
    def savefig(self, *arguments: Any, **options: Any) -> None:
        """As matplotlib's, in its default style, so that the same figure gives the same bytes."""
        super().savefig(*arguments, **options)

    @property
    def metadata(self) -> dict[str, str]:
        """Title, description and source, under the names that PNG and SVG have for them."""
        said = {"Title": " ".join(self.get_suptitle().split()), "Description": self.alt, "Source": self.provenance}
        return {key: text for key, text in said.items() if text}

    @cached_property
    def png(self) -> bytes:
        """Twice the figure's pixels, sharp on any screen, in 256 colours: a third of the bytes in a notebook.

        Pillow's maximum coverage, with the means of its clusters, keeps the colours of lines and of the grid beneath
        them nearly as they are (median cut does not).
        """
        drawn, small, info = BytesIO(), BytesIO(), PngInfo()
        self.savefig(drawn, format="png", dpi=2 * self.dpi)
        image = Image.open(drawn).convert("RGB")
        for key, text in self.metadata.items():
            info.add_itxt(key, text)
        fewer = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        fewer.save(small, "png", optimize=True, pnginfo=info)
        return small.getvalue()

    def __repr__(self) -> str:
        """Title and provenance, which a saved notebook keeps beside the picture."""
        return f"<{' · '.join(filter(None, (' '.join(self.get_suptitle().split()), self.provenance)))}>"

    def _captioned(self) -> Table:
        return replace(self.table or Table((), ()), caption=repr(self)[1:-1])

    def _repr_html_(self) -> str | None:
        return self._captioned()._repr_html_() if self.table else None

    def _repr_markdown_(self) -> str | None:
        return str(self._captioned()) if self.table else None

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]] | None:
        if self.table:
            return None
        width, height = (round(inches * self.dpi) for inches in self.get_size_inches())
        return self.png, {"width": width, "height": height, "alt": self.alt}


def sheet(rows: int = 1, columns: int = 1, height: float = 2.9, **options: Any) -> tuple[Sheet, list[Axes]]:
    """An empty figure of column width (inches) and its panels, row by row; `options` go to `Figure.subplots`."""
    figure = Sheet(figsize=(WIDTH, height), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def style(ax: Axes, title: str = "", x: str = "", y: str = "", grid: Literal["x", "y", "both"] | None = "y") -> None:
    """Title, axis labels with units, light grid, no frame."""
    ax.set_title(title, fontsize=TEXT, loc="left", color=INK)
    ax.set_xlabel(x, fontsize=TEXT, color=INK)
    ax.set_ylabel(y, fontsize=TEXT, color=INK)
    ax.tick_params(which="both", labelsize=SMALL, length=2.5, color=GREY, labelcolor=INK)
    ax.tick_params(which="minor", length=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=GRID, linewidth=0.7)


def whole_numbers(at_most: int) -> MaxNLocator:
    """Ticks at whole numbers, multiples of 1, 2 or 5."""
    return MaxNLocator(at_most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def logarithmic(ax: Axes) -> None:
    """A logarithmic y axis with few ticks, as plain numbers where they are short. For a panel whose limits are set."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    decades = log10(high / low)
    subs = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=6 if decades > 6 else 9))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if low > 5e-5 and high < 5e4:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def logit(ax: Axes) -> None:
    """A logit y axis for shares near 1: 0.95 and 0.98 are as far apart on it as 0.5 and 0.73."""
    ax.set_yscale("logit", nonpositive="clip")
    ax.set_yticks([0.1, 0.5, 0.9, 0.95, 0.98], ["0.1", "0.5", "0.9", "0.95", "0.98"])
    ax.yaxis.set_minor_locator(NullLocator())


def legend(place: Axes | Figure, handles: Iterable[Any], columns: int = 4, **options: Any) -> None:
    """A legend below a panel or below the whole figure, where it hides nothing; of handles with one label the first."""
    named = {str(handle.get_label()): handle for handle in reversed([*handles])}
    shown = [handle for label, handle in reversed(named.items()) if not label.startswith("_")]
    columns = ceil(len(shown) / max(1, ceil(len(shown) / columns)))  # rows of equal length
    where = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4.0} if isinstance(place, Axes) else {
        "loc": "outside lower center"}  # fmt: skip
    options = {"handlelength": 2.2, "columnspacing": 1.4, "handletextpad": 0.5, **where, **options}
    drawn = place.legend(handles=shown, frameon=False, fontsize=SMALL, labelcolor=INK, ncols=columns, **options)
    for text in drawn.get_texts():
        text.set_parse_math(False)  # a "$" in a name is a dollar


# ---------------------------------------------------------------- maps, tables


def heat_map(ax: Axes, x: np.ndarray, values: np.ndarray, low: float, high: float) -> QuadMesh:
    """values (rows, layers) over training: a row fills the span up to its x, the input's layer 1 lies at the bottom."""
    edges = np.concatenate([[0], x])
    mesh = ax.pcolormesh(
        edges, np.arange(values.shape[1] + 1) + 0.5, values.T, cmap="viridis", vmin=low, vmax=high, rasterized=True
    )
    ax.xaxis.set_major_locator(whole_numbers(2))
    ax.yaxis.set_major_locator(whole_numbers(6))
    return mesh


def colour_bar(figure: Any, mesh: QuadMesh, axes: Sequence[Axes], label: str, **options: Any) -> Colorbar:
    """The colours of maps, beside them, in a figure or a part of one; `options` go to matplotlib's `colorbar`."""
    bar = figure.colorbar(mesh, ax=list(axes), **options)
    bar.set_label(label, fontsize=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, length=2.5, color=GREY)
    return bar


def drawn_table(table: Table, height: float = 3.4) -> Sheet:
    """A table as a figure: columns as wide as their text, right-aligned, between three rules."""
    header = [textwrap.fill(text, 10) for text in table.head]
    figure, (ax,) = sheet(height=height)
    above = max(text.count("\n") + 1 for text in header)
    widths = [
        4 + max(len(part) for text in column for part in text.split("\n"))
        for column in zip(header, *table.rows, strict=True)
    ]
    right = np.cumsum(widths) - 1
    ax.set_axis_off()
    ax.set(xlim=(0, right[-1] + 1), ylim=(len(table.rows), -above))
    for i, row in enumerate([header, *table.rows], start=-1):
        for column, (x, text) in enumerate(zip(right, row, strict=True)):
            weight = "bold" if i < 0 or (i, column) in table.bold else "normal"
            y, vertical = (-0.2, "bottom") if i < 0 else (i + 0.5, "center")
            ax.text(x, y, text, ha="right", va=vertical, fontsize=SMALL, color=INK, fontweight=weight)
    for y, width in ((-above, 1.2), (0, 0.6), (len(table.rows), 1.2)):
        ax.plot([1, right[-1] + 1], [y, y], color=INK, linewidth=width, clip_on=False)
    figure.table = table
    return figure


# ---------------------------------------------------------------- title and provenance


def title(figure: Sheet, text: str, records: Sequence[Record] = (), note: str = "") -> None:
    """What the figure shows, above it, and beside that in grey its records' profile and seeds; a note below.

    The text is what a reader is told who does not see the figure, unless the figure says more.
    """
    figure.alt = figure.alt or text
    lines = textwrap.wrap(note[:1].upper() + note[1:], 110)
    room = "\n" * len(lines)
    figure.suptitle(text + room, x=0.012, ha="left", fontsize=TEXT + 1, color=INK, fontweight="bold")
    if lines:
        below = offset_copy(figure.transFigure, figure, y=-(TEXT + 6), units="points")
        figure.text(0.012, 0.98, "\n".join(lines), va="top", fontsize=SMALL, color=GREY, transform=below)
    if records:
        seeds = list(_seeds(records).values())
        few, most = min(map(len, seeds)), max(map(len, seeds))
        if all(some == seeds[0] for some in seeds):
            which = f"seed{'s' * (most > 1)} {ranges(seeds[0])}"
        else:
            which = f"{few} to {most} seeds" if few < most else f"{few} seeds each"
        where = f"{records[0].profile}, {which}"
        figure.text(0.988, 0.98, where, ha="right", va="top", fontsize=SMALL, color=GREY)


def _seeds(records: Iterable[Record]) -> dict[str, set[int]]:
    """Run -> its seeds."""
    seeds: dict[str, set[int]] = {}
    for record in records:
        seeds.setdefault(record.name, set()).add(record.seed)
    return seeds


def provenance(records: Sequence[Record], note: str = "") -> str:
    """Profile, seeds, data and the records' commits ("+": changed since the commit)."""
    parts = []
    if records:
        sets = dict.fromkeys(name for record in records for name in _data(record))
        parts = [
            "profile " + ", ".join(dict.fromkeys(record.profile for record in records)),
            seeds_of(_seeds(records)),
            "data " + ", ".join(DATA.get(name, name) for name in sets if name != OWN),
            "records at " + ", ".join(dict.fromkeys(_commit(record) for record in records)),
            *_mixed(records),
        ]
    return " · ".join(part for part in [*parts, note] if part not in ("", "data "))


def _mixed(records: Iterable[Record]) -> list[str]:
    """The runs whose seeds were not all computed in one precision, if any."""
    kinds = {(record.name, record.settings["provenance"].get("precision")): None for record in records}
    mixed = [name for name, precisions in Counter(name for name, _ in kinds).items() if precisions > 1]
    return [f"seeds in different precisions: {', '.join(mixed)}"] if mixed else []


def _data(record: Record) -> list[str]:
    exp = record.settings["experiment"]
    return list(DATA) if exp.get("kind") == "distribution" else [exp["dataset"]]


def _commit(record: Record) -> str:
    made = record.settings["provenance"]
    return (made["commit"] or "no commit")[:9] + "+" * bool(made["dirty"])
