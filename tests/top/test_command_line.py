"""run.py: what each command prints, and the status and the one line that a bad call ends in."""

import json
import shutil

import pytest
from helpers import edit, found, interrupt, lend, python, untimed

import coreFunction
import run
from deepnet.records.publish import publish
from deepnet.records.reading import find_record
from deepnet.runs import queue
from experimentTable import PROFILES, ROWS


def test_list_shows_every_row_with_its_state_and_estimated_time(made, runs_dir, tiny, call):
    lend(made, runs_dir, "MLP_4", "CNN_10", "MLP_res_5")
    (runs_dir / "sample" / "CNN_10" / "seed-0" / "result.json").unlink()
    edit(runs_dir / "sample" / "MLP_res_5" / "seed-0", "result.json", status="failed", reason="stopped")
    status, out, err = call("list", "--json")
    table = {row["name"]: row for row in json.loads(out)}
    assert (status, err) == (0, "")
    assert list(table) == [row.name for row in ROWS]
    states = {"MLP_4": "finished", "CNN_10": "unfinished", "MLP_res_5": "failed"}
    states |= {"MLP_13": "-", "MLP_23_eps": "no budget here"}
    assert {name: table[name]["state"] for name in states} == states
    assert table["MLP_4"]["seconds"] == PROFILES["sample"].seconds["mlp"]
    assert (table["sgd"]["optimizer"], table["sgd"]["lr"], table["sgd"]["model"]) == ("SGD", 5e-4, "resnet18")
    status, out, _ = call("list")
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == 2 + len(ROWS)
    assert next(line for line in lines if line.startswith("MLP_4 ")).endswith("finished")
    assert call("list", "--profile", "paper")[1].startswith("profile paper, seed 0")


def test_a_damaged_record_is_marked_in_its_row_of_the_list(made, runs_dir, tiny, call):
    lend(made, runs_dir, "MLP_4", "CNN_10")
    (runs_dir / "sample" / "CNN_10" / "seed-0" / "result.json").write_text("{")
    status, out, err = call("list", "--json")
    states = {row["name"]: row["state"] for row in json.loads(out)}
    assert status == 0
    assert len(states) == len(ROWS)
    assert (states["CNN_10"], states["MLP_4"], states["MLP_13"]) == ("damaged", "finished", "-")
    assert err.startswith("run.py: ")
    assert "result.json is damaged" in err
    assert err.count("\n") == 1


def test_names_and_seeds_given_twice_are_one(made, tiny, call, runs_dir):
    lend(made, runs_dir, "distribution", "MLP_4")
    status, out, _ = call("train", "distribution", "distribution", "MLP_4", "--seeds", "0,0-0")
    assert (status, out.count("<Record")) == (0, 2)
    chapter = [row.name for row in ROWS if row.chapter == 2]
    arguments = run.parser().parse_args(["train", "distribution", "--chapter", "2"])
    assert run.chosen_names(arguments) == chapter


def test_train_then_show(made, tiny, call, runs_dir):
    status, out, _ = call("train", "MLP_4", "MLP_res_5", "--seeds", "0,1")
    assert status == 0
    assert out.count("<Record") == 4
    assert sorted(path.name for path in (runs_dir / "sample" / "MLP_4").glob("seed-?")) == ["seed-0", "seed-1"]
    status, out, _ = call("show", "MLP_4", "--seeds", "0-1", "--json")
    shown = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [record["settings"]["experiment"]["seed"] for record in shown] == [0, 1]
    assert untimed(shown[0]["rows"]) == untimed(found(made, "MLP_4").rows)
    assert shown[0]["result"]["status"] == "finished"
    status, out, _ = call("show", "MLP_4")
    assert status == 0
    assert str(runs_dir / "sample" / "MLP_4" / "seed-0") in out
    assert "lr 0.0001" in out
    assert out.count("test_accuracy") == 3


def test_minutes_stop_between_epochs_and_the_next_call_resumes(made, tiny, call):
    status, _, _ = call("train", "MLP_4", "MLP_res_5", "--minutes", "0.0000001")
    assert status == 1
    assert len(find_record("MLP_4", "sample").rows) == 1
    assert (find_record("MLP_4", "sample").path / "checkpoint.pt").exists()
    assert find_record("MLP_res_5", "sample") is None
    status, _, _ = call("train", "MLP_4", "MLP_res_5", "--minutes", "10")
    assert status == 0
    assert untimed(find_record("MLP_4", "sample").rows) == untimed(found(made, "MLP_4").rows)


def test_fresh_ignores_the_evidence_and_keeps_own_records(made, monkeypatch, evidence, runs_dir, tiny, call):
    shutil.copytree(made / "sample" / "MLP_4", evidence / "sample" / "MLP_4")
    assert call("train", "MLP_4")[0] == 0
    assert not (runs_dir / "sample" / "MLP_4").exists()
    assert call("train", "MLP_4", "--fresh")[0] == 0
    assert (runs_dir / "sample" / "MLP_4" / "seed-0" / "result.json").exists()
    monkeypatch.setattr(coreFunction, "train_epoch", lambda *_: pytest.fail("an epoch was trained"))
    assert call("train", "MLP_4", "--fresh")[0] == 0


def test_publish_copies_finished_records(made, evidence, runs_dir, tiny, call):
    lend(made, runs_dir, "MLP_4")
    record = runs_dir / "sample" / "MLP_4" / "seed-0"
    edit(record, "settings.json", "provenance", dirty=True)
    status, _, err = call("publish", "MLP_4")
    assert status == 1
    assert "made from uncommitted code" in err
    edit(record, "settings.json", "provenance", dirty=False, commit="c" * 40)
    edit(record, "result.json", uncommitted=None)
    assert call("publish", "MLP_4")[0] == 0
    assert (evidence / "sample" / "MLP_4" / "seed-0" / "result.json").exists()
    assert publish(find_record("MLP_4", "sample")).is_relative_to(evidence)  # again, over itself
    edit(record, "result.json", status="failed", reason="the train loss is not finite")
    assert call("publish", "MLP_4")[0] == 0  # a failed run is evidence too
    assert not find_record("MLP_4", "sample").finished
    status, _, err = call("publish", "MLP_13")
    assert status == 1
    assert "MLP_13 has no finished record in sample; train it first" in err


def test_publish_reports_records_that_only_the_evidence_has(made, evidence, runs_dir, tiny, call):
    lend(made, evidence, "MLP_4")
    there = evidence / "sample" / "MLP_4" / "seed-0"
    assert call("publish", "MLP_4") == (0, f"MLP_4 is published already: {there}\n", "")
    status, out, err = call("publish", "MLP_4", "MLP_13")
    assert (status, out) == (1, "")
    assert "MLP_13 has no finished record in sample; train it first" in err
    assert not runs_dir.exists()


@pytest.mark.parametrize(
    "command", [("list",), ("list", "--json"), ("show", "MLP_4"), ("train", "MLP_4"), ("publish", "MLP_4")]
)
def test_runs_dir_of_an_unknown_user(call, monkeypatch, command):
    monkeypatch.setenv("RUNS_DIR", "~nobody9/x")
    status, out, err = call(*command)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "RUNS_DIR=~nobody9/x names an unknown user" in err


def test_records_of_trials(made, evidence, runs_dir, call):
    lend(made, runs_dir, "MLP_4")
    trial = (runs_dir / "sample" / "MLP_4").rename(runs_dir / "sample" / "search_1") / "seed-0"
    edit(trial, "settings.json", "experiment", name="search_1")
    edit(trial, "settings.json", "provenance", dirty=False, commit="c" * 40)
    edit(trial, "result.json", uncommitted=None)
    (runs_dir / "sample" / "search.sqlite").write_bytes(b"of the search")
    status, _, err = call("publish", "search_1")
    assert (status, err) == (0, "")
    assert (evidence / "sample" / "search_1" / "seed-0" / "result.json").exists()
    assert (evidence / "sample" / "search.sqlite").read_bytes() == b"of the search"
    assert "unknown experiment '../sample/search_1'" in call("show", "../sample/search_1")[2]
    assert call("show", "search_1")[0] == 0
    status, _, err = call("train", "search_1")
    assert status == 1
    assert "unknown experiment 'search_1'" in err


BAD_CALLS = [
    (("train",), "name an experiment or a chapter"),
    (("train", "--chapter", "9"), "chapters 2 to 5, not 9"),
    (("train", "MLP_4", "--profile", "gpu"), "unknown profile 'gpu'; did you mean cpu? choose sample, cpu or paper"),
    (("train", "MLP_4", "--seeds", "one"), "seeds 'one' are not whole numbers; write 3, 0,2 or 0-4"),
    (("train", "MLP_4", "--seeds", "0,,1"), "are not whole numbers"),
    (("train", "MLP_4", "--seeds", "²"), "are not whole numbers"),
    (("train", "MLP_4", "--seeds", "4-0"), "seeds '4-0'"),
    (("train", "MLP_4", "--seeds", "0-99999999999"), "seeds '0-99999999999' are more than 1,000"),
    (("train", "mlp_4"), "unknown experiment 'mlp_4'; did you mean MLP_4? `python run.py list`"),
    (("search", "--profile", "papr"), "unknown profile 'papr'; did you mean paper?"),
    (("search", "--count", "0"), "count must be a whole number of at least 1, got 0"),
    (("show", "MLP_4"), "MLP_4 (seed 0) has no record in sample; `python run.py train MLP_4 --profile sample`"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS, ids=[" ".join(case[0]) for case in BAD_CALLS])
def test_bad_calls_end_in_one_line_and_status_1(call, arguments, message, runs_dir, tiny):
    status, out, err = call(*arguments)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not runs_dir.exists()


BAD_WORDS = [
    ((), "run.py: the following arguments are required: COMMAND; `python run.py --help`"),
    (("tarin",), "run.py: unknown command 'tarin'; did you mean train? choose list, train,"),
    (("train", "MLP_4", "--no-such"), "run.py train: unknown option '--no-such'; choose --profile,"),
    (("train", "MLP_4", "--minuts=3"), "run.py train: unknown option '--minuts'; did you mean --minutes? choose --"),
    (("train", "--chapter", "x"), "argument --chapter: invalid int value: 'x'; `python run.py train --help`"),
    (("train", "MLP_4", "--minutes", "long"), "'long' is not a number of minutes; write 90 or 0.5"),
    (("train", "MLP_4", "--minutes", "-1"), "'-1' is not a number of minutes; write 90 or 0.5"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_WORDS, ids=[" ".join(case[0]) for case in BAD_WORDS])
def test_bad_words_end_in_one_line_and_status_2(call, runs_dir, arguments, message):
    status, out, err = call(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not runs_dir.exists()


@pytest.mark.parametrize("arguments", [(), ("list",), ("train",), ("show",), ("publish",)])
def test_help_is_there_for_every_command(call, arguments):
    status, out, _ = call(*arguments, "--help")
    assert status == 0
    assert "usage: run.py" in out


def test_status_1_unless_everything_is_done(made, runs_dir, tiny, call):
    lend(made, runs_dir, "MLP_4")
    status, out, _ = call("train", "MLP_4", "MLP_23_eps")
    assert status == 1
    assert "no budget in the profile sample for MLP_23_eps" in out
    assert call("train", "MLP_4")[0] == 0


def test_an_interrupt_ends_in_one_line(call, monkeypatch, tiny):
    monkeypatch.setattr(coreFunction, "train_epoch", interrupt)
    status, out, err = call("train", "MLP_4")
    assert status == 1
    assert out.splitlines()[-1] == "interrupted; the same call continues from here"
    assert err == ""  # once is enough


def test_interrupt_before_the_first_run(call, monkeypatch, tiny):
    monkeypatch.setattr(queue, "is_supported", interrupt)
    assert call("train", "MLP_4") == (1, "", "interrupted; the same command continues from here\n")


def test_search_and_another_that_joins_it(made, tiny, call, runs_dir):
    lend(made, runs_dir, "train_resnet")
    status, _, err = call("search", "--join", "none")
    assert status == 1
    assert err.startswith("run.py: no search 'none' (profile sample, seed 0) in ")
    for arguments in (("--count", "2"), ("--join", "search")):
        status, out, err = call("search", *arguments)
        assert (status, err) == (0, "")
        assert [f"<Record search_{number} " in out for number in (1, 2, 3)] == [True, True, False]
        assert "search: of 2 trials search_" in out
        assert "to go: about 6 s" in out or arguments[0] == "--join"  # what they start from is there


def test_a_search_without_any_score_fails(made, tiny, call, runs_dir, monkeypatch):
    lend(made, runs_dir, "train_resnet")
    monkeypatch.setattr(coreFunction, "run", lambda *_, **options: 1 / 0)
    status, out, err = call("search", "--count", "2")
    assert (status, err) == (1, "")
    assert out.count("failed: division by zero") == 2
    assert out.endswith("search: no trial has a score\n")


def test_workers_and_dask_exclude_each_other(tiny, call, runs_dir):
    status, out, _ = call("train", "distribution", "--workers", "1")
    assert (status, "<Record distribution" in out) == (0, True)
    assert call("train", "distribution", "--workers", "0")[0::2] == (1, "run.py: workers must be at least 1, got 0\n")
    assert call("train", "distribution", "--workers", "2", "--dask", "tcp://127.0.0.1:9")[0] == 2


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
import run
for line in sys.stdin:
    sys.argv = ["run.py", *line.split()]
    try:
        print("status", run.main())
    except SystemExit as end:
        print("status", end.code)
"""
NEEDS_NONE = [  # arguments, and the status that they end with
    ("list --profile paper", 0), ("list --profile papr", 1), ("show MLP_4 --profile paper", 0), ("show MLP_44", 1),
    ("show MLP_4 --profile paper --seeds 0-1 --json", 0), ("train --help", 0), ("train MLP_44", 1),
    ("train --chapter 9", 1), ("train MLP_4 --seeds x", 1), ("search --profile papr", 1), ("verify MLP_44", 1),
    ("sync MLP_44", 1), ("tarin", 2),
]  # fmt: skip


def test_reading_help_and_refusals_of_names_need_no_torch():
    ended = python(WITHOUT_TORCH, input="\n".join(arguments for arguments, _ in NEEDS_NONE))
    statuses = [int(line.split()[1]) for line in ended.stdout.splitlines() if line.startswith("status")]
    assert statuses == [status for _, status in NEEDS_NONE], ended
    assert "Traceback" not in ended.stderr


def test_list_takes_half_a_second():
    asked = ["run.py", "list", "--profile", "paper"]
    code = f"import sys, time; sys.argv = {asked}; import run; run.main(); print(time.process_time())"
    assert float(python(code).stdout.splitlines()[-1]) < 0.5
