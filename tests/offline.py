"""What W&B's offline runs hold, read by W&B's own inspector."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import utilityFunction
from deepnet import account
from deepnet.data.sets import load_images
from deepnet.records.reading import Record

WANDB = Path(sys.executable).with_name("wandb")
QUICK = {"lr": 1e-2, "epochs": 2, "batch_size": 32, "record_gradients": True}  # of a `pipeline`


def forget() -> None:
    """Let this process ask W&B anew."""
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # it reads its environment once
    for remembered in (account.import_problem, account.login_problem, account.print_once):
        remembered.cache_clear()
    utilityFunction.Mirror.reachable = True


def offline_runs(runs_dir: Path) -> list[list[dict]]:
    """The lines of every offline run, oldest first, read by W&B's own inspector."""
    files = sorted(runs_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    read = [
        subprocess.run([WANDB, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True)
        for file in files
    ]
    return [[json.loads(line) for line in done.stdout.splitlines()] for done in read]


def history(lines: list[dict]) -> list[dict]:
    """The rows that were logged, without W&B's own fields and without the tables, which come with the last."""
    items = [line["history"]["item"] for line in lines if line["type"] == "history"]
    return [{key: value for key, value in item.items() if not key.startswith("_") and "." not in key} for item in items]


def name_of(lines: list[dict]) -> str:
    """The name that a run has in the end."""
    return next(line["run"]["display_name"] for line in reversed(lines) if line["type"] == "run")


def exit_code(lines: list[dict]) -> int:
    """How W&B was told that the run ended."""
    return next(line["exit"] for line in lines if line["type"] == "exit").get("exit_code", 0)


def summary(lines: list[dict]) -> dict:
    """What a run's table on W&B would show in the end."""
    values: dict = {}
    for line in lines:
        values |= line.get("summary", {}).get("update", {})
    return values


def artifacts(lines: list[dict]) -> dict[str, dict[str, Path]]:
    """Of each artifact, by name without the run's own: the files in it."""
    found = [line["artifact"] for line in lines if line["type"] == "artifact"]
    files = [
        {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]} for artifact in found
    ]
    names = [artifact["name"].removeprefix(f"run-{artifact['run_id']}-") for artifact in found]
    return dict(zip(names, files, strict=True))


def table(lines: list[dict], name: str) -> list[list]:
    """The rows of a table; an image in it as its pixels (H, W) or (H, W, 3)."""
    files = artifacts(lines)[name]
    rows = json.loads(files[f"{name}.table.json"].read_text())["data"]
    return [
        [np.asarray(Image.open(files[cell["path"]])) if isinstance(cell, dict) else cell for cell in row]
        for row in rows
    ]


def check_tables(record: Record, lines: list[dict], part: str) -> None:
    """The confusion matrix counts the record's predictions, the other table shows the first wrong ones as the data set
    has them.
    """
    label, given = record.predictions()
    images = load_images(record.settings["experiment"]["dataset"], part)
    counts = {(actual, predicted): n for actual, predicted, n in table(lines, "confusion_matrix_table")}
    assert sum(counts.values()) == len(label)
    for (i, actual), (j, predicted) in ((a, b) for a in enumerate(images.classes) for b in enumerate(images.classes)):
        assert counts.get((actual, predicted), 0) == ((label == i) & (given == j)).sum()
    rows = table(lines, "misclassified")
    assert [number for number, *_ in rows] == [i for i in range(len(label)) if label[i] != given[i]][:32]
    assert rows
    for number, pixels, actual, predicted in rows:
        assert actual == images.classes[images.labels[number]] != predicted == images.classes[given[number]]
        assert np.array_equal(pixels, images.images[number].permute(1, 2, 0).squeeze().numpy())


def flat(row: dict) -> dict:
    """A record's row with a number for each layer."""
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    layers = {f"{key}/layer_{i:02d}": value for key, values in lists.items() for i, value in enumerate(values)}
    return {key: value for key, value in (row | layers).items() if key not in lists and value is not None}
