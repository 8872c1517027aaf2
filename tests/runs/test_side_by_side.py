"""`run_all` in several processes gives the same records as in one."""

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from helpers import ROOT, found, needs_fork, refused, untimed

from coreFunction import run_all
from deepnet.runs.queue import check_executor


def workers():
    # forked, so that they have the small budgets too
    return ProcessPoolExecutor(2, multiprocessing.get_context("fork"))


@needs_fork
def test_same_records(made, tiny):
    with workers() as pool:
        records = run_all("fine_tune_1", "MLP_4", "train_resnet", "distribution", executor=pool)
    assert [record.name for record in records] == ["fine_tune_1", "MLP_4", "train_resnet", "distribution"]
    for record in records:
        assert untimed(record.rows) == untimed(found(made, record.name).rows)
        assert record.result["sha256"].get("weights.pt") == found(made, record.name).result["sha256"].get("weights.pt")


@needs_fork
def test_parent_is_trained_once(made, tiny, capsys):
    with workers() as pool:
        records = run_all("fine_tune_1", "early_stopping", executor=pool)
    said = capsys.readouterr().out
    assert said.startswith("train_resnet (seed 0) has no weights here; it is trained first")
    assert "another process" not in said  # no worker stood before what the other was at
    assert [record.name for record in records] == ["fine_tune_1", "early_stopping"]
    for record in records:
        assert untimed(record.rows) == untimed(found(made, record.name).rows)


@needs_fork
def test_fork_with_threads_is_refused(runs_dir):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # without the refusal the processes would wait forever
    signal.alarm(60)
    try:
        with workers() as pool:
            refused(lambda: run_all("MLP_4", executor=pool), 'ProcessPoolExecutor(2, mp_context=get_context("spawn"))')
    finally:
        signal.alarm(0)
        torch.set_num_threads(threads)
    assert not runs_dir.exists()


SCRIPT = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from coreFunction import run_all
from experimentTable import UsageError

try:
    run_all("MLP_4", executor=ProcessPoolExecutor(1, mp_context=get_context("{method}")))
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize("method", [m for m in ("spawn", "forkserver") if m in multiprocessing.get_all_start_methods()])
def test_script_without_guard_is_refused(tmp_path, runs_dir, method):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(method=method))
    options = {"capture_output": True, "text": True, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    done = subprocess.run([sys.executable, script], timeout=120, check=True, **options)
    assert done.stdout == f'each process imports {script} again; put what it does under `if __name__ == "__main__":`\n'
    assert done.stderr == ""
    assert not runs_dir.exists()


def test_script_with_guard_and_notebook(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text('if __name__ == "__main__":\n    pass\n')
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for main in (str(script), None, str(tmp_path / "<stdin>")):
            monkeypatch.setattr(sys.modules["__main__"], "__file__", main, raising=False)
            check_executor(pool)
