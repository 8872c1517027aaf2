"""The report's figures by number, and our own beside them: records in, `Figure` out.

`draw("3.1")` shows one, `save("3.1")` and `save_all()` write them, `curves(records, metrics)` draws a reader's own
runs. Every figure is a pure function of the records of one profile; it reads no others, and trains nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnet.claims.measures import step_ratios
from deepnet.figures.curves import curves
from deepnet.figures.layers import depth, float64, precision
from deepnet.figures.lines import (
    GUESSING,
    OPENINGS,
    TUNING,
    Groups,
    controls,
    dropout,
    fine_tuning,
    mean_result,
    norms,
    training,
)
from deepnet.figures.plots import (
    BLUE,
    GREY,
    INK,
    TEXT,
    Sheet,
    bars,
    default_style,
    footer,
    looks,
    scatter,
    sheet,
    style,
    title,
)
from deepnet.figures.sweep import SWEEP_RUNS, searched_space, sweep_table
from deepnet.records.reading import ROOT, find_openings, find_records, roots
from deepnet.text import DATA, counted
from experimentTable import (
    EXPERIMENTS,
    UsageError,
    choose,
    current_profile,
    experiment,
    is_supported,
    supporting_profiles,
)

if TYPE_CHECKING:
    from deepnet.data.sets import ImageSet

__all__ = ["FIGURES", "Entry", "curves", "draw", "save", "save_all", "show"]

FOLDER = ROOT / "report" / "figures"
SHOWN_IMAGE = {"cifar10": 355, "cifar100": 338}  # which train image of the sample figures 2.3 and 2.4 show
LOSS_TEST = ("train_loss", "test_accuracy")
# for a run that may not learn
FLAT: dict[str, Any] = {"references": GUESSING, "limits": {"train_loss": (0, 2.6), "test_accuracy": (0, 1)}}

# ---------------------------------------------------------------- chapter 2


def sample_images(dataset: str) -> "ImageSet":
    """The embedded sample's train images: the same in every profile, there without any data."""
    from deepnet.data.sets import load_images

    return load_images(dataset, "train", "sample")


def distribution(records: Groups) -> Sheet:
    """2.1: images a class in the three train sets."""
    counts = records["distribution"][0].result["counts"]
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
    """2.2, 2.5: seed 0's embeddings, CIFAR-100 coloured by its 20 superclasses; the skill, in all its classes, is the
    seeds' mean.
    """
    shown = {
        dataset: record for dataset in datasets for record in records.get(f"tsne_{dataset}", ()) if record.seed == 0
    }
    if not shown:
        raise UsageError(f"only seed 0 of an embedding keeps its points; train {', '.join(records)} with --seeds 0")
    figure, axes = sheet(1, len(shown), height=4.6 if "cifar100" in shown else 4.2)
    for ax, (dataset, record) in zip(axes, shown.items(), strict=True):
        points, images = record.points(), sample_images(dataset)
        coarse = dataset == "cifar100"
        names = [name.replace("_", " ") for name in (images.coarse_classes if coarse else images.classes)]
        scatter(ax, points["xy"], points["coarse" if coarse else "label"], names, columns=2 if coarse else 5)
        skill = f"5-NN skill {mean_result(records[record.name], 'knn_skill'):.2f} over {record.result['classes']} classes (0: chance)"
        ax.set_title(f"{DATA[dataset]}: {skill}", fontsize=TEXT, loc="left")
    return figure


# ---------------------------------------------------------------- chapters 3 and 4: time


def timing(records: Groups, *, name: str) -> Sheet:
    """3.5, 4.4: time a step of plain beside residual models, and their ratio, block by block."""
    pairs, rows = step_ratios(records[name]), [row for record in records[name] for row in record.rows]
    look, sides = looks(model for pair in pairs for model in pair), ("plain", "residual")
    times = {
        model: [1e3 * row[f"{side}_seconds"] for row in rows if row[side] == model]
        for pair in pairs for side, model in zip(sides, pair, strict=True)
    }  # fmt: skip
    figure, (left, right) = sheet(1, 2, height=3.1, width_ratios=[1.5, 1])
    bars(
        left,
        list(times),
        [np.mean(t) for t in times.values()],
        [(min(t), max(t)) for t in times.values()],
        [look[m][0] for m in times],
    )
    blocks = counted(max(map(len, pairs.values())), "block")
    style(left, f"Time a training step (thin line: range over {blocks})", y="time a step (ms)")
    for at, ratios in enumerate(pairs.values()):
        mean = np.mean(ratios)
        right.plot(at + np.linspace(-0.18, 0.18, len(ratios)), ratios, "o", color=BLUE, markersize=3, alpha=0.7)
        right.plot([at - 0.26, at + 0.26], [mean, mean], color=INK, linewidth=1.6)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        right.annotate(f"{mean:.2f}", (at + 0.3, mean), fontsize=TEXT, va="center", color=INK, bbox=box)
    right.axhline(1, color=GREY, linestyle=":", linewidth=1.2)
    right.update_datalim([(0, 0.9), (0, 1.1)])  # a percent of noise must not look like a difference
    right.autoscale_view()
    steps = counted(records[name][0].settings["identity"]["steps"], "step")
    style(
        right,
        f"Residual to plain, a dot a block of {steps}",
        "pair, and range over its blocks",
        "ratio of the times a step",
    )
    spans = [f"{min(ratios):.2f} to {max(ratios):.2f}" for ratios in pairs.values()]
    right.set_xticks(range(len(pairs)), ["\n".join([*pair, span]) for pair, span in zip(pairs, spans, strict=True)])
    right.set_xlim(-0.5, len(pairs) - 0.3)
    return figure


# ---------------------------------------------------------------- the registry


@dataclass(frozen=True)
class Entry:
    """A figure: what draws it, the runs it shows, its caption, and what stands beside the runs where there is a record
    of it.
    """

    function: Callable[..., Sheet]
    runs: tuple[str, ...]  # names, or "search_*" for all trials; a figure is drawn if any has a record
    caption: str
    also: tuple[str, ...] = ()  # a name or OPENINGS; no figure by itself
    paired: bool = False  # of the runs that are there, only the seeds that all of them have


def _curves(metrics: Sequence, caption: str, *runs: str, **options: Any) -> Entry:
    return Entry(partial(training, metrics=metrics, **options), runs, caption)


def _tsne(*datasets: str, caption: str) -> Entry:
    return Entry(partial(tsne, datasets=datasets), tuple(f"tsne_{dataset}" for dataset in datasets), caption)


def _rgb(dataset: str) -> Entry:
    return Entry(
        partial(rgb, dataset=dataset), (), f"A {DATA[dataset]} train image: its red, green and blue channel, and itself"
    )


def _norms(what: str, *parts: tuple[str, ...]) -> Entry:
    runs = tuple(run for part in parts for run in part)
    return Entry(partial(norms, parts=parts), runs, f"Gradient norms of the {what}, summed over tensors and steps")


def _depth(what: str, *runs: str, below: str = "signal by depth") -> Entry:
    return Entry(depth, runs, f"{what}, layer by layer: gradient over training, {below}")


def _float64(name: str) -> Entry:
    caption = f"{name} in float64 (dashed) and float32, from the same weights: depth or arithmetic?"
    return Entry(float64, (name, f"{name}_fp64"), caption, paired=True)


def _timing(name: str, what: str) -> Entry:
    return Entry(partial(timing, name=name), (name,), f"Training time of plain and residual {what}")


PLAIN, RES = ("MLP_4", "MLP_13", "MLP_23"), ("MLP_res_5", "MLP_res_15", "MLP_res_35", "MLP_res_55", "MLP_res_96")
MLP_CONTROLS = ("MLP_23", "MLP_33", "MLP_23_eps", "MLP_33_eps", "MLP_4_he", "MLP_13_he", "MLP_23_he", "MLP_33_he")
PRECISION = tuple(name for name, row in EXPERIMENTS.items() if row.family == "control_bf16")
CNN_CONTROLS = ("CNN_30", "CNN_30_eps", "CNN_10_he", "CNN_13_he", "CNN_30_he")
TUNED, TUNED_LR = ("fine_tune_1", "fine_tune_2"), ("fine_tune_1_lr", "fine_tune_2_lr", "fine_tune_3_lr")
BOTH, RING = "Train loss and test accuracy of", "(ring: restored epoch)"
BEGINS = "signal where a block begins"  # of a residual net: see deepnet/figures/layers.py
FIGURES: dict[str, Entry] = {
    "2.1": Entry(distribution, ("distribution",), "Class distribution of the three train sets"),
    "2.2": _tsne("mnist", "cifar10", caption="MNIST and CIFAR-10 in two dimensions (t-SNE)"),
    "2.3": _rgb("cifar10"),
    "2.4": _rgb("cifar100"),
    "2.5": _tsne(
        "cifar10",
        "cifar100",
        caption="CIFAR-10 and CIFAR-100 (coloured by its 20 superclasses) in two dimensions (t-SNE)",
    ),
    "3.1": _curves(LOSS_TEST, f"{BOTH} MLP_4, MLP_13 and MLP_23", *PLAIN),
    "3.2": _curves(LOSS_TEST, f"{BOTH} MLP_33", "MLP_33", **FLAT),
    "3.3": _norms("plain MLPs", PLAIN, ("MLP_33",)),
    "3.3b": _depth("Plain MLPs", *PLAIN, "MLP_33"),
    "3.4": _curves(LOSS_TEST, f"{BOTH} the residual MLPs", *RES),
    "3.5": _timing("timing_3", "MLPs"),
    "3.6": _norms("residual MLPs", RES),
    "3.6b": _depth("Residual MLPs", *RES, below=BEGINS),
    "3.7": Entry(controls, MLP_CONTROLS, "Controls: what stops MLP_33"),
    "3.7b": _float64("MLP_33"),
    "4.1": _curves(LOSS_TEST, f"{BOTH} CNN_10 and CNN_13", "CNN_10", "CNN_13"),
    "4.2": _curves(LOSS_TEST, f"{BOTH} CNN_30", "CNN_30", **FLAT),
    "4.2b": _depth("Plain CNNs", "CNN_10", "CNN_13", "CNN_30"),
    "4.3": _curves(LOSS_TEST, f"{BOTH} the residual CNNs", "CNN_res_16", "CNN_res_35", "CNN_res_56"),
    "4.4": _timing("timing_4", "CNNs"),
    "4.5": Entry(controls, CNN_CONTROLS, "Controls: what stops CNN_30"),
    "4.5b": _float64("CNN_30"),
    "4.6": Entry(precision, PRECISION, "bf16 (dashed) beside fp32, from the same weights"),
    "5.1": Entry(
        fine_tuning, TUNED, "Fine-tuning at one learning rate: the last layer, then layer4 too", ("baseline",)
    ),
    "5.2": Entry(fine_tuning, TUNED_LR, "Fine-tuning, from the second run on at learning rate 1e-5", ("baseline",)),
    "5.3": _curves(TUNING, f"Early stopping with patience 5 {RING}", "early_stopping"),
    "5.4": _curves(TUNING, f"Four optimizers at learning rate 5e-4 {RING}", "adam", "sgd", "adamw", "rmsprop"),
    "5.5": _curves(TUNING, f"Four optimizers at learning rate 1e-5 {RING}", "adam_2", "sgd_2", "adamw_2", "rmsprop_2"),
    "5.6": Entry(
        sweep_table, SWEEP_RUNS, "The sweep: the report's, ours (restored epoch), ours at the end; bold: best three"
    ),
    "5.7": _curves(
        TUNING,
        f"The sweep's best: rates .0096, .0093, .0027; batch 64, 64, 128 {RING}",
        "sweep_4",
        "sweep_6",
        "sweep_10",
    ),
    "5.8": Entry(dropout, ("dropout",), f"Dropout before the last layer {RING}", (OPENINGS,)),
    "5.9": Entry(searched_space, (*SWEEP_RUNS, "search_*"), "The searched space: learning rate and batch size"),
}


def found(name: str, profile: str) -> dict[str, list]:
    """Name -> the finished records of a run, of a search's trials ("search_*": those with a number) or of all runs
    ("*").
    """
    names, stem = {name}, name.removesuffix("*")
    if name.endswith("*"):
        folders = {folder.name for root in roots() for folder in (root / profile).glob(name)}
        names = {folder for folder in folders if not stem or folder.removeprefix(stem).isdecimal()}
    return {n: runs for n in sorted(names, key=lambda n: (len(n), n)) if (runs := find_records(n, profile))}


@default_style()
def draw(number: str, profile: str | None = None) -> Sheet:
    """Figure `number` from the finished records of one profile (None: `PROFILE` in the environment, else the sample).

    Where only some of its runs have one, they are drawn and the footer names the others. Raises UsageError for an
    unknown number, where runs of one seed are set side by side and share none, and when none of its runs has a finished
    record, with the way to train them.
    """
    profile, entry = current_profile(profile), FIGURES[choose("figure", str(number), FIGURES)]
    records = {run: runs for name in entry.runs for run, runs in found(name, profile).items()}
    if entry.paired and records:
        both = set.intersection(*({record.seed for record in runs} for runs in records.values()))
        if not both:
            raise UsageError(
                f"figure {number} sets seeds side by side, and {', '.join(records)} share none; train one with another's seed, by --seeds"
            )
        records = {run: [record for record in runs if record.seed in both] for run, runs in records.items()}
    missing = [name for name in entry.runs if name in EXPERIMENTS and name not in records]
    if lacking := [exp for name in missing if not is_supported(exp := experiment(name, profile))]:
        runs = ", ".join(exp.name for exp in lacking)
        choice = supporting_profiles(*lacking)
        raise UsageError(
            f"figure {number} shows controls ({runs}), for which profile {profile!r} has no budget; choose profile {choice}"
        )
    if entry.runs and not records:
        remedy = f"python run.py train {' '.join(missing)} --profile {profile}"
        raise UsageError(
            f"figure {number} has no finished record of {', '.join(missing)} in profile {profile!r}; train with: {remedy}"
        )
    beside = {run: runs for name in entry.also for run, runs in found(name, profile).items()}
    missing += [name for name in entry.also if name in EXPERIMENTS and name not in beside]
    openings = {OPENINGS: find_openings(profile)} if OPENINGS in entry.also else {}
    figure = entry.function(records | beside | openings)
    title(figure, f"{number}  {entry.caption}")
    note = f"no finished record of {', '.join(missing)}" if missing else ""
    if not entry.runs:
        note = f"profile {profile} · a train image of the embedded sample, the same in every profile"
    footer(figure, [record for runs in (records | beside).values() for record in runs], note)
    return figure


def save(number: str, profile: str | None = None, figure: Sheet | None = None) -> list[Path]:
    """Write a figure as SVG and PNG to report/figures/<profile>/<number>.*; the same records give the same bytes.

    `figure`: what `draw` gave, where it is there already. Raises UsageError where `draw` does, and where the folder
    cannot be written to.

    Example::

        save("3.1", "paper")
    """
    figure, folder = figure or draw(number, profile), FOLDER / current_profile(profile)
    svg, png = (folder / f"{number}.{kind}" for kind in ("svg", "png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(svg, metadata={"Date": None}, dpi=2 * figure.dpi)
        png.write_bytes(figure.png)
    except OSError as error:
        raise UsageError(
            f"figures are not saved, since {folder} cannot be written to ({error.strerror or error})"
        ) from None
    return [svg, png]


def show(number: str, profile: str | None = None) -> None:
    """Display a figure in a notebook and save it. That its runs have no record is said in a line, and that it cannot be
    saved once.

    Example::

        show("3.1")
    """
    from IPython.display import display

    try:
        figure = draw(number, profile)
    except UsageError as error:
        print(error)
        return
    try:
        save(number, profile, figure)
    except UsageError as error:
        _say_once(str(error))
    display(figure)


@cache
def _say_once(line: str) -> None:
    print(line)


def save_all(profile: str | None = None) -> list[Path]:
    """Write every figure whose runs have records; say in a line each which have not."""
    paths = []
    for number in FIGURES:
        try:
            paths += save(number, profile)
        except UsageError as error:
            print(error)
    return paths
