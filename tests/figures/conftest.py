"""Made-up records of the whole table, written once."""

import pytest
from made_up_runs import write_experiment

from experimentTable import EXPERIMENTS, experiment, is_supported


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Records of every run in `cpu` (chapter 3 with two seeds) and, but for the controls, in `sample`."""
    root = tmp_path_factory.mktemp("made")
    for name, exp in EXPERIMENTS.items():
        for seed in (0, 1) if exp.chapter == 3 and exp.kind == "training" else (0,):
            write_experiment(root, name, "cpu", seed)
        if is_supported(experiment(name, "sample")):
            write_experiment(root, name, "sample", epochs=4 if name == "MLP_res_96" else 10)
    return root


@pytest.fixture(autouse=True)
def no_evidence(monkeypatch, runs_dir):
    """Only what a test makes up is found."""
    monkeypatch.setenv("EVIDENCE", "0")


@pytest.fixture
def records(made, monkeypatch, no_evidence):
    """All made-up records are found."""
    monkeypatch.setenv("RUNS_DIR", str(made))
    return made
