"""Every run of the report as one table, and the profiles that give it its size. Needs no torch.

An experiment is a row of data; a row says only what is special about it. What the report does not
state (default initialisation, the optimizers' defaults) is torch's default.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial

PROJECT = "cnn-and-deep-network"  # the W&B project and the cache folder
OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")
KINDS = ("training", "baseline", "distribution", "tsne", "timing")
BOTH_PRECISIONS = ("CNN_10", "CNN_13", "CNN_res_16", "CNN_res_56", "resnet18")  # models with a run in fp32 and one in bf16
NAME = r"\w[\w.-]*"  # of a run, and of its folder
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}  # by Windows, whatever follows a dot
CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100}


class UsageError(ValueError):
    """Something the user can put right; the message is one line that says what was wrong and what to do."""


class Held(UsageError):
    """Another process is at this run; once it has ended, so has the obstacle."""


def choose(kind: str, value: object, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`; raise UsageError, naming all of them, if not."""
    choices = list(choices)
    if value not in choices:
        listed = " or ".join(filter(None, [", ".join(choices[:-1]), *choices[-1:]])) or "nothing, there is none"
        raise UsageError(f"unknown {kind} {value!r}; choose {listed}")
    return str(value)


@dataclass(frozen=True)
class Experiment:
    """One row of the table: what is run. `profile` says at which size, `seed` with which weights and order."""

    name: str
    kind: str = "training"  # or "baseline", "distribution", "tsne", "timing"
    chapter: int = 0
    family: str = ""  # which line of BUDGETS it is paid from
    model: str = ""
    dataset: str = "mnist"
    lr: float = 0.0
    optimizer: str = "Adam"
    epochs: int = 20
    batch_size: int = 128
    start_from: str | None = None  # the run whose weights it starts from, same profile and seed
    trainable: tuple[str, ...] | None = None  # children that train; None: all of them
    dropout: float = 0.0  # before the last layer
    patience: int | None = None  # epochs without a gain above min_delta that end the run; None: never
    min_delta: float = 0.0
    record_gradients: bool = False
    initialisation: str = "default"  # or "he": normal, fan-in, biases 0
    eps: float | None = None  # None: the optimizer's default
    precision: str = "auto"  # "fp32", "bf16", "fp64" or "auto": bf16 where the hardware has it
    profile: str = ""  # "": the current one, of the environment
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values no run can have. Raises UsageError with the remedy."""
        if not re.fullmatch(NAME, self.name) or self.name.endswith(".") or self.name.partition(".")[0].upper() in RESERVED:
            raise UsageError(f"name {self.name!r} cannot name a folder on every system; use letters, digits, '_', '-' and '.'")
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("precision", self.precision, ("auto", "fp32", "bf16", "fp64"))
        choose("initialisation", self.initialisation, ("default", "he"))
        for field, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            value = getattr(self, field)
            if (type(value) is not int or value < least) and (field, value) != ("patience", None):
                raise UsageError(f"{field} must be a whole number of at least {least}, got {value!r}")
        for field in ("lr", "eps", "min_delta", "dropout"):
            value = getattr(self, field)
            good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
            if not good and (field, value) != ("eps", None):
                raise UsageError(f"{field} must be a number of at least 0, got {value!r}")
        if not isinstance(self.record_gradients, bool):
            raise UsageError(f"record_gradients must be True or False, got {self.record_gradients!r}")
        if self.kind == "training" and self.lr == 0:
            raise UsageError(f"lr must be above 0, got {self.lr!r}")
        if self.dropout >= 1:
            raise UsageError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        if self.eps is not None and self.optimizer == "SGD":
            raise UsageError("SGD has no eps; leave it out or choose another optimizer")


# ---------------------------------------------------------------- the rows

_mlp = partial(Experiment, chapter=3, family="mlp", dataset="mnist", lr=1e-4, record_gradients=True, precision="fp32")
_mlp_res = partial(_mlp, family="mlp_res")
_cnn = partial(Experiment, chapter=4, family="cnn", dataset="cifar10", lr=5e-4, record_gradients=True)
_control = partial(Experiment, family="control", record_gradients=True, precision="fp32")
_mlp_control = partial(_control, chapter=3, dataset="mnist", lr=1e-4)
_cnn_control = partial(_control, chapter=4, family="control_cnn", dataset="cifar10", lr=5e-4)
_precision = partial(_cnn_control, family="control_bf16", epochs=5)
_resnet = partial(Experiment, chapter=5, model="resnet18", dataset="cifar100", lr=5e-4)
_tune = partial(_resnet, family="fine_tune", trainable=("layer4", "fc"))
# From early_stopping on: afresh from train_resnet's weights, layer3, layer4 and the last layer train.
_stop = partial(
    _resnet, family="optimizer", start_from="train_resnet", trainable=("layer3", "layer4", "fc"), patience=5, min_delta=0.01
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
    # Controls of our own: Adam's eps at 1e-16, He initialisation, float64
    *(_mlp_control(f"{m}_eps", model=m, eps=1e-16) for m in ("MLP_23", "MLP_33")),
    *(_mlp_control(f"{m}_he", model=m, initialisation="he") for m in ("MLP_4", "MLP_13", "MLP_23", "MLP_33")),
    _mlp_control("MLP_33_fp64", model="MLP_33", precision="fp64"),
    # Chapter 4: CNNs on CIFAR-10
    *(_cnn(name, model=name) for name in ("CNN_10", "CNN_13")),
    _cnn("CNN_30", model="CNN_30", family="cnn_30", precision="fp32"),
    *(_cnn(name, model=name, family=name.lower()) for name in ("CNN_res_16", "CNN_res_35", "CNN_res_56")),
    Experiment("timing_4", "timing", 4, "timing", dataset="cifar10", lr=5e-4, precision="fp32"),
    _cnn_control("CNN_30_eps", model="CNN_30", eps=1e-16),
    *(_cnn_control(f"{m}_he", model=m, initialisation="he") for m in ("CNN_10", "CNN_13", "CNN_30")),
    _cnn_control("CNN_30_fp64", model="CNN_30", family="control_fp64", precision="fp64"),
    *(  # does bf16 change what comes out? Each pair from the same weights, in the same order
        _precision(f"{model}_{precision}", model=model, precision=precision)
        for model in BOTH_PRECISIONS for precision in ("fp32", "bf16")
    ),
    # Chapter 5: ResNet-18 from CIFAR-10 to CIFAR-100
    _resnet("train_resnet", family="resnet", dataset="cifar10"),
    _resnet("baseline", "baseline", family="baseline", start_from="train_resnet"),
    *(_resnet(n, family="head", start_from="train_resnet", trainable=("fc",)) for n in ("fine_tune_1", "fine_tune_1_lr")),
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
    _stop("dropout", family="dropout", dropout=0.5, lr=0.0093064, batch_size=64, epochs=100),
]  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {row.name: row for row in ROWS}


# ---------------------------------------------------------------- the profiles


@dataclass(frozen=True)
class Profile:
    """At which size the table is run. `budgets`: family -> (steps in all, rows); empty: the report's epochs."""

    name: str
    data: str  # "sample": the embedded one; "complete": the full sets
    image_size: dict[int, int]  # chapter -> pixels
    budgets: dict[str, tuple[int, int]]
    seconds: dict[str, float]  # family -> estimated price of one run
    most_epochs: int | None = None  # in chapter 5
    tsne_images: int = 10_000
    timing_blocks: tuple[int, int] = (10, 20)  # (alternating blocks, steps in each)
    search_trials: int = 12
    priced_on: str = ""  # the machine that `seconds` are of, where it is not one as anybody has

    def describe(self) -> str:
        """One line for a reader: which data, how large, for how long."""
        data = "the embedded sample" if self.data == "sample" else "the complete sets"
        length = "a row is a set number of steps" if self.budgets else "a row is an epoch"
        return f"profile {self.name}: {data}, {self.image_size[4]} pixels in chapter 4, {self.image_size[5]} in chapter 5; {length}"


# What a run of each family gets in the sample (steps, rows: a row, a checkpoint and the patience count
# `steps / rows` steps), and its price in seconds: sample, measured, and cpu, from the measured images a second, both on two Zen 1 cores
# (AVX2, fp32, and twice that for float64); paper, from the measured steps a second, on one H200.
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
    "control":         (0,     0,      0,    300,    10),
    "control_cnn":     (0,     0,      0,   4100,   240),
    "control_fp64":    (0,     0,      0,   9000,   240),
    "control_bf16":    (0,     0,      0,   1000,     0),
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

PROFILES: dict[str, Profile] = {
    "sample": Profile(
        "sample", "sample", {2: 32, 3: 28, 4: 32, 5: 32},
        budgets={family: (steps, rows) for family, (steps, rows, *_) in BUDGETS.items()},
        seconds={family: price for family, (*_, price, _, _) in BUDGETS.items()},
        tsne_images=800, timing_blocks=(3, 1), search_trials=4,
    ),
    "cpu": Profile(
        "cpu", "complete", {2: 32, 3: 28, 4: 32, 5: 64},
        budgets={}, seconds={family: price for family, (*_, price, _) in BUDGETS.items()}, most_epochs=20,
    ),
    "paper": Profile(
        "paper", "complete", {2: 32, 3: 28, 4: 128, 5: 128}, budgets={},
        seconds={family: price for family, (*_, price) in BUDGETS.items()}, priced_on="one H200",
    ),
}  # fmt: skip


def experiment(name: str, profile: str = "", seed: int = 0) -> Experiment:
    """The row `name` at `profile` and `seed`. Raises UsageError for an unknown name or profile."""
    if name not in EXPERIMENTS:
        raise UsageError(f"unknown experiment {name!r}; `python run.py list` shows them all")
    if profile:
        choose("profile", profile, PROFILES)
    return replace(EXPERIMENTS[name], profile=profile, seed=seed)


def current_profile(profile: str | None = None) -> str:
    """`profile`, else PROFILE from the environment, else "sample"; UsageError for an unknown one."""
    return choose("profile", profile or os.environ.get("PROFILE") or "sample", PROFILES)


def price(exp: Experiment) -> float:
    """Seconds that the run takes, an estimate for its family: on two cores, in `paper` on one H200; 0 where there is none."""
    return PROFILES[exp.profile].seconds.get(exp.family, 0.0)


# The families that a profile does not run: the sample has no budget for controls, and what bf16 does is asked at 32 pixels.
NO_BUDGET = {"sample": ("control", "control_cnn", "control_fp64", "control_bf16"), "paper": ("control_bf16",)}


def has_budget(exp: Experiment) -> bool:
    """Whether the experiment's profile runs it."""
    return exp.family not in NO_BUDGET.get(exp.profile, ())


def with_budget(*exps: Experiment) -> str:
    """The profiles that run all of these, as "cpu or paper"."""
    return " or ".join(profile for profile in PROFILES if all(has_budget(replace(exp, profile=profile)) for exp in exps))


def identity(exp: Experiment) -> dict:
    """What the experiment is at its profile's size: its fields, with budget and image size filled in.

    Name, profile and seed are the record's place, family only says who pays; neither is part of it.
    """
    profile = PROFILES[choose("profile", exp.profile, PROFILES)]
    choose("kind", exp.kind, KINDS)
    choose("data set", exp.dataset, CLASSES)
    choose("chapter", str(exp.chapter), map(str, profile.image_size))
    fields = {k: v for k, v in asdict(exp).items() if k not in ("name", "profile", "seed", "family")}
    fields["image_size"] = profile.image_size[exp.chapter]
    fields["steps_per_epoch"] = None
    steps, rows = profile.budgets.get(exp.family, (0, 0))
    if steps:
        fields |= {"epochs": rows, "steps_per_epoch": steps // rows}
    elif exp.chapter == 5 and profile.most_epochs:
        fields["epochs"] = min(exp.epochs, profile.most_epochs)
    if exp.kind == "tsne":
        fields["images"] = profile.tsne_images
    if exp.kind == "timing":
        fields["blocks"], fields["steps"] = profile.timing_blocks
    return fields
