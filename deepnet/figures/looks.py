"""How runs look and what they are called: the same in every figure."""

import zlib
from collections.abc import Iterable

from experimentTable import EXPERIMENTS, Experiment

WIDTH = 7.0  # inches: a column of text
TEXT, SMALL = 9.0, 8.0  # points
INK, GREY, FAINT, GRID = "#222222", "#6b6b6b", "#cccccc", "#e6e6e6"
DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
SECOND = (0, (2.5, 1.5))  # the second metric of a panel (training beside validation)
MARKERS = "os^DvPX*p"  # which tell curves apart without colour: one for each of PALETTE

# Okabe and Ito's colours without yellow, which is faint on white, and two of Tol's (both colour-blind-safe).
BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, BLACK, WINE, OLIVE = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#882255", "#999933",
)  # fmt: skip
COLOURS: dict[str, str] = {
    "MLP_4": BLUE, "MLP_13": ORANGE, "MLP_23": GREEN, "MLP_33": VERMILLION,
    "MLP_res_5": SKY, "MLP_res_15": PURPLE, "MLP_res_35": BLACK, "MLP_res_55": OLIVE, "MLP_res_96": WINE,
    "CNN_10": BLUE, "CNN_13": ORANGE, "CNN_30": VERMILLION,
    "CNN_res_16": PURPLE, "CNN_res_35": BLACK, "CNN_res_56": WINE,
    "train_resnet": BLACK, "resnet18": BLACK, "fine_tune_1": BLUE, "fine_tune_2": VERMILLION,
    "fine_tune_3_lr": GREEN, "early_stopping": ORANGE,
    "adam": BLUE, "adamw": GREEN, "rmsprop": PURPLE, "sgd": VERMILLION, "dropout": WINE,
    "sweep_4": BLUE, "sweep_6": VERMILLION, "sweep_10": GREEN,
}  # fmt: skip
VARIANTS = ("_eps", "_he", "_2", "_lr", "_fp32", "_bf16", "_fp64")  # have the colour of the run that they vary


def looks(names: Iterable[str]) -> dict[str, tuple[str, object]]:
    """Colour and dash of each run, distinct among these.

    A run of the table has one colour everywhere, and its VARIANTS have the same one. Those with another eps or
    precision are dashed. Any other name draws its colour from its letters, and moves on to a free one where it is
    taken.
    """
    chosen: dict[str, tuple[str, object]] = {}
    for name in sorted(names, key=lambda name: _table_colour(name) is None):  # fixed colours first
        dashes = DASHES[1:] if name.endswith(("_eps", "_bf16", "_fp64")) else DASHES
        start = zlib.crc32(name.encode()) % len(PALETTE)
        fixed = _table_colour(name)
        colours = [fixed] if fixed else [*PALETTE[start:], *PALETTE[:start]]
        wanted = [(colour, dash) for dash in dashes for colour in colours]
        chosen[name] = next((look for look in wanted if look not in chosen.values()), wanted[0])
    return chosen


def marker_of(colour: str) -> str:
    """The marker that goes with one of PALETTE's colours, so that a run has the same one in every figure."""
    return MARKERS[PALETTE.index(colour)]


def _table_colour(name: str) -> str | None:
    base = next((name.removesuffix(end) for end in VARIANTS if name.endswith(end)), name)
    return COLOURS.get(name) or COLOURS.get(base)


def _trainable(exp: Experiment) -> str:
    return " + ".join(exp.trainable).replace("fc", "head") if exp.trainable else "all layers"


FACTS = {  # field of an experiment -> how a legend says it
    "model": lambda exp: exp.model,
    "trainable": _trainable,
    "optimizer": lambda exp: exp.optimizer,
    "lr": lambda exp: f"lr {short(exp.lr)}",
    "batch_size": lambda exp: f"batch {exp.batch_size}",
    "initialisation": lambda exp: f"{exp.initialisation.replace('he', 'He')} init.",
    "eps": lambda exp: f"eps {short(exp.eps or 1e-8)}",
    "precision": lambda exp: exp.precision,
    "dropout": lambda exp: f"dropout {exp.dropout:g}" if exp.dropout else "no dropout",
}


def short(number: float) -> str:
    """0.0095642 -> "9.6e-3"."""
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def labels(names: Iterable[str]) -> dict[str, str]:
    """What each run of the table is, in the settings in which these runs differ; any other run keeps its name.

    >>> labels(["fine_tune_1", "fine_tune_2"])
    {'fine_tune_1': 'head', 'fine_tune_2': 'layer4 + head'}
    """
    names = list(names)
    table = [EXPERIMENTS[name] for name in names if name in EXPERIMENTS]
    differing = [key for key in FACTS if len({getattr(exp, key) for exp in table}) > 1]
    differing = differing or (["trainable", "lr"] if any(exp.trainable for exp in table) else ["model"])
    return {
        name: ", ".join(FACTS[key](EXPERIMENTS[name]) for key in differing) if name in EXPERIMENTS else name
        for name in names
    }
