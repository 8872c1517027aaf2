"""A search in the database of a real PostgreSQL server on loopback, shared by processes of which one is killed."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import faults
import optuna
import pytest
from faults import log_of, start, tally_rows
from helpers import needs_fork, refused

import coreFunction

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
pytestmark = needs_fork
PASSWORD = "open sesame {42}: 100%"
QUOTED = "open%20sesame%20%7B42%7D%3A%20100%25"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server's database. The server is a child of this process, and its files are gone when it is."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ["PATH"], *map(str, debian)])
    if not (initdb := shutil.which("initdb", path=path)):
        pytest.skip("no PostgreSQL server is installed")
    # Root may not run a server, and who may cannot enter a folder of pytest's.
    who = {"user": "nobody"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:
        secret, data = Path(folder) / "password", Path(folder) / "data"
        secret.write_text(PASSWORD)
        if who:
            for owned in (folder, secret):
                shutil.chown(owned, who["user"])
        options = ["-A", "scram-sha-256", f"--pwfile={secret}", "--locale=C", "-E", "UTF8", "--no-sync"]
        making = [initdb, "-D", data, "-U", "searcher", *options]
        subprocess.run(making, check=True, capture_output=True, cwd=folder, **who)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = ["-c", f"port={port}", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        postgres = Path(initdb).resolve().with_name("postgres")
        serving = [postgres, "-D", data, "-c", "listen_addresses=127.0.0.1", *settings]
        log = Path(folder) / "log"
        with log.open("w") as out, subprocess.Popen(serving, stdout=out, stderr=out, cwd=folder, **who) as process:
            try:
                wait_for(lambda: "ready to accept connections" in log.read_text() or process.poll() is not None)
                assert process.poll() is None, log.read_text()
                yield f"postgresql+psycopg2://searcher:{QUOTED}@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGQUIT)  # at once, whoever is still connected


def wait_for(condition) -> None:
    """Poll until it holds."""
    end = time.monotonic() + faults.AT_MOST
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def jobs(server, monkeypatch):
    """The two ways to work on a search, in the server's database."""
    monkeypatch.setitem(
        faults.JOBS, "search", lambda: coreFunction.search(faults.SWEEP, 5, base="MLP_res_5", storage=server)
    )
    monkeypatch.setitem(faults.JOBS, "joining", lambda: coreFunction.join(storage=server))


def die_amid_two(runs: Path) -> None:
    """Have this process die in its first trial's second epoch, once another has recorded a row of a second trial."""
    calls = itertools.count(1)

    def die(*_):
        if next(calls) == 3:
            wait_for(lambda: any(runs.glob("*/search_2/seed-0/rows.jsonl")))
            faults._die()

    faults._hook("torch:Tensor.backward", after=die)


def test_one_of_two_processes_is_killed(server, tmp_path, runs_dir):
    rows = tmp_path / "rows"
    first = start("search", runs_dir, partial(tally_rows, rows), partial(die_amid_two, runs_dir))
    wait_for(lambda: any(runs_dir.glob("*/search_1/seed-0/rows.jsonl")))
    second = start("joining", runs_dir, partial(tally_rows, rows))
    for process in (first, second):
        process.join(faults.AT_MOST)
    assert [process.exitcode for process in (first, second)] == [-signal.SIGKILL, 0], log_of(runs_dir).read_text()
    made = faults.records(runs_dir)
    assert [record.name for record in made] == [f"search_{number}" for number in range(1, 6)]
    assert all(record.finished for record in made)
    assert sorted(rows.read_text().splitlines()) == [f"{one.name} {epoch}" for one in made for epoch in (0, 1, 2)]
    study = optuna.load_study(study_name="search-sample-seed0", storage=server)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5
    drawn = [trial.params for trial in study.trials]
    assert len({params["lr"] for params in drawn}) == 5
    assert sorted(params["lr"] for params in drawn) == sorted(record.settings["experiment"]["lr"] for record in made)
    ended = log_of(runs_dir).read_text().splitlines()[-1]
    assert sorted(ended.strip("[]").replace("'", "").split(", ")) == [record.name for record in made]
    assert_secret(runs_dir)


def test_process_without_the_records(server, tmp_path, monkeypatch, tiny):
    begun = coreFunction.search(faults.SWEEP, 1, base="MLP_4", name="seen", storage=server)
    assert [record.path for record in coreFunction.join("seen", storage=server)] == [record.path for record in begun]
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("RUNS_DIR", str(elsewhere))
    for work in (coreFunction.join, partial(coreFunction.search, faults.SWEEP, 2, base="MLP_4")):
        refused(partial(work, name="seen", storage=server), str(elsewhere), "set RUNS_DIR to a folder that all share")
    assert not list(elsewhere.rglob("settings.json"))


def test_closed_connections(server, monkeypatch, tiny):
    import psycopg2

    closed, run = [], coreFunction.run

    def run_while_they_are_closed(exp, **options):
        with psycopg2.connect(server.replace("+psycopg2", "")) as administration, administration.cursor() as cursor:
            others = "usename = 'searcher' AND pid <> pg_backend_pid()"
            cursor.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            closed.append(cursor.rowcount)
        administration.close()
        return run(exp, **options)

    monkeypatch.setattr(coreFunction, "run", run_while_they_are_closed)
    records = coreFunction.search(faults.SWEEP, 2, base="MLP_4", name="closed", storage=server)
    assert [record.finished for record in records] == [True, True]
    assert closed[0] > 0


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (QUOTED, f"wrong{QUOTED}", "password authentication failed"),
        ("/postgres", "/nowhere", 'database "nowhere" does not exist'),
        (QUOTED, PASSWORD + "@@", "cannot be opened"),  # not quoted as a URL asks for
        ("postgresql+psycopg2", "oracle+none", "Can't load plugin"),
        ("/postgres", "/postgres?password=another sesame", "password authentication failed"),
    ],
)
def test_refusal_without_the_password(server, runs_dir, old, new, what):
    said = refused(
        lambda: coreFunction.join(storage=server.replace(old, new)), "the search's database ", what, "or name another"
    )
    assert "sesame" not in said
    assert "searcher" not in said.split("(")[0]
    assert_secret(runs_dir)


def test_nothing_to_join(server):
    said = refused(lambda: coreFunction.join("none", storage=server), "no search 'none'", "***@127.0.0.1", "begin it")
    assert "sesame" not in said


def assert_secret(runs: Path) -> None:
    """No file in `runs`, nor what was printed, quotes the password."""
    files = [path for path in (*runs.rglob("*"), log_of(runs)) if path.is_file()]
    assert not [path for path in files if b"sesame" in path.read_bytes()]
