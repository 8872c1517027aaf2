"""A reader's own runs as curves over training: any records, any metrics."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any

from deepnet.figures.lines import lines, named, positions
from deepnet.figures.looks import WIDTH
from deepnet.figures.plots import Groups, Sheet, default_style, legend, provenance
from deepnet.records.reading import Record
from deepnet.text import listed
from experimentTable import UsageError, choose

MOST = 8  # runs with a colour of their own in a panel; of more, nobody can tell which is which
LONGEST = 32  # characters of a line of a legend


@default_style()
def curves(records: Record | Iterable[Record] | Groups, metrics: str | Sequence[str | tuple[str, ...]]) -> Sheet:
    """One panel per metric, one line per record, the seeds of a run alike: for any trainings.

    `metrics`: columns of the rows, "train_loss" or ["train_loss", ("test_accuracy", "train_accuracy")]; the second of a
    pair is thin and dashed in the same panel. The untrained row 0 is left out. Records are of one run if they differ in
    the seed alone; where several runs have one name, the legend says what they differ in. More than eight runs are
    drawn eight at a time, the others in grey behind them.

    Raises UsageError for anything but records of trainings, for a metric that one of them lacks, and for records of the
    profile `sample`, whose rows are numbers of steps, beside others, whose rows are epochs.

    Example: `curves([run("MLP_4"), run("MLP_13")], ["train_loss", "test_accuracy"])`.
    """
    runs = by_run(records)
    drawn = [record for run in runs.values() for record in run]
    panels = _panels(metrics, drawn)
    units = {positions(record)[1]: f"{record.name} ({record.profile})" for record in drawn}
    if len(units) > 1:
        (one, first), (other, second) = units.items()
        raise UsageError(
            f"the rows of {first} count {one}, those of {second} {other}, and one axis cannot show both; "
            "draw them apart"
        )
    names, rows, columns = list(runs), ceil(len(panels) / 2), min(2, len(panels))
    size = ceil(len(names) / ceil(len(names) / MOST))
    parts = [names[first : first + size] for first in range(0, len(names), size)]
    lengths = [sum(name.count("\n") + 1 for name in part) for part in parts]
    height = 2.6 * rows + 0.17 * max(lengths) / 2 + 0.3
    figure = Sheet(figsize=(WIDTH, height * len(parts)), dpi=100, layout="constrained")
    for block, part in zip(figure.subfigures(len(parts), 1, squeeze=False).flat, parts, strict=True):
        axes = block.subplots(rows, columns, squeeze=False).flat
        shown, others = ({name: runs[name] for name in names if (name in part) is own} for own in (True, False))
        for ax, panel in zip(axes, panels, strict=False):
            lines(ax, shown, panel, faint=others, names=dict(zip(part, part, strict=True)))
        for ax in [*axes][len(panels) :]:
            ax.remove()
        legend(block, named(*block.axes), columns=2)
    figure.provenance = provenance(drawn)
    drawn_metrics = listed([metric.replace("_", " ") for panel in panels for metric in panel])
    figure.alt = f"Curves of {drawn_metrics} over training, of {listed(names)}, a line per seed."
    return figure


def by_run(records: Record | Iterable[Record] | Groups) -> dict[str, list[Record]]:
    """The records of each run by the name that a reader sees, in the order given; a record given twice counts once.

    Raises UsageError where there are none, or something else is among them.
    """
    if isinstance(records, Mapping):
        records = [record for group in records.values() for record in _several(group)]
    given = _several(records)
    if strangers := [item for item in given if not isinstance(item, Record)]:
        raise UsageError(f'curves draws records, such as run("MLP_4") returns, not {strangers[0]!r:.60}')
    if not given:
        raise UsageError('no records to draw; pass at least one, for example curves([run("MLP_4")], "train_loss")')
    runs: list[dict[int, Record]] = []
    for record in given:
        run = next((run for run in runs if _belongs(record, run)), None)
        if run is None:
            runs.append(run := {})
        run.setdefault(record.seed, record)
    named: dict[str, list[Record]] = {}
    firsts = [next(iter(run.values())) for run in runs]
    for first, run in zip(firsts, runs, strict=True):
        name = shown = _name(first, [other for other in firsts if other.name == first.name])
        while shown in named:  # the same settings, but other rows
            shown = f"{name} ({sum(other.startswith(name) for other in named) + 1})"
        named[shown] = list(run.values())
    return named


def _several(records: Any) -> list:
    """What may be one or several, as a list."""
    return [records] if isinstance(records, Record | str) or not isinstance(records, Iterable) else list(records)


def _belongs(record: Record, run: Mapping[int, Record]) -> bool:
    """Whether the record is another seed of the run, or one of its records again."""
    first = next(iter(run.values()))
    one, other = ((r.name, r.profile, r.settings["identity"]) for r in (first, record))
    return one == other and (record.seed not in run or run[record.seed].rows == record.rows)


def _name(record: Record, namesakes: Sequence[Record]) -> str:
    """The run's name with what tells it from other runs of that name, in lines of at most LONGEST characters.

    Matplotlib hides a line whose name begins with "_", so a space stands before it.
    """
    facts = [{"profile": other.profile} | other.settings["identity"] for other in namesakes]
    own = {"profile": record.profile} | record.settings["identity"]
    apart = [key for key, value in own.items() if any(other.get(key) != value for other in facts)]
    said = [f"{key} {own[key]}" for key in apart if len(str(own[key])) <= LONGEST]  # no architecture, no fingerprint
    name = f"{record.name} ({', '.join(said)})" if said else record.name
    return textwrap.fill(" " * name.startswith("_") + name, LONGEST)


def _panels(metrics: Any, records: Sequence[Record]) -> list[tuple[str, ...]]:
    """The metrics of each panel, which all of the records have."""
    wanted = _several(metrics)
    panels = [tuple(panel) if isinstance(panel, tuple | list) else (panel,) for panel in wanted]
    known = {}
    for record in records:
        rows = record.rows[1:]
        known[record.name] = sorted(
            {key for row in rows for key, value in row.items() if isinstance(value, int | float | None)}
        )
        if "epoch" not in known[record.name]:
            raise UsageError(f"{record.name} ({record.profile}, seed {record.seed}) has no trained epoch to draw")
        for metric in (metric for panel in panels for metric in panel):
            choose(f"metric of {record.name}", metric, known[record.name])
    if not panels or any(len(panel) not in (1, 2) for panel in panels):
        there = ", ".join(next(iter(known.values())))
        raise UsageError(
            f"a panel shows one metric or two, and there is at least one panel, got {metrics!r:.60}; "
            f"choose from {there}"
        )
    return panels
