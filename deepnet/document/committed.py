"""The committed records, and the mark on each number that says which of them it was computed from."""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from deepnet.records.files import read_lines
from deepnet.records.reading import EVIDENCE, ROOT, Record
from deepnet.text import braced, ranges
from experimentTable import UsageError

CONSTANT = "from the rules, the table of experiments or the original report"
LONGEST = 300  # characters that are shown over a number
TABLE = ROOT / "report" / "records.csv"


@cache
def _read(path: Path) -> Record:
    return Record(path)


@cache
def _listed_seeds() -> dict[tuple[str, str], set[int]]:
    """(profile, run) -> the seeds that the committed table of records lists as finished."""
    seeds: dict[tuple[str, str], set[int]] = {}
    with TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] == "finished":
                seeds.setdefault((row["profile"], row["name"]), set()).add(int(row["seed"]))
    return seeds


@dataclass(frozen=True)
class Trace:
    """A number of the report, and the records that it was computed from."""

    text: str
    records: tuple[Record, ...]

    @property
    def sources(self) -> list[str]:
        """The records as `run.py verify` takes them, with commits: "MLP_4 --profile paper --seeds 0-4 (131b5b2)"."""
        runs: dict[tuple[str, str], list[Record]] = {}
        for record in self.records:
            runs.setdefault((record.name, record.profile), []).append(record)
        alike: dict[str, list[str]] = {}
        for (name, profile), of in runs.items():
            seeds = ranges(record.seed for record in of).replace(" ", "")
            commits = ", ".join(dict.fromkeys(record.settings["provenance"]["commit"][:7] for record in of))
            alike.setdefault(f"--profile {profile} --seeds {seeds} ({commits})", []).append(name)
        return [f"{' '.join(braced(names))} {options}" for options, names in alike.items()]

    def hover(self) -> str:
        """What the page shows over the number: for each run its profile, seeds, commit, and how it is verified."""
        shown = "; ".join(f"python run.py verify {source}" for source in self.sources) or CONSTANT
        return shown if len(shown) <= LONGEST else f"{shown[:LONGEST].rpartition(' ')[0]} … (complete in the appendix)"


class Committed:
    """The committed records as the report reads them: which of them were asked for, and the marks set so far.

    `without`: a record's folder that is treated as missing.
    Example: `Committed().runs("MLP_4", "paper")[0].result["accuracy"]`.
    """

    def __init__(self, without: Path | None = None) -> None:
        self.traces: list[Trace] = []
        self._used: dict[Path, Record] = {}
        self._memory: dict[tuple[str, ...], tuple[Any, dict[Path, Record]]] = {}
        self._without = without

    def runs(self, name: str, profile: str) -> list[Record]:
        """The finished records of a run, seed by seed; of a pattern such as "sweep_*", those of every run that fits it.

        Raises UsageError where a record that the committed table lists is not there.
        """
        if "*" in name:
            names = sorted({run for at, run in _listed_seeds() if at == profile and fnmatch(run, name)})
            return [record for run in names for record in self.runs(run, profile)]
        folder = EVIDENCE / profile / name
        there = {int(path.name[5:]) for path in folder.glob("seed-*") if path != self._without}
        seeds = _listed_seeds().get((profile, name), set())
        for seed in sorted(seeds - there):
            raise UsageError(f"there is no record of {name} (profile {profile}, seed {seed})")
        found = [_read(folder / f"seed-{seed}") for seed in sorted(seeds | there)]
        found = [record for record in found if record.finished]
        self._used |= {record.path: record for record in found}
        return found

    def needed(self, name: str, profile: str) -> list[Record]:
        """As `runs`, and raises UsageError where there are none."""
        if not (found := self.runs(name, profile)):
            raise UsageError(f"there is no record of {name} (profile {profile})")
        return found

    def openings(self, profile: str) -> list[dict]:
        """Every committed opening of chapter 5's test set, oldest first."""
        return sorted(read_lines(EVIDENCE / profile / "openings.jsonl"), key=lambda opening: opening["time"])

    def remembered(self, key: tuple[str, ...], make: Callable[[], Any], counts: bool = True) -> Any:
        """What `make` returned when `key` was first asked for. The records that it read count each time, or never."""
        if key not in self._memory:
            before, self._used = self._used, {}
            self._memory[key], self._used = (make(), self._used), before
        made, used = self._memory[key]
        self._used |= used if counts else {}
        return made

    def forget_all_but(self, records: Iterable[Record]) -> None:
        """Keep only these of the records asked for since the last mark: the others were looked at and left out."""
        self._used = {record.path: record for record in records}

    def mark(self, text: str) -> str:
        """The text as a link to its line in the appendix, with the records asked for since the last mark."""
        self.traces.append(Trace(text, tuple(self._used.values())))
        self._used = {}
        return f'[{text}](#n{len(self.traces)} "{self.traces[-1].hover()}")'

    def appendix(self) -> Iterator[str]:
        """A line for each mark: its number, what it says, and the records that it was computed from."""
        first: dict[tuple[Record, ...], int] = {}
        for i, trace in enumerate(self.traces, start=1):
            sources = f"`{'; '.join(trace.sources)}`" if trace.records else CONSTANT
            if trace.records and (same := first.setdefault(trace.records, i)) != i:
                sources = f"the records of {same}"
            text = trace.text.strip("*") if " " in trace.text else trace.text.strip("*`")[:16]
            yield f"[{i}]{{#n{i}}} **{text}** {sources}"
