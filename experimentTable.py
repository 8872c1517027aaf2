"""Every run of the report as one table, and the profiles that give it its size. Needs no torch.

An experiment is a row of data, which gives only what differs from the defaults. What the report does not state
(initialization, the optimizers' options) is torch's default.
"""

import os
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from deepnet import grid, valid

# Some of these are imported from here by other modules.
from deepnet.valid import ANALYSES, EVAL_SPLIT, NAME, OWN, RunLockedError, UsageError, choose  # noqa: F401

PROJECT = "cnn-and-deep-network"  # the W&B project and the cache folder
OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")
# models that are trained in fp32 and in bf16
BOTH_PRECISIONS = ("CNN_10", "CNN_13", "CNN_res_16", "CNN_res_56", "resnet18")
CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100}
USUAL_CHAPTER = {"mnist": 3, "cifar10": 4, "cifar100": 5}  # gives a row without a chapter its image size
# model -> builder; filled by myModel, which needs torch and calls it MODELS
BUILDERS: dict[str, Callable[..., Any]] = {}
# The record's folder, the budget, and what is done with the weights; all other fields decide what is computed.
NOT_COMPUTED = ("name", "profile", "seed", "family", "keep_weights", "final_test")


# ---------------------------------------------------------------- the profiles


@dataclass(frozen=True)
class Profile:
    """The size that the table is run at. `budgets`: family -> (total steps, rows); without one, the report's epochs."""

    name: str
    data: str  # "sample": the embedded one; "complete": the full sets
    image_size: dict[int, int]  # chapter -> pixels
    budgets: dict[str, tuple[int, int]]
    seconds: dict[str, float]  # family -> estimated time of one run
    most_epochs: int | None = None  # in chapter 5
    tsne_images: int = 10_000
    timing_blocks: tuple[int, int] = (10, 20)  # (alternating blocks, steps in each)
    search_trials: int = 12
    timed_on: str = ""  # the machine that `seconds` hold for, if it is not an ordinary one
    unsupported: tuple[str, ...] = ()  # families that it does not run
    judged: bool = True  # whether claims are judged by its records
    row_unit: str = "epoch"  # what a row of a training run covers: "epoch", or "steps", a fixed number of them

    def describe(self) -> str:
        """One line for a reader: the data, the image sizes, and what a row is."""
        data = "the embedded sample" if self.data == "sample" else "the complete sets"
        length = "a row is an epoch" if self.row_unit == "epoch" else "a row is a set number of steps"
        sizes = f"{self.image_size[4]} pixels in chapter 4, {self.image_size[5]} in chapter 5"
        return f"profile {self.name}: {data}, {sizes}; {length}"


# What a run of each family gets in the sample (steps and rows: one row is `steps / rows` steps, which are also the unit
# of checkpoints and of the patience), and its estimated seconds: in sample measured, in cpu from the measured images
# per second, both on two Zen 1 cores (AVX2, fp32, and twice that for float64); in paper from the measured steps per
# second on one H200.
BUDGETS = {
    #                  steps  rows sample    cpu  paper
    "distribution":    (0,     0,    0.1,      5,     5),
    "tsne":            (0,     0,      5,    200,    70),
    "mlp":             (300,  15,      9,    300,    10),
    "mlp_res":         (150,  10,      5,    350,    15),
    "mlp_res_55":      (15,    3,      9,   3500,    30),
    "mlp_res_96":      (2,     1,     17,  24000,    80),
    "cnn":             (40,    4,     10,   1300,    40),
    "cnn_30":          (10,    2,     10,   4500,   240),
    "cnn_res_16":      (18,    3,     10,   2300,    55),
    "cnn_res_35":      (8,     2,     10,   4700,    80),
    "cnn_res_56":      (6,     2,     14,   7600,   120),
    "ablation":        (0,     0,      0,    300,    10),
    "ablation_cnn":    (0,     0,      0,   4100,   240),
    "ablation_fp64":   (0,     0,      0,   9000,   240),
    "ablation_bf16":   (0,     0,      0,   1000,     0),
    "atlas_eps":       (0,     0,      0,     80,    10),
    "atlas_cure":      (0,     0,      0,    400,    15),
    "atlas_cnn":       (0,     0,      0,    700,     0),
    "atlas_ten":       (10,    1,      0,     10,     5),
    "atlas_front":     (1000, 100,     0,    300,    60),
    "atlas_rate":      (0,     0,      0,    200,    10),
    "atlas_cell":      (0,     0,      0,    200,    15),
    "defect_timing":   (0,     0,      0,    240,    60),
    "defect_head":     (0,     0,      0,   1500,    40),
    "defect_baseline": (0,     0,      0,   1800,   900),
    "defect_sgd":      (0,     0,      0,   4500,    45),
    "timing":          (0,     0,      5,    600,    30),
    "resnet":          (36,    4,     21,  14000,    45),
    "baseline":        (0,     0,     33,    600,   330),
    "head":            (160,   8,      3,    300,    10),
    "fine_tune":       (30,    6,      8,   3000,    10),
    "early_stopping":  (30,   15,      8,   4500,    15),
    "optimizer":       (15,    3,      5,   4500,    15),
    "optimizer_slow":  (15,    3,      5,   4500,    30),
    "sweep":           (8,     2,      3,   4500,    30),
    "dropout":         (20,    4,      5,   4500,    90),
}  # fmt: skip

# The families whose budget is in steps, not epochs, with the complete sets too
_FIRST_STEPS = {family: BUDGETS[family][:2] for family in ("atlas_ten", "atlas_front")}

PROFILES: dict[str, Profile] = {
    "sample": Profile(
        "sample", "sample", {2: 32, 3: 28, 4: 32, 5: 32},
        budgets={family: (steps, rows) for family, (steps, rows, *_) in BUDGETS.items()},
        seconds={family: seconds for family, (*_, seconds, _, _) in BUDGETS.items()},
        tsne_images=800, timing_blocks=(3, 1), search_trials=4, judged=False, row_unit="steps",
        unsupported=tuple(f for f in BUDGETS if f.startswith(("ablation", "atlas", "defect"))),  # too few images
    ),
    "cpu": Profile(
        "cpu", "complete", {2: 32, 3: 28, 4: 32, 5: 64},
        budgets=_FIRST_STEPS, seconds={family: seconds for family, (*_, seconds, _) in BUDGETS.items()}, most_epochs=20,
    ),
    "paper": Profile(
        "paper", "complete", {2: 32, 3: 28, 4: 128, 5: 128}, budgets=_FIRST_STEPS,
        seconds={family: seconds for family, (*_, seconds) in BUDGETS.items()}, timed_on="one H200",
        unsupported=("ablation_bf16", "atlas_cnn"),  # questions about 32 pixels
    ),
}  # fmt: skip
# The profiles that claims are judged in, the largest sizes first: if one lacks a record, the next is used.
JUDGED = tuple(name for name in reversed(PROFILES) if PROFILES[name].judged)


# ---------------------------------------------------------------- a row

# field -> function that returns the value as plain Python, or raises UsageError
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "name": valid.folder_name,
    "kind": valid.one_of("training", *ANALYSES),
    "chapter": valid.one_of(0, *PROFILES["sample"].image_size),
    "family": valid.one_of("", *BUDGETS),
    "model": valid.word,
    "dataset": valid.one_of(*CLASSES, OWN),
    "lr": valid.number,
    "optimizer": valid.one_of(*OPTIMIZERS),
    "epochs": partial(valid.whole, least=1),
    "batch_size": partial(valid.whole, least=1),
    "start_from": valid.optional(valid.folder_name),
    "trainable": valid.optional(valid.names),
    "dropout": partial(valid.number, below=1),
    "patience": valid.optional(partial(valid.whole, least=1)),
    "min_delta": partial(valid.number, below=1),
    "record_gradients": valid.truth,
    "initialisation": valid.one_of("default", "he"),
    "eps": valid.optional(valid.number),
    "momentum": partial(valid.number, below=1),
    "defects": valid.some_of(*valid.DEFECTS),
    "precision": valid.one_of("auto", "fp32", "bf16", "fp64"),
    "profile": valid.one_of("", *PROFILES, OWN),
    "seed": partial(valid.whole, least=0, below=2**32),  # scikit-learn's limit
    "keep_weights": valid.truth,
    "final_test": valid.truth,
}
EXPERIMENTS: dict[str, "Experiment"] = {}  # the report's table by name, filled below
ATLAS: dict[str, "Experiment"] = {}  # the rows of the degradation atlas, a table of their own
TABLE: Mapping[str, "Experiment"] = ChainMap(ATLAS, EXPERIMENTS)  # both; the report's rows come first


@dataclass(frozen=True)
class Experiment:
    """One row of the table. `profile` decides its size, `seed` the initial weights and the order of the data.

    A row is checked when it is made: a value that no run can have, or that has no effect on this one, raises
    UsageError. NumPy's numbers and any collection of names are accepted, and stored as plain Python.

    >>> Experiment("mine", model="MLP_4", lr=1e-3)
    >>> replace(EXPERIMENTS["CNN_10"], name="CNN_10_sgd", optimizer="SGD", lr=0.05)
    """

    name: str
    kind: str = "training"  # or one of ANALYSES
    chapter: int = 0  # decides the image size; 0: the data set does
    family: str = ""  # its line in BUDGETS; "": none, it trains for its own epochs in every profile
    model: str = ""  # with `start_from`, the parent's
    dataset: str = "mnist"
    lr: float = 0.0
    optimizer: str = "Adam"
    epochs: int = 20
    batch_size: int = 128
    start_from: str | None = None  # the run whose weights it starts from, same profile and seed
    trainable: tuple[str, ...] | None = None  # children that train; None: all of them
    dropout: float = 0.0  # before the last layer
    patience: int | None = None  # the run ends after this many epochs without a gain above min_delta; None: never
    min_delta: float = 0.0
    record_gradients: bool = False
    initialisation: str = "default"  # or "he": normal, fan-in, biases 0
    eps: float | None = None  # None: the optimizer's default
    momentum: float = 0.0  # of SGD
    defects: tuple[str, ...] = ()  # the original program's defects that this run repeats: names in valid.DEFECTS
    precision: str = "auto"  # "fp32", "bf16", "fp64" or "auto": bf16 where the hardware has it
    profile: str = ""  # "": the one in the environment
    seed: int = 0
    # weights that a row of the table starts from are kept in any case
    keep_weights: bool = field(default=False, compare=False)
    final_test: bool = False  # whether CIFAR-100's test set is opened for it at the end; its weights are kept for that

    def __post_init__(self) -> None:
        for key, check in _CHECKS.items():
            object.__setattr__(self, key, check(key, getattr(self, key)))
        if self.lr == 0 and self.kind in ("training", "timing"):
            raise UsageError(f"lr must be above 0, got {self.lr!r}")
        if self.eps is not None and self.optimizer == "SGD":
            raise UsageError("SGD has no eps; leave it out or choose another optimizer")
        if self.momentum and self.optimizer != "SGD":
            raise UsageError(
                f"momentum={self.momentum!r} has no effect on {self.optimizer}; leave it out or choose SGD"
            )
        if self.min_delta and self.patience is None:
            remedy = "give patience too, or leave min_delta out"
            raise UsageError(f"min_delta={self.min_delta!r} has no effect without patience; {remedy}")
        if (self.dataset == OWN) != (self.profile == OWN):
            raise UsageError("the data set 'own' is for coreFunction.pipeline only; pass your model and data to it")
        if EXPERIMENTS and self.dataset != OWN:  # the table's own rows are resolved once all of them are there
            for key, value in valid.resolved_fields(self, EXPERIMENTS | ATLAS, BUILDERS).items():  # quicker than TABLE
                object.__setattr__(self, key, value)


# ---------------------------------------------------------------- the rows

_mlp = partial(Experiment, chapter=3, family="mlp", dataset="mnist", lr=1e-4, record_gradients=True, precision="fp32")
_mlp_res = partial(_mlp, family="mlp_res")
_cnn = partial(Experiment, chapter=4, family="cnn", dataset="cifar10", lr=5e-4, record_gradients=True)
_ablation = partial(Experiment, family="ablation", record_gradients=True, precision="fp32")
_mlp_ablation = partial(_ablation, chapter=3, dataset="mnist", lr=1e-4)
_cnn_ablation = partial(_ablation, chapter=4, family="ablation_cnn", dataset="cifar10", lr=5e-4)
_precision = partial(_cnn_ablation, family="ablation_bf16", epochs=5)
_resnet = partial(Experiment, chapter=5, model="resnet18", dataset="cifar100", lr=5e-4)
_tune = partial(_resnet, family="fine_tune", trainable=("layer4", "fc"))
# From early_stopping on, runs start again from train_resnet's weights and train layer3, layer4 and the last layer.
_stop = partial(
    _resnet, family="optimizer", start_from="train_resnet", trainable=("layer3", "layer4", "fc"),
    patience=5, min_delta=0.01,
)  # fmt: skip
_slow = partial(_stop, family="optimizer_slow", lr=1e-5, epochs=50)

ROWS = [
    # Chapter 2: the data
    Experiment("distribution", "distribution", 2, "distribution"),
    Experiment("tsne_mnist", "tsne", 2, "tsne", dataset="mnist"),
    Experiment("tsne_cifar10", "tsne", 2, "tsne", dataset="cifar10"),
    Experiment("tsne_cifar100", "tsne", 2, "tsne", dataset="cifar100"),
    # Chapter 3: MLPs on MNIST
    *(_mlp(name, model=name) for name in ("MLP_4", "MLP_13", "MLP_23", "MLP_33")),
    *(_mlp_res(name, model=name) for name in ("MLP_res_5", "MLP_res_15", "MLP_res_35")),
    _mlp_res("MLP_res_55", model="MLP_res_55", family="mlp_res_55"),
    _mlp_res("MLP_res_96", model="MLP_res_96", family="mlp_res_96"),
    Experiment("timing_3", "timing", 3, "timing", dataset="mnist", lr=1e-4, precision="fp32"),
    # Ablations of our own: Adam's eps at 1e-16, He initialization, float64
    *(_mlp_ablation(f"{m}_eps", model=m, eps=1e-16) for m in ("MLP_23", "MLP_33")),
    *(_mlp_ablation(f"{m}_he", model=m, initialisation="he") for m in ("MLP_4", "MLP_13", "MLP_23", "MLP_33")),
    _mlp_ablation("MLP_33_fp64", model="MLP_33", precision="fp64"),
    # Chapter 4: CNNs on CIFAR-10
    *(_cnn(name, model=name) for name in ("CNN_10", "CNN_13")),
    _cnn("CNN_30", model="CNN_30", family="cnn_30", precision="fp32"),
    *(_cnn(name, model=name, family=name.lower()) for name in ("CNN_res_16", "CNN_res_35", "CNN_res_56")),
    Experiment("timing_4", "timing", 4, "timing", dataset="cifar10", lr=5e-4, precision="fp32"),
    _cnn_ablation("CNN_30_eps", model="CNN_30", eps=1e-16),
    *(_cnn_ablation(f"{m}_he", model=m, initialisation="he") for m in ("CNN_10", "CNN_13", "CNN_30")),
    _cnn_ablation("CNN_30_fp64", model="CNN_30", family="ablation_fp64", precision="fp64"),
    *(  # does bf16 change results? Each pair has the same initial weights and the same order of the data
        _precision(f"{model}_{precision}", model=model, precision=precision)
        for model in BOTH_PRECISIONS for precision in ("fp32", "bf16")
    ),
    # Chapter 5: ResNet-18 from CIFAR-10 to CIFAR-100
    _resnet("train_resnet", family="resnet", dataset="cifar10"),
    _resnet("baseline", "baseline", family="baseline", start_from="train_resnet", final_test=True),
    *(
        _resnet(name, family="head", start_from="train_resnet", trainable=("fc",))
        for name in ("fine_tune_1", "fine_tune_1_lr")
    ),
    _tune("fine_tune_2", start_from="fine_tune_1"),
    _tune("fine_tune_2_lr", start_from="fine_tune_1_lr", lr=1e-5),
    _tune("fine_tune_3_lr", start_from="fine_tune_2_lr", lr=1e-5, trainable=("layer3", "layer4", "fc")),
    _stop("early_stopping", family="early_stopping", lr=5e-3),
    *(_stop(o.lower(), optimizer=o) for o in OPTIMIZERS),
    *(_slow(f"{o.lower()}_2", optimizer=o) for o in OPTIMIZERS),
    *(  # the points that the report's own Bayesian search drew (figure 5.6)
        _stop(f"sweep_{i}", family="sweep", batch_size=batch_size, lr=lr)
        for i, (batch_size, lr) in enumerate([
            (64, 0.0012879), (128, 0.0058932), (16, 0.0000037), (64, 0.0095642), (16, 0.0097322), (64, 0.0093064),
            (64, 0.0000057), (16, 0.0000037), (128, 0.0000263), (128, 0.0027407), (256, 0.0034013), (128, 0.0000024),
        ], start=1)
    ),
    _stop("dropout", family="dropout", dropout=0.5, lr=0.0093064, batch_size=64, epochs=100, final_test=True),
]  # fmt: skip
ATLAS |= {name: Experiment(name, **row) for name, row in grid.ROWS.items()}
EXPERIMENTS |= {row.name: row for row in ROWS}
ATLAS |= {name: replace(EXPERIMENTS[row], name=name, **fields) for name, (row, fields) in grid.DEFECT_ROWS.items()}
for row in TABLE.values():
    row.__post_init__()  # again, now that all rows are known


# ---------------------------------------------------------------- a row at its profile


def experiment(name: str, profile: str = "", seed: int = 0) -> Experiment:
    """The row `name` at `profile` and `seed`.

    Raises UsageError for an unknown name or profile, and for an invalid seed.

    >>> experiment("MLP_4", "cpu", seed=1)
    """
    return replace(valid.row_named(name, TABLE), profile=profile, seed=seed)


def current_profile(profile: str | None = None) -> str:
    """`profile`, else PROFILE from the environment, else "sample"; UsageError for an unknown one."""
    return choose("profile", profile or os.environ.get("PROFILE") or "sample", PROFILES)


def estimated_seconds(exp: Experiment) -> float:
    """Estimated seconds of the run, by its family: on two cores, in `paper` on one H200; 0 without an estimate."""
    return PROFILES[exp.profile].seconds.get(exp.family, 0.0)


def is_supported(exp: Experiment) -> bool:
    """Whether the experiment's profile runs it."""
    return exp.family not in PROFILES[exp.profile].unsupported


def supporting_profiles(*exps: Experiment) -> str:
    """The profiles that run all of these, as "cpu or paper"."""
    return " or ".join(
        name for name, profile in PROFILES.items() if not {exp.family for exp in exps} & {*profile.unsupported}
    )


def keeps_weights(exp: Experiment) -> bool:
    """Whether the final weights are kept: on request, for the final test, and if another row starts from them."""
    return exp.keep_weights or exp.final_test or any(row.start_from == exp.name for row in EXPERIMENTS.values())


def image_chapter(exp: Experiment) -> int:
    """The chapter whose image size the experiment has: its own, else that of its data set."""
    return exp.chapter or USUAL_CHAPTER[exp.dataset]


def identity(exp: Experiment) -> dict:
    """The experiment's fields, except those in NOT_COMPUTED, with the budget and image size of its profile.

    Raises UsageError if the profile's budget would override the requested epochs.
    """
    profile = PROFILES[choose("profile", exp.profile, PROFILES)]
    fields = {key: value for key, value in asdict(exp).items() if key not in NOT_COMPUTED}
    fields["image_size"] = profile.image_size[image_chapter(exp)]
    fields["steps_per_epoch"] = None
    steps, rows = profile.budgets.get(exp.family, (0, 0))
    if steps:
        fields |= {"epochs": rows, "steps_per_epoch": steps // rows}
    elif exp.chapter == 5 and profile.most_epochs:
        fields["epochs"] = min(exp.epochs, profile.most_epochs)
    usual = {row.epochs for row in EXPERIMENTS.values() if row.family == exp.family}
    if fields["epochs"] != exp.epochs and usual and exp.epochs not in usual:  # a budget replaces the usual epochs only
        raise UsageError(
            f"epochs={exp.epochs} of {exp.name} has no effect in the profile {profile.name}, where its family has "
            f"{fields['epochs']} rows; leave it at {min(usual)}, or give family=''"
        )
    if exp.kind == "tsne":
        fields["images"] = profile.tsne_images
    if exp.kind == "timing":
        whole = "whole_epochs" in exp.defects
        fields["blocks"], fields["steps"] = (3, None) if whole else profile.timing_blocks
    return fields
