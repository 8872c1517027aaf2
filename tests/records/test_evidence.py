"""The committed records: whole, made from committed code, and of the experiments that the table has."""

import re
from dataclasses import asdict, make_dataclass

import pytest

from coreFunction import data_identity, run
from deepnet.records import reading
from deepnet.records.reading import EVIDENCE, RESULTS_VERSION, Record, check_identity, find_openings, find_record
from experimentTable import TABLE, Experiment, UsageError, experiment

RECORDS = [Record(path.parent) for path in sorted(EVIDENCE.glob("*/*/seed-*/settings.json"))]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.profile}-{record.name}-{record.seed}")
def test_committed_record(record):
    if record.name in TABLE:  # a search's trials are named by the search
        check_identity(record, data_identity(experiment(record.name, record.profile, record.seed)))
    made = record.settings["provenance"]
    assert re.fullmatch("[0-9a-f]{40}", made["commit"])
    assert not made["dirty"]
    assert 1 <= made["results_version"] <= RESULTS_VERSION
    assert record.result["status"] in ("finished", "failed")
    files = {path.name for path in record.path.iterdir()}
    assert files == {"settings.json", "result.json", *record.result["sha256"]} - {"weights.pt"} | {"rows.jsonl"}
    assert record.rows is not None  # reading checks the digests
    if "predictions.npy" in files:
        labels, given = record.predictions()
        assert float(f"{(labels == given).mean():.4g}") == record.result["accuracy"]
    if record.settings["experiment"]["kind"] == "training":
        assert [row["epoch"] for row in record.rows] == list(range(record.result["last_epoch"] + 1))
        assert all(value is not None for row in record.rows for key, value in row.items() if key.endswith("accuracy"))


def test_openings():
    for profile in sorted({record.profile for record in RECORDS}):
        opened = find_openings(profile)
        doors = [(o["run"], o["classifier"], o["seed"]) for o in opened]
        assert len(doors) == len(set(doors))
        for o in opened:
            assert o["weights"] == find_record(o["run"], profile, o["seed"]).result["sha256"]["weights.pt"]


def test_new_field_of_an_experiment(monkeypatch):
    """Records made before a field was added have its default."""
    kind = make_dataclass("Later", [("warm_up", int, 0)], bases=(Experiment,), frozen=True)
    monkeypatch.setattr(Experiment, "warm_up", 0, raising=False)  # the table's rows have it then
    monkeypatch.setattr(reading, "Experiment", kind)
    for record in RECORDS:
        if record.name in TABLE:
            row = experiment(record.name, record.profile, record.seed)
            check_identity(record, data_identity(kind(**asdict(row))))
            if row.kind != "training":  # on which it has no effect
                continue
            with pytest.raises(UsageError, match=r"warm_up 0 there, 5 here"):
                check_identity(record, data_identity(kind(**asdict(row), warm_up=5)))


def test_older_version(monkeypatch):
    record = next(record for record in RECORDS if record.name == "MLP_4")
    made_with = record.settings["provenance"]["results_version"]
    monkeypatch.setattr(reading, "RESULTS_VERSION", made_with)
    assert "version" not in repr(Record(record.path))
    monkeypatch.setattr(reading, "RESULTS_VERSION", made_with + 1)
    older = Record(record.path).load()
    assert older.rows == record.rows
    assert repr(older).endswith(f", results of version {made_with} (now {made_with + 1})>")
    assert run(experiment("MLP_4", record.profile, record.seed)).result == record.result
