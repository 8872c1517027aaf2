"""The figures of the atlas on made-up records, complete and partial, and the theory that stands beside them."""

from itertools import product
from math import log

import numpy as np
import pytest
from helpers import refused
from made_up_runs import texts, write_record

from deepnet import grid
from deepnet.figures import atlas, gallery
from deepnet.figures.registry import draw, save
from deepnet.figures.theory import untrained_mlp
from deepnet.records.reading import find_records

FLAT = log(10)


def write(root, name, seed, losses, accuracy=0.1, eps=None, **layers):
    """A training whose losses are given; `layers`: metrics of its one weight layer per row."""
    metrics = {metric: [value] for metric, value in layers.items()}
    rows = [{"epoch": 0, "steps": 0, **metrics}]
    trained = {"steps": 10, "test_accuracy": accuracy, **metrics}
    rows += [{"epoch": epoch, "train_loss": loss, **trained} for epoch, loss in enumerate(losses, start=1)]
    write_record(root, name, rows, {"split": "test", "classes": 10, "epoch": len(losses)}, seed=seed, eps=eps)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A map in which depth and eps decide: 20 layers at 1e-8, and 2.5 layers more for each power of ten."""
    root = tmp_path_factory.mktemp("whole")
    for (depth, eps), seed in product(product(grid.EPS_DEPTHS, grid.EPS), (0, 1)):
        learns = depth < 20 + 2.5 * (-np.log10(eps) - 8)
        write(root, grid.eps_row(depth, eps), seed, [FLAT, 1.0 if learns else FLAT], eps=eps)
        ten = {"update_log10_ratio": -3 if learns else -9, "gradient_log10_rms": -depth / 2.6, "probe_distinct": 9}
        write(root, grid.ten_row(depth, eps), seed, [FLAT], eps=eps, **ten)
    for (depth, lr), row in grid.RATE_ROWS.items():
        write(root, row, 0, [1.0 if lr != 3e-4 else 0.5] * 10, 0.99 - depth / 100)
    for row in set(grid.CELLS.values()) - {*grid.RATE_ROWS.values()}:
        write(root, row, 0, [0.5] * 10, 0.98)
    for seed in grid.PLATEAU_SEEDS:
        write(root, grid.CNN_ROW, seed, [FLAT, 2.0 if seed < 5 else FLAT, 2.0 if seed < 6 else FLAT])
    for row in grid.FRONT_ROWS:
        write(root, row, 0, [FLAT] * 5, probe_variance=1e-5)
    return root


@pytest.fixture
def complete(whole, monkeypatch):
    """All runs of the map are found."""
    monkeypatch.setenv("RUNS_DIR", str(whole))


@pytest.mark.parametrize("number", atlas.FIGURES)
def test_a_figure_of_the_atlas_is_drawn_and_saved_apart(number, complete, monkeypatch, tmp_path):
    monkeypatch.setattr("deepnet.figures.registry.FOLDER", tmp_path)
    figure = draw(number, "cpu")
    assert "no finished record" not in figure.provenance
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1
    assert {path.parent.name for path in save(number, "cpu", figure)} == {"atlas"}


def test_cells_say_how_many_seeds_leave_and_lines_lie_where_they_should(complete):
    ax = draw("A.1", "cpu").axes[0]
    assert texts(ax).count("2/2") + texts(ax).count("0/2") == 42
    theory, _, observed = ax.get_lines()
    assert np.polyfit(*theory.get_data(), 1)[0] == pytest.approx(2.57, abs=0.05)  # a layer for each √6
    assert np.polyfit(*observed.get_data(), 1)[0] == pytest.approx(2.5, rel=0.2)


def test_the_best_rate_is_framed_and_survivors_are_counted(complete):
    frames = draw("A.2", "cpu").axes[0].get_lines()
    assert [set(frame.get_xdata()) for frame in frames] == [{2.5, 3.5}] * 4  # 3e-4
    assert texts(draw("A.4", "cpu").axes[1]) == ["10/10", "7/10", "6/10"]


def test_ten_steps_are_compared_with_what_depth_alone_says(complete):
    areas = dict(zip(atlas.PREDICTORS, map(float, texts(draw("A.6", "cpu").axes[1])), strict=True))
    assert areas["smallest relative update"] == 1
    assert areas["distinct outputs, last layer"] == 0.5  # the same in all runs
    assert 0.5 < areas["smaller eps"] < 1


@pytest.mark.parametrize("number", atlas.FIGURES)
def test_a_partial_map_counts_what_is_missing(number, whole, runs_dir):
    names = atlas.FIGURES[number].runs
    (runs_dir / "cpu").mkdir(parents=True)
    (runs_dir / "cpu" / names[0]).symlink_to(whole / "cpu" / names[0])
    figure = draw(number, "cpu")
    figure.draw_without_rendering()
    missing = len(names) - 1
    said = [text.get_text() for text in figure.texts]
    assert (f"No finished record of {missing} of {len(names)} rows" in said) == bool(missing)


def test_without_records_it_is_said_how_to_train_them():
    refused(lambda: draw("A.1", "cpu"), "A.1 has no finished record of atlas_eps_13_1e-06", "39 more", "--family")
    refused(lambda: draw("A.4", "paper"), "figure A.4", "choose profile cpu")
    assert gallery.atlas_drawn() == {}


def test_the_theory_of_gradients_is_what_the_report_s_nets_show(monkeypatch):
    """Nothing is fitted: over twelve powers of ten a seed is off by less than one."""
    monkeypatch.setenv("EVIDENCE", "1")
    expected = untrained_mlp(grid.mlp_widths(33))[1]
    # It does not learn, so that its first epoch's gradient is still the untrained net's.
    recorded = np.array([record.rows[1]["gradient_log10_rms"] for record in find_records("MLP_33", "cpu")])
    assert np.abs(recorded - expected).max() < 1
    assert np.abs(recorded.mean(axis=0) - expected).max() < 0.5
    assert expected[-2] - expected[-12] == pytest.approx(10 * np.log10(6**0.5), abs=0.01)
