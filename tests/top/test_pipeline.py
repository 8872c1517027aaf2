"""`pipeline`: any model on any data, restored and last weights, and losses that are not finite."""

import numpy as np
import pytest
import torch
from helpers import QUICK, cut_off, digits, held, mlp, normed, refused, same, state
from torch import nn
from torch.utils.data import TensorDataset

from coreFunction import pipeline
from deepnet.data.sets import load_images
from deepnet.training.metrics import accuracy

# ---------------------------------------------------------------- any model, any data


def test_a_record_says_what_was_done(runs_dir):
    record = pipeline(mlp(), digits(), held(), name="digits", record_gradients=True, **QUICK)
    assert record.path == runs_dir / "own" / "digits" / "seed-0"
    assert [row["epoch"] for row in record.rows] == [0, 1, 2, 3]
    assert [row.get("steps") for row in record.rows] == [None, 7, 7, 7]
    assert {key for key in record.rows[0] if key.startswith(("train", "gradient"))} == set()
    assert len(record.rows[0]["probe_variance"]) == len(record.rows[1]["gradient_log10_rms"]) == 2
    assert record.result["status"] == "finished"
    assert record.result["accuracy"] == record.rows[3]["validation_accuracy"] > record.rows[0]["validation_accuracy"]
    assert accuracy(record.predictions()) == pytest.approx(record.result["accuracy"], rel=1e-3)
    assert record.predictions()[0].tolist() == held().tensors[1].tolist()
    assert (record.settings["experiment"]["lr"], record.settings["experiment"]["precision"]) == (1e-2, "fp32")
    assert len(record.settings["provenance"]["commit"] or "") in (0, 40)
    files = {"settings.json", "rows.jsonl", "result.json", "predictions.npy"}
    assert {path.name for path in record.path.iterdir()} == files


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((3, 12, 9), torch.float32), ((1, 8, 8), torch.float64), ((2, 5, 5), torch.uint8), ((7,), torch.float32)],
)
def test_shapes_and_types_of_images(shape, kind):
    generator = torch.Generator().manual_seed(0)
    images = (255 * torch.rand(40, *shape, generator=generator)).to(kind)
    data = TensorDataset(images, torch.arange(40) % 4)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    record = pipeline(model, data, data, name="shaped", **QUICK)
    assert record.finished
    assert record.predictions().shape == (2, 40)


def test_more_outputs_than_classes():
    """300 outputs, and the last is the largest: more than a byte holds."""
    model = mlp(outputs=300)
    with torch.no_grad():
        model[3].bias[299] = 1000.0
    record = pipeline(model, digits(), held(), name="wide", lr=1e-9, epochs=1)
    assert record.predictions()[1].tolist() == [299] * 100


def test_tied_weights_and_moving_buffers():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
            self.again = self.body
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x):
            if self.training:
                self.passes += 1
            return self.head(torch.relu(self.again(torch.relu(self.body(x.flatten(1))))))

    model = Counting()
    assert pipeline(model, digits(), held(), name="tied", **QUICK).finished
    assert model.passes == 21


@pytest.mark.parametrize("batch_size", [1000, 199, 64, 1])
def test_batch_sizes(batch_size):
    """200 images in batches of 199 would leave one, which batch normalization at 1 x 1 cannot train on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    if batch_size == 1:  # batches of one are what was asked for; only the last one grows
        model = mlp()
    record = pipeline(model, digits(), held(), name="batches", epochs=1, batch_size=batch_size)
    assert record.rows[1]["steps"] == {1000: 1, 199: 1, 64: 4, 1: 199}[batch_size]


# ---------------------------------------------------------------- which weights stay


def test_without_early_stopping_the_last_weights_stay():
    model = mlp()
    record = pipeline(model, digits(), held(), name="last", lr=0.1, epochs=5, batch_size=32, keep_weights=True)
    assert record.result["best_epoch"] != record.result["last_epoch"]  # else the test would show nothing
    assert record.result["epoch"] == 5
    assert record.result["accuracy"] == record.rows[5]["validation_accuracy"] < record.result["best_accuracy"]
    assert same(record.weights(), state(model))


def test_early_stopping_restores_the_best_weights():
    """They are those of a run that ends at the best epoch, and result and predictions are theirs."""
    options = {"lr": 0.3, "batch_size": 32}
    model = mlp()
    record = pipeline(
        model, digits(), held(), name="stopped", epochs=30, patience=3, min_delta=0.01, keep_weights=True, **options
    )
    best = record.result["best_epoch"]
    assert record.result["stopped_early"]
    assert record.result["epoch"] == best < record.result["last_epoch"] < 30
    assert best == 1 + int(np.argmax(record.column("validation_accuracy", trained_only=True)))
    assert record.result["accuracy"] == record.result["best_accuracy"] == record.rows[best]["validation_accuracy"]
    assert accuracy(record.predictions()) == pytest.approx(record.result["accuracy"])
    shorter = mlp()
    pipeline(shorter, digits(), held(), name="shorter", epochs=best, **options)
    assert same(state(model), state(shorter))
    assert same(state(model), record.weights())


@pytest.mark.parametrize(("trainable", "patience"), [
    (("5",), None), (("5",), 5),
    (("0", "5"), None),  # the frozen batch statistics lie behind what learns, so that nothing can be cut off in front
    (("1", "5"), None),  # the batch statistics are not frozen
])  # fmt: skip
def test_frozen_children_and_their_batch_statistics_do_not_move(trainable, patience):
    model = normed()
    before = state(model)
    pipeline(model, digits(), held(), name="frozen", trainable=trainable, patience=patience, **QUICK)
    moved = {key for key, value in state(model).items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if key.startswith(trainable)}


class Leaking(nn.Module):
    """Moves a weight of its frozen first layer by a hair in its second training step."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.steps = nn.Linear(64, 16), nn.Linear(16, 10), 0

    def forward(self, x):
        self.steps += self.training
        if self.training and self.steps == 2:
            self.first.weight.data[0, 0] += 1e-6
        return self.last(torch.relu(self.first(x.flatten(1))))


@pytest.mark.parametrize("patience", [None, 2])
def test_frozen_weight_that_changes(patience, capsys):
    """One step per epoch is so small that no accuracy changes, so the first epoch is the best, before the change."""
    torch.manual_seed(0)
    options = {"lr": 1e-12, "epochs": 5, "batch_size": 200, "trainable": ("last",), "patience": patience}
    record = pipeline(Leaking(), digits(), held(), name="leaking", keep_weights=True, **options)
    assert record.result["best_epoch"] == 1
    assert record.result["status"] == "failed"
    assert record.result["reason"] == "frozen weights or statistics changed in training: first.weight"
    assert "leaking (seed 0) failed: frozen weights" in capsys.readouterr().out
    assert not record.has_weights


def test_frozen_weight_that_changed_before_an_interrupt():
    options = {"lr": 1e-12, "epochs": 5, "batch_size": 200, "trainable": ("last",)}
    torch.manual_seed(0)
    with cut_off(4):
        pipeline(Leaking(), digits(), held(), name="leaking", **options)
    later = Leaking()
    later.steps = 2  # it has moved, and will not again
    record = pipeline(later, digits(), held(), name="leaking", resume=True, **options)
    assert record.result["reason"] == "frozen weights or statistics changed in training: first.weight"


@pytest.mark.parametrize("keep", [False, True])
def test_weights_are_kept_on_request_and_hashed_in_any_case(keep):
    record = pipeline(mlp(), digits(), held(), name="kept", keep_weights=keep, **QUICK)
    assert record.has_weights is keep
    assert len(record.result["sha256"]["weights.pt"]) == 64
    if not keep:
        refused(record.weights, "kept (seed 0) has no weights", "keep_weights=True")


# ---------------------------------------------------------------- a loss that is not finite


@pytest.mark.parametrize("patience", [None, 2])
def test_non_finite_loss(capsys, patience):
    """The first epoch's only step makes the weights NaN after its loss was taken; NaN must not be the best."""
    data = TensorDataset(torch.cat([digits().tensors[0][:-1], torch.full((1, 1, 8, 8), 1e30)]), digits().tensors[1])
    record = pipeline(
        mlp(), data, held(), name="nan", lr=1e30, epochs=5, batch_size=200, optimizer="SGD", patience=patience
    )
    result = record.result
    assert result["status"] == "failed"
    assert not record.finished
    assert "is not finite in epoch 1" in result["reason"]
    assert "lower learning rate than 1e+30" in result["reason"]
    assert result["last_epoch"] == 1
    assert f"nan (seed 0) failed: {result['reason']}" in capsys.readouterr().out
    assert "failed, the" in repr(record)
    assert not record.has_weights


def test_non_finite_validation_loss():
    """The training loss is taken before the epoch's only step, which breaks the weights; the evaluation notices."""
    options = {"lr": 1e38, "epochs": 5, "batch_size": 200, "optimizer": "SGD", "patience": 3}
    record = pipeline(mlp(), digits(), held(), name="late", keep_weights=True, **options)
    assert record.rows[1]["train_loss"] is not None
    assert record.rows[1]["validation_loss"] is None
    assert record.result["status"] == "failed"
    assert "the validation loss is not finite in epoch 1" in record.result["reason"]
    assert not record.has_weights


def test_a_loss_of_exactly_zero_is_a_good_one():
    """Logits so far apart that float32's cross-entropy is 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(1000 * torch.eye(10))
    data = TensorDataset(torch.eye(10), torch.arange(10))
    record = pipeline(model, data, data, name="zero", epochs=2)
    assert record.rows[1]["train_loss"] == 0
    assert record.finished


class Views(nn.Module):
    """Flattens by `view`, which channels-last maps do not allow, as torch's own tutorial does."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(4 * 14 * 14, 10)

    def forward(self, x):
        return self.head(self.features(x).view(-1, 4 * 14 * 14))


class ViewsInTraining(Views):
    def forward(self, x):
        return super().forward(x) if self.training else self.head(self.features(x).flatten(1))


@pytest.mark.parametrize("model", [Views, ViewsInTraining])
@pytest.mark.parametrize("batched", [True, False])
def test_model_that_needs_contiguous_maps(model, batched):
    data = load_images("cifar10", "train", "sample", 32).subset(range(40))
    images = data if batched else TensorDataset(data.batch(torch.arange(40))[0], data.labels)
    record = pipeline(model(), images, images, name="views", epochs=2, batch_size=20, wandb=False)
    first, second = record.column("train_loss", trained_only=True)
    assert second < first


@pytest.mark.parametrize(("fast", "layout"), [(False, torch.contiguous_format), (True, torch.channels_last)])
def test_memory_format_of_convolutions(fast, layout):
    seen = []
    data = load_images("cifar10", "train", "sample", 32).subset(range(40))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    model[0].register_forward_hook(lambda _m, inputs, output: seen.append((inputs[0], output)))
    pipeline(model, data, data, name="last", epochs=1, batch_size=20, fast=fast, wandb=False)
    batches = seen[-4:]  # two steps, and the evaluation after them
    assert all(x.is_contiguous(memory_format=layout) for pair in batches for x in pair)
