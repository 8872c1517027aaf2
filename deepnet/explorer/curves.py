"""What the explorer draws of the records: one curve per training, or per pair of nets that were timed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deepnet.records.reading import Record
from experimentTable import TABLE

# kind of a run -> what its rows count, and the columns that say which of several curves a row belongs to
AXES: dict[str, tuple[str, Sequence[str]]] = {
    "training": ("epoch", ()),
    "baseline": ("C", ("classifier",)),
    "timing": ("block", ("plain", "residual")),
}


def curves(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The rows of `records` as curves, each with its columns, numbers as recorded, in the order of the table's runs.

    `columns` holds the metrics and `layers` the lists with one entry per weight layer, each a list over the rows, in
    which None stands where a row lacks a number. `x` names the column that the rows count by, and `verify` is the
    command that trains the run again, empty where the table has no such run.
    """
    place = {name: i for i, name in enumerate(TABLE)}
    found = []
    for record in sorted(records, key=lambda record: place.get(record.name, len(place))):
        x, keys = AXES.get(record.settings["experiment"]["kind"], ("", ()))
        groups: dict[tuple[str, ...], list[dict]] = {}
        for row in record.rows:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
        found += [_curve(record, x, keys, names, rows) for names, rows in groups.items()]
    return found


def _curve(
    record: Record, x: str, keys: Sequence[str], names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    columns = {
        metric: [row.get(metric) for row in rows]
        for metric in dict.fromkeys(metric for row in rows for metric in row)
        if metric not in (x, "pair", *keys)
    }
    layered = {metric for metric, values in columns.items() if any(isinstance(value, list) for value in values)}
    made = record.settings["provenance"]
    command = f"python run.py verify {record.name} --profile {record.profile} --seeds {record.seed}"
    return {
        "chapter": record.settings["experiment"]["chapter"],
        "run": " ".join((record.name, *names)),
        "profile": record.profile,
        "seed": record.seed,
        "status": record.result.get("status", "unfinished"),
        "commit": made["commit"],
        "precision": made["precision"],
        "device": made["device"],
        "verify": command if record.name in TABLE else "",
        "axis": x,
        "x": [row[x] for row in rows],
        "columns": {metric: values for metric, values in columns.items() if metric not in layered},
        "layers": {metric: columns[metric] for metric in columns if metric in layered},
    }
