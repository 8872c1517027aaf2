"""W&B mirrors the records: what an offline run holds, when W&B is used, and that its failures stop no training."""

import os
import sys
from collections import Counter

import pytest
from helpers import cut_off, digits, held, mlp, refused, untimed
from offline import QUICK, exit_code, flat, forget, history, name_of, offline_runs, summary, table

from coreFunction import pipeline, run
from deepnet.account import wandb_wanted
from myModel import MODELS, count_parameters
from utilityFunction import Mirror, mirror

pytestmark = pytest.mark.usefixtures("account")


def test_offline_run(runs_dir, capfd):
    """Two runs without an account: nothing is asked, and one line is printed once."""
    record = pipeline(mlp(), digits(), held(), wandb=True, name="mirrored", **QUICK)
    pipeline(mlp(), digits(), held(), wandb=True, name="second", epochs=1)
    out, err = capfd.readouterr()
    assert out == "W&B: no account; runs are kept offline; `wandb login`, then `wandb sync`, would upload them.\n"
    assert err == ""
    lines, second = offline_runs(runs_dir)
    assert history(lines) == [flat(row) for row in record.rows]
    assert len(history(second)) == 2
    opened = next(line["run"] for line in lines if line["type"] == "run")
    place = ["mirrored-seed0", "cnn-and-deep-network", ["own"]]
    assert [opened[key] for key in ("display_name", "project", "tags")] == place
    assert opened["config"]["update"]["lr"] == 1e-2
    assert summary(lines)["accuracy"] == record.result["accuracy"]
    assert summary(lines)["status"] == "finished"


def test_resumed_run_is_mirrored_from_its_beginning(runs_dir):
    with cut_off(1):
        pipeline(mlp(), digits(), held(), wandb=True, name="resumed", **QUICK)
    record = pipeline(mlp(), digits(), held(), wandb=True, name="resumed", resume=True, **QUICK)
    assert history(offline_runs(runs_dir)[-1]) == [flat(row) for row in record.rows]


@pytest.mark.parametrize("way", ["WANDB_MODE", "wandb=False", "record=False"])
def test_turned_off(runs_dir, monkeypatch, capfd, tmp_path, way):
    if way == "WANDB_MODE":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    options = {"wandb=False": {"wandb": False}, "record=False": {"record": False}}.get(way, {"wandb": True})
    pipeline(mlp(), digits(), held(), name="off", **options, **QUICK)
    assert capfd.readouterr() == ("", "")
    assert not (runs_dir / "wandb").exists()
    assert not (tmp_path / "home").exists()


WRONG_KEY = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}  # where nobody listens


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"WANDB_API_KEY": "nonsense"}, "WANDB_API_KEY invalid"),
        (WRONG_KEY, "Failed to authenticate with http://127.0.0.1:9"),
    ],
)
def test_wrong_key_or_dead_network(runs_dir, monkeypatch, capfd, environment, problem):
    """One line on what failed and where the runs go, for both runs together."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    records = [pipeline(mlp(), digits(), held(), wandb=True, name=name, **QUICK) for name in ("one", "two")]
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    assert line.startswith(f"W&B: {problem}")
    assert line.endswith("; runs are kept offline; `wandb login`, then `wandb sync`, would upload them.")
    assert "Traceback" not in err
    assert len(offline_runs(runs_dir)) == 2
    monkeypatch.setenv("WANDB_MODE", "disabled")
    forget()
    straight = pipeline(mlp(), digits(), held(), wandb=True, name="straight", **QUICK)
    for record in records:
        assert record.finished
        assert untimed(record.rows) == untimed(straight.rows)
        assert record.result["sha256"]["weights.pt"] == straight.result["sha256"]["weights.pt"]


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_wandb_fails(monkeypatch, capfd, failing):
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
    record = pipeline(mlp(), digits(), held(), wandb=True, name="failing", **QUICK)
    assert record.finished
    assert len(record.rows) == 3
    assert capfd.readouterr().out == f"W&B: no {failing}; the records are complete.\n"


def test_without_the_package(monkeypatch, capfd, tiny):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run("MLP_4").finished
    assert capfd.readouterr().out == ""
    assert "WANDB_MODE" not in os.environ
    assert not wandb_wanted(None)
    refused(lambda: wandb_wanted(True), "not installed", "pip install wandb")


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """`broken(code)` puts in the place of wandb a package whose import runs `code`."""

    def broken(code):
        (tmp_path / "packages" / "wandb").mkdir(parents=True)
        (tmp_path / "packages" / "wandb" / "__init__.py").write_text(code)
        for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        return tmp_path / "packages"

    return broken


@pytest.mark.parametrize(
    "raised",
    [
        'ModuleNotFoundError("No module named \'google.protobuf\'", name="google.protobuf")',
        'TypeError("Descriptors cannot be created directly.\\nSecond line.")',
        'RuntimeError("module compiled against another version of NumPy")',
    ],
)
def test_broken_package(broken, raised, capfd, tiny):
    broken(f"raise {raised}")
    assert [len(run(name).rows) for name in ("MLP_4", "MLP_13")] == [3, 3]
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("W&B: wandb cannot be imported (")
    assert line.endswith("; the records are complete.")


def test_disabled_wandb_is_not_imported(broken, monkeypatch, capfd, tiny):
    marks = broken("from pathlib import Path\nPath(__file__).with_name('imported').touch()\nraise TypeError")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert run("MLP_4").finished
    assert capfd.readouterr().out == ""
    assert not list(marks.rglob("imported"))


NETRC = "machine api.wandb.ai\n  login user\n  password 0123456789\n"


@pytest.mark.parametrize(
    ("environment", "netrc", "wanted"),
    [
        ({}, "", False),
        ({"WANDB_API_KEY": "0123456789"}, "", True),
        ({}, NETRC, True),
        ({}, NETRC.replace("api.wandb.ai", "github.com"), False),
        ({"WANDB_BASE_URL": "https://wandb.example.org:8080"}, NETRC, False),
        ({"WANDB_BASE_URL": "https://example.org:8080"}, NETRC.replace("api.wandb.ai", "example.org:8080"), True),
        ({}, "machine api.wandb.ai login", False),  # damaged
        ({"WANDB_MODE": "offline"}, "", True),
        ({"WANDB_MODE": "disabled"}, NETRC, False),
        ({"WANDB_MODE": ""}, "", False),
    ],
)
def test_when_wandb_is_wanted(environment, netrc, wanted, monkeypatch, tmp_path, capfd):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "netrc").write_text(netrc)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_wanted(None) is wanted
    assert wandb_wanted(True) is (environment.get("WANDB_MODE", "").lower() != "disabled")
    assert wandb_wanted(False) is False
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("choice", ["yes", 2, "offline", object()])
def test_other_choices_are_refused(choice):
    refused(lambda: wandb_wanted(choice), "wandb must be True, False or None")


def test_unknown_mode(monkeypatch, tiny, capfd, runs_dir):
    monkeypatch.setenv("WANDB_MODE", "offlin")
    for choice in (None, True):
        refused(lambda choice=choice: wandb_wanted(choice), "WANDB_MODE=offlin", "online, offline or disabled")
    assert wandb_wanted(False) is False
    assert run("MLP_4").finished
    assert capfd.readouterr().out.count("WANDB_MODE=offlin") == 1
    assert not (runs_dir / "wandb").exists()


@pytest.mark.parametrize("mode", ["Offline", "OFFLINE", "dryrun"])
def test_spellings_of_a_mode(mode, monkeypatch, tiny, capfd, runs_dir):
    monkeypatch.setenv("WANDB_MODE", mode)
    record = run("MLP_4")
    assert capfd.readouterr().out == ""
    (lines,) = offline_runs(runs_dir)
    assert history(lines) == [flat(row) for row in record.rows]


# ---------------------------------------------------------------- how a run is closed, named and described


def opened(lines):
    """What W&B was told as a run was begun."""
    return next(line["run"] for line in lines if line["type"] == "run")


@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError(), 1), (KeyboardInterrupt(), 255), (SystemExit(3), 1)])
def test_run_that_ends_by_an_exception(error, code, runs_dir, monkeypatch):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("coreFunction.EarlyStopping.update", fail)
        with pytest.raises(type(error)):
            pipeline(mlp(), digits(), held(), wandb=True, name="ended", **QUICK)
    assert Mirror.open == []
    pipeline(mlp(), digits(), held(), wandb=True, name="next", **QUICK)
    ended, following = offline_runs(runs_dir)
    assert (name_of(ended), exit_code(ended), len(history(ended))) == ("ended-seed0", code, 2)
    assert (name_of(following), exit_code(following), len(history(following))) == ("next-seed0", 0, 3)
    assert Mirror.open == []


def test_environment_does_not_merge_runs(runs_dir, monkeypatch, tiny):
    environment = {"WANDB_RUN_ID": "one", "WANDB_NAME": "one", "WANDB_RESUME": "must", "WANDB_RUN_GROUP": "mine"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    records = [run("MLP_4"), run("MLP_13"), pipeline(mlp(), digits(), held(), wandb=True, name="own", **QUICK)]
    assert mirror(records[0])
    runs = offline_runs(runs_dir)
    assert len({opened(lines)["run_id"] for lines in runs} - {"one"}) == 4
    names = [opened(lines)["display_name"] for lines in runs]
    assert names == ["MLP_4-seed0", "MLP_13-seed0", "own-seed0", "MLP_4-seed0"]
    assert [opened(lines).get("run_group") for lines in runs] == ["chapter 3", "chapter 3", "mine", "chapter 3"]


def test_size_of_the_model(runs_dir, tiny):
    """As it trains and afterwards, so that runs can be grouped by it; of a reader's own model as it trains."""
    record = run("MLP_13")
    assert mirror(record)
    pipeline(mlp(), digits(), held(), wandb=True, name="own", **QUICK)
    *rows, own = [opened(lines)["config"]["update"] for lines in offline_runs(runs_dir)]
    size = (13, count_parameters(MODELS["MLP_13"](image_size=28)))
    assert [(config["deep"], config["parameters"]) for config in rows] == [size, size]
    assert (own["deep"], own["parameters"]) == (2, 64 * 16 + 16 + 16 * 10 + 10)


def test_own_class_names(runs_dir):
    record = pipeline(mlp(outputs=12), digits(), held(), wandb=False, name="own", **QUICK)
    names = [f"class {i}" for i in range(10)]
    record.settings["classes"] = names
    assert mirror(record)
    (lines,) = offline_runs(runs_dir)
    label, given = record.predictions()
    numbered = [*names, "10", "11"]  # the model has more outputs than there are classes
    pairs = [(numbered[actual], numbered[predicted]) for actual, predicted in zip(label, given, strict=True)]
    assert {(actual, predicted): n for actual, predicted, n in table(lines, "confusion_matrix_table")} == Counter(pairs)
