"""The benchmark compares like with like, and says what it measured. Nothing here depends on how fast anything is."""

import json
import time
from dataclasses import replace

import pytest
import torch

from benchmarks import benchmark
from benchmarks.benchmark import line, markdown, measure, peaks, row, speed, time_shares
from benchmarks.recipes import Ours, Plain
from benchmarks.timing import ROWS, plain_process, step_seconds
from deepnet.data.datasets import epoch_batches
from deepnet.data.sets import load_images
from experimentTable import Experiment, experiment, identity
from myModel import model_table

TOLERANCE = 1e-9  # relative, in float64, where no processor's order of a sum decides what is equal


def prepared(name, profile="sample", batch_size=8):
    """The experiment of a row and four batches of its images."""
    exp = replace(experiment(ROWS[name], profile), batch_size=batch_size)
    return exp, load_images(exp.dataset, "train", "sample", identity(exp)["image_size"]).subset(range(4 * batch_size))


# ---------------------------------------------------------------- like with like


@pytest.mark.parametrize(
    ("name", "profile", "optimizer"),
    # ResNet-18 takes SGD: Adam divides by a gradient's size, and gradients of weights before a normalization layer are
    # partly rounding errors.
    [("MLP_4", "sample", "Adam"), ("CNN_10", "paper", "Adam"), ("resnet18", "sample", "SGD")],
)
def test_both_recipes_give_the_same_losses(name, profile, optimizer):
    exp, data = prepared(name, profile)
    exp = replace(exp, optimizer=optimizer)
    recipes = Plain(exp, data, workers=0), Ours(exp, data, precision="fp64")
    for recipe in recipes:
        recipe.model.double()
    order = epoch_batches(len(data), exp.batch_size, torch.Generator().manual_seed(1))
    losses = []
    for indices in order:
        batches = [(inputs.double(), labels) for inputs, labels in recipes[0].batches([indices])]
        rows = [recipe.train(batches) for recipe in recipes]
        for key in ("train_loss", *(["gradient_norm_sum"] if exp.record_gradients else [])):
            assert rows[0][key] == pytest.approx(rows[1][key], rel=TOLERANCE)
        losses.append(rows[0]["train_loss"])
    assert len(losses) == 4
    assert max(losses) - min(losses) > 1e-3 * max(losses)  # they do move


def test_both_recipes_get_the_same_batches():
    exp, data = prepared("CNN_10", "paper")
    order = epoch_batches(len(data), exp.batch_size, torch.Generator().manual_seed(1))
    plain, ours = (list(recipe.batches(order)) for recipe in (Plain(exp, data, workers=1), Ours(exp, data)))
    assert len(plain) == len(ours) == 4
    for one, other in zip(plain, ours, strict=True):
        assert one[0].shape == (8, 3, 128, 128)
        torch.testing.assert_close(one[0], other[0], rtol=0, atol=0.02)  # a grey level is 0.016 at most
        assert one[1].equal(other[1])


@pytest.mark.parametrize(("name", "children"), [("head", 9), ("layer4+head", 7), ("layer3+layer4+head", 6)])
def test_frozen_layers_run_in_each_plain_step_and_once_in_ours(name, children):
    exp, data = prepared(name)
    plain, ours = Plain(exp, data, workers=0), Ours(exp, data)
    assert len(ours.prefix) == children
    learned = [sum(p.numel() for p in recipe.model.parameters() if p.requires_grad) for recipe in (plain, ours)]
    assert learned[0] == learned[1] > 0
    ran = []
    plain.model.conv1.register_forward_hook(lambda *_: ran.append("plain"))
    ours.prefix[0].register_forward_hook(lambda *_: ran.append("ours"))
    order = epoch_batches(len(data), exp.batch_size, torch.Generator(), 2)
    for recipe in (plain, ours):
        recipe.train(recipe.batches(order))
    assert ran == ["plain", "plain"]


# ---------------------------------------------------------------- what is counted


@pytest.mark.parametrize("name", ["MLP_33", "CNN_13", "resnet18"])
def test_a_step_is_three_forward_passes_less_the_gradient_of_the_images(name):
    exp, data = prepared(name)
    ours, size = Ours(exp, data), data.size
    forward = model_table([exp.model], size)[0]["multiply_adds"]
    weight = next(ours.model.parameters())
    positions = {"MLP_33": 1, "CNN_13": size**2, "resnet18": (size // 2) ** 2}[name]  # of the first layer's output
    assert ours.operations() == pytest.approx(2 * (3 * forward - weight.numel() * positions))


def test_a_cache_counts_once_per_run():
    exp, data = prepared("head")
    features, classes = 512, 100
    prefix = 2 * (model_table(["resnet18"], data.size)[0]["multiply_adds"] - features * 10)
    assert Ours(exp, data).operations() == pytest.approx(prefix / 20 + 2 * 2 * features * classes)
    assert speed(step=0.5, cache=0.0, exp=exp) == 16  # 8 images in half a second
    images = 1000
    assert speed(step=0.5, cache=0.25, exp=exp) == pytest.approx(20 * images / (0.25 * images + 20 * images / 8 * 0.5))


def test_the_first_step_and_prepared_batches_are_not_timed():
    """A recipe whose epoch begins slowly, and whose workers are two batches ahead."""
    exp, data = prepared("MLP_4")
    recipe, seen = Ours(exp, data), []
    recipe.ahead = 2

    def train(batches):
        for number, _ in enumerate(batches):
            time.sleep(0 if number else 0.5)
            seen.append(number)

    recipe.train = train
    assert step_seconds(recipe, 3) < 0.1
    assert seen == [0, 1, 2, 3]


def test_each_part_of_a_step_has_a_share_of_its_time():
    """A cache's share is included; layers that are not computed have none."""
    shares = {}
    for name, asked in (("MLP_4", True), ("MLP_4", False), ("CNN_10", True), ("resnet18", False), ("head", False)):
        exp, data = prepared(name, batch_size=64)
        shares[name, asked] = time_shares(Ours(replace(exp, record_gradients=asked), data), 3)
        assert sum(shares[name, asked].values()) == pytest.approx(1)
        assert min(shares[name, asked].values()) >= 0
        parts = {"products", "optimizer", "ReLU and pooling", "copies"}
        parts |= ({"gradient norms"} if asked else set()) | (
            {"normalisation"} if name in ("resnet18", "head") else set()
        )
        assert {part for part, share in shares[name, asked].items() if share > 0} - {"rest"} == parts


# ---------------------------------------------------------------- what is kept and shown


SPEEDS = {"plain": [10.0, 40.0, 20.0], "fp32": [50.0, 60.0, 70.0]}
PEAKS = {"fp32": 1e6, "bf16": 4e6}
SPENT = {"products": 0.7, "optimizer": 0.05, "copies": 0.15, "gradient norms": 0.05, "rest": 0.05}


def check_schema(entry):
    assert {"name", "plain", "fp32", "bf16", "share_of_peak", "image_size", "batch_size"} <= entry.keys()
    assert entry["ratio"] == entry["default"] / entry["plain"]
    assert entry["default"] == entry[entry["precision"]] > 0
    assert entry["ratio_range"][0] <= entry["ratio"] <= entry["ratio_range"][1]
    assert entry["name"] in ROWS
    assert json.loads(json.dumps(entry)) == entry


def test_a_row_holds_medians_the_ratio_and_its_range():
    entry = row("CNN_30", experiment("CNN_30", "paper"), SPEEDS, PEAKS, flops=1e4, spent=SPENT)
    check_schema(entry)
    assert (entry["plain"], entry["fp32"], entry["bf16"], entry["image_size"]) == (20.0, 60.0, None, 128)
    assert (entry["ratio"], entry["ratio_range"], entry["share_of_peak"]) == (3.0, [1.5, 5.0], 0.6)
    assert line(entry) == "| CNN_30 | 128 | 20 | 60 | – | 3.00 (1.50–5.00) | – | fp32 | 60% | 70% | copies 15% |"


@pytest.mark.parametrize(
    ("experiment_name", "precision", "default"), [("CNN_10", "bf16", 80.0), ("CNN_30", "fp32", 60.0)]
)
def test_default_is_the_precision_that_the_experiment_uses(with_bf16, experiment_name, precision, default):
    exp, speeds = experiment(experiment_name, "paper"), SPEEDS | {"bf16": [80.0, 80.0, 80.0]}
    entry = row(experiment_name, exp, speeds, PEAKS, flops=1e4, spent=SPENT)
    check_schema(entry)
    assert (entry["precision"], entry["default"], entry["bf16"]) == (precision, default, 80.0)
    assert entry["share_of_peak"] == default * 1e4 / PEAKS[precision]


def test_shares_of_time_may_be_unknown():
    entry = row("CNN_30", experiment("CNN_30", "paper"), SPEEDS, PEAKS, flops=1e4, spent=SPENT) | {"time_shares": None}
    assert line(entry).endswith("| 60% | – | – |")


def test_rows_are_the_experiments_they_are_named_after():
    for name, experiment_name in ROWS.items():
        exp = experiment(experiment_name)
        assert isinstance(exp, Experiment)
        assert (exp.batch_size, exp.optimizer, exp.epochs) == (128, "Adam", 20)
        if exp.trainable:
            assert name == "+".join(child.replace("fc", "head") for child in exp.trainable)
        else:
            assert name == exp.model


def test_a_measured_row_becomes_a_line_of_the_table(monkeypatch):
    monkeypatch.setattr("benchmarks.benchmark.PEAK_WIDTH", {"cpu": 64, "cuda": 64})
    best = peaks(repeats=2)
    assert min(best.values()) > 0
    with plain_process() as plain:
        entry = measure("head", "sample", best, plain, repeats=1, seconds=0, batch_size=8)
    check_schema(entry)
    assert (entry["experiment"], entry["batch_size"], entry["image_size"]) == ("fine_tune_1", 8, 32)
    assert len(entry["repeats"]["plain"]) == len(entry["repeats"]["fp32"]) == 1
    made = {"threads": 1, "workers": 2, "torch": "2", "commit": None, "date": "2025-01-01", "repeats": 2}
    table = markdown({"machine": "a-machine", "rows": [entry], "provenance": made})
    assert line(entry) in table.splitlines()
    assert len({text.count("|") for text in table.splitlines() if text.startswith("|")}) == 1
    assert "a-machine" in table


# ---------------------------------------------------------------- the command line


@pytest.fixture
def called(monkeypatch, tmp_path):
    """Calls the command line with a measurement that takes no time; gives the profiles measured and the files
    written.
    """
    measured = []
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmark, "run", lambda profile, **_: measured.append(profile) or {"machine": "a-machine"})

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmark.py", *map(str, arguments)])
        benchmark.main()
        return measured, sorted(path.name for path in (tmp_path / "results").glob("*"))

    return call


def test_results_of_each_profile_have_a_file(called):
    assert called() == (["paper"], ["a-machine.json"])
    assert called("--profile", "cpu") == (["paper", "cpu"], ["a-machine-cpu.json", "a-machine.json"])
    assert called("--quick")[1] == ["a-machine-cpu.json", "a-machine.json"]


@pytest.mark.parametrize("content", [None, "# text", "{}", "[]"])
def test_another_file_is_refused_in_one_line(called, capsys, tmp_path, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit):
        called("--markdown", path)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("benchmark.py: error: ") and str(path) in last


def test_a_read_only_folder_is_refused_before_anything_is_measured(called, monkeypatch, tmp_path, capsys):
    (tmp_path / "results").write_text("a file")
    monkeypatch.setattr(benchmark, "run", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(SystemExit):
        called()
    assert "results" in capsys.readouterr().err.splitlines()[-1]
