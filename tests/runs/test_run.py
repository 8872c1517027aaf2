"""The table's rows, cut to two steps each: records of every kind, chains of parents, evidence, variants, failures."""

import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from helpers import ANALYSES, TRAININGS, cut_off, found, lend, refused, same, state, untimed

import coreFunction
from coreFunction import build, run, run_all
from deepnet.analyses import kinds
from deepnet.analyses.baseline import CS
from deepnet.records.folder import RunFolder
from deepnet.records.reading import find_record
from deepnet.training.metrics import accuracy
from experimentTable import EXPERIMENTS, RunLockedError, experiment


@pytest.fixture
def no_training(monkeypatch):
    """Whatever trains an epoch fails the test."""
    for module in (coreFunction, kinds):
        monkeypatch.setattr(module, "train_epoch", lambda *_: pytest.fail("an epoch was trained"))


@pytest.fixture
def evidence(made, evidence):
    """MLP_4 and, without its weights, train_resnet as committed records."""
    for name in ("MLP_4", "train_resnet"):
        without = shutil.ignore_patterns("*.pt")
        shutil.copytree(made / "sample" / name, evidence / "sample" / name, ignore=without)
    return evidence


# ---------------------------------------------------------------- a record of every kind


@pytest.mark.parametrize("name", TRAININGS)
def test_record_of_a_training(made, name):
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


def test_which_weights_are_kept(made):
    kept = {name for name in TRAININGS if found(made, name).has_weights}
    assert kept == {"train_resnet", "fine_tune_1", "dropout"}
    assert all(found(made, name).result["sha256"]["weights.pt"] for name in TRAININGS)


def test_frozen_layers_are_bit_equal_to_the_parents(made):
    parent, child = found(made, "train_resnet").weights(), found(made, "fine_tune_1").weights()
    moved = {key for key in parent if parent[key].shape != child[key].shape or not torch.equal(parent[key], child[key])}
    assert moved == {"fc.weight", "fc.bias"}
    stopped = found(made, "dropout").weights()
    moved = {key.split(".")[0] for key in parent if key in stopped and not torch.equal(parent[key], stopped[key])}
    assert moved == {"layer3", "layer4"}


def test_moving_statistics_as_in_the_original(made, runs_dir, tiny):
    lend(made, runs_dir, "train_resnet")
    row = replace(EXPERIMENTS["fine_tune_1"], name="moving", defects=("moving_statistics",), keep_weights=True)
    record, parent = run(row), found(made, "train_resnet").weights()
    moved = {key for key, value in record.weights().items() if not torch.equal(value, parent[key])} - {"fc.bias"}
    assert record.finished and moved - {"fc.weight"} == {key for key in parent if ".running_" in key or "num_b" in key}


def test_whole_epochs_are_timed_as_in_the_original(monkeypatch):
    evaluated = []
    evaluate = kinds.evaluate
    monkeypatch.setattr(kinds, "evaluate", lambda *arguments: evaluated.append(evaluate(*arguments)))
    monkeypatch.setattr(kinds, "TIMED_PAIRS", {"mnist": [("MLP_4", "MLP_res_5")]})
    record = run(replace(EXPERIMENTS["timing_3"], name="whole", defects=("whole_epochs",)))
    assert len(record.rows) == 3 and all(row["plain_seconds"] > 0 for row in record.rows)
    assert len(evaluated) == 2 * 3


def test_child_starts_from_its_parents_weights(made, monkeypatch):
    monkeypatch.setenv("RUNS_DIR", str(made))
    assert same(state(build(experiment("fine_tune_2", "sample"))), found(made, "fine_tune_1").weights())
    afresh = state(build(experiment("early_stopping", "sample")))
    parent = found(made, "train_resnet").weights()
    assert {key for key in afresh if afresh[key].shape != parent[key].shape} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(afresh[key], parent[key]) for key in afresh if not key.startswith("fc"))
    assert same(afresh, state(build(experiment("adam", "sample"))))  # the same head for all that start afresh


def test_records_of_analyses(made):
    result = found(made, "distribution").result
    assert {name: sum(numbers) for name, numbers in result["counts"].items()} == result["images"]
    assert result["images"] == {"mnist": 50, "cifar10": 50, "cifar100": 100}  # CIFAR-100's train and validation part
    assert len(result["counts"]["mnist"]) == 10
    for name, classes in (("tsne_mnist", 10), ("tsne_cifar100", 100)):
        record, points = found(made, name), found(made, name).points()
        assert points["xy"].shape == (50, 2)
        assert ("coarse" in points) == (classes == 100)
        assert (record.result["classes"], record.result["images"]) == (classes, 50)
        skill = (record.result["knn_accuracy"] - 1 / classes) / (1 - 1 / classes)
        assert record.result["knn_skill"] == pytest.approx(skill, abs=1e-3)
    rows = found(made, "timing_3").rows
    assert len(rows) == 6
    assert all(row["plain_seconds"] > 0 and row["residual_seconds"] > 0 for row in rows)
    assert {row["pair"] for row in rows} == {"MLP_4 / MLP_res_5", "MLP_13 / MLP_res_15", "MLP_33 / MLP_res_35"}


def test_baseline_is_chosen_on_held_out_data(made):
    record = found(made, "baseline")
    assert len(record.rows) == sum(map(len, CS.values()))
    best = max(record.rows, key=lambda row: row["held_out_accuracy"])
    result = record.result
    assert result["chosen"] == best["classifier"]
    assert result["classifiers"][result["chosen"]]["C"] == best["C"]
    for name, classifier in result["classifiers"].items():
        assert classifier["C_at_edge"] is (classifier["C"] in (CS[name][0], CS[name][-1]))
    assert result["accuracy"] == result["classifiers"][result["chosen"]]["validation_accuracy"]
    assert accuracy(record.predictions()) == pytest.approx(result["accuracy"], rel=1e-3)
    assert {key.split(".")[0] for key in record.weights()} == {"svm", "logistic_regression"}


# ---------------------------------------------------------------- loaded, resumed, trained before


def test_second_call_trains_nothing(made, monkeypatch, capsys, tiny, no_training):
    monkeypatch.setenv("RUNS_DIR", str(made))
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    records = run_all(*TRAININGS, *ANALYSES)
    assert [record.name for record in records] == [*TRAININGS, *ANALYSES]
    assert run("MLP_4").rows == found(made, "MLP_4").rows
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    assert capsys.readouterr().out == ""


def test_evidence_is_loaded(evidence, runs_dir, tiny, no_training):
    assert run("MLP_4").path.is_relative_to(evidence)
    assert [record.name for record in run_all("MLP_4")] == ["MLP_4"]
    assert not runs_dir.exists()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_evidence_left_aside(made, evidence, monkeypatch, runs_dir, tiny, by):
    if by == "environment":
        monkeypatch.setenv("EVIDENCE", "0")
    record = run("MLP_4", **({"evidence": False} if by == "argument" else {}))
    assert record.path == runs_dir / "sample" / "MLP_4" / "seed-0"
    assert untimed(record.rows) == untimed(found(made, "MLP_4").rows)


def test_parents_are_trained_first(made, capsys, tiny):
    record = run("fine_tune_2")
    printed = capsys.readouterr().out
    assert "fine_tune_1 (seed 0) has no weights here; it is trained first" in printed
    assert "train_resnet (seed 0) has no weights here; it is trained first" in printed
    assert untimed(record.rows) == untimed(found(made, "fine_tune_2").rows)
    assert find_record("train_resnet", "sample").has_weights


def test_parent_without_weights_in_the_evidence(evidence, capsys, tiny):
    assert run("fine_tune_1").finished
    assert "train_resnet (seed 0) has no weights here; it is trained first" in capsys.readouterr().out


def test_resume_after_interrupt(made, capsys, tiny):
    with cut_off(1):
        run_all("MLP_4")
    assert capsys.readouterr().out.endswith("interrupted; the same call continues from here\n")
    assert len(find_record("MLP_4", "sample").rows) == 1
    assert untimed(run_all("MLP_4")[0].rows) == untimed(found(made, "MLP_4").rows)


def test_seeds(made, tiny):
    one, two = run_all("MLP_4", seeds=(1, 0))
    assert (one.seed, two.seed) == (1, 0)
    assert one.rows[0] != two.rows[0]
    assert one.predictions()[0].tolist() == two.predictions()[0].tolist()  # the same images
    assert untimed(two.rows) == untimed(found(made, "MLP_4").rows)


def test_rows_own_seed_and_profile(made, runs_dir, tiny, monkeypatch):
    own = replace(EXPERIMENTS["MLP_4"], seed=2)
    (record,) = run_all(own)
    assert (record.seed, record.settings["experiment"]["seed"]) == (2, 2)
    assert [path.name for path in (runs_dir / "sample" / "MLP_4").glob("seed-*")] == ["seed-2"]
    assert record.rows == run(own).rows
    monkeypatch.setenv("PROFILE", "cpu")
    sample = replace(EXPERIMENTS["MLP_4"], profile="sample")
    assert [(r.profile, r.seed) for r in run_all(sample, own, profile="sample")] == [("sample", 0), ("sample", 2)]
    assert [r.seed for r in run_all(replace(own, profile="sample"), seeds=(2,))] == [2]
    assert [(r.profile, r.seed) for r in run_all(sample, seeds=(2, 0))] == [("sample", 2), ("sample", 0)]


@pytest.mark.parametrize(
    ("own", "asked", "words"),
    [
        ({"seed": 2}, {"seeds": (0, 1)}, ("MLP_4 is a row of seed 2", "seeds=(0, 1) are requested")),
        ({"profile": "cpu"}, {"profile": "sample"}, ("MLP_4 is a row of the profile cpu", "profile='sample'")),
        ({}, {"seeds": ()}, ("seeds are empty", "seeds=(0,)")),
        ({}, {"seeds": 0}, ("such as (0, 1), not 0",)),
        ({}, {"seeds": "01"}, ("seed must be a whole number of at least 0", "'0'")),
    ],
)
def test_conflicting_seeds_and_profiles(own, asked, words, runs_dir):
    refused(lambda: run_all("MLP_res_5", replace(EXPERIMENTS["MLP_4"], **own), **asked), *words)
    assert not runs_dir.exists()


# ---------------------------------------------------------------- a reader's variant, another run of that name


def test_variant(made, tiny, runs_dir):
    record = run(replace(EXPERIMENTS["MLP_4"], name="MLP_4_faster", lr=1e-3))
    assert record.path == runs_dir / "sample" / "MLP_4_faster" / "seed-0"
    assert record.settings["identity"]["lr"] == 1e-3
    assert record.rows[0]["test_loss"] == found(made, "MLP_4").rows[0]["test_loss"]  # the same first weights
    assert record.rows[2]["test_loss"] != found(made, "MLP_4").rows[2]["test_loss"]


def test_other_experiment_of_the_same_name(made, runs_dir, tiny, capsys, no_training):
    lend(made, runs_dir, "MLP_4")
    other = replace(EXPERIMENTS["MLP_4"], lr=1e-3)
    words = ("holds another run named MLP_4", "lr 0.0001 there, 0.001 here", "use another name")
    message = refused(lambda: run(other), *words)
    assert run_all(other) == []
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: run("MLP_5"), ("unknown experiment 'MLP_5'", "`python run.py list` shows them all")),
        (lambda: run("MLP_33_eps"), ("MLP_33_eps has no budget in the profile sample", "cpu or paper")),
        (lambda: run("MLP_4", stop=True), ("stop must be a function", "got True")),
        (lambda: run("MLP_4", wandb="x"), ("wandb must be True, False or a W&B run, got 'x'",)),
        (lambda: run("MLP_4", evidence="no"), ("evidence must be True or False, got 'no'",)),
        (lambda: run_all("MLP_4", executor=ProcessPoolExecutor), ("executor must be one of concurrent.futures",)),
        (lambda: run_all("MLP_4", executor=ThreadPoolExecutor(2)), ("threads share torch's random numbers",)),
        (lambda: run_all(["MLP_4"]), ("expected an experiment or its name", "'MLP_4'", "got ['MLP_4']")),
        (
            lambda: run(replace(EXPERIMENTS["MLP_4"], name="on_colour", dataset="cifar10")),
            ("cannot take a batch of shape (2, 3, 28, 28)",),
        ),
    ],
)
def test_refusals(action, words, tiny, runs_dir):
    refused(action, *words)
    assert not runs_dir.exists()


def test_finished_parent_without_weights(made, runs_dir, tiny, capsys, no_training):
    """It is refused, and no message says that it is trained first."""
    lend(made, runs_dir, "MLP_4")
    folder = runs_dir / "sample" / "MLP_4" / "seed-0"
    (folder / "weights.pt").unlink(missing_ok=True)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    child = replace(EXPERIMENTS["MLP_4"], name="b", start_from="MLP_4", profile="sample")
    remedy = f"the weights of MLP_4 (seed 0) were not kept; move {folder} away to train it again"
    assert refused(lambda: run(child)) == remedy
    assert run_all(child) == []
    said = capsys.readouterr().out
    assert said.count(remedy) == 1
    assert "trained first" not in said
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not (runs_dir / "sample" / "b").exists()


def test_failures_do_not_stop_the_others(made, runs_dir, tiny, capsys):
    """A damaged record, a damaged checkpoint, an ablation without a budget, and one that works."""
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


def test_loss_that_is_not_finite(tiny, capsys, monkeypatch):
    exp = replace(EXPERIMENTS["MLP_4"], name="MLP_4_far", lr=1e38)
    assert run_all(exp) == []
    assert "MLP_4_far (seed 0) failed: the" in capsys.readouterr().out
    record = find_record("MLP_4_far", "sample")
    assert record.result["status"] == "failed"
    monkeypatch.setattr(coreFunction, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert run(exp).result == record.result


def test_locked_run_is_tried_again_at_the_end(tiny, runs_dir, monkeypatch, capsys):
    holder = RunFolder(experiment("MLP_4", "sample"), runs_dir)
    holder.__enter__()
    fit = coreFunction.fit

    def release_after(model, train, held, exp, *arguments, **options):
        record = fit(model, train, held, exp, *arguments, **options)
        if exp.name == "MLP_res_5":
            holder.__exit__(None)
        return record

    monkeypatch.setattr(coreFunction, "fit", release_after)
    assert [record.name for record in run_all("MLP_4", "MLP_res_5")] == ["MLP_4", "MLP_res_5"]
    assert "MLP_4 (seed 0) is being trained by another process" in capsys.readouterr().out


def test_locked_run_that_finishes_meanwhile(made, runs_dir, tiny, monkeypatch):
    """It is returned; one that is still locked at the end is not."""
    tries = []

    def locked(exp, **_):
        tries.append(exp.name)
        if tries.count("MLP_4") == 2 and not (runs_dir / "sample" / "MLP_4").exists():
            lend(made, runs_dir, "MLP_4")
        raise RunLockedError(f"{exp.name} is being trained by another process")

    monkeypatch.setattr(coreFunction, "run", locked)
    assert [record.name for record in run_all("MLP_4", "MLP_res_5")] == ["MLP_4"]
    assert sorted(tries) == ["MLP_4", "MLP_4", "MLP_res_5", "MLP_res_5"]
