"""The final test: the vault opens once, at the end, and every opening is logged."""

import re
from dataclasses import replace

import pytest
import torch
from helpers import lend, refused

import analysisFunction
from analysisFunction import final_test
from dataFunction import load_images
from experimentTable import ROWS, experiment
from recordFunction import RunFolder, find_openings, find_record

CHAPTER_5 = [row.name for row in ROWS if row.chapter == 5]


def pretend(runs_dir, *names):
    """Finished records of runs that were never trained."""
    for name in names:
        with RunFolder(experiment(name, "sample"), runs_dir) as folder:
            folder.start({}, {"precision": "fp32", "results_version": 1})
            folder.finish({"status": "finished"})


def test_the_test_set_stays_shut_while_a_run_is_unfinished(made, runs_dir, tiny, monkeypatch):
    monkeypatch.setattr(analysisFunction, "open_vault", lambda *_: pytest.fail("the vault was opened"))
    lend(made, runs_dir, "dropout", "baseline", "train_resnet")
    pretend(runs_dir, *(set(CHAPTER_5) - {"dropout", "baseline", "train_resnet", "sgd_2", "sweep_7"}))
    with RunFolder(experiment("sgd_2", "sample"), runs_dir) as folder:
        folder.start({}, {})  # begun, not ended; sweep_7 is not even begun
    message = refused(
        lambda: final_test(find_record("dropout", "sample")), "opens once, at the end", "sgd_2", "sweep_7", "must finish first"
    )
    assert "adam" not in message
    refused(lambda: final_test(find_record("train_resnet", "sample")), "train_resnet has no final test", "dropout and the baseline")
    assert find_openings("sample") == []


def test_the_test_set_opens_once_and_every_opening_is_logged(made, runs_dir, tiny, monkeypatch):
    lend(made, runs_dir, "dropout", "baseline", "train_resnet")
    pretend(runs_dir, *(set(CHAPTER_5) - {"dropout", "baseline", "train_resnet"}))
    opened = []
    vault = analysisFunction.open_vault
    monkeypatch.setattr(analysisFunction, "open_vault", lambda *a: opened.append(a) or vault(*a))
    first = {name: final_test(find_record(name, "sample")) for name in ("dropout", "baseline")}
    assert first["dropout"].keys() == {"resnet18"}
    assert first["baseline"].keys() == {"svm", "logistic_regression"}
    assert len(opened) == 2
    lines = find_openings("sample")
    assert [(line["run"], line["classifier"], line["seed"]) for line in lines] == [
        ("dropout", "resnet18", 0), ("baseline", "svm", 0), ("baseline", "logistic_regression", 0)
    ]  # fmt: skip
    for line in lines:
        assert line == first[line["run"]][line["classifier"]]
        assert 0 <= line["accuracy"] <= 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"])
    assert {name: final_test(find_record(name, "sample")) for name in first} == first
    assert len(opened) == 2
    assert len((runs_dir / "sample" / "openings.jsonl").read_text().splitlines()) == 3


def test_the_final_test_measures_the_weights_that_were_kept(made, runs_dir, tiny, monkeypatch):
    """Opened on the validation images under the labels that the record gave them, it is right every time."""
    lend(made, runs_dir, "dropout", "baseline", "train_resnet")
    pretend(runs_dir, *(set(CHAPTER_5) - {"dropout", "baseline", "train_resnet"}))
    baseline, dropout = find_record("baseline", "sample"), find_record("dropout", "sample")
    for record, classifier in ((baseline, baseline.result["chosen"]), (dropout, "resnet18")):
        given = torch.from_numpy(record.predictions()[1]).long()
        held = load_images("cifar100", "validation", "sample").subset(range(len(given)))
        relabelled = replace(held, labels=given)
        monkeypatch.setattr(analysisFunction, "open_vault", lambda *_, relabelled=relabelled: relabelled)
        assert final_test(record)[classifier]["accuracy"] == 1
