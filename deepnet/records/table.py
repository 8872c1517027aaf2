"""All committed evidence as one table."""

import csv
from io import StringIO
from typing import Any

from deepnet.records.reading import EVIDENCE, Record
from experimentTable import PROFILES

SETTINGS = (
    "kind", "chapter", "model", "dataset", "image_size", "initialisation", "start_from", "trainable", "optimizer", "lr",
    "eps", "batch_size", "epochs", "dropout", "patience", "min_delta",
)  # fmt: skip
RESULTS = (
    "status", "split", "accuracy", "macro_accuracy", "loss", "epoch", "last_epoch", "best_epoch", "best_accuracy",
    "stopped_early", "train_seconds", "chosen", "knn_skill",
)  # fmt: skip
AT_EPOCH = ("train_loss", "train_accuracy")  # at the epoch whose weights the result is of
PROVENANCE = ("precision", "device", "processor", "threads", "torch", "commit", "dirty")


def _cell(value: Any) -> Any:
    """What a table can hold: nothing for None, names joined for a list of them."""
    return "" if value is None else "+".join(map(str, value)) if isinstance(value, list) else value


def records_csv() -> str:
    """One row per committed run, with its settings and results: profile by profile, then by name and seed.

    Example::

        pandas.read_csv("report/records.csv").query("model == 'MLP_33'")
    """
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["profile", "name", "seed", *SETTINGS, *RESULTS, *AT_EPOCH, *PROVENANCE])
    for profile in PROFILES:
        records = [Record(path) for path in (EVIDENCE / profile).glob("*/seed-*")]
        for record in sorted(records, key=lambda record: (record.name, record.seed)):
            row = next((row for row in record.rows if row.get("epoch") == record.result.get("epoch", "none")), {})
            sources = (
                (record.settings["identity"], SETTINGS),
                (record.result, RESULTS),
                (row, AT_EPOCH),
                (record.settings["provenance"], PROVENANCE),
            )
            cells = [_cell(source.get(key)) for source, keys in sources for key in keys]
            writer.writerow([record.profile, record.name, record.seed, *cells])
    return table.getvalue()
