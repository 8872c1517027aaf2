"""How things are written in figures, sentences and tables alike: data sets, numbers of things, seeds, Markdown."""

from collections.abc import Collection, Iterable, Mapping, Sequence

DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def counted(number: int, thing: str) -> str:
    """(1, "run") -> "1 run"; (2, "run") -> "2 runs"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """The names, of many the first: "a, b, c and 9 more"."""
    shown = names if len(names) <= most else names[: most - 1]
    return ", ".join(shown) + f" and {len(names) - len(shown)} more" * (len(shown) < len(names))


def duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ranges(seeds: Iterable[int]) -> str:
    """(0, 1, 2, 5) -> "0-2, 5"."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def seeds_of(runs: Mapping[str, Collection[int]]) -> str:
    """Which seeds there are: "seed 0", "seeds 0-2" or, where runs differ in it, "seeds 0-2 (MLP_4), 0 (MLP_13)"."""
    same: dict[str, list[str]] = {}
    for name, seeds in runs.items():
        same.setdefault(ranges(seeds), []).append(name)
    several = len({seed for seeds in runs.values() for seed in seeds}) > 1
    which = [f"{seeds} ({listed(names)})" if len(same) > 1 else seeds for seeds, names in same.items()]
    return f"seed{'s' * several} {', '.join(which)}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """A Markdown table; the columns headed by what is in `right` are aligned to the right."""
    lines = (head, ["---:" if name in right else "---" for name in head], *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
