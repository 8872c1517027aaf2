"""The command line: list experiments, train, search, show, publish, verify and diagnose them, and write them to W&B."""

import argparse
import json
import math
import os
import sys
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from typing import Any

from deepnet.command_line import Parser, chosen_names, chosen_runs, make_parser, parse_seeds
from deepnet.records import reading
from deepnet.records.publish import publish as publish_record
from deepnet.records.reading import find_record, roots
from deepnet.runs.families import family_runs, progress_of
from deepnet.search.sweep import REPORT_SWEEP
from deepnet.text import counted, duration
from experimentTable import (
    PROFILES,
    ROWS,
    UsageError,
    current_profile,
    estimated_seconds,
    experiment,
    identity,
    is_supported,
)


def list_runs(arguments: argparse.Namespace) -> bool:
    """Print every experiment: what it is, its state with seed 0 and its estimated time.

    A damaged record is marked in its row, with the reason on standard error. With --family, print how many seeds of
    each of its rows have finished.
    """
    profile = current_profile(arguments.profile)
    roots()  # raises here, once, if no folder can be named
    if arguments.family:
        return _list_family(arguments.family, profile, arguments.json)
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
        columns = ("kind", "chapter", "model", "dataset", "lr", "optimizer", "epochs", "batch_size")
        what = {key: identity(exp)[key] for key in columns}
        table.append({"name": row.name, **what, "state": state, "seconds": estimated_seconds(exp)})
    if arguments.json:
        print(json.dumps(table, indent=1))
        return True
    where = PROFILES[profile].timed_on
    print(f"profile {profile}, seed 0{where and f', cost on {where}'}")
    line = (
        "{name:16} {chapter:>3} {model:10} {dataset:8} {lr:>9} {optimizer:9} {epochs:>6} {batch_size:>5} {cost:>12}"
        "  {state}"
    ).format_map
    print(line({key: key for key in (*table[0], "cost")} | {"batch_size": "batch", "chapter": "ch."}))
    for entry in table:
        entry["cost"] = duration(entry["seconds"]) if entry["seconds"] else "not measured"
        if entry["kind"] != "training":
            entry |= dict.fromkeys(("lr", "optimizer", "epochs", "batch_size"), "") | {"model": entry["kind"]}
        print(line(entry))
    return True


def _list_family(family: str, profile: str, as_json: bool) -> bool:
    progress = progress_of(family_runs(family, profile))
    if as_json:
        print(json.dumps(progress, indent=1))
        return True
    finished, runs, seconds = (sum(each[key] for each in progress) for key in ("finished", "runs", "seconds"))
    print(f"profile {profile}: {finished} of {counted(runs, 'run')} finished, {duration(seconds)} to go")
    for each in progress:
        print(f"{each['name']:30} {each['finished']} of {each['runs']}")
    return True


def train(arguments: argparse.Namespace) -> bool:
    """Train the named experiments; with --minutes, stop between epochs when the time is up."""
    runs = chosen_runs(arguments)  # a wrong name is refused before torch is imported
    from coreFunction import run_all
    from deepnet.runs.queue import dask_executor, process_pool

    end = time.monotonic() + 60 * arguments.minutes if arguments.minutes is not None else math.inf
    workers: Any = nullcontext()
    if arguments.dask:
        workers = dask_executor(arguments.dask)
    elif arguments.workers is not None:
        workers = process_pool(arguments.workers)
    with workers as executor:
        records = run_all(
            *runs, profile=arguments.profile, evidence=not arguments.fresh, executor=executor,
            stop=lambda: time.monotonic() > end,
        )  # fmt: skip
    for record in records:
        print(record)
    return len(records) == len(runs)


def evidence(arguments: argparse.Namespace) -> bool:
    """Print the runs that each claim still needs to be judged on several seeds; with --minutes, train them in order.

    Each run is published as soon as it ends, failed or not.
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
        except UsageError as error:  # a failed parent, or a run that another process is training; the others continue
            print(f"run.py: {error}", file=sys.stderr)
    return ended == len(queue)


def search(arguments: argparse.Namespace) -> bool:
    """Run the report's search, or with --join work on one that another process has begun; print the trials, best first.

    It ends when all trials have ended, and succeeds if at least one of them has a score.
    """
    options = {
        "profile": current_profile(arguments.profile),  # a wrong one is refused before torch is imported
        "seed": arguments.seed,
        "storage": arguments.storage,
    }
    import coreFunction

    if arguments.join:
        records = coreFunction.join(arguments.join, **options)
    else:
        records = coreFunction.search(REPORT_SWEEP, arguments.count, name=arguments.name, **options)
    for record in records:
        print(record)
    return bool(records)


def show(arguments: argparse.Namespace) -> bool:
    """Print the settings, rows and result of each named run."""
    profile, found = current_profile(arguments.profile), True
    for name in chosen_names(arguments, recorded=True):
        for seed in parse_seeds(arguments.seeds):
            record = find_record(name, profile, seed)
            if record is None:
                found = False
                remedy = f"`python run.py train {name} --profile {profile}`"
                print(f"{name} (seed {seed}) has no record in {profile}; {remedy}", file=sys.stderr)
            elif arguments.json:
                parts = {part: getattr(record, part) for part in ("settings", "rows", "result")}
                print(json.dumps({"path": str(record.path), **parts}))
            else:
                _print_record(record)
    return found


def _print_record(record: Any) -> None:
    print(record, record.path, sep="\n")
    for part in ("identity", "provenance"):
        print(f"{part}: {_listed(record.settings[part])}")
    for row in record.rows:
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items() if not isinstance(value, list)))
    if record.result:
        print(f"result: {_listed(record.result)}")


def _listed(values: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if key != "sha256" and value is not None)


def publish(arguments: argparse.Namespace) -> bool:
    """Copy the records of runs that have ended, also failed ones, without their weights, to report/records."""
    profile = current_profile(arguments.profile)
    family = family_runs(arguments.family, profile) if arguments.family else []
    names = list(dict.fromkeys(exp.name for exp in family)) or chosen_names(arguments, recorded=True)
    found = {name: reading.find_records(name, profile, evidence=False, failed=True) for name in names}
    published = {name: sorted((reading.EVIDENCE / profile / name).glob("seed-*/result.json")) for name in names}
    missing = [name for name in names if not found[name] and not published[name]]
    if missing and (not family or missing == names):
        raise UsageError(f"{missing[0]} has no finished record in {profile}; train it first")
    for name, records in found.items():
        for result in published[name] if not records else ():
            print(f"{name} is published already: {result.parent}")
        for record in records:
            print(publish_record(record))
    return True


def verify(arguments: argparse.Namespace) -> bool:
    """Train committed records again and report differences; with --json, standard output holds only these."""
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
    """Diagnose the models of the named runs as they are before the first step, and try the cures.

    Nothing is recorded, but a parent that has not been trained yet is trained first.
    """
    names, seeds = chosen_names(arguments), parse_seeds(arguments.seeds)
    from coreFunction import build
    from deepnet.diagnosis.diagnosing import diagnose_run

    exps = [experiment(name, current_profile(arguments.profile), seed) for name in names for seed in seeds]
    cures = "" if arguments.no_cures else ", then trying its cures, up to a minute each (--no-cures leaves them out)"
    found = {}
    for exp in exps:
        print(f"{exp.name}, seed {exp.seed}: measuring{cures} ...", file=sys.stderr)
        found[exp] = diagnose_run(exp, build, cures=not arguments.no_cures)
    if arguments.json:
        print(json.dumps([{"name": exp.name, "seed": exp.seed} | d.to_dict() for exp, d in found.items()], indent=1))
    else:
        print("\n\n".join(f"{exp.name}, seed {exp.seed}\n{diagnosis}" for exp, diagnosis in found.items()))
    return True


def sync(arguments: argparse.Namespace) -> bool:
    """Write finished records (by default of all seeds) and the profile's figures to W&B."""
    profile = current_profile(arguments.profile)
    names = chosen_names(arguments, recorded=True) if arguments.names or arguments.chapter is not None else ["*"]
    seeds = parse_seeds(arguments.seeds) if arguments.seeds else None
    from deepnet.figures.registry import found
    from utilityFunction import sync as sync_records

    records = [record for name in names for runs in found(name, profile).values() for record in runs]
    records = [record for record in records if seeds is None or record.seed in seeds]
    missing = [name for name in arguments.names if name not in {record.name for record in records}]
    if missing or not records:
        what = ", ".join(missing) or "a run"
        raise UsageError(f"no finished record of {what} in {profile}; `python run.py train` makes one")
    print(sync_records(records, profile, arguments.weights))
    return True


COMMANDS = {
    "list": list_runs, "train": train, "evidence": evidence, "search": search, "show": show, "publish": publish,
    "verify": verify, "diagnose": diagnose, "sync": sync,
}  # fmt: skip


def parser() -> Parser:
    """The parser of all commands and their options."""
    return make_parser(str(__doc__), COMMANDS)


def main() -> int:
    """Run the command; returns exit status 0 only if all of it was done."""
    # Huge pages for large tensors; torch reads this when it allocates the first one.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    top = parser()
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        top.require("command", sys.argv[1], COMMANDS)
    arguments = top.parse_args()
    try:
        return 0 if arguments.function(arguments) else 1
    except UsageError as error:
        print(f"run.py: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as interrupt:
        rerun = "starts again" if arguments.function in (verify, sync) else "continues from here"
        if not interrupt.args:  # else `run_all` has printed it
            print(f"interrupted; the same command {rerun}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
