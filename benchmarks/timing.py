"""What both of the benchmark's tables share: steps timed in the steady state, and the plain recipe's process."""

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.recipes import Ours, Plain
from deepnet.data.datasets import epoch_batches
from deepnet.data.sets import ImageSet, load_images
from deepnet.machine import device
from deepnet.records.provenance import provenance
from experimentTable import Experiment, identity

ROWS = {  # the experiment that each row times
    "MLP_4": "MLP_4", "MLP_33": "MLP_33", "MLP_res_55": "MLP_res_55",
    "CNN_10": "CNN_10", "CNN_13": "CNN_13", "CNN_30": "CNN_30", "CNN_res_56": "CNN_res_56",
    "resnet18": "train_resnet", "head": "fine_tune_1", "layer4+head": "fine_tune_2",
    "layer3+layer4+head": "fine_tune_3_lr",
}  # fmt: skip
MOST_STEPS = 500  # of a block


def step_seconds(recipe: Plain | Ours, steps: int) -> float:
    """Seconds per step in the steady state: batches that workers have prepared are thrown away, the first step too.

    That step belongs to the same epoch, whose beginning tidies up memory and the optimizer's state, as every hundredth
    step does; a short block would count that too often. On a GPU the recording of the graph is counted.
    """
    needed = recipe.ahead + 1 + steps + recipe.ahead  # workers go on making batches to the end
    generator = torch.Generator().manual_seed(0)
    batches = recipe.batches(epoch_batches(len(recipe.source), recipe.exp.batch_size, generator, needed))
    for _ in islice(batches, recipe.ahead):
        pass
    started = 0.0

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal started
        yield next(batches)
        if device().type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        yield from islice(batches, steps)

    recipe.train(epoch())
    return (time.perf_counter() - started) / steps


def plain_process(**environment: str) -> ProcessPoolExecutor:
    """A process for the plain recipe, where memory is as torch and the system have it, unless `environment` differs."""
    with patch.dict(os.environ, {"THP_MEM_ALLOC_ENABLE": "0"} | environment):
        executor = ProcessPoolExecutor(1, get_context("spawn"))
        executor.submit(int).result()  # the process starts with its first task
    return executor


_plain: Plain  # in that process: the recipe that is timed


def prepare_plain(exp: Experiment) -> None:
    """Within that process: what `plain_step_seconds` times from here on.

    It reads the images itself. If they were sent from here, a thread of the executor would copy them, for which OpenMP
    starts threads of its own; and with more threads than cores, OpenMP's threads no longer wait actively, which made
    our MLP_33 a third slower.
    """
    global _plain
    _plain = Plain(exp, timed_images(exp))


def plain_step_seconds(steps: int) -> float:
    """Within that process: `step_seconds` of the plain recipe."""
    return step_seconds(_plain, steps)


def timed_images(exp: Experiment) -> ImageSet:
    """A row's images, from the embedded sample; all batches are full."""
    data = load_images(exp.dataset, "train", "sample", identity(exp)["image_size"])
    return data.subset(range(len(data) // exp.batch_size * exp.batch_size))


def machine() -> str:
    """The name of the processor, or of the GPU, and the number of cores, in letters, digits and dashes."""
    made = provenance("fp32")
    name = made["device"] if device().type == "cuda" else made["processor"]
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {os.cpu_count()} cores".lower())


def repeated_ratios(speeds: dict[str, list[float]], ours: str, other: str = "plain") -> list[float]:
    """The ratio of the two speeds in each repeat."""
    return [one / another for one, another in zip(speeds[ours], speeds[other], strict=True)]
