"""A reader's own data and labels: read as they are, as often as training needs, each image with its own label."""

import random

import numpy as np
import pytest
import torch
from helpers import QUICK, Listed, cut_off, digits, held, mlp, refused, same, untimed
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from coreFunction import evaluate, extract_features, pipeline, train_epoch


class Counted(Listed):
    """Counts how often each item is read."""

    def __init__(self, data):
        super().__init__(list(data))
        self.reads = [0] * len(data)

    def __getitem__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)


# ---------------------------------------------------------------- reading


def test_readings():
    """Items are read once per epoch, and a few of them beforehand."""
    train, evaluation = Counted(digits()), Counted(held())
    pipeline(mlp(), train, evaluation, name="counted", **QUICK)
    assert sorted(train.reads)[: len(train) - 16] == [3] * (len(train) - 16)
    assert sorted(evaluation.reads)[: len(evaluation) - 16] == [4] * (len(evaluation) - 16)
    assert max(train.reads) < 15 and max(evaluation.reads) < 15
    loaded = Counted(digits())
    pipeline(mlp(), DataLoader(loaded, 50), held(), name="counted", epochs=2)
    assert 2 * 200 <= sum(loaded.reads) <= 2 * 200 + 50 + 16  # its first batch once more


class Drawing(Dataset):
    """Returns a random item for any index, as a sampler for balanced classes would."""

    def __len__(self):
        return 200

    def __getitem__(self, index):
        return digits()[random.randrange(200)]


def test_images_keep_their_labels():
    record = pipeline(mlp(), Drawing(), held(), name="drawn", lr=1e-2, epochs=12, batch_size=32)
    assert record.rows[-1]["train_accuracy"] > 0.8


@pytest.mark.parametrize("workers", [0, 2])
def test_workers(workers):
    expected = pipeline(mlp(), digits(), held(), name="memory", **QUICK)
    record = pipeline(mlp(), Listed(list(digits())), Listed(list(held())), name="workers", workers=workers, **QUICK)
    assert untimed(record.rows) == untimed(expected.rows)


def test_refusal_in_a_worker():
    data = ConcatDataset([digits(0, 40), TensorDataset(torch.zeros(10, 1, 9, 9), torch.arange(10))])
    refused(lambda: pipeline(mlp(), data, held(), name="sizes", workers=1, **QUICK), "differ in size", "resize")


def test_loader_gives_its_own_batches():
    loader = DataLoader(digits(), batch_size=50, shuffle=True, generator=torch.Generator())
    options = {"name": "loader", "lr": 1e-2, "epochs": 2}
    records = [pipeline(mlp(), loader, DataLoader(held(), batch_size=30), **options) for _ in range(2)]
    assert records[0].settings["experiment"]["batch_size"] == 50
    assert [row.get("steps") for row in records[0].rows] == [None, 4, 4]
    assert untimed(records[0].rows) == untimed(records[1].rows)
    assert records[0].predictions().shape == (2, 100)
    message = "a DataLoader has workers of its own; set num_workers there"
    refused(lambda: pipeline(mlp(), loader, held(), workers=2, **options), message)


@pytest.mark.parametrize(
    "data", [held, lambda: DataLoader(held(), 30), lambda: Listed(list(held())), lambda: Subset(held(), range(100))]
)
def test_all_functions_take_the_same_data(data):
    model = mlp()
    images, labels = held().tensors
    measured, predictions = evaluate(model, data())
    with torch.no_grad():
        expected = model(images).argmax(1)
    assert predictions.tolist() == [labels.tolist(), expected.tolist()]
    assert measured["accuracy"] == float((expected == labels).double().mean())
    torch.testing.assert_close(extract_features(model, data()), model[:3](images).detach())
    losses = [train_epoch(model, data(), torch.optim.Adam(model.parameters(), lr=0.01))["train_loss"] for _ in range(5)]
    assert losses[-1] < losses[0]


def test_evaluation_with_words():
    data = Listed([(image, "even" if label % 2 == 0 else "odd") for image, label in held()])
    refused(lambda: evaluate(mlp(outputs=2), data), "are not output numbers", "classes=(...)")
    _, predictions = evaluate(mlp(outputs=2), data, classes=("odd", "even"))
    assert predictions[0].tolist() == [1 - int(label) % 2 for label in held().tensors[1]]


def test_token_ids():
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (80, 5))
    data, seen = TensorDataset(tokens, tokens[:, 0]), []
    model = nn.Sequential(nn.Embedding(7, 8), nn.Flatten(), nn.Linear(40, 7))
    model[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].dtype))
    assert pipeline(model, data, data, name="tokens", lr=0.05, epochs=8, batch_size=16).rows[-1]["train_accuracy"] > 0.9
    assert set(seen) == {torch.int64}


class Sized(nn.Module):
    """Records the largest batch that it sees in training and in evaluation."""

    def __init__(self):
        super().__init__()
        self.head, self.largest = nn.Linear(64, 10), {}

    def forward(self, x):
        self.largest[self.training] = max(self.largest.get(self.training, 0), len(x))
        return self.head(x.flatten(1))


@pytest.mark.parametrize(("asked", "largest"), [({}, 8), ({"eval_batch_size": 40}, 40)])
@pytest.mark.parametrize("fast", [False, True])
def test_evaluation_batches(asked, largest, fast):
    model = Sized()
    pipeline(model, digits(), held(), name="sized", epochs=1, batch_size=8, fast=fast, record_gradients=True, **asked)
    assert model.largest == {True: 8, False: largest}
    for call in (evaluate, extract_features):
        model = Sized()
        call(model, digits(0, 100), batch_size=7)
        assert model.largest == {False: 7}


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "kind", [TensorDataset, lambda *tensors: Listed([(x, int(y)) for x, y in zip(*tensors, strict=True)])]
)
def test_whole_numbers_stay_what_they_are(kind):
    """Though class 3 has no images, which the model gets right before and after training."""
    model = nn.Linear(10, 10)
    with torch.no_grad():
        model.weight.copy_(torch.eye(10))
        model.bias.zero_()
    labels = torch.randint(10, (400,), generator=torch.Generator().manual_seed(0))
    labels = labels[labels != 3]
    data = kind(torch.eye(10)[labels], labels)
    record = pipeline(model, data, data, name="absent", lr=1e-4, epochs=2)
    assert [row["validation_accuracy"] for row in record.rows] == [1, 1, 1]
    assert evaluate(model, data)[0]["accuracy"] == 1
    assert set(record.predictions()[0]) == set(range(10)) - {3}
    assert record.settings["classes"] == list(range(10)) and record.result["classes"] == 10
    assert "labels" not in record.settings["identity"]


def test_words():
    words = Listed([(image, ["pear", "apple"][label % 2]) for image, label in digits()])
    record = pipeline(mlp(outputs=2), words, words, name="words", **QUICK)
    assert record.settings["identity"]["labels"] == record.settings["classes"] == ["apple", "pear"]
    record = pipeline(mlp(outputs=2), words, words, name="turned", classes=("pear", "apple"), **QUICK)
    assert record.settings["classes"] == ["pear", "apple"]
    assert record.predictions()[0].tolist() == [label % 2 for _, label in digits()]


def test_names_of_whole_numbers():
    names = [f"digit {i}" for i in range(10)]
    record = pipeline(mlp(), digits(), held(), name="named", classes=names, **QUICK)
    assert record.settings["classes"] == names
    assert record.predictions()[0].tolist() == held().tensors[1].tolist()
    data = Listed(list(digits()))
    data.classes = names  # as torchvision's data sets have them
    assert pipeline(mlp(), data, data, name="named", **QUICK).settings["classes"] == names


@pytest.mark.parametrize(
    "label", [int, float, np.int64, torch.tensor, lambda y: torch.tensor([y]), lambda y: np.array([y]), bool]
)
def test_types_of_labels(label):
    data = Listed([(image, label(int(number) % 2)) for image, number in digits()])
    record = pipeline(mlp(outputs=2), data, data, name="typed", **QUICK)
    assert record.predictions()[0].tolist() == [int(number) % 2 for _, number in digits()]


def test_other_numbers():
    data = Listed([(image, 3 * int(label) - 7) for image, label in digits()])
    record = pipeline(mlp(), data, data, name="other", **QUICK)
    assert record.settings["identity"]["labels"] == [3 * i - 7 for i in range(10)]
    assert record.predictions()[0].tolist() == [int(label) for _, label in digits()]


# ---------------------------------------------------------------- a reader's own optimizer, schedule and loss


def test_own_optimizer_schedule_and_loss():
    """They do what they do in a plain loop."""
    make = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)  # noqa: E731
    schedule = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)  # noqa: E731
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    model, plain = mlp().double(), mlp().double()
    data = TensorDataset(digits().tensors[0].double(), digits().tensors[1])
    options = {"optimizer": make, "schedule": schedule, "loss": loss, "record_gradients": True}
    record = pipeline(model, DataLoader(data, 40), data, name="mine", epochs=3, **options)
    optimizer = make(plain.parameters())
    rates = schedule(optimizer)
    for _ in range(3):
        for images, labels in DataLoader(data, 40):
            optimizer.zero_grad()
            loss(plain(images), labels).backward()
            optimizer.step()
        rates.step()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert record.column("learning_rate", trained_only=True).tolist() == [0.1, 0.05, 0.025]
    identity = record.settings["identity"]
    assert (identity["optimizer"], identity["groups"][0]["momentum"], identity["lr"]) == ("SGD", 0.9, 0.1)
    assert (identity["loss"]["type"], identity["loss"]["label_smoothing"]) == ("CrossEntropyLoss", 0.1)
    assert (identity["schedule"]["type"], identity["schedule"]["gamma"]) == ("StepLR", 0.5)


@pytest.mark.parametrize("per_step", [False, True])
def test_resuming_a_schedule(per_step):
    options = {
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "schedule": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 9], 0.1),
        "schedule_per_step": per_step, "epochs": 4, "resume": True, "keep_weights": True,
    }  # fmt: skip
    straight = pipeline(mlp(), digits(), held(), name="straight", **options)
    with cut_off(3):
        pipeline(mlp(), digits(), held(), name="cut", **options)
    cut = pipeline(mlp(), digits(), held(), name="cut", **options)
    assert untimed(cut.rows) == untimed(straight.rows)
    assert same(cut.weights(), straight.weights())


def test_plateau_schedule():
    schedule = lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)  # noqa: E731
    record = pipeline(mlp(), digits(), held(), name="plateau", epochs=3, schedule=schedule)
    assert record.column("learning_rate", trained_only=True).tolist() == pytest.approx([1e-3, 1e-4, 1e-5])


def test_training_a_trained_model(capsys):
    """A second call says that the model is trained already."""
    model, notice = mlp(), "twice: starts from the weights that twice left in this model; build it again"
    first = pipeline(model, digits(), held(), name="twice", **QUICK)
    assert notice not in capsys.readouterr().out
    second = pipeline(model, digits(), held(), name="twice", **QUICK)
    assert notice in capsys.readouterr().out
    left = first.result["sha256"]["weights.pt"]
    assert second.settings["initial_weights"] == left != first.settings["initial_weights"]
    pipeline(mlp(), digits(), held(), name="twice", **QUICK)
    assert notice not in capsys.readouterr().out
