"""Figures 5.6 and 5.9: the points of the report's search and of ours."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from deepnet.claims.measures import accuracies, final_loss, last_loss
from deepnet.figures.lines import mean_result, positions
from deepnet.figures.looks import BLUE, GREY, INK, VERMILLION
from deepnet.figures.plots import Groups, Sheet, drawn_table, legend, sheet, style
from deepnet.text import Table
from experimentTable import EXPERIMENTS

# the report's figure 5.6: run -> (validation accuracy, train loss); batch size and rate are in the table of experiments
SWEEP = {
    1: (0.48273, 0.16231), 2: (0.48748, 0.14808), 3: (0.35782, 2.5581), 4: (0.49561, 0.16794), 5: (0.48185, 0.32046),
    6: (0.50697, 0.12357), 7: (0.33478, 2.58771), 8: (0.35205, 2.5624), 9: (0.44755, 1.3166), 10: (0.4959, 0.13731),
    11: (0.47513, 0.10202), 12: (0.18825, 3.52845),
}  # fmt: skip
SWEEP_RUNS = tuple(f"sweep_{k}" for k in SWEEP)


def sweep_table(records: Groups) -> Sheet:
    """5.6: the report's twelve points, its numbers beside ours: means over the seeds, in bold the three best of each.

    The report's program meant to restore the best epoch and kept the last, so both stand here.
    """

    def ours(k: int, measure: Callable) -> float:
        runs = records.get(f"sweep_{k}", ())
        return float(np.mean([measure(record) for record in runs])) if runs else np.nan

    restored, cells = [ours(k, lambda record: record.result["accuracy"]) for k in SWEEP], []
    for (k, (accuracy, loss)), own in zip(SWEEP.items(), restored, strict=True):
        row, length = EXPERIMENTS[f"sweep_{k}"], ours(k, lambda record: positions(record)[0][-1])
        last = f"{ours(k, lambda record: accuracies(record)[-1]):.4f}"
        losses = [f"{value:.3f}" for value in (loss, ours(k, final_loss), ours(k, last_loss))]
        numbers = (f"{accuracy:.4f}", f"{own:.4f}", last, *losses, f"{length:.3g}")
        cells.append((f"{k}", f"{row.batch_size}", f"{row.lr:.7f}", *(n.replace("nan", "–") for n in numbers)))
    record = next(record for runs in records.values() for record in runs)
    unit = "epochs" if positions(record)[1] == "epoch" else "steps"
    pairs = product(("validation accuracy", "training loss"), ("report", "restored", "last"))
    columns = {3: [accuracy for accuracy, _ in SWEEP.values()], 4: restored}
    bold = {(row, column) for column, values in columns.items() for row in three_best(values)}
    head = ("run", "batch size", "learning rate", *map(", ".join, pairs), unit)
    return drawn_table(Table(head, cells, bold=bold))


def three_best(values: Sequence[float]) -> list[int]:
    """Where the three best stand, without those that share a place with a fourth; none while a value is NaN."""
    complete = not np.isnan(values).any()
    return [i for i, value in enumerate(values) if complete and sum(other >= value for other in values) <= 3]


def searched_space(records: Groups) -> Sheet:
    """5.9: learning rate against validation accuracy, batch size as marker: the report's points, ours, our search.

    Once all of them, and once those at rates from 5e-4 on, which lie close together.
    """
    markers = dict(zip((16, 32, 64, 128, 256), "oPs^D", strict=True))
    groups: dict[str, dict[str, Any]] = {  # they differ in their filling, and so in grey too
        "report": {"color": GREY, "fillstyle": "none", "zorder": 3},
        "report's points, trained by us": {"color": BLUE, "fillstyle": "full"},
        "our search": {"color": VERMILLION, "fillstyle": "left", "markerfacecoloralt": "white"},
    }
    figure, panels = sheet(1, 2, height=3.6)
    table_rows = [(EXPERIMENTS[f"sweep_{k}"], accuracy) for k, (accuracy, _) in SWEEP.items()]
    pairs: list[tuple[float, float, float]] = []
    points = [("report", row.lr, row.batch_size, accuracy) for row, accuracy in table_rows]
    for name, runs in records.items():
        if name in SWEEP_RUNS:
            row = EXPERIMENTS[name]
            points.append(("report's points, trained by us", row.lr, row.batch_size, mean_result(runs, "accuracy")))
            pairs.append((row.lr, SWEEP[int(name.removeprefix("sweep_"))][0], points[-1][-1]))
        else:  # each seed's search draws points of its own
            drawn = [(run.settings["experiment"], run.result["accuracy"]) for run in runs]
            points += [("our search", exp["lr"], exp["batch_size"], accuracy) for exp, accuracy in drawn]
    for ax, lowest, what in zip(panels, (0.0, 5e-4), ("All", "Rates from 5e-4 on"), strict=True):
        shown = [point for point in points if point[1] >= lowest]
        for group, lr, batch, accuracy in shown:
            ax.plot([lr], [accuracy], markers.get(batch, "X"), label=f"_{group}", **groups[group])
        joined = np.array([pair for pair in pairs if pair[0] >= lowest]).reshape(-1, 3)
        ax.vlines(*joined.T, color=GREY, linewidth=0.8, zorder=1)
        ax.set_xscale("log")
        style(ax, what, "learning rate", "validation accuracy" if ax is panels[0] else "", grid="both")
        rates = [lr for _, lr, *_ in shown]
        ax.set_xlim(min(rates) / 1.5, max(rates) * 1.5)
    panels[0].set_ylim(-0.02)
    (left, right), (bottom, top) = panels[1].get_xlim(), panels[1].get_ylim()
    panels[0].add_patch(Rectangle((left, bottom), right - left, top - bottom, ec=GREY, fc="none", lw=0.8))
    panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[1].xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    panels[1].xaxis.set_minor_locator(NullLocator())
    named, sizes = ({point[at] for point in points} for at in (0, 2))
    kinds = [{"marker": "h", "markersize": 8, "label": group, **groups[group]} for group in groups if group in named]
    kinds += [
        {"marker": marker, "mec": INK, "mfc": "none", "label": f"batch size {batch}"}
        for batch, marker in markers.items() if batch in sizes
    ]  # fmt: skip
    legend(figure, [Line2D([], [], ls="", **kind) for kind in kinds], handlelength=1)
    return figure
