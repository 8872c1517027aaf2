"""How much memory is free, and that what is freed in training is kept for the next tensors and then given back."""

import os
import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import pytest
import torch
from helpers import digits, mlp

from benchmarks.timing import plain_process
from deepnet.speed import memory
from deepnet.speed.memory import free_bytes, kept_memory
from deepnet.training import steps
from deepnet.training.steps import train_epoch

keeping = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or os.environ.get("THP_MEM_ALLOC_ENABLE", "1") != "1",
    reason="memory is left to the system",
)


CGROUPS = {  # version -> the lines of /proc/self/cgroup, the hierarchy's folder, and its files but for the limit's
    1: ("4:cpu,cpuacct:/{0}\n3:memory:/{0}\n0::/\n", "memory", "memory.limit_in_bytes", {
        "memory.usage_in_bytes": "400\n",
        "memory.stat": "total_cache 60\ninactive_file 1\ntotal_inactive_file 50\n",
    }),
    2: ("1:name=systemd:/\n0::/{0}\n", "", "memory.max", {
        "memory.current": "400\n", "memory.stat": "anon 300\ninactive_file 50\n",
    }),
}  # fmt: skip


@pytest.mark.parametrize("group", ["", "job_7/step_0"])
@pytest.mark.parametrize(
    ("version", "limit", "free"),
    [(1, "1000\n", 650), (1, "9223372036854771712\n", None), (2, "1000\n", 650), (2, "max\n", None)],
)
def test_a_container_s_limit_counts(monkeypatch, tmp_path, version, limit, free, group):
    """Cached file pages can be given up, and count as free. A job's limit may be that of a group above its own."""
    lines, hierarchy, limit_file, files = CGROUPS[version]
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda p: lines.format(group) if p.name == "cgroup" else real(p))
    (tmp_path / hierarchy).mkdir(exist_ok=True)
    for name, text in (files | {limit_file: limit}).items():
        (tmp_path / hierarchy / name).write_text(text)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "device", lambda: torch.device("cpu"))
    assert free_bytes() == free if free else free_bytes() > 1e6


# ---------------------------------------------------------------- kept and given back


def freed(number: int) -> None:
    """Free this many tensors of 40 MiB."""
    tensors = [torch.ones(10 * 2**20) for _ in range(number)]
    del tensors


def new_pages() -> float:
    """Pages that the system hands out for tensors of the size of those freed just before: the median of several times,
    since small blocks that lie between may now and then cost one tensor its place.
    """
    handed = []
    with kept_memory():
        for _ in range(6):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            freed(4)
            handed.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return median(handed)


@keeping
def test_memory_is_kept_for_the_next_tensor_but_in_the_plain_recipe_s_process():
    # each in a new process, since earlier allocations count
    with plain_process() as plain, ProcessPoolExecutor(1, get_context("spawn")) as ours:
        assert ours.submit(new_pages).result() < 20  # one tensor's, were they huge
        assert plain.submit(new_pages).result() > 4 * 20


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_at_each_stage() -> list[int]:
    """Bytes that this process has: in training, after it asks what is free, in training again, and after it."""
    with kept_memory():
        freed(10)
        held = [resident()]
        free_bytes()
        held.append(resident())
        freed(10)
        held.append(resident())
    return [*held, resident()]


@keeping
def test_memory_that_is_kept_counts_as_free_and_goes_back_in_the_end(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    with ProcessPoolExecutor(1, get_context("spawn")) as anew:
        kept, asked, kept_again, ended = anew.submit(resident_at_each_stage).result()
    assert min(kept - asked, kept_again - ended) > 200 * 2**20


def test_kept_memory_is_released_every_hundred_steps(monkeypatch):
    given = []
    monkeypatch.setattr(steps, "release_memory", lambda: given.append(True))
    model, (inputs, labels) = mlp(), digits().tensors
    train_epoch(model, [(inputs[:4], labels[:4])] * 201, torch.optim.SGD(model.parameters(), lr=0.0), fast=True)
    assert len(given) == 3
