"""The general pieces of every figure: style, colours, bars, scatter, heat map, table, legend, title, footer.

Data in, figure out. Only matplotlib's object interface is used: nothing is kept in pyplot's global state, so no
figure leaks, and a notebook shows each figure once.
"""

import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from deepnet.records.reading import Record
from deepnet.text import DATA, seeds_of

WIDTH = 7.0  # inches: a column of text
TEXT, SMALL = 8.0, 7.0  # points; the footer alone is small
INK, GREY, FAINT, GRID = "#222222", "#6b6b6b", "#cccccc", "#e6e6e6"
DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
SECOND = (0, (2.5, 1.5))  # the second metric of a panel (train beside validation)

# Okabe and Ito's colours without yellow, which is faint on white, and two of Tol's (both colour-blind-safe).
BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, BLACK, WINE, OLIVE = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#882255", "#999933",
)  # fmt: skip
# Petroff (2021), arXiv:2107.02270: ten colours for the classes of a scatter plot.
CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
COLOURS: dict[str, str] = {
    "MLP_4": BLUE, "MLP_13": ORANGE, "MLP_23": GREEN, "MLP_33": VERMILLION,
    "MLP_res_5": SKY, "MLP_res_15": PURPLE, "MLP_res_35": BLACK, "MLP_res_55": OLIVE, "MLP_res_96": WINE,
    "CNN_10": BLUE, "CNN_13": ORANGE, "CNN_30": VERMILLION,
    "CNN_res_16": PURPLE, "CNN_res_35": BLACK, "CNN_res_56": WINE,
    "train_resnet": BLACK, "resnet18": BLACK, "fine_tune_1": BLUE, "fine_tune_2": VERMILLION,
    "fine_tune_1_lr": SKY, "fine_tune_2_lr": GREEN, "fine_tune_3_lr": PURPLE, "early_stopping": ORANGE,
    "adam": BLUE, "adamw": GREEN, "rmsprop": PURPLE, "sgd": VERMILLION, "dropout": WINE,
    "sweep_4": BLUE, "sweep_6": VERMILLION, "sweep_10": GREEN,
}  # fmt: skip


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
    """A figure that shows itself in a notebook, once, whether or not matplotlib's inline backend is active."""

    @default_style()
    def draw(self, renderer: Any) -> None:
        """As matplotlib's, in its default style; whatever saves or shows a figure calls this."""
        super().draw(renderer)

    @default_style()
    def savefig(self, *arguments: Any, **options: Any) -> None:
        """As matplotlib's, in its default style, so that the same figure gives the same bytes."""
        super().savefig(*arguments, **options)

    @cached_property
    def png(self) -> bytes:
        """Twice the figure's pixels, sharp on any screen, in 256 colours: a third of the bytes in a notebook.

        Pillow's maximum coverage, with the means of its clusters, keeps the colours of lines and of the grid beneath
        bands nearly as they are (median cut does not).
        """
        drawn, small = BytesIO(), BytesIO()
        self.savefig(drawn, format="png", dpi=2 * self.dpi)
        image = (
            Image.open(drawn)
            .convert("RGB")
            .quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        )
        image.save(small, "png", optimize=True)
        return small.getvalue()

    def __repr__(self) -> str:
        """Title and footer, which a saved notebook keeps beside the picture."""
        said = (" ".join(text.split()) for text in (self.get_suptitle(), self.get_supxlabel()))
        return f"<{' · '.join(filter(None, said))}>"

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(inches * self.dpi) for inches in self.get_size_inches())
        return self.png, {"width": width, "height": height}


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
    ax.tick_params(which="both", labelsize=TEXT, length=2.5, color=GREY, labelcolor=INK)
    ax.tick_params(which="minor", length=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=GRID, linewidth=0.7)


def whole_numbers(at_most: int) -> MaxNLocator:
    """Ticks at whole numbers, multiples of 1, 2 or 5."""
    return MaxNLocator(at_most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def looks(names: Iterable[str]) -> dict[str, tuple[str, object]]:
    """Colour and dash of each run, distinct within one figure.

    A run of the table has one colour everywhere, its `_eps`, `_he`, `_bf16`, `_fp64`, `_fp32` and `_2` variants have
    their model's; the first four are dashed. Any other name draws its colour from its letters, and moves on to a free
    one where it is taken.
    """
    chosen: dict[str, tuple[str, object]] = {}
    for name in sorted(names, key=lambda name: _table_colour(name) is None):  # fixed colours first
        dashes = (
            DASHES[1:] if name.endswith(("_eps", "_bf16", "_fp64")) else DASHES[2:] if name.endswith("_he") else DASHES
        )
        start = zlib.crc32(name.encode()) % len(PALETTE)
        fixed = _table_colour(name)
        colours = [fixed] if fixed else [*PALETTE[start:], *PALETTE[:start]]
        wanted = [(colour, dash) for dash in dashes for colour in colours]
        chosen[name] = next((look for look in wanted if look not in chosen.values()), wanted[0])
    return chosen


def _table_colour(name: str) -> str | None:
    base = next(
        (name.removesuffix(end) for end in ("_eps", "_he", "_2", "_fp32", "_bf16", "_fp64") if name.endswith(end)), name
    )
    return COLOURS.get(name) or COLOURS.get(base)


def legend(ax: Axes, handles: Sequence[Line2D], below: bool = False, **options: Any) -> None:
    """A legend outside the panel, beside or below it, where it hides nothing."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 2} if below else {
        "loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}  # fmt: skip
    drawn = ax.legend(
        handles=handles, frameon=False, fontsize=TEXT, labelcolor=INK, **{**place, "handlelength": 1.8, **options}
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)  # a "$" in a name is a dollar


# ---------------------------------------------------------------- bars, points, maps, tables


def bars(
    ax: Axes,
    names: Sequence[str],
    values: Sequence[float],
    ranges: Sequence[tuple[float, float]],
    colours: Sequence[str],
) -> None:
    """One bar a name from zero, with its range (lowest, highest) as a thin line."""
    at, heights = np.arange(len(names)), np.asarray(values)
    ax.bar(at, heights, color=colours, width=0.7)
    low, high = np.asarray(ranges).T
    ax.errorbar(at, heights, yerr=[heights - low, high - heights], fmt="none", ecolor=GREY, elinewidth=1.4, capsize=2.5)
    ax.set_xticks(at, names, rotation=30, ha="right", rotation_mode="anchor")


def scatter(ax: Axes, xy: np.ndarray, labels: np.ndarray, names: Sequence[str], columns: int = 5) -> None:
    """An embedding's points (N, 2), coloured by class, rasterised; above ten classes the second ten are triangles."""
    size = float(np.clip(12_000 / len(xy), 2, 9))
    for marker, first in (("o", 0), ("^", len(CLASS_COLOURS))):
        shown = (labels >= first) & (labels < first + len(CLASS_COLOURS))
        if shown.any():
            colours = np.asarray(CLASS_COLOURS)[labels[shown].astype(int) - first]
            x, y = xy[shown].astype(float).T
            ax.scatter(x, y, s=size, c=colours, marker=marker, linewidths=0, rasterized=True)
    looks_of = [(marker, colour) for marker in "o^" for colour in CLASS_COLOURS]
    handles = [
        Line2D([], [], ls="", marker=m, color=c, markersize=4, label=name)
        for name, (m, c) in zip(names, looks_of, strict=False)
    ]
    legend(ax, handles, below=True, ncols=columns, handlelength=1, columnspacing=0.9, handletextpad=0.3)
    style(ax, x="t-SNE dimension 1 (no unit)", y="t-SNE dimension 2 (no unit)", grid=None)
    ax.set(xticks=[], yticks=[])


def heat_map(ax: Axes, x: np.ndarray, values: np.ndarray, low: float, high: float) -> QuadMesh:
    """values (rows, layers) over training: a row fills the span up to its x, layer 1 (at the input) lies at the
    bottom.
    """
    edges = np.concatenate([[0], x])
    mesh = ax.pcolormesh(
        edges, np.arange(values.shape[1] + 1) + 0.5, values.T, cmap="viridis", vmin=low, vmax=high, rasterized=True
    )
    ax.xaxis.set_major_locator(whole_numbers(2))
    ax.yaxis.set_major_locator(whole_numbers(6))
    return mesh


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], bold: Iterable[tuple[int, int]] = (), height: float = 3.4
) -> Sheet:
    """A table as a figure: columns as wide as their text, right-aligned, between three rules; `bold`: (row, column) of
    cells.
    """
    figure, (ax,) = sheet(height=height)
    above = max(text.count("\n") + 1 for text in header)
    widths = [
        4 + max(len(part) for text in column for part in text.split("\n")) for column in zip(header, *rows, strict=True)
    ]
    right, strong = np.cumsum(widths) - 1, set(bold)
    ax.set_axis_off()
    ax.set(xlim=(0, right[-1] + 1), ylim=(len(rows), -above))
    for i, row in enumerate([header, *rows], start=-1):
        for column, (x, text) in enumerate(zip(right, row, strict=True)):
            weight = "bold" if i < 0 or (i, column) in strong else "normal"
            y, vertical = (-0.2, "bottom") if i < 0 else (i + 0.5, "center")
            ax.text(x, y, text, ha="right", va=vertical, fontsize=TEXT, color=INK, fontweight=weight)
    for y, width in ((-above, 1.2), (0, 0.6), (len(rows), 1.2)):
        ax.plot([1, right[-1] + 1], [y, y], color=INK, linewidth=width, clip_on=False)
    return figure


# ---------------------------------------------------------------- title and footer


def title(figure: Figure, text: str) -> None:
    """The figure's number and caption above it, to the left."""
    figure.suptitle(textwrap.fill(text, 92), x=0.012, ha="left", fontsize=TEXT + 1, color=INK, fontweight="bold")


def footer(figure: Figure, records: Iterable[Record], note: str = "") -> None:
    """Below the figure in small grey type: profile, seeds, data, the records' commits ("+": changed since the
    commit).
    """
    records = list(records)
    parts = []
    if records:
        seeds: dict[str, set[int]] = {}
        for record in records:
            seeds.setdefault(record.name, set()).add(record.seed)
        sets = dict.fromkeys(name for record in records for name in _data(record))
        parts = [
            "profile " + ", ".join(dict.fromkeys(record.profile for record in records)),
            seeds_of(seeds) + _of_seeds(figure, seeds),
            "data " + ", ".join(DATA.get(name, name) for name in sets),
            "records at " + ", ".join(dict.fromkeys(_commit(record) for record in records)),
            *_mixed(records),
        ]
    text = " · ".join([*(part for part in parts if part != "data "), *([note] if note else [])])
    figure.supxlabel(textwrap.fill(text, 118), x=0.012, ha="left", fontsize=SMALL, color=GREY, parse_math=False)


def _of_seeds(figure: Figure, seeds: Mapping[str, set[int]]) -> str:
    """What a line of several seeds shows."""
    if all(len(of_run) == 1 for of_run in seeds.values()):
        return ""
    banded = any(isinstance(drawn, PolyCollection) for ax in figure.axes for drawn in ax.collections)
    return ", bands: their range" if banded else ", means"


def _mixed(records: Iterable[Record]) -> list[str]:
    """The runs whose seeds were not all computed in one precision, if any."""
    precisions: dict[str, set] = {}
    for record in records:
        precisions.setdefault(record.name, set()).add(record.settings.get("provenance", {}).get("precision"))
    mixed = [name for name, of_run in precisions.items() if len(of_run) > 1]
    return [f"seeds in different precisions: {', '.join(mixed)}"] if mixed else []


def _data(record: Record) -> list[str]:
    exp = record.settings.get("experiment", {})
    return list(DATA) if exp.get("kind") == "distribution" else [exp["dataset"]] if exp.get("dataset") else []


def _commit(record: Record) -> str:
    provenance = record.settings.get("provenance", {})
    return (provenance.get("commit") or "no commit")[:9] + "+" * bool(provenance.get("dirty"))
