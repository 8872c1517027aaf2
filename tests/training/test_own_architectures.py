"""Architectures of others: trained as they are by a plain loop's numbers, or refused before anything is written."""

from functools import partial

import pytest
import torch
import torchvision
from helpers import QUICK, digits, held, mlp, refused, state
from torch import nn
from torch.utils.data import TensorDataset

from coreFunction import pipeline
from deepnet.records.reading import find_record
from deepnet.speed.convolutions import bf16_autocast
from myModel import replace_head


def pictures(side, images=8, classes=4):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(images, 3, side, side, generator=generator), torch.arange(images) % classes)


# ---------------------------------------------------------------- as they are


class Fourier(nn.Module):
    """Complex weights, a float64 buffer and a buffer of whole numbers, together with float32 weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.filter = nn.Parameter(torch.randn(8, 5, dtype=torch.complex64))
        self.head = nn.Linear(64, 10)
        self.register_buffer("exact", torch.linspace(0, 1, 64, dtype=torch.float64))
        self.register_buffer("order", torch.arange(64))

    def forward(self, x):
        assert self.exact.dtype == torch.float64 and self.filter.is_complex()
        if self.head.weight.dtype == torch.float64:  # the product of float64 and complex64 numbers would be complex128
            return self.head(x.flatten(1)[:, self.order] + self.exact)
        seen = torch.fft.irfft2(torch.fft.rfft2(x[:, 0]) * self.filter, s=(8, 8))
        return self.head(seen.flatten(1)[:, self.order] + self.exact.float())


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("precision", [None, "fp32", "fp64"])
def test_number_types_of_a_model_are_kept(precision, fast):
    model = Fourier()
    before = model.filter.detach().clone()
    pipeline(model, digits(), held(), name="fourier", precision=precision, fast=fast, **QUICK)
    kinds = [tensor.dtype for tensor in (model.filter, model.exact, model.order)]
    assert kinds == [torch.complex64, torch.float64, torch.int64]
    assert model.filter.imag.abs().max() > 0
    if precision != "fp64":
        assert not torch.equal(model.filter, before)


def test_float64_model_stays_float64():
    model = mlp()
    for _ in range(2):
        record = pipeline(model, digits(), held(), name="double", precision="fp64", **QUICK)
        assert record.settings["provenance"]["precision"] == "fp64"
    record = pipeline(model, digits(), held(), name="double", **QUICK)
    assert model[1].weight.dtype == torch.float64 and record.settings["experiment"]["precision"] == "fp64"
    assert pipeline(model, digits(), held(), name="single", precision="fp32", **QUICK).finished
    assert model[1].weight.dtype == torch.float32


class NeedsContiguous(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 10)

    def forward(self, x):
        maps = self.convolution(x)
        assert x.is_contiguous() and maps.is_contiguous()
        return self.head(maps.view(len(x), -1))


class ExtraState(nn.Linear):
    """Keeps a word in its state dict."""

    def get_extra_state(self):
        return {"word": "kept"}

    def set_extra_state(self, state):
        assert state == {"word": "kept"}


class Volume(nn.Module):
    """Weights, but neither a Linear nor a Conv2d."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 10, (1, 8, 8))

    def forward(self, x):
        return self.convolution(x[:, None]).flatten(1)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("build", [
    NeedsContiguous,
    lambda: nn.Sequential(nn.Flatten(), ExtraState(64, 10)),
    Volume,
    lambda: torch.jit.script(mlp()),
    lambda: nn.Sequential(nn.Flatten(), torch.nn.utils.parametrizations.weight_norm(nn.Linear(64, 10))),
], ids=["asserts contiguous maps", "extra state", "no weight layer", "scripted", "weight norm"])  # fmt: skip
def test_models_of_many_kinds_train_and_resume(build, fast, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    record = pipeline(
        build(), digits(), held(), name="kind", patience=2, record_gradients=True, keep_weights=True, fast=fast, **QUICK
    )
    assert record.finished
    assert record.weights()
    row, layers = record.rows[1], record.settings["layers"]
    assert len(row["probe_variance"]) == len(row["gradient_log10_rms"]) == len(layers)


@pytest.mark.parametrize("trainable", [{"fc"}, ["fc"], ("fc",), {"fc": None}.keys()])
def test_children_may_be_named_in_any_collection(trainable):
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(64, 10))
    record = pipeline(model, digits(), held(), name="named", trainable=trainable, **QUICK)
    assert record.settings["experiment"]["trainable"] == ["fc"]


def test_a_layer_has_one_place_in_every_list_of_a_row():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    record = pipeline(model, digits(), held(), name="lists", trainable=("3", "5"), record_gradients=True, **QUICK)
    assert record.settings["layers"] == ["1", "3", "5"]
    row = record.rows[1]
    assert [value is None for value in row["gradient_log10_rms"]] == [True, False, False]
    assert {len(value) for value in row.values() if isinstance(value, list)} == {3}


def test_dead_units_over_tokens():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.head = nn.Linear(8, 6), nn.Linear(48, 10)
            with torch.no_grad():
                self.mix.bias.copy_(torch.tensor([-100.0, -100, -100, 100, 100, 100]))  # half of the units are dead

        def forward(self, x):
            return self.head(torch.relu(self.mix(x[:, 0])).flatten(1))

    record = pipeline(Mixer(), digits(), held(), name="tokens", record_gradients=True, lr=1e-9, epochs=1)
    assert record.rows[0]["probe_dead"][0] == 0.5


@pytest.mark.parametrize(("build", "side", "head"), [
    (lambda: torchvision.models.vit_b_16(num_classes=4, image_size=32), 32, "heads"),
    (lambda: torchvision.models.mnasnet0_5(num_classes=4), 32, "classifier"),
], ids=["vit", "mnasnet"])  # fmt: skip
def test_heads_of_torchvision_models(build, side, head):
    torch.manual_seed(0)
    model = build()
    before = state(model)
    record = pipeline(
        model, pictures(side), pictures(side), name="head", trainable=(head,), epochs=2, patience=1, batch_size=4
    )
    assert record.finished
    assert {key.split(".")[0] for key, value in state(model).items() if not torch.equal(value, before[key])} == {head}


@pytest.mark.parametrize("fast", [False, True])
def test_auxiliary_heads_are_refused(fast, runs_dir):
    model = torchvision.models.googlenet(num_classes=4, init_weights=False)
    train = partial(pipeline, model, pictures(32), pictures(32), name="heads", fast=fast, epochs=1)
    refused(train, "GoogLeNetOutputs", "aux_logits=False")
    assert not runs_dir.exists()


def test_sparse_gradients():
    tokens = torch.randint(0, 7, (40, 5), generator=torch.Generator().manual_seed(0))
    data = TensorDataset(tokens, tokens[:, 0])
    build = lambda: nn.Sequential(nn.Embedding(7, 8, sparse=True), nn.Flatten(), nn.Linear(40, 7))  # noqa: E731
    refused(lambda: pipeline(build(), data, data, name="sparse", **QUICK), "sparse")
    assert find_record("sparse", "own") is None
    assert pipeline(
        build(), data, data, name="sparse", optimizer=lambda p: torch.optim.SGD(p, lr=0.1), epochs=2
    ).finished


# ---------------------------------------------------------------- heads


class Distilled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.head_dist = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(6, 5, bias=False)

    def forward(self, x):
        z = self.body(x)
        return (self.head(z) + self.head_dist(z)) / 2


class Nested(nn.Module):
    """Two heads in one child, inside a wrapper."""

    def __init__(self):
        super().__init__()
        heads = nn.ModuleDict({"head": nn.Linear(6, 5), "head_dist": nn.Linear(6, 5)})
        self.net = nn.ModuleDict({"body": nn.Linear(8, 6), "head": heads})

    def forward(self, x):
        return sum(head(self.net["body"](x)) for head in self.net["head"].values())


class DistilledLists(nn.Module):
    """A list of heads, one for each of two stages, and another for distillation."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Linear(8, 6), nn.Linear(6, 4)])
        self.heads, self.heads_dist = (nn.ModuleList([nn.Linear(6, 5), nn.Linear(4, 5)]) for _ in range(2))

    def forward(self, x):
        wide = self.stages[0](x)
        return sum(first(wide) + second(self.stages[1](wide)) for first, second in (self.heads, self.heads_dist))


class Chain(nn.Module):
    """Layers one after the other, named as heads, or in a list, of as many outputs as there are classes."""

    def __init__(self, listed):
        super().__init__()
        if listed:
            self.layers = nn.ModuleList([nn.Linear(8, 10), nn.Linear(10, 10), nn.Linear(10, 10)])
        else:
            self.fc1, self.fc2 = nn.Linear(8, 10), nn.Linear(10, 10)

    def forward(self, x):
        for layer in self.layers if hasattr(self, "layers") else (self.fc1, self.fc2):
            x = layer(x)
        return x


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("build", "heads"), [
    (Distilled, {"head", "head_dist"}),
    (lambda: nn.Sequential(Distilled()), {"0.head", "0.head_dist"}),
    (Nested, {"net.head.head", "net.head.head_dist"}),
    (DistilledLists, {"heads.0", "heads.1", "heads_dist.0", "heads_dist.1"}),
    # the next layer reads what these give, of as many outputs as there are classes
    (lambda: Chain(listed=False), {"fc2"}),
    (lambda: Chain(listed=True), {"layers.2"}),
    (lambda: nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10)), {"4"}),
], ids=["two", "wrapped", "nested", "lists", "chain", "list", "sequence"])  # fmt: skip
def test_every_head_is_replaced_and_nothing_else(build, heads, dropout):
    model = build()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    for classes in (10, 7):
        assert replace_head(model, classes, dropout).eval()(torch.randn(2, 8)).shape == (2, classes)
    assert {name for name, layer in layers.items() if layer not in set(model.modules())} == heads


def test_model_that_ends_in_a_convolution():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.weigh = nn.Linear(4, 4)

        def forward(self, maps):
            return maps * self.weigh(maps.mean((2, 3))).sigmoid()[:, :, None, None]

    model = nn.Sequential(nn.Conv2d(1, 4, 3), Gate(), nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    kept = list(model.modules())
    refused(lambda: replace_head(model, 4), "ends in the convolution '2'", "Sequential")
    assert list(model.modules()) == kept


def test_head_defined_before_the_body():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(4, 10), nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

    assert replace_head(HeadFirst(), 7)(torch.randn(2, 1, 8, 8)).shape == (2, 7)


def test_dropout_and_bias_of_a_new_head():
    model = replace_head(torchvision.models.efficientnet_b0(), 4)
    for dropout in (0.2, 0.4):
        assert [type(child) for child in model.classifier] == [nn.Dropout, nn.Linear]
        assert model.classifier[0].p == dropout
        replace_head(model, 5, 0.4)
    assert replace_head(nn.Sequential(nn.Flatten(), nn.Linear(8, 3, bias=False)), 4)[1].bias is None


# ---------------------------------------------------------------- second derivatives


@pytest.mark.parametrize("side", [4, 2])
def test_a_gradient_of_a_gradient_in_bf16_is_torch_s(side):
    """A gradient penalty: the slope's own gradient reaches the weights."""
    torch.manual_seed(0)
    layer, x = nn.Conv2d(16, 16, 3, padding=1), torch.randn(4, 16, side, side)
    found = []
    for context in (bf16_autocast(), torch.autocast("cpu", torch.bfloat16)):
        inputs = x.clone().requires_grad_()
        layer.zero_grad()
        with context:
            (slope,) = torch.autograd.grad(layer(inputs).float().square().sum(), inputs, create_graph=True)
        assert slope.requires_grad
        slope.square().sum().backward()
        found.append(layer.weight.grad.clone())
    torch.testing.assert_close(found[0], found[1], rtol=0.05, atol=0.05 * float(found[1].abs().max()))
