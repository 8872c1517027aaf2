"""The atlas, a separate table: its rows, their order, its models, and the command line's --family."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from deepnet import grid
from deepnet.runs.families import family_runs
from deepnet.speed.relus import with_cheap_relus
from experimentTable import ATLAS, EXPERIMENTS, TABLE, experiment, identity, is_supported
from modelBlock import ResidualBlock
from myModel import MODELS, count_modules


def test_the_atlas_is_a_table_of_its_own_and_each_run_is_one_row():
    assert not ATLAS.keys() & EXPERIMENTS.keys()
    assert all(name.startswith(("atlas_", "defect_")) for name in ATLAS)
    assert {name for names in grid.FAMILIES.values() for name in names} - EXPERIMENTS.keys() == ATLAS.keys()
    computed = [str(identity(experiment(name, "cpu"))) for name in TABLE if TABLE[name].model or name in ATLAS]
    mine = [str(identity(experiment(name, "cpu"))) for name in ATLAS]
    assert len(set(mine)) == len(mine) and all(computed.count(identity) == 1 for identity in mine)


def test_a_row_says_what_its_name_says():
    assert asdict(ATLAS["atlas_eps_53_1e-16"]).items() >= {"model": "MLP_53", "eps": 1e-16, "epochs": 4}.items()
    cell = asdict(ATLAS["atlas_cell_res_bn_35_he_1e-03"])
    assert cell.items() >= {"model": "MLP_res_bn_35", "initialisation": "he", "lr": 1e-3, "epochs": 10}.items()
    assert grid.CELLS[(23, False, False), False, 1e-4] == grid.RATE_ROWS[23, 1e-4]
    assert {row.family for row in ATLAS.values() if row.record_gradients} == {"atlas_ten", "atlas_front"}
    first = identity(experiment("atlas_ten_33_1e-08", "cpu"))
    assert (first["epochs"], first["steps_per_epoch"]) == (1, 10)


def test_the_order_is_by_family_then_by_seed():
    runs = family_runs("atlas", "cpu")
    assert len(runs) == len(set(runs)) == 838
    assert {exp.seed for exp in runs[:42]} == {0} and runs[42].seed == 1  # the whole map of eps with one seed
    assert [exp.seed for exp in runs if exp.name == grid.CNN_ROW] == list(range(2, 12))
    assert {exp.seed for exp in family_runs("atlas", "cpu", [3])} == {3}
    assert {exp.family for exp in family_runs("atlas_cell", "cpu", [0])} == {"atlas_cell", "atlas_rate"}


def test_it_is_asked_on_the_complete_sets():
    assert not any(is_supported(experiment(name, "sample")) for name in ATLAS)
    assert not is_supported(experiment(grid.CNN_ROW, "paper"))


@pytest.mark.parametrize(("name", "shape"), grid.MODELS.items())
def test_models_are_made_by_rule(name, shape):
    depth, shortcuts, batch_norm = shape
    with torch.device("meta"):
        model = MODELS[name](image_size=28)
    modules = list(model.modules())
    norms = sum(isinstance(module, nn.BatchNorm1d) for module in modules)
    assert count_modules(model) == int(name.split("_")[-1])
    assert norms == (depth - 1) * batch_norm  # behind each layer but the last
    assert any(isinstance(module, ResidualBlock) for module in modules) == shortcuts


@pytest.mark.parametrize("name", ["MLP_res_bn_5", "MLP_bn_13"])
def test_batch_norm_and_the_fast_path_give_the_same(name):
    torch.manual_seed(0)
    model, images = MODELS[name](image_size=28), torch.randn(8, 1, 28, 28)
    assert with_cheap_relus(model)(images).equal(model(images))


@pytest.fixture
def begun(runs_dir):
    """Of CNN_30 one seed has finished and one has failed."""
    for seed, status in ((2, "finished"), (3, "failed")):
        folder = runs_dir / "cpu" / grid.CNN_ROW / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text("{}")
        (folder / "result.json").write_text(json.dumps({"status": status, "sha256": {}, "reason": "its loss"}))


def test_a_family_is_trained_in_its_order_with_its_own_seeds(call, monkeypatch):
    asked = []
    monkeypatch.setattr("coreFunction.run_all", lambda *runs, **options: asked.extend(runs) or runs)
    assert call("train", "--family", "atlas_cnn", "--profile", "cpu")[0] == 0
    assert [(exp.name, exp.profile, exp.seed) for exp in asked] == [(grid.CNN_ROW, "cpu", s) for s in range(2, 12)]
    asked.clear()
    call("train", "MLP_4", "MLP_13", "--profile", "cpu", "--seeds", "0-1")
    assert [(exp.name, exp.seed) for exp in asked] == [("MLP_4", 0), ("MLP_13", 0), ("MLP_4", 1), ("MLP_13", 1)]


def test_of_a_family_what_has_ended_is_published(begun, call, monkeypatch):
    published = []
    monkeypatch.setattr("run.publish_record", lambda record: published.append((record.name, record.seed)))
    monkeypatch.setenv("EVIDENCE", "0")
    assert call("publish", "--family", "atlas_c", "--profile", "cpu")[0] == 0
    assert published == [(grid.CNN_ROW, 2), (grid.CNN_ROW, 3)]


def test_a_family_is_listed_with_how_far_it_is(begun, call, monkeypatch):
    monkeypatch.setenv("EVIDENCE", "0")
    status, out, _ = call("list", "--family", "atlas_cnn", "--profile", "cpu", "--json")
    assert (status, [(row["runs"], row["finished"]) for row in json.loads(out)]) == (0, [(10, 1)])
    _, out, _ = call("list", "--family", "atlas_cnn", "--profile", "cpu")
    assert out.startswith("profile cpu: 1 of 10 runs finished") and out.endswith("1 of 10\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--family", "atlas_epz"], "unknown family 'atlas_epz'; did you mean atlas_eps?"),
        (["train", "--family", "atlas_cnn", "--seeds", "0"], "atlas_cnn has the seeds 2, 3"),
        (["train", "MLP_4", "--family", "atlas"], "--family chooses its own runs"),
        (["publish", "--family", "atlas_eps"], "atlas_eps_13_1e-06 has no finished record"),
    ],
)
def test_a_family_that_cannot_be_is_refused_in_one_line(words, message, call, tiny, runs_dir):
    status, _, err = call(*words)
    assert status == 1 and message in err and err.count("\n") == 1
