"""Tables are read by the numbers of their records."""

import json

import numpy as np
import pytest
from helpers import refused
from made_up_runs import VERDICTS, trial

from deepnet.claims.ledger import check, ledger
from deepnet.figures.words import (
    gradients_table,
    openings_table,
    results_of,
    results_table,
    search_table,
    table,
    verdicts_of,
)  # fmt: skip
from deepnet.records.reading import find_record, find_records
from deepnet.text import Table, braced, counted, listed, ranges, seeds_of
from experimentTable import EXPERIMENTS


def line(made, name):
    """The cells of one row of a table, without its first."""
    return next(tuple(row[1:]) for row in made.rows if row[0] == name)


def test_a_training_s_row_has_the_spread_over_its_seeds(records):
    losses = [record.column("train_loss")[-1] for record in find_records("MLP_13", "cpu")]
    scores = results_of("MLP_13", profile="cpu")
    made = results_table("3.1", profile="cpu")
    assert [row[0] for row in made.rows] == ["MLP_4", "MLP_13", "MLP_23"]
    loss, score = (f"{np.mean(v):.{d}f} ± {np.std(v, ddof=1):.{d}f}" for v, d in ((losses, 4), (scores, 3)))
    assert line(made, "MLP_13") == ("0-1", loss, score, "test", "20")
    assert made.caption == "Profile cpu. Mean ± standard deviation over the seeds."
    assert results_of("MLP_13", "train_loss", "cpu") == pytest.approx(losses)


def test_the_restored_epoch_counts(records):
    (record,) = find_records("adamw", "cpu")
    epoch, last = record.result["epoch"], record.result["last_epoch"]
    assert epoch < last
    cells = line(results_table(record.name, profile="cpu"), record.name)
    assert cells[1] == f"{record.column('train_loss')[epoch]:.4f}" and cells[-1] == f"{last} (restored: {epoch})"


def test_of_many_runs_the_most_accurate_are_shown(records):
    made = results_table("5.6", profile="cpu", most=3)
    scores = sorted((results_of(f"sweep_{k}", profile="cpu")[0] for k in range(1, 13)), reverse=True)
    assert {row[3] for row in made.rows} == {f"{score:.3f}" for score in scores[:3]}
    assert made.caption.endswith("The 3 most accurate of 12 runs.")


def test_the_analyses_have_tables_of_their_own(records):
    counts = results_table("distribution", profile="cpu")
    assert line(counts, "MNIST") == ("10", "5,421", "6,742") and line(counts, "CIFAR-100") == ("100", "500", "500")
    assert line(results_table("tsne_cifar100", profile="cpu"), "CIFAR-100") == ("100", "0", "0.900")
    baseline = results_table("baseline", profile="cpu")
    assert line(baseline, "baseline, svm") == ("0", "–", "0.370", "validation", "–")
    rows = [row for row in find_record("timing_4", "cpu").rows if row["plain"] == "CNN_30"]
    ratios = [row["residual_seconds"] / row["plain_seconds"] for row in rows]
    expected = ("CNN_res_35", "10", f"{np.mean(ratios):.2f} ± {np.std(ratios, ddof=1):.2f}")
    assert line(results_table("timing_4", profile="cpu"), "CNN_30") == expected
    refused(lambda: results_table("MLP_4", "distribution", profile="cpu"), "several kinds")


def test_gradients_are_shown_at_both_ends_of_training(records):
    ends = [find_record("CNN_30", "cpu").rows[row] for row in (1, -1)]
    made = gradients_table("CNN_30", "fine_tune_1", profile="cpu")
    rms, norm = [f"{end['gradient_log10_rms'][0]:.1f}" for end in ends], [f"{end['gradient_norm']:.2f}" for end in ends]
    assert made.rows == [["CNN_30", "0", *rms, *norm]]  # fine_tune_1 records none


def test_another_profile_with_evidence_stands_in(records):
    caption = results_table("MLP_4", profile="paper").caption
    assert caption.startswith("Profile cpu (paper has no record of these runs).")
    (verdict,) = verdicts_of("3a", profile="paper")
    assert (verdict.profile, verdict.verdict) == ("cpu", check("3a", "cpu").verdict) and "in cpu" in verdict.text


def test_what_has_no_record_is_named(runs_dir):
    assert results_table("MLP_4", profile="cpu").caption == "No finished record of MLP_4 in cpu."
    assert verdicts_of("3a", profile="cpu")[0].verdict == "no evidence"
    refused(lambda: results_table("MLP_5", profile="cpu"), "unknown run or figure 'MLP_5'")


def test_a_search_s_best_trials_stand_above_the_report_s(runs_dir):
    for number, score in enumerate((0.2, 0.41, 0.3, 0.1, 0.25, 0.35), start=1):
        trial(runs_dir, number, score, number * 1e-3, 32)
    trial(runs_dir, 1, 0.5, 1e-3, 32, name="search_wide")
    made = search_table(profile="cpu")
    assert [row[0] for row in made.rows] == [*(f"search_{k}" for k in (2, 6, 3, 5, 1)), "the report's best"]
    assert line(made, "search_2") == ("0", "0.41", "0.002", "32")
    assert line(made, "the report's best") == ("–", "0.507", "0.009306", "64")
    assert made.caption.endswith("The best 5 of 6 trials.")


def test_a_search_is_shown_whatever_it_searches_and_by_whatever_metric(runs_dir):
    trial(runs_dir, 1, 0.3, 1e-3, 32)
    trial(runs_dir, 2, 0.4, 1e-2, 32)
    metric = {"name": "validation_accuracy", "goal": "minimize"}
    other = {"method": "random", "metric": metric, "parameters": {"lr": {"values": [1e-3, 1e-2]}}}
    made = search_table(other, profile="cpu")
    assert made.head == ["trial", "seed", "validation accuracy", "lr"] and made.rows[0][0] == "search_1"
    metric["name"] = "validation_loss"
    assert [row[0] for row in search_table(other, profile="cpu").rows] == ["the report's best"]


def test_openings_of_the_test_set_are_listed(runs_dir):
    log = runs_dir / "cpu" / "openings.jsonl"
    log.parent.mkdir(parents=True)
    opening = {"time": "2025-01-01", "run": "dropout", "seed": 0, "classifier": "resnet18", "accuracy": 0.5034}
    log.write_text(json.dumps(opening) + "\n" + json.dumps(opening | {"seed": 1}) + "\n")
    assert openings_table("cpu").rows == [["dropout", "resnet18", seed, "0.5034"] for seed in "01"]


def test_nothing_is_judged_in_the_sample(records):
    said = [*(results_table(name, profile="sample") for name in EXPERIMENTS), search_table(profile="sample")]
    said += [openings_table("sample"), ledger("sample")]
    assert not any(verdict in str(words) for verdict in VERDICTS for words in said)


def test_how_things_are_written():
    assert [counted(number, "run") for number in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    assert (listed(list("abcd")), listed(list("abcdef"))) == ("a, b, c, d", "a, b, c and 3 more")
    assert (ranges([5, 0, 1, 2]), ranges([3])) == ("0-2, 5", "3")
    assert braced(["a_1_2", "a_1_3", "a_2_2", "a_2_3", "b_1"]) == ["a_{1,2}_{2,3}", "b_1"]
    assert braced(["a_1_2", "a_2_1"]) == ["a_1_2", "a_2_1"]  # of which a shell would make four
    assert seeds_of({"a": [0], "b": [0]}) == "seed 0" and seeds_of({"a": [0, 1, 2]}) == "seeds 0-2"
    assert seeds_of({"a": [0, 1], "b": [0], "c": [0]}) == "seeds 0-1 (a), 0 (b, c)"
    assert seeds_of({"z": [1], **{key: [0] for key in "abcdef"}}) == "seeds 1 (z), 0 (a, b, c and 3 more)"


def test_a_table_groups_thousands_and_aligns_numbers():
    markdown = str(table([{"name": "MLP_4", "weight_layers": 4, "parameters": 1083338}]))
    assert markdown == "| name | weight layers | parameters |\n| --- | ---: | ---: |\n| MLP_4 | 4 | 1,083,338 |"


def test_a_table_in_a_notebook_is_html():
    html = Table(("part", "seeds"), [("norm 4 < 13", "0-2")], "Seen.")._repr_html_()
    assert "<caption" in html and "Seen.</caption>" in html
    assert '<td style="text-align:left">norm 4 &lt; 13</td><td style="text-align:right">0-2</td>' in html
