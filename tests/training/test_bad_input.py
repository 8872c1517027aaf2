"""What `pipeline` cannot train is refused in one line, before anything is written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import QUICK, Listed, digits, held, mlp, refused
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, TensorDataset

from coreFunction import pipeline
from deepnet.records.reading import Record

BAD_OPTIONS = [
    ({"optimizer": "GSD"}, "unknown optimizer 'GSD'", "choose Adam, AdamW, RMSprop or SGD"),
    ({"precision": "fp16"}, "unknown precision 'fp16'", "auto, fp32, bf16 or fp64"),
    ({"lr": -1e-3}, "lr must be a number of at least 0", "-0.001"),
    ({"lr": 0}, "lr must be above 0", "got 0"),
    ({"lr": float("nan")}, "lr must be a number", "nan"),
    ({"lr": float("inf")}, "lr must be a number", "inf"),
    ({"min_delta": None}, "min_delta must be a number", "None"),
    ({"lr": "fast"}, "lr must be", "'fast'"),
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1", "0"),
    ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1", "2.5"),
    ({"batch_size": True}, "batch_size must be a whole number", "True"),
    ({"epochs": 0}, "epochs must be a whole number of at least 1", "0"),
    ({"epochs": None}, "epochs must be a whole number of at least 1", "None"),
    ({"patience": 0}, "patience must be a whole number of at least 1", "0"),
    ({"seed": -1}, "seed must be a whole number of at least 0", "-1"),
    ({"seed": "one"}, "seed must be a whole number", "'one'"),
    ({"eps": -1.0}, "eps must be", "-1.0"),
    ({"eps": 1e-16, "optimizer": "SGD"}, "SGD has no eps", "another optimizer"),
    ({"trainable": ("fc",)}, "unknown child 'fc'", "choose 1 or 3"),
    ({"trainable": ()}, "nothing", "trainable"),
    ({"trainable": "3"}, "trainable must be a sequence", "not '3'"),
    ({"optimizer": 3}, "optimizer must be a name, or a callable", "got 3"),
    ({"optimizer": lambda parameters: parameters}, "optimizer must give a torch.optim.Optimizer", "list"),
    ({"optimizer": torch.optim.Adam, "lr": 1e-3}, "lr and eps belong to an optimizer that is named", "yours"),
    ({"optimizer": torch.optim.LBFGS}, "a training step on a copy of the model failed", "closure"),
    ({"loss": 3}, "loss must be a callable", "got 3"),
    ({"loss": lambda outputs, targets: outputs}, "a training step on a copy of the model failed", "scalar"),
    ({"schedule": 3}, "schedule must be a callable", "got 3"),
    ({"schedule": lambda optimizer: None, "schedule_per_step": True}, "schedule must give a scheduler", "it gave None"),
    ({"schedule_per_step": True}, "no effect without a schedule", "give one"),
    ({"eval_batch_size": 0}, "eval_batch_size must be a whole number of at least 1", "0"),
    ({"workers": -1}, "workers must be a whole number of at least 0", "-1"),
    ({"cache_frozen": True}, "cache_frozen needs a model", "leave it out"),
    ({"classes": "0123456789"}, "classes must be a sequence of labels", "'0123456789'"),
    ({"classes": range(11)}, "classes names 11 classes but the model gives 10 outputs", "last layer"),
    ({"classes": set(range(10))}, "classes must be a sequence of labels", "{0, 1,"),
    ({"fast": "no"}, "fast must be True or False", "'no'"),
    ({"resume": 1}, "resume must be True or False", "1"),
    ({"classes": (0, 0, 1)}, "names a class twice", "0"),
    ({"classes": range(9)}, "label 9 is in the data but not among", "leave it out"),
    ({"trainable": 3}, "trainable must be a sequence", "not 3"),
    ({"name": 3}, "name must be a word", "got 3"),
    ({"name": "a/b"}, "name 'a/b' cannot name a folder", "letters"),
    ({"name": ".."}, "name '..' cannot name a folder", "letters"),
]


@pytest.mark.parametrize(
    ("options", "what", "remedy"), BAD_OPTIONS, ids=[f"{i}-{next(iter(case[0]))}" for i, case in enumerate(BAD_OPTIONS)]
)
def test_bad_options_are_refused(runs_dir, options, what, remedy):
    refused(lambda: pipeline(mlp(), digits(), held(), **{"name": "bad", **options}), what, remedy)
    assert not list(runs_dir.rglob("result.json"))


def empty():
    return TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0))


def mixed_sizes():
    return ConcatDataset([digits(0, 10), TensorDataset(torch.zeros(10, 1, 9, 9), torch.arange(10))])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(digits())


BAD_DATA = [
    ("empty", empty, held, "the data set is empty", "give one with"),
    ("empty evaluation", digits, empty, "the data set is empty", "give one with"),
    ("sizes differ", mixed_sizes, held, "images differ in size ((1, 8, 8), (1, 9, 9))", "resize them"),
    ("sizes differ in evaluation", digits, mixed_sizes, "images differ in size ((1, 8, 8), (1, 9, 9))", "resize them"),
    ("arrays", lambda: Listed([(np.zeros((1, 8, 8)), 0)]), held, "found a numpy array", "torch.from_numpy"),
    ("pictures", lambda: Listed([(Image.new("L", (8, 8)), 0)]), held, "found a PIL image", "ToTensor"),
    (
        "dicts",
        lambda: Listed([{"image": torch.zeros(1, 8, 8), "label": 0}]),
        held,
        "a dict with the keys 'image', 'label'",
        "item['image']",
    ),
    ("no labels", lambda: Listed([torch.zeros(1, 8, 8)]), held, "found a Tensor", "wrap the data set"),
    ("three parts", lambda: Listed([(torch.zeros(1, 8, 8), 0, 0)]), held, "found a tuple of 3", "wrap the data set"),
    ("a stream", lambda: Stream(), held, "Stream has no length or cannot be indexed", "list(data)"),
    ("a generator", lambda: iter(digits()), held, "has no length or cannot be indexed", "list(data)"),
    (
        "sparse",
        lambda: TensorDataset(torch.eye(10).to_sparse(), torch.arange(10)),
        held,
        "sparse tensors",
        "to_dense()",
    ),
    ("no batch", lambda: DataLoader(digits(0, 8), 16, drop_last=True), held, "the loader gives no batch", "drop_last"),
    (
        "single items",
        lambda: DataLoader(digits(), batch_size=None),
        held,
        "the loader's batches must be pairs",
        "several items",
    ),
    (
        "regression",
        lambda: digits(label=lambda y: y + 0.25),
        held,
        "is no class",
        "a regression cannot be trained here",
    ),
    ("one-hot", lambda: Listed([(torch.zeros(1, 8, 8), torch.eye(10)[0])]), held, "label", "one number or word"),
    (
        "ignored",
        lambda: digits(label=lambda y: y * 0 - 100),
        held,
        "label -100 marks what torch's losses ignore",
        "leave those",
    ),
    (
        "mixed labels",
        lambda: Listed([(torch.zeros(1, 8, 8), "a"), (torch.zeros(1, 8, 8), 1)]),
        held,
        "labels",
        "one kind",
    ),
    ("NaN labels", lambda: digits(label=lambda y: y * float("nan")), held, "a label is NaN", "leave its image out"),
    (
        "NaN labels in evaluation",
        digits,
        lambda: digits(label=lambda y: y * float("nan")),
        "a label is NaN",
        "leave its image out",
    ),
    (
        "unknown label",
        digits,
        lambda: digits(label=lambda y: y + 5),
        "is in the evaluation set but the model gives 10 outputs",
        "leave it out",
    ),
]


@pytest.mark.parametrize(
    ("train", "evaluation", "what", "remedy"), [case[1:] for case in BAD_DATA], ids=[case[0] for case in BAD_DATA]
)
def test_bad_data_are_refused(runs_dir, train, evaluation, what, remedy):
    options = QUICK | ({"batch_size": None} if isinstance(train(), DataLoader) else {})
    refused(lambda: pipeline(mlp(), train(), evaluation(), name="bad", **options), what, remedy)
    assert not list(runs_dir.rglob("result.json"))


def test_a_batch_size_beside_a_loader_is_refused(runs_dir):
    loader = DataLoader(digits(), 50)
    refused(
        lambda: pipeline(mlp(), loader, held(), name="bad", batch_size=32),
        "batch_size has no effect on a DataLoader",
        "leave it out",
    )
    refused(
        lambda: pipeline(mlp(), digits(), loader, name="bad", eval_batch_size=32),
        "eval_batch_size has no effect",
        "leave it out",
    )
    assert pipeline(mlp(), loader, held(), name="good", epochs=1).settings["experiment"]["batch_size"] == 50


def batch_normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


@pytest.mark.parametrize(("images", "batch_size"), [(200, 1), (1, 32)])
def test_batches_of_one_image_are_refused_where_batch_normalisation_trains_on_them(runs_dir, images, batch_size):
    options = {"name": "ones", "epochs": 1, "batch_size": batch_size}
    one = lambda: digits(0, images)  # noqa: E731
    refused(
        lambda: pipeline(batch_normed(), one(), one(), **options),
        "cannot train on a batch of one image",
        "larger batch_size",
    )
    assert not runs_dir.exists()
    assert pipeline(batch_normed(), one(), one(), trainable=("3",), **options).finished  # its statistics are frozen


class Pair(nn.Module):
    def forward(self, x):
        return x, x


CANNOT_TAKE = "cannot take a batch of shape (2, 1, 8, 8)"
BAD_MODELS = [
    ("too few outputs", lambda: mlp(outputs=9), "gives 9 outputs but the labels are of 10 classes", "last layer"),
    ("another size", lambda: nn.Sequential(nn.Flatten(), nn.Linear(65, 10)), CANNOT_TAKE, "64"),
    ("other channels", lambda: nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()), CANNOT_TAKE, "channels"),
    ("other dimensions", lambda: nn.Sequential(nn.BatchNorm1d(1), *mlp()), CANNOT_TAKE, "2D or 3D"),
    ("two outputs", Pair, "the model gives a tuple for 2 images", "scores (N, classes)"),
    ("nothing to learn", lambda: nn.Flatten(), "nothing", "train"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "what", "remedy"), [case[1:] for case in BAD_MODELS], ids=[case[0] for case in BAD_MODELS]
)
def test_a_model_that_does_not_fit_is_refused(runs_dir, model, what, remedy):
    refused(lambda: pipeline(model(), digits(), held(), name="bad", **QUICK), what, remedy)
    assert not list(runs_dir.rglob("result.json"))


def test_evaluation_images_that_the_model_cannot_take_are_refused(runs_dir):
    other = TensorDataset(torch.zeros(10, 1, 9, 9), torch.arange(10))
    refused(lambda: pipeline(mlp(), digits(), other, name="bad", **QUICK), "cannot take a batch of shape (2, 1, 9, 9)")
    assert not list(runs_dir.rglob("rows.jsonl"))


def test_a_refusal_loses_no_earlier_record():
    record = pipeline(mlp(), digits(), held(), name="dear", **QUICK)
    refused(lambda: pipeline(mlp(outputs=3), digits(), held(), name="dear", **QUICK), "3 outputs")
    again = Record(Path(record.path))
    assert again.finished
    assert again.rows == record.rows
