"""A row of the table is valid once it is made: each of its fields has an effect on what is run, or is refused in one
line.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from faults import Narrow
from helpers import python, refused
from torch import nn

import coreFunction
from coreFunction import run, run_all
from deepnet.analyses import kinds
from deepnet.records.reading import Record
from deepnet.training.optimizers import make_optimizer
from deepnet.training.precision import resolve_precision
from deepnet.valid import CHILDREN, EVAL_SPLIT
from experimentTable import (
    CLASSES,
    EXPERIMENTS,
    PROFILES,
    Experiment,
    UsageError,
    experiment,
    identity,
    image_chapter,
    is_supported,
    keeps_weights,
)
from myModel import MODELS

# ---------------------------------------------------------------- every field against every kind of row

KINDS_OF_ROW = {
    "MLP": "MLP_4", "CNN": "CNN_10", "ResNet-18": "train_resnet", "start from a parent": "early_stopping",
    "dropout": "dropout",
    "baseline": "baseline", "distribution": "distribution", "t-SNE": "tsne_mnist", "timing": "timing_3",
}  # fmt: skip
VALUES: dict[str, tuple] = {  # field -> what it is changed to, sound or not
    "kind": ("training", "baseline", "distribution", "tsne", "timing", "trainning"),
    "chapter": (0, 2, 3, 4, 5, 1, "3", True),
    "family": ("", "mlp", "cnn", "optimizer", "sweep", "ablation", "mpl"),
    "model": ("", "MLP_4", "MLP_13", "CNN_13", "resnet18", "no such model", None),
    "dataset": ("mnist", "cifar10", "cifar100", "own", "minst"),
    "lr": (0, 0.02, -1.0, float("nan"), "fast", None, True),
    "optimizer": ("Adam", "AdamW", "RMSprop", "SGD", "adam", None),
    "epochs": (7, 20, 50, 0, 2.5, True),
    "batch_size": (1, 7, 128, 0, "all"),
    "start_from": (None, "MLP_4", "CNN_10", "train_resnet", "fine_tune_1", "baseline", "variant", "fine_tune", 3),
    "trainable": (
        None,
        (),
        ("fc",),
        ("last",),
        ("head",),
        ("blocks", "last"),
        {"layer4", "fc"},
        ("layer4",),
        ("relu",),
        "fc",
        3,
        (3,),
    ),
    "dropout": (0.0, 0.3, 1.0, -0.1, None),
    "patience": (None, 1, 3, 0, 1.5),
    "min_delta": (0.0, 0.02, 1.0, -0.1, None),
    "record_gradients": (True, False, 1, None),
    "initialisation": ("default", "he", "xavier"),
    "eps": (None, 1e-3, -1.0),
    "momentum": (0.0, 0.9, 1.0, -0.1, None),
    "defects": ((), ("moving_statistics",), {"unscaled"}, ["untuned", "unscaled"], "unscaled", ("slow",), 3),
    "precision": ("auto", "fp32", "bf16", "fp64", "fp16"),
    "profile": ("smaple", "own", 3),
    "seed": (0, 1, -1, 2**32, True),
    "keep_weights": (True, False, None),
    "final_test": (True, False, "yes"),
}


class Seen(BaseException):
    """Ends a run where it is known what would be run, and holds that."""


def digest(*values: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(value.detach().numpy().tobytes() for value in values)).hexdigest()


def described(model: nn.Module) -> tuple:
    return str(model), digest(*model.state_dict().values()), tuple(p.requires_grad for p in model.parameters())


# The fields that the loop and the optimizer read; all others must have an effect on the model, the data or the options.
READ = {
    name for code in (coreFunction.fit, make_optimizer) for name in re.findall(r"\bexp\.(\w+)", inspect.getsource(code))
}


@pytest.fixture
def what_is_run(monkeypatch, tiny, tmp_path) -> Iterator[Any]:
    """`what_is_run(exp)`: all that the engine makes of a row, just before the first step; UsageError where it
    refuses.
    """
    log: list = []

    def fit(model, train, held, exp, recipe, folder, checkpoint, *, line, stop, observe, **options):
        data = [(digest(source.batch(torch.arange(4))[0]), source.classes) for source in (train, held)]
        options["precision"] = recipe.precision
        raise Seen((described(model), data, options, {name: getattr(exp, name) for name in READ - {"name"}}))

    def extract_features(model, data, precision, **_):
        raise Seen((described(model), digest(data.batch(torch.arange(4))[0]), precision))

    def train_epoch(model, batches, optimizer, **_):
        log.append((str(model), str(optimizer), [digest(images) for images, _ in batches]))
        return {"train_seconds": 1.0}

    def weights_of(parent):
        weights = coreFunction.build(replace(parent, start_from=None)).state_dict()
        return {key: value + len(parent.name) for key, value in weights.items()}  # each parent's are its own

    load = kinds.load_images
    monkeypatch.setitem(MODELS, "resnet18", lambda **_: Narrow())
    monkeypatch.setattr(coreFunction, "fit", fit)
    monkeypatch.setattr(coreFunction, "_parent_weights", weights_of)
    monkeypatch.setattr(kinds, "extract_features", extract_features)
    monkeypatch.setattr(kinds, "train_epoch", train_epoch)
    monkeypatch.setattr(kinds, "load_images", lambda *arguments: (log.append(arguments), load(*arguments))[1])

    def what_is_run(exp: Experiment) -> Any:
        log.clear()
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        monkeypatch.setenv("RUNS_DIR", str(folder))
        profiles = [
            (p.image_size[image_chapter(exp)], p.seconds.get(exp.family), exp.family in p.unsupported)
            for p in PROFILES.values()
        ]
        paid = exp.seed, exp.final_test, exp.defects, profiles  # the test comes at the end, and the classifiers too
        if not is_supported(exp):
            return paid
        try:
            run(exp, evidence=False, wandb=False)
        except Seen as seen:
            return paid, str(seen.args[0])
        except UsageError:
            assert not list(folder.rglob("*.json")), "a refusal has written something"
            raise
        return paid, str(log)

    return what_is_run


@pytest.mark.parametrize("kind", KINDS_OF_ROW)
def test_every_field_has_an_effect_or_is_refused(what_is_run, kind):
    row = replace(EXPERIMENTS[KINDS_OF_ROW[kind]], name="variant", profile="sample")
    runs, took, refusals = what_is_run(row), {}, 0
    assert VALUES.keys() == {field.name for field in fields(Experiment)} - {"name"}
    for field, values in VALUES.items():
        for value in values:
            try:
                other = replace(row, **{field: value})
                changed = what_is_run(other)
            except UsageError as error:
                assert "\n" not in str(error)
                refusals += 1
                continue
            means: Any = {
                "chapter": image_chapter,
                "keep_weights": keeps_weights,
                "precision": lambda exp: resolve_precision(exp.precision),
            }
            if (meant := means.get(field, lambda exp, field=field: getattr(exp, field)))(other) == meant(row):
                continue  # what it was already
            took.setdefault(field, []).append(value)
            assert changed != runs, f"{field}={value!r} changes nothing of a {kind}"
    assert refusals > 40
    at_least = {
        "MLP": "lr optimizer epochs batch_size trainable dropout record_gradients initialisation eps model",
        "start from a parent": "lr optimizer batch_size start_from trainable dropout patience final_test",
        "timing": "lr optimizer batch_size eps",
        "t-SNE": "dataset",
        "distribution": "",
        "baseline": "start_from",
    }
    some = set(at_least.get(kind, "lr").split()) - ({"epochs"} if row.family else set())
    assert {"family", "seed"} | some <= took.keys()


# ---------------------------------------------------------------- values are taken where they are meant


TAKEN = [
    ({"seed": np.int64(2), "batch_size": np.uint8(64)}, {"seed": 2, "batch_size": 64}),
    ({"lr": np.float32(0.5)}, {"lr": 0.5}),
    ({"lr": 1}, {"lr": 1.0}),
    ({"lr": Fraction(1, 4)}, {"lr": 0.25}),
    ({"record_gradients": np.bool_(True)}, {"record_gradients": True}),
    ({"trainable": ["last"]}, {"trainable": ("last",)}),
    ({"trainable": np.array(["last"])}, {"trainable": ("last",)}),
    ({"model": "resnet18", "trainable": {"fc", "layer4"}}, {"model": "resnet18", "trainable": ("layer4", "fc")}),
    ({"trainable": {"last", "blocks"}}, {"trainable": None}),  # all of them
    ({"trainable": ("last", "last")}, {"trainable": ("last",)}),
    ({"trainable": (name for name in ["last"])}, {"trainable": ("last",)}),
    ({"optimizer": np.str_("SGD")}, {"optimizer": "SGD"}),
    ({"chapter": np.int32(3)}, {"chapter": 3}),
]


@pytest.mark.parametrize(("given", "kept"), TAKEN, ids=[f"{i}-{next(iter(case[0]))}" for i, case in enumerate(TAKEN)])
def test_numbers_and_names_of_any_kind_are_kept_as_plain_python(given, kept):
    row = replace(EXPERIMENTS["MLP_4"], name="mine", profile="sample", **given)
    assert row == replace(EXPERIMENTS["MLP_4"], name="mine", profile="sample", **kept)
    for field, value in kept.items():
        assert (type(getattr(row, field)), getattr(row, field)) == (type(value), value)
    assert json.loads(json.dumps(asdict(row))) == json.loads(json.dumps(asdict(replace(row))))


REFUSED = [
    ({"model": "MLP_res_34"}, "unknown model 'MLP_res_34'; did you mean MLP_res_35? choose MLP_4, "),
    ({"optimizer": "adam"}, "unknown optimizer 'adam'; did you mean Adam? choose Adam, AdamW, RMSprop or SGD"),
    ({"dataset": "cifar-10"}, "unknown data set 'cifar-10'; did you mean cifar10? choose mnist, cifar10 or cifar100"),
    ({"kind": "trainin"}, "unknown kind 'trainin'; did you mean training?"),
    ({"profile": "papre"}, "unknown profile 'papre'; did you mean paper? choose sample, cpu or paper"),
    ({"chapter": 6}, "unknown chapter '6'; choose 0, 2, 3, 4 or 5"),
    (
        {"start_from": "train_resnt"},
        "unknown experiment 'train_resnt'; did you mean train_resnet? `python run.py list`",
    ),
    ({"start_from": "tsne_mnist"}, "no run can start from tsne_mnist, which trains no model: its kind is tsne"),
    ({"start_from": "MLP_13"}, "model='MLP_4' has no effect: mine starts from MLP_13, a MLP_13; leave it out"),
    (
        {"start_from": "MLP_4", "initialisation": "he"},
        "initialisation='he' has no effect: mine starts from MLP_4; leave it out",
    ),
    ({"trainable": "last"}, "trainable must be a sequence of children's names, such as ('fc',), not 'last'"),
    ({"trainable": ("lst",)}, "unknown child of MLP_4 'lst'; did you mean last? choose blocks or last"),
    ({"trainable": ("blocks",), "dropout": 0.5}, "dropout=0.5 has no effect while 'last' is frozen"),
    ({"min_delta": 0.1}, "min_delta=0.1 has no effect without patience"),
    ({"min_delta": 1.0}, "min_delta must lie in [0, 1), got 1.0"),
    (
        {"patience": 2},
        "patience would choose the epoch of mine on the test set of mnist; leave it out, or train on cifar100",
    ),
    ({"final_test": True}, "final_test has no effect: mine is evaluated on its test set in each epoch"),
    ({"seed": 2**32}, "seed must be a whole number of at least 0 and below 4294967296"),
    ({"seed": np.bool_(True)}, "seed must be a whole number"),
    ({"lr": True}, "lr must be a number"),
    ({"record_gradients": "yes"}, "record_gradients must be True or False"),
    ({"name": "a/b"}, "name 'a/b' cannot name a folder"),
    ({"model": np.array(["MLP_4"])}, "model must be a string"),
    ({"dataset": "own"}, "the data set 'own' is for coreFunction.pipeline only"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_what_a_row_cannot_have_is_refused_in_one_line(changed, message):
    refused(lambda: replace(EXPERIMENTS["MLP_4"], **{"name": "mine", **changed}), message)


def test_fields_without_effect_on_an_analysis():
    mine = Experiment("mine", "baseline", dataset="cifar100", start_from="train_resnet")
    assert identity(replace(mine, profile="cpu")) == identity(experiment("baseline", "cpu")) | {"chapter": 0}
    refused(lambda: replace(mine, lr=1e-3), "lr=0.001 has no effect on a baseline; leave it out, or at 0.0005")
    refused(lambda: replace(mine, dataset="mnist"), "unknown data set of a baseline 'mnist'; choose cifar100")
    refused(lambda: replace(mine, precision="fp64"), "fp64")
    remedy = "precision='auto' has no effect on a timing; leave it out, or at 'fp32'"
    refused(lambda: Experiment("mine", "timing", lr=1e-3), remedy)


def test_a_row_cannot_start_from_itself(monkeypatch):
    first = Experiment("first", model="MLP_4", lr=1e-3)
    monkeypatch.setitem(EXPERIMENTS, "first", first)
    monkeypatch.setitem(EXPERIMENTS, "second", Experiment("second", start_from="first", lr=1e-3))
    assert EXPERIMENTS["second"].model == "MLP_4"
    refused(lambda: replace(first, start_from="second"), "first would start from itself, through second")
    refused(lambda: replace(first, start_from="first"), "first would start from itself, through first")


# ---------------------------------------------------------------- what follows from a row


@pytest.mark.parametrize(
    ("dataset", "chapter"), [("mnist", "MLP_4"), ("cifar10", "CNN_10"), ("cifar100", "early_stopping")]
)
@pytest.mark.parametrize("profile", PROFILES)
def test_row_without_chapter_and_family(dataset, chapter, profile):
    row = Experiment("mine", model="CNN_10", dataset=dataset, lr=1e-3, epochs=33, profile=profile)
    made, like = identity(row), identity(experiment(chapter, profile))
    assert (made["image_size"], made["epochs"], made["steps_per_epoch"]) == (like["image_size"], 33, None)
    assert is_supported(row)


def test_a_row_of_defaults_runs(tiny):
    record = run(Experiment("mine", model="MLP_4", lr=1e-3, epochs=3, precision="fp32"), wandb=False)
    assert [row["epoch"] for row in record.rows] == [0, 1, 2, 3]
    assert record.result["split"] == "test"


def test_a_network_of_ten_classes_gets_a_head_for_a_hundred(tiny):
    record = run(Experiment("mine", model="CNN_10", dataset="cifar100", lr=1e-3, epochs=1, patience=1), wandb=False)
    assert (record.result["split"], record.result["classes"]) == ("validation", 100)


def test_he_initialisation_draws_the_new_head_too():
    model = coreFunction.build(replace(EXPERIMENTS["MLP_4_he"], name="mine", dropout=0.5, profile="sample"))
    assert not model.last[-1][1].bias.any()


def test_keep_weights(tiny, runs_dir):
    assert [name for name, row in EXPERIMENTS.items() if keeps_weights(row)] == [
        "train_resnet", "baseline", "fine_tune_1", "fine_tune_1_lr", "fine_tune_2_lr", "dropout",
    ]  # fmt: skip
    row = replace(EXPERIMENTS["MLP_4"], name="mine", profile="sample")
    kept = replace(row, keep_weights=True)
    first = run(row, wandb=False)
    assert not first.has_weights
    before = {path.name: path.read_bytes() for path in first.path.iterdir()}
    refused(lambda: run(kept, wandb=False), "the weights of mine (seed 0) were not kept; move ", "train it again")
    assert run_all(kept) == []
    assert {path.name: path.read_bytes() for path in first.path.iterdir()} == before
    first.path.rename(runs_dir / "aside")
    again = run(kept, wandb=False)
    assert again.has_weights
    assert again.settings["identity"] == json.loads((runs_dir / "aside" / "settings.json").read_text())["identity"]
    assert run(row, wandb=False).path == again.path


def test_any_row_can_be_a_parent(tiny):
    child = Experiment("child", start_from="MLP_4", lr=1e-3, epochs=1, trainable=("last",), precision="fp32")
    assert run(child, wandb=False).finished
    assert Record(run("MLP_4", wandb=False).path).has_weights


def test_new_fields_change_no_identity():
    row = experiment("dropout", "cpu")
    for changed in (replace(row, final_test=False), replace(row, keep_weights=True)):
        assert identity(changed) == identity(row)
    assert not {"final_test", "keep_weights"} & identity(row).keys()


# ---------------------------------------------------------------- the table and what it names


def test_the_children_that_the_table_knows_are_those_of_the_models():
    for name in {row.model for row in EXPERIMENTS.values() if row.model}:
        with torch.device("meta"):
            model = MODELS[name](image_size=32)
        learning = [child for child, module in model.named_children() if any(True for _ in module.parameters())]
        assert list(CHILDREN[name.split("_")[0]]) == learning
        *_, (head, _) = ((path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear))
        assert head.split(".")[0] == learning[-1]
    assert CLASSES.keys() == EVAL_SPLIT.keys()


def test_own_model_in_the_registry(monkeypatch, tiny):
    monkeypatch.setitem(
        MODELS, "MLP_mine", lambda **_: nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))
    )
    row = Experiment("mine", model="MLP_mine", lr=1e-3, epochs=1, trainable=("3",))
    assert run(row, wandb=False).finished
    refused(
        lambda: run(replace(row, name="other", trainable=("last",)), wandb=False), "unknown child 'last'; choose 1 or 3"
    )
    refused(lambda: replace(row, model="MLP_min"), "unknown model 'MLP_min'; did you mean MLP_mine?")


# ---------------------------------------------------------------- a row and a model more

ONE_MORE = """
import sys
import pytest
import myModel
from deepnet.figures import registry
from experimentTable import EXPERIMENTS, ROWS, Experiment
myModel.MODELS["MLP_43"] = myModel._mlp([784, 1024, 256, *[64] * 40, 10])
row = Experiment("MLP_43", chapter=3, family="mlp", model="MLP_43", lr=1e-4, record_gradients=True, precision="fp32")
ROWS.append(row)
EXPERIMENTS["MLP_43"] = ROWS[-1]
registry.FIGURES["3.2b"] = registry._curves(registry.LOSS_TEST, "MLP_33 and MLP_43", "MLP_33", "MLP_43")
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def test_one_more_row_model_and_figure():
    files = ("top/test_models", "figures/test_partial", "project/test_committed", "top/test_experiment")
    checks = [f"tests/{file}.py" for file in files]
    chosen = "registry or counts or MLP_43 or 3.2b or (table and prices) or partial_evidence or children_that"
    ended = python(ONE_MORE, *checks, "-k", chosen)
    assert ended.returncode == 0, ended.stdout
    assert "failed" not in ended.stdout
    assert int(re.search(r"(\d+) passed", ended.stdout)[1]) >= 40
