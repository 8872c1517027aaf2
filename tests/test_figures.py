"""Figures are read by what they draw (lines, texts, cells), not by their pixels."""

import json
import math

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from experimentTable import EXPERIMENTS, UsageError
from recordFunction import find_record, find_records
from report import figures
from report.figures import FIGURES, SWEEP, curves, draw, save, save_all
from report.lines import spread
from report.plots import COLOURS, PALETTE, looks

EPOCHS = 20
LAYERS = {"MLP_4": 4, "MLP_13": 13, "MLP_23": 23, "MLP_33": 33, "CNN_10": 8, "CNN_13": 10, "CNN_30": 26}


def write_record(root, name, rows, result=None, profile="cpu", seed=0, dirty=False, **experiment):
    """A finished record as a run leaves it."""
    folder = root / profile / name / f"seed-{seed}"
    folder.mkdir(parents=True)
    table = {"dataset": "mnist", "lr": 1e-4, "batch_size": 128, **experiment}
    settings = {"experiment": table, "identity": {}, "provenance": {"commit": "0123456789abcdef" * 2 + "01234567", "dirty": dirty}}
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
    depth = LAYERS.get(exp.model, 12)
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
        result = {"split": split, "epoch": epoch, "last_epoch": len(rows) - 1, "accuracy": accuracies[epoch]}
        return write_record(root, name, rows, result, **place)
    if exp.kind == "baseline":
        return write_record(root, name, [], {"accuracy": 0.37, "chosen": "svm"}, **place)
    if exp.kind == "distribution":
        mnist = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        return write_record(root, name, [], {"counts": {"mnist": mnist, "cifar10": [5000] * 10, "cifar100": [500] * 100}}, **place)
    if exp.kind == "tsne":
        classes, count = (100 if name.endswith("100") else 10), 1000
        folder = write_record(root, name, [], {"knn_accuracy": 0.93, "classes": classes, "images": count}, **place)
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
    return write_record(root, name, rows, **place)


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


@pytest.fixture
def records(made, monkeypatch, runs_dir):
    """The made-up records, and no others, are what figures find."""
    monkeypatch.setenv("RUNS_DIR", str(made))
    monkeypatch.setenv("EVIDENCE", "0")
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
    assert {run for entry in FIGURES.values() for run in entry.runs} <= set(EXPERIMENTS)


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


def test_a_ring_marks_the_restored_epoch(records):
    record = find_record("adam", "cpu")
    rings = [line for line in draw("5.4", "cpu").get_axes()[1].get_lines() if line.get_label() == "_best"]
    assert any(line.get_xdata()[0] == record.result["epoch"] for line in rings)
    assert all(line.get_markerfacecolor() == "white" for line in rings)


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


def test_times_are_bars_and_their_ratio_is_written(records):
    left, right = draw("4.4", "cpu").get_axes()
    rows = [row for row in find_record("timing_4", "cpu").rows if row["plain"] == "CNN_13"]
    assert left.patches[0].get_height() == pytest.approx(1e3 * np.mean([row["plain_seconds"] for row in rows]))
    ratio = np.mean([row["residual_seconds"] / row["plain_seconds"] for row in rows])
    assert texts(right)[0] == f"{ratio:.2f}"
    assert [label.get_text() for label in left.get_xticklabels()][:2] == ["CNN_13", "CNN_res_16"]


def test_scatter_colours_points_by_class_and_is_rasterised(records):
    ax = draw("2.5", "cpu").get_axes()[1]
    assert all(points.get_rasterized() for points in ax.collections)
    assert sum(len(points.get_offsets()) for points in ax.collections) == 1000
    assert len(ax.get_legend().get_texts()) == 20
    assert len({to_hex(colour) for points in ax.collections for colour in points.get_facecolors()}) == 10


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


def test_the_sweeps_table_has_the_reports_numbers_and_ours(records):
    assert max(SWEEP, key=lambda k: SWEEP[k][0]) == 6
    cells = texts(draw("5.6", "cpu").get_axes()[0])
    ours = find_record("sweep_6", "cpu").result["accuracy"]
    at = cells.index("0.0093064")
    assert cells[at - 2 : at + 6] == ["6", "64", "0.0093064", "0.507", f"{ours:.3f}", "0.124", cells[at + 4], "8"]


def test_trials_of_a_search_are_points_of_the_searched_space(records, made):
    def drawn():
        return [line for line in draw("5.9", "cpu").get_axes()[0].get_lines() if line.get_label() == "_our search"]

    assert drawn() == []
    folder = write_record(made, "search_1", [], {"accuracy": 0.4}, dataset="cifar100", lr=2e-3, batch_size=32)
    try:
        (point,) = drawn()
        assert (point.get_xdata()[0], point.get_ydata()[0], point.get_marker()) == (2e-3, 0.4, "P")
    finally:
        for file in folder.iterdir():
            file.unlink()


def test_runs_without_a_record_are_named_with_the_way_to_train_them(runs_dir, monkeypatch):
    monkeypatch.setenv("EVIDENCE", "0")
    write_experiment(runs_dir, "MLP_4", "cpu", epochs=3)
    with pytest.raises(UsageError, match=r"MLP_13, MLP_23 in profile 'cpu'; train with: python run\.py train MLP_13 MLP_23 --profile cpu"):
        draw("3.1", "cpu")


def test_runs_that_may_be_missing_are_named_in_the_footer(runs_dir, monkeypatch):
    monkeypatch.setenv("EVIDENCE", "0")
    for name in ("MLP_res_5", "MLP_res_15", "MLP_res_35", "MLP_res_55"):
        write_experiment(runs_dir, name, "cpu", epochs=3)
    assert footer_of(draw("3.4", "cpu")).endswith("no record of MLP_res_96")


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
    assert footer_of(draw("3.2")).startswith("profile cpu · seeds 0, 1 ·")


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


def test_save_writes_the_same_svg_and_png_again(records, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    paths = save("3.2", "cpu")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["cpu/3.2.svg", "cpu/3.2.png"]
    before = [path.read_bytes() for path in paths]
    pixels = np.asarray(Image.open(paths[1]).convert("RGB")).reshape(-1, 3)
    assert (pixels == [int(COLOURS["MLP_33"][k : k + 2], 16) for k in (1, 3, 5)]).all(axis=1).any()  # the run's very colour
    assert [path.read_bytes() for path in save("3.2", "cpu")] == before


def test_save_all_goes_on_where_records_are_missing(runs_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVIDENCE", "0")
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
