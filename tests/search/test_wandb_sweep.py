"""A search whose trials W&B draws, without W&B's server.

W&B's own agent code sets up each trial and calls it in its thread; the values come from here instead of the server.
"""

import os
import threading

import pytest
from helpers import refused
from offline import exit_code, flat, history, name_of, offline_runs, summary
from test_search import SMALL

import coreFunction
from coreFunction import join, search
from deepnet.records.reading import find_record
from deepnet.search import searching
from deepnet.search.sweep import REPORT_SWEEP

wandb = pytest.importorskip("wandb", reason="wandb is not installed")
pytestmark = pytest.mark.usefixtures("account", "tiny")
DRAWN = [{"lr": 0.09, "batch_size": 16}, {"lr": 0.001, "batch_size": 32}, {"lr": 0.02, "batch_size": 16}]


class Server:
    """In place of W&B's server: the sweeps that were made, the agents that asked, the values for the next trials."""

    def __init__(self, monkeypatch) -> None:
        self.sweeps, self.agents, self.values = [], [], list(DRAWN)
        monkeypatch.setenv("WANDB_MODE", "offline")  # of the runs; the search takes W&B for reachable
        monkeypatch.setattr(searching, "wandb_mode", lambda: "online")
        monkeypatch.setattr(wandb, "Api", object)  # would ask the server who we are
        monkeypatch.setattr(wandb, "sweep", self.sweep)
        monkeypatch.setattr(wandb, "agent", self.agent)

    def sweep(self, config, project):
        self.sweeps.append((config, project))
        return "sweep123"

    def agent(self, sweep, function, project, count):
        from wandb.agents.pyagent import Agent, Job

        self.agents.append((sweep, project, count))
        if not self.values:
            return
        agent = Agent.__new__(Agent)  # its __init__ asks the server
        agent._function, agent._sweep_id, agent._api_lock = function, sweep, threading.Lock()
        agent._init()
        wandb.env.set_project(project)
        run_id = f"trial{len(self.agents)}"
        values = {key: {"value": value} for key, value in self.values.pop(0).items()}
        agent._run_status[run_id], agent._run_done[run_id] = "RUNNING", threading.Event()
        thread = threading.Thread(target=agent._run_job, args=(Job({"type": "run", "run_id": run_id, "args": values}),))
        agent._run_threads[run_id] = thread
        thread.start()
        thread.join()
        assert not agent._exceptions


@pytest.fixture
def server(monkeypatch):
    return Server(monkeypatch)


def test_trials_are_written_to_the_agents_runs(server, runs_dir, capfd):
    records = search(SMALL, 3, base="MLP_4")
    out, err = capfd.readouterr()
    assert server.sweeps == [({"name": "search"} | SMALL, "cnn-and-deep-network")]
    assert server.agents == [("sweep123", "cnn-and-deep-network", 1)] * 3
    losses = [min(record.column("train_loss", trained_only=True)) for record in records]
    assert losses == sorted(losses)
    runs = offline_runs(runs_dir)
    assert len(runs) == 3
    for number, (values, lines) in enumerate(zip(DRAWN, runs, strict=True), start=1):
        record = find_record(f"search_{number}", "sample")
        assert record.finished
        assert {key: record.settings["identity"][key] for key in values} == values
        opened = [line["run"] for line in lines if line["type"] == "run"]
        assert {run["run_id"] for run in opened} == {f"trial{number}"}
        assert {run.get("sweep_id") for run in opened} == {"sweep123"}
        assert opened[-1]["display_name"] == f"search_{number}-seed0"
        place = ["cnn-and-deep-network", "chapter 3", ["sample"]]
        assert [opened[-1][key] for key in ("project", "run_group", "tags")] == place
        assert configuration(lines).items() >= (record.settings["identity"] | {"seed": 0, "profile": "sample"}).items()
        assert history(lines) == [flat(row) for row in record.rows]
        assert summary(lines)["train_loss"] == min(record.column("train_loss", trained_only=True))
        assert exit_code(lines) == 0
    assert "locked" not in out + err  # no warning that what the sweep has set cannot be set again
    assert not {"WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"} & os.environ.keys()


def configuration(lines):
    """What a run's config holds in the end."""
    values = {}
    for line in lines:
        values |= line.get("config", {}).get("update", {}) | line.get("run", {}).get("config", {}).get("update", {})
    return values


def test_resume_after_stop(server, runs_dir, monkeypatch):
    """As by Ctrl-C, which W&B's agent keeps to itself and answers with an Exception in the trial's thread."""

    def stop(*_, **__):
        raise Exception

    with monkeypatch.context() as patch:
        patch.setattr(coreFunction, "evaluate", stop)
        refused(lambda: search(SMALL, 2, base="MLP_4"), "W&B's agent was stopped", "the same call resumes")
    begun = find_record("search_1", "sample")
    assert not begun.result
    records = search(SMALL, 2, base="MLP_4")
    assert sorted(record.name for record in records) == ["search_1", "search_2"]
    assert find_record("search_1", "sample").settings["identity"] == begun.settings["identity"]
    assert [find_record(f"search_{k}", "sample").settings["identity"]["lr"] for k in (1, 2)] == [0.09, 0.001]
    assert len(server.sweeps) == 1
    # one of them for the trial that was stopped, which the second call resumes without an agent
    assert len(server.agents) == 2
    stopped, alone, second = offline_runs(runs_dir)
    assert [exit_code(lines) for lines in (stopped, alone, second)] == [1, 0, 0]
    assert (history(stopped), name_of(alone)) == ([], "search_1-seed0")
    assert [len(history(lines)) for lines in (alone, second)] == [3, 3]


def test_failed_trial_is_passed_over(server, runs_dir):
    server.values = [{"lr": 1e38}, {"lr": 1e-3}]
    grid = SMALL | {"method": "grid", "parameters": {"lr": {"values": [1e38, 1e-3]}}}
    assert [record.name for record in search(grid, 9, base="MLP_4")] == ["search_2"]
    assert [exit_code(lines) for lines in offline_runs(runs_dir)] == [1, 0]


def test_sweep_without_more_trials(server, runs_dir, monkeypatch):
    refused(lambda: search(SMALL, 4, base="MLP_4"), "sweep123 gives no more trials")
    monkeypatch.setattr(searching, "wandb_mode", lambda: "offline")
    assert len(join()) == 4
    assert [len(history(lines)) for lines in offline_runs(runs_dir)] == [3] * 4


def test_parent_is_trained_before_an_agent_is_asked(server, runs_dir):
    """Within an agent every wandb.init means the trial's run."""
    server.values = [{"lr": 1e-3, "batch_size": 16}]
    assert [record.name for record in search(REPORT_SWEEP, 1)] == ["search_1"]
    parent, trial = offline_runs(runs_dir)
    assert name_of(parent) == "train_resnet-seed0"
    assert not [line for line in parent if line.get("run", {}).get("sweep_id")]
    assert len(history(trial)) == len(find_record("search_1", "sample").rows)


def test_wandb_accepts_the_report_sweep():
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution as validated

    assert validated({"name": "search"} | REPORT_SWEEP) == {"name": "search"} | REPORT_SWEEP


def test_wandb_makes_no_sweep(monkeypatch, runs_dir):
    monkeypatch.setattr(searching, "wandb_mode", lambda: "online")
    monkeypatch.setenv("WANDB_API_KEY", "nonsense")
    refused(lambda: search(SMALL, 1, base="MLP_4"), "W&B creates no sweep (", "WANDB_MODE=offline")
    assert not list(runs_dir.rglob("settings.json"))
