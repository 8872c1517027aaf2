"""The final test: the test set opens once, at the end, and every opening is logged."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers import ROOT, lend, refused, tiny_sample, untimed

from coreFunction import final_test, run, run_all, search
from deepnet.analyses import final_test as room
from deepnet.data import sets
from deepnet.data.sets import load_images, load_test_set
from deepnet.records.folder import RunFolder
from deepnet.records.reading import find_openings, find_record
from deepnet.search.sweep import REPORT_SWEEP
from experimentTable import PROFILES, ROWS, Experiment, experiment

CHAPTER_5 = [row.name for row in ROWS if row.chapter == 5]


def pretend(runs_dir, *names):
    """Finished records of runs that were never trained."""
    for name in names:
        with RunFolder(experiment(name, "sample"), runs_dir) as folder:
            folder.start({}, {"precision": "fp32", "results_version": 1})
            folder.finish({"status": "finished"})


def test_unfinished_runs(made, runs_dir, tiny, monkeypatch):
    monkeypatch.setattr(room, "load_test_set", lambda *_: pytest.fail("the test set was opened"))
    lend(made, runs_dir, "dropout", "baseline", "train_resnet")
    pretend(runs_dir, *(set(CHAPTER_5) - {"dropout", "baseline", "train_resnet", "sgd_2", "sweep_7"}))
    with RunFolder(experiment("sgd_2", "sample"), runs_dir) as folder:
        folder.start({}, {})  # begun, not ended; sweep_7 is not even begun
    first = "the test set opens once, at the end: sgd_2, sweep_7 (seed 0) must finish first"
    refused(lambda: final_test(find_record("dropout", "sample")), first)
    none = (
        "train_resnet has no final test, only baseline and dropout have one; to add one, train it with final_test=True"
    )
    refused(lambda: final_test(find_record("train_resnet", "sample")), none)
    assert find_openings("sample") == []


@pytest.fixture
def ready(made, runs_dir, tiny):
    """All of chapter 5 has finished."""
    lend(made, runs_dir, "dropout", "baseline", "train_resnet")
    pretend(runs_dir, *(set(CHAPTER_5) - {"dropout", "baseline", "train_resnet"}))


def test_unfinished_variants_and_trials(ready, runs_dir):
    """Whatever of chapter 5 has begun with that seed must finish first."""
    begun = [("search_2", "sweep_1", 0), ("sgd_slow", "sgd", 0), ("search_3", "sweep_1", 1), ("MLP_4", "MLP_4", 0)]
    runs = [replace(experiment(row, "sample", seed), name=name) for name, row, seed in begun]
    # of no chapter, but on its data
    runs.append(Experiment("plain", model="CNN_10", dataset="cifar100", lr=1e-3, profile="sample"))
    for exp in runs:
        with RunFolder(exp, runs_dir) as folder:
            folder.start({}, {})
    first = "at the end: plain, search_2, sgd_slow (seed 0) must finish first"
    refused(lambda: final_test(find_record("dropout", "sample")), first)
    assert find_openings("sample") == []


def test_other_rows(ready):
    row = replace(experiment("dropout", "sample"), name="mine", trainable=("fc",))
    assert list(final_test(run(row, wandb=False))) == ["resnet18"]
    assert [opening["run"] for opening in find_openings("sample")] == ["mine"]
    without = run(replace(row, name="other", final_test=False, keep_weights=True), wandb=False)
    refused(lambda: final_test(without), "other has no final test")


def test_unfinished_run(ready, runs_dir):
    (runs_dir / "sample" / "dropout" / "seed-0" / "result.json").unlink()
    refused(lambda: final_test(find_record("dropout", "sample")), "dropout (seed 0) has not finished", "final weights")


def test_published_opening(ready, runs_dir, evidence, monkeypatch):
    first = final_test(find_record("dropout", "sample"))
    (evidence / "sample").mkdir(parents=True)
    (runs_dir / "sample" / "openings.jsonl").rename(evidence / "sample" / "openings.jsonl")
    monkeypatch.setenv("EVIDENCE", "0")
    monkeypatch.setattr(room, "load_test_set", lambda *_: pytest.fail("the test set was opened"))
    assert final_test(find_record("dropout", "sample")) == first


def test_without_the_parent_s_weights(ready, runs_dir, capsys):
    shutil.rmtree(runs_dir / "sample" / "train_resnet")
    pretend(runs_dir, "train_resnet")
    assert final_test(find_record("dropout", "sample")).keys() == {"resnet18"}
    assert capsys.readouterr().out == ""


OPENING = """
import sys
import coreFunction
from deepnet.analyses import final_test
from deepnet.records.reading import find_record
final_test.load_test_set = lambda *_: (print("open", flush=True), sys.stdin.read())
coreFunction.final_test(find_record("dropout", "sample"))
"""


def test_two_processes(ready):
    """The second is refused while the first is at it; the first is killed there, and its lock is gone with it."""
    with subprocess.Popen(
        [sys.executable, "-c", OPENING], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        busy = "another process is opening the test set of sample; try again"
        refused(lambda: final_test(find_record("dropout", "sample")), busy)
        other.kill()
    final_test(find_record("dropout", "sample"))
    assert len(find_openings("sample")) == 1


def test_openings_are_logged(ready, runs_dir, monkeypatch):
    opened = []
    real = room.load_test_set
    monkeypatch.setattr(room, "load_test_set", lambda *a: opened.append(a) or real(*a))
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


def test_kept_weights_are_tested(ready, monkeypatch):
    """On validation images whose labels are the record's own predictions, the accuracy is 1."""
    baseline, dropout = find_record("baseline", "sample"), find_record("dropout", "sample")
    for record, classifier in ((baseline, baseline.result["chosen"]), (dropout, "resnet18")):
        given = torch.from_numpy(record.predictions()[1]).long()
        held = load_images("cifar100", "validation", "sample").subset(range(len(given)))
        relabelled = replace(held, labels=given)
        monkeypatch.setattr(room, "load_test_set", lambda *_, relabelled=relabelled: relabelled)
        assert final_test(record)[classifier]["accuracy"] == 1


def test_no_choice_depends_on_the_test_labels(tmp_path, monkeypatch):
    """Best epochs, C, the better classifier and the search's winner are the same with scrambled test labels."""
    budgets = {"resnet": (2, 1), "dropout": (6, 3), "sweep": (4, 2)}
    tensors = sets._tensors

    def scrambled(name, data, published, stamp):
        parts = tensors(name, data, published, stamp)
        if (name, published) != ("cifar100", "test"):
            return parts
        return {part: (images, labels.flip(0)) for part, (images, labels) in parts.items()}

    def choices(folder):
        monkeypatch.setenv("RUNS_DIR", str(folder))
        runs = [*run_all("dropout", "baseline", wandb=False), *search(REPORT_SWEEP, 3, name="found")]
        return [(record.name, record.predictions().tolist(), untimed(record.rows), measured(record)) for record in runs]

    def measured(record):
        """The result without the times, and without the hashes of rows and settings, which have times in them."""
        timed = ("rows.jsonl", "settings.json")
        digests = {file: digest for file, digest in record.result["sha256"].items() if file not in timed}
        return untimed([record.result | {"sha256": digests, "began": None, "ended": None}])

    with tiny_sample(), monkeypatch.context() as patch:
        patch.setitem(PROFILES, "sample", replace(PROFILES["sample"], budgets=PROFILES["sample"].budgets | budgets))
        labels = load_test_set("sample").labels
        chosen = choices(tmp_path / "plain")
        patch.setattr(sets, "_tensors", scrambled)
        assert not torch.equal(load_test_set("sample").labels, labels)
        assert choices(tmp_path / "scrambled") == chosen
    assert len(chosen) == 5
