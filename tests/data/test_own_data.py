"""A reader's own data and labels: read as they are, as often as training needs, and each image with its own label."""

import random

import numpy as np
import pytest
import torch
from helpers import QUICK, Listed, digits, held, mlp, refused, state, untimed
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from coreFunction import evaluate, extract_features, pipeline, train_epoch


class Counted(Dataset):
    """The digits, and how often each was read."""

    def __init__(self, data):
        self.data, self.reads = data, [0] * len(data)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.data[index]


# ---------------------------------------------------------------- reading


def test_data_are_read_once_per_pass_and_a_few_items_beforehand():
    train, evaluation = Counted(digits()), Counted(held())
    pipeline(mlp(), train, evaluation, name="counted", **QUICK)
    assert sorted(train.reads)[: len(train) - 16] == [3] * (len(train) - 16)
    assert sorted(evaluation.reads)[: len(evaluation) - 16] == [4] * (len(evaluation) - 16)
    assert max(train.reads) < 15 and max(evaluation.reads) < 15


class Drawing(Dataset):
    """Whatever the index, an item drawn at random, as for balanced classes."""

    def __len__(self):
        return 200

    def __getitem__(self, index):
        return digits()[random.randrange(200)]


def test_an_image_keeps_its_own_label_where_items_are_drawn_at_random():
    record = pipeline(mlp(), Drawing(), held(), name="drawn", lr=1e-2, epochs=12, batch_size=32)
    assert record.rows[-1]["train_accuracy"] > 0.8


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_the_same_batches(workers):
    """And several of them draw other random numbers, so what is random is left out."""
    expected = pipeline(mlp(), digits(), held(), name="memory", **QUICK)
    record = pipeline(mlp(), Listed(list(digits())), Listed(list(held())), name="workers", workers=workers, **QUICK)
    assert untimed(record.rows) == untimed(expected.rows)


def test_a_refusal_in_a_worker_is_one_line():
    data = ConcatDataset([digits(0, 40), TensorDataset(torch.zeros(10, 1, 9, 9), torch.arange(10))])
    refused(lambda: pipeline(mlp(), data, held(), name="sizes", workers=1, **QUICK), "differ in size", "resize")


def test_a_loader_gives_its_own_batches():
    loader = DataLoader(digits(), batch_size=50, shuffle=True, generator=torch.Generator())
    records = [
        pipeline(mlp(), loader, DataLoader(held(), batch_size=30), name="loader", lr=1e-2, epochs=2) for _ in range(2)
    ]
    assert [row.get("steps") for row in records[0].rows] == [None, 4, 4]
    assert untimed(records[0].rows) == untimed(records[1].rows)
    assert records[0].predictions().shape == (2, 100)
    refused(
        lambda: pipeline(mlp(), loader, held(), name="loader", workers=2),
        "a DataLoader has workers of its own",
        "num_workers",
    )


@pytest.mark.parametrize(
    "data", [held, lambda: DataLoader(held(), 30), lambda: Listed(list(held())), lambda: Subset(held(), range(100))]
)
def test_what_is_exported_together_takes_the_same_data(data):
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


def test_words_are_refused_by_an_evaluation_that_cannot_know_their_order():
    data = Listed([(image, "even" if label % 2 == 0 else "odd") for image, label in held()])
    refused(lambda: evaluate(mlp(outputs=2), data), "are no output numbers", "classes=(...)")
    _, predictions = evaluate(mlp(outputs=2), data, classes=("odd", "even"))
    assert predictions[0].tolist() == [1 - int(label) % 2 for label in held().tensors[1]]


def test_token_ids_stay_whole_numbers():
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (80, 5))
    data, seen = TensorDataset(tokens, tokens[:, 0]), []
    model = nn.Sequential(nn.Embedding(7, 8), nn.Flatten(), nn.Linear(40, 7))
    model[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].dtype))
    assert pipeline(model, data, data, name="tokens", lr=0.05, epochs=8, batch_size=16).rows[-1]["train_accuracy"] > 0.9
    assert set(seen) == {torch.int64}


class Sized(nn.Module):
    """Notes the largest batch that it sees."""

    def __init__(self):
        super().__init__()
        self.head, self.largest = nn.Linear(64, 10), {}

    def forward(self, x):
        self.largest[self.training] = max(self.largest.get(self.training, 0), len(x))
        return self.head(x.flatten(1))


@pytest.mark.parametrize(("asked", "largest"), [({}, 8), ({"eval_batch_size": 40}, 40)])
@pytest.mark.parametrize("fast", [False, True])
def test_evaluation_follows_the_batch_size_or_its_own(asked, largest, fast):
    model = Sized()
    pipeline(model, digits(), held(), name="sized", epochs=1, batch_size=8, fast=fast, **asked)
    assert model.largest == {True: 8, False: largest}


@pytest.mark.parametrize("call", [evaluate, extract_features])
def test_a_batch_is_no_larger_than_asked_in_evaluation_and_features_either(call):
    model = Sized()
    call(model, digits(0, 100), batch_size=7)
    assert model.largest == {False: 7}


# ---------------------------------------------------------------- labels


def right_already():
    """A model that gives each class's own unit vector that class."""
    model = nn.Linear(10, 10)
    with torch.no_grad():
        model.weight.copy_(torch.eye(10))
        model.bias.zero_()
    return model


def without_class_3(listed):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (400,), generator=generator)
    labels = labels[labels != 3]
    data = TensorDataset(torch.eye(10)[labels], labels)
    return Listed([(image, int(label)) for image, label in data]) if listed else data


@pytest.mark.parametrize("listed", [False, True])
def test_whole_numbers_below_the_number_of_outputs_stay_what_they_are(listed):
    model, data = right_already(), without_class_3(listed)
    record = pipeline(model, data, data, name="absent", lr=1e-4, epochs=2)
    assert [row["validation_accuracy"] for row in record.rows] == [1, 1, 1]
    assert evaluate(model, data)[0]["accuracy"] == 1
    assert set(record.predictions()[0]) == set(range(10)) - {3}
    assert record.settings["classes"] == list(range(10)) and record.result["classes"] == 10
    assert "labels" not in record.settings["identity"]


def test_the_order_of_words_stands_in_the_record():
    words = Listed([(image, ["pear", "apple"][label % 2]) for image, label in digits()])
    record = pipeline(mlp(outputs=2), words, words, name="words", **QUICK)
    assert record.settings["identity"]["labels"] == record.settings["classes"] == ["apple", "pear"]
    record = pipeline(mlp(outputs=2), words, words, name="turned", classes=("pear", "apple"), **QUICK)
    assert record.settings["classes"] == ["pear", "apple"]
    assert record.predictions()[0].tolist() == [label % 2 for _, label in digits()]


def test_words_beside_whole_numbers_are_their_names():
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
def test_a_label_may_be_of_any_type_that_holds_one_number(label):
    data = Listed([(image, label(int(number) % 2)) for image, number in digits()])
    record = pipeline(mlp(outputs=2), data, data, name="typed", **QUICK)
    assert record.predictions()[0].tolist() == [int(number) % 2 for _, number in digits()]


def test_other_numbers_are_numbered_in_ascending_order_and_the_record_says_so():
    data = Listed([(image, 3 * int(label) - 7) for image, label in digits()])
    record = pipeline(mlp(), data, data, name="other", **QUICK)
    assert record.settings["identity"]["labels"] == [3 * i - 7 for i in range(10)]
    assert record.predictions()[0].tolist() == [int(label) for _, label in digits()]


def test_a_label_out_of_range_far_into_the_data_is_refused_and_loses_no_record(runs_dir):
    """Where only a reading of the whole set would have told."""
    record = pipeline(mlp(), digits(), held(), name="dear", **QUICK)
    before = {path: path.read_bytes() for path in record.path.rglob("*") if path.is_file()}
    data = Listed([(image, 12 if i == 101 else label) for i, (image, label) in enumerate(digits())])
    refused(lambda: pipeline(mlp(), data, held(), name="dear", **QUICK), "label 12", "10 outputs")
    assert {path: path.read_bytes() for path in record.path.rglob("*") if path.is_file()} == before
    assert [path.name for path in record.path.parent.iterdir() if path.is_dir()] == ["seed-0"]


# ---------------------------------------------------------------- what a reader brings beside


def test_any_optimizer_schedule_and_loss_are_used_as_a_plain_loop_would():
    make = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)  # noqa: E731
    schedule = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)  # noqa: E731
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    model, plain = mlp().double(), mlp().double()
    data = TensorDataset(digits().tensors[0].double(), digits().tensors[1])
    record = pipeline(
        model,
        DataLoader(data, 40),
        data,
        name="mine",
        epochs=3,
        optimizer=make,
        schedule=schedule,
        loss=loss,
        record_gradients=True,
    )
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


def test_an_optimizer_of_another_model_is_refused():
    other = mlp()
    refused(
        lambda: pipeline(mlp(), digits(), held(), name="no", optimizer=lambda _: torch.optim.Adam(other.parameters())),
        "not the model's",
    )


def test_a_run_is_not_gone_on_with_under_another_schedule_or_loss(monkeypatch):
    import coreFunction

    step = lambda gamma: lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma)  # noqa: E731
    options = {"schedule": step(0.5), "loss": nn.CrossEntropyLoss(label_smoothing=0.1), "name": "begun", "epochs": 3}
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    calls, real = iter(range(99)), coreFunction.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(coreFunction, "evaluate", lambda *a, **k: 1 / 0 if next(calls) == 2 else real(*a, **k))
        with pytest.raises(ZeroDivisionError):
            pipeline(mlp(), digits(), held(), **options)
    for other in ({"schedule": step(0.1)}, {"loss": nn.CrossEntropyLoss()}, {"optimizer": torch.optim.Adam}):
        refused(
            lambda other=other: pipeline(mlp(), digits(), held(), resume=True, **options | other),
            "holds another run named begun",
        )
    assert pipeline(mlp(), digits(), held(), resume=True, **options).finished


@pytest.mark.parametrize("per_step", [False, True])
def test_a_schedule_goes_on_where_it_was(monkeypatch, per_step):
    import coreFunction

    def trained(name):
        schedule = lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 9], 0.1)  # noqa: E731
        options = {
            "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            "schedule": schedule,
            "schedule_per_step": per_step,
        }
        return pipeline(mlp(), digits(), held(), name=name, epochs=4, resume=True, keep_weights=True, **options)

    straight = trained("straight")
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    calls, real = iter(range(99)), coreFunction.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(coreFunction, "evaluate", lambda *a, **k: 1 / 0 if next(calls) == 3 else real(*a, **k))
        with pytest.raises(ZeroDivisionError):
            trained("cut")
    cut = trained("cut")
    assert untimed(cut.rows) == untimed(straight.rows)
    assert all(torch.equal(value, straight.weights()[key]) for key, value in cut.weights().items())


def test_a_plateau_schedule_goes_by_the_evaluation_loss():
    schedule = lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)  # noqa: E731
    record = pipeline(mlp(), digits(), held(), name="plateau", epochs=3, schedule=schedule)
    assert record.column("learning_rate", trained_only=True).tolist() == pytest.approx([1e-3, 1e-4, 1e-5])


def test_a_second_call_says_that_it_goes_on_with_trained_weights(capsys):
    model = mlp()
    first = pipeline(model, digits(), held(), name="twice", **QUICK)
    assert "begins with the weights" not in capsys.readouterr().out
    second = pipeline(model, digits(), held(), name="twice", **QUICK)
    assert "twice: begins with the weights that twice left in this model; make it anew" in capsys.readouterr().out
    assert (
        second.settings["initial_weights"] == first.result["sha256"]["weights.pt"] != first.settings["initial_weights"]
    )
    pipeline(mlp(), digits(), held(), name="twice", **QUICK)
    assert "begins with the weights" not in capsys.readouterr().out


def test_a_refusal_leaves_the_model_as_it_was():
    model = mlp().train()
    model[1].requires_grad_(False)
    before, modes = state(model), [module.training for module in model.modules()]
    refused(
        lambda: pipeline(model, digits(), held(), name="no", trainable=("3",), loss=lambda *_: 1 / 0),
        "ZeroDivisionError",
    )
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
