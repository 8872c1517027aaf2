"""What is frozen is computed once, and that changes nothing: the split, the cache, the features."""

import copy

import numpy as np
import pytest
import torch
from helpers import QUICK, digits, held, mlp, normed, same, state
from torch import nn
from torch.utils.data import Dataset

from coreFunction import pipeline
from deepnet.data.datasets import as_source
from deepnet.data.sets import load_images
from deepnet.training import frozen_prefix
from deepnet.training.features import extract_features, forward_all
from deepnet.training.frozen_prefix import cached, split
from myModel import MODELS, replace_head, set_train_mode, train_only

CUTS = {("fc",): 9, ("layer4", "fc"): 7, ("layer3", "layer4", "fc"): 6}  # children in the frozen prefix


def resnet(trainable, dropout=0.0):
    torch.manual_seed(0)
    model = replace_head(MODELS["resnet18"](), 10, dropout)
    train_only(model, trainable)
    return model.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------- the split


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("trainable", "children"), CUTS.items())
def test_split_of_resnet(trainable, children, dropout):
    model = resnet(trainable, dropout)
    prefix, rest = split(model)
    assert len(prefix) == children
    assert not any(p.requires_grad for p in prefix.parameters())
    model.eval()
    other = torch.randn(5, 3, 40, 40)  # other images, of another size
    assert torch.equal(rest(prefix(other)), model(other))


def test_split_changes_nothing():
    model = set_train_mode(resnet(("fc",)))
    before, modes = state(model), [m.training for m in model.modules()]
    split(model)
    assert same(before, state(model))
    assert [m.training for m in model.modules()] == modes


class Residual(nn.Module):
    """Does more than its children in turn."""

    def __init__(self):
        super().__init__()
        self.flatten, self.first, self.last = nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = self.flatten(x)
        return self.last(x + self.first(x))


def with_dropout():
    return mlp().insert(3, nn.Dropout(0.5)).insert(1, nn.Dropout(0.5))


FALLS_BACK = {  # why the model is not cut -> how it is built, and what is trained
    "its own forward": (Residual, ("last",)),
    "dropout in front": (with_dropout, ("5",)),
    "nothing frozen": (mlp, None),
    "what learns comes first": (mlp, ("1",)),
}


@pytest.mark.parametrize(("build", "trainable"), FALLS_BACK.values(), ids=FALLS_BACK)
def test_models_that_are_not_split(build, trainable):
    model = build()
    train_only(model, trainable)
    assert split(model) is None
    before = state(model)
    assert pipeline(model, digits(), held(), name="whole", trainable=trainable, **QUICK).finished
    assert not same(before, state(model))


# ---------------------------------------------------------------- training behind the cache


def trained(monkeypatch, model, cut, **options):
    """Weights and rows of a training with or without the frozen prefix cut off."""
    with monkeypatch.context() as patch:
        used = []
        if cut:
            patch.setattr(frozen_prefix, "cached", lambda *a: used.append(a) or cached(*a))
        else:
            patch.setattr(frozen_prefix, "split", lambda *_: None)
        record = pipeline(model, digits(), held(), name="cut" if cut else "whole", fast=True, **QUICK | options)
        assert len(used) == (2 if cut else 0)  # both sets, once each
    return state(model), record


@pytest.mark.parametrize("patience", [None, 2])
def test_cached_linear_layers(monkeypatch, patience):
    """The cache computes the whole set at once and training batches of 32, so products may round differently."""
    results = [
        trained(monkeypatch, mlp(), cut, trainable=("3",), patience=patience, record_gradients=True)
        for cut in (True, False)
    ]
    (cut, cut_record), (whole, whole_record) = results
    for key in cut:
        torch.testing.assert_close(cut[key], whole[key], rtol=1e-4, atol=1e-6)
    assert torch.equal(cut["1.weight"], whole["1.weight"])
    for column in ("train_loss", "validation_accuracy", "gradient_norm_sum"):
        np.testing.assert_allclose(cut_record.column(column), whole_record.column(column), rtol=2e-3)
    assert cut_record.rows[1]["probe_distinct"] == whole_record.rows[1]["probe_distinct"]  # of the whole model, in both


def test_cached_batch_normalization(monkeypatch):
    """Bitwise, since one batch holds the whole set."""
    options = {"trainable": ("5",), "batch_size": 200}
    (cut, _), (whole, _) = (trained(monkeypatch, normed(), cut, **options) for cut in (True, False))
    assert same(cut, whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trainable", CUTS)
def test_cached_prefix_of_resnet(monkeypatch, trainable, precision, with_bf16):
    """Two steps on 32 sample images give bitwise equal weights."""
    data = load_images("cifar10", "train", "sample", 32).subset(range(32))
    options = {"trainable": trainable, "precision": precision, "fast": True}
    options |= {"lr": 1e-3, "optimizer": "SGD", "epochs": 1, "batch_size": 16}
    results = []
    for cut in (True, False):
        model = resnet(trainable)
        with monkeypatch.context() as patch:
            if not cut:
                patch.setattr(frozen_prefix, "split", lambda *_: None)
            assert pipeline(model, data, data, name="resnet", **options).finished
        results.append(state(model))
    assert same(*results)
    assert not torch.equal(results[0]["fc.weight"], state(resnet(trainable))["fc.weight"])


def test_cache_that_does_not_fit():
    source = as_source(digits())
    outputs, targets = forward_all(nn.Flatten(), source, most_bytes=200 * 64 * 4)
    assert outputs.shape == (200, 64) and targets.equal(digits().tensors[1])
    assert forward_all(nn.Flatten(), source, most_bytes=200 * 64 * 4 - 1) is None


@pytest.mark.parametrize("free", [2 * 200 * 64 * 4, 2 * 200 * 64 * 4 - 1])
def test_cache_takes_half_of_the_free_memory(monkeypatch, free):
    monkeypatch.setattr(frozen_prefix, "free_bytes", lambda: free)
    assert (cached(nn.Flatten(), as_source(digits()), "fp32", 500) is not None) == (free % 2 == 0)
    assert len(extract_features(mlp(), digits())) == 200  # which are asked for, however large


def test_memory_format_of_a_cache():
    data = load_images("cifar10", "train", "sample", 32).subset(range(20)).to("cpu", torch.channels_last)
    seen = cached(nn.Sequential(nn.Conv2d(3, 8, 3)).to(memory_format=torch.channels_last), data, "fp32", 500)
    assert seen.inputs.is_contiguous(memory_format=torch.channels_last)
    assert seen.batch(torch.tensor([3, 1]))[0].is_contiguous(memory_format=torch.channels_last)


def test_old_caches_are_dropped(monkeypatch):
    """The newest two are kept, since they may belong to one run."""
    monkeypatch.setattr(frozen_prefix, "free_bytes", lambda: 2.0 * frozen_prefix.MAX_CACHE_BYTES - 1)
    data = load_images("mnist", "train", "sample", 28)
    for start in (0, 10, 20):
        cached(nn.Flatten(), data.subset(range(start, start + 10)), "fp32", 500)
    assert len(frozen_prefix._shared) == 2


def test_memory_formats_share_no_cache():
    data = load_images("cifar10", "train", "sample", 32).subset(range(10))
    prefix = nn.Conv2d(3, 8, 3)
    for layout in (torch.channels_last, torch.contiguous_format):
        seen = cached(prefix.to(memory_format=layout), data.to("cpu", layout), "fp32", 500)
        assert seen.inputs.is_contiguous(memory_format=layout)


def test_both_sets_of_a_run_stay_cached(monkeypatch):
    """The validation set's cache does not displace the training set's; else each run would compute both again."""
    monkeypatch.setattr(frozen_prefix, "MAX_CACHE_BYTES", 60 * 784 * 4)  # both together are more
    data, runs = load_images("mnist", "train", "sample", 28), []
    monkeypatch.setattr(frozen_prefix, "forward_all", lambda *a, **named: runs.append(a) or forward_all(*a, **named))
    for _ in range(3):
        for part in (range(50), range(50, 70)):
            cached(nn.Flatten(), data.subset(part), "fp32", 500)
    assert len(runs) == 2


class Noisy(Dataset):
    """The digits, some of them with noise, another one each time."""

    def __init__(self, clean=0):
        self.clean, self.read = clean, 0

    def __len__(self):
        return 200

    def __getitem__(self, index):
        self.read += 1
        image, label = digits()[index]
        return image if index < self.clean else image + 0.1 * torch.randn_like(image), label


@pytest.mark.parametrize("clean", [0, 150])
@pytest.mark.parametrize("fast", [False, True])
def test_changing_data_are_read_in_each_epoch(fast, clean):
    data = Noisy(clean)
    pipeline(mlp(), data, data, name="noisy", trainable=("3",), fast=fast, **QUICK)
    asked_beforehand = data.read - 200 * (3 + 4)  # three epochs, and an evaluation before them and after each
    assert 0 <= asked_beforehand < 100


def test_cache_frozen():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.flatten, self.first, self.last = nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 10)

        def forward(self, x):
            return self.last(self.first(self.flatten(x)))

    data, weights = Noisy(200), []
    for asked in (False, True):
        model = Chain()
        before = data.read
        pipeline(model, data, data, name="chain", trainable=("last",), cache_frozen=asked, **QUICK)
        weights.append(state(model))
        assert (data.read - before < 2 * 200 + 100) is asked
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-4, atol=1e-6)


class Detached(nn.Module):
    """Gives its middle no gradient, which no comparison of outputs can tell."""

    def __init__(self):
        super().__init__()
        self.front, self.mid, self.head = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.mid(self.front(x.flatten(1))).detach())


class SometimesNoisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.noise = 0
        self.front, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        z = self.front(x.flatten(1))
        if self.training and torch.rand(()) < 0.4:
            self.noise += 1
            z = z + 0.1 * torch.randn_like(z)
        return self.head(z)


class OwnSequential(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 2


class BatchNormAlone(nn.Sequential):
    """Frozen, and yet what it gives depends on the batch."""

    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 10)
        )


def hooked():
    model = mlp()
    model[1].register_forward_hook(lambda _module, _inputs, output: output + torch.rand(()))
    return model


def shared_twice():
    layer = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), layer, layer, nn.Linear(64, 10))


@pytest.mark.parametrize("fast", [False, True])
def test_a_custom_forward_runs_as_it_is_written(fast):
    model = Detached()
    before = state(model)
    pipeline(model, digits(), held(), name="detached", trainable=("mid", "head"), fast=fast, **QUICK)
    assert torch.equal(model.mid.weight, before["mid.weight"]) and not torch.equal(
        model.head.weight, before["head.weight"]
    )
    model = SometimesNoisy()
    pipeline(model, digits(), held(), name="noise", trainable=("head",), fast=fast, **QUICK)
    assert model.noise > 0


@pytest.mark.parametrize(
    ("build", "children"), [(OwnSequential, None), (BatchNormAlone, 2), (hooked, None), (shared_twice, 3)]
)
def test_only_known_chains_are_split(build, children):
    model = build() if build is not OwnSequential else OwnSequential(*mlp())
    last = str(len(model) - 1)
    train_only(model, (last,))
    parts = split(model)
    assert (parts and len(parts[0])) == children
    if parts:
        x = digits(0, 6).tensors[0]
        assert torch.equal(parts[1](parts[0](x)), model(x))


def test_two_parts_of_one_set_share_no_cache():
    """Folds of the same length, as in cross-validation, are other images."""
    data = load_images("mnist", "train", "sample", 28)
    prefix = nn.Flatten()
    for indices in (range(100), range(100, 200)):
        fold = data.subset(indices)
        assert torch.equal(cached(prefix, fold, "fp32", 500).inputs, fold.batch(torch.arange(100))[0].flatten(1))


def test_the_same_prefix_on_the_same_set_runs_once(monkeypatch):
    runs = []
    monkeypatch.setattr(frozen_prefix, "forward_all", lambda *a, **named: runs.append(a) or forward_all(*a, **named))
    data, torch_seed = load_images("mnist", "train", "sample", 28).subset(range(50)), 3
    for weights in (torch_seed, torch_seed, torch_seed + 1):
        torch.manual_seed(weights)
        cached(nn.Sequential(nn.Flatten(), nn.Linear(784, 8)), data, "fp32", 500)
    assert len(runs) == 2


# ---------------------------------------------------------------- features


def test_features_of_resnet():
    model = resnet(("fc",))
    data = load_images("cifar10", "test", "sample", 32).subset(range(40))
    features = extract_features(model, data)
    trunk = copy.deepcopy(model).eval()
    trunk.fc = nn.Identity()
    with torch.no_grad():
        expected = trunk(data.batch(torch.arange(40))[0])
    assert features.shape == (40, 512)
    assert torch.equal(features, expected)
    assert not features.requires_grad


def test_features_are_in_the_order_of_the_images():
    model = mlp()
    data = digits(0, 700)  # more than one batch
    with torch.no_grad():
        expected = model[:3](data.tensors[0])
    torch.testing.assert_close(extract_features(model, data), expected)
    assert not model[3]._forward_pre_hooks
