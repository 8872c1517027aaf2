"""Files of another run, and files that are valid but have other contents than a record's: refused in one line."""

import numpy as np
import pytest
from helpers import refused
from small_records import EXPERIMENT, PROVENANCE, written

from deepnet.records.folder import RunFolder
from deepnet.records.reading import Record


@pytest.mark.parametrize("files", [
    "settings.json", "result.json", "rows.jsonl", "predictions.npy", "result.json rows.jsonl predictions.npy",
    "settings.json result.json rows.jsonl predictions.npy weights.pt",
])  # fmt: skip
def test_finished_record_with_files_of_another_seed(runs_dir, files):
    record, other = (written(runs_dir, seed=seed, accuracy=0.5 + seed / 10).path for seed in (0, 1))
    np.save(other / "predictions.npy", np.array([[1, 1], [1, 1]], np.uint8))
    for file in files.split():
        (record / file).write_bytes((other / file).read_bytes())

    def read():
        found = Record(record)
        return found.settings, found.result, found.rows, found.predictions()

    refused(read, str(record), "restore it or remove")


@pytest.mark.parametrize("change", [
    lambda rows: [rows[1], rows[0]],
    lambda rows: [rows[0], rows[1].replace("0.5", "0.6")],
    lambda rows: [rows[0]],
], ids=["order", "a number", "too few"])  # fmt: skip
def test_unfinished_run_with_other_rows(runs_dir, change):
    rows = written(runs_dir, finished=False).path / "rows.jsonl"
    rows.write_text("".join(change(rows.read_text().splitlines(keepends=True))))
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        refused(lambda: folder.start({"lr": 0.1}, PROVENANCE), "does not have the rows of its checkpoint; remove")


def test_unfinished_run_with_the_checkpoint_of_another_seed(runs_dir):
    path, other = (written(runs_dir, seed=seed, finished=False).path for seed in (0, 1))
    (path / "checkpoint.pt").write_bytes((other / "checkpoint.pt").read_bytes())
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        refused(lambda: folder.start({"lr": 0.1}, PROVENANCE), "is not of this run", "it belongs to x sample 1")


@pytest.mark.parametrize(("file", "text", "what"), [
    ("settings.json", "{}", "no 'experiment'"),
    ("settings.json", '{"experiment": 3}', "'experiment' is 3"),
    ("result.json", '{"status": "finished"}', "no 'sha256'"),
    ("result.json", '{"status": "failed", "sha256": {}}', "no 'reason'"),
    ("rows.jsonl", '{"epoch": 0}\n{"epo\n{"epoch": 2}\n', ""),
    ("rows.jsonl", "[]\n", "not an object"),
    *[("settings.json", text, "") for text in ("", "null", b"\xff\xfe\x00")],
])  # fmt: skip
def test_damaged_json(runs_dir, file, text, what):
    record = written(runs_dir, finished=False).path
    (record / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    remedy = f"remove the folder {record} to run it again"
    refused(lambda: Record(record).load(), f"{record / file} is damaged (", what, remedy)


def test_result_without_hashes(runs_dir):
    record = written(runs_dir).path
    (record / "result.json").write_text('{"status": "finished", "sha256": {}}')
    refused(lambda: Record(record).rows, "rows.jsonl", "restore it or remove")
