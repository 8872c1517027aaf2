"""What happens in each layer of a model: its gradient over training, and how the signal fares with depth."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from deepnet.figures.lines import Groups, label_lines, lines, positions
from deepnet.figures.plots import GREY, INK, TEXT, WIDTH, Sheet, heat_map, looks, sheet, style, whole_numbers
from deepnet.records.reading import Record
from experimentTable import BOTH_PRECISIONS, experiment

ADAM_EPS = -8  # log10 of its default
MARGIN = 0.01  # of accuracy, within which q7 calls two precisions alike
LEAST_GRADIENT = -18  # log10, of the colours: what is less, down to none at all, has one
BY_LAYER = {  # what a layer's metric is
    "probe_variance": "variance across samples",
    "probe_distinct": "of 256 images told apart",
    "gradient_log10_rms": "log10 of gradient's RMS",
}


def layers(records: Sequence[Record], metric: str) -> np.ndarray:
    """A metric with one value a weight layer, as (rows, layers), mean over the seeds; NaN where a row lacks it."""
    width = max(len(row.get(metric) or ()) for record in records for row in record.rows)
    values = [[row.get(metric) or [None] * width for row in record.rows] for record in records]
    shortest = min(map(len, values))
    seen = np.ma.masked_invalid(np.array([rows[:shortest] for rows in values], dtype=float))
    return np.ma.filled(seen.mean(axis=0), np.nan)


def block_starts(model: str) -> np.ndarray:
    """The numbers, from 0, of a model's weight layers that begin a residual block or what follows the blocks; all of a
    plain model.
    """
    import torch

    from myModel import MODELS, weight_layers

    with torch.device("meta"):
        names = [name for name, _ in weight_layers(MODELS[model]())]
    residual = any(".body." in name for name in names)
    return np.array([i for i, name in enumerate(names) if not residual or name.endswith((".body.0", "last.0"))])


def depth(records: Groups) -> Sheet:
    """3.3b, 3.6b, 4.2b: each layer's gradient over training, and how what tells samples apart shrinks with depth.

    Of a residual net only the layers that read a sum are in the lower panels: inside a block the variance falls and is
    lifted again by the shortcut, so that the line through all layers would be a saw.

    Theory (Schoenholz et al. 2017; He et al. 2015): torch's default weights have variance 1 / (3 fan-in), and a ReLU
    halves, so in a plain chain the variance across samples falls to 1/6 a layer; He's 2 / fan-in keeps it. Beside
    residual nets it is drawn to compare with.
    """
    figure, look = Sheet(figsize=(WIDTH, 5.6), dpi=100, layout="constrained"), looks(records)
    upper, lower = figure.subfigures(2, 1, squeeze=False).flat
    maps = {name: layers(runs, "gradient_log10_rms")[1:] for name, runs in records.items()}
    least, high = min(map(np.nanmin, maps.values())), max(map(np.nanmax, maps.values()))
    low = max(least, LEAST_GRADIENT)
    above = upper.subplots(1, len(maps), squeeze=False)[0]
    for ax, (name, values) in zip(above, maps.items(), strict=True):
        x, label = positions(records[name][0])
        mesh = heat_map(ax, x[: len(values)], values, low, high)
        style(ax, name, label, "weight layer (1: at the input)" if ax is above[0] else "", grid=None)
    bar = upper.colorbar(mesh, ax=list(above), pad=0.01, aspect=16, extend="min" if least < low else "neither")
    bar.set_label("log10 of gradient's RMS", fontsize=TEXT, color=INK)
    bar.ax.tick_params(labelsize=TEXT, length=2.5, color=GREY)
    if low < ADAM_EPS < high:
        bar.set_label("log10 of gradient's RMS (white: eps)")
        bar.ax.axhline(ADAM_EPS, color="white", linewidth=2)
    spreads = {name: layers(runs, "probe_variance") for name, runs in records.items()}
    shown = {name: block_starts(experiment(name).model) for name in records}
    plain = all(len(shown[name]) == spread.shape[1] for name, spread in spreads.items())
    panels = lower.subplots(1, 2, sharey=True)
    for ax, row, when in zip(panels, (0, -1), ("Before training", "After training"), strict=True):
        for name, spread in spreads.items():
            above_zero = np.where(spread[row] > 0, spread[row], np.nan)[shown[name]]  # the axis is logarithmic
            on_top = 2 + 1 / len(above_zero)  # the shallower, which the deeper would hide where they agree
            ax.plot(
                1 + shown[name],
                above_zero,
                color=look[name][0],
                linewidth=1.1,
                marker="o",
                markersize=2,
                label=name,
                zorder=on_top,
            )
        ends = any((spread[row] == 0).any() for spread in spreads.values())
        what = f"{when} (a line ends where it is 0)" if ends else when
        style(ax, what, "weight layer (1: at the input)", "variance across samples" if row == 0 else "")
        ax.set_yscale("log")
        ax.xaxis.set_major_locator(whole_numbers(6))
        _theory(ax, [spread[0] for spread in spreads.values()], "theory" if plain else "theory, plain net")
    label_lines(*panels)
    return figure


def _theory(ax: Axes, spreads: Sequence[np.ndarray], label: str) -> None:
    """A decay to 1/6 a layer, and none, from the untrained first layers' mean variance down to the least that was
    measured.
    """
    first, least = np.mean([spread[0] for spread in spreads]), min(spread[spread > 0].min() for spread in spreads)
    layer = np.arange(max(map(len, spreads)))
    falling = np.where((decay := first / 6.0**layer) >= least / 6, decay, np.nan)
    ax.plot(1 + layer, falling, color=GREY, linestyle="--", linewidth=1.2, label=f"{label}: 1/6 a layer")
    ax.plot(
        1 + layer, np.full(len(layer), first), color=GREY, linestyle=":", linewidth=1.2, label=f"{label}, He: constant"
    )


def precision(records: Groups) -> Sheet:
    """4.6: bf16 beside fp32 from the same weights: training, where it ends, and what is left of 256 images at each
    depth before it.
    """
    figure, axes = sheet(2, 2, height=5.2)
    look = looks(records)
    lines(axes[0], records, ["train_loss"], look)
    pairs = [model for model in BOTH_PRECISIONS if {f"{model}_fp32", f"{model}_bf16"} <= records.keys()]
    for place, model in enumerate(pairs):
        ends = [
            {record.seed: record.result["accuracy"] for record in records[f"{model}_{side}"]}
            for side in ("fp32", "bf16")
        ]
        apart = [ends[1][seed] - ends[0][seed] for seed in ends[0].keys() & ends[1].keys()]
        axes[1].plot([place] * len(apart), apart, "o", color=look[f"{model}_bf16"][0], markersize=4, label=f"_{model}")
    axes[1].axhspan(-MARGIN, MARGIN, color=GREY, alpha=0.15, linewidth=0)
    style(axes[1], "Accuracy, bf16 less fp32 (grey: within a point)", "", "difference (share of images)")
    axes[1].set_xticks(range(len(pairs)), [model.replace("_", "\n", 1) for model in pairs])
    axes[1].set_xlim(-0.5, max(len(pairs), 1) - 0.5)
    for ax, metric in zip(axes[2:], ("probe_variance", "probe_distinct"), strict=True):
        _by_layer(ax, records, metric, 0, "before training")
    label_lines(axes[0], *axes[2:], legend_at=2)
    return figure


def float64(records: Groups) -> Sheet:
    """3.7b, 4.5b: float64 beside float32: what is left of 256 images at each depth, before training and after it, and
    the gradient.
    """
    figure, axes = sheet(2, 2, height=5.2)
    _by_layer(axes[0], records, "probe_variance", 0, "before training")
    _by_layer(axes[1], records, "probe_distinct", 0, "before training")
    _by_layer(axes[2], records, "gradient_log10_rms", 1, "epoch 1 (grey: Adam's eps)")
    axes[2].axhline(ADAM_EPS, color=GREY, linestyle=":", linewidth=1.2)
    _by_layer(axes[3], records, "probe_distinct", -1, "after training")
    label_lines(*axes)
    return figure


def _by_layer(ax: Axes, records: Groups, metric: str, row: int, when: str) -> None:
    """A metric of the layers that begin a block, in one row of each run."""
    look, what = looks(records), BY_LAYER[metric]
    for name, runs in records.items():
        shown, values = block_starts(experiment(name).model), layers(runs, metric)[row]
        ax.plot(1 + shown, values[shown], color=look[name][0], linestyle=look[name][1], linewidth=1.2, label=name)
    style(ax, f"{what[0].upper()}{what[1:]}, {when}", "weight layer (1: at the input)", what)
    ax.xaxis.set_major_locator(whole_numbers(6))
    if metric == "probe_variance":
        ax.set_yscale("log")
    if metric == "probe_distinct":
        ax.set_ylim(0, 1.05 * ax.get_ylim()[1])  # most lines run along the top
