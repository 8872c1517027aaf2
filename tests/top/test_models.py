"""Blocks and models, against the report's numbers: the registry is walked with an oracle."""

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import myModel
from deepnet.training.frozen_prefix import frozen_digests
from experimentTable import UsageError
from modelBlock import ResidualBlock, chain, plain_block, residual_block
from myModel import (
    CNN,
    MLP,
    MODELS,
    count_modules,
    count_parameters,
    initialise,
    model_table,
    replace_head,
    set_train_mode,
    train_only,
    weight_layers,
)

PARAMETERS = {
    "MLP_4": 1_083_338, "MLP_13": 1_120_778, "MLP_23": 1_162_378, "MLP_33": 1_203_978, "MLP_res_5": 1_284_298,
    "MLP_res_15": 1_338_186, "MLP_res_35": 1_421_386, "MLP_res_55": 18_168_714, "MLP_res_96": 129_396_938,
    "CNN_10": 340_954, "CNN_13": 4_758_298, "CNN_30": 10_214_722, "CNN_res_16": 4_776_090, "CNN_res_35": 10_258_498,
    "CNN_res_56": 11_123_290, "resnet18": 11_181_642,
}  # fmt: skip
SIZES = (32, 64, 128)
CONV = partial(nn.Conv2d, kernel_size=3, padding=1)
widths_lists = st.lists(st.integers(1, 12), min_size=2, max_size=6)
quick = settings(max_examples=30, deadline=None)


def build(name: str, image_size: int = 32, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return MODELS[name](image_size=image_size)


def images(name: str, count: int, image_size: int = 32, device: str = "cpu") -> torch.Tensor:
    shape = (1, 28, 28) if name.startswith("MLP") else (3, image_size, image_size)
    return torch.randn(count, *shape, device=device)


# ---------------------------------------------------------------- the blocks


@quick
@given(widths_lists)
def test_a_chain_has_relu_between_layers_and_none_after_the_last(widths):
    modules = list(chain(widths, nn.Linear))
    assert [(m.in_features, m.out_features) for m in modules[::2]] == list(pairwise(widths))
    assert all(isinstance(m, nn.ReLU) for m in modules[1::2])
    assert len(modules) == 2 * len(widths) - 3
    assert isinstance(plain_block(widths, nn.Linear)[-1], nn.ReLU)


@quick
@given(widths_lists, st.integers(1, 3), st.integers(1, 6))
def test_blocks_of_convolutions_keep_the_image_and_end_in_a_relu(widths, count, side):
    x = torch.randn(count, widths[0], side, side)
    for block in (
        plain_block(widths, CONV),
        residual_block(widths, CONV, partial(nn.Conv2d, kernel_size=1)),
    ):
        y = block(x)
        assert y.shape == (count, widths[-1], side, side)
        assert (y >= 0).all()


@quick
@given(widths_lists)
def test_a_residual_block_projects_only_where_widths_differ(widths):
    block = residual_block(widths, nn.Linear, nn.Linear)
    x = torch.randn(3, widths[0])
    assert isinstance(block.shortcut, nn.Identity if widths[0] == widths[-1] else nn.Linear)
    assert torch.equal(block(x), torch.relu(block.body(x) + block.shortcut(x)))


def test_a_chain_of_one_width_is_refused():
    with pytest.raises(UsageError, match="at least two widths"):
        chain([5], nn.Linear)


# ---------------------------------------------------------------- the registry


def of_all_sizes(names):
    return [(name, size) for name in names for size in SIZES if size == 32 or not name.startswith("MLP")]


@pytest.mark.parametrize("name, size", of_all_sizes(PARAMETERS))
def test_the_reports_nets_have_the_reports_counts(name, size):
    model = build(name, size, "meta")
    modules = {"resnet18": 23, "MLP_res_55": 54}.get(name) or int(name.split("_")[-1])  # 55 is a slip of the report
    assert count_modules(model) == modules
    assert count_parameters(model) == PARAMETERS[name]


@pytest.mark.parametrize("name, size", of_all_sizes(MODELS))
def test_shapes(name, size):
    assert build(name, size, "meta")(images(name, 2, size, "meta")).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    device = "meta" if name == "MLP_res_96" else "cpu"  # its weights and gradients would take 1 GB
    model = build(name, device=device)
    model(images(name, 2, device=device)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.is_meta or parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_weight_layers_stand_in_the_order_of_the_forward_pass(name):
    model = build(name, device="meta")
    order = []
    for layer_name, layer in weight_layers(model):
        layer.register_forward_hook(lambda *_, layer_name=layer_name: order.append(layer_name))
    model(images(name, 2, device="meta"))
    assert order == [layer_name for layer_name, _ in weight_layers(model)]


@pytest.mark.parametrize("name, left_over", [("MLP_res_5", 2), ("MLP_res_15", 1), ("MLP_res_96", 2)])
def test_what_pairing_leaves_over_is_the_plain_last_block(name, left_over):
    model = build(name, device="meta")
    assert all(isinstance(block, ResidualBlock) for block in model.blocks)
    assert count_modules(model.last) == left_over
    assert isinstance(model.last[-1], nn.Linear)


def test_poolings_scale_with_the_image():
    def sides(size):
        features = build("CNN_30", size, "meta").features
        return [module.output_size for module in features if isinstance(module, nn.AdaptiveMaxPool2d)]

    assert [sides(size) for size in SIZES] == [[16, 8, 4, 4, 4], [32, 16, 8, 4, 4], [64, 32, 16, 8, 4]]


def test_a_residual_cnn_has_the_plain_ones_convolutions():
    def convolutions(name):
        layers = weight_layers(build(name, device="meta"))
        return [m.weight.shape for layer_name, m in layers if not layer_name.endswith("shortcut")]

    assert convolutions("CNN_13") == convolutions("CNN_res_16")
    assert convolutions("CNN_30") == convolutions("CNN_res_35")


@pytest.mark.parametrize("widths", [[7, 3], [7, 5, 3], [7, 7, 7, 3]])
@pytest.mark.parametrize("residual", [False, True])
def test_an_mlp_of_any_depth_flattens_and_gives_both_signs(widths, residual):
    torch.manual_seed(0)
    y = MLP(widths, residual)(torch.randn(64, 1, 7))
    assert y.shape == (64, 3)
    assert y.min() < 0 < y.max()


def test_layouts_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="start with 4096, the 256 channels of 4 x 4"):
        CNN(myModel.CNN_13, [1024, 10])
    with pytest.raises(UsageError, match="start with the 8 channels"):
        CNN([[3, 8], 4, [16, 32]], [512, 10])
    with pytest.raises(UsageError, match="no block"):
        CNN([4], [512, 10])


def test_the_table_counts_multiply_adds_and_draws_nothing():
    state = torch.get_rng_state()
    mlp, cnn, resnet = model_table(["MLP_4", "CNN_10", "resnet18"], image_size=32)
    assert torch.equal(state, torch.get_rng_state())
    assert mlp == {
        "name": "MLP_4", "modules": 4, "weight_layers": 4, "parameters": 1_083_338,
        "multiply_adds": 784 * 1024 + 1024 * 256 + 256 * 64 + 64 * 10,
    }  # fmt: skip
    assert cnn["multiply_adds"] == (
        32 * 32 * 9 * (3 * 8 + 8 * 16) + 8 * 8 * 9 * (16 * 32 + 32 * 64) + 4 * 4 * 9 * 64 * 64
        + 1024 * 256 + 256 * 64 + 64 * 10
    )  # fmt: skip
    assert (resnet["modules"], resnet["weight_layers"]) == (23, 21)
    with pytest.raises(UsageError, match="unknown model 'MLP_5'"):
        model_table(["MLP_5"])


def test_resnet18_is_torchvisions():
    state = build("resnet18").state_dict()
    torchvision.models.resnet18(num_classes=10).load_state_dict(state)
    assert MODELS["resnet18"](num_classes=100).fc.out_features == 100


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("name, head", [("resnet18", "fc"), ("MLP_res_5", "last.2"), ("CNN_10", "head.last.0")])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_replacing_a_head_twice_leaves_one(name, head, dropout):
    model = build(name)
    for _ in range(2):
        assert replace_head(model, 7, dropout) is model
        new = model.get_submodule(head)
        if dropout:
            assert [type(module) for module in new] == [nn.Dropout, nn.Linear]
            assert new[0].p == dropout
        else:
            assert type(new) is nn.Linear
    assert model.eval()(images(name, 2)).shape == (2, 7)
    assert isinstance(replace_head(model, 7).get_submodule(head), nn.Linear)


def test_a_new_head_is_reproducible_and_the_only_change():
    model = build("MLP_4").requires_grad_(False).eval()
    before = copy.deepcopy(model)
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        heads.append(replace_head(model, 10).last[0])
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, before.last[0].weight)
    assert heads[1].weight.requires_grad
    assert not heads[1].training
    assert all(torch.equal(a, b) for a, b in zip(model.blocks.parameters(), before.blocks.parameters(), strict=True))


def test_a_model_with_no_linear_inside_is_refused():
    with pytest.raises(UsageError, match="Conv2d has no Linear inside"):
        replace_head(nn.Conv2d(1, 1, 1), 10)


# ---------------------------------------------------------------- weights


def test_he_draws_by_fan_in_and_default_changes_nothing():
    torch.manual_seed(0)
    model = build("CNN_13")
    before = copy.deepcopy(model.state_dict())
    initialise(model, "default")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    initialise(model, "he")
    for name, layer in weight_layers(model):
        fan_in = layer.weight[0].numel()
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1), name
        assert not layer.bias.any(), name
    initialise(build("resnet18", device="meta"), "he")  # convolutions without bias
    with pytest.raises(UsageError, match="unknown initialisation 'xavier'; choose default or he"):
        initialise(model, "xavier")


# ---------------------------------------------------------------- freezing


def learning(model: nn.Module) -> set[str]:
    return {name for name, child in model.named_children() if any(p.requires_grad for p in child.parameters())}


def test_train_only():
    model = build("resnet18", device="meta")
    for children in (("fc",), ("layer4", "fc"), ("fc",)):
        train_only(model, children)
        assert learning(model) == set(children)
    train_only(model, None)
    assert learning(model) == {"fc"}
    model.requires_grad_(True)
    for unknown, meant in (("layer5", "did you mean layer4. "), ("relu", "")):
        with pytest.raises(UsageError, match=f"'{unknown}'; {meant}choose conv1, bn1, layer1, .* or fc"):
            train_only(model, ["fc", unknown])
    assert all(parameter.requires_grad for parameter in model.parameters())  # a refusal changes nothing


def test_statistics_of_frozen_batch_norm():
    torch.manual_seed(0)
    model = build("resnet18")
    train_only(model, ("layer4", "fc"))
    before = copy.deepcopy(model.state_dict())
    set_train_mode(model)
    model(images("resnet18", 4)).sum().backward()
    for key, value in model.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]) != key.startswith("layer4"), key
    assert not model.layer3.training
    assert model.layer4.training
    assert all((p.grad is not None) == name.startswith(("layer4", "fc")) for name, p in model.named_parameters())


def test_statistics_of_frozen_layers_are_updated_on_request():
    torch.manual_seed(0)
    model = build("resnet18")
    train_only(model, ("fc",), moving_statistics=True)
    frozen, before = {name for name, _ in frozen_digests(model)}, copy.deepcopy(model.state_dict())
    set_train_mode(model)(images("resnet18", 4)).sum().backward()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if "running" in key or "num_batches" in key}
    assert frozen == before.keys() - moved - {"fc.weight", "fc.bias"}


def test_set_train_mode_is_train_if_nothing_is_frozen():
    model = build("resnet18", device="meta").eval()
    assert all(module.training for module in set_train_mode(model).modules())


def test_set_train_mode_of_any_model():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Dropout(0.5), nn.Linear(4, 2))
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    set_train_mode(model)
    assert [module.training for module in model] == [False, True, True]
    assert not model[0][1].training
