"""Rows that are not in the report's table: the degradation atlas (docs/atlas.md), a grid of small variations around the
plain MLPs, and runs that repeat defects of the original program.

Imports nothing from the project, and no torch. `experimentTable.ATLAS` holds the rows, `myModel.MODELS` the models.
"""

from itertools import product
from typing import Any

# A model is (depth, whether it has shortcuts, whether it has batch normalization before each ReLU). The depth is the
# number of weight layers of the plain MLP: 1024, 256, then depth - 3 layers of 64, and the ten classes.
Model = tuple[int, bool, bool]

# depth -> number of modules with shortcuts, including one or two projections, as in the model's name
WITH_SHORTCUTS = {4: 5, 13: 15, 23: 25, 33: 35}
EPS_DEPTHS = (13, 18, 23, 28, 33, 43, 53)  # 10, 15, 20, 25, 30, 40 and 50 layers of 64
EPS = (1e-6, 1e-8, 1e-10, 1e-12, 1e-14, 1e-16)
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
PLATEAU_SEEDS = tuple(range(2, 12))  # of CNN_30; the question was asked after seeds 0 and 1 had been seen


def model_name(depth: int, shortcuts: bool = False, batch_norm: bool = False) -> str:
    """The model's name in `MODELS`, with its number of modules.

    >>> model_name(33), model_name(33, True, True)
    ('MLP_33', 'MLP_res_bn_35')
    """
    modules = WITH_SHORTCUTS[depth] if shortcuts else depth
    return "_".join(["MLP", *["res"] * shortcuts, *["bn"] * batch_norm, str(modules)])


def mlp_widths(depth: int) -> list[int]:
    """The widths of a plain MLP of the report's form, from the input to the output.

    >>> mlp_widths(4)
    [784, 1024, 256, 64, 10]
    """
    return [784, 1024, 256, *[64] * (depth - 3), 10]


MODELS: dict[str, Model] = {
    model_name(*model): model
    for model in (
        *((depth, False, False) for depth in EPS_DEPTHS),
        *product(WITH_SHORTCUTS, (False, True), (False, True)),
    )
}


def eps_row(depth: int, eps: float) -> str:
    """The row that asks whether `depth` layers learn with this eps.

    >>> eps_row(33, 1e-8)
    'atlas_eps_33_1e-08'
    """
    return f"atlas_eps_{depth}_{eps:.0e}"


def ten_row(depth: int, eps: float) -> str:
    """The row that records the first ten steps of `eps_row`, layer by layer.

    >>> ten_row(33, 1e-8)
    'atlas_ten_33_1e-08'
    """
    return eps_row(depth, eps).replace("eps", "ten")


def cell_row(model: Model, he: bool, lr: float) -> str:
    """The row of a cell of the factorial design; for plain models with default initialization, the row of the rates.

    >>> cell_row((33, False, False), False, 1e-3), cell_row((33, True, False), True, 1e-3)
    ('atlas_rate_33_1e-03', 'atlas_cell_res_35_he_1e-03')
    """
    if model[1:] == (False, False) and not he:
        return f"atlas_rate_{model[0]}_{lr:.0e}"
    return f"atlas_cell_{model_name(*model).removeprefix('MLP_')}{'_he' * he}_{lr:.0e}"


CURES = {  # what is changed in MLP_33 -> the row; three of these are in the report's table
    "eps 1e-16": "MLP_33_eps",
    "He": "MLP_33_he",
    "batch norm": "atlas_cure_bn",
    "shortcuts": "MLP_res_35",
    "rate 1e-3": "atlas_cure_rate",
}
CNN_ROW = "atlas_cnn_30_eps"
FRONT_ROWS = {  # row -> (depth, eps) of the runs whose first 1,000 steps are measured every ten steps
    "atlas_front_23": (23, 1e-8),
    "atlas_front_33": (33, 1e-8),
    "atlas_front_33_eps": (33, 1e-16),
}
RATE_ROWS = {(depth, lr): f"atlas_rate_{depth}_{lr:.0e}" for depth in WITH_SHORTCUTS for lr in RATES}
CELLS = {  # (model, He's initialization, learning rate) -> row
    ((depth, shortcuts, norm), he, lr): cell_row((depth, shortcuts, norm), he, lr)
    for depth in (4, 33, 13, 23)
    for he, norm, shortcuts, lr in product((False, True), (False, True), (False, True), (1e-4, 1e-3))
}
_CLASSIFIERS = {"family": "defect_baseline", "final_test": False}
DEFECT_ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # row -> (the report's row that it varies, the changed fields)
    "defect_statistics": ("fine_tune_1", {"family": "defect_head", "defects": ("moving_statistics",)}),
    "defect_unscaled": ("baseline", _CLASSIFIERS | {"defects": ("unscaled",)}),
    "defect_untuned": ("baseline", _CLASSIFIERS | {"defects": ("untuned",)}),
    "defect_baseline": ("baseline", _CLASSIFIERS | {"defects": ("unscaled", "untuned")}),
    "defect_timing": ("timing_3", {"family": "defect_timing", "defects": ("whole_epochs",)}),
    **{  # SGD as the original might have been run, with momentum and at several rates
        f"defect_sgd_{lr:.0e}": ("sgd", {"family": "defect_sgd", "momentum": 0.9, "lr": lr})
        for lr in (5e-4, 5e-3, 5e-2)
    },
}
OWN_CELLS = {cell: row for cell, row in CELLS.items() if row not in RATE_ROWS.values()}  # those not in RATE_ROWS
# family -> its rows, in the order of training: the most informative family first
FAMILIES: dict[str, tuple[str, ...]] = {
    "atlas_eps": tuple(eps_row(*cell) for cell in product(EPS_DEPTHS, EPS)),
    "atlas_cure": tuple(CURES.values()),
    "atlas_cnn": (CNN_ROW,),
    "atlas_ten": tuple(ten_row(*cell) for cell in product(EPS_DEPTHS, EPS)),
    "atlas_front": tuple(FRONT_ROWS),
    "atlas_rate": tuple(RATE_ROWS.values()),
    "atlas_cell": tuple(row for (model, *_), row in CELLS.items() if model[0] in (4, 33)),
    "atlas_cell_between": tuple(row for (model, *_), row in CELLS.items() if model[0] in (13, 23)),
    "defect": tuple(DEFECT_ROWS),
}
SEEDS = dict.fromkeys(FAMILIES, tuple(range(5))) | {
    "atlas_cnn": PLATEAU_SEEDS, "atlas_front": (0,), "defect": (0, 1, 2),
}  # fmt: skip

_MLP = {"chapter": 3, "dataset": "mnist", "lr": 1e-4, "precision": "fp32"}
ROWS: dict[str, dict[str, Any]] = {  # name -> the fields of its Experiment
    **{
        eps_row(depth, eps): _MLP | {"family": "atlas_eps", "model": model_name(depth), "eps": eps, "epochs": 4}
        for depth, eps in product(EPS_DEPTHS, EPS)
    },
    "atlas_cure_bn": _MLP | {"family": "atlas_cure", "model": "MLP_bn_33"},
    "atlas_cure_rate": _MLP | {"family": "atlas_cure", "model": "MLP_33", "lr": 1e-3},
    CNN_ROW: {
        "chapter": 4, "family": "atlas_cnn", "model": "CNN_30", "dataset": "cifar10", "lr": 5e-4, "eps": 1e-16,
        "epochs": 3, "precision": "fp32",
    },
    **{
        ten_row(depth, eps): _MLP | {
            "family": "atlas_ten", "model": model_name(depth), "eps": eps, "epochs": 1, "record_gradients": True,
        }
        for depth, eps in product(EPS_DEPTHS, EPS)
    },
    **{
        row: _MLP | {
            "family": "atlas_front", "model": model_name(depth), "eps": eps, "epochs": 100, "record_gradients": True,
        }
        for row, (depth, eps) in FRONT_ROWS.items()
    },
    **{
        row: _MLP | {"family": "atlas_rate", "model": model_name(depth), "lr": lr, "epochs": 10}
        for (depth, lr), row in RATE_ROWS.items()
    },
    **{
        row: _MLP | {
            "family": "atlas_cell", "model": model_name(*model), "lr": lr, "epochs": 10,
            "initialisation": "he" if he else "default",
        }
        for (model, he, lr), row in OWN_CELLS.items()
    },
}  # fmt: skip
