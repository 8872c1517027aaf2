"""The table of how time and memory grow: its exponents, its lines and the copies of records that it measures with."""

from benchmarks.scaling import copies_of_records, exponent, line
from deepnet.records.reading import EVIDENCE, find_records


def test_an_exponent_is_the_slope_of_the_logarithms():
    assert exponent([1, 2, 4], [3.0, 12.0, 48.0]) == 2
    assert exponent([10, 100], [0.5, 0.5]) == 0


def test_a_line_gives_each_size_its_time_and_memory():
    row = {"what": "a step", "grows_with": "layers", "found": [(1_000, 0.25, 1.0), (2_000, 1.0, 2.0)]}
    assert line(row) == "| a step | layers | 1,000, 2,000 | 250 ms, 1 s | 2.00 | 1, 2 GB | 1.00 |"


def test_copies_of_records_are_records_of_new_seeds(tmp_path, monkeypatch):
    originals = tmp_path / "evidence" / "cpu" / "MLP_4"
    originals.parent.mkdir(parents=True)
    originals.symlink_to(EVIDENCE / "cpu" / "MLP_4")
    number = 1 + len(list(originals.glob("seed-*")))  # one of them twice
    monkeypatch.setattr("benchmarks.scaling.EVIDENCE", tmp_path / "evidence")
    monkeypatch.setenv("RUNS_DIR", copies_of_records(number, str(tmp_path)))
    records = find_records("MLP_4", "cpu", evidence=False)
    assert [record.seed for record in records] == [*range(number - 1), 1000]
    assert all(record.load().finished for record in records)
    assert records[0].rows == records[-1].rows
