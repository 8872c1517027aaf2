"""What a trained model gets wrong: which classes it confuses, and on which images. From the records' predictions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from deepnet.figures.images import sample_images, spelled
from deepnet.figures.looks import INK, SMALL, TEXT
from deepnet.figures.plots import Groups, Sheet, default_style, sheet, style, title
from deepnet.records.reading import Record

SAMPLED = 1_000  # MNIST's and CIFAR-10's test images in the embedded sample: the first of each class


def confusion_map(
    ax: Axes, true: np.ndarray, given: np.ndarray, names: Sequence[str], least: int = 0, what: str = "class"
) -> None:
    """How often images of each class (rows) are given each class (columns); numbers stand where it is `least` times."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(true, given, labels=range(len(names)))
    ax.imshow(counts, cmap="Blues", vmax=counts.max() * 1.2, aspect="auto")
    for y, x in zip(*np.nonzero(counts >= least), strict=True):
        colour = "white" if counts[y, x] > 0.75 * counts.max() else INK
        ax.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=SMALL, color=colour)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    style(ax, x=f"predicted {what}", y=what, grid=None)


def superclass_confusion(records: Groups) -> Sheet:
    """5.8b: CIFAR-100's superclasses, confused by the final model on the validation images of all its seeds."""
    from deepnet.data.sets import COARSE_NAMES, COARSE_OF

    (runs,) = records.values()
    true, given = np.concatenate([record.predictions() for record in runs], axis=1).astype(int)
    figure, (ax,) = sheet(height=6.2)
    coarse = np.asarray(COARSE_OF)
    confusion_map(ax, coarse[true], coarse[given], spelled(COARSE_NAMES), least=10, what="superclass")
    within = (coarse[true] == coarse[given])[true != given].mean()
    right = f"{(true == given).mean():.0%} of {len(true):,} validation images are given their class"
    ax.set_title(f"{right}; {within:.0%} of the others stay in their superclass", fontsize=TEXT, loc="right")
    return figure


@default_style()
def confusion(record: Record) -> Sheet:
    """How often images of each class (rows) are given each class (columns), from the record's predictions.

    Example: `confusion(find_record("CNN_res_56", "paper"))`.
    """
    from deepnet.data.sets import CLASS_NAMES

    true, given = record.predictions().astype(int)
    names = spelled(CLASS_NAMES[record.settings["experiment"]["dataset"]])
    figure, (ax,) = sheet(height=4.2)
    confusion_map(ax, true, given, names)
    title(figure, f"Which classes {record.name} confuses, of {len(true):,} {record.result['split']} images", [record])
    return figure


@default_style()
def misclassified(record: Record, images: int = 12) -> Sheet:
    """The first test images that a run of chapter 3 or 4 gets wrong, of those that the embedded sample holds.

    Example: `misclassified(find_record("CNN_res_56", "paper"))`.
    """
    from deepnet.data.sets import first_of_each_class

    dataset = record.settings["experiment"]["dataset"]
    sample, (true, given) = sample_images(dataset, "test"), record.predictions().astype(int)
    here = first_of_each_class(true, SAMPLED)  # where the sample's test images stand among all of them
    wrong = np.flatnonzero(true[here] != given[here])[:images]
    figure, axes = sheet(2, -(-images // 2), height=3.0)
    for ax, i in zip(axes, wrong, strict=False):
        ax.imshow(sample.images[i].permute(1, 2, 0).numpy(), cmap="gray", interpolation="nearest")
        was, said = (spelled([sample.classes[label]])[0] for label in (true[here[i]], given[here[i]]))
        ax.set_title(f"{said},\nnot {was}", fontsize=SMALL, color=INK)
    for ax in axes:
        ax.set_axis_off()
    title(figure, f"Images that {record.name} gets wrong", [record])
    return figure
