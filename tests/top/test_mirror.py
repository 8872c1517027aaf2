"""A record in W&B: its settings, summary, tables and weights, and `run.py sync`, which writes all of a profile's."""

from io import BytesIO

import numpy as np
import pytest
import torch
from helpers import digits, found, held, lend, mlp, refused
from offline import QUICK, artifacts, check_tables, flat, history, name_of, offline_runs, summary, table
from PIL import Image

from coreFunction import pipeline, run
from deepnet.data import sets
from deepnet.figures.registry import draw
from deepnet.records.files import sha256
from deepnet.records.reading import EVIDENCE, Record
from utilityFunction import mirror

pytestmark = pytest.mark.usefixtures("account")


def test_summary_is_of_the_restored_epoch(runs_dir):
    record = pipeline(mlp(), digits(), held(), name="stopped", lr=0.1, epochs=12, batch_size=32, patience=2, wandb=True)
    best, last = record.rows[record.result["epoch"]], record.rows[-1]
    assert best["epoch"] < last["epoch"] and best["validation_accuracy"] != last["validation_accuracy"]
    (lines,) = offline_runs(runs_dir)
    assert history(lines)[-1] == flat(last)
    shown = summary(lines)
    assert {key: shown[key] for key in best} == best | {"train_seconds": record.result["train_seconds"]}  # all epochs'
    assert shown["accuracy"] == shown["validation_accuracy"] == record.result["accuracy"]


def test_live_and_afterwards(runs_dir, tiny, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    record = run("MLP_4")
    assert mirror(record)
    runs = offline_runs(runs_dir)
    assert len(runs) == 2
    for lines in runs:
        opened = next(line["run"] for line in lines if line["type"] == "run")
        assert (opened["display_name"], opened["run_group"], opened["tags"]) == ("MLP_4-seed0", "chapter 3", ["sample"])
        config = opened["config"]["update"]
        used = record.settings["identity"] | record.settings["provenance"]
        used |= {"name": "MLP_4", "profile": "sample", "seed": 0}
        assert {key: config[key] for key in used} == used
        metrics = [line["metric"] for line in lines if line["type"] == "metric"]
        axes = [(m.get("name"), m.get("glob_name"), m.get("step_metric")) for m in metrics]
        assert axes[:2] == [("epoch", None, None), (None, "*", "epoch")]
        assert history(lines) == [flat(row) for row in record.rows]
        check_tables(record, lines, "test")


@pytest.mark.parametrize(
    ("name", "part"), [("CNN_10", "test"), ("early_stopping", "validation"), ("baseline", "validation")]
)
def test_misclassified_images(runs_dir, made, name, part):
    record = found(made, name)
    assert mirror(record)
    (lines,) = offline_runs(runs_dir)
    check_tables(record, lines, part)


@pytest.mark.parametrize("name", ["distribution", "tsne_mnist", "timing_3"])
def test_analyses(runs_dir, made, name):
    record = found(made, name)
    assert mirror(record)
    (lines,) = offline_runs(runs_dir)
    assert history(lines) == record.rows
    assert summary(lines)["status"] == "finished"
    assert artifacts(lines) == {}


def test_own_data_have_only_the_confusion_matrix(runs_dir):
    """Also with more outputs than classes, and with more cells than W&B's tables have rows."""
    numbered = lambda first, last: digits(first, last, lambda y: torch.arange(len(y)) % 120)  # noqa: E731
    own = pipeline(mlp(outputs=12), digits(), held(), name="own", wandb=False, **QUICK)
    many = pipeline(mlp(outputs=120), numbered(0, 200), numbered(300, 400), name="many", wandb=False, **QUICK)
    assert mirror(own) and mirror(many)
    for record, lines in zip((own, many), offline_runs(runs_dir), strict=True):
        assert artifacts(lines).keys() == {"confusion_matrix_table"}
        label, given = record.predictions()
        counts = {(actual, predicted): n for actual, predicted, n in table(lines, "confusion_matrix_table")}
        pairs = list(zip(map(str, label), map(str, given), strict=True))
        assert counts == {pair: pairs.count(pair) for pair in pairs}


def test_no_images_are_downloaded(runs_dir, monkeypatch, tmp_path):
    """Committed evidence on a machine without data: all but the table of images."""
    record = Record(EVIDENCE / "cpu" / "MLP_4" / "seed-0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(sets, "fetch", lambda *_: pytest.fail("it fetched"))
    assert mirror(record)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "nowhere"))
    assert mirror(record)
    for lines in offline_runs(runs_dir):
        assert history(lines) == [flat(row) for row in record.rows]
        assert artifacts(lines).keys() == {"confusion_matrix_table"}


def test_weights_as_an_artifact(runs_dir):
    record = pipeline(mlp(), digits(), held(), name="kept", keep_weights=True, wandb=False, **QUICK)
    assert mirror(record, weights=True)
    (lines,) = offline_runs(runs_dir)
    (artifact,) = (line["artifact"] for line in lines if line.get("artifact", {}).get("type") == "model")
    assert artifact["name"] == "kept-seed0-own"
    (copy,) = artifacts(lines)["kept-seed0-own"].items()
    assert (copy[0], sha256(copy[1])) == ("weights.pt", sha256(record.path / "weights.pt"))
    without = pipeline(mlp(), digits(), held(), name="dropped", wandb=False, **QUICK)
    refused(lambda: mirror(without, weights=True), "dropped (seed 0) has no weights", "keep_weights=True")
    assert len(offline_runs(runs_dir)) == 1


def test_offline_files_lie_in_one_folder(runs_dir, monkeypatch, tiny):
    """The images of tables and the weights too, which W&B would put into the user's folder."""
    monkeypatch.delenv("WANDB_DATA_DIR")
    run("MLP_4")
    (lines,) = offline_runs(runs_dir)
    files = [file for held in artifacts(lines).values() for file in held.values()]
    assert files and all(file.is_relative_to(runs_dir / "wandb") for file in files)


def test_the_summary_is_written_if_the_tables_fail(runs_dir, monkeypatch, capfd):
    import wandb

    options = {"lr": 0.1, "epochs": 12, "batch_size": 32, "patience": 2}
    record = pipeline(mlp(), digits(), held(), name="stopped", wandb=False, **options)
    monkeypatch.setattr(wandb, "plot_table", lambda *_: 1 / 0)
    assert not mirror(record)
    assert "W&B: division by zero; the records are complete.\n" in capfd.readouterr().out
    (lines,) = offline_runs(runs_dir)
    assert summary(lines)["validation_accuracy"] == record.result["accuracy"] != record.rows[-1]["validation_accuracy"]


# ---------------------------------------------------------------- run.py sync


@pytest.fixture
def offline(monkeypatch):
    """W&B is offline, and the committed records are left aside."""
    monkeypatch.setenv("EVIDENCE", "0")
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_sync_writes_all_records_and_figures(runs_dir, made, offline, call):
    lend(made, runs_dir, "MLP_4", "fine_tune_1", "distribution")
    status, out, err = call("sync", "--weights")
    numbers = ["1.1", "2.1", "2.3", "2.4", "3.1", "3.3", "3.3b", "5.1"]
    assert (status, err) == (0, "")
    runs = {name_of(lines): lines for lines in offline_runs(runs_dir)}
    there = f"written to {runs_dir / 'wandb'}; `wandb sync {runs_dir / 'wandb'}/offline-run-*` uploads them"
    assert out == f"W&B: 3 runs and {len(numbers)} figures {there}\n"
    assert runs.keys() == {"MLP_4-seed0", "fine_tune_1-seed0", "distribution-seed0", "figures-sample"}
    weights = {name for run in runs.values() for name in artifacts(run) if name.endswith("-sample")}
    assert weights == {"fine_tune_1-seed0-sample"}  # others start from it, so its weights are kept
    shown = {key.partition(".")[0] for key in summary(runs["figures-sample"]) if key.startswith("figure_")}
    assert shown == {f"figure_{n.replace('.', '_')}" for n in numbers}
    for number in numbers:
        (file,) = runs_dir.glob(f"wandb/offline-run-*/files/media/images/figure_{number.replace('.', '_')}_0_*.png")
        drawn = Image.open(BytesIO(draw(number, "sample").png)).convert("RGB")
        assert np.array_equal(np.asarray(Image.open(file).convert("RGB")), np.asarray(drawn))


def test_sync_of_named_runs(runs_dir, made, offline, call):
    lend(made, runs_dir, "MLP_4", "CNN_10", "distribution")
    assert call("sync", "distribution", "--chapter", "4", "--seeds", "0")[0] == 0
    written = [name_of(lines) for lines in offline_runs(runs_dir)]
    assert written == ["distribution-seed0", "CNN_10-seed0", "figures-sample"]


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        ({}, ["MLP_4"], "nothing was uploaded: no account; `wandb login` first, or set WANDB_MODE=offline"),
        ({"WANDB_MODE": "online"}, ["MLP_4"], "nothing was uploaded: no account; `wandb login` first"),
        ({"WANDB_MODE": "disabled"}, ["MLP_4"], "nothing was uploaded: WANDB_MODE=disabled; "),
        ({"WANDB_API_KEY": "nonsense"}, ["MLP_4"], "nothing was uploaded: WANDB_API_KEY invalid"),
        ({"WANDB_MODE": "offline"}, ["MLP_4", "MLP_13"], "no finished record of MLP_13 in sample; `python run.py"),
        ({"WANDB_MODE": "offline"}, ["--seeds", "7"], "no finished record of a run in sample"),
    ],
)
def test_sync_refusals(runs_dir, made, monkeypatch, call, environment, arguments, words):
    lend(made, runs_dir, "MLP_4")
    monkeypatch.setenv("EVIDENCE", "0")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, out, err = call("sync", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"run.py: {words}")
    assert err.count("\n") == 1
    assert not (runs_dir / "wandb").exists()


def test_sync_that_fails(runs_dir, made, offline, monkeypatch, call):
    import wandb

    lend(made, runs_dir, "MLP_4")
    monkeypatch.setattr(wandb, "plot_table", lambda *_: 1 / 0)
    status, out, err = call("sync", "MLP_4")
    assert (status, out) == (1, "W&B: division by zero; the records are complete.\n")
    assert err == "run.py: incomplete in W&B: MLP_4 (seed 0); the same command writes everything again\n"
