"""The figure of a diagnosis."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from deepnet.diagnosis.measure import Measurements
from deepnet.diagnosis.rules_steps import GOOD_UPDATE, LOW_UPDATE
from deepnet.diagnosis.trials import Trial
from deepnet.figures.looks import BLACK, BLUE, GREY, PALETTE, VERMILLION
from deepnet.figures.plots import Sheet, legend, logarithmic, sheet, style, whole_numbers

LAYER = "layer (1: runs first)"


def picture(m: Measurements, trials: Sequence[Trial]) -> Sheet:
    """Two panels, or three where cures were tried: signal, updates and gradients by layer; losses by step."""
    figure, axes = sheet(1, 3 if trials else 2, height=4.4)
    ran = [layer for layer in m.layers if layer.ran]
    x = 1 + np.arange(len(ran))
    _line(axes[0], x, [layer.before.variance for layer in ran], BLUE, "-", "before the steps")
    _line(axes[0], x, [layer.after.variance for layer in ran], VERMILLION, "-", "after them")
    _line(axes[0], x, [layer.expected for layer in ran], GREY, "--", "in theory, before")
    style(axes[0], "Variance across samples", LAYER)
    _line(axes[1], x, [layer.update for layer in ran], BLUE, "-", "update over weight, per step")
    _line(axes[1], x, [layer.gradient for layer in ran], VERMILLION, "-", "gradient (RMS)")
    axes[1].axhspan(LOW_UPDATE, GOOD_UPDATE * 10, color=BLUE, alpha=0.1, linewidth=0, label="usual updates")
    if eps := m.options.get("eps"):
        axes[1].axhline(eps, color=VERMILLION, linestyle=":", label="eps, to compare gradients with")
    style(axes[1], "Updates and gradients", LAYER)
    for ax in axes[:2]:
        ax.xaxis.set_major_locator(whole_numbers(6))
        if ax.lines:
            logarithmic(ax)
        legend(ax, [*ax.lines, *ax.patches], columns=1)
    if trials:
        _losses(axes[2], m, trials)
    figure.alt = "Signal, updates and gradients of each layer" + (", and the loss with each cure" if trials else "")
    return figure


def _line(ax: Axes, x: np.ndarray, values: Sequence[float], colour: str, dash: str, label: str) -> None:
    """A line where there is anything to show; the axis is logarithmic, so it ends where a value is 0."""
    shown = np.array([value if value > 0 and math.isfinite(value) else math.nan for value in values])
    if not np.isnan(shown).all():
        ax.plot(x, shown, color=colour, linestyle=dash, linewidth=1.2, marker=".", markersize=3, label=label)


def _losses(ax: Axes, m: Measurements, trials: Sequence[Trial]) -> None:
    """The running mean of ten losses of each trial that could be made."""
    colours = [BLACK, *(colour for colour in PALETTE if colour != BLACK)]
    for trial, colour in zip(trials, colours, strict=False):
        losses = np.array([loss for loss in trial.losses if math.isfinite(loss)])
        if len(losses) < 2:
            continue
        window = min(10, len(losses))
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        label = textwrap.fill(trial.words + " (did not help)" * (trial.helped is False), 34)
        compared: dict[str, Any] = {"linestyle": "--", "zorder": 3} if trial is trials[0] else {}  # it may cover others
        ax.plot(window + np.arange(len(smooth)), smooth, color=colour, linewidth=1.2, label=label, **compared)
    ax.axhline(m.chance, color=GREY, linestyle=":", label=f"ln({m.outputs})")
    ax.set_ylim(0, 2 * max(m.chance, 0.1))
    style(ax, "Loss of training batches", "steps")
    ax.xaxis.set_major_locator(whole_numbers(4))
    legend(ax, ax.lines, columns=1)
