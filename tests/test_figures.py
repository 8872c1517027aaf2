"""Figures are read by what they draw (lines, texts, cells), not by their pixels; sentences by the numbers of their records."""

import json
import math
import shutil

import numpy as np
import pytest
from helpers import refused
from matplotlib.colors import to_hex
from PIL import Image

from experimentTable import EXPERIMENTS, UsageError
from myModel import MODELS, model_table
from recordFunction import find_record, find_records
from report import figures
from report.claims import ledger, ledger_markdown, ledger_short
from report.figures import FIGURES, curves, draw, save, save_all, show
from report.lines import spread
from report.plots import COLOURS, PALETTE, looks
from report.sweep import SWEEP, three_best
from report.text import counted, listed, ranges, seeds_of
from report.words import openings, seen, seen_gradients, seen_search, table
from searchFunction import REPORT_SWEEP

EPOCHS = 20
LAYERS = {row["name"]: row["weight_layers"] for row in model_table(MODELS)}
VERDICTS = ("holds", "fails", "undecided")


def write_record(root, name, rows, result=None, profile="cpu", seed=0, dirty=False, identity=None, **experiment):
    """A finished record as a run leaves it."""
    folder = root / profile / name / f"seed-{seed}"
    folder.mkdir(parents=True)
    table = {"dataset": "mnist", "lr": 1e-4, "batch_size": 128, **experiment}
    settings = {
        "experiment": table,
        "identity": identity or {},
        "provenance": {"commit": "0123456789abcdef" * 2 + "01234567", "dirty": dirty},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "result.json").write_text(json.dumps({"status": "finished", **(result or {})}))
    return folder


def training_rows(exp, seed, epochs, noise):
    """A curve that falls towards a floor of its own; runs named in `FLAT` stay where they began."""
    rng = np.random.default_rng([seed, *exp.name.encode()])
    speed = rng.uniform(0.25, 0.7) * (1 + noise * rng.normal())
    classes, split = (100, "validation") if exp.chapter == 5 and exp.dataset == "cifar100" else (10, "test")
    stuck = exp.name in ("MLP_33", "CNN_30")
    best = 1 / classes if stuck else (0.5 if classes == 100 else 0.97 if exp.chapter == 3 else 0.7)
    depth = LAYERS[exp.model]
    rows = []
    for epoch in range(epochs + 1):
        done = 0 if stuck else 1 - math.exp(-speed * epoch)
        row = {
            "epoch": epoch,
            f"{split}_accuracy": 1 / classes + (best - 1 / classes) * done + 0.01 * noise * rng.normal(),
            f"{split}_loss": math.log(classes) * (1 - 0.8 * done),
        }
        if epoch:
            row |= {
                "train_loss": math.log(classes) * (1 - 0.97 * done) + 0.02 * noise * abs(rng.normal()),
                "train_accuracy": min(1.0, (1 if split == "validation" else best) * done + 0.01),
                "learning_rate": exp.lr, "steps": 150, "train_seconds": 10.0,
            }  # fmt: skip
        if exp.record_gradients:
            default = "_he" not in exp.name and "_res_" not in exp.name
            fall = math.log10(6) if default and done < 0.5 else 0.1
            row["probe_variance"] = [10 ** max(-0.5 - fall * k, -15) for k in range(depth)]
            if epoch:
                row["gradient_norm_sum"] = 1e-6 if stuck else 50 * depth * (1.2 - done)
                row["gradient_norm"] = row["gradient_norm_sum"] / 500
                row["gradient_log10_rms"] = [-2 - fall * (depth - 1 - k) / 1.5 for k in range(depth)]
        rows.append(row)
    return rows, split


def write_experiment(root, name, profile="cpu", seed=0, epochs=EPOCHS, noise=0.1):
    """A made-up record of any row of the table."""
    exp, rng = EXPERIMENTS[name], np.random.default_rng(seed)
    place = {"profile": profile, "seed": seed, "kind": exp.kind, "dataset": exp.dataset, "lr": exp.lr, "batch_size": exp.batch_size}
    if exp.kind == "training":
        ends = 8 if name in ("early_stopping", "sgd", "sweep_6") else epochs
        rows, split = training_rows(exp, seed, min(ends, epochs), noise)
        accuracies = [row[f"{split}_accuracy"] for row in rows]
        epoch = int(np.argmax(accuracies)) if exp.patience else len(rows) - 1
        score, classes = accuracies[epoch], 100 if exp.dataset == "cifar100" else 10
        result = {
            "split": split, "classes": classes, "epoch": epoch, "last_epoch": len(rows) - 1, "budget": epochs, "accuracy": score,
            "macro_accuracy": score, "best_epoch": int(np.argmax(accuracies)), "best_accuracy": max(accuracies),
            "stopped_early": len(rows) - 1 < epochs,
        }  # fmt: skip
        return predicted(write_record(root, name, rows, result, **place), score, classes)
    if exp.kind == "baseline":
        classifiers = {"svm": {"validation_accuracy": 0.37}, "logistic_regression": {"validation_accuracy": 0.35}}
        result = {"accuracy": 0.37, "chosen": "svm", "split": "validation", "classes": 100, "classifiers": classifiers}
        return predicted(write_record(root, name, [], result, **place), 0.37, 100)
    if exp.kind == "distribution":
        mnist = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        return write_record(root, name, [], {"counts": {"mnist": mnist, "cifar10": [5000] * 10, "cifar100": [500] * 100}}, **place)
    if exp.kind == "tsne":
        classes, count = (100 if name.endswith("100") else 10), 1000
        folder = write_record(root, name, [], {"knn_skill": 0.9 + 0.02 * seed, "classes": classes, "images": count}, **place)
        label = np.arange(count) % classes
        centres = rng.normal(size=(classes, 2)) * 40
        points = {"xy": (centres[label] + rng.normal(size=(count, 2)) * 6).astype(np.float16), "label": label.astype(np.uint8)}
        np.savez_compressed(folder / "points.npz", **points, **({"coarse": (label // 5).astype(np.uint8)} if classes == 100 else {}))
        return folder
    pairs = [("MLP_4", "MLP_res_5"), ("MLP_13", "MLP_res_15"), ("MLP_33", "MLP_res_35")] if name == "timing_3" else [
        ("CNN_13", "CNN_res_16"), ("CNN_30", "CNN_res_35")
    ]  # fmt: skip
    rows = [
        {"pair": f"{plain} / {residual}", "plain": plain, "residual": residual, "block": block,
         "plain_seconds": 0.002 * (i + 1) * (1 + 0.02 * rng.random()), "residual_seconds": 0.0023 * (i + 1) * (1 + 0.02 * rng.random())}
        for i, (plain, residual) in enumerate(pairs) for block in range(10)
    ]  # fmt: skip
    return write_record(root, name, rows, identity={"blocks": 10, "steps": 20}, **place)


def predicted(folder, accuracy, classes, images=1000):
    """The folder, with predictions of that accuracy."""
    labels = np.arange(images) % classes
    right = np.arange(images) < round(accuracy * images)
    np.save(folder / "predictions.npy", np.stack([labels, np.where(right, labels, (labels + 1) % classes)]).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Records of every run in `cpu` (chapter 3 with two seeds) and, but for the controls, in `sample`."""
    root = tmp_path_factory.mktemp("made")
    for name, exp in EXPERIMENTS.items():
        for seed in (0, 1) if exp.chapter == 3 and exp.kind == "training" else (0,):
            write_experiment(root, name, "cpu", seed)
        if exp.family != "control":
            write_experiment(root, name, "sample", epochs=4 if name == "MLP_res_96" else 10)
    return root


@pytest.fixture(autouse=True)
def no_evidence(monkeypatch, runs_dir):
    """Only what a test makes up is found."""
    monkeypatch.setenv("EVIDENCE", "0")


@pytest.fixture
def records(made, monkeypatch, no_evidence):
    """All made-up records are found."""
    monkeypatch.setenv("RUNS_DIR", str(made))
    return made


def named(ax):
    """name -> line, of the lines that a reader sees a name for."""
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def texts(ax):
    """What is written in a panel."""
    return [text.get_text() for text in ax.texts]


def footer_of(figure):
    return figure.get_supxlabel().replace("\n", " ")


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
    assert {run for entry in FIGURES.values() for run in (*entry.runs, *entry.also)} <= {*EXPERIMENTS, "search_*", "openings"}


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


@pytest.mark.parametrize(("values", "gap"), [([0.5, 0.5, 0.5], 0.1), ([0.0, 0.01, 0.99, 1.0], 0.1), ([0.2, 0.9, 0.4], 0.05), ([], 0.1)])
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
    assert set(named(ax)["baseline"].get_ydata()) == {0.37}


def test_rings_mark_every_seeds_restored_epoch(runs_dir):
    for seed in range(3):
        write_experiment(runs_dir, "adam", "cpu", seed)
    rings = [line for line in draw("5.4", "cpu").get_axes()[1].get_lines() if line.get_label() == "_best"]
    restored = [(record.result["epoch"], record.result["accuracy"]) for record in find_records("adam", "cpu")]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in rings] == [at for at in restored if at[0] < EPOCHS]
    assert rings and all(line.get_markerfacecolor() == "white" for line in rings)


def test_the_test_sets_accuracy_is_shown_once_it_was_opened(records, made):
    assert "test set" not in named(draw("5.8", "cpu").get_axes()[1])
    log = made / "cpu" / "openings.jsonl"
    log.write_text(json.dumps({"time": "2025-01-01", "run": "dropout", "seed": 0, "accuracy": 0.503}) + "\n")
    try:
        assert set(named(draw("5.8", "cpu").get_axes()[1])["test set"].get_ydata()) == {0.503}
    finally:
        log.unlink()


def test_depth_map_holds_the_gradients_and_theory_falls_to_a_sixth(records):
    figure = draw("3.3b", "cpu")
    panels = {ax.get_title(loc="left"): ax for ax in figure.get_axes()}
    mesh = panels["MLP_33"].collections[0].get_array()
    assert mesh.shape == (33, EPOCHS)  # layers by epochs
    assert mesh[0, 0] == pytest.approx(find_record("MLP_33", "cpu").rows[1]["gradient_log10_rms"][0])
    theory = named(panels["Before training"])["theory: 1/6 a layer"].get_ydata()
    assert theory[1] / theory[0] == pytest.approx(1 / 6)
    assert panels["Before training"].get_yscale() == "log"


def test_theory_of_plain_chains_is_not_drawn_beside_residual_nets_nor_are_the_layers_inside_a_block(records):
    panels = {ax.get_title(loc="left"): ax for ax in draw("3.6b", "cpu").get_axes()}
    for when, row in (("Before training", 0), ("After training", -1)):
        drawn = named(panels[when])
        assert set(drawn) == {"MLP_res_5", "MLP_res_15", "MLP_res_35", "MLP_res_55", "MLP_res_96"}
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


def flat(root, name, **columns):
    """A training in cpu that stands still: each metric's value, give or take a thousandth."""
    noise = np.random.default_rng(0).uniform(-1e-3, 1e-3, EPOCHS + 1)
    rows = [{"epoch": k, "steps": 10} | {metric: value + noise[k] for metric, value in columns.items()} for k in range(EPOCHS + 1)]
    write_record(root, name, rows, {"split": "test", "epoch": EPOCHS})


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


def test_the_sweeps_table_has_the_reports_numbers_and_ours_of_one_epoch(records):
    assert max(SWEEP, key=lambda k: SWEEP[k][0]) == 6
    cells, restored = texts(draw("5.6", "cpu").get_axes()[0]), []
    for k, (accuracy, loss) in SWEEP.items():
        record = find_record(f"sweep_{k}", "cpu")
        own, best, last = record.column("train_loss"), record.result["epoch"], record.result["last_epoch"]
        exp = EXPERIMENTS[f"sweep_{k}"]
        numbers = [f"{accuracy:.4f}", f"{record.result['accuracy']:.4f}", f"{loss:.3f}", f"{own[best]:.3f}", f"{last}"]
        assert cells[8 * k : 8 * k + 8] == [f"{k}", f"{exp.batch_size}", f"{exp.lr:.7f}", *numbers]
        restored.append(f"{own[best]:.3f}" != f"{own[last]:.3f}")
    assert any(restored)


def test_the_sweeps_table_has_a_dash_for_a_run_without_record_and_then_marks_none_of_ours(made, runs_dir):
    (runs_dir / "cpu").mkdir(parents=True)
    for k in range(1, 12):
        (runs_dir / "cpu" / f"sweep_{k}").symlink_to(made / "cpu" / f"sweep_{k}")
    (ax,) = draw("5.6", "cpu").get_axes()
    assert texts(ax)[-8:] == ["12", "128", "0.0000024", f"{SWEEP[12][0]:.4f}", "–", f"{SWEEP[12][1]:.3f}", "–", "–"]
    strong = [text.get_text() for text in ax.texts[8:] if text.get_fontweight() == "bold"]
    assert strong == ["0.4956", "0.5070", "0.4959"]


@pytest.mark.parametrize(
    ("values", "best"),
    [([0.1, 0.4, 0.3, 0.2], [1, 2, 3]), ([0.3, 0.1, 0.5, 0.3, 0.3, 0.2], [0, 2, 3, 4]), ([0.5, 0.4, 0.3, math.nan], [])],
)
def test_all_that_share_the_third_place_are_among_the_best(values, best):
    assert three_best(values) == best


def test_trials_of_a_search_are_points_of_the_searched_space(records, made):
    def drawn():
        return [line for line in draw("5.9", "cpu").get_axes()[0].get_lines() if line.get_label() == "_our search"]

    assert drawn() == []
    trial = {"dataset": "cifar100", "batch_size": 32}
    write_record(made, "search_1", [], {"accuracy": 0.4}, **trial, lr=2e-3)
    write_record(made, "search_1", [], {"accuracy": 0.3}, **trial, lr=1e-5, seed=1)  # another search, which drew another point
    try:
        points = [(point.get_xdata()[0], point.get_ydata()[0], point.get_marker()) for point in drawn()]
        assert points == [(2e-3, 0.4, "P"), (1e-5, 0.3, "P")]
    finally:
        shutil.rmtree(made / "cpu" / "search_1")


def test_runs_without_a_record_are_named_in_the_footer_and_the_others_drawn(runs_dir):
    for seed in (0, 1, 2):
        write_experiment(runs_dir, "MLP_4", "cpu", seed, epochs=3)
    write_experiment(runs_dir, "MLP_23", "cpu", epochs=3)
    figure = draw("3.1", "cpu")
    assert all(set(named(ax)) == {"MLP_4", "MLP_23"} for ax in figure.get_axes())
    assert footer_of(figure) == (
        "profile cpu · seeds 0-2 (MLP_4), 0 (MLP_23) · data MNIST · records at 012345678 · no finished record of MLP_13"
    )


def test_a_figure_none_of_whose_runs_has_a_record_says_how_to_train_them(runs_dir):
    message = refused(lambda: draw("3.1", "cpu"), "figure 3.1 has no finished record of MLP_4, MLP_13, MLP_23 in profile 'cpu'")
    assert message.endswith("train with: python run.py train MLP_4 MLP_13 MLP_23 --profile cpu")
    write_experiment(runs_dir, "baseline", "cpu")  # stands beside the runs of 5.1, and is no figure by itself
    refused(lambda: draw("5.1", "cpu"), "no finished record of fine_tune_1, fine_tune_2")


@pytest.mark.parametrize("number", [number for number, entry in FIGURES.items() if entry.runs])
def test_any_one_of_its_runs_is_enough_for_a_figure(number, made, runs_dir):
    entry = FIGURES[number]
    names = [name for name in (*entry.runs, *entry.also) if name in EXPERIMENTS]
    (runs_dir / "cpu").mkdir(parents=True)
    for name in {names[0], entry.runs[-1]} & set(names):
        place = runs_dir / "cpu" / name
        place.symlink_to(made / "cpu" / name)
        figure = draw(number, "cpu")
        figure.draw_without_rendering()
        assert max(text.get_window_extent().x1 for text in (figure._suptitle, figure._supxlabel)) <= figure.bbox.x1
        absent = ", ".join(other for other in names if other != name)
        assert footer_of(figure).partition(" · no finished record of ")[2] == absent
        place.unlink()


@pytest.fixture
def partial(runs_dir):
    """A profile in which the evidence has only begun: MLP_4 in three seeds, MLP_33 in one."""
    for name, seed in (("MLP_4", 0), ("MLP_4", 1), ("MLP_4", 2), ("MLP_33", 0)):
        write_experiment(runs_dir, name, "cpu", seed)
    return runs_dir


def test_of_partial_evidence_every_figure_is_drawn_or_missed_in_one_line(partial, tmp_path, monkeypatch, capsys):
    begun = {"2.3", "2.4", "3.1", "3.2", "3.3", "3.3b", "3.7"}
    for number in FIGURES:
        if number in begun:
            assert footer_of(draw(number, "cpu")).startswith("profile cpu")
        else:
            refused(lambda number=number: draw(number, "cpu"), f"figure {number} has no finished record of ")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    show("4.1", "cpu")  # as the notebook calls it: goes on
    assert capsys.readouterr().out.startswith("figure 4.1 has no finished record of CNN_10, CNN_13 in profile 'cpu'; train with: ")
    show("3.2", "cpu")
    assert (tmp_path / "cpu" / "3.2.png").exists()


def test_of_partial_evidence_all_is_said(partial):
    said = seen("MLP_4", "MLP_13", "MLP_33", profile="cpu")
    assert said.startswith("Seen in cpu, seeds 0-2 (MLP_4), 0 (MLP_33): MLP_4 train loss ")
    assert said.endswith("; no finished record of MLP_13.")
    assert seen("CNN_10", "CNN_13", profile="cpu") == "Nothing seen in cpu yet: no finished record of CNN_10, CNN_13."
    assert seen_gradients("MLP_13", "MLP_33", profile="cpu").endswith("; no finished record of MLP_13.")
    assert seen_search(REPORT_SWEEP, profile="cpu").startswith(
        "Nothing seen in cpu yet: no finished trial of search; the report's best had "
    )
    assert openings("cpu") == "The test set has not been opened in cpu yet."


def test_of_partial_evidence_the_ledger_is_written(partial):
    verdicts = {verdict.id: verdict for verdict in ledger("cpu")}
    assert (verdicts["3c"].text, verdicts["3a"].text) == ("holds (one seed)", "no evidence (no record of MLP_13, MLP_23)")
    assert {verdict.verdict for id, verdict in verdicts.items() if id[0] in "245"} == {"no evidence", "not judged"}
    assert verdicts["5i"].text == "no evidence (no record of train_resnet, baseline, fine_tune_1 and 26 more)"
    assert "| 3c | " in ledger_short(verdicts.values()) and "| 3c | " in ledger_markdown(verdicts.values())


@pytest.mark.parametrize("number", ["3.7", "4.5"])
def test_controls_are_refused_in_the_sample(number, records):
    with pytest.raises(UsageError, match=f"figure {number} shows controls .* choose profile cpu or paper"):
        draw(number, "sample")


def test_unknown_numbers_and_profiles_are_refused(records, monkeypatch):
    with pytest.raises(UsageError, match=r"unknown figure '9.9'; choose 2.1, .* or 5.9"):
        draw("9.9", "cpu")
    with pytest.raises(UsageError, match="unknown profile 'huge'"):
        draw("3.1", "huge")
    monkeypatch.setenv("PROFILE", "cpu")
    assert footer_of(draw("3.2")).startswith("profile cpu · seeds 0-1 ·")
    monkeypatch.setenv("PROFILE", "")
    assert footer_of(draw("3.2")).startswith("profile sample · seed 0 ·")


def test_curves_draw_a_readers_own_runs(runs_dir):
    rows = [{"epoch": k, "validation_accuracy": 0.1 * k, "steps": 10} | ({"train_loss": 2.0 / k} if k else {}) for k in range(5)]
    for name, dirty in (("my_net", True), ("other", False)):
        write_record(runs_dir, name, rows, {"split": "validation", "epoch": 4}, profile="own", dataset="", dirty=dirty)
    own = [find_record(name, "own") for name in ("my_net", "other")]
    figure = curves(own, ["train_loss", "validation_accuracy"])
    left, right = figure.get_axes()
    assert list(named(left)["my_net"].get_ydata()) == [2.0, 1.0, pytest.approx(2 / 3), 0.5]
    assert named(right)["my_net"].get_color() != named(right)["other"].get_color()
    assert "records at 012345678+, 012345678" in footer_of(figure)
    assert len(curves(own[0], "train_loss").get_axes()) == 1
    pair = curves(own[0], [("validation_accuracy", "train_loss")]).get_axes()[0]
    assert pair.get_title(loc="left") == "Validation accuracy (dashed: train loss)"
    with pytest.raises(UsageError, match="'test_accuracy'; choose from epoch, steps, train_loss, validation_accuracy"):
        curves(own, "test_accuracy")
    with pytest.raises(UsageError, match="no records to draw"):
        curves([], "train_loss")


def test_missing_values_are_gaps(runs_dir):
    rows = [{"epoch": 0}, {"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": None}, {"epoch": 3, "train_loss": 1.0}]
    write_record(runs_dir, "gap", rows, profile="own")
    (line,) = curves(find_record("gap", "own"), "train_loss").get_axes()[0].get_lines()
    assert list(np.isnan(line.get_ydata())) == [False, True, False]
    rows = [{"epoch": k, "train_loss": None, "gradient_norm": None} for k in range(3)]
    write_record(runs_dir, "lost", rows, profile="own")
    curves(find_record("lost", "own"), ["train_loss", "gradient_norm"]).draw_without_rendering()


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


def test_a_notebook_shows_a_figure_as_one_sharp_picture(records):
    formatters = pytest.importorskip("IPython.core.formatters")
    data, metadata = formatters.DisplayFormatter().format(draw("3.2", "cpu"))
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"]["width"] == 700


# ---------------------------------------------------------------- what is said


def test_the_final_loss_and_accuracy_of_trainings_are_said(records):
    mlp = find_records("MLP_13", "cpu")
    losses = [record.column("train_loss")[-1] for record in mlp]
    said = seen("MLP_13", "early_stopping", profile="cpu")
    assert f"MLP_13 train loss {np.mean(losses):.3g} ({min(losses):.3g} to {max(losses):.3g}), test accuracy " in said
    score = find_record("early_stopping", "cpu").result["accuracy"]
    assert said.endswith(f", validation accuracy {score:.3g}, stopped early after epoch 8.")
    trained = [run for name, exp in EXPERIMENTS.items() if exp.kind == "training" for run in find_records(name, "cpu") if exp.chapter == 5]
    restored = next(run for run in trained if run.result["epoch"] < run.result["last_epoch"])
    loss = restored.column("train_loss")[restored.result["epoch"]]  # of the epoch whose accuracy is said
    assert f"{restored.name} train loss {loss:.3g}, " in seen(restored.name, profile="cpu")
    assert "stopped early after row 8." in seen("early_stopping", profile="sample")


def test_the_analyses_findings_are_said(records):
    assert seen("distribution", profile="cpu").endswith(
        ": MNIST has 5,421 to 6,742 images a class, CIFAR-10 has 5,000 images in every class, CIFAR-100 has 500 images in every class."
    )
    assert "CIFAR-100's 100 classes apart with skill 0.9 (" in seen("tsne_cifar100", profile="cpu")
    assert seen("baseline", profile="cpu").endswith(
        "of the svm 0.37 and of the logistic regression 0.35; held-out train images chose the svm."
    )
    ratios = [row["residual_seconds"] / row["plain_seconds"] for row in find_record("timing_4", "cpu").rows if row["plain"] == "CNN_30"]
    said = seen("timing_4", profile="cpu")
    assert "over 10 blocks of 20 steps, a residual step takes the plain one's time times " in said
    assert f"{np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) for CNN_30 / CNN_res_35." in said


def test_the_first_layers_gradient_and_the_global_norm_are_said_at_both_ends(records):
    first, last = (find_record("CNN_30", "cpu").rows[row] for row in (1, -1))
    said = seen_gradients("CNN_30", "fine_tune_1", profile="cpu")
    assert said.startswith("Seen in cpu, seed 0, gradients averaged over the first epoch and over the last: ")
    rms, norm = ([row[key] for row in (first, last)] for key in ("gradient_log10_rms", "gradient_norm"))
    assert f"CNN_30 first layer's RMS 10^{rms[0][0]:.3g} at first and 10^{rms[1][0]:.3g} at the end, " in said
    assert f"global norm {norm[0]:.3g} and {norm[1]:.3g}; fine_tune_1 has no gradients recorded." in said
    several = [record.rows[-1]["gradient_norm"] for record in find_records("MLP_13", "cpu")]
    assert f" and {np.mean(several):.3g} ({min(several):.3g} to {max(several):.3g})." in seen_gradients("MLP_13", profile="cpu")
    assert "the first row and" in seen_gradients("MLP_13", profile="sample")


def trial(root, number, accuracy, lr, batch_size):
    """A trial of a search, as far as a sentence reads it."""
    return write_record(root, f"search_{number}", [], {"best_accuracy": accuracy}, lr=lr, batch_size=batch_size, dataset="cifar100")


@pytest.mark.parametrize(
    ("lr", "batch_size", "rate", "batch"),
    [
        (9.5e-3, 64, "0.0095 (at the upper edge of 1e-06 to 0.01)", "64 (inside 16 to 256)"),
        (1e-4, 256, "0.0001 (inside 1e-06 to 0.01)", "256 (at the upper edge of 16 to 256)"),
        (1.5e-6, 16, "1.5e-06 (at the lower edge of 1e-06 to 0.01)", "16 (at the lower edge of 16 to 256)"),
        (5e-3, 128, "0.005 (inside 1e-06 to 0.01)", "128 (inside 16 to 256)"),  # on the range's own, logarithmic scale
    ],
)
def test_a_searchs_best_trial_is_said_beside_the_reports(runs_dir, lr, batch_size, rate, batch):
    trial(runs_dir, 1, 0.2, 1e-3, 32)
    trial(runs_dir, 2, 0.41, lr, batch_size)
    said = seen_search(REPORT_SWEEP, profile="cpu")
    assert f"of 2 trials search_2 is best, validation accuracy 0.41, learning rate {rate}, batch size {batch}; " in said
    assert "the report's best had validation accuracy 0.507, learning rate 0.00931 (at the upper edge of 1e-06 to 0.01)" in said


def test_trials_that_are_as_good_are_named(runs_dir):
    trial(runs_dir, 1, 0.4, 1e-3, 32)
    assert "of 1 trial search_1 is best," in seen_search(REPORT_SWEEP, profile="cpu")
    trial(runs_dir, 2, 0.4, 1e-4, 32)
    assert "of 2 trials search_1 is best (as good: search_2)," in seen_search(REPORT_SWEEP, profile="cpu")


def test_openings_of_the_test_set_are_counted(runs_dir):
    log = runs_dir / "cpu" / "openings.jsonl"
    log.parent.mkdir(parents=True)
    line = {"time": "2025-01-01", "run": "dropout", "seed": 0, "classifier": "resnet18", "accuracy": 0.5034}
    log.write_text(json.dumps(line) + "\n")
    assert openings("cpu") == "The test set has been opened 1 time in cpu: test accuracy dropout (resnet18, seed 0) 0.5034."
    log.write_text(json.dumps(line) + "\n" + json.dumps(line | {"seed": 1}) + "\n")
    assert "opened 2 times in cpu" in openings("cpu")


def test_nothing_is_judged_in_the_sample(records):
    said = [
        seen(*EXPERIMENTS, profile="sample"),
        seen_gradients(*EXPERIMENTS, profile="sample"),
        seen_search(REPORT_SWEEP, profile="sample"),
    ]
    said += [openings("sample"), ledger_short(ledger("sample")), ledger_markdown(ledger("sample"))]
    assert not any(verdict in words for verdict in VERDICTS for words in said)


def test_how_things_are_written():
    assert [counted(number, "run") for number in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    assert (listed(list("abcd")), listed(list("abcdef"))) == ("a, b, c, d", "a, b, c and 3 more")
    assert (ranges([5, 0, 1, 2]), ranges([3])) == ("0-2, 5", "3")
    assert seeds_of({"a": [0], "b": [0]}) == "seed 0" and seeds_of({"a": [0, 1, 2]}) == "seeds 0-2"
    assert seeds_of({"a": [0, 1], "b": [0], "c": [0]}) == "seeds 0-1 (a), 0 (b, c)"
    assert seeds_of({"z": [1], **{key: [0] for key in "abcdef"}}) == "seeds 1 (z), 0 (a, b, c and 3 more)"


def test_a_notebooks_table_groups_thousands_and_aligns_numbers():
    markdown = table([{"name": "MLP_4", "weight_layers": 4, "parameters": 1083338}]).data
    assert markdown == "| name | weight layers | parameters |\n| --- | ---: | ---: |\n| MLP_4 | 4 | 1,083,338 |"
