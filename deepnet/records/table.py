"""All committed evidence as tables: a row per run, and a row per epoch.

`python -m deepnet.records.table rows.parquet` writes the second as one Parquet file. docs/data.md says what every
column means.
"""

import csv
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from deepnet.records.files import atomic
from deepnet.records.reading import EVIDENCE, Record
from experimentTable import PROFILES, UsageError

KEYS = ("profile", "name", "seed")  # together, these identify a run

SETTINGS = (
    "kind", "chapter", "model", "dataset", "image_size", "initialisation", "start_from", "trainable", "optimizer", "lr",
    "eps", "batch_size", "epochs", "dropout", "patience", "min_delta",
)  # fmt: skip
RESULTS = (
    "status", "split", "accuracy", "macro_accuracy", "loss", "epoch", "last_epoch", "best_epoch", "best_accuracy",
    "stopped_early", "train_seconds", "chosen", "knn_skill",
)  # fmt: skip
AT_EPOCH = ("train_loss", "train_accuracy")  # at the epoch that the result describes
PROVENANCE = ("precision", "device", "processor", "threads", "torch", "commit", "dirty")


def _cell(value: Any) -> Any:
    """The value as a cell: empty for None, a list of names joined by "+"."""
    return "" if value is None else "+".join(map(str, value)) if isinstance(value, list) else value


def committed_records() -> list[Record]:
    """Every committed run except the superseded ones: profile by profile, then by name and seed."""
    found = [[Record(path) for path in (EVIDENCE / profile).glob("*/seed-*")] for profile in PROFILES]
    return [r for records in found for r in sorted(records, key=lambda record: (record.name, record.seed))]


def records_csv() -> str:
    """One row per committed run, with its settings and results: profile by profile, then by name and seed.

    Example::

        pandas.read_csv("report/records.csv").query("model == 'MLP_33'")
    """
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*KEYS, *SETTINGS, *RESULTS, *AT_EPOCH, *PROVENANCE])
    for record in committed_records():
        row = next((row for row in record.rows if row.get("epoch") == record.result.get("epoch", "none")), {})
        sources = (
            (record.settings["identity"], SETTINGS),
            (record.result, RESULTS),
            (row, AT_EPOCH),
            (record.settings["provenance"], PROVENANCE),
        )
        cells = [_cell(source.get(key)) for source, keys in sources for key in keys]
        writer.writerow([*(getattr(record, key) for key in KEYS), *cells])
    return table.getvalue()


def rows_table() -> Any:
    """Every row of every committed run as one `pyarrow.Table`, null in columns that a run lacks.

    The columns are `profile`, `name` and `seed` of the run, then its metrics; a list has one entry per layer.

    Example::

        rows_table().to_pandas().query("name == 'MLP_33' and epoch == 20")
    """
    import pyarrow as pa

    rows = [{key: getattr(record, key) for key in KEYS} | row for record in committed_records() for row in record.rows]
    columns = dict.fromkeys(key for row in rows for key in row)
    return pa.table({column: [row.get(column) for row in rows] for column in columns})


def main() -> int:
    """Write the rows to the file that the command line names; returns exit status 0 only if this succeeded."""
    from pyarrow import parquet

    try:
        if len(sys.argv) != 2 or not sys.argv[1].endswith(".parquet"):
            raise UsageError("name one file to write that ends in .parquet, such as rows.parquet")
        with atomic(Path(sys.argv[1])) as part, part.open("wb") as stream:
            parquet.write_table(rows_table(), stream, compression="zstd")
    except UsageError as error:
        print(f"deepnet.records.table: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
