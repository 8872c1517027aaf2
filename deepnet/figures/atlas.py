"""The figures of the degradation atlas, A.1 to A.6: maps of a grid of runs, whose missing cells are hatched."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import compress, product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from deepnet.claims.atlas import LAYERS_PER_DECADE, half_depth, late, leaves_plateau
from deepnet.claims.formulas import exact_interval
from deepnet.claims.measures import left_plateau
from deepnet.figures.entry import Entry
from deepnet.figures.layers import LAYER, layers, theory
from deepnet.figures.lines import GUESSING, named, positions
from deepnet.figures.looks import BLACK, BLUE, FAINT, GREY, INK, MARKERS, SMALL, VERMILLION, short
from deepnet.figures.plots import Groups, Sheet, colour_bar, heat_map, legend, sheet, style, whole_numbers
from deepnet.figures.theory import untrained_mlp
from deepnet.grid import (
    CELLS,
    CNN_ROW,
    EPS,
    EPS_DEPTHS,
    FRONT_ROWS,
    OWN_CELLS,
    RATE_ROWS,
    RATES,
    WITH_SHORTCUTS,
    eps_row,
    mlp_widths,
    ten_row,
)
from deepnet.records.reading import Record

BAR = {"pad": 0.015, "aspect": 22}  # of the colours beside a map
FLOAT32 = 2.0**-24  # half the distance from 1 to the next number
EPS_ROWS = {cell: eps_row(*cell) for cell in product(EPS_DEPTHS, EPS)}
DECADES = -np.log10(EPS)


def per_cell(records: Groups, rows: Mapping[Any, str], measure: Callable[[Record], float]) -> dict[Any, list[float]]:
    """Cell -> `measure` of each seed's record, of the cells that have any."""
    return {cell: list(map(measure, records[row])) for cell, row in rows.items() if row in records}


def grid_map(
    ax: Axes, values: np.ndarray, texts: np.ndarray, x: np.ndarray, y: np.ndarray, low: float, at: float = 0.5
) -> QuadMesh:
    """A heat map of values (rows, columns) from `low` to 1, whose cells have these edges; NaN is hatched.

    Each cell has a text, which stands `at` this share of its width.
    """
    mesh = ax.pcolormesh(x, y, np.ma.masked_invalid(values), cmap="viridis", vmin=low, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        left, right, below, above = x[column], x[column + 1], y[row], y[row + 1]
        if np.isnan(value):
            ax.fill_between([left, right], below, above, facecolor="none", edgecolor=FAINT, hatch="///", linewidth=0)
        else:
            colour = BLACK if value > (low + 1) / 2 else "white"
            middle = (left + at * (right - left), (below + above) / 2)
            ax.text(*middle, str(texts[row, column]), ha="center", va="center", fontsize=SMALL, color=colour)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    return mesh


def edges(centres: Sequence[float] | np.ndarray) -> np.ndarray:
    """The edges of cells around these centres: the middles between them, and as far outside."""
    middles = (np.array(centres[1:]) + centres[:-1]) / 2
    return np.array([2 * centres[0] - middles[0], *middles, 2 * centres[-1] - middles[-1]])


# ---------------------------------------------------------------- A.1: depth and eps


def gradient_depths() -> np.ndarray:
    """At each eps the depth from which on an untrained net's smallest gradient lies below it, in theory."""
    depths = np.arange(4, 101)
    smallest = [untrained_mlp(mlp_widths(int(depth)))[1].min() for depth in depths]
    return np.interp(DECADES, -np.array(smallest), depths)


def float32_depth() -> float:
    """The depth at which the untrained net's outputs for different images differ by less than float32 can hold."""
    widths = mlp_widths(max(EPS_DEPTHS))
    spread = np.sqrt(theory(f"MLP_{max(EPS_DEPTHS)}", "default") / untrained_mlp(widths)[0])
    return float(np.interp(-np.log10(FLOAT32), -np.log10(spread), 1 + np.arange(len(spread))))


def observed_depths(records: Groups) -> np.ndarray:
    """`half_depth` at each eps, of the seeds that all of its depths have; NaN where there is none."""
    found = []
    for eps in EPS:
        runs = [{r.seed: leaves_plateau(r) for r in records.get(eps_row(depth, eps), ())} for depth in EPS_DEPTHS]
        seeds = set.intersection(*map(set, runs))
        left = tuple(sum(run[seed] for seed in seeds) for run in runs)
        found.append(half_depth(EPS_DEPTHS, left, len(seeds)) if seeds else np.nan)
    return np.array(found)


def eps_map(records: Groups) -> Sheet:
    """A.1: the share of seeds that leave the plateau, by depth and eps, and the depths that theory names."""
    from matplotlib.patheffects import withStroke

    cells = per_cell(records, EPS_ROWS, leaves_plateau)
    shares, texts = np.full((len(EPS_DEPTHS), len(EPS)), np.nan), np.full((len(EPS_DEPTHS), len(EPS)), "", object)
    for (row, depth), (column, eps) in product(enumerate(EPS_DEPTHS), enumerate(EPS)):
        if left := cells.get((depth, eps)):
            shares[row, column], texts[row, column] = np.mean(left), f"{sum(left)}/{len(left)}"
    figure, (ax,) = sheet(height=4.0)
    mesh = grid_map(ax, shares, texts, edges(DECADES), edges(EPS_DEPTHS), 0, at=0.2)
    # with a white edge, to be seen on any colour
    look: dict[str, Any] = {"linewidth": 1.6, "path_effects": [withStroke(linewidth=3, foreground="white")]}
    ax.plot(DECADES, gradient_depths(), color=VERMILLION, label="smallest gradient = eps, in theory", **look)
    ax.axhline(float32_depth(), color=INK, linestyle="--", label="images alike in float32, in theory", **look)
    ax.plot(
        DECADES, observed_depths(records), "o", color="white", markeredgecolor=BLACK, markersize=7,
        label="half of the seeds leave (fit)",
    )  # fmt: skip
    style(ax, "", "Adam's eps", "weight layers", grid=None)
    ax.set_xticks(DECADES, [short(eps) for eps in EPS])
    ax.set_yticks(EPS_DEPTHS)
    colour_bar(figure, mesh, [ax], "share of seeds that leave the plateau", **BAR)
    legend(figure, named(ax), columns=3)
    return figure


# ---------------------------------------------------------------- A.2 and A.3: where training ends


def accuracy_map(ax: Axes, cells: Mapping[Any, list[float]], rows: Sequence[Any], columns: Sequence[Any]) -> QuadMesh:
    """Mean accuracies over the seeds; the keys of `cells` are (row, column)."""
    values = np.array([[np.mean(cells.get((row, column), [np.nan])) for column in columns] for row in rows])
    texts = np.array([[f"{value:.2f}".removeprefix("0") for value in row] for row in values])
    x, y = (np.arange(len(names) + 1) - 0.5 for names in (columns, rows))
    mesh = grid_map(ax, values, texts, x, y, GUESSING["test_accuracy"])
    ax.set_yticks(range(len(rows)), list(map(str, rows)))
    return mesh


def rate_map(records: Groups) -> Sheet:
    """A.2: final test accuracy by depth and learning rate, each depth's best rate framed."""
    figure, (ax,) = sheet(height=2.6)
    depths = tuple(WITH_SHORTCUTS)
    mesh = accuracy_map(ax, per_cell(records, RATE_ROWS, partial(late, "test_accuracy")), depths, RATES)
    losses = per_cell(records, RATE_ROWS, partial(late, "train_loss"))
    for row, depth in enumerate(depths):
        means = [np.mean(losses.get((depth, lr), [np.nan])) for lr in RATES]
        if np.isfinite(means).all():
            best = int(np.argmin(means))
            frame = [best - 0.5, best + 0.5, best + 0.5, best - 0.5, best - 0.5]
            ax.plot(frame, row + np.array([-0.5, -0.5, 0.5, 0.5, -0.5]), color=VERMILLION, linewidth=2, clip_on=False)
    style(ax, "", "learning rate", "weight layers", grid=None)
    ax.set_xticks(range(len(RATES)), list(map(short, RATES)))
    colour_bar(figure, mesh, [ax], "test accuracy", **BAR)
    return figure


def factorial_map(records: Groups) -> Sheet:
    """A.3: final test accuracy by depth, initialisation, batch normalization, shortcuts and learning rate."""
    found = per_cell(records, CELLS, partial(late, "test_accuracy"))
    figure, axes = sheet(1, 2, height=3.2, sharey=True)
    depths = tuple(WITH_SHORTCUTS)
    options = list(product((False, True), repeat=3))  # shortcuts, batch norm, He
    for ax, lr in zip(axes, (1e-4, 1e-3), strict=True):
        cells = {
            (depth, (shortcuts, norm, he)): found[(depth, shortcuts, norm), he, lr]
            for depth in depths for shortcuts, norm, he in options if ((depth, shortcuts, norm), he, lr) in found
        }  # fmt: skip
        mesh = accuracy_map(ax, cells, depths, options)
        style(ax, f"learning rate {short(lr)}", "", "weight layers" if ax is axes[0] else "", grid=None)
        words = [" + ".join(compress(("shortcuts", "norm", "He"), option)) or "plain" for option in options]
        ax.set_xticks(range(len(options)), words, rotation=40, ha="right")
    colour_bar(figure, mesh, axes, "test accuracy", **BAR)
    return figure


# ---------------------------------------------------------------- A.4: how long a seed stays on the plateau


def survival(records: Groups) -> Sheet:
    """A.4: CNN_30's training loss by seed, and the share of seeds that are still on the plateau."""
    runs = records[CNN_ROW]
    figure, (left, right) = sheet(1, 2, height=2.7)
    losses = np.array([run.column("train_loss", True) for run in runs])
    epochs = np.arange(losses.shape[1] + 1)
    for loss in losses:
        left.plot(epochs[1:], loss, color=BLUE, linewidth=1, marker="o", markersize=3)
    left.axhline(GUESSING["train_loss"], color=GREY, linestyle=":", linewidth=1.2)
    style(left, "A line per seed (dotted: guessing)", "epoch", "cross-entropy (nats)")
    there = (~np.logical_or.accumulate([left_plateau(run) for run in runs], axis=1)).sum(axis=0)
    staying = np.array([len(runs), *there])
    low, high = np.array([exact_interval(k, len(runs), 0.95) for k in staying.tolist()]).T
    right.fill_between(epochs[1:], low[1:], high[1:], color=BLUE, alpha=0.2, linewidth=0, step="pre")
    right.step(epochs, staying / len(runs), where="pre", color=BLUE, linewidth=1.6)
    for epoch, count in zip(epochs[1:], there, strict=True):
        right.text(epoch, count / len(runs) + 0.03, f"{count}/{len(runs)}", fontsize=SMALL, ha="right", color=INK)
    right.set_ylim(0, 1.1)
    style(right, "Still on the plateau (shaded: 95 % interval)", "epochs trained", "share of seeds")
    for ax in (left, right):
        ax.xaxis.set_major_locator(whole_numbers(5))
    return figure


# ---------------------------------------------------------------- A.5: the front of the growing signal


def front(records: Groups) -> Sheet:
    """A.5: by layer and step, the variance across images over that before training, of the first 1,000 steps."""
    names = [row for row in FRONT_ROWS if row in records]
    figure, axes = sheet(1, len(names), height=3.0)
    growth = {}
    for name in names:
        variance = layers(records[name], "probe_variance")
        growth[name] = np.log10(np.maximum(variance, 1e-40) / np.maximum(variance[0], 1e-40))
    high = max(values.max() for values in growth.values())
    for ax, (name, values) in zip(axes, growth.items(), strict=True):
        steps = positions(records[name][0])[0]
        mesh = heat_map(ax, steps, values[1:], 0, high)
        depth, eps = FRONT_ROWS[name]
        style(ax, f"{depth} layers, eps {short(eps)}", "optimizer steps", LAYER if ax is axes[0] else "", grid=None)
        ax.xaxis.set_major_locator(whole_numbers(3))
    colour_bar(figure, mesh, axes, "log10 of variance across images\nover that before training", **BAR)
    return figure


# ---------------------------------------------------------------- A.6: what ten steps predict


def smallest_update(record: Record) -> float:
    """log10 of the smallest relative update of any layer, over the first ten steps."""
    return float(min(record.rows[1]["update_log10_ratio"]))


PREDICTORS: dict[str, Callable[[Record], float]] = {  # larger: the run should learn
    "fewer layers": lambda r: -len(r.rows[1]["update_log10_ratio"]),
    "smaller eps": lambda r: -r.settings["experiment"]["eps"],
    "both, as theory joins them": lambda r: (
        -len(r.rows[1]["update_log10_ratio"]) / LAYERS_PER_DECADE - np.log10(r.settings["experiment"]["eps"])
    ),
    "first layer's gradient": lambda r: r.rows[1]["gradient_log10_rms"][0],
    "smallest gradient over eps": lambda r: (
        min(r.rows[1]["gradient_log10_rms"]) - np.log10(r.settings["experiment"]["eps"])
    ),
    "smallest relative update": smallest_update,
    "distinct outputs, last layer": lambda r: r.rows[1]["probe_distinct"][-1],
}


def ten_steps(records: Groups) -> Sheet:
    """A.6: how well measures of the first ten steps tell the runs that leave the plateau from those that do not."""
    from sklearn.metrics import roc_auc_score

    pairs = []  # (the first ten steps, whether the whole run leaves the plateau)
    for cell, row in EPS_ROWS.items():
        ends = {run.seed: leaves_plateau(run) for run in records.get(row, ())}
        pairs += [(run, ends[run.seed]) for run in records.get(ten_row(*cell), ()) if run.seed in ends]
    figure, (left, right) = sheet(1, 2, height=3.2)
    outcomes = np.array([left_it for _, left_it in pairs], dtype=bool)
    for outcome, colour, marker, label in ((True, BLUE, "o", "leaves the plateau"), (False, VERMILLION, "x", "stays")):
        chosen = [run for run, left_it in pairs if left_it == outcome]
        depths = [len(run.rows[1]["update_log10_ratio"]) + (run.seed - 2) * 0.4 for run in chosen]
        left.plot(list(map(smallest_update, chosen)), depths, marker, color=colour, markersize=4, label=label)
    style(left, "Each run after ten steps", "log10 of the smallest relative update", "weight layers")
    left.set(yticks=EPS_DEPTHS, ylim=edges(EPS_DEPTHS)[[0, -1]])
    legend(left, left.get_lines(), columns=2)
    for place, measure in enumerate(PREDICTORS.values()):
        if 0 < outcomes.sum() < len(outcomes):
            area = roc_auc_score(outcomes, [measure(run) for run, _ in pairs])
            right.plot([area], [place], MARKERS[0], color=BLUE, markersize=6)
            right.text(area, place + 0.18, f"{area:.2f}", fontsize=SMALL, ha="center", color=INK)
    right.axvline(0.5, color=GREY, linestyle=":", linewidth=1.2)
    style(right, f"Separates {len(pairs)} runs (dotted: chance)", "area under the ROC curve", "", grid="x")
    right.set(xlim=(0, 1.05), ylim=(-0.5, len(PREDICTORS) - 0.3))
    right.set_yticks(range(len(PREDICTORS)), list(PREDICTORS))
    return figure


# ---------------------------------------------------------------- the registry of these


FIGURES: dict[str, Entry] = {
    "A.1": Entry(
        eps_map, tuple(EPS_ROWS.values()), "How deep a plain MLP can be trained, by Adam's eps",
        "A map of the share of seeds that leave the plateau within four epochs, by number of weight layers and Adam's "
        "eps, with the depths that theory names.",
        "A cell says in how many of its seeds the training loss of an epoch falls below that of guessing by more than "
        "0.05; hatched cells have no record. Below the red line theory, with nothing fitted, expects every layer's "
        "first gradients above eps; each layer shrinks them by √6. Above the dashed line float32 cannot tell two "
        "images apart in the untrained net's last layer. Circles are the depths at which half of the seeds leave.",
    ),
    "A.2": Entry(
        rate_map, tuple(RATE_ROWS.values()), "Depth and learning rate: where plain MLPs end after ten epochs",
        "A map of the test accuracy by number of weight layers and learning rate; each depth's best rate is framed.",
        "The mean test accuracy of the last three epochs, over the seeds. The frame is at the rate with the lowest "
        "training loss, once all rates of that depth have a record.",
    ),
    "A.3": Entry(
        factorial_map, tuple(OWN_CELLS.values()), "Depth beside initialization, batch norm, shortcuts and rate",
        "Two maps, one per learning rate, of the test accuracy by number of weight layers and by what is added to the "
        "plain net: shortcuts, batch normalization, He's initialization and their combinations.",
        "The mean test accuracy of the last three of ten epochs, over the seeds.",
        also=tuple(row for cell, row in CELLS.items() if cell not in OWN_CELLS),  # which alone are A.2's
    ),
    "A.4": Entry(
        survival, (CNN_ROW,), "How many seeds of CNN_30 are still on the plateau (eps 1e-16)",
        "On the left the training loss per epoch, a line per seed; on the right the share of seeds on the plateau.",
    ),
    "A.5": Entry(
        front, tuple(FRONT_ROWS), "The front of the growing signal over the first 1,000 steps",
        "Maps by weight layer and optimizer step of how much the variance across images has grown since the start.",
        "A column is ten steps, a row a weight layer, the input's at the bottom. The colour is the variance of the "
        "layer's outputs across 256 images over that before training, in powers of ten.",
    ),
    "A.6": Entry(
        ten_steps, (*EPS_ROWS.values(), *(ten_row(*cell) for cell in EPS_ROWS)),
        "What the first ten steps say of what happens in four epochs",
        "On the left each run by its smallest relative update and its depth, coloured by whether it leaves the "
        "plateau; on the right how well seven measures separate the two kinds of runs.",
        "The area is the chance that of two runs, of which one leaves the plateau, the measure picks that one. Depth "
        "and eps, which are known before training, are among them, alone and joined as theory has it (the red line of "
        "A.1): what does not exceed these adds nothing.",
    ),
}  # fmt: skip
