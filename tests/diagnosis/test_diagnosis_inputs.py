"""Models with several inputs and data in which inputs have names; outputs that hold the scores among others."""

import math
from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from helpers import refused, same, state
from test_diagnosis_findings import GOOD, Own
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from deepnet.diagnosis.inputs import Inputs, joined
from utilityFunction import diagnose

X, Y = GOOD.tensors[0].flatten(1), GOOD.tensors[1]
UPPER, LOWER = X[:, :32], X[:, 32:]
IDS = (X > 0).long() + 2 * torch.arange(64)


class Two(nn.Module):
    """Scores from two halves of an image."""

    def __init__(self, change=lambda scores: scores):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.last, self.change = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10), change

    def forward(self, upper, lower):
        return self.change(self.last((self.a(upper) + self.b(lower)).relu()))


class Together(Two):
    def forward(self, both):
        return super().forward(*both)


class ByName(Two):
    def forward(self, both):
        return super().forward(both["upper"], both["lower"])


class Words(nn.Module):
    """Takes what Hugging Face's tokenizers give, and gives what its models give."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.last = nn.Embedding(128, 32), nn.Linear(32, 10)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        assert labels is None
        kept = self.embedding(input_ids) * attention_mask[..., None]
        return Output(logits=self.last(kept.sum(1) / 8))


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Named(NamedTuple):
    logits: Tensor
    features: Tensor


def loader(change):
    """Batches of the digits as `change` makes them of both halves and the labels."""
    return DataLoader(TensorDataset(UPPER, LOWER, Y), 32, shuffle=True, collate_fn=lambda items: change(
        *(torch.stack(parts) for parts in zip(*items, strict=True))))  # fmt: skip


DATA = {
    "three tensors": lambda: TensorDataset(UPPER, LOWER, Y),
    "pairs of a pair": lambda: [((a, b), int(y)) for a, b, y in zip(UPPER, LOWER, Y, strict=True)],
    "dicts": lambda: [{"upper": a, "lower": b, "label": y} for a, b, y in zip(UPPER, LOWER, Y, strict=True)],
    "batches of a tuple": lambda: loader(lambda a, b, y: ((a, b), y)),
    "batches of a list": lambda: loader(lambda a, b, y: ([a, b], y)),
    "batches of three": lambda: loader(lambda a, b, y: (a, b, y)),
    "batches of a dict and labels": lambda: loader(lambda a, b, y: ({"upper": a, "lower": b}, y)),
    "dicts with their targets": lambda: loader(lambda a, b, y: UserDict(targets=y, lower=b, upper=a)),
}


@pytest.mark.parametrize("data", DATA)
def test_several_inputs_are_taken_in_any_form(data):
    model = Two()
    before = state(model)
    found = diagnose(model, DATA[data](), lr=1e-2, cures=False)
    assert found.healthy and found.findings == () and found.figure().axes
    assert [layer.ran and layer.reached for layer in found.measurements.layers] == [True] * 3
    assert same(state(model), before)


@pytest.mark.parametrize(
    ("model", "data"), [(Together, "batches of a list"), (Together, "three tensors"), (ByName, "dicts")]
)
def test_a_model_may_take_them_as_one(model, data):
    assert diagnose(model(), DATA[data](), lr=1e-2, cures=False).healthy


def test_bytes_are_converted_to_floats_beside_whole_numbers_that_stay():
    class Kinds(Two):
        def __init__(self):
            super().__init__()
            self.kinds = nn.Embedding(10, 32)

        def forward(self, image, kind):
            return self.last((self.a(image) + self.kinds(kind)).relu())

    images = (255 * (UPPER - UPPER.min()) / (UPPER.max() - UPPER.min())).byte()
    found = diagnose(Kinds(), TensorDataset(images, Y % 4, Y), lr=1e-3, cures=False)
    assert found.measurements.input_floats and math.isfinite(found.measurements.last_loss)


def test_items_may_be_single_numbers():
    data = TensorDataset(X[:, 20], (X[:, 20] > 0).long())
    model = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 2))
    assert diagnose(model, data, lr=1e-2, cures=False).healthy


def test_one_input_with_a_name_is_given_without_it_too():
    data = [{"image": x, "label": y} for x, y in zip(X, Y, strict=True)]
    torch.manual_seed(0)
    assert diagnose(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), data, lr=1e-2, cures=False).healthy


def words(length, label="labels"):
    """A batch as a collator gives it that pads to the longest item with 126, which means nothing."""

    def collated(items):
        ids, y = (torch.stack(parts) for parts in zip(*items, strict=True))
        mask = (torch.arange(64) < length(y)).long().expand(len(y), 64)
        return {"input_ids": torch.where(mask == 1, ids, 126), "attention_mask": mask, label: y}

    return DataLoader(TensorDataset(IDS, Y), 32, shuffle=True, collate_fn=collated)


def test_token_ids_with_a_mask_are_given_by_keyword():
    found = diagnose(Words(), words(lambda y: 50), lr=1e-2, cures=False)
    assert found.healthy and found.findings == ()
    assert found.measurements.neighbours is None and not found.measurements.input_floats
    assert not found.measurements.several_outputs


def test_batches_that_are_padded_each_to_its_own_length_are_padded_to_the_longest():
    def batch(ids, mask):
        names = ("input_ids", "attention_mask", "number")
        return Inputs((torch.tensor(ids), torch.tensor(mask), torch.arange(len(ids))), names)

    right = joined([batch([[1, 2, 9]], [[1, 1, 0]]), batch([[3, 4], [5, 9]], [[1, 1], [1, 0]])])
    assert right.parts[0].tolist() == [[1, 2, 9], [3, 4, 9], [5, 9, 9]]
    assert right.parts[1].tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0]]
    left = joined([batch([[9, 2, 3]], [[0, 1, 1]]), batch([[3, 4]], [[1, 1]])])
    assert left.parts[0].tolist() == [[9, 2, 3], [9, 3, 4]] and left.parts[2].tolist() == [0, 0]
    ragged = loader(lambda a, b, y: (a[:, : 32 - int(y[0])], b, y))
    refused(lambda: diagnose(Two(), ragged), "the batches differ", "give all items the same inputs of one size")
    other = loader(lambda a, b, y: {"upper": a, "y": y} | ({"lower": b} if y[0] > 4 else {}))
    refused(lambda: diagnose(Two(), other), "the batches differ", "give all items the same inputs")


@pytest.mark.parametrize(
    "change",
    [lambda s: {"logits": s, "hidden": s}, Output, lambda s: (s, s), lambda s: Named(s, s)],
    ids=["dict", "data class", "tuple", "named tuple"],
)
def test_scores_are_found_among_the_outputs(change):
    found = diagnose(Two(change), DATA["three tensors"](), lr=1e-2, cures=False)
    assert found.healthy and found.measurements.outputs == 10
    assert found.measurements.several_outputs == (change is not Output)
    assert diagnose(Own(lambda scores: Named(scores, scores)), GOOD, lr=1e-2, cures=False).healthy


def test_faults_are_found_and_cured_with_several_inputs():
    gap = UPPER.clone()
    gap[::3, 4] = torch.nan
    found = diagnose(Two(), TensorDataset(gap, LOWER, Y), lr=1e-2, cure_steps=100)
    assert found.causes[0].code == "nan-data" and [trial.helped for trial in found.trials[1:]] == [True]
    scaled = diagnose(Two(), TensorDataset(100 * UPPER + 128, LOWER, Y), optimizer="SGD", lr=0.1, cure_steps=100)
    assert scaled.causes[0].code == "input-range" and scaled.trials[1].helped
    shuffled = diagnose(Two(), TensorDataset(UPPER, LOWER, Y + 1), lr=1e-2, cure_steps=100)
    assert shuffled.causes[0].code == "label-range" and shuffled.trials[1].helped


def test_a_mask_is_no_gap_and_has_no_scale():
    class Masked(Two):
        def forward(self, x, mask):
            return super().forward(x[:, :32], x[:, 32:] * mask.exp())

    mask = torch.zeros(1000, 32)
    mask[:, 20:] = -torch.inf
    found = diagnose(Masked(), TensorDataset(X, mask, Y), lr=1e-2, cures=False)
    assert found.healthy and found.findings == () and found.measurements.bad_items == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([{"image": torch.zeros(64), "kind": 3}] * 20, "with the keys 'image', 'kind', without a tensor or list"),
        ([{"label": 3}] * 20, "where 'input 1' is a dict"),
        ([{"text": "abc", "label": 3}] * 20, "where 'text' is a list of"),
        ([{"input_ids": [1, 2], "labels": 3}] * 20, "where 'input_ids' is a list of 2: Tensor, Tensor and"),
        ([(torch.zeros(32), "abc", 3)] * 20, "where 'input 2' is a tuple of"),
        ([(torch.zeros(i), torch.zeros(2), 3) for i in range(1, 20)], "its items make no batch"),
        ([(torch.zeros(32), (torch.zeros(2), torch.zeros(2)), 3)] * 20, "'input 2' is a list of 2: Tensor, Tensor"),
        (DataLoader(torch.zeros(20, 3)), "a Tensor, without a tensor or list of labels"),
        (DataLoader(TensorDataset(UPPER, LOWER, Y), batch_size=None), "without a tensor or list of labels"),
        (loader(lambda a, b, y: (a, b[:5], y)), "hold 32, 5 items and its labels 32; put the items first in each"),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused_in_one_line(data, words):
    message = refused(lambda: diagnose(Two(), data), words)
    assert "put the items first" in message or "give (inputs, labels), ((x1, x2, ...), labels)" in message


def test_inputs_that_the_model_cannot_take_are_named():
    data = [{"upper": a, "under": b, "y": y} for a, b, y in zip(UPPER, LOWER, Y, strict=True)]
    words = "cannot take a batch of upper of shape (32, 32) and type torch.float32, under of shape (32, 32)"
    refused(lambda: diagnose(Two(), data), words, "unexpected keyword argument 'under'")
