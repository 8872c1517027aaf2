"""What is drawn from the rows of trainings: curves over training, with names at their ends."""

from collections.abc import Mapping, Sequence
from math import log

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deepnet.claims.measures import opened_accuracies
from deepnet.figures.plots import GREY, SECOND, TEXT, Sheet, legend, looks, sheet, style, whole_numbers
from deepnet.records.reading import Record
from deepnet.text import counted
from experimentTable import PROFILES

UNITS = {  # what a metric's name ends in -> the label of its axis
    "loss": "cross-entropy (nats)",
    "accuracy": "accuracy (share of images)",
    "gradient_norm_sum": "sum of L2 norms\nover tensors and steps",
    "gradient_norm": "global L2 norm, mean a step",
    "seconds": "time (s)",
}
LOGARITHMIC = ("gradient_norm_sum", "gradient_norm", "learning_rate")
LONGEST = 32  # characters of a name that stands at the end of its line; a longer one stands in a legend
LEAST_SPAN = {"loss": 0.1, "accuracy": 0.05}  # of an axis, so that the noise of a plateau does not look like a change

Groups = Mapping[str, Sequence[Record]]  # name of a run -> its records, one a seed


def positions(record: Record) -> tuple[np.ndarray, str]:
    """Where the trained rows stand on the x axis, and its label: in the sample a row is a number of steps, else an
    epoch.
    """
    if record.profile in PROFILES and PROFILES[record.profile].row_unit == "steps":
        return np.cumsum(record.column("steps", trained_only=True)), "optimizer steps"
    return record.column("epoch", trained_only=True), "epoch"


def series(records: Sequence[Record], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, mean, lowest and highest over the seeds of each trained row; where seeds end early, over those that go on."""
    columns = [record.column(metric, trained_only=True) for record in records]
    longest = max(range(len(columns)), key=lambda i: len(columns[i]))
    table = np.full((len(columns), len(columns[longest])), np.nan)
    for line, column in zip(table, columns, strict=True):
        line[: len(column)] = column
    seen = np.ma.masked_invalid(table)
    mean, low, high = (np.ma.filled(f(axis=0), np.nan) for f in (seen.mean, seen.min, seen.max))
    return positions(records[longest])[0], mean, low, high


def lines(
    ax: Axes, groups: Groups, metrics: Sequence[str], look: Mapping, start: Mapping[str, float] | None = None
) -> None:
    """One line a run: the seeds' mean, their range as a band. The first metric is solid, a second one thin and dashed.

    Of a single row the second metric is a cross. A ring marks each seed's epoch whose weights were restored, where it
    is not the last. `start`: run -> what its x is moved by.
    """
    most = max(len(record.rows) for group in groups.values() for record in group)
    markers = ("o" if most <= 13 else None, "x" if most <= 2 else None)
    for number, (name, records) in enumerate(groups.items()):
        colour, dash = look[name]
        width = max(1.2, 2.2 - 0.35 * number)  # thinner than the one below, which it would hide where they agree
        for thin, metric in enumerate(metrics):
            x, mean, low, high = series(records, metric)
            x = x + (start or {}).get(name, 0)
            ax.plot(
                x, mean, color=colour, linestyle=SECOND if thin else dash, linewidth=width / 1.6 if thin else width,
                marker=markers[thin], markersize=4.0 if thin else 2.5, label=f"_{name}" if thin else name,
            )  # fmt: skip
            if len(records) > 1:
                ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        for record in records:
            best = record.result.get("epoch", 0)
            if metrics[0] == f"{record.result.get('split')}_accuracy" and 0 < best < len(record.rows) - 1:
                y = record.column(metrics[0], trained_only=True)[best - 1]
                at = positions(record)[0][best - 1] + (start or {}).get(name, 0)
                ax.plot([at], [y], "o", color=colour, markerfacecolor="white", markersize=5, label="_best")
    style(
        ax,
        _title(metrics, "cross" if markers[1] else "dashed"),
        positions(next(iter(groups.values()))[0])[1],
        _unit(metrics[0]),
    )
    ax.xaxis.set_major_locator(whole_numbers(5))
    if metrics[0] in LOGARITHMIC:
        ax.set_yscale("log")
    _least_span(ax, metrics[0])


def _least_span(ax: Axes, metric: str) -> None:
    """Have a panel of lines show at least so much of a loss or an accuracy, or a decade of what is drawn on a
    logarithmic axis.

    The span counts as data, so that a line drawn later is not cut off.
    """
    low, high = ax.dataLim.intervaly
    span = next((span for end, span in LEAST_SPAN.items() if metric.endswith(end)), 0.0)
    if low > high:  # nothing that could be drawn
        return
    if span:
        bottom = np.clip((low + high - span) / 2, 0, 1 - span if metric.endswith("accuracy") else np.inf)
        ends = bottom, bottom + span
    elif metric in LOGARITHMIC and ax.dataLim.minposy <= high:
        middle = np.sqrt(ax.dataLim.minposy * high)
        ends = middle / np.sqrt(10), middle * np.sqrt(10)
    else:
        return
    ax.update_datalim([(_extent(ax)[0], end) for end in ends])
    ax.autoscale_view()


def reference(ax: Axes, value: float, label: str, colour: str = GREY) -> None:
    """A horizontal line to compare the curves with, labelled like one."""
    ax.axhline(value, color=colour, linestyle=(0, (6, 3)), linewidth=1.2, label=label, zorder=1)


def _unit(metric: str) -> str:
    return next((unit for end, unit in UNITS.items() if metric.endswith(end)), metric.replace("_", " "))


def _title(metrics: Sequence[str], second: str) -> str:
    first = metrics[0].replace("_", " ").capitalize()
    return f"{first} ({second}: {metrics[1].replace('_', ' ')})" if len(metrics) > 1 else first


def label_lines(*axes: Axes, legend_at: int = -1) -> None:
    """Name the lines: at their right ends where all end there and the names fit, else in a legend beside a panel."""
    for ax in axes:
        left, right = _extent(ax)
        margin = 0.02 * (right - left) or 0.5
        ax.set_xlim(left - margin, right + margin)
        ax.set_ylim(ax.get_ylim())
    if all(_fits(ax) for ax in axes):
        for ax in axes:
            _label_ends(ax)
    else:
        handles = {str(line.get_label()): line for ax in axes for line in _named(ax)}
        legend(axes[legend_at], list(handles.values()))


def _named(ax: Axes) -> list[Line2D]:
    return [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]


def _spans(ax: Axes, line: Line2D) -> bool:
    return line.get_transform() != ax.transData  # axhline: from edge to edge


def _end(line: Line2D) -> tuple[float, float]:
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    last = np.flatnonzero(np.isfinite(y))[-1:]
    return (float(x[last[0]]), float(y[last[0]])) if last.size else (np.nan, np.nan)


def _extent(ax: Axes) -> tuple[float, float]:
    x = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in ax.get_lines() if not _spans(ax, line)])
    return float(np.nanmin(x)), float(np.nanmax(x))


def _gap(ax: Axes) -> float:
    """The height of a line of text as a share of the panel's (which the layout leaves about 0.9 of its slot)."""
    return 1.25 * TEXT / 72 / (0.9 * ax.bbox.height / ax.figure.dpi)


def _fits(ax: Axes) -> bool:
    left, right = _extent(ax)
    ends = [_end(line)[0] for line in _named(ax) if not _spans(ax, line)]
    short = all(len(str(line.get_label())) <= LONGEST for line in _named(ax))
    return short and len(_named(ax)) * _gap(ax) <= 1 and all(end >= right - 0.02 * (right - left) for end in ends)


def _label_ends(ax: Axes) -> None:
    to_share = ax.transScale + ax.transLimits  # data -> shares of the panel
    named = [line for line in _named(ax) if np.isfinite(_end(line)[1])]
    ends = [float(to_share.transform((ax.get_xlim()[1], _end(line)[1]))[1]) for line in named]
    for line, y, moved in zip(named, ends, spread(ends, _gap(ax)), strict=True):
        colour = line.get_color()
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        ax.annotate(
            str(line.get_label()), xy=(1, y), xytext=(1.06, moved), xycoords="axes fraction", fontsize=TEXT, va="center",
            color=colour, arrowprops=arrow, parse_math=False,
        )  # fmt: skip


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Move values apart to at least `gap`, in order, each cluster around its mean, inside [0, 1] where they fit."""
    clusters: list[list[int]] = []
    room = {"low": gap / 2, "high": 1 - gap / 2}

    def lowest(cluster: list[int]) -> float:
        height = (len(cluster) - 1) * gap
        start = float(np.mean([values[i] for i in cluster])) - height / 2
        return max(room["low"], min(start, room["high"] - height))

    for i in sorted(range(len(values)), key=lambda i: values[i]):
        clusters.append([i])
        while len(clusters) > 1 and lowest(clusters[-1]) < lowest(clusters[-2]) + len(clusters[-2]) * gap:
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    moved = {i: lowest(cluster) + k * gap for cluster in clusters for k, i in enumerate(cluster)}
    return [moved[i] for i in range(len(values))]


# ---------------------------------------------------------------- the report's curves

TUNING = ("train_loss", ("validation_accuracy", "train_accuracy"))
GUESSING = {"train_loss": {"guessing": log(10)}, "test_accuracy": {"guessing": 0.1}}  # ten classes
OPENINGS = "openings"  # the log of chapter 5's test set, among a figure's records


def mean_result(records: Sequence[Record], key: str) -> float:
    """A number of the results, mean over the seeds."""
    return float(np.mean([record.result[key] for record in records]))


def training(
    records: Groups,
    *,
    metrics: Sequence,
    references: Mapping | None = None,
    limits: Mapping | None = None,
    chained: bool = False,
) -> Sheet:
    """Panels of curves side by side. `references`: metric -> {label: value} of horizontal lines to compare with.

    `limits`: metric -> (bottom, top) of its axis. `chained`: each run goes on from the one before, and is drawn after
    it.
    """
    figure, axes = sheet(1, len(metrics))
    look, start, end = looks(records), {}, 0.0
    for name, runs in records.items():
        start[name] = end
        end += max(positions(record)[0][-1] for record in runs) if chained else 0
    for ax, panel in zip(axes, metrics, strict=True):
        panel = (panel,) if isinstance(panel, str) else panel
        lines(ax, records, panel, look, start)
        for label, value in (references or {}).get(panel[0], {}).items():
            reference(ax, value, label)
        ax.set_ylim((limits or {}).get(panel[0]))
        if chained:
            ax.set_xlabel(f"{ax.get_xlabel()}, one run after another")
    label_lines(*axes)
    return figure


def fine_tuning(records: Groups) -> Sheet:
    """5.1, 5.2: runs that go on from one another, beside the classical baseline's validation accuracy where there is
    one.
    """
    tuned = {name: runs for name, runs in records.items() if name != "baseline"}
    runs = records.get("baseline", ())
    chosen = " or ".join(sorted({run.result["chosen"].replace("_", " ") for run in runs}))
    baseline = {f"baseline,\n{chosen}": mean_result(runs, "accuracy")} if runs else {}
    return training(tuned, metrics=TUNING, references={"validation_accuracy": baseline}, chained=True)


def dropout(records: Mapping[str, list]) -> Sheet:
    """5.8: the run with dropout, and its test accuracy where the test set has been opened."""
    opened = opened_accuracies({record.seed: record for record in records["dropout"]}, records[OPENINGS])
    test = {"test set": float(np.mean(list(opened.values())))} if opened else {}
    return training({"dropout": records["dropout"]}, metrics=TUNING, references={"validation_accuracy": test})


def norms(records: Groups, *, parts: Sequence[Sequence[str]]) -> Sheet:
    """3.3, 3.6: the report's sum of gradient norms, a panel for each part of the runs that has records."""
    letters = [f"({letter}) " if len(parts) > 1 else "" for letter in "ab"]
    panels = [
        (mark, there)
        for mark, part in zip(letters, parts, strict=False)
        if (there := [name for name in part if name in records])
    ]
    figure, axes = sheet(1, len(panels))
    for ax, (mark, names) in zip(axes, panels, strict=True):
        lines(ax, {name: records[name] for name in names}, ["gradient_norm_sum"], looks(records))
        *rest, last = dict.fromkeys(record.rows[-1]["steps"] for name in names for record in records[name])
        steps = " or ".join([*map(str, rest), counted(last, "step")])
        ax.set_title(f"{mark}Sum of gradient norms, a point: {steps}", fontsize=TEXT, loc="left")
    label_lines(*axes)
    return figure


def controls(records: Groups) -> Sheet:
    """3.7, 4.5: Adam's eps at 1e-16 beside the default, and He initialisation: train loss above, test accuracy
    below.
    """
    eps = {name: runs for name, runs in records.items() if not name.endswith("_he")}
    he = {name: runs for name, runs in records.items() if name.endswith("_he")}
    columns = {
        what: runs for what, runs in (("Adam, eps 1e-16 (dashed), 1e-8", eps), ("He initialisation", he)) if runs
    }
    figure, axes = sheet(2, len(columns), height=5.2, sharex=True)
    panels = [(metric, what, runs) for metric in GUESSING for what, runs in columns.items()]
    for ax, (metric, what, runs) in zip(axes, panels, strict=True):
        lines(ax, runs, [metric], looks(records))
        for label, value in GUESSING[metric].items() if runs is eps else ():
            reference(ax, value, label)
        if metric.endswith("loss") and runs is he:  # which comes near 0
            ax.set_yscale("log")
        ax.set_title(f"{what}: {metric.replace('_', ' ')}", fontsize=TEXT, loc="left")
    for ax in axes[: len(columns)]:  # the lower ones say it
        ax.set_xlabel("")
    label_lines(*axes, legend_at=len(columns) - 1)
    return figure
