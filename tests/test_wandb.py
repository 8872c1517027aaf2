"""W&B is the mirror, the record the truth: what an offline run holds, and that nothing W&B does stops a training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import digits, held, mlp, untimed

import utilityFunction
from coreFunction import pipeline
from recordFunction import Record
from utilityFunction import mirror

WANDB = Path(sys.executable).with_name("wandb")
QUICK = {"lr": 1e-2, "epochs": 2, "batch_size": 32, "record_gradients": True}


@pytest.fixture(autouse=True)
def account(monkeypatch, tmp_path):
    """No account, no key, no W&B files of the user's; and nothing remembered of earlier tests."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget():
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # it reads its environment once
    utilityFunction.wandb_mode.cache_clear()
    utilityFunction._warn_once.cache_clear()
    utilityFunction.Mirror.reachable = True


def offline_runs(runs_dir: Path) -> list[list[dict]]:
    """The lines of every offline run, oldest first, read by W&B's own inspector."""
    files = sorted(runs_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    read = [subprocess.run([WANDB, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True) for file in files]
    return [[json.loads(line) for line in done.stdout.splitlines()] for done in read]


def history(lines: list[dict]) -> list[dict]:
    """The rows that were logged, without W&B's own fields."""
    items = [line["history"]["item"] for line in lines if line["type"] == "history"]
    return [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]


def flat(row: dict) -> dict:
    """A record's row with a number for each layer."""
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    layers = {f"{key}/layer_{i:02d}": value for key, values in lists.items() for i, value in enumerate(values)}
    return {key: value for key, value in (row | layers).items() if key not in lists and value is not None}


def test_an_offline_run_holds_the_record_s_rows_settings_and_result(runs_dir, capfd):
    """Two runs with no account: nothing is asked, and what W&B does is said once."""
    record = pipeline(mlp(), digits(), held(), name="mirrored", **QUICK)
    pipeline(mlp(), digits(), held(), name="second", epochs=1)
    out, err = capfd.readouterr()
    assert out == "W&B: no account, runs are kept offline; `wandb login`, then `wandb sync`, would upload them.\n"
    assert err == ""
    lines, second = offline_runs(runs_dir)
    assert history(lines) == [flat(row) for row in record.rows]
    assert len(history(second)) == 2
    run = next(line["run"] for line in lines if line["type"] == "run")
    assert (run["display_name"], run["project"], run["tags"]) == ("mirrored-seed0", "cnn-and-deep-network", ["own"])
    assert run["config"]["update"]["lr"] == 1e-2
    summary: dict = {}
    for line in lines:
        summary |= line.get("summary", {}).get("update", {})
    assert (summary["accuracy"], summary["status"], summary["best_epoch"]) == tuple(
        record.result[k] for k in ("accuracy", "status", "best_epoch")
    )


def test_a_resumed_run_is_mirrored_whole(runs_dir, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    with monkeypatch.context() as patch:
        patch.setattr("coreFunction.EarlyStopping.update", lambda *_: 1 / 0)
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
    assert out.count("WANDB_API_KEY invalid") == 1
    assert out.count("training goes on, the record is whole") == 1
    assert all(record.finished and len(record.rows) == 3 for record in records)
    assert len(offline_runs(runs_dir)) == 2


def test_a_wrong_key_and_a_dead_network_stop_nothing(monkeypatch, capfd):
    """One line on what failed and one on where the runs go, for both runs together."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    records = [pipeline(mlp(), digits(), held(), name=name, **QUICK) for name in ("one", "two")]
    out, err = capfd.readouterr()
    first, second = out.splitlines()
    assert first.startswith("W&B: Failed to authenticate with http://127.0.0.1:9")
    assert first.endswith("training goes on, the record is whole.")
    assert second.startswith("W&B: ")
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
    assert capfd.readouterr().out == f"W&B: no {failing}; training goes on, the record is whole.\n"


def test_without_the_package_nothing_is_missing(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert pipeline(mlp(), digits(), held(), name="without", **QUICK).finished
    assert capfd.readouterr().out == ""
    assert "WANDB_MODE" not in os.environ
