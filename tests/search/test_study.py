"""A search's database: where it lies, who may begin or join the search, who works on a trial, and what is refused."""

import threading
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from helpers import refused
from test_search import SMALL, config, drawn

from coreFunction import join, search
from deepnet.records.reading import find_record
from deepnet.search import searching, trials
from deepnet.search.sweep import read_sweep
from experimentTable import UsageError, experiment

IN_MEMORY = ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true")
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize(
    ("options", "what", "remedy"),
    [
        ({"base": "MLP_5"}, "unknown experiment 'MLP_5'", "run.py list"),
        ({"base": "distribution"}, "distribution trains no model", "a search needs a training run"),
        ({"base": "MLP_33_eps"}, "MLP_33_eps has no budget in the profile sample", "cpu or paper"),
        ({"base": experiment("MLP_4", "cpu"), "profile": "sample"}, "a row of the profile cpu", "give one of them"),
        ({"base": experiment("MLP_4", "", 2), "seed": 1}, "is a row of seed 2", "give one of them"),
        ({"count": 0}, "count must be a whole number of at least 1", "0"),
        ({"name": "../x"}, "cannot name a folder", "'../x'"),
        ({"name": "SWEEP"}, "would take the place of the table's sweep_1", "another name"),  # one folder on some disks
        ({"seed": "0"}, "seed must be a whole number", "'0'"),
        ({"profile": "large"}, "unknown profile 'large'", "sample"),
        ({"storage": 3}, "storage must be a database's URL", "3"),
        *(({"storage": url}, f"{url} is a database in memory", "name a file") for url in IN_MEMORY),
        ({"storage": "nonsense://x"}, "nonsense://x cannot be opened", "name another"),
    ],
)
def test_refusal_leaves_no_file(options, what, remedy, runs_dir):
    refused(lambda: search(SMALL, **{"count": 2, "base": "MLP_4"} | options), what, remedy)
    assert not list(runs_dir.parent.iterdir())


def test_nothing_to_join(tmp_path):
    refused(lambda: join("none"), "no search 'none' (profile sample, seed 0)", "begin it with search(...)")
    refused(lambda: join("none", storage=f"sqlite:///{tmp_path / 'none.sqlite'}"), "no search 'none'")
    refused(lambda: join("../none"), "cannot name a folder")
    refused(lambda: join(seed="x"), "seed must be a whole number")
    assert not list(tmp_path.iterdir())


def test_search_killed_at_its_beginning():
    """It cannot be joined, and the same call begins it."""
    with trials.open_study("search", "sample", 0, "", "maximize") as study:
        study.study.set_user_attr("count", 2)
    refused(join, "no search 'search'", "begin it with search(...)")
    assert len(search(config(metric={"name": "train_accuracy", "goal": "maximize"}), 1, base="MLP_4")) == 1


def test_every_run_has_the_metrics_of_a_search():
    said = refused(lambda: search(config(metric={"name": "?", "goal": "maximize"}), 1, base="MLP_4"), "the metric '?'")
    (record,) = search(SMALL, 1, base="MLP_4")
    metrics = said.partition("choose from ")[2].split(", ")
    assert {*metrics} <= {key for key, value in record.rows[-1].items() if isinstance(value, float)}


def test_another_configuration_is_refused():
    search(SMALL, 1, base="MLP_4")
    other = config(parameters=SMALL["parameters"] | {"batch_size": {"values": [16, 64]}})
    refused(lambda: search(other, 2, base="MLP_4"), "'search' was begun with another configuration", "another name")
    refused(lambda: search(SMALL, 2, base="MLP_res_5"), "'search' was begun with another configuration")
    assert search(other, 1, base="MLP_4", name="wider")[0].name == "wider_1"


def test_a_row_that_is_not_in_the_table():
    own = replace(experiment("MLP_4"), name="own", dropout=0.25, seed=3)
    (record,) = search(SMALL, 1, base=own, name="mine")
    assert (record.name, record.seed, record.profile) == ("mine_1", 3, "sample")
    assert drawn([record], "dropout") == [(0.25,)]
    assert [found.path for found in join("mine", seed=np.int64(3))] == [record.path]
    refused(lambda: search(SMALL, 1, base=replace(own, dropout=0.5), name="mine"), "begun with another configuration")


@pytest.mark.parametrize("name", ["a#b ünïcode", "100%25{braces}", "q?mode=memory"])
def test_database_lies_with_the_records(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / name / "runs"))
    (record,) = search(SMALL, 1, base="MLP_4")
    assert [found.path for found in join()] == [record.path]
    assert (tmp_path / name / "runs" / "sample" / "search.sqlite").stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_interrupted_trial_is_the_next():
    search(SMALL, 1, base="MLP_4")
    with trials.open_study("search", "sample", 0, "") as study, ExitStack() as claim:
        study.add({"lr": 1e-3, "batch_size": 16}, read_sweep(SMALL), claim)
    search(SMALL, 2, base="MLP_4")
    assert drawn([find_record("search_2", "sample")], "lr") == [(1e-3,)]


def test_a_claimed_trial_is_left_to_its_process(runs_dir):
    search(SMALL, 1, base="MLP_4")
    with trials.open_study("search", "sample", 0, "") as study, ExitStack() as theirs, ExitStack() as ours:
        other = study.add({"lr": 1e-3, "batch_size": 16}, read_sweep(SMALL), theirs)
        assert study.claim(study.trials(), ours) is None
        theirs.close()  # as when their process ends
        assert study.claim(study.trials(), ours).number == other.number == 1
        study.end(other, 0.5)
        assert [trial.state.name for trial in study.trials()] == ["COMPLETE", "COMPLETE"]
    assert sorted(path.name for path in (runs_dir / "sample").glob(".search*")) == [".search.lock"]


def test_two_begin_at_once_with_different_configurations(monkeypatch):
    """Each reads and writes under one lock, so that the first one's configuration is kept."""
    together, outcomes, read = threading.Barrier(2), [], searching.read_sweep

    def read_together(*arguments):
        sweep = read(*arguments)
        if len(arguments) > 1:  # before the database is opened
            together.wait(20)
        return sweep

    monkeypatch.setattr(searching, "read_sweep", read_together)
    recorded = lambda self: [self.study.attributes["asked"]["config"]["parameters"]]  # noqa: E731
    monkeypatch.setattr(searching._Search, "work", recorded)

    def begin(parameters):
        try:
            outcomes.extend(search(config(method="grid", parameters=parameters), 1, base="MLP_4"))
        except UsageError as error:
            outcomes.append(str(error))

    asked = [{"lr": {"values": [1e-3, 1e-2]}}, {"lr": {"values": [1e-4]}}]
    threads = [threading.Thread(target=begin, args=(parameters,)) for parameters in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner, refusal = sorted(outcomes, key=lambda outcome: isinstance(outcome, str))
    assert winner in asked
    assert "'search' was begun with another configuration" in refusal
