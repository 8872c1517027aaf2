"""A mistake that a user can correct is reported in one line, and no file is lost."""

import math
from dataclasses import replace

import pytest
from helpers import raising, refused

import coreFunction
from coreFunction import run, run_all
from deepnet import machine
from deepnet.records.folder import checkpoint_seconds
from deepnet.records.reading import roots
from deepnet.runs import queue
from deepnet.training.recipe import fast_by_default
from experimentTable import EXPERIMENTS, PROFILES, Experiment, UsageError, identity

refuse = raising(UsageError("no data"))  # in place of a run


# the second is torch's device without memory
@pytest.mark.parametrize("name", ["foo", "meta", "xla", "hpu", "cuda:99"])
def test_unusable_device(monkeypatch, name):
    monkeypatch.setenv("DEVICE", name)
    machine.device.cache_clear()
    refused(machine.device, f"DEVICE={name} cannot be used here; set it to cpu", "or unset it")
    monkeypatch.setenv("DEVICE", "cpu")
    assert machine.device().type == "cpu"
    machine.device.cache_clear()


@pytest.mark.parametrize("text", ["nan", "-1", "30 s"])
def test_an_invalid_checkpoint_interval_is_refused(monkeypatch, text):
    monkeypatch.setenv("CHECKPOINT_SECONDS", text)
    refused(checkpoint_seconds, f"CHECKPOINT_SECONDS={text} is not a number of at least 0")


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("1e3", 1000), ("inf", math.inf), ("", 30)])
def test_a_valid_checkpoint_interval_is_used(monkeypatch, text, seconds):
    monkeypatch.setenv("CHECKPOINT_SECONDS", text)
    assert checkpoint_seconds() == seconds


@pytest.mark.parametrize(("variable", "on"), [("FAST", fast_by_default), ("EVIDENCE", lambda: len(roots()) == 2)])
def test_switches_of_the_environment(monkeypatch, runs_dir, variable, on):
    for value, texts in ((False, ("0", "no", "false", "False", "OFF")), (True, ("1", "Yes", "true", "on", ""))):
        for text in texts:
            monkeypatch.setenv(variable, text)
            assert on() is value, text
    monkeypatch.setenv(variable, "never")
    refused(on, f"{variable}=never is neither on nor off; set it to 1 or 0, or unset it")
    refused(lambda: run("MLP_4", wandb=False), f"{variable}=never")
    assert not list(runs_dir.rglob("*.json"))


@pytest.mark.parametrize(
    ("name", "epochs", "profile"), [("MLP_4", 7, "sample"), ("sgd_2", 30, "cpu"), ("sgd_2", 7, "sample")]
)
def test_epochs_that_the_profile_overrides(runs_dir, name, epochs, profile):
    longer = replace(EXPERIMENTS[name], name="longer", epochs=epochs, profile=profile)
    with pytest.raises(UsageError, match=f"epochs={epochs} of longer has no effect in the profile {profile}"):
        run(longer, wandb=False)
    assert not runs_dir.exists()
    assert identity(replace(longer, family="", chapter=0))["epochs"] == epochs  # without a family it has its own


@pytest.mark.parametrize(
    ("profile", "said"), [("sample", "about 9 s"), ("paper", "about 10 s on one H200"), ("cpu", "time not known")]
)
def test_estimates(runs_dir, capsys, monkeypatch, profile, said):
    monkeypatch.setattr(coreFunction, "run", refuse)
    monkeypatch.delitem(PROFILES["cpu"].seconds, "mlp")
    run_all("MLP_4", profile=profile, evidence=False)
    assert f"1 run; to go: {said}\n" in capsys.readouterr().out


def test_damaged_record_of_another_profile(runs_dir, capsys, monkeypatch):
    folder = runs_dir / "cpu" / "MLP_4" / "seed-0"
    folder.mkdir(parents=True)
    for name in ("settings.json", "result.json"):
        (folder / name).write_text("{")
    monkeypatch.setattr(coreFunction, "run", refuse)
    run_all("MLP_4", profile="paper", evidence=False)
    assert "no data" in capsys.readouterr().out


@pytest.mark.parametrize(("profile", "there"), [("sample", []), ("cpu", []), ("paper", ["cpu"])])
def test_profiles_with_records_are_named(runs_dir, capsys, monkeypatch, profile, there):
    monkeypatch.setattr(coreFunction, "run", refuse)
    monkeypatch.setattr(
        queue, "find_records", lambda name, profile: [name] * ((name, profile) == ("train_resnet", "cpu"))
    )
    run_all("train_resnet", "MLP_4", profile=profile, evidence=False)
    said = [line for line in capsys.readouterr().out.splitlines() if "has records" in line]
    assert said == [f"profile {other} has records of train_resnet" for other in there]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 10**400}, "lr is beyond all floating-point numbers, got 1000"),
        ({"lr": 10**5000}, "lr is beyond all floating-point numbers, got a number of thousands of digits"),
        ({"seed": 10**5000}, "seed must be a whole number of at least 0"),
        ({"name": "x" * 300}, "'... is too long for a folder (300 letters); give at most 200"),
        ({"name": "é" * 101}, "is too long for a folder"),
    ],
)
def test_values_that_are_too_large(fields, message):
    assert len(refused(lambda: Experiment(**{"name": "x", "model": "MLP_4", "lr": 0.1} | fields), message)) < 200
    assert Experiment("x" * 200, model="MLP_4", lr=1e300).lr == 1e300
