"""Of partial evidence what is there is drawn and said, and what is missing named."""

import pytest
from helpers import refused
from made_up_runs import named, write_experiment

from deepnet.claims.ledger import ledger
from deepnet.figures import registry as figures
from deepnet.figures.registry import FIGURES, draw, show
from deepnet.figures.words import gradients_table, results_table
from experimentTable import EXPERIMENTS


def test_runs_without_a_record_are_named_and_the_others_drawn(runs_dir):
    for seed in (0, 1, 2):
        write_experiment(runs_dir, "MLP_4", "cpu", seed, epochs=3)
    write_experiment(runs_dir, "MLP_23", "cpu", epochs=3)
    figure = draw("3.1", "cpu")
    assert all(set(named(ax)) == {"MLP_4", "MLP_23", "guessing"} for ax in figure.get_axes())
    assert "No finished record of MLP_13" in [text.get_text() for text in figure.texts]
    assert figure.provenance == (
        "profile cpu · seeds 0-2 (MLP_4), 0 (MLP_23) · data MNIST · records at 012345678 · no finished record of MLP_13"
    )


def test_a_figure_none_of_whose_runs_has_a_record_says_how_to_train_them(runs_dir):
    message = refused(lambda: draw("3.1", "cpu"), "no finished record of MLP_4, MLP_13, MLP_23 in profile 'cpu'")
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
        assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1
        absent = ", ".join(other for other in names if other != name)
        assert figure.provenance.partition(" · no finished record of ")[2] == absent
        place.unlink()


@pytest.fixture
def partial(runs_dir):
    """A profile in which the evidence has only begun: MLP_4 in three seeds, MLP_33 in one."""
    for name, seed in (("MLP_4", 0), ("MLP_4", 1), ("MLP_4", 2), ("MLP_33", 0)):
        write_experiment(runs_dir, name, "cpu", seed)
    return runs_dir


def test_of_partial_evidence_every_figure_is_drawn_or_missed_in_one_line(partial, tmp_path, monkeypatch, capsys):
    begun = {number for number, entry in FIGURES.items() if not entry.runs or {"MLP_4", "MLP_33"} & {*entry.runs}}
    assert begun >= {"1.1", "2.3", "2.4", "3.1", "3.2", "3.3", "3.3b", "3.7", "3.7b"}
    for number in FIGURES:
        if number in begun:
            assert draw(number, "cpu").provenance.startswith("profile cpu")
        else:
            refused(lambda number=number: draw(number, "cpu"), f"figure {number} has no finished record of ")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    show("4.1", "cpu")  # as the notebook calls it: goes on
    assert capsys.readouterr().out.startswith("figure 4.1 has no finished record of CNN_10, CNN_13 in profile 'cpu'; ")
    show("3.2", "cpu")
    assert (tmp_path / "cpu" / "3.2.png").exists()


def test_of_partial_evidence_all_is_said(partial):
    made = results_table("MLP_4", "MLP_13", "MLP_33", profile="cpu")
    assert [row[:2] for row in made.rows] == [["MLP_4", "0-2"], ["MLP_33", "0"]]
    assert made.caption.startswith("Profile cpu. No finished record of MLP_13.")
    assert gradients_table("MLP_13", "MLP_33", profile="cpu").caption.endswith("No finished record of MLP_13.")


def test_of_partial_evidence_the_ledger_is_written(partial):
    judged = ledger("cpu")
    verdicts = {verdict.id: verdict for verdict in judged}
    assert verdicts["3c"].text == "seen once: as claimed"
    assert verdicts["3a"].text == "no evidence (no record of MLP_13, MLP_23)"
    assert {verdict.verdict for id, verdict in verdicts.items() if id[0] in "245"} == {"no evidence", "not judged"}
    assert verdicts["5i"].text == "no evidence (no record of train_resnet, baseline, fine_tune_1 and 26 more)"
    assert "| 3c | " in str(judged)
