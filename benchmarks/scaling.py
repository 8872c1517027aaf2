"""How time and memory grow with the depth, the width and the image size of a model, and with runs and records.

Each measurement has a process of its own, so that its peak of memory is its own. A quantity is measured at several
sizes, and its exponent is the slope of log time on log size: 1 where twice the size takes twice the time.
`python benchmarks/scaling.py` takes some ten minutes on two cores, prints a table and writes results/scaling.json.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn

from benchmarks.timing import machine
from coreFunction import run_all
from deepnet.claims.ledger import ledger
from deepnet.data.sets import load_images
from deepnet.figures.registry import draw
from deepnet.machine import device
from deepnet.records.provenance import provenance
from deepnet.records.reading import EVIDENCE, ROOT
from deepnet.speed.layout import fast_layout
from deepnet.speed.memory import kept_memory
from deepnet.training.metrics import GradientNorms
from deepnet.training.steps import train_epoch
from myModel import CNN, MLP, MODELS

RESULTS = Path(__file__).resolve().parent / "results" / "scaling.json"
REPEATS = 5
HEADER = "| what | grows with | sizes | time | exponent | peak of memory | exponent |\n|---|---|---|---|---:|---|---:|"


def sample_step_seconds(model: nn.Module, dataset: str, size: int) -> float:
    """Seconds per step with 128 images of the embedded sample, Adam and gradient norms: the median of five epochs.

    An epoch has four steps.
    """
    data = load_images(dataset, "train", "sample", size).subset(range(4 * 128))
    layout = fast_layout(model, data.first_inputs(2))
    data = data.to(device(), layout)
    model = model.to(device()).to(memory_format=layout)
    optimizer, norms = torch.optim.Adam(model.parameters(), fused=True), GradientNorms(model)
    with kept_memory():
        rows = [
            train_epoch(model, data, optimizer, gradients=norms, batch_size=128, fast=True) for _ in range(1 + REPEATS)
        ]
    return statistics.median(row["train_seconds"] / row["steps"] for row in rows[1:])


def mlp_seconds(depth: int, width: int) -> float:
    """A step of an MLP on MNIST whose hidden layers all have this width."""
    return sample_step_seconds(MLP([784, *[width] * depth, 10]), "mnist", 28)


def cnn_seconds(depth: int, size: int) -> float:
    """A step of a CNN of 32 channels on CIFAR-10 that pools to half the size in its middle, and to 4 x 4 at its end."""
    half = [32] * (depth // 2)
    layout: list[list[int] | int] = [[3, *half], 64, [32, *half], 4]  # poolings as at 128 pixels
    return sample_step_seconds(CNN(layout, [32 * 4 * 4, 10], image_size=size), "cifar10", size)


@cache
def copies_of_records(number: int, folder: str) -> str:
    """A folder of runs within `folder` with so many records: those committed of `cpu`, again and again as new seeds."""
    root = Path(folder, str(number))
    originals = sorted(path.parent for path in (EVIDENCE / "cpu").glob("*/seed-*/result.json"))
    for original, shift in islice(((o, 1000 * i) for i in count() for o in originals), number):
        seed = int(original.name.removeprefix("seed-")) + shift
        copy = root / "cpu" / original.parent.name / f"seed-{seed}"
        copy.mkdir(parents=True)
        for file in original.iterdir():
            if file.suffix != ".json":
                (copy / file.name).symlink_to(file)
        settings, result = (json.loads((original / f"{file}.json").read_text()) for file in ("settings", "result"))
        settings["experiment"]["seed"] = seed
        content = json.dumps(settings).encode()
        (copy / "settings.json").write_bytes(content)
        if "settings.json" in result["sha256"]:
            result["sha256"]["settings.json"] = hashlib.sha256(content).hexdigest()
        (copy / "result.json").write_text(json.dumps(result))
    return str(root)


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def list_runs() -> None:
    """`run.py list`, from the start of its process on."""
    subprocess.run(
        [sys.executable, "run.py", "list", "--profile", "cpu"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


def train_seeds(seeds: int) -> float:
    """Seconds that `run_all` takes for so many seeds of MLP_4 at sample size."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, RUNS_DIR=folder, WANDB_MODE="disabled"):
        return seconds_of(lambda: run_all("MLP_4", profile="sample", seeds=range(seeds), evidence=False))


RECORDS = (1_000, 3_000, 10_000)
# what is timed -> (what grows, its sizes, seconds at a size)
QUANTITIES: dict[str, tuple[str, tuple[int, ...], Callable[[int], float]]] = {
    "a step of an MLP of width 64": ("hidden layers", (8, 16, 32, 64, 128), lambda depth: mlp_seconds(depth, 64)),
    "a step of an MLP of 4 hidden layers": ("width", (128, 256, 512, 1024, 2048), lambda width: mlp_seconds(4, width)),
    "a step of a CNN at 32 pixels": ("convolutions", (4, 8, 16, 32), lambda depth: cnn_seconds(depth, 32)),
    "a step of a CNN of 8 convolutions": ("pixels per side", (16, 32, 64, 96), lambda size: cnn_seconds(8, size)),
    "a step of ResNet-18": (
        "pixels per side", (32, 64, 96), lambda size: sample_step_seconds(MODELS["resnet18"](), "cifar10", size),
    ),
    "`run_all` of MLP_4 in `sample`": ("seeds", (1, 2, 4, 8), train_seeds),
    "`run.py list`": ("records", RECORDS, lambda _: seconds_of(list_runs)),
    "the ledger": ("records", RECORDS, lambda _: seconds_of(lambda: ledger("cpu"))),
    "figure 3.1": ("records", RECORDS, lambda _: seconds_of(lambda: draw("3.1", "cpu"))),
    "figure A.1": ("records", RECORDS, lambda _: seconds_of(lambda: draw("A.1", "cpu"))),
}  # fmt: skip


def measured(what: str, size: int) -> tuple[float, float]:
    """Within a process of its own: seconds, and the peak of memory (GB) of the process."""
    seconds = QUANTITIES[what][2](size)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return seconds, kilobytes * 1024 / 1e9


def exponent(sizes: list[int], values: list[float]) -> float:
    """The least-squares slope of log values on log sizes.

    >>> exponent([1, 2, 4], [3, 6, 12])
    1.0
    """
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 2)


def run(folder: str, quick: bool = False) -> dict:
    """Measure each quantity at its sizes; `quick` takes the two smallest. Copies of records go into `folder`."""
    rows = []
    for what, (grows_with, sizes, _) in QUANTITIES.items():
        found = []
        for size in sizes[: 2 if quick else None]:
            more = {"EVIDENCE": "0", "RUNS_DIR": copies_of_records(size, folder)} if grows_with == "records" else {}
            with patch.dict(os.environ, more), ProcessPoolExecutor(1, get_context("spawn")) as process:
                found.append((size, *process.submit(measured, what, size).result()))
        rows.append({"what": what, "grows_with": grows_with, "found": found})
        print(line(rows[-1]), flush=True)
    made = provenance("fp32") | {"date": time.strftime("%Y-%m-%d")}
    return {"machine": machine(), "rows": rows, "provenance": made}


def line(row: dict) -> str:
    """A row of the table, in Markdown."""
    sizes, seconds, memory = map(list, zip(*row["found"], strict=True))
    cells = [
        row["what"], row["grows_with"], ", ".join(f"{size:,}" for size in sizes),
        ", ".join(_duration(value) for value in seconds), f"{exponent(sizes, seconds):.2f}",
        f"{', '.join(f'{value:.2g}' for value in memory)} GB", f"{exponent(sizes, memory):.2f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes of each; nothing is written")
    arguments = parser.parse_args()
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        result = run(folder, arguments.quick)
        if not arguments.quick:  # before the folder is removed, which may take minutes
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")
            print(f"\nWritten to {RESULTS}")


if __name__ == "__main__":
    main()
