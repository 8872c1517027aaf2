"""What happens in each layer of a model: its gradient over training, and how the signal fares with depth."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from deepnet.figures.images import sample_images
from deepnet.figures.lines import named, positions
from deepnet.figures.looks import BLACK, GREY, WIDTH, labels, looks, marker_of
from deepnet.figures.plots import Groups, Sheet, colour_bar, heat_map, legend, logarithmic, sheet, style, whole_numbers
from deepnet.figures.theory import signal_variance
from deepnet.records.reading import Record
from experimentTable import BOTH_PRECISIONS, experiment

ADAM_EPS = -8  # log10 of its default
MARGIN = 0.01  # of accuracy, within which q7 calls two precisions equivalent
PROBE = 256  # images that the records' probes are of: the first of the training set, which the embedded sample has too
LAYER = "weight layer (1: at the input)"
LEAST_GRADIENT = -18  # log10, of the colours: what is less, down to none at all, has one
BY_LAYER = {  # what a layer's metric is
    "probe_variance": "variance across samples",
    "probe_distinct": f"distinct outputs of {PROBE} images",
    "gradient_log10_rms": "log10 of the gradient's RMS",
}


def layers(records: Sequence[Record], metric: str) -> np.ndarray:
    """A metric with one value per weight layer, as (rows, layers), mean over the seeds; NaN where a row lacks it."""
    width = max(len(row.get(metric) or ()) for record in records for row in record.rows)
    values = [[row.get(metric) or [None] * width for row in record.rows] for record in records]
    shortest = min(map(len, values))
    seen = np.ma.masked_invalid(np.array([rows[:shortest] for rows in values], dtype=float))
    return np.ma.filled(seen.mean(axis=0), np.nan)


def _weight_layers(model: str) -> list[tuple[str, Any]]:
    """Names and modules of a model's weight layers, without memory for the weights."""
    import torch

    from myModel import MODELS, weight_layers

    with torch.device("meta"):
        return list(weight_layers(MODELS[model]()))


def block_starts(model: str) -> np.ndarray:
    """The numbers, from 0, of the weight layers that begin a block or follow the blocks; all of a plain model."""
    names = [name for name, _ in _weight_layers(model)]
    residual = any(".body." in name for name in names)
    return np.array([i for i, name in enumerate(names) if not residual or name.endswith((".body.0", "last.0"))])


@cache
def theory(model: str, initialisation: str) -> np.ndarray:
    """What `signal_variance` gives for the probe's images in a plain model, one value per weight layer.

    A convolution counts as a layer of its fan-in, and poolings are left out. An MLP gets MNIST's images, a CNN
    CIFAR-10's.
    """
    import torch

    images = sample_images("mnist" if model.startswith("MLP") else "cifar10")
    inputs = images.batch(torch.arange(PROBE))[0].flatten(1).double().numpy()
    fan_ins = [layer.weight[0].numel() for _, layer in _weight_layers(model)]
    return signal_variance(inputs, fan_ins, initialisation)


def depth(records: Groups, *, plain: str) -> Sheet:
    """3.3b, 3.6b, 4.2b: each layer's gradient over training, and how what tells samples apart shrinks with depth.

    Of a residual net only the layers that read a sum are in the lower panels: inside a block the variance falls and is
    lifted again by the shortcut, so that the line through all layers would be a saw. `plain`: the model whose `theory`
    stands beside the untrained ones.
    """
    figure, look = Sheet(figsize=(WIDTH, 5.6), dpi=100, layout="constrained"), looks(records)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.25]).flat
    maps = {name: layers(runs, "gradient_log10_rms")[1:] for name, runs in records.items()}
    least, high = min(map(np.nanmin, maps.values())), max(map(np.nanmax, maps.values()))
    low = max(least, LEAST_GRADIENT)
    above = upper.subplots(1, len(maps), squeeze=False)[0]
    for ax, (name, values) in zip(above, maps.items(), strict=True):
        x, label = positions(records[name][0])
        mesh = heat_map(ax, x[: len(values)], values, low, high)
        if np.nanmin(values) < ADAM_EPS < np.nanmax(values):
            centres = np.convolve([0, *x[: len(values)]], [0.5, 0.5], "valid")
            places = 1 + np.arange(values.shape[1])
            ax.contour(centres, places, values.T, [ADAM_EPS], colors="white", linewidths=1, linestyles="-")
        style(ax, name, label, "weight layer" if ax is above[0] else "", grid=None)
    shows_eps = bool(low < ADAM_EPS < high)
    label = "log10 of the gradient's RMS" + "\n(white: Adam's eps)" * shows_eps
    extend = "min" if least < low else "neither"
    bar = colour_bar(upper, mesh, above, label, pad=0.01, aspect=16, extend=extend)
    if shows_eps:
        bar.ax.axhline(ADAM_EPS, color="white", linewidth=2)
    spreads = {name: layers(runs, "probe_variance") for name, runs in records.items()}
    shown = {name: block_starts(experiment(name).model) for name in records}
    panels = lower.subplots(1, 2, sharex=True, sharey=True)
    for ax, row, when in zip(panels, (0, -1), ("Before training", "After training"), strict=True):
        for place, (name, spread) in enumerate(spreads.items()):
            above_zero = np.where(spread[row] > 0, spread[row], np.nan)[shown[name]]  # the axis is logarithmic
            every = max(1, len(above_zero) // 6)
            ax.plot(
                1 + shown[name], above_zero, color=look[name][0], linewidth=1.1, label=name, markersize=4,
                marker=marker_of(look[name][0]), markevery=(place % every, every),
                zorder=2 + 1 / len(above_zero),  # the shallower on top, which the deeper would hide where they agree
            )  # fmt: skip
        ends = any((spread[row] == 0).any() for spread in spreads.values())
        what = f"{when} (a line ends where it is 0)" if ends else when
        style(ax, what, LAYER, "variance across samples" if row == 0 else "")
        ax.xaxis.set_major_locator(whole_numbers(6))
    floor = min(spread[spread > 0].min() for spread in spreads.values()) / 6
    for initialisation, dash in (("default", "--"), ("he", ":")):
        expected = theory(plain, initialisation)
        label = f"{plain} in theory, {initialisation.replace('he', 'He')} init."
        values = np.where(expected >= floor, expected, np.nan)
        panels[0].plot(
            1 + np.arange(len(values)), values, color=GREY, linestyle=dash, linewidth=1.4, label=label, zorder=5
        )
    logarithmic(panels[0])
    legend(lower, named(panels[0]), columns=3 if len(records) == 3 else 4)
    return figure


def precision(records: Groups) -> Sheet:
    """4.6: bf16 beside fp32 from the same weights, and what is left of 256 images before training."""
    figure, axes = sheet(2, 2, height=5.6)
    loss, accuracy, variance, distinct = axes
    pairs = [model for model in BOTH_PRECISIONS if {f"{model}_fp32", f"{model}_bf16"} <= records.keys()]
    unit = ""
    for place, model in enumerate(pairs):
        sides = [{record.seed: record for record in records[f"{model}_{side}"]} for side in ("fp32", "bf16")]
        both = [(sides[0][seed], sides[1][seed]) for seed in sides[0].keys() & sides[1].keys()]
        colour = looks([model])[model][0]
        kind: dict[str, Any] = {"color": colour, "marker": marker_of(colour), "markersize": 4}
        for fp32, bf16 in both:
            x, unit = positions(fp32)
            apart = np.subtract(*(record.column("train_loss", trained_only=True) for record in (bf16, fp32)))
            loss.plot(x, apart, **kind, linewidth=1, label=model if fp32 is both[0][0] else f"_{model}")
        ends = [bf16.result["accuracy"] - fp32.result["accuracy"] for fp32, bf16 in both]
        accuracy.plot([place] * len(ends), ends, **kind, ls="", label=f"_{model}")
        for side, face, size in (("fp32", "none", 10), ("bf16", colour, 4)):
            left = layers(records[f"{model}_{side}"], "probe_distinct")[0][-1]
            distinct.plot([place], [left], "o", mec=colour, mfc=face, markersize=size, label=f"_{model}")
    for ax in (accuracy, distinct):
        ax.set_xticks(range(len(pairs)), [model.replace("_", "\n", 1) for model in pairs])
        ax.set_xlim(-0.5, max(len(pairs), 1) - 0.5)
    accuracy.axhspan(-MARGIN, MARGIN, color=GREY, alpha=0.15, linewidth=0)
    for ax in (loss, accuracy):
        ax.axhline(0, color=GREY, linewidth=0.8)
    style(loss, "Training loss, bf16 minus fp32", unit, "cross-entropy (nats)")
    loss.xaxis.set_major_locator(whole_numbers(5))
    style(accuracy, "Accuracy, bf16 minus fp32 (grey: ±1 point)", "", "share of images")
    style(distinct, "Last layer before training (ring: fp32)", "", BY_LAYER["probe_distinct"])
    distinct.set_ylim(0, PROBE * 1.08)
    _by_layer(variance, records, "probe_variance", 0, "before training (dashed: bf16)")
    legend(figure, named(loss), columns=5)
    return figure


def float64(records: Groups) -> Sheet:
    """3.7b, 4.5b: float64 beside float32: what is left of 256 images before and after training, and the gradient."""
    figure, axes = sheet(2, 2, height=5.2)
    _by_layer(axes[0], records, "probe_variance", 0, "before training")
    _by_layer(axes[1], records, "probe_distinct", 0, "before training")
    _by_layer(axes[2], records, "gradient_log10_rms", 1, "in the first epoch")
    axes[2].axhline(ADAM_EPS, color=GREY, linestyle=":", linewidth=1.2, label="Adam's eps")
    _by_layer(axes[3], records, "probe_distinct", -1, "after training")
    legend(figure, named(*axes))
    return figure


def _by_layer(ax: Axes, records: Groups, metric: str, row: int, when: str) -> None:
    """A metric of the layers that begin a block, in one row of each run; dashed lines are seen on top of wide ones."""
    look, names = looks(records), labels(records)
    for name, runs in records.items():
        shown, values = block_starts(experiment(name).model), layers(runs, metric)[row]
        colour, dash = look[name]
        wide = dash == "-" and len({look[0] for look in look.values()}) < len(look)
        ax.plot(
            1 + shown, values[shown], color=colour if wide or len(records) > 2 else BLACK, linestyle=dash,
            linewidth=3.5 if wide else 1.3, alpha=0.45 if wide else 1, label=names[name],
        )  # fmt: skip
    style(ax, when.capitalize(), LAYER, BY_LAYER[metric])
    ax.xaxis.set_major_locator(whole_numbers(6))
    if metric == "probe_variance":
        logarithmic(ax)
    if metric == "probe_distinct":
        ax.set_ylim(0, 1.05 * ax.get_ylim()[1])  # most lines run along the top
