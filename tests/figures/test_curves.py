"""`curves`: any records beside one another, or one line that says why not."""

import numpy as np
import pytest
from helpers import refused
from made_up_runs import named, write_record
from matplotlib.colors import to_hex

from deepnet.figures.curves import MOST, by_run
from deepnet.figures.looks import FAINT
from deepnet.figures.registry import curves
from deepnet.records.reading import Record, find_record
from experimentTable import EXPERIMENTS


def record(folder, name="net", seed=0, epochs=4, profile="own", scale=1.0, dirty=False, identity=None, **columns):
    """A training whose validation accuracy and train loss are `scale` times what they are by default."""
    always = {"steps": 10, "probe_variance": [1.0]}
    rows = [{"epoch": k, "validation_accuracy": 0.1 * k * scale, **always} for k in range(epochs + 1)]
    for row in rows[1:]:
        row |= {"train_loss": 2.0 * scale / row["epoch"], **columns}
    result = {"split": "validation", "epoch": epochs}
    return Record(write_record(folder, name, rows, result, profile, seed, dirty, identity, dataset=""))


def legends_of(figure):
    """What the legends below the panels say, one per block of panels."""
    blocks = [legend for block in figure.subfigs for legend in block.legends]
    return [[text.get_text() for text in legend.get_texts()] for legend in blocks]


def test_curves_draw_a_readers_own_runs(runs_dir):
    own = [record(runs_dir, "my_net", dirty=True), record(runs_dir, "other")]
    figure = curves(own, ["train_loss", "validation_accuracy"])
    left, right = figure.get_axes()
    assert list(named(left)["my_net"].get_ydata()) == [2.0, 1.0, pytest.approx(2 / 3), 0.5]
    assert named(right)["my_net"].get_color() != named(right)["other"].get_color()
    assert "records at 012345678+, 012345678" in figure.provenance
    assert len(curves(own[0], "train_loss").get_axes()) == 1
    assert len(curves(iter(own), iter(["train_loss"])).get_axes()) == 1
    pair = curves(own[0], [("validation_accuracy", "train_loss")]).get_axes()[0]
    assert pair.get_title(loc="left") == "Validation accuracy (dashed: training loss)"


def test_missing_values_are_gaps(runs_dir):
    rows = [{"epoch": 0}, *({"epoch": k, "train_loss": loss} for k, loss in enumerate((2.0, None, 1.0), start=1))]
    write_record(runs_dir, "gap", rows, profile="own")
    (line,) = curves(find_record("gap", "own"), "train_loss").get_axes()[0].get_lines()
    assert list(np.isnan(line.get_ydata())) == [False, True, False]
    rows = [{"epoch": k, "train_loss": None, "gradient_norm": None} for k in range(3)]
    write_record(runs_dir, "lost", rows, profile="own")
    curves(find_record("lost", "own"), ["train_loss", "gradient_norm"]).draw_without_rendering()


@pytest.mark.parametrize("metrics", [[], None, 3, [()], [("train_loss", "steps", "epoch")], [None], {}])
def test_metrics_that_make_no_panel_are_refused_with_those_that_there_are(metrics, runs_dir):
    refused(lambda: curves(record(runs_dir), metrics), "train_loss", "validation_accuracy", "epoch")


def test_a_metric_that_any_record_lacks_is_refused(runs_dir):
    both = [record(runs_dir, "one", test_loss=1.0), record(runs_dir, "other")]
    there = "epoch, steps, train_loss or validation_accuracy"
    refused(lambda: curves(both, "test_loss"), "unknown metric of other 'test_loss'", there)
    refused(lambda: curves(both, ["train_loss", ("steps", "train_losss")]), "'train_losss'", "train_loss")
    refused(lambda: curves(both, "probe_variance"), "'probe_variance'")  # a value per layer is no curve
    assert set(named(curves(both[0], "test_loss").get_axes()[0])) == {"one"}


@pytest.mark.parametrize(
    "records", [[], {}, (), "MLP_4", None, [None], ["MLP_4"], EXPERIMENTS["MLP_4"], [[]], {"x": 3}, {"x": "y"}]
)
def test_anything_but_records_is_refused(records):
    refused(lambda: curves(records, "train_loss"), 'run("MLP_4")')


def test_a_run_of_one_record_needs_no_list(runs_dir):
    one = record(runs_dir, "one", test_loss=1.0)
    assert by_run({"x": one}) == by_run({"x": [one]}) == by_run(one) == {"one": [one]}
    assert set(named(curves({"x": one}, "test_loss").get_axes()[0])) == {"one"}


def test_what_was_not_trained_has_no_curve(runs_dir):
    refused(lambda: curves(record(runs_dir, epochs=0), "train_loss"), "net (own, seed 0) has no trained epoch to draw")
    analysis = Record(write_record(runs_dir, "timing_3", [{"plain_seconds": 1.0}] * 3))
    refused(lambda: curves(analysis, "plain_seconds"), "timing_3 (cpu, seed 0) has no trained epoch to draw")


def test_rows_of_steps_and_rows_of_epochs_do_not_share_an_axis(runs_dir):
    sample, own, cpu = (record(runs_dir, f"in_{profile}", profile=profile) for profile in ("sample", "own", "cpu"))
    said = ("in_sample (sample) count optimizer steps", "in_own (own) epoch", "draw them apart")
    refused(lambda: curves([sample, own], "train_loss"), *said)
    assert set(named(curves([own, cpu], "train_loss").get_axes()[0])) == {"in_own", "in_cpu"}
    assert curves(sample, "train_loss").get_axes()[0].get_xlabel() == "optimizer steps"


# ---------------------------------------------------------------- which records are one run


def test_runs_of_one_name_are_told_apart_by_what_they_differ_in(tmp_path):
    rates = [record(tmp_path / f"{lr}", scale=lr, identity={"lr": lr, "data": "d" * 64}) for lr in (1.0, 2.0, 3.0)]
    assert {name: line.get_ydata()[0] for name, line in named(curves(rates, "train_loss").get_axes()[0]).items()} == {
        "net (lr 1.0)": 2.0, "net (lr 2.0)": 4.0, "net (lr 3.0)": 6.0,
    }  # fmt: skip
    profiles = [record(tmp_path, profile=profile, scale=scale) for profile, scale in (("cpu", 1.0), ("paper", 2.0))]
    assert set(named(curves(profiles, "train_loss").get_axes()[0])) == {"net (profile cpu)", "net (profile paper)"}
    # other weights, and nothing says so
    again = [record(tmp_path / f"again {scale}", scale=scale) for scale in (1.0, 2.0, 3.0)]
    assert set(named(curves(again, "train_loss").get_axes()[0])) == {"net", "net (2)", "net (3)"}


def test_each_seed_is_a_line_and_a_record_given_twice_counts_once(runs_dir):
    seeds = [record(runs_dir, seed=seed, scale=scale) for seed, scale in ((0, 1.0), (1, 3.0))]
    figure = curves([*seeds, seeds[1], Record(seeds[1].path)], "train_loss")
    (ax,) = figure.get_axes()
    assert [line.get_ydata()[0] for line in ax.get_lines()] == [2.0, 6.0] and set(named(ax)) == {"net"}
    assert "seeds 0-1" in figure.provenance


# ---------------------------------------------------------------- many runs, and names of all kinds


@pytest.mark.parametrize("count", [MOST, MOST + 1, 17, 60])
def test_of_many_runs_each_has_its_name_and_a_colour_of_its_own_in_its_panel(count, runs_dir):
    runs = [record(runs_dir, f"run_{k}") for k in range(count)]
    figure = curves(runs, ["train_loss", "validation_accuracy"])
    figure.draw_without_rendering()
    seen = []
    for ax in figure.get_axes():
        own, behind = named(ax), [line for line in ax.get_lines() if to_hex(line.get_color()) == FAINT]
        assert len({line.get_color() for line in own.values()}) == len(own) <= MOST and len(own) + len(behind) == count
        assert ax.get_window_extent().width > 150 and ax.get_window_extent().height > 100, "a strip"
        seen += own
    assert sorted(seen) == sorted([run.name for run in runs] * 2)
    assert sorted(name for legend in legends_of(figure) for name in legend) == sorted(run.name for run in runs)


LONG = "with_a_name_that_goes_on_and_on_" * 6
ODD = ["_mine", "$5_a$", "100%", "a_$b", LONG + "a", LONG + "b", r"\\alpha", "Größe"]


def test_names_are_shown_as_they_are(runs_dir):
    figure = curves([record(runs_dir, name) for name in ODD], ["train_loss", "validation_accuracy"])
    figure.draw_without_rendering()
    (names,) = legends_of(figure)
    assert sorted(name.replace("\n", "").strip() for name in names) == sorted(ODD)
    (legend,) = figure.subfigs[0].legends
    assert not any(text.get_parse_math() for text in legend.get_texts())
    box, panels = legend.get_window_extent(), [ax.get_window_extent() for ax in figure.get_axes()]
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= min(panel.y0 for panel in panels)
    assert all(panel.width > 100 and panel.height > 100 for panel in panels)
