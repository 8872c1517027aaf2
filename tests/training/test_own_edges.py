"""Odd but plausible models and data of a reader's own: trained as they are, or refused with nothing changed."""

import threading
from functools import partial

import pytest
import torch
from helpers import QUICK, Listed, digits, held, mlp, refused, same, state
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler

from coreFunction import evaluate, extract_features, pipeline, train_epoch
from deepnet.data import datasets
from deepnet.records.reading import find_record
from deepnet.training.features import forward_all
from deepnet.training.own import described


def normalized():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


# ---------------------------------------------------------------- labels, outside of pipeline too


def test_an_evaluation_takes_the_mapping_of_the_run():
    shifted = digits(label=lambda y: y + 1)
    model = mlp()
    record = pipeline(model, shifted, shifted, name="shifted", lr=1e-2, epochs=5)
    some = TensorDataset(*(tensor[shifted.tensors[1] < 10] for tensor in shifted.tensors))
    expected = model(some.tensors[0]).argmax(1)
    measured, predictions = evaluate(model, some, classes=record.settings["classes"])
    assert predictions.tolist() == [(some.tensors[1] - 1).tolist(), expected.tolist()]
    refused(lambda: evaluate(model, shifted), "are not output numbers", "classes=(...)")
    refused(lambda: evaluate(model, [shifted.tensors]), "labels 1 to 10 are in the data", "10 outputs")
    assert (
        train_epoch(model, shifted, torch.optim.Adam(model.parameters()), classes=range(1, 11))["train_accuracy"] > 0.2
    )
    assert measured["accuracy"] > 0.2


def test_too_few_names_of_a_data_set_are_ignored():
    data = Listed(list(digits()))
    data.classes = ["a"]
    record = pipeline(mlp(), data, data, name="own", **QUICK)
    assert record.settings["classes"] == list(range(10)) and record.result["classes"] == 10


@pytest.mark.parametrize(
    "call", [evaluate, extract_features, lambda m, d, **o: train_epoch(m, d, torch.optim.SGD(m.parameters(), 0.1), **o)]
)
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "fp17"}, "fp17"),
        ({"precision": "fp64"}, "fp64"),
    ],
)
def test_exported_functions_refuse_what_pipeline_refuses(call, options, word):
    refused(lambda: call(mlp(), digits(), **options), word)
    refused(lambda: call(mlp(), None), "NoneType")
    refused(lambda: call(mlp(), DataLoader(digits(0, 20), 64, drop_last=True)), "no batch")
    refused(lambda: call(mlp(), DataLoader(digits(), 50), batch_size=7), "no effect on a DataLoader")


def test_evaluation_refuses_invalid_batches_and_scores():
    refused(lambda: evaluate(mlp(), ({"x": 1} for _ in range(2))), "a dict with the keys 'x'")
    refused(lambda: evaluate(nn.Conv2d(1, 3, 1), digits()), "(2, 3, 8, 8) for 2 images", "flatten")
    refused(lambda: evaluate(mlp(), digits(), loss=nn.CrossEntropyLoss(reduction="none")), "mean")
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    refused(lambda: train_epoch(mlp(), digits(), other), "not the model's")
    frozen = mlp().requires_grad_(False)
    optimizer = torch.optim.SGD(frozen.parameters(), 0.1)
    refused(lambda: train_epoch(frozen, digits(), optimizer), "no parameter of the model that learns")


def test_images_of_whole_numbers():
    images, labels = digits().tensors
    data = TensorDataset((255 * images).to(torch.uint8), labels)
    model = mlp()
    pipeline(model, data, data, name="bytes", **QUICK)
    floats = TensorDataset(data.tensors[0].float(), labels)
    assert evaluate(model, data)[0] == evaluate(model, floats)[0]
    assert torch.equal(extract_features(model, data), extract_features(model, floats))


def test_labels_play_no_part_in_features():
    images = digits(0, 20).tensors[0]
    assert torch.equal(
        extract_features(mlp(), Listed([(image, None) for image in images])), extract_features(mlp(), digits(0, 20))
    )


# ---------------------------------------------------------------- loaders that leave out, repeat or draw


@pytest.mark.parametrize(
    ("loader", "items"),
    [
        (lambda: DataLoader(digits(0, 100), 64, drop_last=True), 64),
        (lambda: DataLoader(digits(0, 100), 64, sampler=WeightedRandomSampler(torch.ones(100), 250)), 250),
    ],
)
def test_a_pass_has_as_many_items_as_the_loader_gives(loader, items):
    outputs, targets = forward_all(nn.Flatten(), loader())
    assert outputs.shape == (items, 64) and len(targets) == items and outputs.abs().max() <= 1
    assert extract_features(mlp(), loader()).shape == (items, 16)
    model = mlp()
    record = pipeline(model, loader(), held(), name="drawn", epochs=2, trainable=("3",), cache_frozen=True)
    assert record.finished


def test_last_batch_of_one_item_from_a_loader():
    def train(**options):
        return pipeline(normalized(), DataLoader(digits(0, 129), 64, **options), held(), name="one", epochs=1)

    refused(train, "batch of one image", "drop_last")
    assert find_record("one", "own") is None
    assert train(drop_last=True).finished


def test_workers_read_tensors_on_request(monkeypatch):
    asked = []

    class Noted(DataLoader):
        def __init__(self, *arguments, **options):
            asked.append(options["num_workers"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(datasets, "DataLoader", Noted)
    pipeline(mlp(), digits(), held(), name="workers", workers=1, epochs=1)
    assert asked.count(1) >= 3


# ---------------------------------------------------------------- sizes, schedules, failures in mid-run


class Linear(nn.Linear):
    def __init__(self):
        super().__init__(64, 10)

    def forward(self, x):
        return super().forward(x.flatten(1))


class Squeezing(Linear):
    def forward(self, x):
        return super().forward(x).squeeze()


class AtMost64(Linear):
    def forward(self, x):
        assert len(x) <= 64, "too many at once"
        return super().forward(x)


class InTraining(Linear):
    def forward(self, x):
        scores = super().forward(x)
        return (scores, scores) if self.training else scores


@pytest.mark.parametrize(
    ("model", "evaluation", "word"), [(Squeezing, digits(0, 129), "(10,) for 1 images"), (AtMost64, held(), "too many")]
)
def test_batches_are_rehearsed(model, evaluation, word):
    refused(lambda: pipeline(model(), digits(), evaluation, name="sizes", epochs=1), word)
    assert find_record("sizes", "own") is None
    assert pipeline(model(), digits(), held(), name="sizes", epochs=1, batch_size=50).finished


class HalfBackbone(nn.Module):
    """A frozen front in bfloat16, which casts by itself, and a head that learns in float32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.front, self.head = nn.Linear(64, 16).bfloat16().requires_grad_(False), nn.Linear(16, 10)
        self.register_buffer("scale", torch.ones((), dtype=torch.bfloat16))

    def forward(self, x):
        return self.head((self.front(x.flatten(1).bfloat16()) * self.scale).float())


@pytest.mark.parametrize("fast", [False, True])
def test_a_frozen_front_may_be_of_another_number_type(fast):
    model = HalfBackbone()
    record = pipeline(model, digits(), held(), name="half", fast=fast, keep_weights=True, **QUICK)
    assert record.finished and model.front.weight.dtype == torch.bfloat16
    assert record.weights()["scale"].dtype == torch.bfloat16


# ---------------------------------------------------------------- a trial changes nothing of the reader's


def patched():
    """A child whose `forward` was replaced by a function that holds the child itself, which a copy shares."""
    model = normalized()
    child, own = model[2], model[2].forward
    child.forward = lambda x: own(x).relu()
    return model


def locked():
    """A model that cannot be copied."""
    model = mlp()
    model.lock = threading.Lock()
    return model


def half_frozen():
    model = mlp()
    model[1].requires_grad_(False)
    return model


def weight_normed():
    """Weights that are computed cannot be copied either."""
    model = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 10)))
    model(digits().tensors[0])
    return model


@pytest.mark.parametrize(
    ("build", "precision"), [(patched, None), (locked, "fp64"), (half_frozen, "fp64"), (weight_normed, "fp64")]
)
def test_a_refusal_leaves_the_model_as_it_was(build, precision):
    model = build()
    before, modes = state(model), [module.training for module in model.modules()]
    learns = [parameter.requires_grad for parameter in model.parameters()]
    train = partial(pipeline, model, digits(), held(), name="no", precision=precision, loss=lambda *_: 1 / 0)
    refused(partial(train, trainable=("1",)), "ZeroDivisionError")
    assert same(state(model), before)
    assert {value.dtype for value in state(model).values()} <= {torch.float32, torch.int64}
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == learns
    assert all(parameter.grad is None for parameter in model.parameters())
    assert pipeline(model, digits(), held(), name="fine", **QUICK).finished


def test_rehearsal_restores_what_a_copy_shares():
    model = patched()
    before = state(model)
    model[2].requires_grad_(False)
    assert pipeline(model, digits(), held(), name="frozen", **QUICK).finished
    assert all(torch.equal(value, before[key]) for key, value in state(model).items() if key.startswith("2."))


def test_classes_have_an_order_and_stand_in_the_identity():
    names = [f"digit {i}" for i in range(10)]
    assert (
        pipeline(mlp(), digits(), held(), name="named", classes=names, **QUICK).settings["identity"]["labels"] == names
    )
    worded = Listed([(image, names[label]) for image, label in digits()])
    worded.classes = names[::-1]
    record = pipeline(mlp(), Subset(worded, range(150)), Subset(worded, range(150, 200)), name="parts", **QUICK)
    assert record.settings["classes"] == names[::-1]
    other = Listed(worded.items)
    other.classes = names
    refused(lambda: pipeline(mlp(), worded, other, name="no", **QUICK), "classes of the two data sets differ")


def test_different_losses_have_different_descriptions():
    def made(weight, factor=1):
        return lambda outputs, targets: factor * nn.functional.cross_entropy(outputs, targets, weight)

    cross_entropy = nn.functional.cross_entropy
    ones, twos = torch.ones(10), 2 * torch.ones(10)
    losses = [
        made(ones), made(twos), made(ones, 2),
        partial(cross_entropy, label_smoothing=0.1), partial(cross_entropy, label_smoothing=0.2),
        nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(weight=twos),
    ]  # fmt: skip
    told = [str(described(loss)) for loss in losses]
    assert len(set(told)) == len(losses) and not any("0x" in one for one in told)
    assert told[:1] == [str(described(made(torch.ones(10))))]


def test_refusals_of_an_epoch():
    model = InTraining()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    refused(lambda: train_epoch(model, digits(), optimizer), "a tuple", "aux_logits=False")
    model, (images, labels) = mlp(), digits().tensors
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    refused(lambda: train_epoch(model, [(images, labels + 5)], optimizer), "labels 5 to 14", "10 outputs")
    refused(lambda: train_epoch(model, [(images, labels.float())], optimizer), "whole numbers")
    refused(lambda: train_epoch(model, digits(), optimizer, loss=nn.CrossEntropyLoss), "the class CrossEntropyLoss")
    refused(lambda: train_epoch(model, digits(), "Adam"), "torch.optim.Optimizer")
    refused(lambda: train_epoch("model", digits(), optimizer), "torch.nn.Module")
    assert train_epoch(model, [(images, labels.int())], optimizer)["steps"] == 1
    assert torch.equal(extract_features(model, [(images[:9], labels[:9])]), extract_features(model, digits(0, 9)))
