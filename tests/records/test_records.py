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

from deepnet.records.files import append_line, atomic, digest, rounded
from deepnet.records.folder import RunFolder
from deepnet.records.publish import publish
from deepnet.records.reading import Record, check_identity, find_openings, find_record, find_records

# ---------------------------------------------------------------- numbers


words = st.text(max_size=3)
numbers = st.integers() | st.floats(-1e300, 1e300) | st.sampled_from([math.nan, math.inf])
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner) | st.tuples(inner),
    max_leaves=8,
)


@given(values)
def test_rounded_is_json(value):
    found = rounded(value)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert rounded(found) == found


def test_rows(runs_dir):
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


def test_atomic(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with atomic(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_incomplete_last_row(runs_dir):
    record = written(runs_dir, finished=False)
    with (record.path / "rows.jsonl").open("a") as file:
        file.write('{"epoch": 2, "test_ac')
    assert [row["epoch"] for row in Record(record.path).rows] == [0, 1]


# ---------------------------------------------------------------- another run of that name


def test_other_identity(runs_dir):
    record = written(runs_dir)
    check_identity(record, {"lr": 0.1})
    message = refused(
        lambda: check_identity(record, {"lr": 0.2, "trainable": ("fc",)}),
        "holds another run named x",
        "lr 0.1 there, 0.2 here, trainable None there, ['fc'] here",
    )
    assert message.endswith("use another name, or move that folder away")


def test_fresh(runs_dir):
    for _ in range(3):  # within one second
        with RunFolder(EXPERIMENT, runs_dir) as folder:
            assert folder.start({"lr": 0.1}, PROVENANCE, fresh=True) is None
            folder.append({"epoch": 0})
    assert len(list((runs_dir / "sample" / "x").glob("seed-0*"))) == 3
    assert find_records("x", "sample") == []  # a folder that was moved aside is not found as a record


# ---------------------------------------------------------------- where records are found


def test_order_of_search(runs_dir, evidence):
    """Runs come before evidence, and finished before unfinished ones."""
    assert find_record("x", "sample") is None
    written(evidence, accuracy=0.1)
    assert find_record("x", "sample").result["accuracy"] == 0.1
    unfinished = written(runs_dir, finished=False)
    assert find_record("x", "sample").result["accuracy"] == 0.1
    assert find_record("x", "sample", evidence=False).path == unfinished.path
    written(runs_dir, accuracy=0.9)
    assert find_record("x", "sample").result["accuracy"] == 0.9


def test_without_evidence(evidence, monkeypatch):
    written(evidence)
    (evidence / "sample" / "openings.jsonl").write_text('{"time": "1"}\n')
    monkeypatch.setenv("EVIDENCE", "0")
    assert find_record("x", "sample") is None
    assert find_records("x", "sample") == find_openings("sample") == []
    assert find_openings("sample", evidence=True) == [{"time": "1"}]


def test_records_of_all_seeds(runs_dir, evidence):
    written(evidence, seed=2)
    written(runs_dir, seed=10)
    written(runs_dir, seed=0)
    written(runs_dir, seed=1, finished=False)
    written(runs_dir, seed=3, status="failed")
    assert [record.seed for record in find_records("x", "sample")] == [0, 2, 10]
    assert [record.seed for record in find_records("x", "sample", failed=True)] == [0, 2, 3, 10]


def test_openings_come_once_each_oldest_first(runs_dir, evidence):
    first, second = ({"time": f"2026-01-0{day}T00:00:00Z", "run": "dropout"} for day in (1, 2))
    for root, lines in ((runs_dir, (second,)), (evidence, (second, first))):
        append_line(root / "sample" / "openings.jsonl", *lines)
    assert find_openings("sample") == [first, second]


@pytest.mark.parametrize("last", [b"", b'{"time": "2", "accu', b"\xc3", b'{"time": "2"}'])
def test_append_after_a_kill(tmp_path, last):
    """An incomplete last line is cut off before the next; one that only lacks its newline is kept."""
    path = tmp_path / "rows.jsonl"
    append_line(path, {"time": "1"})
    path.write_bytes(path.read_bytes() + last)
    append_line(path, {"time": "3"}, {"time": "4"})
    times = [json.loads(line)["time"] for line in path.read_text().splitlines()]
    assert times == ["1", *["2"] * last.endswith(b"}"), "3", "4"]


def test_damaged_log_of_openings(runs_dir):
    """Its remedy costs no record."""
    log = runs_dir / "sample" / "openings.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"time": "1"}\n{"time": "2", \n')
    message = refused(lambda: find_openings("sample"), str(log), "repair it by hand", "keep the others")
    assert "remove" not in message


# ---------------------------------------------------------------- changed, damaged, hostile


@pytest.mark.parametrize("file", ["settings.json", "rows.jsonl", "predictions.npy"])
@pytest.mark.parametrize("how", ["changed", "removed"])
def test_files_that_the_result_does_not_name(runs_dir, file, how):
    record = written(runs_dir)
    path = record.path / file
    content = path.read_bytes()
    path.unlink() if how == "removed" else path.write_bytes(content[:-2] + b" " + content[-1:])
    named = f"{file} is not the file that its result.json names"
    refused(lambda: Record(record.path).load(), named, f"restore it or remove {record.path}")
    if file != "settings.json":
        refused(lambda: publish(Record(record.path)), named)


def test_points(runs_dir):
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        folder.start({"lr": 0.1}, PROVENANCE)
        folder.save_array("points.npz", xy=np.zeros((3, 2), np.float16), label=np.arange(3))
        record = folder.finish({"status": "finished"})
    assert record.points()["label"].tolist() == [0, 1, 2]
    np.savez_compressed(record.path / "points.npz", xy=np.ones((3, 2)))
    refused(Record(record.path).points, "points.npz is not the file")


def test_weights_are_checked_by_their_numbers(runs_dir):
    record = written(runs_dir)
    assert same(record.weights(), WEIGHTS)
    torch.save({"w": WEIGHTS["w"].clone()}, record.path / "weights.pt")  # the same numbers in another file
    assert same(Record(record.path).weights(), WEIGHTS)
    torch.save({"w": WEIGHTS["w"] + 1e-6}, record.path / "weights.pt")
    refused(Record(record.path).weights, "holds other weights than its result.json names", "remove")


def test_digest():
    """Names, numbers, shapes and types make different digests."""
    tensors = torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 3).double(), torch.ones(2, 3)
    states = [{"w": tensor} for tensor in tensors] + [{"v": tensors[0]}]
    assert len({digest(state) for state in states}) == len(states)
    assert digest({"w": torch.zeros(2, 3)}) == digest(states[0])


def flip_a_bit(path):
    torch.save({"epoch": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BAD_FILES = {
    "hostile pickle": lambda path, mark: path.write_bytes(pickle.dumps(Hostile(mark))),
    "hostile archive": lambda path, mark: torch.save({"epoch": 0, "model": Hostile(mark)}, path),
    "no archive": lambda path, mark: path.write_bytes(b"no checkpoint" * 100),
    "one bit": lambda path, mark: flip_a_bit(path),
}


@pytest.mark.parametrize("damage", BAD_FILES.values(), ids=BAD_FILES)
def test_damaged_or_hostile_tensors(runs_dir, tmp_path, damage):
    record = written(runs_dir, finished=False)
    path, mark = record.path / "checkpoint.pt", tmp_path / "executed"
    path.unlink()
    damage(path, mark)
    with RunFolder(EXPERIMENT, runs_dir) as folder:
        remedy = "remove it to start this run again"
        refused(lambda: folder.start({"lr": 0.1}, PROVENANCE), f"{path} cannot be read", remedy)
    assert not mark.exists()


def test_hostile_predictions(runs_dir, tmp_path):
    record = written(runs_dir, finished=False)
    mark = tmp_path / "executed"
    np.save(record.path / "predictions.npy", np.array([Hostile(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        record.predictions()
    assert not mark.exists()


# ---------------------------------------------------------------- evidence


def test_publish(runs_dir, evidence):
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
def test_publish_refuses(runs_dir, evidence, options, words):
    refused(lambda: publish(written(runs_dir, **options)), *words)
    assert not evidence.exists()
