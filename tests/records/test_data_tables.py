"""The evidence as data: both tables match docs/data.md, and the crate describes the files."""

import csv
import json
import re
import subprocess
import sys
from io import StringIO

import pyarrow as pa
import pytest
from helpers import ROOT
from pyarrow import parquet

from deepnet.records.crate import crate_json
from deepnet.records.table import committed_records, records_csv, rows_table

REMEDY = "`python -m deepnet.figures.gallery` makes it anew"
TEXTS = {  # type -> the texts that a cell of it may have
    "text": re.compile(r".*"),
    "whole number": re.compile(r"\d+"),
    "number": re.compile(r"-?\d+(\.\d+)?(e-?\d+)?"),
    "boolean": re.compile(r"True|False"),
}
ARROW = {
    "text": {pa.string()},
    "whole number": {pa.int64()},
    "number": {pa.float64()},
    "boolean": {pa.bool_()},
    "list": {pa.list_(pa.float64()), pa.list_(pa.int64())},
}


def dictionary(heading: str) -> dict[str, str]:
    """Column -> type, of the table under this heading of docs/data.md."""
    section = (ROOT / "docs" / "data.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| ([\w ]+) \|[^|]*\| \S[^|]* \|$", section, re.MULTILINE)
    assert len(lines) == section.count("\n| `"), "a line of docs/data.md has not four cells"
    return dict(lines)


def test_the_dictionary_of_runs_is_the_table_s():
    rows = list(csv.DictReader(StringIO(records_csv())))
    types = dictionary("A line per run")
    assert list(types) == list(rows[0])
    wrong = {c: row[c] for row in rows for c in types if row[c] and not TEXTS[types[c]].fullmatch(row[c])}
    assert wrong == {}


def test_the_dictionary_of_rows_is_the_table_s():
    table = rows_table()
    types = dictionary("A row per epoch")
    assert list(types) == table.column_names
    assert [field.name for field in table.schema if field.type not in ARROW[types[field.name]]] == []


def test_every_row_is_written(tmp_path):
    file = tmp_path / "rows.parquet"
    subprocess.run([sys.executable, "-m", "deepnet.records.table", str(file)], cwd=ROOT, check=True)
    rows = parquet.read_table(file).to_pylist()
    expected = [
        row | {"name": record.name, "seed": record.seed} for record in committed_records() for row in record.rows
    ]
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert {key: value for key, value in row.items() if value is not None and key != "profile"} == {
            key: value for key, value in wanted.items() if value is not None
        }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "name one file"), (["rows.csv"], "ends in .parquet"), (["/no/such/rows.parquet"], "cannot write")],
)
def test_refusals(arguments, said):
    command = [sys.executable, "-m", "deepnet.records.table", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1


def test_the_crate_describes_the_files():
    text = (ROOT / "report" / "ro-crate-metadata.json").read_text()
    assert text == crate_json(), REMEDY
    (whole,) = (entity for entity in json.loads(text)["@graph"] if entity["@id"] == "./")
    parts = [part["@id"] for part in whole["hasPart"]]
    assert len(parts) == 6 and all((ROOT / "report" / part).exists() for part in parts)
