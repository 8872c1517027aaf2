"""The golden trajectory: a few fp32 steps whose numbers are kept in golden.json, so that the results never change
unnoticed.

`REMAKE=1 python -m pytest tests/training/test_golden.py` makes golden.json anew, once RESULTS_VERSION is raised.
"""

import json
import math
import os
from dataclasses import replace

import pytest
from helpers import ROOT, tiny_sample

import deepnet.records.folder
from coreFunction import run
from deepnet.machine import device
from deepnet.records.reading import RESULTS_VERSION
from experimentTable import EXPERIMENTS, PROFILES, Experiment

pytestmark = pytest.mark.skipif(
    device().type != "cpu", reason="golden.json was made on a CPU; DEVICE=cpu compares with it"
)

FILE = ROOT / "tests" / "golden.json"
TOLERANCE = 1e-4  # relative
REMAKE = "REMAKE=1 python -m pytest tests/training/test_golden.py"
RUNS = {  # what is trained, and its budget: (steps, rows)
    "MLP_4": (EXPERIMENTS["MLP_4"], (4, 2)),
    "CNN_10": (EXPERIMENTS["CNN_10"], (4, 2)),
    # A stage of gradual unfreezing, from its own seed's weights. After one step of Adam, which takes the sign of
    # gradients that are all rounding too, a ResNet-18's gradients differ by 1e-3 between one thread and two; up to
    # there nothing differs by 1e-4.
    "fine_tune_2": (replace(EXPERIMENTS["fine_tune_2"], start_from=None), (1, 1)),
}
METRICS = ("train_loss", "test_loss", "validation_loss", "gradient_norm_sum", "gradient_norm", "gradient_log10_rms")


def trajectory(exp: Experiment, budget: tuple[int, int]) -> list[dict]:
    """The rows of a run on 64 images of the sample, at 28 or 32 pixels, before they are rounded."""
    with tiny_sample(64), pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "sample", replace(PROFILES["sample"], budgets={exp.family: budget}))
        patch.setattr(deepnet.records.folder, "rounded", lambda value: value)
        rows = run(replace(exp, batch_size=24, precision="fp32", record_gradients=True), wandb=False).rows
    return [{metric: row[metric] for metric in METRICS if metric in row} for row in rows]


def values(row: dict) -> dict[str, float]:
    """A row's numbers, those of a list each by itself; a layer that does not learn has none."""
    lists = {
        metric: [x for x in value if x is not None] if isinstance(value, list) else [value]
        for metric, value in row.items()
    }
    return {
        f"{metric}[{i}]" if len(each) > 1 else metric: x for metric, each in lists.items() for i, x in enumerate(each)
    }


def differences(kept: dict[str, list[dict]], now: dict[str, list[dict]]) -> list[str]:
    """What is not the same within TOLERANCE, one line per value."""
    found = []
    for name in kept.keys() | now.keys():
        assert len(kept[name]) == len(now[name]), f"{name} has {len(now[name])} rows, {len(kept[name])} are kept"
        for epoch, (there, here) in enumerate(zip(map(values, kept[name]), map(values, now[name]), strict=True)):
            for metric in there.keys() | here.keys():
                a, b = there.get(metric, math.nan), here.get(metric, math.nan)
                if not math.isclose(a, b, rel_tol=TOLERANCE):
                    found.append(f"{name}, epoch {epoch}: {metric} is {b}, {a} is kept")
    return sorted(found)


def complaint(kept: dict, now: dict[str, list[dict]], version: int) -> str:
    """What is wrong, and what to do; empty if nothing is."""
    if kept["results_version"] != version:
        kept_version = kept["results_version"]
        return f"golden.json holds the numbers of RESULTS_VERSION {kept_version}, this is {version}: run `{REMAKE}`"
    if not (found := differences(kept["rows"], now)):
        return ""
    return "\n".join([
        *found,
        "The training loop's results have changed. If that was not meant, mend it. If it was, raise RESULTS_VERSION in",
        f"deepnet/records/reading.py (it is {version}), so that records made before can be told; then run `{REMAKE}`.",
    ])  # fmt: skip


def test_the_numbers_are_those_that_are_kept():
    now = {name: trajectory(*what) for name, what in RUNS.items()}
    kept = json.loads(FILE.read_text())
    if os.environ.get("REMAKE") and kept["results_version"] != RESULTS_VERSION:
        kept = {"results_version": RESULTS_VERSION, "rows": now}
        FILE.write_text(json.dumps(kept, indent=1) + "\n")
    if wrong := complaint(kept, now, RESULTS_VERSION):
        pytest.fail(wrong, pytrace=False)


def test_different_step_is_noticed():
    exp, budget = RUNS["MLP_4"]
    kept = {"results_version": 7, "rows": {"MLP_4": json.loads(FILE.read_text())["rows"]["MLP_4"]}}
    now = {"MLP_4": trajectory(replace(exp, lr=exp.lr * 1.01), budget)}
    wrong = complaint(kept, now, 7)
    assert "MLP_4, epoch 2: test_loss is" in wrong
    assert "epoch 0" not in wrong  # the first weights are the same
    assert "raise RESULTS_VERSION in\ndeepnet/records/reading.py (it is 7)" in wrong
    assert complaint(kept, now, 8) == f"golden.json holds the numbers of RESULTS_VERSION 7, this is 8: run `{REMAKE}`"
