"""Runs of others are judged by the same rules: the page's example, the package's own records, and what is refused."""

import csv
import re
from pathlib import Path

import pytest
from helpers import ROOT, refused

from deepnet.claims.evidence import Setting
from deepnet.claims.judging import Comparison, above, at_least, equivalent, judge
from deepnet.claims.ledger import RULES, check
from deepnet.records.reading import find_records
from deepnet.records.table import committed_records

PAGE = (ROOT / "docs" / "judging.md").read_text()
LAYERED = ("gradient_log10_rms", "probe_dead")


def history(*names, profile="paper", without=()):
    """The rows of committed runs as a table such as W&B gives: a column per layer, empty cells where there is none."""
    table = []
    for record in (record for name in names for record in find_records(name, profile)):
        for row in record.rows:
            lists = {key: row[key] for key in LAYERED if key in row}
            layers = {f"{key}/layer_{i:02d}": value for key, values in lists.items() for i, value in enumerate(values)}
            cells = {key: value for key, value in row.items() if not isinstance(value, list)} | layers
            kept = {key: value for key, value in cells.items() if key not in without}
            table.append({"run": record.name, "seed": record.seed, **kept})
    return table


def rows(**runs):
    """Two epochs of each run: `a=[0.1, 0.2]` is the accuracy of seed 0 and of seed 1."""
    return [
        {"run": name, "seed": seed, "epoch": epoch, "acc": value * epoch / 2}
        for name, values in runs.items()
        for seed, value in enumerate(values)
        for epoch in (1, 2)
    ]


# ---------------------------------------------------------------- what it says


def test_the_page_s_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("export.csv").write_text(re.search(r"```csv\n(.*?)```", PAGE, re.DOTALL)[1])
    first, second = (code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "export.csv" in code)
    assert len(first.splitlines()) <= 10
    names: dict = {}
    exec(first, names)
    exec(second, names)
    said = capsys.readouterr().out
    assert said.startswith("3a as claimed") and "test accuracy, MLP_4 − MLP_13, above 0: 0.0497 [" in said
    assert "the comparison as claimed" in said


def test_our_own_rows_as_csv(tmp_path):
    table = history("MLP_4", "MLP_13", "MLP_23", "MLP_33")
    with (tmp_path / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in table for key in row)))
        writer.writeheader()
        writer.writerows(table)
    assert judge("3d", tmp_path / "table.csv") == check("3d", "paper")


NEED_RECORDS = {"2a", "2b", "3f", "5a", "5b", "5h", "5i"}  # as the page says, with 4d, which `paper` has no record of


def test_all_claims_on_a_table_of_our_own_rows():
    """With three seeds the verdict is ours; with fewer the effects are, since a table has no predictions."""
    named = {record.name for record in committed_records() if record.settings["experiment"]["kind"] == "training"}
    table = history(*sorted(named))
    for claim in RULES:
        ours = check(claim, "paper")
        if ours.verdict == "no evidence" or claim in NEED_RECORDS:
            refused(lambda claim=claim: judge(claim, table))
            continue
        theirs = judge(claim, table)
        assert [(p.text, p.seeds, p.count) for p in theirs.parts] == [(p.text, p.seeds, p.count) for p in ours.parts]
        assert [p.effect for p in theirs.parts] == pytest.approx([p.effect for p in ours.parts], rel=1e-3)
        assert ours.seen or theirs == ours


def test_records_and_data_frames():
    pandas = pytest.importorskip("pandas")
    names = ("MLP_4", "MLP_13", "MLP_23")
    ours = check("3a", "paper")
    assert judge("3a", [record for name in names for record in find_records(name, "paper")]) == ours
    assert judge("3a", pandas.DataFrame(history(*names))) == ours


@pytest.mark.parametrize(
    ("aim", "verdict"),
    [(at_least(0.05), "holds"), (at_least(0.15), "fails"), (above(0.1), "undecided"), (equivalent(0.01, 0.1), "holds")],
)
def test_a_comparison_of_one_s_own(aim, verdict):
    table = rows(wide=[0.6, 0.61, 0.62], narrow=[0.501, 0.51, 0.519])
    found = judge(Comparison("acc", "wide", "narrow", aim), table)
    assert (found.verdict, found.parts[0].effect) == (verdict, pytest.approx(0.1))
    assert found.parts[0].text == f"acc of the last epoch, wide − narrow, {aim.text}"


def test_few_seeds_are_said():
    found = judge(Comparison("acc", "wide", "narrow", above()), rows(wide=[0.6], narrow=[0.5]))
    assert found.text == "seen once: as claimed"


def test_names_and_columns_are_renamed():
    table = [{"Name": row["run"], **{k: v for k, v in row.items() if k != "run"}} for row in rows(a=[0.6], b=[0.5])]
    claim = Comparison("accuracy", "wide", "b", above())
    assert judge(claim, table, {"Name": "run", "acc": "accuracy"}, {"a": "wide"}).verdict == "holds"


# ---------------------------------------------------------------- what is refused

GOOD = rows(wide=[0.6, 0.7], narrow=[0.5, 0.6])
CLAIM = Comparison("acc", "wide", "narrow", above())


def changed(place, **cells):
    return [{**row, **cells} if i == place else row for i, row in enumerate(GOOD)]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([], "the table has no column run, seed, epoch; it has "),
        ([{"seed": 0, "epoch": 1}], "the table has no column run; it has seed, epoch; name yours in `columns`"),
        (changed(1, acc=float("nan")), "acc of wide (seed 0) in epoch 2 is nan, which is no finite number"),
        (changed(1, acc="high"), "acc of wide (seed 0) in epoch 2 is 'high', which is no finite number"),
        (changed(1, epoch=1.5), "epoch in row 2 is 1.5, which is no whole number"),
        (changed(1, epoch=1), "wide (seed 0) has the epochs 1, 1; each must be there once, from 1 on"),
        (changed(1, epoch=3), "wide (seed 0) has the epochs 1, 3; each must be there once, from 1 on"),
        (GOOD[:6], "wide has seeds 0-1 and narrow has 0; runs are paired by seed, so leave out 1 or add"),
        (GOOD[:4], "the comparison cannot be judged: no run narrow; the runs are wide"),
        ([{**row, "acc": None} for row in GOOD], "wide (seed 0) has no acc; add that column"),
    ],
)
def test_a_table_that_cannot_be_judged(table, said):
    refused(lambda: judge(CLAIM, table), said)


@pytest.mark.parametrize(
    ("claim", "without", "said"),
    [
        ("3a", ("test_accuracy",), "MLP_13 (seed 0) has no test_accuracy; add that column"),
        ("3a", ("train_loss",), "MLP_13 (seed 0) has no train_loss; add that column"),
        ("3c", ("test_macro_accuracy",), "MLP_33 (seed 0) has no test_macro_accuracy; add that column"),
        ("3d", tuple(f"gradient_log10_rms/layer_{i:02d}" for i in range(40)), "MLP_33 (seed 0) has no gradient_log10"),
        ("3g", (), "3g cannot be judged: no record of MLP_res_15, MLP_res_5, MLP_res_35; the runs are MLP_13"),
        ("3z", (), "unknown claim '3z'"),
    ],
)
def test_a_claim_that_cannot_be_judged(claim, without, said):
    refused(lambda: judge(claim, history("MLP_4", "MLP_13", "MLP_23", "MLP_33", without=without)), said)


def test_a_run_that_is_not_the_report_s_has_no_settings():
    table = [row | {"run": f"search_{i}", "validation_accuracy": 0.5} for i in range(1, 13) for row in rows(x=[0.5])]
    refused(lambda: judge("5h", table), "search_1 (seed 0) is none of the report's runs; give its record")


def test_epochs_that_count_from_0():
    table = [{**row, "epoch": row["epoch"] - 1, "train_loss": 1.0} for row in GOOD]
    claim = Comparison("train_loss", "wide", "narrow", above())
    refused(lambda: judge(claim, table), "has a train_loss in epoch 0", "count epochs from 1")


def test_files_and_columns_that_are_not_there(tmp_path):
    refused(lambda: judge("3a", tmp_path / "none.csv"), "none.csv cannot be read (No such file")
    said = "the table has no column Name to rename; it has run, seed, epoch, acc"
    refused(lambda: judge(CLAIM, GOOD, {"Name": "run"}), said)


def test_a_run_that_is_not_read_is_not_checked():
    broken = [{"run": "other", "seed": 0, "epoch": 9, "acc": "?"}]
    assert judge(CLAIM, GOOD + broken).verdict == "holds"
    assert Setting() == judge(CLAIM, GOOD).setting
