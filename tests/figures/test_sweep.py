"""The search as table and picture."""

import math
import shutil

import pytest
from made_up_runs import texts, write_record

from deepnet.figures.registry import draw
from deepnet.figures.sweep import SWEEP, three_best
from deepnet.records.reading import find_record
from experimentTable import EXPERIMENTS


def test_the_sweeps_table_has_the_reports_numbers_and_ours_of_the_restored_and_of_the_last_epoch(records):
    assert max(SWEEP, key=lambda k: SWEEP[k][0]) == 6
    cells, restored = texts(draw("5.6", "cpu").get_axes()[0]), []
    for k, (accuracy, loss) in SWEEP.items():
        record = find_record(f"sweep_{k}", "cpu")
        own, best, last = record.column("train_loss"), record.result["epoch"], record.result["last_epoch"]
        exp = EXPERIMENTS[f"sweep_{k}"]
        scores = (accuracy, record.result["accuracy"], record.column("validation_accuracy")[last])
        numbers = [*(f"{score:.4f}" for score in scores), *(f"{value:.3f}" for value in (loss, own[best], own[last]))]
        assert cells[10 * k : 10 * k + 10] == [f"{k}", f"{exp.batch_size}", f"{exp.lr:.7f}", *numbers, f"{last}"]
        restored.append(f"{own[best]:.3f}" != f"{own[last]:.3f}")
    assert any(restored)


def test_the_sweeps_table_has_a_dash_for_a_run_without_record_and_then_marks_none_of_ours(made, runs_dir):
    (runs_dir / "cpu").mkdir(parents=True)
    for k in range(1, 12):
        (runs_dir / "cpu" / f"sweep_{k}").symlink_to(made / "cpu" / f"sweep_{k}")
    (ax,) = draw("5.6", "cpu").get_axes()
    accuracy, loss = SWEEP[12]
    assert texts(ax)[-10:] == ["12", "128", "0.0000024", f"{accuracy:.4f}", "–", "–", f"{loss:.3f}", "–", "–", "–"]
    strong = [text.get_text() for text in ax.texts[10:] if text.get_fontweight() == "bold"]
    assert strong == ["0.4956", "0.5070", "0.4959"]


def test_the_sweeps_table_shows_itself_as_text_and_is_saved_as_a_picture(records):
    figure = draw("5.6", "cpu")
    assert figure._repr_png_() is None and figure.png.startswith(b"\x89PNG")
    assert figure._repr_html_().count("<tr>") == figure._repr_markdown_().count("\n| ") - 1 == 13
    assert figure._repr_html_().count("<b>") == figure._repr_markdown_().count("**") // 2 > 0
    assert draw("5.9", "cpu")._repr_html_() is None


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.1, 0.4, 0.3, 0.2], [1, 2, 3]),
        ([0.3, 0.1, 0.3, 0.3, 0.2], [0, 2, 3]),
        ([0.3, 0.1, 0.5, 0.3, 0.3, 0.2], [2]),
        ([0.5, 0.4, 0.3, math.nan], []),
    ],
)
def test_none_that_shares_the_third_place_with_a_fourth_is_among_the_three_best(values, best):
    assert three_best(values) == best


def test_trials_of_a_search_are_points_of_the_searched_space(records, made):
    def drawn():
        return [line for line in draw("5.9", "cpu").get_axes()[0].get_lines() if line.get_label() == "_our search"]

    assert drawn() == []
    trial = {"dataset": "cifar100", "batch_size": 32}
    write_record(made, "search_1", [], {"accuracy": 0.4}, **trial, lr=2e-3)
    # another search, which drew another point
    write_record(made, "search_1", [], {"accuracy": 0.3}, **trial, lr=1e-5, seed=1)
    try:
        points = [(point.get_xdata()[0], point.get_ydata()[0], point.get_marker()) for point in drawn()]
        assert points == [(2e-3, 0.4, "P"), (1e-5, 0.3, "P")]
    finally:
        shutil.rmtree(made / "cpu" / "search_1")


def test_the_searched_space_grows_with_the_points_and_shows_no_other_search(records, made):
    def write(name, lr):
        folders.append(write_record(made, name, [], {"accuracy": 0.4}, dataset="cifar100", lr=lr))

    usual, folders = draw("5.9", "cpu").get_axes()[0].get_xlim(), []
    try:
        write("search_wide_1", 1.0)
        write("search_1_2", 1.0)
        assert draw("5.9", "cpu").get_axes()[0].get_xlim() == usual
        write("search_1", 1e-8)
        write("search_2", 0.5)
        low, high = draw("5.9", "cpu").get_axes()[0].get_xlim()
        assert low < 1e-8 and 0.5 < high < 1
    finally:
        for folder in folders:
            shutil.rmtree(folder.parent)
