"""Memory: how much is free, and that what is freed in training is kept for the next tensor and given back."""

import os
import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from helpers import digits, mlp

from benchmarks.benchmark import plain_process
from deepnet.speed import memory
from deepnet.speed.memory import free_bytes, kept_memory
from deepnet.training import metrics, steps
from deepnet.training.steps import train_epoch

keeping = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or os.environ.get("THP_MEM_ALLOC_ENABLE", "1") != "1",
    reason="memory is left to the system",
)


@pytest.mark.parametrize("group", ["", "job_7/step_0"])
@pytest.mark.parametrize(("limit", "free"), [("1000\n", 650), ("max\n", None)])
def test_a_container_s_limit_counts(monkeypatch, tmp_path, limit, free, group):
    """Its file pages that are cached can be given up, and count as free. A job's limit may be that of a group above its
    own.
    """
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path: f"1:name=systemd:/\n0::/{group}\n" if path.name == "cgroup" else real(path)
    )
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 50\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "device", lambda: torch.device("cpu"))
    assert free_bytes() == free if free else free_bytes() > 1e6


@pytest.mark.parametrize("group", ["", "docker/7/step_0"])
@pytest.mark.parametrize(("limit", "free"), [("1000\n", 650), ("9223372036854771712\n", None)])
def test_a_container_s_limit_of_the_first_kind_counts(monkeypatch, tmp_path, limit, free, group):
    """cgroup v1: its memory has a hierarchy of its own, in which a container may see itself at the top."""
    real = Path.read_text
    lines = f"4:cpu,cpuacct:/{group}\n3:memory:/{group}\n0::/\n"
    monkeypatch.setattr(Path, "read_text", lambda path: lines if path.name == "cgroup" else real(path))
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(limit)
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("400\n")
    (tmp_path / "memory" / "memory.stat").write_text("total_cache 60\ninactive_file 1\ntotal_inactive_file 50\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "device", lambda: torch.device("cpu"))
    assert free_bytes() == free if free else free_bytes() > 1e6


# ---------------------------------------------------------------- kept and given back


def freed(number: int) -> None:
    """Free so many tensors of 40 MiB."""
    tensors = [torch.ones(10 * 2**20) for _ in range(number)]
    del tensors


def new_pages() -> int:
    """The most pages that the system must hand out for tensors of the size of those freed just before."""
    handed = []
    with kept_memory():
        for _ in range(6):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            freed(4)
            handed.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return max(handed[2:])


@keeping
def test_memory_is_kept_for_the_next_tensor_but_in_the_plain_recipe_s_process():
    # both anew: what a process did before counts
    with plain_process() as plain, ProcessPoolExecutor(1, get_context("spawn")) as ours:
        assert ours.submit(new_pages).result() < 20  # one tensor's, were they huge
        assert plain.submit(new_pages).result() > 4 * 20


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held_on_to() -> list[int]:
    """Bytes that this process has once memory is freed: in training, when it asks what is free; in training again, and
    after it.
    """
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
        kept, asked, kept_again, ended = anew.submit(held_on_to).result()
    assert min(kept - asked, kept_again - ended) > 200 * 2**20


def test_kept_memory_is_given_back_every_hundred_steps(monkeypatch):
    monkeypatch.setattr(metrics, "device", lambda: torch.device("cpu"))
    given = []
    monkeypatch.setattr(steps, "release_memory", lambda: given.append(True))
    model, (inputs, labels) = mlp(), digits().tensors
    train_epoch(model, [(inputs[:4], labels[:4])] * 201, torch.optim.SGD(model.parameters(), lr=0.0), fast=True)
    assert len(given) == 3
