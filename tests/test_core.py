"""The loop and the pipeline on a reader's own model and data: scikit-learn's digits, real images of 8 x 8 pixels."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from coreFunction import pipeline
from experimentTable import UsageError
from recordFunction import digest
from trainFunction import EarlyStopping, GradientNorms, epoch_batches, evaluate, macro_accuracy, probe, train_epoch

ROOT = Path(__file__).resolve().parent.parent


def digits(start: int, stop: int, labels=lambda y: y) -> TensorDataset:
    data = load_digits()
    images = torch.tensor(data.images[start:stop], dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(images, torch.tensor(labels(data.target[start:stop])))


def small_model(seed: int = 0, outputs: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, outputs))


def trained(name: str = "digits", model: nn.Module | None = None, **options):
    options = {"epochs": 4, "lr": 1e-2, "wandb": False} | options
    return pipeline(small_model() if model is None else model, digits(0, 600), digits(600, 900), name=name, **options)


# ---------------------------------------------------------------- the pieces


@given(st.integers(1, 60), st.integers(1, 70), st.one_of(st.none(), st.integers(1, 12)))
def test_batches_cover_the_images_and_none_is_of_one(images, batch_size, steps):
    batches = epoch_batches(images, batch_size, torch.Generator().manual_seed(0), steps)
    if steps is None:
        assert sorted(torch.cat(batches).tolist()) == list(range(images))
    else:
        assert len(batches) == steps
    if batch_size > 1 and images > 1:
        assert min(map(len, batches)) > 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(1, 6), st.sampled_from([0.0, 0.01, 0.05]))
def test_early_stopping_follows_its_rule(twentieths, patience, min_delta):
    accuracies = [n / 20 for n in twentieths]
    stopping, reference, waited, ended = EarlyStopping(patience, min_delta), 0, 0, None
    for epoch, accuracy in enumerate(accuracies, 1):
        stopping.update(epoch, accuracy)
        gain = round((accuracy - reference) * 100)  # whole hundredths, so that the oracle has no rounding of its own
        reference, waited = (accuracy, 0) if gain > round(min_delta * 100) else (reference, waited + 1)
        if waited >= patience:
            ended = epoch
        assert stopping.over == (ended == epoch)
        if ended:
            break
    seen = accuracies[:ended]
    assert stopping.best_epoch == seen.index(max(seen)) + 1 and stopping.best == max(seen)


def test_fused_gradient_norms_equal_a_norm_a_parameter():
    model, batch = small_model(), digits(0, 64).tensors
    norms = GradientNorms(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    row = train_epoch(model, [batch, batch], optimizer, gradients=norms)
    plain = [p.grad.double().norm() for p in model.parameters()]
    assert row["gradient_norm_sum"] == pytest.approx(2 * float(sum(plain)), rel=1e-6)
    assert row["gradient_norm"] == pytest.approx(float(sum(n**2 for n in plain)) ** 0.5, rel=1e-6)
    rms = [float(layer.weight.grad.double().square().mean().sqrt().log10()) for layer in (model[0], model[4])]
    assert row["gradient_log10_rms"] == pytest.approx(rms, rel=1e-6)
    assert train_epoch(model, [batch], optimizer, gradients=norms)["gradient_norm_sum"] == pytest.approx(float(sum(plain)), rel=1e-6)


def test_macro_accuracy_is_the_mean_over_classes():
    label, given_class = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    assert macro_accuracy(np.stack([label, given_class])) == 0.5


def test_probe_finds_dead_units_variance_and_distinct_outputs():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, -1.0, 1.0]))
    inputs = torch.tensor([[0.0, 0.0], [2.0, 5.0], [2.0, 7.0]])
    found = probe(model, inputs)
    assert found["probe_dead"][0] == pytest.approx(1 / 3)
    assert found["probe_distinct"][0] == 2
    assert found["probe_variance"][0] == pytest.approx(float(torch.tensor([0.0, 2.0, 2.0]).var()) / 3)


# ---------------------------------------------------------------- the pipeline


def test_labels_may_be_any_numbers():
    odd = lambda y: 100 - 7 * y  # noqa: E731
    model = small_model()
    record = pipeline(model, digits(0, 600, odd), digits(600, 900, odd), name="odd", epochs=4, lr=1e-2, wandb=False)
    assert record.result["accuracy"] > 0.7 and record.result["classes"] == 10


def test_words_as_labels_and_images_in_a_list():
    images, labels = digits(0, 300).tensors
    words = [(image, "even" if label % 2 == 0 else "odd") for image, label in zip(images, labels.tolist(), strict=True)]
    record = pipeline(small_model(outputs=2), words[:200], words[200:], name="words", epochs=3, lr=1e-2, wandb=False)
    assert record.result["classes"] == 2 and record.result["accuracy"] > 0.6


def test_rows_hold_what_the_design_says():
    record = trained(record_gradients=True)
    assert [row["epoch"] for row in record.rows] == [0, 1, 2, 3, 4]
    assert "train_loss" not in record.rows[0] and record.rows[0]["probe_distinct"][0] == 256
    expected = {"train_loss", "train_accuracy", "validation_accuracy", "validation_macro_accuracy", "validation_loss", "learning_rate",
                "steps", "train_seconds", "gradient_norm_sum", "gradient_norm", "gradient_log10_rms"}  # fmt: skip
    assert expected <= record.rows[1].keys()
    label, given_class = record.predictions()
    assert (label == given_class).mean() == pytest.approx(record.result["accuracy"], abs=5e-5)
    assert record.result["epoch"] == 4 and record.rows[-1]["validation_accuracy"] == record.result["accuracy"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, second, other = trained("a"), trained("b"), trained("c", seed=1)
    assert first.result["sha256"]["weights.pt"] == second.result["sha256"]["weights.pt"] != other.result["sha256"]["weights.pt"]


def test_early_stopping_restores_the_best_weights():
    model = small_model()
    record = trained(model=model, epochs=30, lr=0.3, patience=3, min_delta=0.01, keep_weights=True)
    accuracies = record.column("validation_accuracy", trained_only=True)
    assert record.result["stopped_early"] and record.result["last_epoch"] < 30
    assert record.result["epoch"] == int(accuracies.argmax()) + 1
    measured, _ = evaluate(model, _source(digits(600, 900)))
    assert round(measured["accuracy"], 4) == accuracies.max() == record.result["accuracy"]
    assert digest(model.state_dict()) == digest(record.weights())


def _source(dataset):
    from featureFunction import as_source

    return as_source(dataset)


def test_frozen_parts_do_not_move_and_the_cached_prefix_changes_nothing():
    class Opaque(nn.Module):  # the same net, in a form whose prefix cannot be cut off
        def __init__(self):
            super().__init__()
            self.net = small_model()

        def forward(self, x):
            return self.net(x)

        def named_children(self):
            return self.net.named_children()

    plain, opaque = small_model(), Opaque()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    trained("cut", model=plain, trainable=("4",))
    trained("whole", model=opaque, trainable=("4",))
    after = plain.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if not key.startswith("4"))
    assert not torch.equal(before["4.weight"], after["4.weight"])
    # The cached features come from chunks of 500 instead of batches of 128; a convolution may round those differently.
    torch.testing.assert_close(after, opaque.net.state_dict(), rtol=1e-4, atol=1e-6)


def test_a_finished_name_is_trained_again_and_the_old_record_moved_aside():
    first = trained()
    second = trained()
    assert second.path == first.path and len(list(first.path.parent.glob("seed-0.*"))) == 1


def test_record_false_leaves_nothing_behind(runs_dir):
    record = trained(record=False)
    assert len(record.rows) == 5 and record.predictions().shape == (2, 300)
    assert not list(runs_dir.rglob("rows.jsonl"))


def test_a_loss_that_is_not_finite_ends_the_run_and_is_recorded(capsys):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = small_model(), 0

        def forward(self, x):
            self.calls += self.training
            return self.net(x) * (float("nan") if self.calls > 7 else 1)

    record = trained(model=Breaks(), patience=9)
    assert record.result["status"] == "failed" and not record.finished
    assert "not finite in epoch 2" in record.result["reason"] and "not finite in epoch 2" in capsys.readouterr().out
    assert record.result["best_epoch"] == 1 and record.rows[-1]["train_loss"] is None
    for line in (record.path / "rows.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


KILLED = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_core import *
import coreFunction
real = coreFunction.train_epoch
def dies(*args, **kwargs):
    row = real(*args, **kwargs)
    dies.left -= 1
    if dies.left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return row
dies.left = {epochs}
coreFunction.train_epoch = dies
torch.set_num_threads(1)
trained("killed", epochs=8, lr=0.05, patience=6, seed=3, resume=True)
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(runs_dir, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    straight = trained("straight", epochs=8, lr=0.05, patience=6, seed=3)
    for epochs in (3, 2):  # killed twice, each time in the middle of an epoch
        code = KILLED.format(tests=str(ROOT / "tests"), epochs=epochs)
        child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert child.returncode == -signal.SIGKILL, child.stderr
    resumed = trained("killed", epochs=8, lr=0.05, patience=6, seed=3, resume=True)
    assert resumed.result["sha256"]["weights.pt"] == straight.result["sha256"]["weights.pt"]
    timeless = [[{k: v for k, v in row.items() if k != "train_seconds"} for row in r.rows] for r in (resumed, straight)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "GSD"}, "unknown optimizer 'GSD'; choose Adam, AdamW, RMSprop or SGD"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"epoch": 3}, "unknown option 'epoch'; choose from"),
        ({"seed": "one"}, "seed must be a whole number of at least 0, got 'one'"),
        ({"trainable": ("head",)}, "unknown child 'head'; choose"),
        ({"name": "a/b"}, "name 'a/b' cannot name a folder"),
        ({"model": small_model(outputs=3)}, "the model gives 3 outputs but the train set has 10 classes"),
        ({"model": nn.Linear(5, 10)}, "the model cannot take a batch of shape (2, 1, 8, 8)"),
    ],
)
def test_bad_options_get_one_line(options, message):
    with pytest.raises(UsageError) as caught:
        trained(**options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "the data set is empty"),
        ([(torch.zeros(1, 8, 8), 0), (torch.zeros(1, 9, 8), 1)] * 4, "images differ in size"),
        ([("no tensor", 0)], "must be (tensor, label) pairs"),
    ],
)
def test_bad_data_get_one_line(dataset, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace(")", r"\)")):
        pipeline(small_model(outputs=2), dataset, dataset, name="bad", wandb=False)


def test_a_batch_larger_than_the_data_works():
    assert trained(batch_size=10_000).rows[-1]["steps"] == 1


def test_a_folder_that_cannot_be_written_is_said_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="set RUNS_DIR to a folder you can write to"):
        trained()


def test_two_processes_do_not_train_one_run(runs_dir):
    from experimentTable import Experiment
    from recordFunction import RunFolder

    with RunFolder(Experiment("digits", lr=1e-2, profile="own"), runs_dir), pytest.raises(UsageError, match="another process"):
        trained()
