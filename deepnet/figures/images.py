"""Chapter 2's figures: the images, how many there are of each class, and where t-SNE puts them."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from deepnet.figures.looks import BLUE, FAINT, INK, SMALL, TEXT, VERMILLION, WIDTH
from deepnet.figures.plots import Groups, Sheet, sheet, style
from deepnet.text import DATA
from experimentTable import UsageError

if TYPE_CHECKING:
    from deepnet.data.sets import ImageSet

# Petroff (2021), arXiv:2107.02270
DIGIT_COLOURS = np.array([
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
])  # fmt: skip
SHOWN = {"mnist": (0, 6), "cifar10": (355, 339), "cifar100": (338, 4)}  # which training images figures 2.3, 2.4 show


def sample_images(dataset: str, part: str = "train") -> "ImageSet":
    """Images of the embedded sample: the same in every profile, there without any data."""
    from deepnet.data.sets import load_images

    return load_images(dataset, part, "sample")


def spelled(names: Iterable[str]) -> list[str]:
    """Names of classes with spaces."""
    return [name.replace("_", " ") for name in names]


def distribution(records: Groups) -> Sheet:
    """2.1: images per class in the three training sets, CIFAR-100's by superclass."""
    from deepnet.data.sets import CLASS_NAMES, COARSE_NAMES, COARSE_OF

    counts = {name: np.asarray(of_set) for name, of_set in records["distribution"][0].result["counts"].items()}
    fine = counts["cifar100"]
    counts["cifar100"] = np.bincount(COARSE_OF[: len(fine)], fine, minlength=len(COARSE_NAMES)).astype(int)
    names = {"mnist": CLASS_NAMES["mnist"], "cifar10": CLASS_NAMES["cifar10"], "cifar100": COARSE_NAMES}
    figure, axes = sheet(1, 3, height=4.0)
    for ax, dataset in zip(axes, DATA, strict=True):
        images = counts[dataset]
        low, high = images.min(), images.max()
        spread = f"{low:,} each" if low == high else f"{low:,} to {high:,} each"
        ax.barh(np.arange(len(images)), images, color=BLUE, height=0.75)
        ax.set_yticks(np.arange(len(images)), spelled(names[dataset][: len(images)]))
        style(ax, f"{DATA[dataset]}\n{spread}", "training images", grid="x")
        ax.invert_yaxis()
    axes[0].set_ylabel("digit", fontsize=TEXT)
    axes[2].set_xlabel("training images\nper superclass", fontsize=TEXT)
    return figure


def rgb(records: Groups, *, dataset: str) -> Sheet:
    """2.3, 2.4: two training images and their channels as grey maps; beside CIFAR-10's, two of MNIST's digits."""
    beside = ["mnist"] if dataset == "cifar10" else []
    figure, axes = sheet(2, 4 + len(beside), height=3.3)
    for row, panels in enumerate(np.array(axes).reshape(2, -1)):
        for ax, name in zip(panels, [*beside, dataset], strict=False):
            images = sample_images(name)
            image = images.images[SHOWN[name][row]].permute(1, 2, 0).numpy()
            label = images.classes[int(images.labels[SHOWN[name][row]])].replace("_", " ")
            ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            style(ax, f"{DATA[name]}: {label}", grid=None)
        for ax, colour, channel in zip(panels[-3:], ("red", "green", "blue"), np.moveaxis(image, 2, 0), strict=True):
            ax.imshow(channel, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            style(ax, f"{colour} (mean {channel.mean():.0f})", grid=None)
    for ax in axes:
        ax.set_axis_off()
    return figure


def _embedding(records: Groups, dataset: str) -> tuple[dict[str, np.ndarray], str]:
    """Seed 0's points, and what is said of them; the skill, over all classes, is the seeds' mean."""
    runs = records[f"tsne_{dataset}"]
    points = next((record.points() for record in runs if record.seed == 0), None)
    if points is None:
        raise UsageError(f"only seed 0 of an embedding keeps its points; train tsne_{dataset} with --seeds 0")
    skill = np.mean([record.result["knn_skill"] for record in runs])
    return points, f"5-NN skill {skill:.2f} over {runs[0].result['classes']} classes"


def tsne(records: Groups) -> Sheet:
    """2.2: MNIST's ten digits in ten colours, and CIFAR-10's classes one by one, since they lie on one another."""
    figure = Sheet(figsize=(WIDTH, 4.2), dpi=100, layout="constrained")
    halves, said = figure.add_gridspec(1, len(records)), []
    for half, name in enumerate(records):
        dataset = name.removeprefix("tsne_")
        points, skill = _embedding(records, dataset)
        said.append(f"{DATA[dataset]}: {skill}")
        if dataset == "mnist":
            _digits(figure.add_subplot(halves[half]), points["xy"], points["label"])
        else:
            names = sample_images(dataset).classes
            cells = halves[half].subgridspec(4, 3)
            panels = [figure.add_subplot(cells[k]) for k in range(len(names))]
            _one_by_one(panels, points["xy"], points["label"], names)
    figure.supxlabel(";  ".join(said), fontsize=SMALL, color=INK)
    return figure


def _digits(ax: Axes, xy: np.ndarray, labels: np.ndarray) -> None:
    """An embedding's points (N, 2) in their class's colour, with the digit at the class's median."""
    x, y = xy.astype(float).T
    ax.scatter(x, y, s=float(np.clip(12_000 / len(xy), 2, 9)), c=DIGIT_COLOURS[labels], linewidths=0, rasterized=True)
    for digit, colour in enumerate(DIGIT_COLOURS):
        own, box = labels == digit, {"facecolor": "white", "edgecolor": colour, "pad": 2}
        place = float(np.median(x[own])), float(np.median(y[own]))
        ax.text(*place, str(digit), fontsize=TEXT, bbox=box, in_layout=False)  # the layout of axes fails on it
    ax.set_axis_off()


def _one_by_one(axes: Iterable[Axes], xy: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> None:
    """A panel per group: its points in colour on a twentieth of all in grey."""
    x, y = xy.astype(float).T
    for group, (ax, name) in enumerate(zip(axes, spelled(names), strict=True)):
        own = groups == group
        ax.scatter(x[::20], y[::20], s=1, color=FAINT, linewidths=0, rasterized=True)
        ax.scatter(x[own], y[own], s=1.5, color=VERMILLION, linewidths=0, rasterized=True)
        ax.set_title(textwrap.fill(name, 20), fontsize=SMALL, color=INK, y=0.95)
        ax.set_axis_off()


def superclasses(records: Groups) -> Sheet:
    """2.5: CIFAR-100's 20 superclasses, each on top of all others in grey."""
    points, skill = _embedding(records, "cifar100")
    figure, axes = sheet(4, 5, height=5.4)
    _one_by_one(axes, points["xy"], points["coarse"], sample_images("cifar100").coarse_classes)
    figure.supxlabel(
        f"in colour the superclass, in grey a twentieth of all images; {skill} (0: chance)", fontsize=SMALL
    )
    return figure
