"""The report's figures by number, and our own beside them: records in, `Figure` out.

`draw("3.1")` shows one, `save("3.1")` and `save_all()` write them, `curves(records, metrics)` draws a reader's own runs.
Every figure is a pure function of the records of one profile; it reads no others, and trains nothing.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.lines import Line2D

from experimentTable import EXPERIMENTS, PROFILES, UsageError, choose, experiment, has_budget
from recordFunction import find_openings, find_records, roots
from report.lines import (
    GUESSING,
    OPENINGS,
    TUNING,
    Groups,
    controls,
    curves,
    depth,
    dropout,
    fine_tuning,
    mean_result,
    norms,
    positions,
    training,
)
from report.plots import BLUE, DATA, GREY, INK, TEXT, VERMILLION, Sheet, bars, footer, legend, looks, scatter, sheet, style, table, title

if TYPE_CHECKING:
    from dataFunction import ImageSet

__all__ = ["FIGURES", "Entry", "curves", "draw", "save", "save_all", "show"]

FOLDER = Path(__file__).resolve().parent / "figures"
SWEEP = {  # the report's figure 5.6: run -> (validation accuracy, train loss); batch size and rate are in the table of experiments
    1: (0.48273, 0.16231), 2: (0.48748, 0.14808), 3: (0.35782, 2.5581), 4: (0.49561, 0.16794), 5: (0.48185, 0.32046),
    6: (0.50697, 0.12357), 7: (0.33478, 2.58771), 8: (0.35205, 2.5624), 9: (0.44755, 1.3166), 10: (0.4959, 0.13731),
    11: (0.47513, 0.10202), 12: (0.18825, 3.52845),
}  # fmt: skip
SWEEP_RUNS = tuple(f"sweep_{k}" for k in SWEEP)
SHOWN_IMAGE = {"cifar10": 355, "cifar100": 338}  # which train image of the sample figures 2.3 and 2.4 show
LOSS_TEST = ("train_loss", "test_accuracy")
FLAT: dict[str, Any] = {"references": GUESSING, "limits": {"train_loss": (0, 2.6), "test_accuracy": (0, 1)}}  # for a run that may not learn

# ---------------------------------------------------------------- chapter 2


def sample_images(dataset: str) -> "ImageSet":
    """The embedded sample's train images: the same in every profile, there without any data."""
    from dataFunction import load_images

    return load_images(dataset, "train", "sample")


def distribution(records: Groups) -> Sheet:
    """2.1: images a class in the three train sets."""
    counts = (records["distribution"][0].result or {})["counts"]
    labels = {"mnist": "digit", "cifar10": "", "cifar100": "class, in alphabetical order"}
    figure, axes = sheet(1, 3, width_ratios=[1, 1, 1.7])
    for ax, dataset in zip(axes, DATA, strict=True):
        images = np.asarray(counts[dataset])
        low, high = images.min(), images.max()
        spread = f"{low:,} in every class" if low == high else f"{low:,} to {high:,} a class"
        ax.bar(np.arange(len(images)), images, color=BLUE, width=0.8 if len(images) <= 10 else 0.6, snap=False)
        style(ax, f"{DATA[dataset]}: {spread}", labels[dataset], "train images")
    axes[0].set_xticks(np.arange(10))
    axes[1].set_xticks(np.arange(10), sample_images("cifar10").classes, rotation=90)
    return figure


def rgb(records: Groups, *, dataset: str) -> Sheet:
    """2.3, 2.4: a train image, its three channels and itself."""
    images = sample_images(dataset)
    image = images.images[SHOWN_IMAGE[dataset]].permute(1, 2, 0).numpy()
    name = images.classes[int(images.labels[SHOWN_IMAGE[dataset]])]
    figure, axes = sheet(1, 4, height=2.2)
    for channel, (ax, colour) in enumerate(zip(axes, ("red", "green", "blue"), strict=False)):
        alone = np.zeros_like(image)
        alone[..., channel] = image[..., channel]
        ax.imshow(alone, interpolation="nearest")
        style(ax, f"{colour} (mean {image[..., channel].mean():.0f} of 255)", grid=None)
    axes[3].imshow(image, interpolation="nearest")
    style(axes[3], f"all three: {name.replace('_', ' ')}", grid=None)
    for ax in axes:
        ax.set_axis_off()
    return figure


def tsne(records: Groups, *, datasets: Sequence[str]) -> Sheet:
    """2.2, 2.5: seed 0's embeddings; CIFAR-100 coloured by its 20 superclasses."""
    figure, axes = sheet(1, 2, height=4.6 if "cifar100" in datasets else 4.2)
    for ax, dataset in zip(axes, datasets, strict=True):
        record = records[f"tsne_{dataset}"][0]
        points, result, images = record.points(), record.result or {}, sample_images(dataset)
        coarse = dataset == "cifar100"
        names = [name.replace("_", " ") for name in (images.coarse_classes if coarse else images.classes)]
        scatter(ax, points["xy"], points["coarse" if coarse else "label"], names, columns=2 if coarse else 5)
        ax.set_title(f"{DATA[dataset]}: 5-nearest-neighbour accuracy {result['knn_accuracy']:.2f}", fontsize=TEXT, loc="left")
    return figure


# ---------------------------------------------------------------- chapters 3 and 4: time


def timing(records: Groups, *, name: str) -> Sheet:
    """3.5, 4.4: time a step of plain beside residual models, and their ratio, block by block."""
    pairs: dict[tuple[str, str], list[dict]] = {}
    for row in (row for record in records[name] for row in record.rows):
        pairs.setdefault((row["plain"], row["residual"]), []).append(row)
    models, look = [model for pair in pairs for model in pair], looks(model for pair in pairs for model in pair)
    times = [[1e3 * row[f"{side}_seconds"] for row in blocks] for blocks in pairs.values() for side in ("plain", "residual")]
    figure, (left, right) = sheet(1, 2, height=3.1, width_ratios=[1.5, 1])
    bars(left, models, [np.mean(t) for t in times], [(min(t), max(t)) for t in times], [look[model][0] for model in models])
    style(left, "Time a training step (thin line: range over the blocks)", y="time a step (ms)")
    for at, blocks in enumerate(pairs.values()):
        ratios = np.array([row["residual_seconds"] / row["plain_seconds"] for row in blocks])
        right.plot(at + np.linspace(-0.18, 0.18, len(ratios)), ratios, "o", color=BLUE, markersize=3, alpha=0.7)
        right.plot([at - 0.26, at + 0.26], [ratios.mean()] * 2, color=INK, linewidth=1.6)
        right.annotate(f"{ratios.mean():.2f}", (at + 0.3, ratios.mean()), fontsize=TEXT, va="center", color=INK)
    right.axhline(1, color=GREY, linestyle=":", linewidth=1.2)
    style(right, "Residual to plain, a dot a block", y="ratio of the times a step")
    right.set_xticks(range(len(pairs)), ["\n".join(pair) for pair in pairs])
    right.set_xlim(-0.5, len(pairs) - 0.3)
    return figure


# ---------------------------------------------------------------- chapter 5: the sweep


def sweep_table(records: Groups) -> Sheet:
    """5.6: the report's twelve points, its numbers beside ours (mean over the seeds); the three best of each in bold."""
    ours, cells = [mean_result(records[run], "accuracy") for run in SWEEP_RUNS], []
    for (k, (accuracy, loss)), own in zip(SWEEP.items(), ours, strict=True):
        settings, runs = EXPERIMENTS[f"sweep_{k}"], records[f"sweep_{k}"]
        own_loss = np.mean([record.column("train_loss")[-1] for record in runs])
        length = np.mean([positions(record)[0][-1] for record in runs])
        numbers = (f"{value:.3f}" for value in (accuracy, own, loss, own_loss))
        cells.append((f"{k}", f"{settings.batch_size}", f"{settings.lr:.7f}", *numbers, f"{length:.3g}"))
    unit = "epochs" if positions(records["sweep_1"][0])[1] == "epoch" else "steps"
    pairs = (f"{what},\n{whose}" for what in ("val. accuracy", "train loss") for whose in ("report", "ours"))
    header = ("\nrun", "batch\nsize", "learning\nrate", *pairs, f"{unit},\nours")
    columns = {3: [accuracy for accuracy, _ in SWEEP.values()], 4: ours}
    return table(header, cells, bold=[(int(row), column) for column, values in columns.items() for row in np.argsort(values)[-3:]])


def searched_space(records: Groups) -> Sheet:
    """5.9: learning rate against validation accuracy, batch size as marker: the report's points, ours there, our search."""
    markers = dict(zip((16, 32, 64, 128, 256), "oPs^D", strict=True))
    groups = {"report": (GREY, "none", 3), "report's points, trained by us": (BLUE, BLUE, 2), "our search": (VERMILLION, VERMILLION, 2)}
    figure, (ax,) = sheet(height=3.3)
    table_rows = [(EXPERIMENTS[f"sweep_{k}"], accuracy) for k, (accuracy, _) in SWEEP.items()]
    points = [("report", row.lr, row.batch_size, accuracy) for row, accuracy in table_rows]
    for name, runs in records.items():
        settings, group = runs[0].settings["experiment"], "report's points, trained by us" if name in SWEEP_RUNS else "our search"
        points.append((group, settings["lr"], settings["batch_size"], mean_result(runs, "accuracy")))
    for group, lr, batch, accuracy in points:
        edge, face, order = groups[group]
        ax.plot([lr], [accuracy], markers.get(batch, "X"), mec=edge, mfc=face, markersize=6, label=f"_{group}", zorder=order)
    ax.set_xscale("log")
    style(ax, "Final validation accuracy (mean over seeds)", "learning rate", "validation accuracy (share of images)", grid="both")
    ax.set(xlim=(7e-7, 1.5e-2), ylim=(0, None))
    shown = {group for group, *_ in points}
    handles = [Line2D([], [], ls="", marker="o", mec=e, mfc=f, label=group) for group, (e, f, _) in groups.items() if group in shown]
    handles += [Line2D([], [], ls="", marker=m, mec=INK, mfc="none", label=f"batch size {batch}") for batch, m in markers.items()]
    legend(ax, handles, handlelength=1)
    return figure


# ---------------------------------------------------------------- the registry


@dataclass(frozen=True)
class Entry:
    """A figure: what draws it, the runs it needs, its caption, and what it shows besides where there is a record of it."""

    function: Callable[..., Sheet]
    runs: tuple[str, ...]
    caption: str
    also: tuple[str, ...] = ()  # names, "search_*" for all trials, or OPENINGS


def _curves(metrics: Sequence, caption: str, *runs: str, also: tuple[str, ...] = (), **options: Any) -> Entry:
    return Entry(partial(training, metrics=metrics, **options), runs, caption, also)


def _tsne(*datasets: str, caption: str) -> Entry:
    return Entry(partial(tsne, datasets=datasets), tuple(f"tsne_{dataset}" for dataset in datasets), caption)


def _rgb(dataset: str) -> Entry:
    return Entry(partial(rgb, dataset=dataset), (), f"A {DATA[dataset]} train image: its red, green and blue channel, and itself")


def _norms(what: str, *parts: tuple[str, ...], also: tuple[str, ...] = ()) -> Entry:
    runs = tuple(run for part in parts for run in part if run not in also)
    return Entry(partial(norms, parts=parts), runs, f"Gradient norms of the {what}, summed over tensors and steps", also)


def _depth(what: str, *runs: str, also: tuple[str, ...] = ()) -> Entry:
    return Entry(depth, runs, f"{what}, layer by layer: gradient over training, signal by depth", also)


def _timing(name: str, what: str) -> Entry:
    return Entry(partial(timing, name=name), (name,), f"Training time of plain and residual {what}")


PLAIN, RES, DEEPEST = ("MLP_4", "MLP_13", "MLP_23"), ("MLP_res_5", "MLP_res_15", "MLP_res_35"), ("MLP_res_55", "MLP_res_96")
MLP_CONTROLS = ("MLP_23", "MLP_33", "MLP_23_eps", "MLP_33_eps", "MLP_4_he", "MLP_13_he", "MLP_23_he", "MLP_33_he")
CNN_CONTROLS = ("CNN_30", "CNN_30_eps", "CNN_10_he", "CNN_13_he", "CNN_30_he")
TUNED, TUNED_LR = ("fine_tune_1", "fine_tune_2", "baseline"), ("fine_tune_1_lr", "fine_tune_2_lr", "fine_tune_3_lr", "baseline")
BOTH, RING = "Train loss and test accuracy of", "(ring: the restored epoch)"
FIGURES: dict[str, Entry] = {
    "2.1": Entry(distribution, ("distribution",), "Class distribution of the three train sets"),
    "2.2": _tsne("mnist", "cifar10", caption="MNIST and CIFAR-10 in two dimensions (t-SNE)"),
    "2.3": _rgb("cifar10"),
    "2.4": _rgb("cifar100"),
    "2.5": _tsne("cifar10", "cifar100", caption="CIFAR-10 and CIFAR-100 (20 superclasses) in two dimensions (t-SNE)"),
    "3.1": _curves(LOSS_TEST, f"{BOTH} MLP_4, MLP_13 and MLP_23", *PLAIN),
    "3.2": _curves(LOSS_TEST, f"{BOTH} MLP_33", "MLP_33", **FLAT),
    "3.3": _norms("plain MLPs", PLAIN, ("MLP_33",)),
    "3.3b": _depth("Plain MLPs", *PLAIN, "MLP_33"),
    "3.4": _curves(LOSS_TEST, f"{BOTH} the residual MLPs", *RES, also=DEEPEST),
    "3.5": _timing("timing_3", "MLPs"),
    "3.6": _norms("residual MLPs", (*RES, *DEEPEST), also=DEEPEST),
    "3.6b": _depth("Residual MLPs", *RES, also=DEEPEST),
    "3.7": Entry(controls, MLP_CONTROLS, "Controls: what stops MLP_33"),
    "4.1": _curves(LOSS_TEST, f"{BOTH} CNN_10 and CNN_13", "CNN_10", "CNN_13"),
    "4.2": _curves(LOSS_TEST, f"{BOTH} CNN_30", "CNN_30", **FLAT),
    "4.2b": _depth("Plain CNNs", "CNN_10", "CNN_13", "CNN_30"),
    "4.3": _curves(LOSS_TEST, f"{BOTH} the residual CNNs", "CNN_res_16", "CNN_res_35", "CNN_res_56"),
    "4.4": _timing("timing_4", "CNNs"),
    "4.5": Entry(controls, CNN_CONTROLS, "Controls: what stops CNN_30"),
    "5.1": Entry(fine_tuning, TUNED, "Fine-tuning at one learning rate: the last layer, then layer4 too"),
    "5.2": Entry(fine_tuning, TUNED_LR, "Fine-tuning, from the second run on at learning rate 1e-5"),
    "5.3": _curves(TUNING, f"Early stopping with patience 5 {RING}", "early_stopping"),
    "5.4": _curves(TUNING, f"Four optimizers at learning rate 5e-4 {RING}", "adam", "sgd", "adamw", "rmsprop"),
    "5.5": _curves(TUNING, f"Four optimizers at learning rate 1e-5 {RING}", "adam_2", "sgd_2", "adamw_2", "rmsprop_2"),
    "5.6": Entry(sweep_table, SWEEP_RUNS, "The sweep: the report's twelve points, its results and ours"),
    "5.7": _curves(TUNING, f"The sweep's best: rates .0096, .0093, .0027; batch 64, 64, 128 {RING}", "sweep_4", "sweep_6", "sweep_10"),
    "5.8": Entry(dropout, ("dropout",), f"Dropout before the last layer {RING}", (OPENINGS,)),
    "5.9": Entry(searched_space, SWEEP_RUNS, "The searched space: learning rate and batch size", ("search_*",)),
}


def _profile(profile: str | None) -> str:
    return choose("profile", profile or os.environ.get("PROFILE") or "sample", PROFILES)


def _found(name: str, profile: str) -> dict[str, list]:
    if name == OPENINGS:
        return {name: find_openings(profile)}
    if name.endswith("*"):
        names = {folder.name for root in roots() for folder in (root / profile).glob(name)}
        return {n: found for n in sorted(names, key=lambda n: (len(n), n)) if (found := find_records(n, profile))}
    return {name: found} if (found := find_records(name, profile)) else {}


def draw(number: str, profile: str | None = None) -> Sheet:
    """Figure `number` from the finished records of one profile (None: `PROFILE` in the environment, else the sample).

    Raises UsageError for an unknown number, and when runs it needs have no finished record, with the way to train them.
    """
    profile, entry = _profile(profile), FIGURES[choose("figure", str(number), FIGURES)]
    records = {run: found for name in (*entry.runs, *entry.also) for run, found in _found(name, profile).items()}
    missing = [name for name in entry.runs if name not in records]
    if any(not has_budget(experiment(name, profile)) for name in missing):
        runs = ", ".join(missing)
        raise UsageError(
            f"figure {number} shows controls ({runs}), for which profile {profile!r} has no budget; choose profile cpu or paper"
        )
    if missing:
        remedy = f"python run.py train {' '.join(missing)} --profile {profile}"
        raise UsageError(f"figure {number} has no finished record of {', '.join(missing)} in profile {profile!r}; train with: {remedy}")
    figure = entry.function(records)
    title(figure, f"{number}  {entry.caption}")
    absent = ", ".join(name for name in entry.also if name in EXPERIMENTS and name not in records)
    note = f"no record of {absent}" if absent else ""
    if not entry.runs:
        note = f"profile {profile} · a train image of the embedded sample, the same in every profile"
    footer(figure, [record for name, runs in records.items() if name != OPENINGS for record in runs], note)
    return figure


def save(number: str, profile: str | None = None, figure: Sheet | None = None) -> list[Path]:
    """Write a figure as SVG and PNG to report/figures/<profile>/<number>.*; the same records give the same bytes.

    `figure`: what `draw` gave, where it is there already.
    """
    figure, folder = figure or draw(number, profile), FOLDER / _profile(profile)
    folder.mkdir(parents=True, exist_ok=True)
    svg, png = (folder / f"{number}.{kind}" for kind in ("svg", "png"))
    with rc_context({"svg.hashsalt": str(number)}):
        figure.savefig(svg, metadata={"Date": None}, dpi=2 * figure.dpi)
    png.write_bytes(figure.png)
    return [svg, png]


def show(number: str, profile: str | None = None) -> None:
    """Display a figure in a notebook and save it; where its runs have no record, say so in a line and go on."""
    from IPython.display import display

    try:
        figure = draw(number, profile)
        save(number, profile, figure)
        display(figure)
    except UsageError as error:
        print(error)


def save_all(profile: str | None = None) -> list[Path]:
    """Write every figure whose runs have records; say in a line each which have not."""
    paths = []
    for number in FIGURES:
        try:
            paths += save(number, profile)
        except UsageError as error:
            print(error)
    return paths
