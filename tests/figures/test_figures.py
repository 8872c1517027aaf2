"""Figures are read by what they draw (lines, texts, cells), not by their pixels."""

import json
import shutil
from contextlib import AbstractContextManager
from io import BytesIO

import matplotlib.style
import numpy as np
import pytest
from cycler import cycler
from helpers import refused
from made_up_runs import EPOCHS, flat, named, texts, vouched, write_experiment, write_record
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from deepnet.figures import images as images_of
from deepnet.figures import registry as figures
from deepnet.figures.lines import LIMITS
from deepnet.figures.looks import COLOURS, FAINT, PALETTE, SMALL, labels, looks, marker_of
from deepnet.figures.registry import FIGURES, draw, save
from deepnet.records.files import sha256
from deepnet.records.reading import find_record, find_records
from experimentTable import EXPERIMENTS


@pytest.mark.parametrize("number", FIGURES)
def test_every_figure_has_title_labels_and_source_and_all_of_it_can_be_read(number, records):
    figure = draw(number, "cpu")
    assert figure.get_suptitle().startswith(number + "  ") and len(figure.get_suptitle()) < 65
    assert figure.provenance.startswith("profile cpu")
    assert not FIGURES[number].runs or "records at 012345678" in figure.provenance
    assert len(figure.alt) > 60
    assert figure.get_size_inches()[0] == 7
    figure.draw_without_rendering()
    axes = figure.get_axes()
    assert all(ax.get_xlabel() or not ax.get_subplotspec().is_last_row() for ax in axes if ax.axison and named(ax))
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in shown) >= SMALL >= 8
    title, *others = sorted((text.get_window_extent() for text in figure.texts), key=lambda box: box.x0)
    assert all(title.x1 <= box.x0 and box.x1 <= figure.bbox.x1 for box in others if box.y0 > figure.bbox.height / 2)
    legends = [*figure.legends, *(legend for block in figure.subfigs for legend in block.legends)]
    boxes = [part.get_window_extent() for part in (*legends, *(ax.xaxis.label for ax in axes))]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_no_figure_is_left_in_pyplot(records):
    from matplotlib import pyplot

    draw("3.1", "cpu")
    assert pyplot.get_fignums() == []


def test_all_report_figures_are_there():
    numbers = {1: 1, 2: 5, 3: 6, 4: 4, 5: 8}
    assert {f"{chapter}.{k}" for chapter, count in numbers.items() for k in range(1, count + 1)} <= set(FIGURES)
    shown = {run for entry in FIGURES.values() for run in (*entry.runs, *entry.also)}
    assert shown <= {*EXPERIMENTS, "search_*", "openings"}


def test_each_seed_is_a_line_and_the_first_has_the_runs_name(records):
    left, right = draw("3.1", "cpu").get_axes()
    assert set(named(left)) == {"MLP_4", "MLP_13", "MLP_23", "guessing"}
    seeds = [record.column("train_loss")[1:] for record in find_records("MLP_13", "cpu")]
    drawn = [line for line in left.get_lines() if line.get_color() == COLOURS["MLP_13"]]
    assert np.array_equal([line.get_ydata() for line in drawn], seeds) and len(seeds) == 2
    assert list(drawn[0].get_xdata()) == list(range(1, EPOCHS + 1))
    assert (left.get_xlabel(), left.get_ylabel(), left.get_yscale()) == ("epoch", "cross-entropy (nats)", "log")
    assert right.get_title(loc="left") == "Test accuracy"


def test_plain_and_residual_nets_have_the_same_axes(records):
    for family, numbers in (("mlp", ("3.1", "3.2", "3.4")), ("cnn", ("4.1", "4.2", "4.3"))):
        for number in numbers:
            ranges = dict(zip(LIMITS[family], (ax.get_ylim() for ax in draw(number, "cpu").get_axes()), strict=True))
            assert ranges == LIMITS[family]


def test_accuracy_against_depth_has_a_dot_per_seed_and_kind(records):
    upper, lower = draw("1.1", "cpu").get_axes()[::2]
    for ax, last in ((upper, lambda record: record.result["accuracy"]), (lower, lambda r: r.rows[-1]["train_loss"])):
        dots = named(ax)["residual"].get_xydata().tolist()
        assert dots[:2] == [[5, last(record)] for record in find_records("MLP_res_5", "cpu")]
        assert {depth for depth, _ in dots} == {5, 15, 35, 55, 96}
        assert {x for x, _ in named(ax)["plain, He initialization"].get_xydata()} == {4, 13, 23, 33}
    assert (list(lower.get_xticks()), list(lower.get_xticks(minor=True))) == ([4, 13, 23, 33], [5, 15, 35, 55, 96])


def test_he_initialization_stands_beside_the_default_one_in_grey(records):
    eps, he = draw("3.7", "cpu").get_axes()[:2]
    assert {"MLP_33, eps 1e-8", "MLP_33, eps 1e-16"} < {*named(eps)}
    grey = [list(line.get_ydata()) for line in he.get_lines() if to_hex(line.get_color()) == FAINT]
    plain = [name.removesuffix("_he") for name in FIGURES["3.7"].runs if name.endswith("_he")]
    assert grey == [list(r.column("train_loss")[1:]) for name in plain for r in find_records(name, "cpu")]


def test_a_run_is_called_what_it_is_where_runs_differ():
    assert labels(["adam", "sgd"]) == {"adam": "Adam", "sgd": "SGD"}
    assert labels(["fine_tune_1_lr", "fine_tune_2_lr"])["fine_tune_2_lr"] == "layer4 + head, lr 1e-5"
    assert labels(["sweep_6", "dropout"]) == {"sweep_6": "no dropout", "dropout": "dropout 0.5"}
    assert labels(["MLP_33", "MLP_33_eps"]) == {"MLP_33": "eps 1e-8", "MLP_33_eps": "eps 1e-16"}
    assert labels(["MLP_33", "mine"]) == {"MLP_33": "MLP_33", "mine": "mine"}


def test_a_run_has_one_colour_in_every_figure(records):
    for number in ("3.1", "3.2", "3.3", "3.4", "3.6", "4.1", "4.3"):
        for ax in draw(number, "cpu").get_axes():
            for name, line in named(ax).items():
                assert line.get_color() == COLOURS.get(name, line.get_color()), name
                assert line.get_marker() == (marker_of(line.get_color()) if name in COLOURS else "None")
    look = looks(["MLP_33_he", "MLP_33_eps", "MLP_33"])
    assert {colour for colour, _ in look.values()} == {COLOURS["MLP_33"]}


def test_looks_are_distinct_and_do_not_depend_on_the_order():
    names = ["MLP_33", "MLP_33_eps", "MLP_33_he", "CNN_30", "MLP_res_35", "my_net", "my_net_2", "another"]
    assert len(set(looks(names).values())) == len(names)
    assert len(set(looks([f"run {k}" for k in range(len(PALETTE))]).values())) == len(PALETTE)
    assert looks(["mine", "MLP_4"])["MLP_4"] == looks(["MLP_4"])["MLP_4"]


def test_a_single_row_is_shown_with_every_metric_and_whole_ticks(runs_dir):
    write_experiment(runs_dir, "early_stopping", "sample", epochs=1)
    left, right = draw("5.3", "sample").get_axes()
    validation, train = (line for line in right.get_lines() if line.get_label() != "restored epoch")
    assert (validation.get_marker(), train.get_marker()) == ("s", "x")
    assert [tick for tick in left.get_xticks() if tick % 1] == []


def test_the_sample_counts_steps(records):
    ax = draw("3.4", "sample").get_axes()[0]
    assert ax.get_xlabel() == "optimizer steps"
    assert list(named(ax)["MLP_res_96"].get_xdata()) == [150, 300, 450, 600]
    assert ax.figure.provenance.startswith("profile sample · seed 0 · data MNIST")


def test_runs_that_go_on_from_one_another_follow_one_another(records):
    figure = draw("5.2", "cpu")
    ax = figure.get_axes()[1]
    baseline, head, layer4, layer3 = named(ax).values()
    assert [line.get_xdata()[0] for line in (head, layer4, layer3)] == [1, 21, 41]
    assert layer3.get_label() == "layer3 + layer4 + head, lr 1e-5"
    assert (baseline.get_label(), set(baseline.get_ydata())) == ("baseline, svm", {0.37})


def test_rings_mark_every_seeds_restored_epoch_even_the_last(runs_dir):
    for seed in range(3):
        write_experiment(runs_dir, "adam", "cpu", seed)
    rings = [line for line in draw("5.4", "cpu").get_axes()[1].get_lines() if line.get_label() == "restored epoch"]
    restored = [(record.result["epoch"], record.result["accuracy"]) for record in find_records("adam", "cpu")]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in rings] == restored
    rows = [{"epoch": k, "train_loss": 1.0, "validation_accuracy": k / 9, "train_accuracy": 0.5} for k in range(5)]
    write_record(runs_dir, "early_stopping", rows, {"split": "validation", "epoch": 4}, patience=5)
    assert [4 / 9] in [list(line.get_ydata()) for line in draw("5.3", "cpu").get_axes()[1].get_lines()]


def test_runs_that_lie_on_one_another_have_a_column_each_with_the_others_in_grey(records):
    axes = draw("5.4", "cpu").get_axes()
    assert [ax.get_title(loc="left") for ax in axes[:4]] == ["Adam", "SGD", "AdamW", "RMSprop"]
    for ax in axes:
        colours = [to_hex(line.get_color()) for line in ax.get_lines()]
        assert colours.count(FAINT) == 3 and len({*colours}) == 2


def test_the_test_sets_accuracy_is_shown_once_it_was_opened(records, made):
    assert not any(name.startswith("test set") for name in named(draw("5.8", "cpu").get_axes()[3]))
    log, weights = made / "cpu" / "openings.jsonl", made / "cpu" / "dropout" / "seed-0" / "weights.pt"
    weights.write_bytes(b"weights")
    vouched(weights.parent)
    opening = {"time": "2025-01-01", "run": "dropout", "seed": 0, "weights": sha256(weights), "accuracy": 0.503}
    lines = (opening | {"accuracy": 0.7, "weights": "another's"}, opening, opening | {"accuracy": 0.6})
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        assert list(named(draw("5.8", "cpu").get_axes()[3])["test set: 0.503"].get_ydata()) == [0.503]
    finally:
        log.unlink()
        weights.unlink()
        vouched(weights.parent)


def test_depth_map_holds_the_gradients(records):
    figure = draw("3.3b", "cpu")
    panels = {ax.get_title(loc="left"): ax for ax in figure.get_axes()}
    mesh = panels["MLP_33"].collections[0].get_array()
    assert mesh.shape == (33, EPOCHS)  # layers by epochs
    assert mesh[0, 0] == pytest.approx(find_record("MLP_33", "cpu").rows[1]["gradient_log10_rms"][0])
    assert panels["Before training"].get_yscale() == "log"


def test_of_residual_nets_the_layers_inside_a_block_are_not_drawn_and_theory_is_of_a_plain_one(records):
    panels = {ax.get_title(loc="left"): ax for ax in draw("3.6b", "cpu").get_axes()}
    for when, row in (("Before training", 0), ("After training", -1)):
        drawn = named(panels[when])
        theory = {"MLP_33 in theory, default init.", "MLP_33 in theory, He init."} if row == 0 else set()
        assert set(drawn) == {"MLP_res_5", "MLP_res_15", "MLP_res_35", "MLP_res_55", "MLP_res_96"} | theory
        x, y = drawn["MLP_res_15"].get_data()
        assert list(x) == [1, 4, 7, 9, 11, 13, 15]  # two blocks with a projection, four without, the last layer
        variance = np.mean([record.rows[row]["probe_variance"] for record in find_records("MLP_res_15", "cpu")], axis=0)
        assert np.allclose(y, variance[x - 1])


def test_the_ratio_of_times_is_drawn_block_by_block_and_its_mean_is_written(records):
    (ax,) = draw("4.4", "cpu").get_axes()
    rows = [row for row in find_record("timing_4", "cpu").rows if row["plain"] == "CNN_13"]
    ratios = [row["residual_seconds"] / row["plain_seconds"] for row in rows]
    assert ax.get_lines()[0].get_xdata().tolist() == ratios
    assert ax.get_yticklabels()[0].get_text() == f"CNN_res_16 / CNN_13: {np.mean(ratios):.2f}"
    assert "a block of 20 steps" in ax.get_xlabel()


def test_points_are_coloured_by_class_and_rasterised(records):
    digits, *classes = draw("2.2", "cpu").get_axes()
    assert texts(digits) == [str(digit) for digit in range(10)]
    (points,) = digits.collections
    assert points.get_rasterized() and len(points.get_offsets()) == 1000
    assert len({to_hex(colour) for colour in points.get_facecolors()}) == 10 == len(classes)
    assert sum(len(ax.collections[1].get_offsets()) for ax in classes) == 1000
    assert [ax.get_title() for ax in classes[:2]] == ["airplane", "automobile"]


def test_each_superclass_has_a_panel_of_its_own(records):
    panels = draw("2.5", "cpu").get_axes()
    own = [ax.collections[1] for ax in panels]
    assert len(panels) == 20 and sum(len(points.get_offsets()) for points in own) == 1000
    assert panels[0].get_title() == "aquatic mammals" and all(points.get_rasterized() for points in own)


def test_under_the_superclasses_colours_the_skill_is_that_of_the_hundred_classes(runs_dir):
    for seed in (0, 1, 2):
        write_experiment(runs_dir, "tsne_cifar100", "cpu", seed)
    assert "5-NN skill 0.92 over 100 classes" in draw("2.5", "cpu").get_supxlabel()  # the seeds' mean
    shutil.rmtree(runs_dir / "cpu" / "tsne_cifar100" / "seed-0")
    refused(lambda: draw("2.5", "cpu"), "only seed 0 of an embedding keeps its points; train tsne_cifar100")


@pytest.mark.parametrize(("loss", "accuracy"), [(2.3, 0.1), (0.002, 0.999)])
def test_a_plateaus_noise_does_not_look_like_a_change(runs_dir, loss, accuracy):
    flat(runs_dir, "fine_tune_1", train_loss=loss, validation_accuracy=accuracy, train_accuracy=accuracy)
    left, right = (ax.get_ylim() for ax in draw("5.1", "cpu").get_axes())
    assert left[1] / left[0] >= 9.9 and right[1] - right[0] >= 0.05
    assert right[0] >= -0.02 and right[1] <= 1.02  # hardly anything that cannot be
    assert left[0] < loss < left[1] and right[0] < accuracy < right[1]


def test_a_gradient_norm_has_at_least_a_decade(runs_dir):
    flat(runs_dir, "MLP_33", gradient_norm_sum=5.0)
    low, high = draw("3.3", "cpu").get_axes()[0].get_ylim()
    assert high / low >= 9.9 and low < 5 < high


def test_axes_of_curves_that_do_change_are_left_alone(runs_dir):
    rows = [
        {"epoch": k, "steps": 10, "train_loss": 10.0**-k, "validation_accuracy": 0.2 + 0.1 * k, "train_accuracy": 0.3}
        for k in range(4)
    ]
    write_record(runs_dir, "fine_tune_1", rows, {"split": "validation", "epoch": 3})
    left, right = (ax.get_ylim() for ax in draw("5.1", "cpu").get_axes())
    assert left == pytest.approx((1e-3 / 1.2, 0.12)) and right == pytest.approx((0.29, 0.51))


def test_a_line_to_compare_with_is_not_cut_off_by_the_least_span(runs_dir):
    flat(runs_dir, "fine_tune_1", train_loss=4.6, validation_accuracy=0.01, train_accuracy=0.01)
    write_experiment(runs_dir, "baseline", "cpu")
    low, high = draw("5.1", "cpu").get_axes()[1].get_ylim()
    assert low < 0.01 and high > 0.37


def test_the_shown_images_are_the_samples_with_their_channels(records):
    figure = draw("2.3", "paper")
    panels, images = figure.get_axes()[:5], images_of.sample_images("cifar10")
    shown = images.images[images_of.SHOWN["cifar10"][0]].numpy()
    digit, image, *channels = (ax.get_images()[0].get_array() for ax in panels)
    assert digit.shape == (28, 28) and np.array_equal(image, shown.transpose(1, 2, 0))
    assert all(np.array_equal(channel, of) for channel, of in zip(channels, shown, strict=True))
    assert "embedded sample" in figure.provenance


def test_class_counts_are_the_bars(records):
    axes = draw("2.1", "cpu").get_axes()
    assert [len(ax.patches) for ax in axes] == [10, 10, 20]
    assert {patch.get_width() for patch in axes[2].patches} == {2500}
    assert axes[0].get_title(loc="left") == "MNIST\n5,421 to 6,742 each"
    assert "data MNIST, CIFAR-10, CIFAR-100" in axes[0].figure.provenance


@pytest.mark.parametrize(
    ("number", "profile", "choice"),
    [("3.7", "sample", "cpu or paper"), ("4.5b", "sample", "cpu or paper"), ("4.6", "sample", "cpu"),
     ("4.6", "paper", "cpu")],
)  # fmt: skip
def test_ablations_are_refused_where_they_do_not_run(number, profile, choice, records):
    message = refused(lambda: draw(number, profile), f"figure {number} shows ablations (")
    assert message.endswith(f"which profile '{profile}' does not run; choose profile {choice}")


def test_unknown_numbers_and_profiles_are_refused(records, monkeypatch):
    refused(lambda: draw("9.9", "cpu"), "unknown figure '9.9'; did you mean 5.9", "choose 1.1, ", " or A.6")
    refused(lambda: draw("3.1", "huge"), "unknown profile 'huge'")
    monkeypatch.setenv("PROFILE", "cpu")
    assert draw("3.2").provenance.startswith("profile cpu · seeds 0-1 ·")
    monkeypatch.setenv("PROFILE", "")
    assert draw("3.2").provenance.startswith("profile sample · seed 0 ·")


def test_save_writes_the_same_svg_and_png_again(records, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    paths = save("3.2", "cpu")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["cpu/3.2.svg", "cpu/3.2.png"]
    before = [path.read_bytes() for path in paths]
    pixels = np.asarray(Image.open(paths[1]).convert("RGB")).reshape(-1, 3)
    off = pixels.astype(int) - [int(COLOURS["MLP_33"][k : k + 2], 16) for k in (1, 3, 5)]
    assert abs(off).max(axis=1).min() <= 2  # the run's colour is among the 256
    assert [path.read_bytes() for path in save("3.2", "cpu")] == before


def dark(style: str) -> AbstractContextManager:
    """A reader's style, with everything in it that made figures unreadable or impossible."""
    unlike = {
        "axes.grid": True, "font.family": "serif", "font.size": 20, "axes.prop_cycle": cycler(color=["white"]),
        "savefig.dpi": 40, "text.usetex": True, "savefig.bbox": "tight", "legend.fancybox": False, "lines.linewidth": 9,
        "svg.fonttype": "none",
    }  # fmt: skip
    return matplotlib.style.context([style, unlike])


@pytest.mark.parametrize(("number", "style"), [("3.1", "ggplot"), ("5.6", "dark_background")])
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
    first, reading, second = shown  # of 3.1 there is something to say
    assert [figure.get_suptitle().split()[0] for figure in (first, second)] == ["3.1", "3.2"]
    assert FIGURES["3.1"].reading in reading.data
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
    assert metadata["image/png"] == {"width": 700, "height": 210, "alt": draw("3.2", "cpu").alt}
    assert Image.open(BytesIO(data["image/png"])).text["Source"] == draw("3.2", "cpu").provenance


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
    assert record.seed == 1 and "seed 1" in figure.provenance
    for ax, row in ((before, 0), (after, -1)):
        assert list(named(ax)["fp32"].get_ydata()) == record.rows[row]["probe_distinct"]
    assert named(before)["fp64"].get_linestyle() != named(before)["fp32"].get_linestyle() == "-"
    assert named(before)["fp64"].get_linewidth() < named(before)["fp32"].get_linewidth()  # both are seen


def test_what_lies_close_together_in_a_search_is_drawn_once_more(records):
    everything, close = draw("5.9", "cpu").get_axes()
    rates = [[float(line.get_xdata()[0]) for line in ax.get_lines()] for ax in (everything, close)]
    joined = [len(ax.collections[0].get_segments()) for ax in (everything, close)]
    assert joined == [12, sum(EXPERIMENTS[f"sweep_{k}"].lr >= 5e-4 for k in range(1, 13))]
    assert min(rates[1]) >= 5e-4 and sorted(rates[1]) == sorted(rate for rate in rates[0] if rate >= 5e-4)
