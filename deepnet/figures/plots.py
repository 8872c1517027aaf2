"""The general pieces of every figure: style, colours, labels of runs, heat map, table, legend, title.

Data in, figure out. Only matplotlib's object interface is used: nothing is kept in pyplot's global state, so no
figure leaks, and a notebook shows each figure once.
"""

import textwrap
import zlib
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

from deepnet.records.reading import Record
from deepnet.text import DATA, Table, ranges, seeds_of
from experimentTable import EXPERIMENTS, OWN, Experiment

WIDTH = 7.0  # inches: a column of text
TEXT, SMALL = 9.0, 8.0  # points
INK, GREY, FAINT, GRID = "#222222", "#6b6b6b", "#cccccc", "#e6e6e6"
DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
SECOND = (0, (2.5, 1.5))  # the second metric of a panel (training beside validation)
MARKERS = "os^DvPX*p"  # which tell curves apart without colour: one for each of PALETTE

# Okabe and Ito's colours without yellow, which is faint on white, and two of Tol's (both colour-blind-safe).
BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, BLACK, WINE, OLIVE = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#882255", "#999933",
)  # fmt: skip
COLOURS: dict[str, str] = {
    "MLP_4": BLUE, "MLP_13": ORANGE, "MLP_23": GREEN, "MLP_33": VERMILLION,
    "MLP_res_5": SKY, "MLP_res_15": PURPLE, "MLP_res_35": BLACK, "MLP_res_55": OLIVE, "MLP_res_96": WINE,
    "CNN_10": BLUE, "CNN_13": ORANGE, "CNN_30": VERMILLION,
    "CNN_res_16": PURPLE, "CNN_res_35": BLACK, "CNN_res_56": WINE,
    "train_resnet": BLACK, "resnet18": BLACK, "fine_tune_1": BLUE, "fine_tune_2": VERMILLION,
    "fine_tune_3_lr": GREEN, "early_stopping": ORANGE,
    "adam": BLUE, "adamw": GREEN, "rmsprop": PURPLE, "sgd": VERMILLION, "dropout": WINE,
    "sweep_4": BLUE, "sweep_6": VERMILLION, "sweep_10": GREEN,
}  # fmt: skip
VARIANTS = ("_eps", "_he", "_2", "_lr", "_fp32", "_bf16", "_fp64")  # have the colour of the run that they vary

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


# ---------------------------------------------------------------- how runs look and what they are called


def looks(names: Iterable[str]) -> dict[str, tuple[str, object]]:
    """Colour and dash of each run, distinct among these.

    A run of the table has one colour everywhere, and its VARIANTS have the same one. Those with another eps or
    precision are dashed. Any other name draws its colour from its letters, and moves on to a free one where it is
    taken.
    """
    chosen: dict[str, tuple[str, object]] = {}
    for name in sorted(names, key=lambda name: _table_colour(name) is None):  # fixed colours first
        dashes = DASHES[1:] if name.endswith(("_eps", "_bf16", "_fp64")) else DASHES
        start = zlib.crc32(name.encode()) % len(PALETTE)
        fixed = _table_colour(name)
        colours = [fixed] if fixed else [*PALETTE[start:], *PALETTE[:start]]
        wanted = [(colour, dash) for dash in dashes for colour in colours]
        chosen[name] = next((look for look in wanted if look not in chosen.values()), wanted[0])
    return chosen


def marker_of(colour: str) -> str:
    """The marker that goes with one of PALETTE's colours, so that a run has the same one in every figure."""
    return MARKERS[PALETTE.index(colour)]


def _table_colour(name: str) -> str | None:
    base = next((name.removesuffix(end) for end in VARIANTS if name.endswith(end)), name)
    return COLOURS.get(name) or COLOURS.get(base)


def _trainable(exp: Experiment) -> str:
    return " + ".join(exp.trainable).replace("fc", "head") if exp.trainable else "all layers"


FACTS = {  # field of an experiment -> how a legend says it
    "model": lambda exp: exp.model,
    "trainable": _trainable,
    "optimizer": lambda exp: exp.optimizer,
    "lr": lambda exp: f"lr {short(exp.lr)}",
    "batch_size": lambda exp: f"batch {exp.batch_size}",
    "initialisation": lambda exp: f"{exp.initialisation.replace('he', 'He')} init.",
    "eps": lambda exp: f"eps {short(exp.eps or 1e-8)}",
    "precision": lambda exp: exp.precision,
    "dropout": lambda exp: f"dropout {exp.dropout:g}" if exp.dropout else "no dropout",
}


def short(number: float) -> str:
    """0.0095642 -> "9.6e-3"."""
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def labels(names: Iterable[str]) -> dict[str, str]:
    """What each run of the table is, in the settings in which these runs differ; any other run keeps its name.

    >>> labels(["fine_tune_1", "fine_tune_2"])
    {'fine_tune_1': 'head', 'fine_tune_2': 'layer4 + head'}
    """
    names = list(names)
    table = [EXPERIMENTS[name] for name in names if name in EXPERIMENTS]
    differing = [key for key in FACTS if len({getattr(exp, key) for exp in table}) > 1]
    differing = differing or (["trainable", "lr"] if any(exp.trainable for exp in table) else ["model"])
    return {
        name: ", ".join(FACTS[key](EXPERIMENTS[name]) for key in differing) if name in EXPERIMENTS else name
        for name in names
    }


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
