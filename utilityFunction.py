"""What stands around training: seeds, device, precision, threads, provenance, progress bars."""

import ctypes
import functools
import importlib
import math
import os
import platform
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from deepnet.records import code
from deepnet.text import duration
from experimentTable import PROFILES, UsageError
from productFunction import LARGEST_BY_TAPS, SmallMaps, conv2d_by_taps, emulated_bf16, native_bf16
from recordFunction import RESULTS_VERSION, ROUNDING_VERSION, switched_on

_C_LIBRARY = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h

# ---------------------------------------------------------------- seeds


def mixed(*numbers: int) -> int:
    """One 63-bit seed from several numbers, so that (seed, epoch) and (seed + 1, epoch - 1) are unrelated."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(*numbers: int) -> torch.Generator:
    """Seed torch's, numpy's and Python's global generators from `numbers`; returns a CPU generator seeded alike, for shuffling."""
    seed = mixed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # a reader's own transforms may draw from it, or from Python's
    random.seed(seed)
    return torch.Generator().manual_seed(seed)


@contextmanager
def preserved_random() -> Iterator[None]:
    """Leave torch's, numpy's and Python's global generators as they are, whatever is drawn meanwhile."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if device().type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


# ---------------------------------------------------------------- the machine


@functools.cache
def device() -> torch.device:
    """CUDA, else the CPU; `DEVICE` in the environment decides otherwise.

    On CUDA this makes fp32 mean fp32, not TF32, and convolutions add up in the same order each time.

    Apple's MPS is not chosen by itself: nobody has trained on it yet, and some of torch's operations there give wrong numbers.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    if chosen := os.environ.get("DEVICE"):
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "xpu": torch.xpu.is_available()}
        try:
            if there.get(torch.device(chosen).type):
                return torch.zeros((), device=chosen).device
        except (RuntimeError, AssertionError):
            pass
        usable = " or ".join(name for name, available in there.items() if available)
        raise UsageError(f"DEVICE={chosen} cannot be used here; set it to {usable}, or unset it")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_float64() -> bool:
    """Whether the device computes in float64; Apple's MPS does not."""
    return device().type != "mps"


def fast_by_default() -> bool:
    """Whether the report's runs use what only makes them faster; `FAST=0` in the environment turns all of it off."""
    return switched_on("FAST")


def _keeps_memory() -> bool:
    return _C_LIBRARY is not None and os.environ.get("THP_MEM_ALLOC_ENABLE", "1") == "1"


@contextmanager
def kept_memory(fast: bool = True) -> Iterator[None]:
    """While it is open, glibc keeps what is freed for the next tensors: all that lies between others, and 1 GiB at its heap's end.

    By itself it maps a block of more than 32 MiB anew each time, and the system clears each page that it hands out. What is kept grows,
    as blocks come to lie where none of the holes before them was large enough, so `give_back` is called now and then, and at the end.
    Afterwards the thresholds are those that glibc comes to by itself once such blocks were freed. THP_MEM_ALLOC_ENABLE=0, which
    keeps torch from huge pages, leaves memory to the system, and so does `fast=False`.
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
        give_back()


def give_back() -> None:
    """Return to the system the memory that is freed and kept."""
    if _keeps_memory():
        assert _C_LIBRARY is not None
        _C_LIBRARY.malloc_trim(0)


def free_bytes() -> float:
    """The device's memory that is free, with what was kept of it; infinity where the system does not say."""
    if device().type == "cuda":
        return torch.cuda.mem_get_info()[0]
    give_back()
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    whole = next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)
    return min(whole, _container_bytes())


CGROUPS = Path("/sys/fs/cgroup")


# A hierarchy's folder -> its files for limit and use, and the line of memory.stat for cached file pages: cgroup v2, and v1's memory
CGROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def _container_bytes() -> float:
    """What the limits (cgroup v1 or v2) of a container, or of a Slurm job, leave; infinity where there is none.

    Cached file pages count as free, since the group would give them up. A group's limit holds for the groups within it.
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
    except (OSError, ValueError, KeyError):  # "max" is no number
        return math.inf


@functools.cache
def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware (elsewhere it is emulated, and slower than fp32)."""
    if device().type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if device().type == "cpu":
        # oneDNN, which does the products, runs bf16 natively from avx512_core_bf16 on.
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def resolve_precision(precision: str) -> str:
    """ "fp32", "fp64" or "bf16": what "auto" means here. Raises UsageError where the device lacks what is asked."""
    if device().type == "mps" and precision in ("fp64", "bf16"):
        raise UsageError(f"on mps experiments train in fp32, not in {precision}; set DEVICE=cpu for this one")
    return ("bf16" if has_bfloat16() else "fp32") if precision == "auto" else precision


def arithmetic(precision: str, convolves: bool = True, fast: bool = True) -> Any:
    """The context that a forward pass runs in at this resolved precision: how its products are computed.

    convolves: whether the model has convolutions. Where it has none, a deep MLP is spared the mode that looks out for them.
    fast: without it, products are torch's own on a CPU too.
    """
    if not fast:
        return torch.autocast(device().type, torch.bfloat16) if precision == "bf16" else nullcontext()
    if device().type != "cpu":
        return torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16")
    if precision != "bf16":
        return SmallMaps(LARGEST_BY_TAPS, conv2d_by_taps) if convolves else nullcontext()
    return native_bf16() if has_bfloat16() else emulated_bf16()


def cast(inputs: torch.Tensor, precision: str) -> torch.Tensor:
    """A batch of floating-point numbers in the type its model has; others, such as token ids, stay what they are.

    Autocast sees to bf16, in which a frozen prefix's outputs come already.
    """
    if not inputs.is_floating_point():
        return inputs
    if precision == "fp64":
        return inputs.double()
    return inputs if precision == "bf16" and inputs.dtype == torch.bfloat16 else inputs.float()


def provenance(precision: str, on_processor: bool = False, packages: Sequence[str] = ()) -> dict:
    """What makes a record at this moment: code, libraries, device, threads. Recorded and shown; it stops nobody from reading.

    precision: the resolved one. on_processor: it is computed on the processor whatever the device is. packages: the distributions
    whose versions count beside those that every run needs. Raises UsageError for one that is not installed.

    Example::

        provenance("fp32", on_processor=True, packages=["scikit-learn"])["scikit-learn"]  # "1.9.1"
    """
    try:
        versions = {package: metadata.version(package) for package in packages}
    except metadata.PackageNotFoundError as missing:
        raise UsageError(f"{missing.name} is not installed; pip install {missing.name}") from None
    computes = torch.device("cpu") if on_processor else device()
    return {
        **code.state(),
        "results_version": RESULTS_VERSION,
        "rounding_version": ROUNDING_VERSION,
        "precision": precision,
        "emulated": precision == "bf16" and not has_bfloat16(),
        "device": torch.cuda.get_device_name() if computes.type == "cuda" else computes.type,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        **versions,
    }


@functools.cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line) if info.exists() else {}
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"


# ---------------------------------------------------------------- progress


class _Silent:
    """Stands in for a bar where tqdm is missing."""

    def __getattr__(self, _: str) -> Any:
        return lambda *args, **kwargs: None


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    return "ipykernel" in sys.modules and "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def bar(total: float, description: str = "", **options: Any) -> Any:
    """A tqdm bar. In a notebook it is one plain line that is redrawn in place, and stays readable in the saved page.

    Tqdm's own notebook bar is a widget, which a saved page shows as nothing. Where nobody watches (a log) none is drawn, nor
    one that nothing has moved and that is closed within half a second.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        return _Silent()
    options = {"total": total, "desc": description, "file": sys.stdout, "mininterval": 0.5, "delay": 0.5} | options
    if not in_notebook():
        return tqdm(disable=not sys.stdout.isatty(), **options)
    from IPython.display import Pretty, display

    class Line(tqdm):
        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            text = Pretty(msg or str(self))
            if not hasattr(self, "handle"):
                self.handle = display(text, display_id=True)
            self.handle.update(text)

    return Line(ncols=110, **options | {"file": StringIO()})  # the display shows it, nothing is printed


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Import a library that draws bars of its own without tqdm's warning that a notebook lacks the widget for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def checkpoint_seconds() -> float:
    """Seconds of training between checkpoints: `CHECKPOINT_SECONDS` in the environment, else 30; infinity means never.

    Raises UsageError for what is no number, and for a negative one.
    """
    text = os.environ.get("CHECKPOINT_SECONDS") or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UsageError(f"CHECKPOINT_SECONDS={text} is no number of at least 0; write seconds, such as 30")
    return seconds


def about(seconds: float, profile: str) -> str:
    """A price for a reader: `75` -> "about 1 min 15 s", in `paper` with "on one H200"; 0, which no run takes: none was measured."""
    where = f" on {PROFILES[profile].priced_on}" if PROFILES[profile].priced_on else ""
    return f"about {duration(seconds)}{where}" if seconds else "time not known"


# ---------------------------------------------------------------- figures and verdicts

_FIGURES = dict.fromkeys(("curves", "draw", "save", "show"), "deepnet.figures.registry")
_ELSEWHERE = _FIGURES | dict.fromkeys(("check", "ledger"), "deepnet.claims.ledger")


def __getattr__(name: str) -> Any:
    """`from utilityFunction import draw`, `curves`, `show`, `save`, `check` or `ledger`: what a notebook calls after training.

    They stand on this module and on matplotlib, so they are imported when they are asked for.
    """
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ELSEWHERE])
