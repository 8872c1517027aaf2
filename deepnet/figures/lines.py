"""What is drawn from the rows of trainings: curves over training, one line per seed."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deepnet.claims.measures import final_loss, opened_accuracies, step_ratios
from deepnet.figures.looks import BLUE, FAINT, GREEN, GREY, INK, SECOND, TEXT, VERMILLION, labels, looks, marker_of
from deepnet.figures.plots import EMPTY, Groups, Sheet, legend, logarithmic, logit, sheet, style, whole_numbers
from deepnet.records.reading import Record
from deepnet.text import counted
from experimentTable import EXPERIMENTS, PROFILES

UNITS = {  # what a metric's name ends in -> the label of its axis
    "loss": "cross-entropy (nats)",
    "accuracy": "share of images",
    "gradient_norm_sum": "sum of L2 norms over\ntensors and steps",
    "gradient_norm": "global L2 norm,\nmean over steps",
    "seconds": "time (s)",
}
LOGARITHMIC = ("loss", "gradient_norm_sum", "gradient_norm", "learning_rate")  # what their names end in
LEAST_SPAN = 0.05  # of an accuracy's axis, so that the noise of a plateau does not look like a change
# The same in the figures of plain and of residual nets, which can then be compared by eye.
LIMITS = {
    "mlp": {"train_loss": (2e-4, 5), "test_accuracy": (0.05, 0.99)},  # so close to 1 that the axis is logit
    "cnn": {"train_loss": (2e-2, 5), "test_accuracy": (0, 0.85)},
}
GUESSING = {"train_loss": log(10), "test_accuracy": 0.1}  # ten classes
TUNING = (("train_loss",), ("validation_accuracy", "train_accuracy"))
OPENINGS = "openings"  # the log of chapter 5's test set, among a figure's records


def positions(record: Record) -> tuple[np.ndarray, str]:
    """Where trained rows stand on the x axis, and its label: steps where a run counts these (the sample), or epochs."""
    in_steps = record.profile in PROFILES and PROFILES[record.profile].row_unit == "steps"
    if in_steps or record.settings["identity"].get("steps_per_epoch"):
        return np.cumsum(record.column("steps", trained_only=True)), "optimizer steps"
    return record.column("epoch", trained_only=True), "epoch"


def lines(
    ax: Axes,
    groups: Groups,
    metrics: Sequence[str],
    start: Mapping[str, float] = EMPTY,
    faint: Groups = EMPTY,
    names: Mapping[str, str] = EMPTY,
    look: Mapping = EMPTY,
    limits: tuple[float, float] | None = None,
) -> None:
    """A line per seed; the first metric in the run's dash, a second one thin and dashed.

    The first seed of a run is drawn thick and with the run's markers, which stand at other epochs than those of the
    run before; the other seeds are thin and pale. A ring marks each epoch whose weights early stopping restored.
    `start`: run -> what its x is moved by. `faint`: runs that are drawn in grey behind. `names`: run -> its label.
    `look`: run -> its colour and dash.
    """
    names, look = names or labels(groups), look or looks(groups)
    for name, records in faint.items():
        for record in records:
            x = positions(record)[0] + start.get(name, 0)
            y = record.column(metrics[0], trained_only=True)
            ax.plot(x, y, color=FAINT, linewidth=0.9, label="_other", zorder=1)
    for place, (name, records) in enumerate(groups.items()):
        colour, dash = look[name]
        for record in records:
            x = positions(record)[0] + start.get(name, 0)
            for second, metric in enumerate(metrics):
                first, every = record is records[0] and not second, max(1, len(x) // 5)
                ax.plot(
                    x, record.column(metric, trained_only=True), color=colour, linestyle=SECOND if second else dash,
                    linewidth=1.6 if first else 0.9, alpha=0.9 if record is records[0] else 0.45,
                    marker=marker_of(colour) if first else "x" if second and len(x) == 1 else None,
                    markevery=(place % every, every), markersize=4.5, label=names[name] if first else f"_{name}",
                    zorder=2.5 if first else 2,
                )  # fmt: skip
            best = record.result.get("epoch", 0)
            restores = record.settings["experiment"].get("patience") is not None
            if restores and best and metrics[0] == f"{record.result.get('split')}_accuracy":
                y = record.column(metrics[0], trained_only=True)[best - 1]
                ax.plot(
                    [x[best - 1]], [y], "o", color=colour, mfc="none", markersize=9, mew=1.5, zorder=5,
                    label="restored epoch",
                )  # fmt: skip
    record = next(record for group in groups.values() for record in group)
    unit = next((unit for end, unit in UNITS.items() if metrics[0].endswith(end)), metrics[0].replace("_", " "))
    style(ax, _title(metrics), positions(record)[1], unit)
    ax.xaxis.set_major_locator(whole_numbers(5))
    _set_limits(ax, metrics[0], limits)


def _set_limits(ax: Axes, metric: str, limits: tuple[float, float] | None) -> None:
    """The axis of a metric: as asked for, else wide enough that the noise of a plateau does not look like a change."""
    low, high = ax.dataLim.intervaly
    if metric.endswith(LOGARITHMIC) and ax.dataLim.minposy <= high:
        low = ax.dataLim.minposy
        margin = max(1.2, (10 / (high / low)) ** 0.5)  # at least a decade
        ax.set_ylim(limits or (low / margin, high * margin))
        logarithmic(ax)
    elif limits:
        ax.set_ylim(limits)
        if metric.endswith("accuracy") and limits[0] > 0 and limits[1] > 0.95:
            logit(ax)
            ax.set_ylabel(f"{ax.get_ylabel()}\n(logit scale)")
    elif metric.endswith("accuracy") and low <= high:
        bottom = np.clip((low + high - LEAST_SPAN) / 2, 0, 1 - LEAST_SPAN)
        ax.update_datalim([(ax.dataLim.x0, end) for end in (bottom, bottom + LEAST_SPAN)])
        ax.autoscale_view()


def reference(ax: Axes, value: float, label: str) -> None:
    """A horizontal line to compare the curves with."""
    ax.axhline(value, color=GREY, linestyle=(0, (1, 1.5)), linewidth=1.2, label=label, zorder=1)


def _title(metrics: Sequence[str]) -> str:
    first, *rest = (metric.replace("train_", "training_").replace("_", " ") for metric in metrics)
    second = "".join(rest).removesuffix(" " + first.split()[-1])  # (validation accuracy, training accuracy): training
    return first.capitalize() + (f" (dashed: {second})" if rest else "")


def named(*axes: Axes) -> list[Line2D]:
    """The lines of these panels that have a label, those to compare with last."""
    shown = [line for ax in axes for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    return sorted(shown, key=lambda line: line.get_color() == GREY)


def mean_result(records: Sequence[Record], key: str) -> float:
    """A number of the results, mean over the seeds."""
    return float(np.mean([record.result[key] for record in records]))


# ---------------------------------------------------------------- the report's curves


def overview(records: Groups) -> Sheet:
    """1.1: final accuracy and training loss against depth, of plain, residual and He-initialized nets."""
    kinds: dict[str, tuple[str, str, Any]] = {
        "plain": (VERMILLION, "o", "-"),
        "residual": (BLUE, "s", "--"),
        "plain, He initialization": (GREEN, "^", ":"),
    }
    figure, axes = sheet(2, 2, height=4.6, sharex="col")
    for column, (family, data) in enumerate((("MLP", "MNIST"), ("CNN", "CIFAR-10"))):
        upper, lower = axes[column], axes[2 + column]
        ticks: tuple[dict, dict] = {}, {}  # depths of plain nets, of residual ones
        for kind, (colour, marker, dash) in kinds.items():
            names = [name for name in records if name.startswith(family) and _kind(name) == kind]
            depths = [int("".join(filter(str.isdecimal, name))) for name in names]
            for ax, measure in ((upper, lambda record: record.result["accuracy"]), (lower, final_loss)):
                values = [[measure(record) for record in records[name]] for name in names]
                dots = [(depth, value) for depth, seeds in zip(depths, values, strict=True) for value in seeds]
                ax.plot(depths, list(map(np.mean, values)), dash, color=colour, linewidth=1.2, label=f"_{kind}")
                ax.plot(*np.array(dots).reshape(-1, 2).T, marker, mec=colour, mfc="none", markersize=5, label=kind)
            ticks[kind == "residual"].update(dict.fromkeys(depths))
        style(upper, f"{family}s on {data}", "", "test accuracy")
        style(lower, "", "depth, residual nets' in the second row", "" if column else "training loss (nats)")
        for ax, metric in ((upper, "test_accuracy"), (lower, "train_loss")):
            reference(ax, GUESSING[metric], "guessing")
            _set_limits(ax, metric, LIMITS[family.lower()][metric])
        lower.set_xscale("log")
        for minor, row in enumerate(ticks):  # two rows, since many lie too close together for one
            lower.set_xticks([*row], list(map(str, row)), minor=bool(minor))
        lower.tick_params("x", which="minor", length=2.5, pad=13, labelcolor=kinds["residual"][0])
    handles = [
        Line2D([], [], color=colour, marker=marker, mfc="none", markersize=5, linestyle=dash, label=kind)
        for kind, (colour, marker, dash) in kinds.items()
    ]
    legend(figure, [*handles, *(line for line in named(*axes) if line.get_color() == GREY)], handlelength=3.4)
    return figure


def _kind(name: str) -> str:
    return "residual" if "_res_" in name else "plain, He initialization" if name.endswith("_he") else "plain"


def training(
    records: Groups, *, metrics: Sequence[Sequence[str]], family: str = "", chained: bool = False, height: float = 2.9,
    references: Mapping[str, Mapping[str, float]] = EMPTY,
) -> Sheet:  # fmt: skip
    """Panels of curves side by side. `family`: whose LIMITS the axes have, with a line at what guessing gives.

    `references`: metric -> {label: value} of horizontal lines. `chained`: each run starts from the one before, and is
    drawn after it.
    """
    figure, axes = sheet(1, len(metrics), height=height)
    start, end = {}, 0.0
    for name, runs in records.items():
        start[name] = end
        end += max(positions(record)[0][-1] for record in runs) if chained else 0
    for ax, panel in zip(axes, metrics, strict=True):
        for label, value in references.get(panel[0], {}).items():
            reference(ax, value, label)
        if family:
            reference(ax, GUESSING[panel[0]], "guessing")
        lines(ax, records, panel, start, limits=LIMITS.get(family, {}).get(panel[0]))
        if chained:
            ax.set_xlabel(f"{ax.get_xlabel()}, one run after another")
    legend(figure, named(*axes), columns=5 if family else 4)
    return figure


def multiples(records: Groups, tests: Mapping[str, float] = EMPTY) -> Sheet:
    """5.4, 5.5, 5.7, 5.8: a column per run, its training loss above and its accuracy below, the other runs in grey.

    `tests`: run -> test accuracy, of those for which the test set was opened.
    """
    look, names = looks(records), labels(records)
    figure, axes = sheet(len(TUNING), len(records), height=4.0, sharex=True, sharey="row")
    for row, metrics in enumerate(TUNING):
        curves = [run.column(metric, True) for metric in metrics for runs in records.values() for run in runs]
        low, high = min(map(np.nanmin, curves)), max(map(np.nanmax, curves))
        for column, name in enumerate(records):
            ax = axes[row * len(records) + column]
            others = {other: runs for other, runs in records.items() if other != name}
            limits = (low / 1.3, high * 1.3) if not row else (-0.02, max(high, 0.5) + 0.03)
            lines(ax, {name: records[name]}, metrics, faint=others, look=look, limits=limits)
            ax.set_title("" if row else names[name], fontsize=TEXT, loc="left", color=look[name][0])
            ax.set_ylabel(("training loss (nats)", "accuracy")[row])
            ax.label_outer()
            if row and name in tests:
                ax.plot(
                    [1], [tests[name]], "<", color=INK, transform=ax.get_yaxis_transform(), clip_on=False,
                    label=f"test set: {tests[name]:.3f}",
                )  # fmt: skip
    handles = [
        Line2D([], [], color=INK, label="validation accuracy"),
        Line2D([], [], color=INK, linestyle=SECOND, linewidth=0.9, label="training accuracy"),
        Line2D([], [], ls="", marker="o", mec=INK, mfc="none", markersize=9, mew=1.5, label="restored epoch"),
        Line2D([], [], color=FAINT, label={1: "_", 2: "the other run"}.get(len(records), "the other runs")),
    ]
    opened = [line for line in named(*axes) if line.get_marker() == "<"]
    legend(figure, [*handles, *opened], columns=5)
    return figure


def dropout(records: Mapping[str, list]) -> Sheet:
    """5.8: the run with dropout beside its twin without, and its test accuracy where the test set has been opened."""
    runs = {name: records[name] for name in records if name != OPENINGS}
    opened = opened_accuracies({record.seed: record for record in runs.get("dropout", ())}, records[OPENINGS])
    return multiples(runs, {"dropout": float(np.mean(list(opened.values())))} if opened else {})


def fine_tuning(records: Groups) -> Sheet:
    """5.1, 5.2: runs that start from one another, beside the classical baseline's validation accuracy."""
    tuned = {name: runs for name, runs in records.items() if name != "baseline"}
    runs = records.get("baseline", ())
    chosen = " or ".join(sorted({run.result["chosen"].replace("_", " ") for run in runs}))
    baseline = {f"baseline, {chosen}": mean_result(runs, "accuracy")} if runs else {}
    return training(tuned, metrics=TUNING, references={"validation_accuracy": baseline}, chained=True)


def norms(records: Groups) -> Sheet:
    """3.3, 3.6: the report's sum of gradient norms."""
    figure, (ax,) = sheet()
    lines(ax, records, ["gradient_norm_sum"])
    *rest, last = dict.fromkeys(record.rows[-1]["steps"] for runs in records.values() for record in runs)
    steps = " or ".join([*map(str, rest), counted(last, "step")])
    ax.set_title(f"Sum of the gradient's norms over {steps}", fontsize=TEXT, loc="left", color=INK)
    legend(figure, named(ax), columns=5)
    return figure


def ablations(records: Groups) -> Sheet:
    """3.7, 4.5: Adam's eps at 1e-16 beside its default, and He initialization with the default one in grey."""
    eps = {name: runs for name, runs in records.items() if f"{name.removesuffix('_eps')}_eps" in EXPERIMENTS}
    he = {name: runs for name, runs in records.items() if name.endswith("_he")}
    default = {name: records[name] for name in (run.removesuffix("_he") for run in he) if name in records}
    columns = {what: runs for what, runs in (("Adam's eps", eps), ("He initialization", he)) if runs}
    figure, axes = sheet(2, len(columns), height=4.8, sharex=True)
    family = next(iter(records))[:3].lower()
    for row, metric in enumerate(GUESSING):
        for column, (what, runs) in enumerate(columns.items()):
            ax = axes[row * len(columns) + column]
            reference(ax, GUESSING[metric], "guessing")
            lines(ax, runs, [metric], limits=LIMITS[family][metric], faint=default if runs is he else EMPTY)
            ax.set_title("" if row else what, fontsize=TEXT, loc="left", color=INK)
            what = ax.get_ylabel().replace("share of images", "test accuracy") if row else "training loss (nats)"
            ax.set_ylabel("" if column else what)
            ax.set_xlabel(ax.get_xlabel() if row else "")
            if row:
                beside = [Line2D([], [], color=FAINT, label="default initialization")] * bool(default and runs is he)
                legend(ax, [*named(ax), *beside], columns=2, handlelength=3.4)
    return figure


def timing(records: Groups, *, name: str) -> Sheet:
    """3.5, 4.4: the time per step of a residual net over that of its plain one, block by block."""
    pairs = step_ratios(records[name])
    figure, (ax,) = sheet(height=0.9 + 0.45 * len(pairs))
    for at, ratios in enumerate(pairs.values()):
        spread = np.linspace(-0.2, 0.2, len(ratios))
        ax.plot(ratios, at + spread, "o", color=BLUE, markersize=4, mfc="none", label="_block")
        ax.plot([np.mean(ratios)] * 2, [at - 0.32, at + 0.32], color=INK, linewidth=1.6, label="_mean")
    ax.axvline(1, color=GREY, linestyle=":", linewidth=1.2)
    ax.update_datalim([(0.9, 0), (1.1, 0)])  # a percent of noise must not look like a difference
    ax.autoscale_view()
    steps = counted(records[name][0].settings["identity"]["steps"], "step")
    style(ax, "", f"time per training step, residual / plain (dot: a block of {steps}, line: mean)", "", grid="x")
    ax.set_yticks(range(len(pairs)), [f"{res} / {plain}: {np.mean(r):.2f}" for (plain, res), r in pairs.items()])
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    return figure
