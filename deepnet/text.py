"""How data sets, counts, durations, seeds and tables are written in figures and sentences."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby, product

DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def counted(number: int, thing: str) -> str:
    """(1, "run") -> "1 run"; (2, "run") -> "2 runs"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """The names, or the first of many and the number of the others: "a, b, c and 9 more"."""
    shown = names if len(names) <= most else names[: most - 1]
    return ", ".join(shown) + f" and {len(names) - len(shown)} more" * (len(shown) < len(names))


def duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ranges(seeds: Iterable[int]) -> str:
    """(0, 1, 2, 5) -> "0-2, 5"."""
    # Consecutive seeds have the same difference from their positions.
    groups = groupby(enumerate(sorted(seeds)), lambda pair: pair[1] - pair[0])
    runs = [[seed for _, seed in group] for _, group in groups]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def braced(names: Iterable[str]) -> list[str]:
    """Names that differ only in their numbers as one pattern for the shell: MLP_4 and MLP_13 as "MLP_{4,13}"."""
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for name in names:
        parts = name.split("_")
        alike.setdefault(tuple("" if part[0].isdigit() else part for part in parts), []).append(parts)
    words = []
    for group in alike.values():
        values = [list(dict.fromkeys(column)) for column in zip(*group, strict=True)]
        complete = list(product(*values)) == list(map(tuple, group))
        word = "_".join(column[0] if len(column) == 1 else f"{{{','.join(column)}}}" for column in values)
        words += [word] if complete else ["_".join(parts) for parts in group]
    return words


def seeds_of(runs: Mapping[str, Collection[int]]) -> str:
    """The seeds in words: "seed 0", "seeds 0-2" or, if the runs differ, "seeds 0-2 (MLP_4), 0 (MLP_13)"."""
    same: dict[str, list[str]] = {}
    for name, seeds in runs.items():
        same.setdefault(ranges(seeds), []).append(name)
    several = len({seed for seeds in runs.values() for seed in seeds}) > 1
    which = [f"{seeds} ({listed(names)})" if len(same) > 1 else seeds for seeds, names in same.items()]
    return f"seed{'s' * several} {', '.join(which)}"


@dataclass(frozen=True)
class Table:
    """A small table: HTML in a notebook, Markdown as text. Columns of numbers are right-aligned.

    `bold`: (row, column) of the bold cells.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    bold: Collection[tuple[int, int]] = ()

    def _marked(self, begin: str, end: str, plain: Callable[[str], str] = str) -> list[list[str]]:
        """The rows, with `begin` and `end` around the bold cells."""
        return [
            [f"{begin}{plain(cell)}{end}" if (i, j) in self.bold else plain(cell) for j, cell in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]

    def _aligned(self) -> list[str]:
        columns = [column[1:] for column in zip(self.head, *self.rows, strict=True)]
        return ["right" if all(cell[:1] in "0123456789-–" for cell in column) else "left" for column in columns]

    def __str__(self) -> str:
        lines = (
            self.head,
            ["---:" if side == "right" else "---" for side in self._aligned()],
            *self._marked("**", "**"),
        )
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{self.caption}\n\n{table}" if self.caption else table

    _repr_markdown_ = __repr__ = __str__

    def _repr_html_(self) -> str:
        sides = self._aligned()

        def line(tag: str, cells: Iterable[str]) -> str:
            styled = (f'<{tag} style="text-align:{s}">{c}</{tag}>' for s, c in zip(sides, cells, strict=True))
            return f"<tr>{''.join(styled)}</tr>"

        caption = f'<caption style="caption-side:top;text-align:left">{escape(self.caption)}</caption>'
        rows = "".join(line("td", row) for row in self._marked("<b>", "</b>", escape))
        return f"<table>{caption}{line('th', map(escape, self.head))}{rows}</table>"
