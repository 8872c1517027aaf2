"""Many runs in one call: their order, one estimate, one bar, and an executor that runs independent ones side by
side.
"""

import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from deepnet.progress import bar, format_estimate
from deepnet.records.files import lock
from deepnet.records.reading import Record, find_records, runs_dir
from deepnet.text import listed
from experimentTable import PROFILES, Experiment, RunLockedError, UsageError, estimated_seconds, experiment

Call = Callable[..., Record]  # makes one run; takes `stop`, which is asked after each epoch, and `line`, a bar


def count_ancestors(exp: Experiment) -> int:
    """0 for a run that starts afresh, one more than its parent's otherwise."""
    return 0 if exp.start_from is None else 1 + count_ancestors(experiment(exp.start_from))


def _say_who_has_them(todo: Iterable[Experiment]) -> None:
    """Of runs on the complete sets: which other profile of these has records to look at, in place of hours of
    training.
    """
    for profile, described in PROFILES.items():
        others = [
            exp.name
            for exp in todo
            if PROFILES[exp.profile].data == described.data == "complete" and exp.profile != profile
        ]
        with suppress(UsageError):  # of a damaged record, which is said where it is needed
            if names := [name for name in dict.fromkeys(others) if find_records(name, profile)]:
                print(f"profile {profile} has records of {listed(names)}")


def _estimate(todo: Iterable[Experiment]) -> str:
    """How long these take, for each profile by itself, since each is estimated on a machine of its own."""
    prices: dict[str, float] = {}
    for exp in todo:
        prices[exp.profile] = prices.get(exp.profile, 0.0) + estimated_seconds(exp)
    return " and ".join(format_estimate(seconds, profile) for profile, seconds in prices.items())


def check_executor(executor: Executor) -> None:
    """Raise UsageError for what is no executor, and for one whose workers would share random numbers, wait for ever or
    never begin.

    A fork has torch's threads no more but waits for them, and cannot use CUDA once its parent has. What is spawned
    imports the script again, and so would begin all over where that calls `run_all` by itself.
    """
    if not isinstance(executor, Executor):
        raise UsageError(
            f"executor must be one of concurrent.futures, such as a ProcessPoolExecutor, got {executor!r:.60}"
        )
    if isinstance(executor, ThreadPoolExecutor):
        raise UsageError(
            "threads share torch's random numbers, so no run would be its seed's; give a ProcessPoolExecutor"
        )
    if not isinstance(executor, ProcessPoolExecutor):
        return
    private: Any = executor  # concurrent.futures has no public name for how its processes begin
    if private._mp_context.get_start_method() == "fork":
        if torch.get_num_threads() > 1 or torch.cuda.is_initialized():
            remedy = f'ProcessPoolExecutor({private._max_workers}, mp_context=get_context("spawn")), with get_context from multiprocessing'
            raise UsageError(f"forked processes wait for ever for torch's threads; give {remedy}")
        return
    # a notebook and `python -c` have none, and nothing is imported
    script = getattr(sys.modules["__main__"], "__file__", None)
    if (
        script
        and Path(script).is_file()
        and not re.search(r"^if\b.*__name__", Path(script).read_text(errors="replace"), re.MULTILINE)
    ):
        raise UsageError(f'each process imports {script} again; put what it does under `if __name__ == "__main__":`')


def run_queue(
    todo: Mapping[Experiment, Call],
    recorded: int,
    executor: Executor | None,
    stop: Callable[[], bool],
    together: bool = True,
) -> tuple[dict[Experiment, Record], list[Experiment]]:
    """Make the runs of `todo`, each by its call, beside so many `recorded` already; returns the records, and what
    others were at.

    `together` lets the executor have all at once that can begin, else one after the other.
    """
    made: dict[Experiment, Record] = {}
    held, wanted = [], len(todo) + recorded
    beside = f", {recorded} of them recorded already" if recorded else ""
    print(f"{wanted} run{'s' * (wanted != 1)}{beside}; to go: {_estimate(todo)}")
    _say_who_has_them(todo)
    whole, line = bar(len(todo), "all runs", unit="run"), bar(1)
    refused: dict[str, list[str]] = {}
    one_by_one = ((exp, partial(call, line=line, stop=stop)) for exp, call in todo.items())
    attempts = schedule(executor, todo, stop, together) if executor else one_by_one
    try:
        for exp, attempt in attempts:
            try:
                made[exp] = attempt()
                whole.update(1)
            except UsageError as error:
                names = refused.setdefault(str(error), [])
                names.append(exp.name)
                if len(names) == 1:  # the others that it hinders are named together
                    print(error)
                held += [exp] if isinstance(error, RunLockedError) else []
            if stop():
                break
        if stop():
            print("left off as asked; the same call goes on from here")
    except KeyboardInterrupt as interrupt:
        interrupt.args = ("the same call goes on from here",)  # for whoever catches it: it has been said
        print(f"interrupted; {interrupt}")
        raise
    finally:
        attempts.close()  # now, not once nobody holds the interrupt's traceback: what has not begun is cancelled
        whole.close()
        line.close()
        for _, *others in refused.values():
            if others:
                print(f"the same hinders {', '.join(dict.fromkeys(others))}")
    return made, held


def schedule(
    executor: Executor, todo: Mapping[Experiment, Call], stop: Callable[[], bool], together: bool = True
) -> Generator[tuple[Experiment, Callable[[], Record]]]:
    """Each experiment and the call that gives its record, as they end; one begins when no parent of it is waiting or
    running.

    When the caller stops asking, or `stop` says so, what has not begun is cancelled and what has begun leaves off after
    its epoch. Raises UsageError where the executor is lost.
    """
    waiting = list(todo)
    running: dict[Future, Experiment] = {}
    with _mark() as mark:
        try:
            while (waiting or running) and not stop():
                held_up = {(exp.name, exp.profile, exp.seed) for exp in (*waiting, *running.values())}
                ready = [exp for exp in waiting if (exp.start_from, exp.profile, exp.seed) not in held_up]
                # what is timed runs alone, at the end
                beside = [exp for exp in ready if exp.kind != "timing"] if together else []
                for exp in beside or ready[: not running]:
                    waiting.remove(exp)
                    packed = pickle.dumps(_Packed(_at_worker, todo[exp], mark, os.environ.get("WANDB_MODE")))
                    running[executor.submit(pickle.loads, packed)] = exp
                for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    exp = running.pop(future)
                    if isinstance(error := future.exception(), BrokenExecutor):
                        raise error
                    yield exp, partial(_record, exp, future)
        except BrokenExecutor:
            raise UsageError(
                "a worker process died (out of memory?) and its pool with it; the same call goes on from here"
            ) from None
        except CancelledError:  # by nobody here
            raise UsageError(
                "the scheduler is gone; once there is one again, the same call goes on from here"
            ) from None
        finally:
            for future in running:
                future.cancel()


class _Packed:
    """A call that is made where it is unpickled: what cannot be imported there fails that call, while Dask would lose
    the worker.
    """

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


def _record(exp: Experiment, future: Future) -> Record:
    """The record of a run that has ended. Raises UsageError where its worker could not make one."""
    try:
        return future.result()
    except ImportError as error:
        remedy = "start it in the clone with `python -m dask worker`, or `pip install -e .` where it runs"
        raise UsageError(f"a worker cannot import the project ({error}); {remedy}") from None
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # Dask's, which need not be installed
            raise
        # Dask blames what waited at that worker too; alone, it will not be in the way of the others.
        raise RunLockedError(
            f"{exp.name} (seed {exp.seed}) could not run: its worker died, and each after it (out of memory?)"
        ) from None


@contextmanager
def _mark() -> Iterator[str]:
    """A file in the records' folder that is there, and locked, while the caller is; those that killed callers left are
    removed.
    """
    folder = runs_dir().resolve()
    ours = f".caller-{socket.gethostname()}-"  # a lock may not be seen from another machine
    busy = "another call is using it"
    for left in folder.glob(f"{ours}*"):
        with suppress(RunLockedError), lock(left, busy):
            _remove_held(left)
    mark = folder / f"{ours}{uuid4().hex}"
    with lock(mark, busy):
        try:
            yield str(mark)
        finally:
            _remove_held(mark)


def _remove_held(path: Path) -> None:
    """Remove a lock file that is held; Windows, which cannot, removes it as the lock ends."""
    with suppress(PermissionError):
        path.unlink(missing_ok=True)


def _caller_is_gone(mark: str) -> bool:
    parent = parent_process()
    return not Path(mark).exists() or (parent is not None and not parent.is_alive())


_one_at_a_time = threading.Lock()  # a worker's threads share torch's random numbers


def _at_worker(call: Call, mark: str, wandb_mode: str | None = None) -> Record:
    """`call()` in a worker, into the caller's records, with the caller's `WANDB_MODE` and for as long as there is a
    caller.

    Raises UsageError where the worker does not see the caller's mark there.
    """
    with _one_at_a_time:
        folder = str(Path(mark).parent)
        if _caller_is_gone(mark):
            raise UsageError(
                f"the worker on {socket.gethostname()} cannot see {folder}; set RUNS_DIR to a folder that all share"
            )
        os.environ["RUNS_DIR"] = folder
        os.environ.pop("WANDB_MODE", None)
        os.environ |= {"WANDB_MODE": wandb_mode} if wandb_mode else {}
        return call(stop=partial(_caller_is_gone, mark))


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """A pool of `workers` processes that share the cores: threads x workers <= cores. Raises UsageError for fewer than
    one.

    An exception in the context, an interrupt among them, ends the processes at once, and so does the end of the
    caller's own.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = get_context("spawn")
    there, here = context.Pipe(duplex=False)
    with ProcessPoolExecutor(workers, context, _begin_worker, (max(1, cores // workers), there)) as pool:
        try:
            yield pool
        except BaseException:
            here.close()
            raise


def _begin_worker(threads: int, caller: Connection) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller too, which ends its workers
    with suppress(ImportError):
        from tqdm import tqdm

        # its own is shared among processes, and said to be leaked when this one is killed
        tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with, args=(caller,), daemon=True).start()


def _end_with(caller: Connection) -> None:
    """End this process, as any moment of a run allows, once the caller's end of the pipe is closed, by it or by its
    death.
    """
    caller.poll(None)
    os._exit(1)


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
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a scheduler that is gone is said by `spread`
    with client:
        if not client.scheduler_info()["workers"]:
            print(f"the scheduler at {address} has no worker yet; the runs begin when one comes")
        yield client.get_executor()
