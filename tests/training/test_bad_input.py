"""What `pipeline` cannot train is refused in one line, before anything is written."""

import threading

import numpy as np
import pytest
import torch
from helpers import Listed, digits, held, mlp, refused
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, TensorDataset

from coreFunction import pipeline


class Stream(IterableDataset):
    def __iter__(self):
        return iter(digits())


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Picky(nn.Module):
    def forward(self, x):
        raise KeyError("size")


class Unloadable(nn.Linear):
    """Has an extra state that cannot be set."""

    def get_extra_state(self):
        return 1

    def set_extra_state(self, _state):
        raise RuntimeError("cannot be set")


class Unsaved(nn.Linear):
    """Has an extra state that is not a number, word or tensor."""

    def get_extra_state(self):
        return threading.Lock


IMAGE, OTHER = torch.zeros(1, 8, 8), TensorDataset(torch.zeros(10, 1, 9, 9), torch.arange(10))
EMPTY = TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0))
MIXED = ConcatDataset([digits(0, 10), OTHER])
NAN = digits(label=lambda y: y * float("nan"))
CANNOT_TAKE = "cannot take a batch of shape (2, 1, 8, 8)"
ONE_CYCLE = {"epochs": 5, "schedule": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=3)}
REFUSED = [
    # options
    ({"name": 3}, "name must be a string", "got 3"),
    ({"name": "a/b"}, "name 'a/b' cannot name a folder", "letters"),
    ({"precision": "fp16"}, "unknown precision 'fp16'", "auto, fp32, bf16 or fp64"),
    ({"lr": -1e-3}, "lr must be a number of at least 0", "-0.001"),
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1", "0"),
    ({"eval_batch_size": 0}, "eval_batch_size must be a whole number of at least 1", "0"),
    ({"epochs": 0}, "epochs must be a whole number of at least 1", "0"),
    ({"seed": -1}, "seed must be a whole number of at least 0", "-1"),
    ({"workers": -1}, "workers must be a whole number of at least 0", "-1"),
    ({"fast": "no"}, "fast must be True or False", "'no'"),
    ({"cache_frozen": True}, "cache_frozen needs a model", "leave it out"),
    ({"trainable": ("fc",)}, "unknown child 'fc'", "choose 1 or 3"),
    ({"trainable": ()}, "nothing in the model can be trained", "trainable"),
    ({"trainable": 3}, "trainable must be a sequence", "not 3"),
    # optimizer, schedule, loss
    ({"optimizer": "GSD"}, "unknown optimizer 'GSD'", "choose Adam, AdamW, RMSprop or SGD"),
    ({"eps": 1e-16, "optimizer": "SGD"}, "SGD has no eps", "another optimizer"),
    ({"optimizer": 3}, "optimizer must be a name, or a callable", "got 3"),
    ({"optimizer": lambda parameters: parameters}, "optimizer must return a torch.optim.Optimizer", "list"),
    ({"optimizer": lambda _: torch.optim.Adam(mlp().parameters())}, "parameters that are not the model's", "make it"),
    ({"optimizer": torch.optim.Adam, "lr": 1e-3}, "lr and eps apply to a named optimizer only", "your own"),
    ({"optimizer": torch.optim.LBFGS}, "a training step on a copy of the model failed", "closure"),
    ({"schedule": 3}, "schedule must be a callable", "got 3"),
    (
        {"schedule": lambda optimizer: None, "schedule_per_step": True},
        "schedule must return a scheduler",
        "it returned None",
    ),
    ({"schedule_per_step": True}, "no effect without a schedule", "give one"),
    (ONE_CYCLE, "a training step on a copy of the model failed", "total"),
    (ONE_CYCLE | {"schedule_per_step": True}, "a training step on a copy of the model failed", "total"),
    ({"loss": 3}, "loss must be a callable", "got 3"),
    ({"loss": lambda outputs, targets: outputs}, "a training step on a copy of the model failed", "scalar"),
    ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "loss is the sum over the images", "reduction='mean'"),
    # labels
    ({"classes": dict.fromkeys(range(10))}, "classes must be a sequence of labels", "{0: None"),
    ({"classes": range(11)}, "classes names 11 classes but the model has 10 outputs", "last layer"),
    ({"classes": (0, 0, 1)}, "names a class twice", "0"),
    ({"classes": range(9)}, "label 9 is in the data but not among", "leave it out"),
    ({"classes": ["a"]}, "names 1 classes but label 9", "name them all"),
    ({"train_set": Listed([(IMAGE, torch.eye(10)[0])])}, "a label must be one number or word", "label.argmax()"),
    ({"train_set": Listed([(IMAGE, "a"), (IMAGE, 1)])}, "labels are words and numbers", "one kind"),
    ({"train_set": digits(label=lambda y: y + 0.25)}, "is not a class", "a regression cannot be trained here"),
    (
        {"train_set": digits(label=lambda y: y * 0 - 100)},
        "label -100 marks items that torch's losses ignore",
        "leave them out",
    ),
    ({"train_set": NAN}, "a label is NaN", "leave its image out"),
    ({"eval_set": digits(label=lambda y: y + 5)}, "in the evaluation set but the model has 10 outputs", "leave it"),
    # data
    ({"train_set": EMPTY}, "the data set is empty", "give one with"),
    ({"train_set": MIXED}, "images differ in size ((1, 8, 8), (1, 9, 9))", "resize them"),
    ({"train_set": Listed([(np.zeros((1, 8, 8)), 0)])}, "found a numpy array", "torch.from_numpy"),
    ({"train_set": Listed([(Image.new("L", (8, 8)), 0)])}, "found a PIL image", "ToTensor"),
    ({"train_set": Listed([{"image": IMAGE, "label": 0}])}, "a dict with the keys 'image', 'label'", "item['image']"),
    ({"train_set": Listed([IMAGE])}, "found a Tensor", "wrap the data set"),
    ({"train_set": Listed([(IMAGE, 0, 0)])}, "found a tuple of 3", "wrap the data set"),
    ({"train_set": Stream()}, "Stream has no length or cannot be indexed", "list(data)"),
    ({"train_set": TensorDataset(torch.eye(10).to_sparse(), torch.arange(10))}, "sparse tensors", "to_dense()"),
    ({"train_set": DataLoader(digits(0, 8), 16, drop_last=True)}, "the loader gives no batch", "drop_last"),
    ({"train_set": DataLoader(digits(), batch_size=None)}, "loader's batches must be pairs", "several items"),
    ({"train_set": DataLoader(digits(), 50), "batch_size": 32}, "batch_size has no effect on a DataLoader", "leave it"),
    ({"eval_set": DataLoader(digits(), 50), "eval_batch_size": 32}, "eval_batch_size has no effect", "leave it out"),
    # models
    ({"model": nn.Linear}, "model must be a torch.nn.Module", "Linear"),
    ({"model": mlp().bfloat16()}, "weights are torch.bfloat16", "model.float()"),
    ({"model": mlp(outputs=9)}, "has 9 outputs but the labels have 10 classes", "last layer"),
    ({"model": nn.Sequential(nn.Flatten(), nn.Linear(65, 10))}, CANNOT_TAKE, "64"),
    ({"model": nn.Sequential(nn.Linear(8, 8), Picky())}, CANNOT_TAKE, "size"),
    ({"eval_set": OTHER}, "cannot take a batch of shape (2, 1, 9, 9)", "from the data set"),
    ({"model": Pair()}, "the model gives a tuple for 2 images", "scores (N, classes)"),
    ({"model": nn.Conv2d(1, 3, 1)}, "the model gives (2, 3, 8, 8) for 2 images", "flatten"),
    ({"model": nn.Flatten()}, "nothing in the model can be trained", "unfreeze"),
    ({"model": nn.Sequential(nn.Flatten(), Unloadable(64, 10))}, "a training step on a copy", "cannot be set"),
    (
        {"model": nn.Sequential(nn.Flatten(), Unsaved(64, 10))},
        "extra state cannot be kept",
        "make it numbers",
    ),
]


@pytest.mark.parametrize(
    ("changed", "what", "remedy"), REFUSED, ids=[f"{i}-{'-'.join(case[0])}" for i, case in enumerate(REFUSED)]
)
def test_refused_before_anything_is_written(runs_dir, changed, what, remedy):
    asked = {"model": mlp(), "train_set": digits(), "eval_set": held(), "name": "bad"}
    refused(lambda: pipeline(**asked | changed), what, remedy)
    assert not list(runs_dir.rglob("*.json"))


@pytest.mark.parametrize(("images", "batch_size"), [(200, 1), (1, 32)])
def test_batches_of_one_image_for_batch_normalization(runs_dir, images, batch_size):
    def train(**options):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
        data = digits(0, images)
        return pipeline(model, data, data, name="ones", epochs=1, batch_size=batch_size, **options)

    refused(train, "cannot train on a batch of one image", "larger batch_size")
    assert not runs_dir.exists()
    assert train(trainable=("3",)).finished  # its statistics are frozen
