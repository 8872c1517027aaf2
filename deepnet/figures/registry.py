"""The report's figures by number, and our own beside them: records in, `Figure` out.

`draw("3.1")` shows one, `save("3.1")` writes it, `curves(records, metrics)` draws a reader's own
runs. Every figure is a pure function of the records of one profile; it reads no others, and trains nothing.
"""

from collections import ChainMap
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from deepnet.figures import atlas
from deepnet.figures.curves import curves
from deepnet.figures.entry import Entry
from deepnet.figures.images import distribution, rgb, superclasses, tsne
from deepnet.figures.layers import depth, float64, precision
from deepnet.figures.lines import (
    OPENINGS,
    TUNING,
    ablations,
    dropout,
    fine_tuning,
    multiples,
    norms,
    overview,
    timing,
    training,
)
from deepnet.figures.mistakes import superclass_confusion
from deepnet.figures.plots import Sheet, default_style, provenance, title
from deepnet.figures.sweep import SWEEP_RUNS, searched_space, sweep_table
from deepnet.records.reading import ROOT, find_openings, find_records, roots
from deepnet.text import listed
from experimentTable import (
    ATLAS,
    EXPERIMENTS,
    TABLE,
    UsageError,
    choose,
    current_profile,
    experiment,
    is_supported,
    supporting_profiles,
)

__all__ = ["FIGURES", "Entry", "curves", "draw", "save", "show"]

FOLDER = ROOT / "report" / "figures"
LOSS_TEST = (("train_loss",), ("test_accuracy",))
SEEDS = "The first seed's line is thick and has markers, the other seeds' are thin."


def _curves(metrics: Sequence, caption: str, *runs: str, alt: str = "", reading: str = "", **options: Any) -> Entry:
    alt = alt or f"Training loss and accuracy of {', '.join(runs)} over training, a line per seed."
    return Entry(partial(training, metrics=metrics, **options), runs, caption, alt, reading)


def _rgb(caption: str, dataset: str) -> Entry:
    alt = f"{caption}: each one's red, green and blue channel is a grey map."
    return Entry(partial(rgb, dataset=dataset), (), caption, alt)


def _norms(what: str, *runs: str) -> Entry:
    alt = f"The gradient's norms, summed over tensors and an epoch's steps, of {', '.join(runs)}, a line per seed."
    return Entry(norms, runs, f"Gradient norms of the {what}", alt)


def _depth(what: str, plain: str, *runs: str, note: str = "") -> Entry:
    alt = (
        f"{what}: above, a map per net of each layer's gradient over training; below, the variance across images at "
        f"each depth, before and after training, beside the theory for {plain} under two initializations."
    )
    reading = (
        "Above, a column of a map is an epoch and a row a weight layer, the input's at the bottom: the darker, the "
        "smaller the gradient that reaches the layer. Below, the variance across 256 images says how much of what "
        f"tells them apart is left at a depth; grey is what theory, with nothing fitted, gives for {plain}.{note} "
        "Under He's initialization outputs keep their size, but ReLU brings those of any two images closer in each "
        "layer, so that the variance across images falls there too, slowly. "
        "Of several seeds the mean is shown (of logarithms in the maps)."
    )
    return Entry(partial(depth, plain=plain), runs, f"{what} layer by layer: gradient and signal", alt, reading)


def _timing(name: str, what: str) -> Entry:
    alt = f"The time per training step of residual {what} over that of their plain counterparts, a dot per block."
    return Entry(partial(timing, name=name), (name,), f"Time per step: residual over plain {what}", alt)


def _ablations(*runs: str) -> Entry:
    alt = (
        "Training loss above, test accuracy below: on the left nets with Adam's eps at 1e-8 and at 1e-16, on the right "
        f"plain nets with He initialization ({', '.join(runs)})."
    )
    reading = f"{SEEDS} Grey, on the right, are the same nets with PyTorch's default initialization."
    also = tuple(name.removesuffix("_he") for name in runs if name.endswith("_he"))
    return Entry(ablations, runs, "Ablations: a smaller eps, or He initialization", alt, reading, also)


def _float64(name: str) -> Entry:
    alt = (
        f"Four panels by layer for {name} in float32 and float64: variance and number of distinct outputs before "
        "training, the gradient in the first epoch, distinct outputs after training."
    )
    reading = (
        "The wide pale line is float32, the thin dashed one float64, from the same weights: where they agree, depth is "
        "at work, and where they part, float32's rounding. Where training leaves a single output in both, rounding is "
        "not what stops the net."
    )
    return Entry(float64, (name, f"{name}_fp64"), f"{name} in float32 and float64", alt, reading, paired=True)


def _fine_tuning(caption: str, *runs: str) -> Entry:
    alt = (
        f"Training loss, and validation and training accuracy, of {', '.join(runs)}, one after the other, beside the "
        "classical baseline: first the head alone is trained, then deeper layers with it."
    )
    return Entry(fine_tuning, runs, caption, alt, also=("baseline",))


def _multiples(caption: str, *runs: str, function: Callable = multiples, also: tuple[str, ...] = ()) -> Entry:
    alt = (
        f"A column for each of {', '.join(runs)}: training loss above, validation and training accuracy below, the "
        "other runs in grey, a ring at the restored epoch."
    )
    reading = (
        "A run ends early when five epochs in a row bring no gain of more than one point in validation accuracy; then "
        "the best epoch, with a ring, is restored."
    )
    return Entry(function, runs, caption, alt, reading, also=also)


_mlps, _cnns = (partial(_curves, LOSS_TEST, family=family) for family in ("mlp", "cnn"))
PLAIN = ("MLP_4", "MLP_13", "MLP_23", "MLP_33")
RES = ("MLP_res_5", "MLP_res_15", "MLP_res_35", "MLP_res_55", "MLP_res_96")
CNNS, CNNS_RES = ("CNN_10", "CNN_13", "CNN_30"), ("CNN_res_16", "CNN_res_35", "CNN_res_56")
HE = tuple(f"{name}_he" for name in (*PLAIN, *CNNS))
FIGURES: dict[str, Entry] = {
    "1.1": Entry(
        overview, (*PLAIN, *RES, *CNNS, *CNNS_RES), "Does depth help? Accuracy and training loss against depth",
        "Final test accuracy above and training loss below against depth, MLPs on the left, CNNs on the right, a dot "
        "per seed: plain nets, residual nets, and plain nets with He initialization, beside what guessing gives.",
        "A plain net on the dotted line has learned nothing. Where residual nets of that depth, or plain ones with "
        "another initialization, lie far from it, depth alone is not what stopped it. Lines join the seeds' means.",
        also=HE,
    ),
    "2.1": Entry(
        distribution, ("distribution",), "How many training images each class has",
        "Bars of the training images per class: MNIST's ten digits, CIFAR-10's ten classes, and CIFAR-100's twenty "
        "superclasses of five classes each.",
    ),
    "2.2": Entry(
        tsne, ("tsne_mnist", "tsne_cifar10"), "MNIST and CIFAR-10 in two dimensions (t-SNE)",
        "A t-SNE map of MNIST with a colour for each digit, and beside it ten small maps of CIFAR-10, each with one "
        "class in colour on the others in grey.",
        "t-SNE's axes have no unit; only what lies close together counts. The skill of a vote of five neighbours is 0 "
        "for chance and 1 for no error.",
    ),
    "2.3": _rgb("Two images of MNIST and of CIFAR-10, with their channels", "cifar10"),
    "2.4": _rgb("Two images of CIFAR-100, with their channels", "cifar100"),
    "2.5": Entry(
        superclasses, ("tsne_cifar100",), "CIFAR-100's superclasses in two dimensions (t-SNE)",
        "Twenty small t-SNE maps of CIFAR-100, each with one superclass in colour on the other images in grey.",
    ),
    "3.1": _mlps("The plain MLPs that learn: MLP_4, MLP_13, MLP_23", *PLAIN[:3], reading=SEEDS),
    "3.2": _mlps("MLP_33, the plain MLP that does not learn", "MLP_33", height=2.1),
    "3.3": _norms("plain MLPs", *PLAIN),
    "3.3b": _depth("Plain MLPs", "MLP_33", *PLAIN),
    "3.4": _mlps("The residual MLPs, 5 to 96 layers", *RES),
    "3.5": _timing("timing_3", "MLPs"),
    "3.6": _norms("residual MLPs", *RES),
    "3.6b": _depth("Residual MLPs", "MLP_33", *RES, note=" Only the layers at which a block begins are drawn."),
    "3.7": _ablations("MLP_23", "MLP_33", "MLP_23_eps", "MLP_33_eps", *HE[:4]),
    "3.7b": _float64("MLP_33"),
    "4.1": _cnns("The plain CNNs that learn: CNN_10, CNN_13", *CNNS[:2]),
    "4.2": _cnns("CNN_30, the plain CNN that does not learn", "CNN_30", height=2.1),
    "4.2b": _depth("Plain CNNs", "CNN_30", *CNNS, note=" It leaves poolings out."),
    "4.3": _cnns("The residual CNNs: CNN_res_16, CNN_res_35, CNN_res_56", *CNNS_RES),
    "4.4": _timing("timing_4", "CNNs"),
    "4.5": _ablations("CNN_30", "CNN_30_eps", *HE[4:]),
    "4.5b": _float64("CNN_30"),
    "4.6": Entry(
        precision, tuple(name for name, row in EXPERIMENTS.items() if row.family == "ablation_bf16"),
        "bf16 beside fp32, from the same weights",
        "Differences of the training loss, a line per seed, and of the final accuracy, a dot per seed; before training "
        "the variance by layer and the distinct outputs of the last layer, for four CNNs and ResNet-18.",
    ),
    "5.1": _fine_tuning("Fine-tuning at lr 5e-4: fine_tune_1, fine_tune_2", "fine_tune_1", "fine_tune_2"),
    "5.2": _fine_tuning(
        "Deeper layers at lr 1e-5: fine_tune_1_lr, _2_lr, _3_lr", *(f"fine_tune_{k}_lr" for k in (1, 2, 3))
    ),
    "5.3": _curves(TUNING, "Early stopping with patience 5: early_stopping", "early_stopping"),
    "5.4": _multiples("Four optimizers at lr 5e-4: adam, sgd, adamw, rmsprop", "adam", "sgd", "adamw", "rmsprop"),
    "5.5": _multiples(
        "The four at lr 1e-5: adam_2, sgd_2, adamw_2, rmsprop_2", "adam_2", "sgd_2", "adamw_2", "rmsprop_2"
    ),
    "5.6": Entry(
        sweep_table, SWEEP_RUNS, "The sweep: the report's numbers beside ours",
        "A table of the sweep's twelve runs: batch size, learning rate, and validation accuracy and training loss as "
        "the report has them, of our restored and of our last epoch.",
        "In bold the three best of the report and of our restored epochs, but none that shares a place with a fourth.",
    ),
    "5.7": _multiples("The sweep's best by the report: sweep_4, sweep_6, sweep_10", "sweep_4", "sweep_6", "sweep_10"),
    "5.8": _multiples(
        "With dropout before the head, and without (sweep_6)", "sweep_6", "dropout", function=dropout, also=(OPENINGS,)
    ),
    "5.8b": Entry(
        superclass_confusion, ("dropout",), "Which superclasses the final model confuses",
        "A map of CIFAR-100's twenty superclasses: in each row, the number of validation images of that superclass "
        "which the final model, the one with dropout, puts into each superclass.",
        "A number below ten is not printed, only shaded.",
    ),
    "5.9": Entry(
        searched_space, (*SWEEP_RUNS, "search_*"), "The searched space: learning rate and batch size",
        "Validation accuracy against learning rate, the batch size as marker: the report's points, ours at the same "
        "settings, joined to them by a line, and those of our own search; on the right those from a rate of 5e-4 on.",
    ),
}  # fmt: skip
ALL = ChainMap(atlas.FIGURES, FIGURES)  # the atlas's stand on a page of their own


def found(name: str, profile: str) -> dict[str, list]:
    """Name -> the finished records of a run, of all runs ("*"), or of a search's trials ("search_*": with a number)."""
    names, stem = {name}, name.removesuffix("*")
    if name.endswith("*"):
        folders = {folder.name for root in roots() for folder in (root / profile).glob(name)}
        names = {folder for folder in folders if not stem or folder.removeprefix(stem).isdecimal()}
    return {n: runs for n in sorted(names, key=lambda n: (len(n), n)) if (runs := find_records(n, profile))}


def _listed(names: Sequence[str]) -> str:
    """The names, but of the atlas's many rows the first and how many more."""
    return listed(names) if names[0] in ATLAS else ", ".join(names)


@default_style()
def draw(number: str, profile: str | None = None) -> Sheet:
    """Figure `number` from the finished records of one profile (None: `PROFILE` in the environment, else the sample).

    Where only some of its runs have one, they are drawn and the title names the others. Raises UsageError for an
    unknown number, where runs of one seed are set side by side and share none, and when none of its runs has a finished
    record, with the way to train them.
    """
    profile, entry = current_profile(profile), ALL[choose("figure", str(number), ALL)]
    records = {run: runs for name in entry.runs for run, runs in found(name, profile).items()}
    if entry.paired and records:
        both = set.intersection(*({record.seed for record in runs} for runs in records.values()))
        if not both:
            raise UsageError(
                f"figure {number} sets seeds side by side, and {', '.join(records)} share none; "
                "train one with another's seed, by --seeds"
            )
        records = {run: [record for record in runs if record.seed in both] for run, runs in records.items()}
    missing = [name for name in entry.runs if name in TABLE and name not in records]
    if lacking := [exp for name in missing if not is_supported(exp := experiment(name, profile))]:
        raise UsageError(
            f"figure {number} shows ablations ({_listed([exp.name for exp in lacking])}), which profile {profile!r} "
            f"does not run; choose profile {supporting_profiles(*lacking)}"
        )
    if entry.runs and not records:
        families = dict.fromkeys(TABLE[name].family for name in missing if name in ATLAS)
        what = " ".join(f"--family {family}" for family in families) or " ".join(missing)
        raise UsageError(
            f"figure {number} has no finished record of {_listed(missing)} in profile {profile!r}; "
            f"train with: python run.py train {what} --profile {profile}"
        )
    beside = {run: runs for name in entry.also for run, runs in found(name, profile).items()}
    lacks_own = bool(missing)
    missing += [
        name for name in entry.also
        if name in EXPERIMENTS and name not in beside and is_supported(experiment(name, profile))
    ]  # fmt: skip
    openings = {OPENINGS: find_openings(profile)} if OPENINGS in entry.also else {}
    figure = entry.function(records | beside | openings)
    shown = [record for runs in (records | beside).values() for record in runs]
    rows = f"{len(missing)} of {len(entry.runs)} rows" if number in atlas.FIGURES else ", ".join(missing)
    note = f"no finished record of {rows}" if missing else ""
    # Runs that only stand beside the figure's own may be absent, which a reader need not take for a failure.
    said = note if lacks_own or not missing else f"no records of {', '.join(missing)}"
    title(figure, f"{number}  {entry.caption}", shown, said)
    figure.alt = entry.alt or entry.caption
    figure.provenance = provenance(shown, said) if entry.runs else f"profile {profile} · the embedded sample's images"
    return figure


def folder_of(number: str, profile: str | None = None) -> str:
    """The folder in report/figures that a figure is saved in: its profile's, or the atlas's."""
    return "atlas" if number in atlas.FIGURES else current_profile(profile)


def save(number: str, profile: str | None = None, figure: Sheet | None = None) -> list[Path]:
    """Write a figure as SVG and PNG to report/figures/<profile>/<number>.*, one of the atlas to report/figures/atlas/.

    The same records give the same bytes. `figure`: what `draw` gave, where it is there already. Raises UsageError where
    `draw` does, and where the folder cannot be written to. Example: `save("3.1", "paper")`.
    """
    figure, folder = figure or draw(number, profile), FOLDER / folder_of(number, profile)
    svg, png = (folder / f"{number}.{kind}" for kind in ("svg", "png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        png.write_bytes(figure.png)  # first, since the layout may move by a pixel when a figure is drawn again
        figure.savefig(svg, metadata={"Date": None, **figure.metadata}, dpi=1.3 * figure.dpi)  # of what is rasterised
    except OSError as error:
        raise UsageError(
            f"figures are not saved, since {folder} cannot be written to ({error.strerror or error})"
        ) from None
    return [svg, png]


def show(number: str, profile: str | None = None) -> None:
    """Display a figure in a notebook, with how it is read, and save it, as `show("3.1")`.

    That its runs have no record is said in a line, and that it cannot be saved once.
    """
    from IPython.display import Markdown, display

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
    if reading := ALL[number].reading:
        display(Markdown(f"<small>*How to read it.* {reading}</small>"))


@cache
def _say_once(line: str) -> None:
    print(line)
