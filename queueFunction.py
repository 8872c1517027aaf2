"""Many runs in one call: their order, one estimate, one bar, and an executor that runs independent ones side by side."""

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from experimentTable import Experiment, Held, UsageError, experiment, price
from recordFunction import Record, runs_dir
from utilityFunction import about, bar


def generation(exp: Experiment) -> int:
    """0 for a run that starts afresh, one more than its parent's otherwise."""
    return 0 if exp.start_from is None else 1 + generation(experiment(exp.start_from))


def work_off(
    todo: list[Experiment], wanted: int, call: Callable[..., Record], executor: Executor | None, stop: Callable[[], bool]
) -> list[Experiment]:
    """Make the runs of `todo`; returns those that another process held."""
    held, total = [], sum(map(price, todo))
    recorded = f", {wanted - len(todo)} of them recorded already" if wanted > len(todo) else ""
    print(f"{wanted} run{'s' * (wanted != 1)}{recorded}; to go: {about(total)}")
    whole, line = bar(len(todo), "all runs", unit="run"), bar(1)
    refused: dict[str, list[str]] = {}
    attempts = spread(executor, todo, call) if executor else ((exp, partial(call, exp, line=line, stop=stop)) for exp in todo)
    try:
        for exp, attempt in attempts:
            try:
                attempt()
                whole.update(1)
            except UsageError as error:
                names = refused.setdefault(str(error), [])
                names.append(exp.name)
                if len(names) == 1:  # the others that it hinders are named together
                    print(error)
                held += [exp] if isinstance(error, Held) else []
            if stop():
                print("left off as asked; the same call goes on from here")
                break
    except KeyboardInterrupt as interrupt:
        interrupt.args = ("the same call goes on from here",)  # for whoever catches it: it has been said
        print(f"interrupted; {interrupt}")
        raise
    finally:
        whole.close()
        line.close()
        for _, *others in refused.values():
            if others:
                print(f"the same hinders {', '.join(others)}")
    return held


def spread(executor: Executor, todo: list[Experiment], call: Callable[..., Record]) -> Iterator[tuple[Experiment, Callable[[], Record]]]:
    """Each experiment and the call that gives its record, as they end; one begins when no parent of it is waiting or running.

    What has not begun is cancelled when the caller stops asking.
    """
    waiting = list(todo)
    running: dict[Future, Experiment] = {}
    folder = runs_dir().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".caller-") as mark:
        try:
            while waiting or running:
                held_up = {(exp.name, exp.seed) for exp in (*waiting, *running.values())}
                for exp in [exp for exp in waiting if (exp.start_from, exp.seed) not in held_up]:
                    waiting.remove(exp)
                    running[executor.submit(_at_worker, call, exp, mark.name)] = exp
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    if isinstance(error := future.exception(), BrokenExecutor):
                        raise error
                    yield running.pop(future), future.result
        except BrokenExecutor:
            raise UsageError("a worker process died (out of memory?) and its pool with it; the same call goes on from here") from None
        finally:
            for future in running:
                future.cancel()


_one_at_a_time = threading.Lock()  # a worker's threads share torch's random numbers


def _at_worker(call: Callable[..., Record], exp: Experiment, mark: str) -> Record:
    """`call(exp)` in a worker, into the caller's records. Raises UsageError where the worker does not see the caller's mark there."""
    if not Path(mark).exists():
        raise UsageError(
            f"{exp.name}: the worker on {socket.gethostname()} cannot see {Path(mark).parent}; set RUNS_DIR to a folder that all share"
        )
    with _one_at_a_time:
        os.environ["RUNS_DIR"] = str(Path(mark).parent)
        return call(exp)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of `workers` processes that share the cores: threads x workers <= cores. Raises UsageError for fewer than one."""
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (max(1, cores // workers),))


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The workers of the Dask scheduler at `address`, as a context. Raises UsageError where there is none."""
    try:
        from dask.distributed import Client
    except ImportError:
        raise UsageError("--dask needs Dask: pip install distributed") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler at {address}: {error}") from None
    with client:
        yield client.get_executor()
