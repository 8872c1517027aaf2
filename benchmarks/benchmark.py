"""Training speed: the plain recipe and this package's, in turn, in one run, on the same work.

What is timed is whole training steps, from the data set to the optimizer's step, with batch size, image size, learning
rate, optimizer and gradient norms of a row of the experiment table. No evaluation, no start of workers.

The recipes stand in recipes.py, what the tables share in timing.py. Where layers are frozen, a step's time includes its
share of the cache: a run computes it once for all its epochs, so an image costs prefix / epochs + a training step /
batch.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler says on standard error when it begins and ends

import torch
from torch.autograd import DeviceType

from benchmarks import peers
from benchmarks.recipes import WORKERS, Ours
from benchmarks.timing import (
    MOST_STEPS,
    ROWS,
    machine,
    plain_process,
    plain_step_seconds,
    prepare_plain,
    repeated_ratios,
    step_seconds,
    timed_images,
)  # fmt: skip
from deepnet.machine import device, has_bfloat16
from deepnet.records.provenance import provenance
from deepnet.speed.cuda_graph import CUDAGraphStep
from deepnet.speed.memory import kept_memory
from deepnet.training.precision import resolve_precision
from experimentTable import PROFILES, Experiment, UsageError, experiment, identity

RESULTS = Path(__file__).resolve().parent / "results"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of ours; plain is fp32
PROFILED_STEPS = {"cpu": 10, "cuda": CUDAGraphStep.WARM_UP - 1}  # under the profiler, which cannot see into a graph
PEAK_WIDTH = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the machine's peak
PARTS = {  # of a step, as torch's profiler names what belongs to them
    "products": re.compile(r"aten::(mm|addmm|bmm|baddbmm|\w*conv\w*)$"),
    "optimizer": re.compile(r"Optimizer\.step|aten::_fused_"),
    "ReLU and pooling": re.compile(r"aten::(clamp_min_?|threshold_backward|\w*max_pool\w*|\w*avg_pool\w*)$"),
    "normalisation": re.compile(r"aten::\w*batch_norm\w*$"),
    "copies": re.compile(r"aten::(copy_|fill_|index|flip)$"),
}


# ---------------------------------------------------------------- measuring


def peaks(repeats: int) -> dict[str, float]:
    """Floating-point operations per second of a large matrix product, in each precision; the best of `repeats`."""
    width, best = PEAK_WIDTH[device().type], {}
    for precision in _precisions():
        one, other = (torch.randn(width, width, device=device(), dtype=PRECISIONS[precision]) for _ in range(2))
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            (one @ other)[0, 0].item()
            taken.append(time.perf_counter() - start)
        best[precision] = 2 * width**3 / min(taken)
    return best


def _precisions() -> list[str]:
    return ["fp32", *(["bf16"] if has_bfloat16() else [])]


def time_shares(recipe: Ours, steps: int) -> dict[str, float]:
    """The shares of training time that torch's profiler finds in each of PARTS, in gradient norms and in the rest.

    An image's share of a cache is included. At the very most, all but the products could be saved.
    """
    exp = recipe.exp
    spent = _profiled(lambda: step_seconds(recipe, steps), (1 + steps) * exp.batch_size)
    if recipe.prefix:
        cache = _profiled(recipe.make_cache, len(recipe.uncached) * exp.epochs)
        spent = {part: seconds + cache[part] for part, seconds in spent.items()}
    whole = sum(spent.values())
    return {part: seconds / whole for part, seconds in spent.items()}


def _profiled(work: Callable[[], object], images: int) -> dict[str, float]:
    """The time per image that each part takes in `work`."""
    with torch.profiler.profile() as profiled:
        work()
    clock = "device" if device().type == "cuda" else "cpu"
    # A kernel's time also stands with the operation that launched it.
    events = [event for event in profiled.key_averages() if event.device_type == DeviceType.CPU]
    spent, within = (
        {event.key: getattr(event, f"{part}{clock}_time_total") for event in events} for part in ("self_", "")
    )
    parts = {part: sum(spent[key] for key in spent if names.match(key)) for part, names in PARTS.items()}
    parts["gradient norms"] = within.get("gradient norms", 0.0)
    parts["rest"] = sum(spent.values()) - sum(parts.values())
    return {part: time / images for part, time in parts.items()}


def cache_seconds(recipe: Ours) -> float:
    """Seconds per image of computing the frozen prefix, once per run; 0 where nothing is cached."""
    if not recipe.prefix:
        return 0.0
    start = time.perf_counter()
    images = len(recipe.make_cache())
    return (time.perf_counter() - start) / images


def speed(step: float, cache: float, exp: Experiment) -> float:
    """Images per second of a run, from its seconds per step and the seconds per image of its cache."""
    return 1 / (cache / exp.epochs + step / exp.batch_size)


@kept_memory()
def measure(
    name: str, profile: str, peaks: dict[str, float], plain: Executor, repeats: int, seconds: float,
    batch_size: int | None = None,
) -> dict:  # fmt: skip
    """One row of the table: the recipes in turn, `repeats` blocks of about `seconds` each (0: three steps).

    plain: `plain_process()`. batch_size: None is the experiment's own.
    """
    exp = experiment(ROWS[name], profile)
    exp = replace(exp, batch_size=batch_size or exp.batch_size)
    data = timed_images(exp)
    ours = {precision: Ours(exp, data, precision) for precision in _precisions()}
    plain.submit(prepare_plain, exp).result()
    time_steps: dict[str, Callable[[int], float]] = {
        "plain": lambda steps: plain.submit(plain_step_seconds, steps).result()
    }
    time_steps |= {precision: partial(step_seconds, recipe) for precision, recipe in ours.items()}
    steps = {
        kind: min(max(round(seconds / timed(1)), 1), MOST_STEPS) if seconds else 3 for kind, timed in time_steps.items()
    }
    speeds: dict[str, list[float]] = {kind: [] for kind in time_steps}
    for _ in range(repeats):
        for kind, timed in time_steps.items():
            speeds[kind].append(speed(timed(steps[kind]), cache_seconds(ours[kind]) if kind in ours else 0.0, exp))
    used = resolve_precision(exp.precision)
    shares = time_shares(ours[used], min(steps[used], PROFILED_STEPS[device().type]))
    return row(name, exp, speeds, peaks, ours["fp32"].operations(), shares)


def row(
    name: str,
    exp: Experiment,
    speeds: dict[str, list[float]],
    peaks: dict[str, float],
    flops: float,
    spent: dict[str, float],
) -> dict:
    """What is kept of a row. `speeds` maps each recipe to the images per second of each repeat.

    plain, fp32, bf16: the medians, or None. default: the median in the precision that the experiment uses here. ratio:
    default / plain; its range is that of the repeats' ratios.
    """
    precision = resolve_precision(exp.precision)
    medians: dict[str, Any] = {
        kind: statistics.median(speeds[kind]) if kind in speeds else None for kind in ("plain", *PRECISIONS)
    }
    default, ratios = medians[precision], repeated_ratios(speeds, precision)
    entry = {
        "name": name, "experiment": exp.name, "image_size": identity(exp)["image_size"], "batch_size": exp.batch_size,
        "gradient_norms": exp.record_gradients, **medians, "default": default, "precision": precision,
        "ratio": default / medians["plain"], "ratio_range": [min(ratios), max(ratios)],
        "flops_per_image": flops, "time_shares": spent, "repeats": speeds,
    }  # fmt: skip
    return with_peaks(entry, peaks)


def with_peaks(entry: dict, peaks: dict[str, float]) -> dict:
    """The row with its share of these peaks."""
    return entry | {
        "peak_flops": peaks,
        "share_of_peak": entry["default"] * entry["flops_per_image"] / peaks[entry["precision"]],
    }


# ---------------------------------------------------------------- the table

HEADER = (
    "| | pixels | plain | ours, fp32 | ours, bf16 | fp32 / plain | bf16 / plain | used | of the peak | in products "
    "| next |\n"
    "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---|"
)


def line(entry: dict) -> str:
    """A row of the table, in Markdown."""
    speeds = (f"{entry[kind]:,.0f}" if entry[kind] else "–" for kind in ("plain", *PRECISIONS))
    ratios = (_ratio(entry, precision) for precision in PRECISIONS)
    spent = entry["time_shares"] or {}
    parts = [
        f"{part} {share:.0%}" for part, share in sorted(spent.items(), key=lambda part: -part[1]) if part != "products"
    ]
    shares = [f"{entry['share_of_peak']:.0%}", *([f"{spent['products']:.0%}", parts[0]] if spent else ["–", "–"])]
    cells = [entry["name"], entry["image_size"], *speeds, *ratios, entry["precision"], *shares]
    return f"| {' | '.join(map(str, cells))} |"


def _ratio(entry: dict, precision: str) -> str:
    if not entry[precision]:
        return "–"
    ratios = repeated_ratios(entry["repeats"], precision)
    return f"{entry[precision] / entry['plain']:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def markdown(result: dict) -> str:
    """The table of a result, and what it was measured on."""
    made, rows = result["provenance"], result["rows"]
    caption = (
        f"Training images a second on {result['machine']}, threads {made['threads']}, "
        f"workers of the plain recipe {made['workers']}, "
        f"batch {rows[0]['batch_size']}, torch {made['torch']}, commit {str(made['commit'])[:7]}, {made['date']}; "
        f"medians of {made['repeats']} alternating repeats, and the ratios' range."
    )
    return "\n".join([HEADER, *map(line, rows), "", caption])


# ---------------------------------------------------------------- the command line


def run(profile: str, repeats: int, seconds: float, batch_size: int | None = None) -> dict:
    """Measure all rows, each printed when it is there."""
    made = provenance(resolve_precision("auto")) | {
        "date": time.strftime("%Y-%m-%d"),
        "workers": WORKERS,
        "repeats": repeats,
    }
    rows: list[dict] = []
    best = dict.fromkeys(_precisions(), 0.0)
    print(HEADER)
    with plain_process() as plain:
        for name in ROWS:
            best = {
                precision: max(best[precision], measured) for precision, measured in peaks(20 if seconds else 2).items()
            }
            rows.append(measure(name, profile, best, plain, repeats, seconds, batch_size))
            print(line(rows[-1]), flush=True)
    # the best of the whole run: other guests may slow the machine down for a while
    rows = [with_peaks(entry, best) for entry in rows]
    return {"machine": machine(), "profile": profile, "rows": rows, "provenance": made}


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--profile", choices=PROFILES, default="paper", help="whose image sizes (default: paper, the report's own)"
    )
    what.add_argument(
        "--quick",
        action="store_true",
        help="a look: the sample's image sizes, batch 32, one repeat; nothing is written",
    )
    what.add_argument("--markdown", metavar="FILE", type=Path, help="measure nothing; the table of a results file")
    parser.add_argument("--peers", action="store_true", help="beside other libraries, on a CPU; see peers.py")
    arguments = parser.parse_args()
    table = peers if arguments.peers else sys.modules[__name__]
    try:
        if arguments.markdown:
            print(shown(arguments.markdown, table.markdown))
            return
        measured = ["cpu"] if arguments.peers else list(PEAK_WIDTH)
        if device().type not in measured:
            raise UsageError(f"the benchmark measures {' and '.join(measured)}, not {device().type}; set DEVICE=cpu")
        if not arguments.quick:
            RESULTS.mkdir(exist_ok=True)
            TemporaryFile(dir=RESULTS).close()  # if nothing can be written there, it is said before the measurement
    except (UsageError, OSError) as error:
        parser.error(str(error))
    if arguments.quick:
        table.run("sample", repeats=1, seconds=0, batch_size=32)
        return
    result = table.run(arguments.profile, repeats=5, seconds=2)
    smaller = "" if arguments.profile == "paper" else f"-{arguments.profile}"
    path = RESULTS / f"{result['machine']}{smaller}{'-peers' * arguments.peers}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nWritten to {path}")


def shown(path: Path, markdown: Callable[[dict], str]) -> str:
    """The table of a results file; UsageError where it is none."""
    try:
        return markdown(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is no results file; the benchmark writes such files to {RESULTS}") from None


if __name__ == "__main__":
    main()
