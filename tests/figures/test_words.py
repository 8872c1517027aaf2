"""Sentences are read by the numbers of their records."""

import json

import numpy as np
import pytest
from made_up_runs import VERDICTS, trial

from deepnet.claims.ledger import ledger, ledger_markdown, ledger_short
from deepnet.figures.words import openings, seen, seen_gradients, seen_search, table
from deepnet.records.reading import find_record, find_records
from deepnet.search.sweep import REPORT_SWEEP
from deepnet.text import counted, listed, ranges, seeds_of
from experimentTable import EXPERIMENTS


def test_the_final_loss_and_accuracy_of_trainings_are_said(records):
    mlp = find_records("MLP_13", "cpu")
    losses = [record.column("train_loss")[-1] for record in mlp]
    said = seen("MLP_13", "early_stopping", profile="cpu")
    assert f"MLP_13 train loss {np.mean(losses):.3g} ({min(losses):.3g} to {max(losses):.3g}), test accuracy " in said
    score = find_record("early_stopping", "cpu").result["accuracy"]
    assert said.endswith(f", validation accuracy {score:.3g}, stopped early after epoch 8.")
    trained = [
        run
        for name, exp in EXPERIMENTS.items()
        if exp.kind == "training"
        for run in find_records(name, "cpu")
        if exp.chapter == 5
    ]
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
    ratios = [
        row["residual_seconds"] / row["plain_seconds"]
        for row in find_record("timing_4", "cpu").rows
        if row["plain"] == "CNN_30"
    ]
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
    assert f" and {np.mean(several):.3g} ({min(several):.3g} to {max(several):.3g})." in seen_gradients(
        "MLP_13", profile="cpu"
    )
    assert "the first row and" in seen_gradients("MLP_13", profile="sample")


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
    assert (
        "the report's best had validation accuracy 0.507, learning rate 0.00931 (at the upper edge of 1e-06 to 0.01)"
        in said
    )


def test_trials_that_are_as_good_are_named(runs_dir):
    trial(runs_dir, 1, 0.4, 1e-3, 32)
    assert "of 1 trial search_1 is best," in seen_search(REPORT_SWEEP, profile="cpu")
    trial(runs_dir, 2, 0.4, 1e-4, 32)
    assert "of 2 trials search_1 is best (as good: search_2)," in seen_search(REPORT_SWEEP, profile="cpu")


def test_a_search_s_trials_are_its_own_and_its_seed_s(runs_dir):
    trial(runs_dir, 1, 0.3, 1e-3, 32)
    trial(runs_dir, 1, 0.4, 1e-3, 32, seed=1)
    for name in ("search_wide", "search_1", "search_1b"):
        trial(runs_dir, 2, 0.5, 1e-3, 32, name=name)
    assert "seeds 0-1: of 2 trials search_1 is best, validation accuracy 0.4," in seen_search(
        REPORT_SWEEP, profile="cpu"
    )
    assert "seed 0: of 1 trial search_1 is best, validation accuracy 0.3," in seen_search(
        REPORT_SWEEP, profile="cpu", seed=0
    )
    assert "of 1 trial search_wide_2 is best, " in seen_search(REPORT_SWEEP, "search_wide", "cpu")


def test_a_search_is_said_whatever_it_searches_and_by_whatever_metric(runs_dir):
    trial(runs_dir, 1, 0.3, 1e-3, 32)
    other = {
        "method": "random",
        "metric": {"name": "validation_accuracy", "goal": "minimize"},
        "parameters": {"lr": {"values": [1e-3, 1e-2]}},
    }
    said = seen_search(other, profile="cpu")
    assert (
        "search_1 is best, validation accuracy 0.3, learning rate 0.001 (searched: 0.001 to 0.01); the report's best"
        in said
    )
    trial(runs_dir, 2, 0.4, 1e-2, 32)
    assert "learning rate 0.001 (at the lower edge of 0.001 to 0.01); the report's best" in seen_search(
        other, profile="cpu"
    )
    other["metric"]["name"] = "validation_loss"
    assert "no finished trial of search" in seen_search(other, profile="cpu")


def test_openings_of_the_test_set_are_counted(runs_dir):
    log = runs_dir / "cpu" / "openings.jsonl"
    log.parent.mkdir(parents=True)
    line = {"time": "2025-01-01", "run": "dropout", "seed": 0, "classifier": "resnet18", "accuracy": 0.5034}
    log.write_text(json.dumps(line) + "\n")
    assert (
        openings("cpu")
        == "The test set has been opened 1 time in cpu: test accuracy dropout (resnet18, seed 0) 0.5034."
    )
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
