"""Figures are read by what they draw (lines, texts, cells), not by their pixels."""

import json
import shutil
from contextlib import AbstractContextManager

import matplotlib.style
import numpy as np
import pytest
from cycler import cycler
from helpers import refused
from made_up_runs import EPOCHS, flat, footer_of, named, texts, vouched, write_experiment, write_record
from matplotlib.colors import to_hex
from PIL import Image

from deepnet.figures import registry as figures
from deepnet.figures.lines import spread
from deepnet.figures.plots import COLOURS, PALETTE, looks
from deepnet.figures.registry import FIGURES, draw, save, save_all
from deepnet.records.files import sha256
from deepnet.records.reading import find_record, find_records
from experimentTable import EXPERIMENTS, UsageError


@pytest.mark.parametrize("number", FIGURES)
def test_every_figure_is_drawn_with_title_labels_and_footer(number, records):
    figure = draw(number, "cpu")
    assert figure.get_suptitle().startswith(number + "  ")
    assert footer_of(figure).startswith("profile cpu")
    if FIGURES[number].runs:
        assert "records at 012345678" in footer_of(figure)
    for ax in figure.get_axes():
        if ax.axison and named(ax):
            assert ax.get_title(loc="left")
            assert ax.get_xlabel() or not ax.get_subplotspec().is_last_row()
    assert figure.get_size_inches()[0] == 7


def test_no_figure_is_left_in_pyplot(records):
    from matplotlib import pyplot

    draw("3.1", "cpu")
    assert pyplot.get_fignums() == []


def test_all_report_figures_are_there():
    numbers = {2: 5, 3: 6, 4: 4, 5: 8}
    assert {f"{chapter}.{k}" for chapter, count in numbers.items() for k in range(1, count + 1)} <= set(FIGURES)
    assert {run for entry in FIGURES.values() for run in (*entry.runs, *entry.also)} <= {
        *EXPERIMENTS,
        "search_*",
        "openings",
    }


def test_lines_are_the_seeds_mean_and_the_band_their_range(records):
    left, right = draw("3.1", "cpu").get_axes()
    assert set(named(left)) == {"MLP_4", "MLP_13", "MLP_23"}
    seeds = np.stack([record.column("train_loss")[1:] for record in find_records("MLP_13", "cpu")])
    x, y = named(left)["MLP_13"].get_data()
    assert np.allclose(y, seeds.mean(0)) and list(x) == list(range(1, EPOCHS + 1))
    corners = left.collections[1].get_paths()[0].vertices[:, 1]
    assert corners.min() == pytest.approx(seeds.min()) and corners.max() == pytest.approx(seeds.max())
    assert (left.get_xlabel(), left.get_ylabel()) == ("epoch", "cross-entropy (nats)")
    assert right.get_title(loc="left") == "Test accuracy"


def test_names_stand_at_the_ends_where_lines_end_together_and_in_a_legend_where_not(records):
    together, apart = draw("3.1", "cpu").get_axes()[1], draw("5.4", "cpu").get_axes()[1]
    assert set(texts(together)) == {"MLP_4", "MLP_13", "MLP_23"} and together.get_legend() is None
    heights = sorted(text.get_position()[1] for text in together.texts)
    assert min(np.diff(heights)) > 0.05
    assert texts(apart) == []
    assert {text.get_text() for text in apart.get_legend().get_texts()} == {"adam", "sgd", "adamw", "rmsprop"}
    assert apart.get_legend().get_bbox_to_anchor()._bbox.x0 > 1  # beside the panel


@pytest.mark.parametrize(
    ("values", "gap"), [([0.5, 0.5, 0.5], 0.1), ([0.0, 0.01, 0.99, 1.0], 0.1), ([0.2, 0.9, 0.4], 0.05), ([], 0.1)]
)
def test_spread_moves_values_apart_keeps_order_and_stays_inside(values, gap):
    moved = spread(values, gap)
    assert np.argsort(moved, stable=True).tolist() == np.argsort(values, stable=True).tolist()
    assert all(np.diff(sorted(moved)) >= gap - 1e-9) and all(0 <= y <= 1 for y in moved)
    if values == [0.2, 0.9, 0.4]:
        assert moved == pytest.approx(values)


def test_a_run_has_one_colour_in_every_figure(records):
    seen = {}
    for number in ("3.1", "3.2", "3.3", "3.4", "3.6", "3.7", "4.1", "4.3", "4.5", "5.1", "5.2", "5.4", "5.7"):
        for ax in draw(number, "cpu").get_axes():
            for name, line in named(ax).items():
                assert seen.setdefault(name, line.get_color()) == line.get_color(), name
    assert seen["MLP_33_he"] == seen["MLP_33_eps"] == seen["MLP_33"]


def test_looks_are_distinct_and_do_not_depend_on_the_order():
    names = ["MLP_33", "MLP_33_eps", "MLP_33_he", "CNN_30", "MLP_res_35", "my_net", "my_net_2", "another"]
    assert len(set(looks(names).values())) == len(names)
    assert len(set(looks([f"run {k}" for k in range(len(PALETTE))]).values())) == len(PALETTE)
    assert looks(["mine", "MLP_4"])["MLP_4"] == looks(["MLP_4"])["MLP_4"]


def test_a_single_row_is_shown_with_every_metric_and_whole_ticks(runs_dir):
    write_experiment(runs_dir, "sweep_6", "sample", epochs=1)
    left, right = draw("5.7", "sample").get_axes()
    validation, train = (line for line in right.get_lines() if len(line.get_xdata()) == 1)
    assert (validation.get_marker(), train.get_marker()) == ("o", "x")
    assert right.get_title(loc="left") == "Validation accuracy (cross: train accuracy)"
    assert [tick for tick in left.get_xticks() if tick % 1] == []


def test_the_sample_counts_steps(records):
    ax = draw("3.4", "sample").get_axes()[0]
    assert ax.get_xlabel() == "optimizer steps"
    assert list(named(ax)["MLP_res_96"].get_xdata()) == [150, 300, 450, 600]
    assert "profile sample · seed 0 · data MNIST" in footer_of(ax.figure)


def test_runs_that_go_on_from_one_another_follow_one_another(records):
    figure = draw("5.2", "cpu")
    ax = figure.get_axes()[1]
    starts = [named(ax)[f"fine_tune_{k}_lr"].get_xdata()[0] for k in (1, 2, 3)]
    assert starts == [1, 21, 41]
    assert set(named(ax)["baseline,\nsvm"].get_ydata()) == {0.37}


def test_rings_mark_every_seeds_restored_epoch(runs_dir):
    for seed in range(3):
        write_experiment(runs_dir, "adam", "cpu", seed)
    rings = [line for line in draw("5.4", "cpu").get_axes()[1].get_lines() if line.get_label() == "_best"]
    restored = [(record.result["epoch"], record.result["accuracy"]) for record in find_records("adam", "cpu")]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in rings] == [at for at in restored if at[0] < EPOCHS]
    assert rings and all(line.get_markerfacecolor() == "white" for line in rings)


def test_the_test_sets_accuracy_is_shown_once_it_was_opened(records, made):
    assert "test set" not in named(draw("5.8", "cpu").get_axes()[1])
    log, weights = made / "cpu" / "openings.jsonl", made / "cpu" / "dropout" / "seed-0" / "weights.pt"
    weights.write_bytes(b"weights")
    vouched(weights.parent)
    opening = {"time": "2025-01-01", "run": "dropout", "seed": 0, "weights": sha256(weights)}
    first, again, other = (
        opening | {"accuracy": 0.503},
        opening | {"accuracy": 0.6},
        opening | {"accuracy": 0.7, "weights": "another's"},
    )
    log.write_text("".join(json.dumps(line) + "\n" for line in (other, first, again)))
    try:
        assert set(named(draw("5.8", "cpu").get_axes()[1])["test set"].get_ydata()) == {0.503}
    finally:
        log.unlink()
        weights.unlink()
        vouched(weights.parent)


def test_depth_map_holds_the_gradients_and_theory_falls_to_a_sixth(records):
    figure = draw("3.3b", "cpu")
    panels = {ax.get_title(loc="left"): ax for ax in figure.get_axes()}
    mesh = panels["MLP_33"].collections[0].get_array()
    assert mesh.shape == (33, EPOCHS)  # layers by epochs
    assert mesh[0, 0] == pytest.approx(find_record("MLP_33", "cpu").rows[1]["gradient_log10_rms"][0])
    theory = named(panels["Before training"])["theory: 1/6 a layer"].get_ydata()
    assert theory[1] / theory[0] == pytest.approx(1 / 6)
    assert panels["Before training"].get_yscale() == "log"


def test_of_residual_nets_the_layers_inside_a_block_are_not_drawn_and_theory_is_said_to_be_of_plain_ones(records):
    panels = {ax.get_title(loc="left"): ax for ax in draw("3.6b", "cpu").get_axes()}
    for when, row in (("Before training", 0), ("After training", -1)):
        drawn = named(panels[when])
        theory = {"theory, plain net: 1/6 a layer", "theory, plain net, He: constant"}
        assert set(drawn) == {"MLP_res_5", "MLP_res_15", "MLP_res_35", "MLP_res_55", "MLP_res_96"} | theory
        x, y = drawn["MLP_res_15"].get_data()
        assert list(x) == [1, 4, 7, 9, 11, 13, 15]  # two blocks with a projection, four without, the last layer
        variance = np.mean([record.rows[row]["probe_variance"] for record in find_records("MLP_res_15", "cpu")], axis=0)
        assert np.allclose(y, variance[x - 1])
    assert "where a block begins" in FIGURES["3.6b"].caption


def test_times_are_bars_and_their_ratio_is_written_with_its_range(records):
    left, right = draw("4.4", "cpu").get_axes()
    rows = [row for row in find_record("timing_4", "cpu").rows if row["plain"] == "CNN_13"]
    assert left.patches[0].get_height() == pytest.approx(1e3 * np.mean([row["plain_seconds"] for row in rows]))
    assert left.patches[1].get_height() == pytest.approx(1e3 * np.mean([row["residual_seconds"] for row in rows]))
    ratios = [row["residual_seconds"] / row["plain_seconds"] for row in rows]
    assert texts(right)[0] == f"{np.mean(ratios):.2f}"
    assert [label.get_text() for label in left.get_xticklabels()][:2] == ["CNN_13", "CNN_res_16"]
    assert right.get_xticklabels()[0].get_text() == f"CNN_13\nCNN_res_16\n{min(ratios):.2f} to {max(ratios):.2f}"
    assert "range over 10 blocks" in left.get_title(loc="left") and "a block of 20 steps" in right.get_title(loc="left")


def test_scatter_colours_points_by_class_and_is_rasterised(records):
    ax = draw("2.5", "cpu").get_axes()[1]
    assert all(points.get_rasterized() for points in ax.collections)
    assert sum(len(points.get_offsets()) for points in ax.collections) == 1000
    assert len(ax.get_legend().get_texts()) == 20
    assert len({to_hex(colour) for points in ax.collections for colour in points.get_facecolors()}) == 10


def test_under_the_superclasses_colours_the_skill_is_that_of_the_hundred_classes(runs_dir):
    for seed in (0, 1, 2):
        write_experiment(runs_dir, "tsne_cifar100", "cpu", seed)
    (ax,) = draw("2.5", "cpu").get_axes()
    assert ax.get_title(loc="left") == "CIFAR-100: 5-NN skill 0.92 over 100 classes (0: chance)"  # the seeds' mean
    shutil.rmtree(runs_dir / "cpu" / "tsne_cifar100" / "seed-0")
    refused(lambda: draw("2.5", "cpu"), "only seed 0 of an embedding keeps its points; train tsne_cifar100")


@pytest.mark.parametrize(("loss", "accuracy"), [(2.3, 0.1), (0.002, 0.999)])
def test_a_plateaus_noise_does_not_look_like_a_change(runs_dir, loss, accuracy):
    flat(runs_dir, "CNN_10", train_loss=loss, test_accuracy=accuracy)
    left, right = (ax.get_ylim() for ax in draw("4.1", "cpu").get_axes())
    assert left[1] - left[0] >= 0.1 and right[1] - right[0] >= 0.05
    assert left[0] >= -0.02 and right[1] <= 1.02  # hardly anything that cannot be
    assert left[0] < loss < left[1] and right[0] < accuracy < right[1]


def test_a_gradient_norm_has_at_least_a_decade(runs_dir):
    flat(runs_dir, "MLP_33", gradient_norm_sum=5.0)
    low, high = draw("3.3", "cpu").get_axes()[0].get_ylim()
    assert high / low >= 10 and low < 5 < high


def test_axes_of_curves_that_do_change_are_left_alone(runs_dir):
    rows = [{"epoch": k, "steps": 10, "train_loss": 1.0 + 0.5 * k, "test_accuracy": 0.2 + 0.1 * k} for k in range(4)]
    write_record(runs_dir, "CNN_10", rows, {"split": "test", "epoch": 3})
    left, right = (ax.get_ylim() for ax in draw("4.1", "cpu").get_axes())
    assert left == pytest.approx((1.45, 2.55)) and right == pytest.approx((0.29, 0.51))


def test_a_line_to_compare_with_is_not_cut_off_by_the_least_span(runs_dir):
    flat(runs_dir, "fine_tune_1", train_loss=4.6, validation_accuracy=0.01, train_accuracy=0.01)
    write_experiment(runs_dir, "baseline", "cpu")
    low, high = draw("5.1", "cpu").get_axes()[1].get_ylim()
    assert low < 0.01 and high > 0.37


def test_the_shown_image_is_the_samples(records):
    ax = draw("2.3", "paper").get_axes()[3]
    images = figures.sample_images("cifar10")
    shown = images.images[figures.SHOWN_IMAGE["cifar10"]].permute(1, 2, 0).numpy()
    assert np.array_equal(ax.get_images()[0].get_array(), shown)
    assert "embedded sample" in footer_of(ax.figure)


def test_class_counts_are_the_bars(records):
    axes = draw("2.1", "cpu").get_axes()
    assert [len(ax.patches) for ax in axes] == [10, 10, 100]
    assert axes[0].get_title(loc="left") == "MNIST: 5,421 to 6,742 a class"
    assert "data MNIST, CIFAR-10, CIFAR-100" in footer_of(axes[0].figure)


@pytest.mark.parametrize(
    ("number", "choice"), [*((number, "cpu or paper") for number in ("3.7", "3.7b", "4.5", "4.5b")), ("4.6", "cpu$")]
)
def test_controls_are_refused_in_the_sample(number, choice, records):
    with pytest.raises(UsageError, match=f"figure {number} shows controls .* choose profile {choice}"):
        draw(number, "sample")


def test_both_precisions_are_a_question_of_the_profile_cpu(records):
    with pytest.raises(
        UsageError, match=r"figure 4.6 shows controls .* profile 'paper' has no budget; choose profile cpu$"
    ):
        draw("4.6", "paper")


def test_unknown_numbers_and_profiles_are_refused(records, monkeypatch):
    with pytest.raises(UsageError, match=r"unknown figure '9.9'; did you mean 5.9. choose 2.1, .* or 5.9"):
        draw("9.9", "cpu")
    with pytest.raises(UsageError, match="unknown profile 'huge'"):
        draw("3.1", "huge")
    monkeypatch.setenv("PROFILE", "cpu")
    assert footer_of(draw("3.2")).startswith("profile cpu · seeds 0-1, bands: their range ·")
    monkeypatch.setenv("PROFILE", "")
    assert footer_of(draw("3.2")).startswith("profile sample · seed 0 ·")


def test_save_writes_the_same_svg_and_png_again(records, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    paths = save("3.2", "cpu")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["cpu/3.2.svg", "cpu/3.2.png"]
    before = [path.read_bytes() for path in paths]
    pixels = np.asarray(Image.open(paths[1]).convert("RGB")).reshape(-1, 3)
    off = pixels.astype(int) - [int(COLOURS["MLP_33"][k : k + 2], 16) for k in (1, 3, 5)]
    assert abs(off).max(axis=1).min() <= 2  # the run's colour is among the 256
    assert [path.read_bytes() for path in save("3.2", "cpu")] == before


def test_save_all_goes_on_where_records_are_missing(runs_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    monkeypatch.setattr(figures, "FIGURES", {number: FIGURES[number] for number in ("3.2", "4.2")})
    write_experiment(runs_dir, "CNN_30", "cpu", epochs=3)
    assert [path.name for path in save_all("cpu")] == ["4.2.svg", "4.2.png"]
    assert capsys.readouterr().out.startswith("figure 3.2 has no finished record of MLP_33")


def dark(style: str) -> AbstractContextManager:
    """A reader's style, with everything in it that made figures unreadable or impossible."""
    unlike = {
        "axes.grid": True,
        "font.family": "serif",
        "font.size": 20,
        "axes.prop_cycle": cycler(color=["white"]),
        "savefig.dpi": 40,
    }
    unlike |= {
        "text.usetex": True,
        "savefig.bbox": "tight",
        "legend.fancybox": False,
        "lines.linewidth": 9,
        "svg.fonttype": "none",
    }
    return matplotlib.style.context([style, unlike])


@pytest.mark.parametrize(
    ("number", "style"), [("3.1", "dark_background"), ("5.4", "ggplot"), ("5.6", "dark_background")]
)
def test_a_readers_style_changes_no_byte_of_a_figure_and_stays_as_it_was(number, style, records, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    plain = [path.read_bytes() for path in save(number, "cpu")]
    with dark(style):
        before = dict(matplotlib.rcParams)
        made_there = draw(number, "cpu")
        assert [path.read_bytes() for path in save(number, "cpu", made_there)] == plain
        assert dict(matplotlib.rcParams) == before
    made_here = draw(number, "cpu")
    with dark(style):  # made in one style, drawn in another
        assert [path.read_bytes() for path in save(number, "cpu", made_here)] == plain


def test_what_cannot_be_saved_is_shown_and_said_once(records, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    (tmp_path / "figures").write_text("in the place of the folder")
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "figures")
    for number in ("3.1", "3.2"):
        figures.show(number, "cpu")
    assert [figure.get_suptitle().split()[0] for figure in shown] == ["3.1", "3.2"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"figures are not saved, since {tmp_path / 'figures' / 'cpu'} cannot be written to (")
    refused(lambda: save("3.1", "cpu"), "figures are not saved")
    for _ in range(2):  # while what there is no record of is said each time
        figures.show("3.1", "paper")
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_notebook_shows_a_figure_as_one_sharp_picture(records):
    formatters = pytest.importorskip("IPython.core.formatters")
    data, metadata = formatters.DisplayFormatter().format(draw("3.2", "cpu"))
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"]["width"] == 700


def test_the_two_precisions_differ_by_a_dot_a_seed(records):
    panel = draw("4.6", "cpu").get_axes()[1]
    ends = [{r.seed: r.result["accuracy"] for r in find_records(f"CNN_13_{side}", "cpu")} for side in ("fp32", "bf16")]
    dots = next(line for line in panel.get_lines() if line.get_label() == "_CNN_13")
    assert list(dots.get_ydata()) == [ends[1][seed] - ends[0][seed] for seed in ends[0]]
    assert "CNN\n13" in [label.get_text() for label in panel.get_xticklabels()]


def test_float64_stands_beside_float32_of_the_same_seed(runs_dir):
    write_experiment(runs_dir, "MLP_33", "cpu", seed=0)
    write_experiment(runs_dir, "MLP_33_fp64", "cpu", seed=1)
    refused(lambda: draw("3.7b", "cpu"), "3.7b", "MLP_33, MLP_33_fp64 share none", "train one with another's seed")
    write_experiment(runs_dir, "MLP_33", "cpu", seed=1)
    figure = draw("3.7b", "cpu")
    before, after = figure.get_axes()[1], figure.get_axes()[3]
    record = find_records("MLP_33", "cpu")[1]
    assert record.seed == 1 and "seed 1" in footer_of(figure)
    assert [list(named(ax)["MLP_33"].get_ydata()) for ax in (before, after)] == [
        record.rows[row]["probe_distinct"] for row in (0, -1)
    ]
    assert named(before)["MLP_33_fp64"].get_linestyle() != named(before)["MLP_33"].get_linestyle() == "-"


def test_a_line_is_thinner_than_the_one_below_it(records):
    for number in ("5.4", "3.4"):
        widths = [
            line.get_linewidth()
            for line in draw(number, "cpu").get_axes()[0].get_lines()
            if not line.get_label().startswith("_")
        ]
        assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]


def test_what_lies_close_together_in_a_search_is_drawn_once_more(records):
    everything, close = draw("5.9", "cpu").get_axes()
    rates = [[float(line.get_xdata()[0]) for line in ax.get_lines()] for ax in (everything, close)]
    assert min(rates[1]) >= 5e-4 and sorted(rates[1]) == sorted(rate for rate in rates[0] if rate >= 5e-4)
