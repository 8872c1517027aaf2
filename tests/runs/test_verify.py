"""Committed records made again: what is demanded where, what is found to differ, and that nothing else is touched."""

import json
import os
import shutil
import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from helpers import edit, interrupt, lend, refused, tiny_sample
from scipy import stats

import coreFunction
from coreFunction import run_all, verify
from deepnet.claims.intervals import wilson_interval
from deepnet.records.files import sha256
from deepnet.records.reading import Record
from deepnet.runs import verification
from deepnet.runs.verification import compare
from deepnet.training.optimizers import OPTIMIZERS
from experimentTable import EXPERIMENTS

OTHER = {"processor": "another"}  # a condition under which bits need not be equal


@pytest.fixture(scope="module")
def more_seeds(tmp_path_factory):
    """MLP_4 with the seeds that `made` leaves out; the folder they lie in."""
    folder = tmp_path_factory.mktemp("more_seeds")
    with pytest.MonkeyPatch.context() as patch, tiny_sample():
        patch.setenv("RUNS_DIR", str(folder))
        run_all("MLP_4", seeds=(1, 2))
    return folder


@pytest.fixture
def evidence(made, more_seeds, evidence, tiny):
    """Runs of every kind as committed records, in a folder that the test may change; MLP_4 has three seeds."""
    for root in (made, more_seeds):
        without = shutil.ignore_patterns("*.pt", ".*")
        shutil.copytree(root / "sample", evidence / "sample", ignore=without, dirs_exist_ok=True)
    return evidence / "sample"


@pytest.fixture
def slower(monkeypatch):
    """Training takes half the learning rate that the experiment says."""
    maker = OPTIMIZERS["Adam"]
    monkeypatch.setitem(OPTIMIZERS, "Adam", lambda parameters, lr, **more: maker(parameters, lr=lr / 2, **more))


@pytest.fixture
def trained(monkeypatch):
    """Counts the epochs that are trained."""
    epochs, train_epoch = [], coreFunction.train_epoch
    monkeypatch.setattr(coreFunction, "train_epoch", lambda *a, **named: epochs.append(a) or train_epoch(*a, **named))
    return epochs


def other_row(folder, number, **values):
    """Change values of one row, and the recorded digest of the rows."""
    path = folder / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number] |= values
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit(folder, "result.json", "sha256", **{"rows.jsonl": sha256(path)})


def two(evidence, tmp_path, there, here=0.5, images=10**8, **provenance):
    """Evidence whose seeds have the accuracies `there`, and a second run of seed 0 with the accuracy `here`.

    images: the accuracies are of so many, so that by default the sampling error decides nothing.
    """
    again = tmp_path / "again" / "sample" / "MLP_4" / "seed-0"
    shutil.copytree(evidence / "MLP_4" / "seed-0", again)
    edit(again, "settings.json", "provenance", **provenance)
    edit(again, "result.json", accuracy=here)
    for seed, accuracy in enumerate(there):
        edit(evidence / "MLP_4" / f"seed-{seed}", "result.json", accuracy=accuracy, images=images)
    edit(again, "result.json", images=images)
    records = [Record(evidence / "MLP_4" / f"seed-{seed}") for seed in range(len(there))]
    return records[0], Record(again), records


# ---------------------------------------------------------------- on the same machine


@pytest.mark.parametrize(
    ("name", "verdict"), [("MLP_4", "bit-equal"), ("distribution", "equal"), ("tsne_mnist", "equal")]
)
def test_equal_run_changes_nothing(evidence, runs_dir, monkeypatch, capsys, name, verdict):
    monkeypatch.setattr(coreFunction, "Mirror", lambda *_: pytest.fail("W&B was told"))
    monkeypatch.setenv("EVIDENCE", "0")  # which is for others
    before = dict(os.environ), {path: path.stat().st_mtime_ns for path in evidence.rglob("*")}
    difference = verify(name)
    assert (difference.verdict, difference.agreed) == (verdict, True)
    assert (difference.changes, difference.conditions) == ((), {})
    assert str(difference) == f"{name} (sample, seed 0): {verdict}"
    assert (dict(os.environ), {path: path.stat().st_mtime_ns for path in evidence.rglob("*")}) == before
    assert not runs_dir.exists()
    assert f"{name} (seed 0) is trained again; " in capsys.readouterr().out


def test_a_metric_that_older_records_lack_is_not_a_difference(evidence):
    folder = evidence / "MLP_4" / "seed-0"
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert "update_log10_ratio" in rows[1]
    older = [{key: value for key, value in row.items() if key != "update_log10_ratio"} for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in older))
    edit(folder, "result.json", "sha256", **{"rows.jsonl": sha256(folder / "rows.jsonl")})
    assert verify("MLP_4").verdict == "bit-equal"


def test_own_records_are_not_used(evidence, made, runs_dir, trained):
    lend(made, runs_dir, "MLP_4")
    assert [verify("MLP_4", seed=seed).verdict for seed in (0, 2)] == ["bit-equal"] * 2
    assert len(trained) == 2 * 2


def test_other_training_differs_from_its_first_step(evidence, slower):
    difference = verify("MLP_4")
    assert (difference.verdict, difference.agreed) == ("not agreed", False)
    first = {change.metric: change for change in difference.changes if change.row == 1}
    assert difference.changes[0].row == 1
    assert not {"train_loss", "epoch", "steps", "train_seconds"} & first.keys()  # which are of before the step
    loss = first["test_loss"]
    assert loss.there == Record(evidence / "MLP_4" / "seed-0").rows[1]["test_loss"] != loss.here
    assert {"weights.pt", "loss"} <= {change.metric for change in difference.changes if change.row is None}
    text = str(difference).splitlines()
    assert text[0] == "MLP_4 (sample, seed 0): not agreed"
    assert "equality is required" in text[1]
    (epoch_1,) = [line for line in text if line.startswith("  epoch 1: ")]
    assert f"test_loss {loss.there} there, {loss.here} here" in epoch_1 and "probe_variance in " in epoch_1


def test_only_the_first_epochs_are_compared(evidence, trained):
    difference = verify("MLP_4", epochs=1)
    # the weights are not those of the end
    assert (difference.verdict, difference.epochs, len(trained)) == ("equal", 1, 1)
    assert str(difference) == "MLP_4 (sample, seed 0): equal, only rows 0 to 1"


def test_difference_after_the_compared_epochs(evidence):
    other_row(evidence / "MLP_4" / "seed-0", 2, test_loss=9.0)
    assert verify("MLP_4", epochs=1).agreed
    difference = verify("MLP_4", epochs=2)  # as many as it has: the whole run
    assert (difference.epochs, difference.agreed) == (None, False)
    assert [(change.row, change.metric, change.there) for change in difference.changes] == [(2, "test_loss", 9.0)]


def test_embedding(evidence):
    edit(evidence / "tsne_mnist" / "seed-0", "result.json", knn_accuracy=0.1234)
    edit(evidence / "tsne_mnist" / "seed-0", "result.json", "sha256", **{"points.npz": "0" * 64})
    assert {change.metric for change in verify("tsne_mnist").changes} == {"knn_accuracy", "points.npz"}


def test_threads_of_the_record(evidence, monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)  # as where scikit-learn is not installed
    torch.set_num_threads(2)
    try:
        difference = verify("MLP_4")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert (difference.verdict, difference.conditions) == ("bit-equal", {})


def test_threads_of_the_analyses():
    from threadpoolctl import threadpool_info

    with verification._threads(2):
        assert {library["num_threads"] for library in threadpool_info()} == {2}
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


# ---------------------------------------------------------------- parents


def test_parent_with_the_weights_of_the_evidence(evidence, made, runs_dir, trained, capsys):
    lend(made, runs_dir, "train_resnet")
    assert verify("fine_tune_1").verdict == "bit-equal"
    assert len(trained) == 2  # its own epochs
    assert verify("baseline").verdict == "bit-equal"
    assert "train_resnet" not in capsys.readouterr().out


def test_parent_with_other_weights(evidence, made, runs_dir, trained, capsys):
    lend(made, runs_dir, "train_resnet")
    edit(evidence / "train_resnet" / "seed-0", "result.json", "sha256", **{"weights.pt": "0" * 64})
    assert verify("fine_tune_1", epochs=1).verdict == "equal"
    assert len(trained) == 2 + 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("train_resnet (seed 0) is trained again; about ")
    assert printed[1].startswith("fine_tune_1 (seed 0) is trained again; about ")
    assert sorted(path.name for path in (runs_dir / "sample").iterdir()) == ["train_resnet"]


# ---------------------------------------------------------------- elsewhere


def test_prediction_interval_of_the_seeds(evidence, tmp_path):
    there = [0.5, 0.52, 0.53]
    half = stats.t.ppf(0.975, 2) * np.std(there, ddof=1) * np.sqrt(1 + 1 / 3)
    low, high = np.mean(there) - half, np.mean(there) + half
    record, again, seeds = two(evidence, tmp_path, there=there, here=round(high - 0.001, 4), **OTHER)
    difference = compare(record, again, seeds)
    assert (difference.verdict, difference.agreed) == ("within the seeds' prediction interval (95%, 3 seeds)", True)
    assert difference.expected == pytest.approx((low, high))
    assert difference.conditions == {"processor": (record.settings["provenance"]["processor"], "another")}
    said = f"accuracy 0.5 there, {round(high - 0.001, 4)} here; expected from {low:.4g} to {high:.4g}"
    assert said in str(difference)
    for outside in (low - 0.001, high + 0.001):
        edit(again.path, "result.json", accuracy=outside)
        assert compare(record, Record(again.path), seeds).verdict == "not agreed"


@pytest.mark.parametrize("there", [[0.5], [0.5, 0.5, 0.5]])
def test_unknown_spread(evidence, tmp_path, there):
    low, high = wilson_interval(0.5, 1000, 0.95)
    record, again, seeds = two(evidence, tmp_path, there=there, here=high - 0.001, images=1000, **OTHER)
    other_row(again.path, 1, test_accuracy=1.0)  # a row beyond it, so that the rows do not decide
    difference = compare(record, Record(again.path), seeds)
    assert difference.agreed
    assert difference.verdict == "within the sampling error of 1000 images (95%; the variance over seeds is not known)"
    assert difference.expected == pytest.approx((low, high))
    edit(again.path, "result.json", accuracy=low - 0.001)
    assert not compare(record, Record(again.path), seeds).agreed


def test_same_seed_is_compared_first(evidence, tmp_path):
    """Within the sampling error of 1000 images, though the seeds lie close together; with a row beyond it, the seeds
    decide.
    """
    low, high = wilson_interval(0.5, 1000, 0.95)
    record, again, seeds = two(evidence, tmp_path, there=[0.5, 0.5001, 0.5002], here=high - 0.001, images=1000, **OTHER)
    difference = compare(record, again, seeds)
    assert difference.agreed
    assert difference.ground == "the sampling error of 1000 images, in each row of the same seed"
    assert difference.expected == pytest.approx((low, high))
    other_row(again.path, 1, test_accuracy=1.0)
    difference = compare(record, Record(again.path), seeds)
    assert (difference.agreed, difference.ground) == (False, "the seeds' prediction interval (95%, 3 seeds)")


@pytest.mark.parametrize(
    ("seeds", "others", "half", "ground"),
    [  # half the interval by hand: t s √(1 + 1/n), where s² is pooled
        ([0.40, 0.44], [], 12.706205 * 0.0282843 * 1.2247449, "2 seeds"),
        ([0.4, 0.44], [[0.7, 0.72, 0.74], [0.1]], 3.1824463 * 0.023094 * 1.2247449, "2 seeds, pooled with 1 other run"),
        ([0.42], [[0.70, 0.72, 0.74]], 4.3026527 * 0.02 * 1.4142136, "1 seed, pooled with 1 other run"),
        ([0.40, 0.41, 0.42, 0.43, 0.44], [[0.1, 0.9]], 2.7764451 * 0.0158114 * 1.0954451, "5 seeds"),
    ],
)  # fmt: skip
def test_pooled_spread(seeds, others, half, ground):
    interval, said = verification.expected_interval(0.42, 10**8, seeds, others)
    assert interval == pytest.approx((max(0.42 - half, 0), 0.42 + half), abs=1e-6)
    assert said == f"the seeds' prediction interval (95%, {ground})"


def test_runs_of_the_same_model(evidence):
    shutil.copytree(evidence / "MLP_4", evidence / "MLP_4_again")
    for seed in range(3):
        edit(evidence / "MLP_4_again" / f"seed-{seed}", "settings.json", "experiment", name="MLP_4_again")
    (run,) = verification._of_the_same_model(Record(evidence / "MLP_4" / "seed-0"))
    assert [(record.name, record.seed) for record in run] == [("MLP_4_again", seed) for seed in range(3)]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precision_of_the_record(evidence, precision, with_bf16):
    """Whatever "auto" means here: the row says "auto", the record what was computed."""
    assert EXPERIMENTS["CNN_10"].precision == "auto"
    edit(evidence / "CNN_10" / "seed-0", "settings.json", "provenance", precision=precision)
    assert verify("CNN_10", epochs=1).conditions == {}  # what the second run's record says of itself


def test_near_is_not_equal(evidence, tmp_path):
    difference = compare(*two(evidence, tmp_path, there=[0.5, 0.6, 0.7], here=0.51))
    assert (difference.verdict, difference.expected) == ("not agreed", None)


@pytest.mark.parametrize("condition", verification.CONDITIONS)
def test_each_condition_lifts_the_requirement(evidence, tmp_path, condition):
    difference = compare(*two(evidence, tmp_path, there=[0.5, 0.6, 0.7], here=0.51, **{condition: "another"}))
    assert difference.agreed
    assert difference.conditions.keys() == {condition}


def test_equal_under_other_conditions(evidence, tmp_path):
    difference = compare(*two(evidence, tmp_path, there=[0.5], here=0.5, **OTHER))
    assert (difference.verdict, difference.expected) == ("bit-equal", None)


def test_failed_run(evidence, tmp_path):
    record, again, seeds = two(evidence, tmp_path, there=[0.5, 0.6, 0.7], here=0.51, **OTHER)
    edit(again.path, "result.json", status="failed", reason="stopped")
    assert not compare(record, Record(again.path), seeds).agreed


def test_unfinished_run_is_compared_at_its_last_epoch(evidence, tmp_path):
    for seed, accuracy in enumerate([0.4, 0.5, 0.6]):
        other_row(evidence / "MLP_4" / f"seed-{seed}", 1, test_accuracy=accuracy)
    record, again, seeds = two(evidence, tmp_path, there=[0.1, 0.1, 0.1], **OTHER)
    other_row(again.path, 1, test_accuracy=0.8)
    (again.path / "result.json").unlink()
    rows = again.path / "rows.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:2]))
    difference = compare(record, Record(again.path), seeds)
    assert (difference.epochs, difference.accuracy, difference.agreed) == (1, (0.4, 0.8), True)
    assert sum(difference.expected) / 2 == pytest.approx(0.5)
    assert [(change.row, change.metric, change.here) for change in difference.changes] == [(1, "test_accuracy", 0.8)]


def test_which_comparison_decided(evidence, slower):
    for seed in range(3):
        edit(evidence / "MLP_4" / f"seed-{seed}", "settings.json", "provenance", **OTHER)
    difference = verify("MLP_4")
    assert difference.ground == "the sampling error of 16 images, in each row of the same seed"
    assert difference.conditions.keys() - {"threads"} == {"processor"}  # the record was made with one thread


def test_scikit_learn_is_a_condition_of_analyses(evidence):
    made = Record(evidence / "tsne_mnist" / "seed-0").settings["provenance"]
    assert made["scikit-learn"] == metadata.version("scikit-learn")
    assert verification.differing({"threads": 1}, {"threads": 1, "scikit-learn": "1.9.1"}, "tsne") == {}
    for name in ("tsne_mnist", "MLP_4"):
        edit(evidence / name / "seed-0", "settings.json", "provenance", **{"scikit-learn": "0.1"})
    assert "scikit-learn" in verify("tsne_mnist").conditions
    assert verify("MLP_4").conditions == {}


# ---------------------------------------------------------------- refusals, the command line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "timing_3"}, "timing_3 holds times, which differ from run to run and cannot be verified"),
        ({"seed": 7}, "MLP_4 (seed 7) has no committed record in sample"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 99}, "epochs=99 are more than the record of MLP_4 (seed 0) has; give at most 2"),
        ({"seed": 1}, "lr 0.0003 there, 0.0001 here"),
    ],
)
def test_refusals(evidence, runs_dir, trained, options, said):
    edit(evidence / "MLP_4" / "seed-1", "settings.json", "identity", lr=3e-4)
    refused(lambda: verify(**{"name": "MLP_4"} | options), said)
    assert trained == []
    assert not runs_dir.exists()


def test_exit_status(evidence, call):
    status, out, err = call("verify", "MLP_4", "distribution", "--seeds", "0")
    assert (status, err) == (0, "")
    said = [line for line in out.splitlines() if "again" not in line]
    assert said == ["MLP_4 (sample, seed 0): bit-equal", "distribution (sample, seed 0): equal"]
    edit(evidence / "MLP_4" / "seed-1", "result.json", accuracy=2.0)
    status, out, _ = call("verify", "MLP_4", "--seeds", "1,0")
    assert status == 1
    assert "MLP_4 (sample, seed 1): not agreed" in out
    assert "MLP_4 (sample, seed 0): bit-equal" in out


def test_refusal_of_one_of_two(evidence, call):
    status, out, err = call("verify", "MLP_13", "MLP_4")
    assert status == 1
    assert err.startswith("run.py: MLP_13 (seed 0) has no committed record")
    assert "MLP_4 (sample, seed 0): bit-equal" in out


def test_json(evidence, call):
    other_row(evidence / "MLP_4" / "seed-1", 2, test_loss=9.0)
    status, out, err = call("verify", "MLP_4", "--seeds", "0-1", "--json")
    found = json.loads(out)
    assert status == 1
    verdicts = [(entry["seed"], entry["verdict"], entry["agreed"]) for entry in found]
    assert verdicts == [(0, "bit-equal", True), (1, "not agreed", False)]
    assert found[1]["changes"][0] | {"here": None} == {"row": 2, "metric": "test_loss", "there": 9.0, "here": None}
    assert "is trained again" in err
    status, out, _ = call("verify", "MLP_4", "--epochs", "1", "--json")
    assert [(entry["epochs"], entry["verdict"]) for entry in json.loads(out)] == [(1, "equal")]
    assert status == 0


def test_interrupt(evidence, call, monkeypatch):
    monkeypatch.setattr(coreFunction, "train_epoch", interrupt)
    status, _, err = call("verify", "MLP_4")
    assert (status, err) == (1, "interrupted; the same command starts again\n")
