"""The queue of evidence: what is missing, in which order, and that working it off publishes what has ended."""

import json

import pytest
from helpers import lend

import run
from deepnet.claims.ledger import RULES
from deepnet.records import reading
from deepnet.runs import evidence as queue
from deepnet.runs.evidence import missing_evidence, runs_of, seconds_of
from experimentTable import EXPERIMENTS, experiment


def test_rules_name_their_runs():
    assert runs_of("3b", "cpu") == ["MLP_4", "MLP_23", "MLP_13"]
    assert {name for claim in RULES for name in runs_of(claim, "cpu")} <= EXPERIMENTS.keys()


def test_cheapest_claims_come_first_and_parents_before_children():
    queue = missing_evidence("cpu", 2)
    runs = [(m.exp.name, m.exp.seed) for m in queue]
    assert len(set(runs)) == len(runs)
    claims = list(dict.fromkeys(m.claim for m in queue))
    prices = [sum(m.seconds for m in queue if m.claim == claim) for claim in claims]
    assert prices[0] <= prices[-1]
    assert runs.index(("train_resnet", 1)) < runs.index(("fine_tune_1", 1)) < runs.index(("fine_tune_2", 1))
    assert all(
        not reading.find_record(name, "cpu", seed) or m.published for m, (name, seed) in zip(queue, runs, strict=True)
    )


def test_order_knows_no_outcome(monkeypatch):
    before = missing_evidence("cpu", 2)
    monkeypatch.setattr(reading.Record, "predictions", lambda self: pytest.fail("an outcome was looked at"))
    assert missing_evidence("cpu", 2) == before


def test_estimates_come_from_other_seeds_or_the_table():
    assert seconds_of(experiment("MLP_res_96", "cpu")) == 24000  # it has no record there
    took = [
        sum(row.get("train_seconds", 0.0) for row in record.rows) for record in reading.find_records("MLP_13", "cpu")
    ]
    assert min(took) < seconds_of(experiment("MLP_13", "cpu", 99)) < 1.2 * max(took) + 61


@pytest.fixture
def published(made, evidence, monkeypatch, runs_dir, tiny):
    """One claim waits for MLP_4, which has a record, and for MLP_13; the names of the records that are published."""
    names = []
    monkeypatch.setattr(queue, "RULES", {"3x": None})
    monkeypatch.setattr(queue, "runs_of", lambda claim, profile: ["MLP_4", "MLP_13"])
    monkeypatch.setattr(run, "publish_record", lambda record: names.append(record.name) or record.path)
    lend(made, runs_dir, "MLP_4")
    return names


def test_working_it_off_publishes_what_has_ended(published, call):
    status, out, _ = call("evidence", "--count", "1", "--json")
    assert status == 0 and [row["name"] for row in json.loads(out)] == ["MLP_13"]
    assert call("evidence", "--count", "1", "--minutes", "5")[0] == 0
    assert published == ["MLP_13"]
    assert call("evidence", "--count", "1")[1].startswith("profile sample: 0 runs missing for 1 seed of each claim")


def test_an_interrupted_run_is_published_once_it_has_ended(published, runs_dir, call):
    for file in ("result.json", "weights.pt", "predictions.npy"):
        (runs_dir / "sample" / "MLP_4" / "seed-0" / file).unlink(missing_ok=True)
    assert "again" not in call("evidence", "--count", "1")[1]
    assert call("evidence", "--count", "1", "--minutes", "5")[0] == 0
    assert sorted(published) == ["MLP_13", "MLP_4"]
