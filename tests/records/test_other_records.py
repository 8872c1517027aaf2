"""Files of another run, and valid files of another shape, in a record: refused in one line."""

import numpy as np
import pytest
from helpers import refused
from small_records import EXPERIMENT, PROVENANCE, written

from deepnet.records.folder import RunFolder
from deepnet.records.reading import Record


@pytest.mark.parametrize("files", [
    ["settings.json"], ["result.json"], ["rows.jsonl"], ["predictions.npy"], ["result.json", "rows.jsonl", "predictions.npy"],
    ["settings.json", "result.json", "rows.jsonl", "predictions.npy", "weights.pt"],
], ids=" ".join)  # fmt: skip
def test_a_finished_record_with_files_of_another_seed_is_refused(runs_dir, files):
    record, other = (written(runs_dir, seed=seed, accuracy=0.5 + seed / 10).path for seed in (0, 1))
    np.save(other / "predictions.npy", np.array([[1, 1], [1, 1]], np.uint8))
    for file in files:
        (record / file).write_bytes((other / file).read_bytes())

    def read():
        found = Record(record)
        return found.settings, found.result, found.rows, found.predictions()

    refused(read, str(record), "restore it or remove")


@pytest.mark.parametrize("swap", [
    lambda rows: [rows[1], rows[0]],
    lambda rows: [rows[0], rows[1].replace("0.5", "0.6")],
    lambda rows: [rows[0], '{"epoch": 7}\n'],
], ids=["order", "a number", "another row"])  # fmt: skip
def test_an_unfinished_run_with_other_rows_is_not_gone_on_with(runs_dir, swap):
    rows = written(runs_dir, finished=False).path / "rows.jsonl"
    rows.write_text("".join(swap(rows.read_text().splitlines(keepends=True))))
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        refused(
            lambda: folder.start({"lr": 0.1}, PROVENANCE), "has other rows than those before its checkpoint", "remove"
        )


def test_an_unfinished_run_with_another_seed_s_checkpoint_is_not_gone_on_with(runs_dir):
    path, other = (written(runs_dir, seed=seed, finished=False).path for seed in (0, 1))
    (path / "checkpoint.pt").write_bytes((other / "checkpoint.pt").read_bytes())
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        refused(lambda: folder.start({"lr": 0.1}, PROVENANCE), "no checkpoint of this run", "it is that of x sample 1")


@pytest.mark.parametrize(("file", "text", "what"), [
    ("settings.json", "{}", "no 'experiment'"),
    ("settings.json", '{"experiment": 3}', "'experiment' is 3"),
    ("result.json", "{}", "no 'status'"),
    ("result.json", '{"status": "finished"}', "no 'sha256'"),
    ("result.json", '{"status": "finished", "sha256": 3}', "'sha256' is 3"),
    ("result.json", '{"status": "failed", "sha256": {}}', "no 'reason'"),
])  # fmt: skip
def test_json_of_another_shape_is_said_in_one_line(runs_dir, file, text, what):
    record = written(runs_dir).path
    (record / file).write_text(text)
    refused(lambda: (Record(record).settings, Record(record).result), file, what, "remove the folder")


@pytest.mark.parametrize("row", ["5", "[]", "null"])
def test_a_row_that_is_none_is_said_in_one_line(runs_dir, row):
    record = written(runs_dir, finished=False).path
    with (record / "rows.jsonl").open("a") as file:
        file.write(f"{row}\n")
    refused(lambda: Record(record).rows, "rows.jsonl is damaged (not an object)")


def test_a_result_that_vouches_for_nothing_is_no_result(runs_dir):
    record = written(runs_dir).path
    (record / "result.json").write_text('{"status": "finished", "sha256": {}}')
    refused(lambda: Record(record).rows, "rows.jsonl", "restore it or remove")
