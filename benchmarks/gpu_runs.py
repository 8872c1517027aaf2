"""Gather evidence on a GPU that is at hand for minutes: many runs side by side, in a wanted order, until a deadline.

    python gpu_runs.py decode cifar10 FOLDER...   # parquet files into the cache of decoded sets, on all cores
    python gpu_runs.py limits --seconds 600       # when to leave off, and how many runs may go side by side
    python gpu_runs.py work JOBS                  # run what JOBS lists, each once its data and its parent are there
    python gpu_runs.py state                      # what is running, and how far it is
    python gpu_runs.py pack FOLDER                # all rows and results as archives, of unfinished runs too; no weights

To be run in the project's folder, whose `run.py` trains; `RUNS_DIR` is where the records go. A job is a line `lane name
seeds`:

- alone: nothing else runs meanwhile, and nothing begins once its data are there;
- heavy: keeps the GPU busy by itself, as the CNNs do; light: waits for launches mostly, as the MLPs do; cpu: the
baseline.

Jobs begin in the order of their lines, so write the dear ones of a tier first. One begins only if its estimated price,
times the lane's slowdown, fits before the deadline. No process is ever ended from outside: under NVIDIA's multi-process
service that ends the others too. At the deadline runs leave off by themselves after their epoch. Nothing here looks at
an outcome.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path.insert(0, os.getcwd())

RUNS = Path(os.environ.get("RUNS_DIR") or "runs")
LIMITS, LOG = RUNS / "limits.json", RUNS / "lease.jsonl"
DEFAULTS = {"deadline": 0.0, "all": 14, "heavy": 8, "light": 3, "cpu": 2}
SLOWDOWN = {"alone": 1.0, "heavy": 1.7, "light": 2.0, "cpu": 1.0}  # side by side, of the price alone
THREADS = {"heavy": 1, "light": 1, "cpu": 4}  # alone: all
# cifar100's test part stays away
PARTS = {"mnist": ("train", "test"), "cifar10": ("train", "test"), "cifar100": ("train",)}
MOST_BYTES = 8 * 2**20  # of records in one archive, uncompressed; it is closed once it has them


@dataclass(frozen=True)
class Job:
    """One process: some seeds of one experiment, one after the other."""

    lane: str
    name: str
    seeds: str


def read_jobs(path: Path) -> list[Job]:
    """The jobs that a file lists, in its order; "#" begins a remark."""
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return [Job(*fields) for fields in lines if fields]


# ---------------------------------------------------------------- data


def _decode_some(name: str, shard: Path, first: int, images: int) -> np.ndarray:
    from deepnet.data.sources import decode_table, read_table

    return decode_table(name, read_table(shard).slice(first, images))


def decode_set(name: str, folder: Path, workers: int | None = None) -> None:
    """Decode the parts of a set whose shards lie in `folder` into the cache. What differs from the published set is
    refused.
    """
    import pyarrow.parquet as pq

    from deepnet.data.sets import _write_cache, canonical_order, checked

    for part in PARTS[name]:
        shards = [(shard, pq.read_metadata(shard).num_rows) for shard in sorted(folder.glob(f"{part}-*.parquet"))]
        pieces = [(name, shard, first, 4000) for shard, images in shards for first in range(0, images, 4000)]
        with get_context("fork").Pool(workers) as pool:
            rows = np.concatenate(pool.starmap(_decode_some, pieces, chunksize=1))
        _write_cache(
            checked(rows[canonical_order(rows)], name, "complete", part, str(folder)), name, "complete", part, None
        )


# ---------------------------------------------------------------- who may begin


def limits() -> dict:
    """The limits as they are now: others may be set while runs go on."""
    return DEFAULTS | (json.loads(LIMITS.read_text()) if LIMITS.exists() else {})


def ready(job: Job, profile: str) -> bool:
    """Whether the job's data and its parents' results are there."""
    from deepnet.data.sets import is_available_locally
    from experimentTable import experiment

    exp = experiment(job.name, profile)
    parent = exp.start_from and RUNS / profile / exp.start_from
    there = not parent or all((parent / f"seed-{seed}" / "result.json").exists() for seed in seeds_of(job))
    return there and all(is_available_locally(exp.dataset, part, profile) for part in PARTS[exp.dataset])


def seeds_of(job: Job) -> list[int]:
    """The job's seeds, one after the other."""
    from run import parse_seeds

    return parse_seeds(job.seeds)


def estimate(job: Job, profile: str) -> float:
    """Seconds that the job takes beside others, by the table's prices."""
    from experimentTable import estimated_seconds, experiment

    return SLOWDOWN[job.lane] * len(seeds_of(job)) * estimated_seconds(experiment(job.name, profile))


def next_job(waiting: list[Job], running: list[Job], now: dict, left: float, profile: str) -> Job | None:
    """The job that may begin now, if any: the first that is ready, fits the time left, and finds room in its lane."""
    if any(job.lane == "alone" for job in running):
        return None
    able = [job for job in waiting if estimate(job, profile) <= left and ready(job, profile)]
    if alone := next((job for job in able if job.lane == "alone"), None):
        return None if running else alone
    heavy = any(job.lane == "heavy" for job in (*able, *running))
    room = {lane: now[lane] if heavy or lane != "light" else now["all"] for lane in ("heavy", "light", "cpu")}
    room = {lane: most - sum(job.lane == lane for job in running) for lane, most in room.items()}
    return next((job for job in able if room[job.lane] > 0), None) if len(running) < now["all"] else None


# ---------------------------------------------------------------- working it off


def begin(job: Job, profile: str, left: float) -> subprocess.Popen:
    """Start the job's process; it leaves off by itself after the epoch in which the time is up."""
    threads = {"OMP_NUM_THREADS": str(THREADS[job.lane])} if job.lane in THREADS else {}
    command = [
        sys.executable,
        "run.py",
        "train",
        job.name,
        "--profile",
        profile,
        "--seeds",
        job.seeds,
        "--minutes",
        f"{left / 60:.3f}",
    ]
    output = RUNS / "logs" / f"{job.name}-{job.seeds}.txt"
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a") as stream:
        return subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ | threads
        )


def note(event: str, job: Job | None = None, **more: object) -> None:
    """Write one line to the log."""
    line = {"time": round(time.time(), 1), "event": event} | (vars(job) if job else {}) | more
    with LOG.open("a") as stream:
        print(json.dumps(line), file=stream)


def work(jobs: list[Job], profile: str) -> None:
    """Run the jobs until all have ended, or none that waits fits before the deadline any more; one that crashed is
    resumed once.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    waiting, running, again = list(jobs), dict[subprocess.Popen, Job](), set[Job]()
    note("work", jobs=len(jobs))
    while running or (waiting and time.time() < limits()["deadline"]):
        for process, job in list(running.items()):
            if process.poll() is None:
                continue
            del running[process]
            ended = all((RUNS / profile / job.name / f"seed-{seed}" / "result.json").exists() for seed in seeds_of(job))
            note("end", job, code=process.returncode, ended=ended, beside=len(running))
            if not ended and job not in again:
                again.add(job)
                waiting.insert(0, job)
        now = limits()
        left = now["deadline"] - time.time()
        while left > 0 and (chosen := next_job(waiting, list(running.values()), now, left, profile)):
            waiting.remove(chosen)
            running[begin(chosen, profile, left)] = chosen
            note("begin", chosen, beside=len(running) - 1)
        time.sleep(0.3)
    note("done", left_out=[vars(job) for job in waiting])


def state(profile: str) -> None:
    """Print each run that has begun: how many rows, how long its last epochs took."""
    for folder in sorted((RUNS / profile).glob("*/seed-*")):
        rows = (
            [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
            if (folder / "rows.jsonl").exists()
            else []
        )
        seconds = [round(row.get("train_seconds", 0), 1) for row in rows]
        print(
            folder.parent.name,
            folder.name,
            "ended" if (folder / "result.json").exists() else "",
            len(rows),
            *seconds[-2:],
        )
    for line in LOG.read_text().splitlines() if LOG.exists() else []:
        if (entry := json.loads(line))["event"] == "end" and not entry["ended"]:
            print(line)


# ---------------------------------------------------------------- bringing it back


def pack(target: Path, profile: str) -> list[Path]:
    """All records, logs included and weights left out, as archives of at most so many bytes each."""
    unwanted = (".pt", ".lock", ".part")
    files = sorted(
        f for f in RUNS.rglob("*") if f.is_file() and f.suffix not in unwanted and not f.name.startswith(".")
    )
    made: list[Path] = []
    room = 0
    target.mkdir(parents=True, exist_ok=True)
    archive: tarfile.TarFile | None = None
    for file in files:
        if archive is None or room <= 0:
            if archive:
                archive.close()
            made.append(target / f"records-{len(made)}.tar.gz")
            archive, room = tarfile.open(made[-1], "w:gz", compresslevel=3), MOST_BYTES  # noqa: SIM115 - closed once it is full
        with suppress(FileNotFoundError):  # renamed meanwhile
            archive.add(file, file.relative_to(RUNS))
            room -= file.stat().st_size
    if archive:
        archive.close()
    return made


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", default="paper")
    commands = parser.add_subparsers(dest="command", required=True)
    decoding = commands.add_parser("decode")
    decoding.add_argument("name", choices=PARTS)
    decoding.add_argument("folder", type=Path)
    setting = commands.add_parser("limits")
    setting.add_argument("--seconds", type=float, help="from now to the deadline")
    for lane in ("all", "heavy", "light", "cpu"):
        setting.add_argument(f"--{lane}", type=int)
    commands.add_parser("work").add_argument("jobs", type=Path)
    commands.add_parser("state")
    commands.add_parser("pack").add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.command == "decode":
        decode_set(given.name, given.folder)
    elif given.command == "limits":
        changed = {
            lane: value for lane in ("all", "heavy", "light", "cpu") if (value := getattr(given, lane)) is not None
        }
        changed |= {} if given.seconds is None else {"deadline": time.time() + given.seconds}
        RUNS.mkdir(parents=True, exist_ok=True)
        LIMITS.with_suffix(".new").write_text(json.dumps(limits() | changed))
        LIMITS.with_suffix(".new").replace(LIMITS)
    elif given.command == "work":
        work(read_jobs(given.jobs), given.profile)
    elif given.command == "state":
        state(given.profile)
    else:
        print(*pack(given.folder, given.profile), sep="\n")


if __name__ == "__main__":
    main()
