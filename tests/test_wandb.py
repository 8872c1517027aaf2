"""W&B is the mirror, the record the truth: what an offline run holds, and that nothing W&B does stops a training."""

import os
import sys

import pytest
from helpers import digits, held, mlp, untimed
from offline import QUICK, flat, forget, history, offline_runs, summary

from coreFunction import pipeline
from recordFunction import Record
from wandbFunction import mirror

pytestmark = pytest.mark.usefixtures("account")


def test_an_offline_run_holds_the_record_s_rows_settings_and_result(runs_dir, capfd):
    """Two runs with no account: nothing is asked, and what W&B does is said once."""
    record = pipeline(mlp(), digits(), held(), name="mirrored", **QUICK)
    pipeline(mlp(), digits(), held(), name="second", epochs=1)
    out, err = capfd.readouterr()
    assert out == "W&B: no account; runs are kept offline; `wandb login`, then `wandb sync`, would upload them.\n"
    assert err == ""
    lines, second = offline_runs(runs_dir)
    assert history(lines) == [flat(row) for row in record.rows]
    assert len(history(second)) == 2
    opened = next(line["run"] for line in lines if line["type"] == "run")
    assert (opened["display_name"], opened["project"], opened["tags"]) == ("mirrored-seed0", "cnn-and-deep-network", ["own"])
    assert opened["config"]["update"]["lr"] == 1e-2
    assert summary(lines)["accuracy"] == record.result["accuracy"]
    assert summary(lines)["status"] == "finished"


def test_a_resumed_run_is_mirrored_whole(runs_dir, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    with monkeypatch.context() as patch:
        patch.setattr("loopFunction.EarlyStopping.update", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline(mlp(), digits(), held(), name="resumed", **QUICK)
    record = pipeline(mlp(), digits(), held(), name="resumed", resume=True, **QUICK)
    assert history(offline_runs(runs_dir)[-1]) == [flat(row) for row in record.rows]


def test_a_record_can_be_mirrored_afterwards(runs_dir, monkeypatch):
    record = pipeline(mlp(), digits(), held(), name="later", wandb=False, **QUICK)
    assert offline_runs(runs_dir) == []
    mirror(Record(record.path))
    (lines,) = offline_runs(runs_dir)
    assert history(lines) == [flat(row) for row in record.rows]


@pytest.mark.parametrize("way", ["WANDB_MODE", "wandb=False", "record=False"])
def test_where_it_is_turned_off_nothing_is_written_or_said(runs_dir, monkeypatch, capfd, tmp_path, way):
    if way == "WANDB_MODE":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    options = {"wandb=False": {"wandb": False}, "record=False": {"record": False}}.get(way, {})
    pipeline(mlp(), digits(), held(), name="off", **options, **QUICK)
    assert capfd.readouterr() == ("", "")
    assert not (runs_dir / "wandb").exists()
    assert not (tmp_path / "home").exists()


def test_a_key_that_cannot_be_one_is_said_once_and_stops_nothing(runs_dir, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "nonsense")
    records = [pipeline(mlp(), digits(), held(), name=name, **QUICK) for name in ("one", "two")]
    out, _ = capfd.readouterr()
    assert out.startswith("W&B: WANDB_API_KEY invalid")
    assert out.endswith("; runs are kept offline; `wandb login`, then `wandb sync`, would upload them.\n")
    assert out.count("\n") == 1
    assert all(record.finished and len(record.rows) == 3 for record in records)
    assert len(offline_runs(runs_dir)) == 2


def test_a_wrong_key_and_a_dead_network_stop_nothing(monkeypatch, capfd):
    """One line on what failed and where the runs go, for both runs together."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    records = [pipeline(mlp(), digits(), held(), name=name, **QUICK) for name in ("one", "two")]
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    assert line.startswith("W&B: Failed to authenticate with http://127.0.0.1:9")
    assert line.endswith("; runs are kept offline; `wandb login`, then `wandb sync`, would upload them.")
    assert "Traceback" not in err
    monkeypatch.setenv("WANDB_MODE", "disabled")
    forget()
    straight = pipeline(mlp(), digits(), held(), name="straight", **QUICK)
    for record in records:
        assert record.finished
        assert untimed(record.rows) == untimed(straight.rows)
        assert record.result["sha256"]["weights.pt"] == straight.result["sha256"]["weights.pt"]


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_whatever_w_and_b_fails_at_the_record_is_whole(monkeypatch, capfd, failing):
    """Also where it fails at every row: said once."""
    import wandb

    class Run:
        summary = {}  # noqa: RUF012

        def define_metric(self, *_, **__):
            pass

        def log(self, *_, **__):
            fail("log")

        def finish(self, *_):
            fail("finish")

    def fail(what):
        if what == failing:
            raise wandb.errors.CommError(f"no {what}\nand a second line")

    def init(**_):
        fail("init")
        return Run()

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", init)
    record = pipeline(mlp(), digits(), held(), name="failing", **QUICK)
    assert record.finished
    assert len(record.rows) == 3
    assert capfd.readouterr().out == f"W&B: no {failing}; the records are whole.\n"


def test_without_the_package_nothing_is_missing(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert pipeline(mlp(), digits(), held(), name="without", **QUICK).finished
    assert capfd.readouterr().out == ""
    assert "WANDB_MODE" not in os.environ
