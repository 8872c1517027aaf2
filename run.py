"""The command line: list experiments, train, search, show, publish, verify and diagnose them, and write them to W&B."""

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

from deepnet.records import reading
from deepnet.records.publish import publish as publish_record
from deepnet.records.reading import find_record, roots
from deepnet.search.sweep import REPORT_SWEEP
from deepnet.text import counted, duration
from experimentTable import (
    NAME,
    PROFILES,
    ROWS,
    UsageError,
    choose,
    current_profile,
    estimated_seconds,
    experiment,
    identity,
    is_supported,
)

MOST_SEEDS = 1_000  # in one call


def parse_seeds(text: str) -> list[int]:
    """`"0-4"`, `"0,2"` or `"1"` as a list without repetitions.

    Raises UsageError for what is no number, and for more than MOST_SEEDS.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(first) > int(last or first):
            raise UsageError(f"seeds {text!r} are no numbers; write 3, 0,2 or 0-4")
        several = range(int(first), int(last or first) + 1)
        seeds |= dict.fromkeys(several[: MOST_SEEDS + 1])
        if len(seeds) > MOST_SEEDS:
            raise UsageError(f"seeds {text!r} are more than {MOST_SEEDS:,}; name fewer in one call")
    return list(seeds)


def minutes(text: str) -> float:
    """A number of minutes. Raises argparse's error for what is none, negative or not finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes; write 90 or 0.5")
    return value


def chosen_names(arguments: argparse.Namespace, recorded: bool = False) -> list[str]:
    """The experiments named, and all of a chapter that the profile has a budget for, each once.

    `recorded`: what is not in the table will do too where it has a record, as a search's trial or a variant has.
    """
    profile = current_profile(arguments.profile)
    for name in arguments.names:
        if not (recorded and re.fullmatch(NAME, name) and any((root / profile / name).is_dir() for root in roots())):
            experiment(name)
    if arguments.chapter not in (None, *(row.chapter for row in ROWS)):
        raise UsageError(f"the report's experiments are in chapters 2 to 5, not {arguments.chapter}")
    chapter = [
        row.name for row in ROWS if row.chapter == arguments.chapter and is_supported(experiment(row.name, profile))
    ]
    names = list(dict.fromkeys([*arguments.names, *chapter]))
    if not names:
        raise UsageError("name an experiment or a chapter; `python run.py list` shows them all")
    return names


def list_runs(arguments: argparse.Namespace) -> bool:
    """Print every experiment: what it is, its state with seed 0 and its estimated time.

    A damaged record says so in its row, and the reason on standard error.
    """
    profile = current_profile(arguments.profile)
    roots()  # refused once, where no folder is named, and not in each row
    table = []
    for row in ROWS:
        exp = experiment(row.name, profile)
        nothing = "-" if is_supported(exp) else "no budget here"
        try:
            found = find_record(row.name, profile)
            state = found.result.get("status", "unfinished") if found else nothing
        except UsageError as error:
            state = "damaged"
            print(f"run.py: {error}", file=sys.stderr)
        what = {
            key: identity(exp)[key]
            for key in ("kind", "chapter", "model", "dataset", "lr", "optimizer", "epochs", "batch_size")
        }
        table.append({"name": row.name, **what, "state": state, "seconds": estimated_seconds(exp)})
    if arguments.json:
        print(json.dumps(table, indent=1))
        return True
    where = PROFILES[profile].priced_on
    print(f"profile {profile}, seed 0{where and f', cost on {where}'}")
    columns = (
        "{name:16} {chapter:>3} {model:10} {dataset:8} {lr:>9} {optimizer:9} {epochs:>6} {batch_size:>5} {cost:>12}"
    )
    line = f"{columns}  {{state}}".format_map
    print(line({key: key for key in (*table[0], "cost")} | {"batch_size": "batch", "chapter": "ch."}))
    for entry in table:
        cost = duration(entry["seconds"]) if entry["seconds"] else "not measured"
        blank = (
            {}
            if entry["kind"] == "training"
            else {"model": entry["kind"], "lr": "", "optimizer": "", "epochs": "", "batch_size": ""}
        )
        print(line(entry | {"cost": cost} | blank))
    return True


def train(arguments: argparse.Namespace) -> bool:
    """Train what is named; with --minutes leave off between epochs when the time is up."""
    names, seeds = chosen_names(arguments), parse_seeds(arguments.seeds)  # refused at once, before torch is imported
    from coreFunction import run_all
    from deepnet.runs.queue import dask_executor, process_pool

    end = time.monotonic() + 60 * arguments.minutes if arguments.minutes is not None else math.inf
    workers = (
        dask_executor(arguments.dask)
        if arguments.dask
        else process_pool(arguments.workers)
        if arguments.workers is not None
        else nullcontext()
    )
    with workers as executor:
        records = run_all(
            *names, profile=arguments.profile, seeds=seeds, evidence=not arguments.fresh, executor=executor,
            stop=lambda: time.monotonic() > end,
        )  # fmt: skip
    for record in records:
        print(record)
    return len(records) == len(names) * len(seeds)


def evidence(arguments: argparse.Namespace) -> bool:
    """Print the runs that each claim waits for to be judged on several seeds; with --minutes, train them in that order.

    What has ended is published at once, failed or not.
    """
    profile = current_profile(arguments.profile)
    from deepnet.runs.evidence import missing_evidence

    queue = missing_evidence(profile, arguments.count)
    if arguments.json:
        rows = [{"claim": m.claim, "name": m.exp.name, "seed": m.exp.seed, "seconds": m.seconds} for m in queue]
        print(json.dumps(rows, indent=1))
    else:
        missing = f"{counted(len(queue), 'run')} missing for {counted(arguments.count, 'seed')} of each claim"
        print(f"profile {profile}: {missing}, {duration(sum(m.seconds for m in queue))}")
        for m in queue:
            again = "  (again, for its weights)" if m.published else ""
            print(f"{m.claim:4} {m.exp.name:16} seed {m.exp.seed}  {duration(m.seconds):>12}{again}")
    if arguments.minutes is None:
        return True
    from coreFunction import run

    end, ended = time.monotonic() + 60 * arguments.minutes, 0
    for m in queue:
        if time.monotonic() > end:
            break
        try:
            record = run(m.exp, stop=lambda: time.monotonic() > end)
            ended += bool(record.result)
            if record.result and not m.published:
                print(publish_record(record))
        except UsageError as error:  # a parent that failed, or a run that another process is at; the others go on
            print(f"run.py: {error}", file=sys.stderr)
    return ended == len(queue)


def search(arguments: argparse.Namespace) -> bool:
    """The report's search, or with --join work on one that another process has begun; its finished trials, best first.

    It ends when all its trials have; that is a success unless every one of them is without a score.
    """
    name, profile, seed, count = (
        arguments.join or arguments.name,
        current_profile(arguments.profile),
        arguments.seed,
        arguments.count,
    )
    from coreFunction import join
    from coreFunction import search as begin_search

    where: dict[str, Any] = {"profile": profile, "seed": seed, "storage": arguments.storage}
    begin = partial(begin_search, REPORT_SWEEP, count)
    records = (join if arguments.join else begin)(name=name, **where)
    for record in records:
        print(record)
    return bool(records)


def show(arguments: argparse.Namespace) -> bool:
    """One run's settings and rows."""
    profile, found = current_profile(arguments.profile), True
    for name in chosen_names(arguments, recorded=True):
        for seed in parse_seeds(arguments.seeds):
            record = find_record(name, profile, seed)
            if record is None:
                found = False
                remedy = f"`python run.py train {name} --profile {profile}`"
                print(f"{name} (seed {seed}) has no record in {profile}; {remedy}", file=sys.stderr)
            elif arguments.json:
                print(
                    json.dumps(
                        {
                            "path": str(record.path),
                            "settings": record.settings,
                            "rows": record.rows,
                            "result": record.result,
                        }
                    )
                )
            else:
                _print_record(record)
    return found


def _print_record(record: Any) -> None:
    print(record, record.path, sep="\n")
    for part in ("identity", "provenance"):
        print(
            f"{part}: "
            + ", ".join(f"{key} {value}" for key, value in record.settings[part].items() if value is not None)
        )
    for row in record.rows:
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, list)))
    if record.result:
        print(
            "result: "
            + ", ".join(
                f"{key} {value}" for key, value in record.result.items() if key != "sha256" and value is not None
            )
        )


def publish(arguments: argparse.Namespace) -> bool:
    """Copy the records that have ended, failed ones too, weights left out, to report/records."""
    profile = current_profile(arguments.profile)
    names = chosen_names(arguments, recorded=True)
    found = {name: reading.find_records(name, profile, evidence=False, failed=True) for name in names}
    published = {name: sorted((reading.EVIDENCE / profile / name).glob("seed-*/result.json")) for name in names}
    if missing := [name for name in names if not found[name] and not published[name]]:
        raise UsageError(f"{missing[0]} has no finished record in {profile}; train it first")
    for name, records in found.items():
        for result in published[name] if not records else ():
            print(f"{name} is published already: {result.parent}")
        for record in records:
            print(publish_record(record))
    return True


def verify(arguments: argparse.Namespace) -> bool:
    """Train committed records again and say what differs; with --json standard output holds that alone."""
    names, seeds = chosen_names(arguments), parse_seeds(arguments.seeds)
    from coreFunction import verify as verify_record

    found = []
    for name, seed in ((name, seed) for name in names for seed in seeds):
        try:
            with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
                found.append(verify_record(name, arguments.profile, seed, arguments.epochs))
                print(found[-1], flush=True)
        except UsageError as error:
            print(f"run.py: {error}", file=sys.stderr)
    if arguments.json:
        print(json.dumps([asdict(difference) for difference in found], indent=1))
    return len(found) == len(names) * len(seeds) and all(difference.agreed for difference in found)


def diagnose(arguments: argparse.Namespace) -> bool:
    """Say of the named runs' untrained models why they would not learn, and try the cures; nothing is recorded."""
    names, seeds = chosen_names(arguments), parse_seeds(arguments.seeds)
    from coreFunction import build
    from deepnet.diagnosis.diagnosing import diagnose_run

    exps = [experiment(name, current_profile(arguments.profile), seed) for name in names for seed in seeds]
    found = {exp: diagnose_run(exp, build, cures=not arguments.no_cures) for exp in exps}
    if arguments.json:
        print(json.dumps([{"name": exp.name, "seed": exp.seed} | d.to_dict() for exp, d in found.items()], indent=1))
    else:
        print("\n\n".join(f"{exp.name}, seed {exp.seed}\n{diagnosis}" for exp, diagnosis in found.items()))
    return True


def sync(arguments: argparse.Namespace) -> bool:
    """Write finished records (of all seeds, where none is named) and the profile's figures to W&B."""
    profile = current_profile(arguments.profile)
    names = chosen_names(arguments, recorded=True) if arguments.names or arguments.chapter is not None else ["*"]
    seeds = parse_seeds(arguments.seeds) if arguments.seeds else None
    from deepnet.figures.registry import found
    from utilityFunction import sync as sync_records

    records = [
        r for name in names for runs in found(name, profile).values() for r in runs if seeds is None or r.seed in seeds
    ]
    missing = [name for name in arguments.names if name not in {record.name for record in records}]
    if missing or not records:
        raise UsageError(
            f"no finished record of {', '.join(missing) or 'a run'} in {profile}; `python run.py train` makes one"
        )
    print(sync_records(records, profile, arguments.weights))
    return True


COMMANDS = {
    "list": (list_runs, "every experiment with its state and price"),
    "train": (train, "train experiments, or go on with interrupted ones"),
    "evidence": (evidence, "the runs that the claims wait for, in the order to train them; with --minutes, train them"),
    "search": (search, "the report's hyperparameter search, by one process or several"),
    "show": (show, "a run's settings, rows and result"),
    "publish": (publish, "copy finished records to report/records, as evidence"),
    "verify": (verify, "train committed records again, apart from all others, and say what differs"),
    "diagnose": (diagnose, "say why a run's model does not learn, and try the cures on copies"),
    "sync": (
        sync,
        "write finished records and the figures to Weights & Biases; all of the profile where none is named",
    ),
}


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and ends with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `python {self.prog} --help` shows what there is\n")

    def known(self, kind: str, value: str, choices: Iterable[str]) -> None:
        try:
            choose(kind, value, choices)
        except UsageError as error:
            self.exit(2, f"{self.prog}: {error}\n")

    def parse_known_args(self, *arguments: Any) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        found, unknown = super().parse_known_args(*arguments)
        if unknown and unknown[0].startswith("--"):
            self.known("option", unknown[0].partition("=")[0], re.findall(r"--\w[\w-]*", self.format_usage()))
        return found, unknown


def parser() -> _Parser:
    """The commands and their options."""
    top = _Parser(prog="run.py", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (function, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        command.add_argument("--profile", default="", help=f"{', '.join(PROFILES)} (default: $PROFILE, else sample)")
        if name not in ("list", "search", "evidence"):
            command.add_argument("names", nargs="*", metavar="NAME", help="an experiment's name, as `list` shows it")
            command.add_argument("--chapter", type=int, help="all experiments of this chapter")
        if name in ("train", "show", "verify", "diagnose"):
            command.add_argument("--seeds", default="0", help="3, 0,2 or 0-4 (default 0)")
        if name == "sync":
            command.add_argument("--seeds", help="3, 0,2 or 0-4 (default all)")
            command.add_argument(
                "--weights", action="store_true", help="the weights too, as artifacts, where a record has them"
            )
        if name in ("list", "show", "verify", "evidence", "diagnose"):
            command.add_argument("--json", action="store_true", help="for programs")
        if name in ("train", "evidence"):
            command.add_argument("--minutes", type=minutes, help="leave off cleanly between epochs after this time")
        if name == "evidence":
            command.add_argument("--count", type=int, default=3, help="seeds that each claim is to rest on (default 3)")
        if name == "train":
            command.add_argument("--fresh", action="store_true", help="leave the committed records aside")
            several = command.add_mutually_exclusive_group()
            several.add_argument("--workers", type=int, help="so many processes side by side, which share the cores")
            several.add_argument(
                "--dask", metavar="ADDRESS", help="on the workers of this Dask scheduler, as tcp://host:8786"
            )
        if name == "search":
            command.add_argument("--count", type=int, default=12, help="trials in all (default 12)")
            command.add_argument("--name", default="search", help="its trials are NAME_1, NAME_2, ... (default search)")
            command.add_argument(
                "--join", metavar="NAME", help="work on the search of this name, which another process has begun"
            )
            command.add_argument("--seed", type=int, default=0, help="default 0")
            command.add_argument(
                "--storage",
                default="",
                help="a database server's URL, as postgresql+psycopg2://USER@HOST/DATABASE (default: SQLite)",
            )
        if name == "diagnose":
            command.add_argument("--no-cures", action="store_true", help="measure and judge alone")
        if name == "verify":
            command.add_argument("--epochs", type=int, help="train and compare the first epochs alone")
    return top


def main() -> int:
    """Exit status 0 only when what was asked was done."""
    # huge pages for large tensors, which torch asks for once, at its first one
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    top = parser()
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        top.known("command", sys.argv[1], COMMANDS)
    arguments = top.parse_args()
    try:
        return 0 if arguments.function(arguments) else 1
    except UsageError as error:
        print(f"run.py: {error}", file=sys.stderr)
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as interrupt:
        goes_on = "begins again" if arguments.function in (verify, sync) else "goes on from here"
        if not interrupt.args:  # else `run_all` has said it
            print(f"interrupted; the same command {goes_on}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
