"""Runs that were trained elsewhere, judged by the rules of the claims or by a comparison of the reader's own.

They come as a table with a row per epoch (a CSV file, a pandas data frame, a list of mappings) or as records. See
docs/judging.md.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from math import isfinite
from pathlib import Path
from typing import Any

from deepnet.claims.evidence import Evidence, compare
from deepnet.claims.intervals import Aim, above, at_least, at_most, below, equivalent
from deepnet.claims.ledger import check
from deepnet.claims.verdicts import Verdict
from deepnet.records.reading import Record
from deepnet.text import listed, ranges
from deepnet.valid import EVAL_SPLIT
from experimentTable import CLASSES, OWN, TABLE, UsageError

__all__ = ["Comparison", "above", "at_least", "at_most", "below", "equivalent", "judge"]

KEYS = ("run", "seed", "epoch")
SPLIT_METRICS = ("accuracy", "macro_accuracy", "loss")  # of the evaluation set
METRICS = {  # what the rules read of a row; a column per layer is called as W&B has it, gradient_log10_rms/layer_00
    "train_loss", "train_accuracy", "steps", "gradient_norm_sum", "gradient_norm", "gradient_log10_rms", "probe_dead",
    *(f"{split}_{metric}" for split in EVAL_SPLIT.values() for metric in SPLIT_METRICS),
}  # fmt: skip
Table = str | Path | Iterable[Mapping[str, Any]] | Iterable[Record]  # or a pandas data frame


@dataclass(frozen=True)
class Comparison:
    """A claim about two runs: `metric` of run `a` less that of run `b` in the last epoch, paired by seed.

    >>> Comparison("test_accuracy", "wide", "narrow", at_least(0.01))  # better by at least .01
    >>> Comparison("train_loss", "wide", "narrow", equivalent(0.05))  # alike within .05
    """

    metric: str
    a: str
    b: str
    aim: Aim


def judge(
    claim: str | Comparison,
    runs: Table,
    columns: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    profile: str = "paper",
) -> Verdict:
    """Judge a claim of the report, such as "3a", or a `Comparison`, on runs that need not be this package's.

    Args:
        claim: its rule is applied as it is to the runs of the names that it reads, such as MLP_4.
        runs: a row per epoch with the columns `run`, `seed` and `epoch` and metrics such as `test_accuracy`: the path
            of a CSV file, a data frame, or mappings. Epochs count from 1; 0 is the untrained model and may be left out.
            Or records, such as those that `run` returns.
        columns: what columns are called here, by what they are called in the table.
        names: what runs are called here, by what they are called in the table.
        profile: "cpu" leaves out what depends on images of 128 pixels.

    Returns:
        The verdict, which prints itself. Over one or two seeds the bare numbers are compared, since a table has no
        predictions.

    Raises:
        UsageError: for a column, a run or a seed that is missing, and for a value that is no number.

    Example::

        judge("3a", "wandb_export.csv", columns={"val/acc": "test_accuracy", "Name": "run"})
    """
    asked = {claim.metric} if isinstance(claim, Comparison) else METRICS
    found = _records_of(runs, columns or {}, names or {}, asked)
    source = cache(lambda name: [make() for make in found.get(name, [])])
    verdict = _compare(claim, source) if isinstance(claim, Comparison) else check(claim, profile, source, ())
    if verdict.verdict == "no evidence":
        raise UsageError(f"{verdict.id} cannot be judged: {verdict.note}; the runs are {listed(sorted(found), 12)}")
    return verdict


def _compare(claim: Comparison, source: Callable[[str], Sequence[Any]]) -> Verdict:
    evidence = Evidence(OWN, source, ())
    seeds = [set(evidence.runs(name)) for name in (claim.a, claim.b)]
    if all(seeds) and (alone := seeds[0] ^ seeds[1]):
        raise UsageError(
            f"{claim.a} has seeds {ranges(seeds[0])} and {claim.b} has {ranges(seeds[1])}; "
            f"runs are paired by seed, so leave out {ranges(alone)} or add what is missing"
        )
    text = f"{claim.metric} of the last epoch"
    part = compare(evidence, text, lambda record: record.column(claim.metric)[-1], claim.a, claim.b, claim.aim)
    note = f"no run {listed(evidence.missing)}" if evidence.missing else ""
    return Verdict("the comparison", part.text, part.verdict, (part,), note, part.text, profile=OWN)


# ---------------------------------------------------------------- a table as records


def _run(name: str, seed: int) -> str:
    return f"{name} (seed {seed})"


def _lacking(whose: str, metric: str) -> UsageError:
    return UsageError(f"{whose} has no {metric}; add that column, or name yours in `columns`")


class _Known(dict):
    """What a table says of a run; what it does not say raises the UsageError that `refuse` makes of the key."""

    def __init__(self, refuse: Callable[[str], UsageError]) -> None:
        super().__init__()
        self._refuse = refuse

    def __missing__(self, key: str) -> Any:
        raise self._refuse(key)


@dataclass
class TableRecord:
    """What the rules read of a `Record`, of a run in a table."""

    name: str
    seed: int
    rows: list[dict[str, Any]]
    result: dict[str, Any]
    settings: dict[str, Any]
    predictions: None = None  # a table has none

    def column(self, metric: str, trained_only: bool = False) -> Any:
        """As of a record. Raises UsageError for a metric that the table has no numbers of."""
        if not any(metric in row for row in self.rows):
            raise _lacking(_run(self.name, self.seed), metric)
        return Record.column(self, metric, trained_only)  # type: ignore[arg-type]


def _records_of(
    runs: Table, columns: Mapping[str, str], names: Mapping[str, str], metrics: set[str]
) -> dict[str, list[Callable[[], Any]]]:
    """Name -> for each seed what makes its record, so that a run which the claim does not read is not checked."""
    table = _read(runs)
    found: dict[str, list[Callable[[], Any]]] = {}
    if table and all(isinstance(row, Record) for row in table):
        for record in table:
            found.setdefault(record.name, []).append(record.load)
        return found
    head = list(dict.fromkeys(key for row in table for key in row))
    if unknown := columns.keys() - set(head):
        raise UsageError(f"the table has no column {listed(sorted(unknown))} to rename; it has {listed(head, 20)}")
    if missing := [key for key in KEYS if key not in {columns.get(key, key) for key in head}]:
        raise UsageError(
            f"the table has no column {listed(missing)}; it has {listed(head, 20)}; name yours in `columns`"
        )
    groups: dict[tuple[str, int], list[dict]] = {}
    for number, raw in enumerate(table, 1):
        row = {columns.get(key, key): value for key, value in raw.items()}
        seed, epoch = (_whole(row[key], f"{key} in row {number}") for key in KEYS[1:])
        kept = {key: value for key, value in row.items() if str(key).partition("/")[0] in metrics}
        name = names.get(str(row["run"]), str(row["run"]))
        groups.setdefault((name, seed), []).append({**kept, "epoch": epoch})
    for (name, seed), rows in sorted(groups.items()):
        found.setdefault(name, []).append(partial(_record, name, seed, rows))
    return found


def _read(runs: Table) -> list[Any]:
    """The rows of a table, or the records."""
    if hasattr(runs, "to_dict"):
        return runs.to_dict("records")  # a data frame
    if not isinstance(runs, str | Path):
        return list(runs)
    try:
        with Path(runs).open(encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{runs} cannot be read ({getattr(error, 'strerror', None) or 'it is no text'})") from None


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise UsageError(f"{what} is {value!r:.40}, which is no finite number")
    return number


def _whole(value: Any, what: str) -> int:
    if not (number := _number(value, what)).is_integer():
        raise UsageError(f"{what} is {value!r:.40}, which is no whole number")
    return int(number)


def _empty(value: Any) -> bool:
    return value is None or value == "" or value != value  # a data frame has NaN for an empty cell


def _record(name: str, seed: int, rows: list[dict]) -> TableRecord:
    """The record of one run: its rows checked, and how it ended as the package's own training says it.

    Raises UsageError for epochs that are missing or doubled, and for a cell that is empty or no number though the run
    has that column.
    """
    whose = _run(name, seed)
    rows = sorted(rows, key=lambda row: row["epoch"])
    epochs = [row["epoch"] for row in rows]
    if epochs != list(range(epochs[0], epochs[0] + len(rows))) or epochs[0] not in (0, 1) or epochs[-1] == 0:
        raise UsageError(
            f"{whose} has the epochs {listed(list(map(str, epochs)), 8)}; each must be there once, from 1 on"
        )
    if epochs[0] == 0 and not _empty(rows[0].get("train_loss")):
        raise UsageError(f"{whose} has a train_loss in epoch 0, which is the untrained model; count epochs from 1")
    trained = rows[epochs[0] == 0 :]
    present = [key for key in dict.fromkeys(key for row in trained for key in row) if key != "epoch"]
    present = [key for key in present if not all(_empty(row.get(key)) for row in trained)]
    clean: list[dict[str, Any]] = [{"epoch": 0}]
    for row in trained:
        numbers = {key: _number(row.get(key), f"{key} of {whose} in epoch {row['epoch']}") for key in present}
        clean.append({"epoch": row["epoch"], **_layered(numbers)})
    return TableRecord(name, seed, clean, *_ended(name, whose, clean))


def _layered(numbers: Mapping[str, float]) -> dict[str, Any]:
    """The columns `metric/layer_00`, `metric/layer_01`, ... as one list."""
    lists: dict[str, Any] = {}
    for key in sorted(numbers):
        metric, _, layer = key.partition("/")
        if layer:
            lists.setdefault(metric, []).append(numbers[key])
    return {key: value for key, value in numbers.items() if "/" not in key} | lists


def _ended(name: str, whose: str, rows: list[dict]) -> tuple[dict, dict]:
    """Result and settings of a run. Of one that is not the report's a table cannot tell them."""
    if name not in TABLE:
        nothing = _Known(lambda key: UsageError(f"{whose} is none of the report's runs; give its record, not a table"))
        return nothing, nothing
    exp, last = TABLE[name], rows[-1]["epoch"]
    split = EVAL_SPLIT[exp.dataset]
    # the accuracy tells the best epoch, and so the final one
    result = _Known(lambda key: _lacking(whose, f"{split}_{key if key in SPLIT_METRICS else 'accuracy'}"))
    result["split"] = split
    if (accuracy := f"{split}_accuracy") in rows[-1]:
        best = max(rows[1:], key=lambda row: row[accuracy])  # the first of several
        final = best if exp.patience else rows[-1]
        result |= {
            "status": "finished", "classes": CLASSES[exp.dataset], "sha256": {},
            "epoch": final["epoch"], "last_epoch": last, "budget": exp.epochs, "stopped_early": last < exp.epochs,
            "best_epoch": best["epoch"], "best_accuracy": best[accuracy],
            **{metric: final[f"{split}_{metric}"] for metric in SPLIT_METRICS if f"{split}_{metric}" in final},
        }  # fmt: skip
    return result, {"experiment": asdict(exp)}
