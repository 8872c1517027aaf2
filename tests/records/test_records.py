"""Records: written whole or not at all, found in order, refused where they were changed, and never a program."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from helpers import refused, same
from hypothesis import given
from hypothesis import strategies as st
from small_records import EXPERIMENT, PROVENANCE, WEIGHTS, Hostile, written

from deepnet.records import reading
from deepnet.records.files import append_line, atomic, digest, load_tensors, rounded
from deepnet.records.folder import RunFolder
from deepnet.records.publish import publish
from deepnet.records.reading import Record, check_identity, find_openings, find_record, find_records


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    """An evidence folder of the test's own."""
    monkeypatch.setattr(reading, "EVIDENCE", tmp_path / "evidence")
    return tmp_path / "evidence"


# ---------------------------------------------------------------- numbers


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(-1e300, 1e300)
    | st.sampled_from([math.nan, math.inf])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)


@given(values)
def test_whatever_is_rounded_is_json_and_comes_back_the_same(value):
    found = rounded(value)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert rounded(found) == found


@given(st.floats(-1e300, 1e300))
def test_floats_keep_four_digits(number):
    assert rounded(number) == pytest.approx(number, rel=5.1e-4, abs=5e-324)
    assert len(str(rounded(number)).split("e")[0].replace(".", "").strip("-0")) <= 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.123456, 0.1235), (123456.0, 123500.0), (1e-30, 1e-30), (math.nan, None), (math.inf, None), (-math.inf, None),
     (123456, 123456), (True, True), ({"a": [math.nan, (1.00004,)]}, {"a": [None, [1.0]]})],
)  # fmt: skip
def test_rounding_by_example(value, expected):
    assert rounded(value) == expected


def test_rows_come_back_as_they_were_given_and_nan_as_missing(runs_dir):
    record = written(runs_dir, accuracy=0.87654321)
    assert record.rows == [
        {"epoch": 0, "test_accuracy": 0.1},
        {"epoch": 1, "test_accuracy": 0.8765, "train_loss": None},
    ]
    np.testing.assert_array_equal(record.column("test_accuracy"), [0.1, 0.8765])
    np.testing.assert_array_equal(record.column("train_loss"), [np.nan, np.nan])
    np.testing.assert_array_equal(record.column("test_accuracy", trained_only=True), [0.8765])
    assert (record.name, record.profile, record.seed) == ("x", "sample", 0)
    assert "test accuracy 0.8765" in repr(record)


# ---------------------------------------------------------------- written whole or not at all


def test_a_file_is_replaced_only_when_its_writing_has_ended(tmp_path):
    path = tmp_path / "file"
    with atomic(path) as part:
        part.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with atomic(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_torn_last_row_is_left_out(runs_dir):
    record = written(runs_dir, finished=False)
    with (record.path / "rows.jsonl").open("a") as file:
        file.write('{"epoch": 2, "test_ac')
    assert [row["epoch"] for row in Record(record.path).rows] == [0, 1]


def test_a_finished_run_has_no_checkpoint_left(runs_dir):
    assert (written(runs_dir, finished=False).path / "checkpoint.pt").exists()
    assert not (written(runs_dir).path / "checkpoint.pt").exists()


# ---------------------------------------------------------------- another run of that name


def test_another_identity_is_refused_with_what_differs_and_the_way_on(runs_dir):
    record = written(runs_dir)
    check_identity(record, {"lr": 0.1})
    message = refused(
        lambda: check_identity(record, {"lr": 0.2, "trainable": ("fc",)}),
        "holds another run named x",
        "lr 0.1 there, 0.2 here",
    )
    assert "trainable None there, ['fc'] here" in message
    assert message.endswith("use another name, or move that folder away")
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        refused(lambda: folder.start({"lr": 0.2}, PROVENANCE), "lr 0.1 there, 0.2 here")


def test_tuples_are_the_lists_that_json_makes_of_them(runs_dir):
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"trainable": ("fc",)}, PROVENANCE)
    check_identity(Record(folder.path), {"trainable": ("fc",)})


def test_fresh_moves_what_is_there_aside_each_time(runs_dir):
    for _ in range(3):  # within one second
        with RunFolder(EXPERIMENT, runs_dir) as folder:
            assert folder.start({"lr": 0.1}, PROVENANCE, fresh=True) is None
            folder.append({"epoch": 0})
    assert len(list((runs_dir / "sample" / "x").glob("seed-0*"))) == 3
    assert find_records("x", "sample") == []  # what was moved aside is no record any more


# ---------------------------------------------------------------- where records are found


def test_runs_come_before_evidence_and_finished_before_unfinished(runs_dir, evidence, monkeypatch):
    assert find_record("x", "sample") is None
    written(evidence, accuracy=0.1)
    assert find_record("x", "sample").result["accuracy"] == 0.1
    unfinished = written(runs_dir, finished=False)
    assert find_record("x", "sample").result["accuracy"] == 0.1
    assert find_record("x", "sample", evidence=False).path == unfinished.path
    written(runs_dir, accuracy=0.9)
    assert find_record("x", "sample").result["accuracy"] == 0.9


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_evidence_can_be_left_aside(evidence, monkeypatch, by):
    written(evidence)
    (evidence / "sample" / "openings.jsonl").write_text('{"time": "1"}\n')
    if by == "environment":
        monkeypatch.setenv("EVIDENCE", "0")
    arguments = {"evidence": False} if by == "argument" else {}
    assert find_record("x", "sample", **arguments) is None
    assert find_records("x", "sample", **arguments) == []
    assert find_openings("sample", **arguments) == []


def test_records_of_all_seeds_come_by_seed_from_both_places(runs_dir, evidence):
    written(evidence, seed=2)
    written(runs_dir, seed=10)
    written(runs_dir, seed=0)
    written(runs_dir, seed=1, finished=False)
    written(runs_dir, seed=3, status="failed")
    assert [record.seed for record in find_records("x", "sample")] == [0, 2, 10]


def test_openings_of_both_places_come_once_each_oldest_first(runs_dir, evidence):
    one, two = {"time": "2026-01-01T00:00:00Z", "run": "dropout"}, {"time": "2026-01-02T00:00:00Z", "run": "baseline"}
    for root, lines in ((runs_dir, (two,)), (evidence, (two, one))):
        for line in lines:
            append_line(root / "sample" / "openings.jsonl", line)
    assert find_openings("sample") == [one, two]


@pytest.mark.parametrize("torn", [b"", b'{"time": "2", "accu', b"{", b"\xc3"])
def test_a_line_that_a_kill_tore_is_cut_off_before_the_next_one(tmp_path, torn):
    path = tmp_path / "rows.jsonl"
    append_line(path, {"time": "1"})
    path.write_bytes(path.read_bytes() + torn)
    append_line(path, {"time": "3"}, {"time": "4"})
    assert path.read_text() == '{"time": "1"}\n{"time": "3"}\n{"time": "4"}\n'


def test_a_line_that_lacks_its_newline_alone_is_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"time": "1"}\n{"time": "2"}')
    append_line(path, {"time": "3"})
    assert path.read_text() == '{"time": "1"}\n{"time": "2"}\n{"time": "3"}\n'


def test_a_damaged_log_of_openings_has_a_remedy_that_costs_no_record(runs_dir):
    log = runs_dir / "sample" / "openings.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"time": "1"}\n{"time": "2", \n')
    message = refused(lambda: find_openings("sample"), str(log), "mend that line by hand", "keep the others")
    assert "remove" not in message


def test_openings_are_read_from_both_places_where_that_is_asked_for(runs_dir, evidence, monkeypatch):
    append_line(evidence / "sample" / "openings.jsonl", {"time": "1"})
    monkeypatch.setenv("EVIDENCE", "0")
    assert find_openings("sample", evidence=True) == [{"time": "1"}]


# ---------------------------------------------------------------- changed, damaged, hostile


@pytest.mark.parametrize(
    ("file", "read"),
    [("rows.jsonl", lambda record: record.rows), ("predictions.npy", Record.predictions)],
)
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_files_that_the_result_does_not_name_are_refused(runs_dir, file, read, how):
    record = written(runs_dir)
    read(Record(record.path))
    path = record.path / file
    if how == "changed":
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    refused(
        lambda: read(Record(record.path)), f"{file} is not the file that its result.json names", f"remove {record.path}"
    )
    refused(lambda: publish(Record(record.path)), file)


def test_points_that_were_changed_are_refused(runs_dir):
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE)
        folder.save_array("points.npz", xy=np.zeros((3, 2), np.float16), label=np.arange(3))
        record = folder.finish({"status": "finished"})
    assert record.points()["label"].tolist() == [0, 1, 2]
    np.savez_compressed(record.path / "points.npz", xy=np.ones((3, 2)))
    refused(Record(record.path).points, "points.npz is not the file")


def test_weights_are_known_by_their_numbers_not_by_their_file(runs_dir):
    record = written(runs_dir)
    assert same(record.weights(), WEIGHTS)
    torch.save({"w": WEIGHTS["w"].clone()}, record.path / "weights.pt")  # the same numbers in another file
    assert same(Record(record.path).weights(), WEIGHTS)
    torch.save({"w": WEIGHTS["w"] + 1e-6}, record.path / "weights.pt")
    refused(Record(record.path).weights, "holds other weights than its result.json names", "remove")


@given(st.sampled_from(["w", "v"]), st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3))
def test_a_digest_tells_names_and_numbers_apart(name, numbers):
    known, other = {"w": torch.tensor([1.0, 2.0])}, {name: torch.tensor(numbers)}
    assert (digest(known) == digest(other)) == (name == "w" and numbers == [1.0, 2.0])
    assert (
        digest({"w": torch.zeros(2, 3)})
        != digest({"w": torch.zeros(3, 2)})
        != digest({"w": torch.zeros(2, 3).double()})
    )


BAD_FILES = {
    "hostile pickle": lambda path, mark: path.write_bytes(pickle.dumps(Hostile(mark))),
    "hostile archive": lambda path, mark: torch.save({"epoch": 0, "model": Hostile(mark)}, path),
    "empty": lambda path, mark: path.write_bytes(b""),
    "no archive": lambda path, mark: path.write_bytes(b"no checkpoint" * 100),
    "cut off": lambda path, mark: (
        torch.save({"epoch": torch.zeros(1000)}, path),
        path.write_bytes(path.read_bytes()[:700]),
    ),
    "a folder": lambda path, mark: path.mkdir(),
}


@pytest.mark.parametrize("damage", BAD_FILES.values(), ids=BAD_FILES)
def test_a_damaged_or_hostile_file_of_tensors_executes_nothing(runs_dir, tmp_path, damage):
    record = written(runs_dir, finished=False)
    path, mark = record.path / "checkpoint.pt", tmp_path / "executed"
    path.unlink()
    damage(path, mark)
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        refused(
            lambda: folder.start({"lr": 0.1}, PROVENANCE), f"{path} cannot be read", "remove it to start this run again"
        )
    refused(lambda: load_tensors(path), "cannot be read")
    assert not mark.exists()


def test_a_hostile_file_of_predictions_executes_nothing(runs_dir, tmp_path):
    record = written(runs_dir, finished=False)
    mark = tmp_path / "executed"
    np.save(record.path / "predictions.npy", np.array([Hostile(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        record.predictions()
    assert not mark.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": NaN', b"\xff\xfe\x00"])
@pytest.mark.parametrize(
    ("file", "read"), [("settings.json", lambda record: record.settings), ("result.json", lambda record: record.result)]
)
def test_damaged_json_is_said_in_one_line(runs_dir, file, read, text):
    record = written(runs_dir)
    (record.path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(
        lambda: read(Record(record.path)),
        f"{record.path / file} is damaged",
        f"remove the folder {record.path} to run it again",
    )


def test_a_damaged_row_of_an_unfinished_run_is_said_in_one_line(runs_dir):
    record = written(runs_dir, finished=False)
    (record.path / "rows.jsonl").write_text('{"epoch": 0}\n{"epo\n{"epoch": 2}\n')
    refused(lambda: Record(record.path).rows, f"{record.path / 'rows.jsonl'} is damaged", "remove the folder")


# ---------------------------------------------------------------- evidence


def test_published_is_the_record_without_weights(runs_dir, evidence):
    record = written(runs_dir)
    (record.path / ".hidden").touch()
    target = publish(record)
    assert target == evidence / "sample" / "x" / "seed-0"
    assert {path.name for path in target.iterdir()} == {"settings.json", "rows.jsonl", "result.json", "predictions.npy"}
    published = Record(target)
    assert (published.rows, published.result) == (record.rows, record.result)
    assert published.predictions().tolist() == record.predictions().tolist()
    refused(published.weights, "has no weights", "keep_weights=True")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dirty": True}, ("made from uncommitted code", "commit, and train it with --fresh")),
        ({"commit": None}, ("made from uncommitted code",)),
        ({"finished": False}, ("x (seed 0) is not finished", "train it first")),
    ],
)
def test_what_cannot_be_traced_is_no_evidence(runs_dir, evidence, options, words):
    refused(lambda: publish(written(runs_dir, **options)), *words)
    assert not evidence.exists()
