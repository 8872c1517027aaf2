"""The committed records: whole, made from committed code, and of the experiments that the table has."""

import re

import pytest

from coreFunction import data_identity
from experimentTable import EXPERIMENTS, experiment
from recordFunction import EVIDENCE, RESULTS_VERSION, Record, check_identity, find_openings, find_record

RECORDS = [Record(path.parent) for path in sorted(EVIDENCE.glob("*/*/seed-*/settings.json"))]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.profile}-{record.name}-{record.seed}")
def test_a_committed_record_is_whole_and_of_its_row(record):
    if record.name in EXPERIMENTS:  # a search's trials are named by the search
        check_identity(record, data_identity(experiment(record.name, record.profile, record.seed)))
    made = record.settings["provenance"]
    assert re.fullmatch("[0-9a-f]{40}", made["commit"])
    assert not made["dirty"]
    assert made["results_version"] == RESULTS_VERSION
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


def test_the_test_set_was_opened_once_for_each_run_and_for_the_weights_that_its_record_is_of():
    for profile in sorted({record.profile for record in RECORDS}):
        opened = find_openings(profile)
        doors = [(o["run"], o["classifier"], o["seed"]) for o in opened]
        assert len(doors) == len(set(doors))
        for o in opened:
            assert o["weights"] == find_record(o["run"], profile, o["seed"]).result["sha256"]["weights.pt"]
