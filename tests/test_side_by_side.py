"""`run_all` in several processes: the same records as one after the other."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from helpers import found, lend, needs_fork, refused, untimed

from coreFunction import run_all


def workers():
    return ProcessPoolExecutor(2, multiprocessing.get_context("fork"))  # forked, so that they have the small budgets too


@needs_fork
def test_processes_side_by_side_give_the_same_records(made, tiny):
    with workers() as pool:
        records = run_all("fine_tune_1", "MLP_4", "train_resnet", "distribution", executor=pool)
    assert [record.name for record in records] == ["fine_tune_1", "MLP_4", "train_resnet", "distribution"]
    for record in records:
        assert untimed(record.rows) == untimed(found(made, record.name).rows)
        assert record.result["sha256"].get("weights.pt") == found(made, record.name).result["sha256"].get("weights.pt")


@needs_fork
def test_a_parent_that_nobody_named_is_trained_once_before_its_two_children(made, tiny, capsys):
    with workers() as pool:
        records = run_all("fine_tune_1", "early_stopping", executor=pool)
    said = capsys.readouterr().out
    assert said.startswith("train_resnet (seed 0) has no weights here; it is trained first")
    assert "another process" not in said  # no worker stood before what the other was at
    assert [record.name for record in records] == ["fine_tune_1", "early_stopping"]
    for record in records:
        assert untimed(record.rows) == untimed(found(made, record.name).rows)


@needs_fork
def test_a_failure_in_a_worker_leaves_the_others_going(made, runs_dir, tiny, capsys):
    lend(made, runs_dir, "MLP_4")
    (runs_dir / "sample" / "MLP_4" / "seed-0" / "result.json").write_text("{")
    with workers() as pool:
        records = run_all("MLP_4", "MLP_res_5", executor=pool)
    assert [record.name for record in records] == ["MLP_res_5"]
    assert "result.json is damaged" in capsys.readouterr().out


def test_threads_are_refused_since_they_share_random_numbers(tiny):
    with ThreadPoolExecutor(2) as pool:
        refused(lambda: run_all("MLP_4", executor=pool), "threads share torch's random numbers", "ProcessPoolExecutor")
