"""Freed memory that is kept for reuse while a run trains, and how much memory is free."""

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from deepnet.machine import device

_C_LIBRARY = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h


def _keeps_memory() -> bool:
    return _C_LIBRARY is not None and os.environ.get("THP_MEM_ALLOC_ENABLE", "1") == "1"


@contextmanager
def kept_memory(fast: bool = True) -> Iterator[None]:
    """Let glibc keep freed memory for the next tensors: all of it within the heap, and 1 GiB at its end.

    By default, glibc maps each block of more than 32 MiB afresh, and the system clears every page of it. Kept memory
    grows by fragmentation, so `release_memory` is called every hundred steps and at the end. After the block, the
    thresholds are those that glibc itself would have reached by freeing such blocks. With THP_MEM_ALLOC_ENABLE=0, which
    keeps torch from using huge pages, and with `fast=False`, glibc's defaults stay.
    """
    if not (fast and _keeps_memory()):
        yield
        return
    assert _C_LIBRARY is not None
    _C_LIBRARY.mallopt(M_MMAP_MAX, 0)
    _C_LIBRARY.mallopt(M_TRIM_THRESHOLD, 2**30)
    try:
        yield
    finally:
        for option, number in ((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**26)):
            _C_LIBRARY.mallopt(option, number)
        release_memory()


def release_memory() -> None:
    """Return the kept memory to the system."""
    if _keeps_memory():
        assert _C_LIBRARY is not None
        _C_LIBRARY.malloc_trim(0)


def free_bytes() -> float:
    """The device's free memory, including kept memory; infinity if the system does not report it."""
    if device().type == "cuda":
        return torch.cuda.mem_get_info()[0]
    release_memory()
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    whole = next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)
    return min(whole, _container_bytes())


CGROUPS = Path("/sys/fs/cgroup")
# folder of the hierarchy (of cgroup v2, and of v1's memory controller) -> its files for the limit and the usage, and
# the key in memory.stat for cached file pages
CGROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def _container_bytes() -> float:
    """The memory left within the limits (cgroup v1 or v2) of a container or Slurm job; infinity without a limit.

    Cached file pages count as free, since the system reclaims them. The limits of all enclosing groups apply.
    """
    own = Path("/proc/self/cgroup")
    lines = [line.split(":", 2)[1:] for line in own.read_text().splitlines()] if own.exists() else []
    left = [math.inf]
    for hierarchy, files in CGROUP_FILES.items():
        top = CGROUPS / hierarchy
        group = top / next((path for names, path in lines if hierarchy in names.split(",")), "/").lstrip("/")
        left += [_left_in(folder, *files) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return min(left)


def _left_in(group: Path, limit: str, used: str, cached: str) -> float:
    try:
        pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())[cached]
        return float((group / limit).read_text()) - float((group / used).read_text()) + float(pages)
    except (OSError, ValueError, KeyError):  # the limit may be "max"
        return math.inf
