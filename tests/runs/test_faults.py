"""Whatever stops a run, the same call resumes it, and the outcome is bit-equal, with no row lost or doubled.

`make faults` is the long form: it makes KILLS=200 kills, and writes what they did to faults-summary.md.
"""

import os
import platform
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path

import faults
import optuna
import pytest
from faults import ANYWHERE, PLACES, Reference, Tally, die_at, finish, kill, leap, log_of, series, start, tally_rows
from helpers import ROOT, needs_fork

from deepnet.records.provenance import provenance
from deepnet.records.reading import Record

pytestmark = needs_fork
KILLS = int(os.environ.get("KILLS", 0))  # of the long form
SHARES = {"early stopping": 0.4, "unfreezing": 0.4, "search": 0.2}
SHORT = {"early stopping": 18, "unfreezing": 12, "search": 5}
CHECKPOINT = "deepnet.records.folder:RunFolder.checkpoint"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """Each job as it is when nothing disturbs it, made once."""
    folder, made = tmp_path_factory.mktemp("references"), {}

    def make(job: str) -> Reference:
        if job not in made:
            begin = folder / "pretraining" if job == "unfreezing" else None
            if begin:
                finish("pretraining", begin)
            made[job] = Reference(job, folder / job, begin)
        return made[job]

    return make


# ---------------------------------------------------------------- killed


@pytest.fixture(scope="module")
def tallies() -> Iterator[dict[str, Tally]]:
    """What the kills of each job have done; the long form writes it down."""
    made: dict[str, Tally] = {}
    begun = time.monotonic()
    yield made
    if KILLS:
        (ROOT / "tests" / "faults-summary.md").write_text(summary(made, time.monotonic() - begun))


@pytest.mark.parametrize("job", PLACES)
def test_resume_after_kill(reference, tallies, tmp_path, job):
    kills = round(KILLS * SHARES[job]) or SHORT[job]
    tallies[job] = series(reference(job), tmp_path, kills, random.Random(f"{job} {kills}"))
    assert tallies[job].kills.total() >= kills
    assert set(tallies[job].kills) > {ANYWHERE}
    assert not tallies[job].harm


def study_of(runs: Path) -> optuna.Study:
    """The search's trials."""
    return optuna.load_study(study_name="search-sample-seed0", storage=f"sqlite:///{runs / 'sample' / 'search.sqlite'}")


def assert_whole(runs: Path, trials: int = 5) -> list[Record]:
    """Assert that the search has all its trials, each with its three rows and its own values; returns the records."""
    assert [trial.state.name for trial in study_of(runs).trials] == ["COMPLETE"] * trials
    made = sorted(faults.records(runs), key=lambda record: int(record.name.removeprefix("search_")))
    assert [record.name for record in made] == [f"search_{number}" for number in range(1, trials + 1)]
    assert all(record.finished and [row["epoch"] for row in record.rows] == [0, 1, 2] for record in made)
    assert len({record.settings["identity"]["lr"] for record in made}) == trials
    return made


def test_search_of_three_processes_one_killed(tmp_path):
    runs, rows = tmp_path / "runs", tmp_path / "rows"
    tally = partial(tally_rows, rows)
    assert kill("search", runs, tally, partial(die_at, CHECKPOINT, "after", 1))  # so that there is something to join
    dying = start("joining", runs, tally, partial(die_at, "torch:Tensor.backward", "after", 1, signal.SIGSTOP))
    os.waitpid(dying.pid, os.WUNTRACED)  # until it stands still, amid a trial
    others = [start("joining", runs, tally), start("search", runs, tally)]
    while not any(record.name == "search_2" and record.rows for record in faults.records(runs)):
        time.sleep(0.02)
    dying.kill()
    for process in (dying, *others):
        process.join(faults.AT_MOST)
    assert [process.exitcode for process in (dying, *others)] == [-signal.SIGKILL, 0, 0]
    made = assert_whole(runs)
    assert sorted(rows.read_text().splitlines()) == [f"{one.name} {epoch}" for one in made for epoch in (0, 1, 2)]


def test_search_waits_for_a_stopped_process(tmp_path):
    runs = tmp_path / "runs"
    slow = start("search", runs, partial(die_at, CHECKPOINT, "after", 1, signal.SIGSTOP))
    while not list(runs.rglob("checkpoint.pt")):
        time.sleep(0.02)
    other = start("joining", runs)
    while [record.finished for record in faults.records(runs)].count(True) < 4:
        time.sleep(0.02)
    other.join(2)
    assert other.is_alive()
    os.kill(slow.pid, signal.SIGCONT)
    for process in (slow, other):
        process.join(faults.AT_MOST)
    assert [process.exitcode for process in (slow, other)] == [0, 0], log_of(runs).read_text()
    assert_whole(runs)


def summary(tallies: dict[str, Tally], seconds: float) -> str:
    """The long form's outcome as Markdown."""
    made = provenance("auto")
    kills = sum((tally.kills for tally in tallies.values()), Counter())
    harm = sum((tally.harm for tally in tallies.values()), Counter())
    kinds = ["rows lost", "rows doubled", "rows changed", "records lost", "records too many", "weights changed"]
    kinds += ["predictions changed", "results changed", "answers changed", "files left"]
    commit = f"{(made['commit'] or 'unknown')[:7]}{' (and changes)' if made['dirty'] else ''}"
    threads = f"{made['threads']} thread, Python {made['python']}, torch {made['torch']}"
    runs, records = (sum(getattr(tally, count) for tally in tallies.values()) for count in ("runs", "records"))

    def table(title: str, counts: str, rows: Iterable[str]) -> list[str]:
        cells = {row: " | ".join(str(getattr(tally, counts)[row]) for tally in tallies.values()) for row in rows}
        head = [f"\n| {title} | " + " | ".join(tallies) + " |", "|---|" + "---:|" * len(tallies)]
        return head + [f"| {row} | {cell} |" for row, cell in cells.items()]

    lines = [
        "# Killed and run again\n",
        f"`make faults` on {date.today()}, commit {commit}:",
        f"{made['processor']}, {threads}, {platform.system()}; {seconds:.0f} s.\n",
        f"{kills.total()} kills (SIGKILL) of {runs} jobs, each run again until it ended;",
        f"{records} records compared with those of jobs that nothing disturbed.",
        *table("what differs", "harm", kinds),
        *table("killed", "kills", sorted(kills)),
    ]
    assert not set(harm) - set(kinds)
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- a disk that is full, or read-only


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A records folder on a separate disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextmanager
def full(disk: Path, room: int = 0) -> Iterator[None]:
    """No more than `room` bytes are free."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - room))
    yield
    filler.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Nothing can be written."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@pytest.mark.parametrize("hindered", [full, read_only])
def test_search_on_such_a_disk(reference, disk, hindered):
    assert kill("search", disk, partial(die_at, CHECKPOINT, "after", 3))
    with hindered(disk):
        said = finish("search", disk).splitlines()
    assert str(disk) in said[-1]
    assert not any("Traceback" in line for line in said)
    finish("search", disk)
    assert not reference("search").harm(disk)


# ---------------------------------------------------------------- clocks


def test_clocks_that_leap(reference, tmp_path):
    """By up to an hour at each reading, so that checkpoints come sooner or later than after 30 s."""
    runs = tmp_path / "runs"
    assert kill("early stopping", runs, partial(leap, 1), partial(die_at, CHECKPOINT, "after", 1), seconds=30)
    assert list(runs.rglob("checkpoint.pt"))
    finish("early stopping", runs, partial(leap, 2), seconds=30)
    assert not reference("early stopping").harm(runs)


# ---------------------------------------------------------------- Ctrl-C in a notebook


SETUP = "import faults; from coreFunction import run_all; from faults import STOPPING; faults.cut_down()"
CELL = "print([record.name for record in run_all(STOPPING, evidence=False)])"


def test_interrupted_cell(reference, runs_dir, monkeypatch):
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        assert client.execute_interactive(SETUP, timeout=120)["content"]["status"] == "ok"
        cell = client.execute(CELL)
        while not any(rows.read_text().count("\n") >= 2 for rows in runs_dir.rglob("rows.jsonl")):
            time.sleep(0.005)
        manager.interrupt_kernel()
        interrupted = time.monotonic()
        reply, printed = ended(client, cell)
        assert time.monotonic() - interrupted < 10
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert printed.endswith("interrupted; the same call continues from here\n")
        (unfinished,) = faults.records(runs_dir)
        assert not unfinished.result
        assert (unfinished.path / "checkpoint.pt").exists()
        reply, printed = ended(client, client.execute(CELL))
        assert reply["status"] == "ok"
        log_of(runs_dir).write_text(printed)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert not reference("early stopping").harm(runs_dir)


def ended(client, cell: str) -> tuple[dict, str]:
    """The reply to a cell, and what it printed."""
    printed = ""
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != cell:
            continue
        if message["msg_type"] == "stream":
            printed += message["content"]["text"]
        if message["content"].get("execution_state") == "idle":
            break
    while True:
        reply = client.get_shell_msg(timeout=60)
        if reply["parent_header"].get("msg_id") == cell:
            return reply["content"], printed
