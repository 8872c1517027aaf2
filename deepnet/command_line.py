"""The command line's names, seeds and options, and the messages for mistakes in them."""

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from deepnet.records.reading import roots
from deepnet.runs.families import family_runs
from experimentTable import (
    NAME,
    PROFILES,
    ROWS,
    Experiment,
    UsageError,
    choose,
    current_profile,
    experiment,
    is_supported,
)

MOST_SEEDS = 1_000  # per call

# ---------------------------------------------------------------- values


def parse_seeds(text: str) -> list[int]:
    """`"0-4"`, `"0,2"` or `"1"` as a list without repetitions.

    Raises UsageError for anything else, and for more than MOST_SEEDS.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(first) > int(last or first):
            raise UsageError(f"seeds {text!r} are not whole numbers; write 3, 0,2 or 0-4")
        several = range(int(first), int(last or first) + 1)
        seeds |= dict.fromkeys(several[: MOST_SEEDS + 1])
        if len(seeds) > MOST_SEEDS:
            raise UsageError(f"seeds {text!r} are more than {MOST_SEEDS:,}; name fewer in one call")
    return list(seeds)


def minutes(text: str) -> float:
    """A number of minutes. Raises argparse's error unless it is finite and at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes; write 90 or 0.5")
    return value


def chosen_names(arguments: argparse.Namespace, recorded: bool = False) -> list[str]:
    """The named experiments, and all of the chapter that the profile has a budget for, each once.

    `recorded`: also accept names that are not in the table but have a record, such as a search's trials.
    """
    profile = current_profile(arguments.profile)
    for name in arguments.names:
        if not (recorded and re.fullmatch(NAME, name) and any((root / profile / name).is_dir() for root in roots())):
            experiment(name)
    if arguments.chapter not in (None, *(row.chapter for row in ROWS)):
        raise UsageError(f"the report's experiments are in chapters 2 to 5, not {arguments.chapter}")
    chapter = [row.name for row in ROWS if row.chapter == arguments.chapter]
    chapter = [name for name in chapter if is_supported(experiment(name, profile))]
    names = list(dict.fromkeys([*arguments.names, *chapter]))
    if not names:
        raise UsageError("name an experiment or a chapter; `python run.py list` shows them all")
    return names


def chosen_runs(arguments: argparse.Namespace) -> list[Experiment]:
    """The named experiments with each requested seed, or the runs of a family."""
    seeds = parse_seeds(arguments.seeds) if arguments.seeds else None
    profile = current_profile(arguments.profile)
    if not arguments.family:
        names = chosen_names(arguments)
        return [experiment(name, profile, seed) for seed in seeds or [0] for name in names]
    if arguments.names or arguments.chapter is not None:
        raise UsageError("--family chooses its own runs; leave out the names and --chapter")
    return family_runs(arguments.family, profile, seeds)


# ---------------------------------------------------------------- commands and their options

Option = tuple[str, dict[str, Any]]  # a name or flag, and how argparse takes it

PROFILE: Option = "--profile", {"default": "", "help": f"{', '.join(PROFILES)} (default: $PROFILE, else sample)"}
NAMES: Option = "names", {"nargs": "*", "metavar": "NAME", "help": "an experiment's name, as `list` shows it"}
CHAPTER: Option = "--chapter", {"type": int, "help": "all experiments of this chapter"}
SEEDS: Option = "--seeds", {"default": "0", "help": "3, 0,2 or 0-4 (default 0)"}
FAMILY_HELP = "the atlas or a part of it, such as atlas_eps (docs/atlas.md)"
FAMILY: Option = "--family", {"default": "", "help": FAMILY_HELP}
SEEDS_OF_RUNS: Option = "--seeds", {"help": "3, 0,2 or 0-4 (default 0; for a family, all its seeds)"}
ALL_SEEDS: Option = "--seeds", {"help": "3, 0,2 or 0-4 (default all)"}
JSON: Option = "--json", {"action": "store_true", "help": "print JSON, for programs"}
MINUTES: Option = "--minutes", {"type": minutes, "help": "stop between epochs after this time"}
FRESH: Option = "--fresh", {"action": "store_true", "help": "ignore the committed records"}
WORKERS: Option = "--workers", {"type": int, "help": "number of parallel processes, which share the cores"}
DASK_HELP = "train on the workers of this Dask scheduler, such as tcp://host:8786"
DASK: Option = "--dask", {"metavar": "ADDRESS", "help": DASK_HELP}
CLAIM_SEEDS: Option = "--count", {"type": int, "default": 3, "help": "seeds per claim (default 3)"}
TRIALS: Option = "--count", {"type": int, "default": 12, "help": "trials in all (default 12)"}
NAME_OF_SEARCH: Option = "--name", {"default": "search", "help": "its trials are NAME_1, NAME_2, ... (default search)"}
JOIN_HELP = "work on the search of this name, which another process has begun"
JOIN: Option = "--join", {"metavar": "NAME", "help": JOIN_HELP}
SEED: Option = "--seed", {"type": int, "default": 0, "help": "default 0"}
STORAGE_HELP = "a database server's URL, such as postgresql+psycopg2://USER@HOST/DATABASE (default: SQLite)"
STORAGE: Option = "--storage", {"default": "", "help": STORAGE_HELP}
EPOCHS: Option = "--epochs", {"type": int, "help": "train and compare only this many epochs"}
NO_CURES: Option = "--no-cures", {"action": "store_true", "help": "measure and judge only"}
WEIGHTS_HELP = "write the weights too, as artifacts, if a record has them"
WEIGHTS: Option = "--weights", {"action": "store_true", "help": WEIGHTS_HELP}

# command -> its help text, and its options in addition to `--profile`; those in an inner list exclude each other
COMMANDS: dict[str, tuple[str, list[Option | list[Option]]]] = {
    "list": ("every experiment with its state and estimated time", [FAMILY, JSON]),
    "train": (
        "train experiments, or resume interrupted ones",
        [NAMES, CHAPTER, FAMILY, SEEDS_OF_RUNS, MINUTES, FRESH, [WORKERS, DASK]],
    ),
    "evidence": (
        "the runs that the claims still need, in the order of training; with --minutes, train them",
        [JSON, MINUTES, CLAIM_SEEDS],
    ),
    "search": (
        "the report's hyperparameter search, by one process or several",
        [TRIALS, NAME_OF_SEARCH, JOIN, SEED, STORAGE],
    ),
    "show": ("a run's settings, rows and result", [NAMES, CHAPTER, SEEDS, JSON]),
    "publish": ("copy finished records to report/records, as evidence", [NAMES, CHAPTER, FAMILY]),
    "verify": (
        "train committed records again, in a temporary folder, and report differences",
        [NAMES, CHAPTER, SEEDS, JSON, EPOCHS],
    ),
    "diagnose": (
        "find out why a run's model does not learn, and try the cures on copies, which may take minutes",
        [NAMES, CHAPTER, SEEDS, JSON, NO_CURES],
    ),
    "sync": (
        "write finished records and the figures to Weights & Biases; by default all of the profile",
        [NAMES, CHAPTER, ALL_SEEDS, WEIGHTS],
    ),
}


class Parser(argparse.ArgumentParser):
    """Prints what is wrong in one line, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `python {self.prog} --help` lists the options\n")

    def require(self, kind: str, value: str, choices: Iterable[str]) -> None:
        """Exit unless `value` is one of `choices`."""
        try:
            choose(kind, value, choices)
        except UsageError as error:
            self.exit(2, f"{self.prog}: {error}\n")

    def parse_known_args(self, *arguments: Any) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        found, unknown = super().parse_known_args(*arguments)
        if unknown and unknown[0].startswith("--"):
            self.require("option", unknown[0].partition("=")[0], re.findall(r"--\w[\w-]*", self.format_usage()))
        return found, unknown


def make_parser(description: str, functions: Mapping[str, Callable[[argparse.Namespace], bool]]) -> Parser:
    """The parser of the commands and their options; `functions` maps each command to what carries it out."""
    top = Parser(prog="run.py", description=description)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, options) in COMMANDS.items():
        parser = commands.add_parser(name, help=text, description=text)
        parser.set_defaults(function=functions[name])
        for entry in (PROFILE, *options):
            group = parser.add_mutually_exclusive_group() if isinstance(entry, list) else parser
            for flag, how in entry if isinstance(entry, list) else [entry]:
                group.add_argument(flag, **how)
    return top
