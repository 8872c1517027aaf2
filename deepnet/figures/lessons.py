"""What the notebook teaches with, beside the report's figures: the code as it stands, the data sets, and diagrams."""

import ast
import inspect
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.text import Text
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from deepnet.claims.measures import step_ratios
from deepnet.data.sets import CLASS_NAMES, FINGERPRINTS, NORMALISATION, load_images
from deepnet.figures.looks import BLUE, FAINT, GREY, INK, ORANGE, TEXT, VERMILLION
from deepnet.figures.plots import Sheet, default_style, sheet, style, title, whole_numbers
from deepnet.figures.registry import FIGURES, found
from deepnet.figures.words import records_of, results_of
from deepnet.records.reading import Record, find_openings
from deepnet.text import DATA
from deepnet.training.early_stopping import EarlyStopping
from experimentTable import JUDGED, PROFILES, UsageError, current_profile, experiment, is_supported

if TYPE_CHECKING:
    from IPython.display import Markdown

LEARNS, FROZEN, PLAIN = "#f6d6b8", "#dfe7ee", "#ffffff"  # the fill of a diagram's boxes
EVIDENCE = JUDGED[0]  # whose numbers the notebook's sentences are of, whatever profile it shows

# ---------------------------------------------------------------- code and records


def code(thing: Any, *names: str) -> "Markdown":
    """The source of a module, class or function as it is now, or of these names that are defined within it.

    Raises UsageError for a name that is not defined there, so what a page shows cannot be out of date unnoticed.
    Example: `code(myModel, "MLP_4", "MLP_33")`.
    """
    from IPython.display import Markdown

    source = dedent(inspect.getsource(thing))
    parts = [_defined(source, name) for name in names] or [source.rstrip()]
    spaced = [f"\n\n{part}" if part.startswith(("def ", "class ")) else part for part in parts]
    shown = "\n".join(spaced).strip().replace("  # fmt: skip", "")
    return Markdown(f"```python\n{shown}\n```")


def _defined(source: str, name: str) -> str:
    """The lines that define `name` in `source`, at any depth."""
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if getattr(node, "name", None) == name or name in [getattr(target, "id", None) for target in targets]:
            lines = source.splitlines()[node.lineno - 1 : node.end_lineno]  # type: ignore[attr-defined]
            return dedent("\n".join(lines))
    raise UsageError(f"{name} is not defined there")


def shown_from(number: str, profile: str | None = None) -> str:
    """The profile to show figure `number` from: the current one, unless another has records of more of its runs.

    That is said in a line. In the profile `sample`, whose runs take seconds, what it can run is always its own.
    Example: `show("4.4", shown_from("4.4"))`.
    """
    profile, runs = current_profile(profile), FIGURES[number].runs
    rows = [experiment(name, profile) for name in runs if not name.endswith("*")]
    if not PROFILES[profile].judged and all(map(is_supported, rows)):
        return profile
    counts = {name: sum(len(found(run, name)) for run in runs) for name in dict.fromkeys([profile, *JUDGED])}
    best = max(counts, key=lambda name: counts[name])  # of equals the first
    if best != profile:
        print(f"Figure {number} is shown from the profile {best}, which has more of its records than {profile}.")
    return best


def seen(name: str, measure: str = "accuracy") -> float:
    """A result in the committed evidence, as the mean of its seeds; measures are those of `words.results_of`."""
    return float(np.mean(results_of(name, measure, EVIDENCE)))


def span(name: str, measure: str = "accuracy") -> str:
    """The lowest and the highest of the seeds in the committed evidence: "0.940 to 0.971"."""
    values = results_of(name, measure, EVIDENCE)
    return f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def wins(name: str, other: str, profile: str = EVIDENCE) -> str:
    """In how many seeds of the committed evidence the run `name` ends above `other`: "5 of 5"."""
    pairs = list(zip(*(results_of(run, "accuracy", profile) for run in (name, other)), strict=True))
    return f"{sum(a > b for a, b in pairs)} of {len(pairs)}"


def power(exponent: float, digits: int = 0) -> str:
    """A power of ten as a formula in Markdown: "$10^{-15}$"."""
    return f"$10^{{{exponent:.{digits}f}}}$"


def evidence(name: str) -> Sequence[Record]:
    """The committed records of a run in `EVIDENCE` or, where that has none, in the other profile with evidence."""
    return records_of(name, EVIDENCE)


def measured(name: str, key: str, epoch: int, layer: int) -> float:
    """What the committed rows say of one weight layer, as the mean of the seeds; layer 0 is at the input.

    Example: `measured("MLP_33", "gradient_log10_rms", epoch=1, layer=0)`.
    """
    return float(np.mean([record.rows[epoch][key][layer] for record in evidence(name)]))


def step_time_ratios(name: str) -> str:
    """How many times as long as a plain step a residual one takes, over the pairs of a timing: "1.06 to 1.13"."""
    means = [np.mean(ratios) for ratios in step_ratios(evidence(name)).values()]
    return f"{min(means):.2f} to {max(means):.2f}"


def tested(name: str, classifier: str = "resnet18") -> float:
    """The accuracy on CIFAR-100's test set that the committed evidence has of a run, from its first opening."""
    lines = [line for line in find_openings(EVIDENCE) if (line["run"], line["classifier"]) == (name, classifier)]
    return lines[0]["accuracy"]


# ---------------------------------------------------------------- the data sets


def data_rows() -> list[dict]:
    """One row per data set: its images, classes, shape, the range of a pixel, and its mean and standard deviation."""
    rows = []
    for name, label in DATA.items():
        parts, images = FINGERPRINTS[name, "complete"], load_images(name, "train", "sample").images
        mean, deviation = (", ".join(f"{value:.3f}" for value in values) for values in NORMALISATION[name])
        rows.append({
            "data_set": label, "training_images": parts["train"][0], "test_images": parts["test"][0],
            "classes": len(CLASS_NAMES[name]), "shape": " x ".join(map(str, images.shape[1:])),
            "pixel_range": f"{int(images.min())} to {int(images.max())}", "mean_(scaled_to_1)": mean,
            "standard_deviation": deviation,
        })  # fmt: skip
    return rows


def sample_pixels(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The embedded sample of a data set as vectors of pixels in [0, 1], (N, D), each followed by its targets, (N,).

    First the training images, then those for evaluation.
    """
    parts = [load_images(name, part) for part in ("train", "validation" if name == "cifar100" else "test")]
    train, held = ((images.images.flatten(1) / 255, images.labels) for images in parts)
    return *train, *held


def digits(classes: Collection[int] = range(10), training: int = 1500) -> tuple[TensorDataset, TensorDataset]:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, those of `classes`: a training and an evaluation set.

    The inputs are (1, 8, 8) in [0, 1], the targets count from 0. A sixth is for evaluation; of the others the first
    `training` are for training. A small network learns them in a second.
    """
    raw = load_digits()
    wanted = torch.tensor(np.isin(raw.target, list(classes)))
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1)[wanted] / 16
    targets = torch.tensor(raw.target)[wanted] - min(classes)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    cut = len(order) * 5 // 6
    train, held = (TensorDataset(images[part], targets[part]) for part in (order[:cut][:training], order[cut:]))
    return train, held


def digit_net(outputs: int = 10, seed: int = 0) -> nn.Sequential:
    """A small convolutional network for `digits` with this seed's weights; its children are `features` and `fc`."""
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten())
    return nn.Sequential(OrderedDict(features=features, fc=nn.Linear(512, outputs)))


@default_style()
def pictures(rows: Mapping[str, tuple[Tensor, Sequence[str]]], caption: str) -> Sheet:
    """Rows of small images (N, C, H, W) with a word above each; the name of each row stands to its left."""
    count = max(len(words) for _, words in rows.values())
    figure, axes = sheet(len(rows), count, height=0.3 + 0.9 * len(rows))
    for number, (name, (images, words)) in enumerate(rows.items()):
        for ax, image, word in zip(axes[number * count :], images, words, strict=False):
            ax.imshow(image.permute(1, 2, 0).squeeze(), cmap="gray", interpolation="nearest")
            style(ax, grid=None)
            ax.set_title(word.replace("_", " "), fontsize=TEXT, color=INK)
        axes[number * count].set_ylabel(name, fontsize=TEXT, color=INK)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    title(figure, caption)
    return figure


def examples(count: int = 8) -> Sheet:
    """The first training images of each data set, with their labels."""
    rows = {}
    for name, label in DATA.items():
        images = load_images(name)
        rows[label] = images.images[:count], [images.classes[int(n)] for n in images.labels[:count]]
    return pictures(rows, "Training images and the labels that a network is to give them")


# ---------------------------------------------------------------- diagrams


def _canvas(caption: str, height: float, width: float) -> tuple[Sheet, Axes]:
    """A figure without axes whose coordinates are (0, 0) to (width, 1)."""
    figure, (ax,) = sheet(height=height)
    ax.set_axis_off()
    ax.set(xlim=(0, width), ylim=(0, 1))
    title(figure, caption)
    return figure, ax


def _chain(ax: Axes, at: np.ndarray, y: float, texts: Sequence[str], fills: Sequence[str]) -> list[Text]:
    """A row of boxes, each with an arrow to the next."""
    boxes = []
    for x, text, fill in zip(at, texts, fills, strict=True):
        shape = {"boxstyle": "round,pad=0.45", "facecolor": fill, "edgecolor": GREY}
        boxes.append(ax.text(x, y, text, ha="center", va="center", fontsize=TEXT, color=INK, bbox=shape))
    for start, end in pairwise(boxes):
        _arrow(ax, start, end)
    return boxes


def _arrow(ax: Axes, start: Text, end: Text, bend: float = 0.0, color: str = INK) -> None:
    """An arrow from box to box; `bend` leads it below what lies between them."""
    look = {"arrowstyle": "-|>", "color": color, "connectionstyle": f"arc3,rad={bend}", "linewidth": 1.2}
    look |= {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    ax.annotate("", end.get_position(), start.get_position(), arrowprops=look)


@default_style()
def residual_diagram() -> Sheet:
    """A plain block above a residual block: the same layers, and the shortcut that leads around them."""
    figure, ax = _canvas("A plain block (above) and a residual block (below): the same layers, and a shortcut", 2.2, 10)
    plain = ["x", "layer", "ReLU", "layer", "ReLU", "next block"]
    for y, texts in ((0.88, plain), (0.5, [*plain[:4], "+", *plain[4:]])):
        fills = [{"layer": FROZEN, "+": LEARNS}.get(text, PLAIN) for text in texts]
        boxes = _chain(ax, np.linspace(0.4, 9.3, len(texts)), y, texts, fills)
        if "+" in texts:
            _arrow(ax, boxes[0], boxes[4], bend=0.25, color=VERMILLION)
    ax.text(3.4, 0.16, "shortcut: x itself, or a projection where the width changes", ha="center", fontsize=TEXT)
    return figure


@default_style()
def pooling_diagram(side: int = 6, pooled: int = 2) -> Sheet:
    """Adaptive max pooling of side x side random numbers to pooled x pooled: each field gives its largest number."""
    values = torch.randint(0, 100, (1, 1, side, side), generator=torch.Generator().manual_seed(3)).float()
    fields = nn.AdaptiveMaxPool2d(pooled)(values)
    figure, axes = sheet(1, 2, height=2.2)
    for ax, grid in zip(axes, (values, fields), strict=True):
        shown, size = grid[0, 0].numpy(), grid.shape[-1]
        ax.imshow(shown, cmap="Blues", vmin=0, vmax=160)
        for y, x in np.ndindex(size, size):
            weight = "bold" if shown[y, x] in fields else "normal"
            ax.text(x, y, f"{shown[y, x]:.0f}", ha="center", va="center", fontsize=TEXT, weight=weight)
        for cut in range(1, pooled):
            for line in (ax.axhline, ax.axvline):
                line(cut * size / pooled - 0.5, color=INK, linewidth=1.4)
        style(ax, f"{size} x {size}", grid=None)
        ax.set(xticks=[], yticks=[])
    title(figure, f"Adaptive max pooling: each of {pooled} x {pooled} fields is replaced by its largest number")
    return figure


@default_style()
def frozen_diagram(runs: Mapping[str, Collection[str]], stages: Sequence[str]) -> Sheet:
    """One row per run: the stages of a network from input to output, those that learn filled in orange.

    Example: `frozen_diagram({"fine_tune_1": ["fc"]}, ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"])`.
    """
    caption = "Which stages learn (orange) and which are frozen (grey)"
    figure, ax = _canvas(caption, 0.6 + 0.4 * len(runs), 1.25 * len(stages) + 1.3)
    for row, (run, learns) in enumerate(runs.items()):
        y = 1 - (row + 0.5) / len(runs)
        ax.text(1.4, y, run, ha="right", va="center", fontsize=TEXT, color=INK)
        fills = [LEARNS if stage in learns else FROZEN for stage in stages]
        _chain(ax, 1.25 * np.arange(len(stages)) + 2, y, stages, fills)
    return figure


@default_style()
def stopping_diagram(record: Record, patience: int, min_delta: float) -> Sheet:
    """A recorded accuracy by epoch, the accuracy that counts as reached (a step), and where the patience runs out."""
    accuracies = record.column(f"{record.result['split']}_accuracy")
    rule, reference, end = EarlyStopping(patience, min_delta), [], None
    for epoch, accuracy in enumerate(accuracies[1:], start=1):
        rule.update(epoch, accuracy)
        reference.append(rule.reference)
        end = epoch if rule.over and end is None else end
    figure, (ax,) = sheet(height=2.6)
    epochs = np.arange(1, len(accuracies))
    ax.plot(epochs, accuracies[1:], "o-", color=BLUE, markersize=4, label="accuracy")
    ax.step(epochs, reference, where="post", color=GREY, linewidth=1.4, label="reference")
    ax.plot(rule.best_epoch, rule.best, "o", markersize=11, mfc="none", color=VERMILLION, label="best epoch")
    if end:
        waited, label = (end - patience + 0.5, end + 0.5), f"{patience} epochs without a gain"
        ax.axvspan(*waited, color=FAINT, alpha=0.5, linewidth=0, label=label)
    ax.legend(frameon=False, fontsize=TEXT, loc="lower right", labelcolor=INK)
    ax.xaxis.set_major_locator(whole_numbers(12))
    style(ax, x="epoch", y=f"{record.result['split']} accuracy")
    title(figure, f"Early stopping of {record.name}: patience {patience}, a gain counts above {min_delta:g}")
    return figure


@default_style()
def signal_plot(variances: Mapping[str, Sequence[float]]) -> Sheet:
    """The variance across images of each weight layer's outputs, one line per network, on a logarithmic axis."""
    figure, (ax,) = sheet(height=2.6)
    for (name, values), colour in zip(variances.items(), (VERMILLION, BLUE, ORANGE, GREY), strict=False):
        ax.plot(np.arange(1, len(values) + 1), values, "o-", markersize=3, color=colour, label=name)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(whole_numbers(12))
    ax.legend(frameon=False, fontsize=TEXT, labelcolor=INK)
    style(ax, x="weight layer, counted from the input", y="variance across images")
    title(figure, "How much of the difference between images is left at each depth")
    return figure
