"""A reader's own model: what `pipeline` asks of it, what it leaves of it, and what it does not share with another."""

import random

import pytest
import torch
from helpers import QUICK, Listed, digits, held, mlp, refused, state, untimed
from torch import nn

from coreFunction import pipeline
from deepnet.data.sets import load_images
from deepnet.speed.convolutions import LARGEST_SHIFT_AND_ADD, SmallMaps, conv2d_shift_and_add
from deepnet.training.features import extract_features
from deepnet.training.frozen_prefix import InMemoryDataset, split


def learns(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]


def test_what_was_frozen_by_hand_stays_frozen():
    model = mlp()
    model[1].requires_grad_(False)
    before = state(model)
    pipeline(model, digits(), held(), name="by_hand", **QUICK)
    assert torch.equal(model[1].weight, before["1.weight"]) and not torch.equal(model[3].weight, before["3.weight"])
    assert learns(model) == [False, False, True, True]


def test_what_one_call_freezes_the_next_may_train():
    model = mlp()
    pipeline(model, digits(), held(), name="head", trainable=("3",), **QUICK)
    assert all(learns(model))
    before = state(model)
    pipeline(model, digits(), held(), name="all", **QUICK)
    assert not torch.equal(model[1].weight, before["1.weight"])


def test_the_model_is_left_in_eval_mode():
    model = mlp().insert(3, nn.Dropout(0.5))
    pipeline(model, digits(), held(), name="dropped", **QUICK)
    images = digits().tensors[0]
    assert torch.equal(model(images), model(images))


class Front(nn.Module):
    """Its weights and its name do not show what it computes, as after an edit of its `forward`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.factor = nn.Conv2d(3, 4, 3, stride=4), factor

    def forward(self, x):
        return self.factor * torch.relu(self.convolution(x)).flatten(1)


def test_edited_prefix_shares_no_cache():
    data = load_images("cifar10", "train", "sample", 32).subset(range(64))
    losses = []
    for factor in (1, 5, 5):
        torch.manual_seed(1)
        model = nn.Sequential(Front(factor), nn.Linear(256, 10))
        options = QUICK | {"trainable": ("1",), "cache_frozen": True}
        losses.append(pipeline(model, data, data, name="front", **options).rows[0]["validation_loss"])
    assert losses[0] != losses[1] == losses[2]


@pytest.mark.parametrize(("layer", "at"), [(nn.Dropout(0.5), 3), (nn.BatchNorm1d(16, affine=False), 2)])
def test_layers_that_training_changes_are_not_cached(layer, at):
    """A dropout, and batch normalization without parameters, which has nothing to freeze, so that its statistics
    move.
    """
    model = mlp().insert(at, layer)
    model[1].requires_grad_(False)
    prefix, _ = split(model)
    assert prefix[0] is model[0] and len(prefix) == at
    before = state(model)
    assert pipeline(model, digits(), held(), name="behind", **QUICK).finished
    statistics = [key for key in before if "running" in key or "tracked" in key]
    assert not any(torch.equal(state(model)[key], before[key]) for key in statistics)


class Attention(nn.Module):
    """Has a Linear that is not called as a module, and one that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.attention = nn.Linear(3, 3), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        rows = x.flatten(0, 1)
        return self.head(self.attention(rows, rows, rows)[0].flatten(1))


def test_a_layer_that_does_not_run_has_no_probe():
    torch.manual_seed(0)
    record = pipeline(Attention(), digits(), held(), name="attention", record_gradients=True, **QUICK)
    assert record.finished
    assert [value is None for value in record.rows[1]["probe_variance"]] == [True, True, False]


def test_features_are_those_of_the_layer_that_runs_last():
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(16, 10), nn.Linear(64, 16)

        def forward(self, x):
            return self.head(self.body(x.flatten(1)))

    assert extract_features(HeadFirst(), digits()).shape == (200, 16)


def test_no_linear_layer_is_called():
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            rows = x.flatten(0, 1)
            return self.attention(rows, rows, rows)[0]

    refused(lambda: extract_features(Attends(), digits()), "Attends", "forward_all(model, data)")


def test_random_transforms_of_python_s_own_are_seeded():
    class Jittered(Listed):
        def __getitem__(self, index):
            image, label = self.items[index]
            return image * random.random(), label

    data = Jittered(list(digits()))
    rows = [
        untimed(pipeline(mlp(), data, data, name="jittered", record_gradients=True, **QUICK).rows) for _ in range(2)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.uint8])
def test_a_set_in_memory_may_have_any_number_type(kind):
    images, labels = digits().tensors
    data = InMemoryDataset((255 * images).to(kind), labels, tuple(range(10)))
    assert pipeline(mlp(), data, data, name="in_memory", **QUICK).finished


def test_model_that_autocasts_by_itself():
    torch.manual_seed(0)
    images, convolution = torch.randn(8, 16, 2, 2), nn.Conv2d(16, 16, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        expected = convolution(images)
        with SmallMaps(LARGEST_SHIFT_AND_ADD, conv2d_shift_and_add):
            assert torch.equal(convolution(images), expected)
