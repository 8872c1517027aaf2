"""The table's rows, cut to two steps each: every kind gets a record, chains, executors, the final test, the command line."""

import json
import multiprocessing
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import refused, same, state, tiny_sample, untimed

import analysisFunction
import coreFunction
import recordFunction
import run as command_line
from analysisFunction import final_test
from coreFunction import build, run, run_all
from experimentTable import EXPERIMENTS, PROFILES, ROWS, experiment
from featureFunction import CS
from recordFunction import Record, RunFolder, find_openings, find_record, publish
from trainFunction import accuracy

TRAININGS = ["MLP_4", "MLP_res_5", "CNN_10", "CNN_res_16", "train_resnet", "fine_tune_1", "fine_tune_2", "early_stopping", "dropout"]
ANALYSES = ["distribution", "tsne_mnist", "tsne_cifar100", "timing_3", "baseline"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of every kind, made once by one call that names children before parents; the folder they lie in."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch, tiny_sample():
        patch.setenv("RUNS_DIR", str(folder))
        names = [*reversed(TRAININGS), *ANALYSES]
        assert [record.name for record in run_all(*names)] == names
    return folder


def found(made, name):
    return Record(made / "sample" / name / "seed-0")


def lend(made, runs_dir, *names):
    """Copy made records to the test's own folder."""
    for name in names:
        shutil.copytree(made / "sample" / name, runs_dir / "sample" / name)


@pytest.fixture
def no_training(monkeypatch):
    """Whatever trains an epoch fails the test."""
    for module in (coreFunction, analysisFunction):
        monkeypatch.setattr(module, "train_epoch", lambda *_: pytest.fail("an epoch was trained"))


# ---------------------------------------------------------------- a record of every kind


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_leaves_a_whole_record(made, name):
    record = found(made, name)
    split = "validation" if EXPERIMENTS[name].dataset == "cifar100" else "test"
    assert [row["epoch"] for row in record.rows] == [0, 1, 2]
    assert [row["steps"] for row in record.rows[1:]] == [1, 1]
    assert record.result["split"] == split
    assert record.result["budget"] == 2
    assert record.result["classes"] == (100 if split == "validation" else 10)
    assert record.result["accuracy"] == record.rows[record.result["epoch"]][f"{split}_accuracy"]
    assert accuracy(record.predictions()) == pytest.approx(record.result["accuracy"], rel=1e-3)
    assert record.result["epoch"] == (record.result["best_epoch"] if EXPERIMENTS[name].patience else 2)
    assert ("gradient_norm_sum" in record.rows[1]) == EXPERIMENTS[name].record_gradients
    identity = record.settings["identity"]
    assert (identity["steps_per_epoch"], identity["epochs"]) == (1, 2)
    assert identity["data"].keys() == {EXPERIMENTS[name].dataset}
    assert record.settings["experiment"]["epochs"] == 2


def test_weights_stay_for_those_that_others_start_from(made):
    kept = {name for name in TRAININGS if found(made, name).has_weights}
    assert kept == {"train_resnet", "fine_tune_1", "dropout"}
    assert all(found(made, name).result["sha256"]["weights.pt"] for name in TRAININGS)


def test_frozen_layers_are_the_parents_to_the_bit(made):
    parent, child = found(made, "train_resnet").weights(), found(made, "fine_tune_1").weights()
    moved = {key for key in parent if parent[key].shape != child[key].shape or not torch.equal(parent[key], child[key])}
    assert moved == {"fc.weight", "fc.bias"}
    stopped = found(made, "dropout").weights()
    moved = {key.split(".")[0] for key in parent if key in stopped and not torch.equal(parent[key], stopped[key])}
    assert moved == {"layer3", "layer4"}


def test_a_child_starts_from_its_parent_s_weights_with_a_new_head_only_where_it_must(made, monkeypatch):
    monkeypatch.setenv("RUNS_DIR", str(made))
    assert same(state(build(experiment("fine_tune_2", "sample"))), found(made, "fine_tune_1").weights())
    afresh = state(build(experiment("early_stopping", "sample")))
    parent = found(made, "train_resnet").weights()
    assert {key for key in afresh if afresh[key].shape != parent[key].shape} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(afresh[key], parent[key]) for key in afresh if not key.startswith("fc"))
    assert same(afresh, state(build(experiment("adam", "sample"))))  # the same head for all that start afresh


def test_the_analyses_leave_records(made):
    counts = found(made, "distribution").result["counts"]
    assert {name: (len(numbers), sum(numbers)) for name, numbers in counts.items()} == {
        "mnist": (10, 64), "cifar10": (10, 64), "cifar100": (100, 128)
    }  # fmt: skip
    for name, classes in (("tsne_mnist", 10), ("tsne_cifar100", 100)):
        record, points = found(made, name), found(made, name).points()
        assert points["xy"].shape == (60, 2)
        assert ("coarse" in points) == (classes == 100)
        assert (record.result["classes"], record.result["images"]) == (classes, 60)
        assert record.result["knn_skill"] == pytest.approx((record.result["knn_accuracy"] - 1 / classes) / (1 - 1 / classes), abs=1e-3)
    rows = found(made, "timing_3").rows
    assert len(rows) == 6
    assert all(row["plain_seconds"] > 0 and row["residual_seconds"] > 0 for row in rows)
    assert {row["pair"] for row in rows} == {"MLP_4 / MLP_res_5", "MLP_13 / MLP_res_15", "MLP_33 / MLP_res_35"}


def test_the_baseline_is_chosen_on_the_held_out_part(made):
    record = found(made, "baseline")
    assert len(record.rows) == sum(map(len, CS.values()))
    best = max(record.rows, key=lambda row: row["held_out_accuracy"])
    result = record.result
    assert result["chosen"] == best["classifier"]
    assert result["classifiers"][result["chosen"]]["C"] == best["C"]
    assert result["accuracy"] == result["classifiers"][result["chosen"]]["validation_accuracy"]
    assert accuracy(record.predictions()) == pytest.approx(result["accuracy"], rel=1e-3)
    assert {key.split(".")[0] for key in record.weights()} == {"svm", "logistic_regression"}


# ---------------------------------------------------------------- loaded, gone on with, trained before


def test_a_second_call_loads_everything_and_trains_nothing(made, monkeypatch, capsys, tiny, no_training):
    monkeypatch.setenv("RUNS_DIR", str(made))
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    records = run_all(*TRAININGS, *ANALYSES)
    assert [record.name for record in records] == [*TRAININGS, *ANALYSES]
    assert run("MLP_4").rows == found(made, "MLP_4").rows
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    assert capsys.readouterr().out == ""


def test_evidence_is_loaded_in_place_of_a_training(made, monkeypatch, tmp_path, runs_dir, tiny, no_training):
    monkeypatch.setattr(recordFunction, "EVIDENCE", tmp_path / "evidence")
    shutil.copytree(made / "sample" / "MLP_4", tmp_path / "evidence" / "sample" / "MLP_4")
    assert run("MLP_4").path.is_relative_to(tmp_path / "evidence")
    assert [record.name for record in run_all("MLP_4")] == ["MLP_4"]
    assert not runs_dir.exists()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_evidence_that_is_left_aside_is_trained_again(made, monkeypatch, tmp_path, runs_dir, tiny, by):
    monkeypatch.setattr(recordFunction, "EVIDENCE", tmp_path / "evidence")
    shutil.copytree(made / "sample" / "MLP_4", tmp_path / "evidence" / "sample" / "MLP_4")
    if by == "environment":
        monkeypatch.setenv("EVIDENCE", "0")
    record = run("MLP_4", **({"evidence": False} if by == "argument" else {}))
    assert record.path == runs_dir / "sample" / "MLP_4" / "seed-0"
    assert untimed(record.rows) == untimed(found(made, "MLP_4").rows)


def test_parents_are_trained_first_and_it_is_said(made, capsys, tiny):
    record = run("fine_tune_2")
    printed = capsys.readouterr().out
    assert "fine_tune_1 (seed 0) has no weights here; it is trained first" in printed
    assert "train_resnet (seed 0) has no weights here; it is trained first" in printed
    assert untimed(record.rows) == untimed(found(made, "fine_tune_2").rows)
    assert find_record("train_resnet", "sample").has_weights


def test_a_parent_that_is_evidence_alone_is_trained_again(made, monkeypatch, tmp_path, capsys, tiny):
    monkeypatch.setattr(recordFunction, "EVIDENCE", tmp_path / "evidence")
    target = tmp_path / "evidence" / "sample" / "train_resnet"
    shutil.copytree(made / "sample" / "train_resnet", target, ignore=shutil.ignore_patterns("*.pt"))
    assert run("fine_tune_1").finished
    assert "train_resnet (seed 0) has no weights here; it is trained first" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_and_says_how(made, monkeypatch, capsys, tiny, runs_dir):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    with monkeypatch.context() as patch:
        calls = iter(range(9))
        patch.setattr(coreFunction, "evaluate", lambda *a: interrupt() if next(calls) == 1 else coreFunction_evaluate(*a))
        with pytest.raises(KeyboardInterrupt):
            run_all("MLP_4")
    assert capsys.readouterr().out.endswith("interrupted; the same call goes on from here\n")
    assert len(find_record("MLP_4", "sample").rows) == 1
    assert untimed(run_all("MLP_4")[0].rows) == untimed(found(made, "MLP_4").rows)


coreFunction_evaluate = coreFunction.evaluate


def interrupt():
    raise KeyboardInterrupt


def test_seeds_give_other_weights_and_orders(made, tiny):
    one, two = run_all("MLP_4", seeds=(1, 0))
    assert (one.seed, two.seed) == (1, 0)
    assert one.rows[0] != two.rows[0]
    assert one.predictions()[0].tolist() == two.predictions()[0].tolist()  # the same images
    assert untimed(two.rows) == untimed(found(made, "MLP_4").rows)


# ---------------------------------------------------------------- a reader's variant, another run of that name


def test_a_variant_is_one_line(made, tiny, runs_dir):
    record = run(replace(EXPERIMENTS["MLP_4"], name="MLP_4_faster", lr=1e-3))
    assert record.path == runs_dir / "sample" / "MLP_4_faster" / "seed-0"
    assert record.settings["identity"]["lr"] == 1e-3
    assert record.rows[0]["test_loss"] == found(made, "MLP_4").rows[0]["test_loss"]  # the same first weights
    assert record.rows[2]["test_loss"] != found(made, "MLP_4").rows[2]["test_loss"]


def test_another_experiment_under_the_name_of_a_record_is_refused(made, runs_dir, tiny, capsys, no_training):
    lend(made, runs_dir, "MLP_4")
    other = replace(EXPERIMENTS["MLP_4"], lr=1e-3)
    message = refused(lambda: run(other), "holds another run named MLP_4", "lr 0.0001 there, 0.001 here", "use another name")
    assert run_all(other) == []
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: run("MLP_5"), ("unknown experiment 'MLP_5'", "`python run.py list` shows them all")),
        (lambda: run_all("MLP_4", "MLP_5"), ("unknown experiment 'MLP_5'",)),
        (lambda: run_all("MLP_4", profile="gpu"), ("unknown profile 'gpu'", "choose sample, cpu or paper")),
        (lambda: run(experiment("MLP_4", seed=-1)), ("seed must be a whole number of at least 0",)),
        (lambda: run("MLP_33_eps"), ("MLP_33_eps has no budget in the profile sample", "cpu or paper")),
    ],
)
def test_what_cannot_be_run_is_refused(action, words, tiny, runs_dir):
    refused(action, *words)
    assert not runs_dir.exists()


def test_an_unknown_profile_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("PROFILE", "gpu")
    refused(lambda: run("MLP_4"), "unknown profile 'gpu'", "choose sample, cpu or paper")


def test_one_failure_leaves_the_others_going(made, runs_dir, tiny, capsys):
    """A damaged record, one whose checkpoint is damaged, a control without a budget, and one that works."""
    lend(made, runs_dir, "MLP_4", "CNN_10")
    (runs_dir / "sample" / "MLP_4" / "seed-0" / "result.json").write_text("{")
    (runs_dir / "sample" / "CNN_10" / "seed-0" / "result.json").unlink()
    (runs_dir / "sample" / "CNN_10" / "seed-0" / "checkpoint.pt").write_text("damaged")
    records = run_all("MLP_4", "CNN_10", "MLP_23_eps", "MLP_res_5")
    assert [record.name for record in records] == ["MLP_res_5"]
    printed = capsys.readouterr().out
    assert "result.json is damaged" in printed
    assert "checkpoint.pt cannot be read" in printed
    assert "no budget in the profile sample for MLP_23_eps" in printed


def test_a_run_whose_loss_is_not_finite_is_kept_and_not_tried_again(tiny, capsys, monkeypatch):
    exp = replace(EXPERIMENTS["MLP_4"], name="MLP_4_far", lr=1e38)
    assert run_all(exp) == []
    assert "MLP_4_far (seed 0) failed: the" in capsys.readouterr().out
    record = find_record("MLP_4_far", "sample")
    assert record.result["status"] == "failed"
    monkeypatch.setattr(coreFunction, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert run(exp).result == record.result


def test_a_run_that_another_holds_is_looked_at_again_at_the_end(tiny, runs_dir, monkeypatch, capsys):
    """Held while its turn comes, free once the others are done."""
    holder = RunFolder(experiment("MLP_4", "sample"), runs_dir)
    holder.__enter__()
    train = coreFunction._train
    monkeypatch.setattr(coreFunction, "_train", lambda exp, *a: (train(exp, *a), exp.name == "MLP_res_5" and holder.__exit__())[0])
    assert [record.name for record in run_all("MLP_4", "MLP_res_5")] == ["MLP_4", "MLP_res_5"]
    assert "MLP_4 (seed 0) is being trained by another process" in capsys.readouterr().out


# ---------------------------------------------------------------- side by side


needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or torch.cuda.is_available(), reason="CUDA cannot be used after a fork"
)


def workers():
    return ProcessPoolExecutor(2, multiprocessing.get_context("fork"))  # forked, so that they have the small budgets too


@needs_fork
def test_processes_side_by_side_give_the_same_records(made, tiny):
    with workers() as pool:
        records = run_all("fine_tune_1", "MLP_4", "train_resnet", "distribution", executor=pool)
    assert [record.name for record in records] == ["fine_tune_1", "MLP_4", "train_resnet", "distribution"]
    for record in records:
        assert untimed(record.rows) == untimed(found(made, record.name).rows)
        assert record.result["sha256"].get("weights.pt") == found(made, record.name).result["sha256"].get("weights.pt")


@needs_fork
def test_two_children_of_a_parent_that_nobody_named_both_end(made, tiny):
    """Each worker would train the parent; the one that comes second waits for the other."""
    with workers() as pool:
        records = run_all("fine_tune_1", "early_stopping", executor=pool)
    assert [record.name for record in records] == ["fine_tune_1", "early_stopping"]
    for record in records:
        assert untimed(record.rows) == untimed(found(made, record.name).rows)


@needs_fork
def test_a_failure_in_a_worker_leaves_the_others_going(made, runs_dir, tiny, capsys):
    lend(made, runs_dir, "MLP_4")
    (runs_dir / "sample" / "MLP_4" / "seed-0" / "result.json").write_text("{")
    with workers() as pool:
        records = run_all("MLP_4", "MLP_res_5", executor=pool)
    assert [record.name for record in records] == ["MLP_res_5"]
    assert "result.json is damaged" in capsys.readouterr().out


def test_threads_are_refused_since_they_share_random_numbers(tiny):
    with ThreadPoolExecutor(2) as pool:
        refused(lambda: run_all("MLP_4", executor=pool), "threads share torch's random numbers", "ProcessPoolExecutor")


# ---------------------------------------------------------------- the final test


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
    """Opened on the validation images in place of the test set, it finds what the record says of them."""
    from coreFunction import load_images

    lend(made, runs_dir, "dropout", "baseline", "train_resnet")
    pretend(runs_dir, *(set(CHAPTER_5) - {"dropout", "baseline", "train_resnet"}))
    monkeypatch.setattr(analysisFunction, "open_vault", lambda profile, size: load_images("cifar100", "validation", profile, size))
    dropout = find_record("dropout", "sample")
    assert final_test(dropout)["resnet18"]["accuracy"] == dropout.result["accuracy"]
    baseline = find_record("baseline", "sample")
    for name, line in final_test(baseline).items():
        assert line["accuracy"] == baseline.result["classifiers"][name]["validation_accuracy"]


# ---------------------------------------------------------------- the command line


@pytest.fixture
def call(monkeypatch, capsys):
    """`call("list", "--json")` gives exit status, standard output and standard error of run.py."""

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        try:
            status = command_line.main()
        except SystemExit as end:  # argparse's own
            status = end.code
        return status, *capsys.readouterr()

    return call


def test_list_shows_every_row_with_its_state_and_price(made, runs_dir, tiny, call):
    lend(made, runs_dir, "MLP_4", "CNN_10", "MLP_res_5")
    (runs_dir / "sample" / "CNN_10" / "seed-0" / "result.json").unlink()
    result = runs_dir / "sample" / "MLP_res_5" / "seed-0" / "result.json"
    result.write_text(result.read_text().replace('"finished"', '"failed"'))
    status, out, err = call("list", "--json")
    table = {row["name"]: row for row in json.loads(out)}
    assert (status, err) == (0, "")
    assert list(table) == [row.name for row in ROWS]
    states = {"MLP_4": "finished", "CNN_10": "unfinished", "MLP_res_5": "failed", "MLP_13": "-", "MLP_23_eps": "no budget here"}
    assert {name: table[name]["state"] for name in states} == states
    assert table["MLP_4"]["seconds"] == PROFILES["sample"].seconds["mlp"]
    assert (table["sgd"]["optimizer"], table["sgd"]["lr"], table["sgd"]["model"]) == ("SGD", 5e-4, "resnet18")
    status, out, _ = call("list")
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == 2 + len(ROWS)
    assert next(line for line in lines if line.startswith("MLP_4 ")).endswith("finished")
    assert call("list", "--profile", "paper")[1].startswith("profile paper, seed 0")


def test_train_then_show(made, tiny, call, runs_dir):
    status, out, _ = call("train", "MLP_4", "MLP_res_5", "--seeds", "0,1")
    assert status == 0
    assert out.count("<Record") == 4
    assert sorted(path.name for path in (runs_dir / "sample" / "MLP_4").glob("seed-?")) == ["seed-0", "seed-1"]
    status, out, _ = call("show", "MLP_4", "--seeds", "0-1", "--json")
    shown = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [record["settings"]["experiment"]["seed"] for record in shown] == [0, 1]
    assert untimed(shown[0]["rows"]) == untimed(found(made, "MLP_4").rows)
    assert shown[0]["result"]["status"] == "finished"
    status, out, _ = call("show", "MLP_4")
    assert status == 0
    assert str(runs_dir / "sample" / "MLP_4" / "seed-0") in out
    assert "lr 0.0001" in out
    assert out.count("test_accuracy") == 3


def test_minutes_leave_off_between_epochs_and_the_next_call_goes_on(made, tiny, call):
    status, _, _ = call("train", "MLP_4", "MLP_res_5", "--minutes", "0.0000001")
    assert status == 1
    assert len(find_record("MLP_4", "sample").rows) == 1
    assert (find_record("MLP_4", "sample").path / "checkpoint.pt").exists()
    assert find_record("MLP_res_5", "sample") is None
    status, _, _ = call("train", "MLP_4", "MLP_res_5", "--minutes", "10")
    assert status == 0
    assert untimed(find_record("MLP_4", "sample").rows) == untimed(found(made, "MLP_4").rows)


def test_fresh_leaves_the_evidence_aside_and_what_is_here_in_place(made, monkeypatch, tmp_path, runs_dir, tiny, call):
    monkeypatch.setattr(recordFunction, "EVIDENCE", tmp_path / "evidence")
    shutil.copytree(made / "sample" / "MLP_4", tmp_path / "evidence" / "sample" / "MLP_4")
    assert call("train", "MLP_4")[0] == 0
    assert not (runs_dir / "sample" / "MLP_4").exists()
    assert call("train", "MLP_4", "--fresh")[0] == 0
    assert (runs_dir / "sample" / "MLP_4" / "seed-0" / "result.json").exists()
    monkeypatch.setattr(coreFunction, "train_epoch", lambda *_: pytest.fail("an epoch was trained"))
    assert call("train", "MLP_4", "--fresh")[0] == 0


def test_publish_copies_what_is_finished(made, monkeypatch, tmp_path, runs_dir, tiny, call):
    monkeypatch.setattr(recordFunction, "EVIDENCE", tmp_path / "evidence")
    lend(made, runs_dir, "MLP_4")
    path = runs_dir / "sample" / "MLP_4" / "seed-0" / "settings.json"
    settings = json.loads(path.read_text())
    settings["provenance"] |= {"dirty": True}
    path.write_text(json.dumps(settings))
    status, _, err = call("publish", "MLP_4")
    assert status == 1
    assert "made from uncommitted code" in err
    settings["provenance"] |= {"dirty": False, "commit": "c" * 40}
    path.write_text(json.dumps(settings))
    assert call("publish", "MLP_4")[0] == 0
    assert (tmp_path / "evidence" / "sample" / "MLP_4" / "seed-0" / "result.json").exists()
    assert publish(find_record("MLP_4", "sample")).is_relative_to(tmp_path / "evidence")  # again, over itself
    status, _, err = call("publish", "MLP_13")
    assert status == 1
    assert "MLP_13 has no finished record in sample; train it first" in err


BAD_CALLS = [
    (("train", "MLP_5"), "unknown experiment 'MLP_5'"),
    (("train",), "name an experiment or a chapter"),
    (("train", "--chapter", "9"), "chapters 2 to 5, not 9"),
    (("train", "MLP_4", "--profile", "gpu"), "unknown profile 'gpu'; choose sample, cpu or paper"),
    (("list", "--profile", "gpu"), "unknown profile 'gpu'"),
    (("train", "MLP_4", "--seeds", "one"), "seeds 'one' are no numbers; write 3, 0,2 or 0-4"),
    (("train", "MLP_4", "--seeds", "0-"), "seeds '0-' are no numbers"),
    (("train", "MLP_4", "--seeds", "0,,1"), "are no numbers"),
    (("train", "MLP_4", "--seeds", "1.5"), "are no numbers"),
    (("train", "MLP_4", "--seeds", "²"), "are no numbers"),
    (("train", "MLP_4", "--seeds", "4-0"), "seeds '4-0'"),
    (("show", "MLP_5"), "unknown experiment 'MLP_5'"),
    (("show", "MLP_4"), "MLP_4 (seed 0) has no record in sample; `python run.py train MLP_4 --profile sample`"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS, ids=[" ".join(case[0]) for case in BAD_CALLS])
def test_bad_calls_end_in_one_line_and_status_1(call, arguments, message, runs_dir, tiny):
    status, out, err = call(*arguments)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not runs_dir.exists()


@pytest.mark.parametrize("arguments", [(), ("tarin",), ("train", "MLP_4", "--minutes", "long"), ("train", "MLP_4", "--no-such")])
def test_what_the_parser_does_not_know_ends_in_its_usage_and_status_2(call, arguments):
    status, _, err = call(*arguments)
    assert status == 2
    assert err.startswith("usage: run.py")


@pytest.mark.parametrize("arguments", [(), ("list",), ("train",), ("show",), ("publish",)])
def test_help_is_there_for_every_command(call, arguments):
    status, out, _ = call(*arguments, "--help")
    assert status == 0
    assert "usage: run.py" in out


def test_status_1_where_not_everything_that_was_named_is_done(made, runs_dir, tiny, call):
    lend(made, runs_dir, "MLP_4")
    status, out, _ = call("train", "MLP_4", "MLP_23_eps")
    assert status == 1
    assert "no budget in the profile sample for MLP_23_eps" in out
    assert call("train", "MLP_4")[0] == 0


def test_an_interrupt_ends_in_one_line(call, monkeypatch, tiny):
    monkeypatch.setattr(coreFunction, "train_epoch", lambda *_: interrupt())
    status, out, err = call("train", "MLP_4")
    assert status == 1
    assert err == "interrupted; the same command goes on from here\n"
    assert "Traceback" not in out


def test_a_full_records_folder_ends_in_one_line(call, tiny, runs_dir, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "file"))
    status, out, _ = call("train", "MLP_4", "distribution")
    assert status == 1
    assert out.count("cannot write records to") == 2
    assert "set RUNS_DIR" in out


def test_the_numbers_of_two_profiles_do_not_meet(tiny):
    assert np.all([len({coreFunction.data_identity(experiment(n, p))["data"][d] for p in ("sample", "cpu")}) == 2
                   for n, d in (("MLP_4", "mnist"), ("CNN_10", "cifar10"), ("adam", "cifar100"))])  # fmt: skip
