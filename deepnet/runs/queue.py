"""Many runs in one call: one estimate, one progress bar, and an executor for independent runs in parallel."""

import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent import futures
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
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
from deepnet.records.reading import Record, find_records, roots, runs_dir
from deepnet.runs.arguments import announce_parent, ended, untrained_parents
from deepnet.text import counted, listed
from deepnet.valid import ancestors
from experimentTable import (
    PROFILES,
    TABLE,
    Experiment,
    RunLockedError,
    UsageError,
    estimated_seconds,
    is_supported,
    supporting_profiles,
)

Call = Callable[..., Record]  # makes one run; takes `stop`, called after each epoch, and `line`, a progress bar
AGAIN = "the same call continues from here"


def run_missing(
    wanted: list[Experiment], evidence: bool, executor: Executor | None, wandb: bool, stop: Callable[[], bool],
    run: Callable[..., Record],
) -> list[Record]:  # fmt: skip
    """The finished records of these experiments; missing ones are made by `run`, parents before children.

    The arguments are those of `coreFunction.run_all`.
    """
    roots()  # raises here, once, if no folder can be named
    if beyond := [exp for exp in wanted if not is_supported(exp)]:
        names = ", ".join(dict.fromkeys(exp.name for exp in beyond))
        profiles = " and ".join(dict.fromkeys(exp.profile for exp in beyond))
        print(f"no budget in the profile {profiles} for {names}; choose profile {supporting_profiles(*beyond)}")
        wanted = [exp for exp in wanted if exp not in beyond]
    records = {exp: record for exp in wanted if (record := ended(exp, evidence))}
    for failed in (record for record in records.values() if not record.finished):
        print(failed)
    asked = [exp for exp in wanted if exp not in records]
    parents = list(dict.fromkeys(parent for exp in asked for parent in untrained_parents(exp) if parent not in asked))
    for parent in parents:
        announce_parent(parent)
    calls = {
        exp: partial(run, exp, evidence=evidence and exp in asked, wandb=wandb)
        for exp in sorted([*asked, *parents], key=lambda exp: len(ancestors(exp, TABLE)))
    }
    recorded = len(wanted) - len(asked)
    if calls:
        made, locked = run_queue(calls, recorded, executor, stop)
        if locked and not stop():
            again = {exp: calls[exp] for exp in locked}  # the other process may have ended by now
            made |= run_queue(again, recorded + len(calls) - len(again), executor, stop, together=False)[0]
        records |= made
        # other processes may have finished theirs
        records |= {exp: record for exp in asked if exp not in records and (record := ended(exp, evidence))}
    return [records[exp] for exp in wanted if exp in records and records[exp].finished]


def _print_plan(calls: Mapping[Experiment, Call], recorded: int) -> None:
    """Print the number of runs, their estimated time by profile, and the other profiles that have records of them."""
    seconds: dict[str, float] = {}
    for exp in calls:
        seconds[exp.profile] = seconds.get(exp.profile, 0.0) + estimated_seconds(exp)
    estimate = " and ".join(format_estimate(time, profile) for profile, time in seconds.items())
    there = f", {recorded} of them recorded already" if recorded else ""
    print(f"{counted(len(calls) + recorded, 'run')}{there}; to go: {estimate}")
    complete = [profile for profile in PROFILES if PROFILES[profile].data == "complete"]
    for profile in complete:  # its records may spare hours of training
        names = dict.fromkeys(exp.name for exp in calls if exp.profile in complete and exp.profile != profile)
        with suppress(UsageError):  # of a damaged record, which is reported where it is needed
            if found := [name for name in names if find_records(name, profile)]:
                print(f"profile {profile} has records of {listed(found)}")


def check_executor(executor: Executor) -> None:
    """Raise UsageError for an executor whose workers would share random numbers, wait forever or never begin.

    A forked process lacks torch's threads but waits for them, and it cannot use CUDA once its parent has used it. A
    spawned process imports the script again, and would call `run_all` again if the script does so on import.
    """
    if not isinstance(executor, Executor):
        kinds = "one of concurrent.futures, such as a ProcessPoolExecutor"
        raise UsageError(f"executor must be {kinds}, got {executor!r:.60}")
    if isinstance(executor, ThreadPoolExecutor):
        fault = "threads share torch's random numbers, so that a seed would not determine its run"
        raise UsageError(f"{fault}; give a ProcessPoolExecutor")
    if not isinstance(executor, ProcessPoolExecutor):
        return
    private: Any = executor  # concurrent.futures has no public attribute for the start method
    if private._mp_context.get_start_method() == "fork":
        if torch.get_num_threads() > 1 or torch.cuda.is_initialized():
            pool = f'ProcessPoolExecutor({private._max_workers}, mp_context=get_context("spawn"))'
            raise UsageError(f"forked processes wait forever for torch's threads; give {pool}, from multiprocessing")
        return
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")  # a notebook and `python -c` have none
    if script.is_file() and not re.search(r"^if\b.*__name__", script.read_text(errors="replace"), re.MULTILINE):
        raise UsageError(f'each process imports {script} again; put what it does under `if __name__ == "__main__":`')


def run_queue(
    calls: Mapping[Experiment, Call], recorded: int, executor: Executor | None, stop: Callable[[], bool],
    together: bool = True,
) -> tuple[dict[Experiment, Record], list[Experiment]]:  # fmt: skip
    """Make these runs, each by its call; returns the records, and the runs that other processes have locked.

    recorded: how many of the requested runs have a record already. together: submit all runs that can begin to the
    executor at once, instead of one after the other.
    """
    made: dict[Experiment, Record] = {}
    locked: list[Experiment] = []
    refusals: dict[str, list[str]] = {}  # message -> the runs that it stopped
    _print_plan(calls, recorded)
    all_runs, line = bar(len(calls), "all runs", unit="run"), bar(1)
    one_by_one = ((exp, partial(call, line=line, stop=stop)) for exp, call in calls.items())
    attempts = schedule(executor, calls, stop, together) if executor else one_by_one
    try:
        for exp, attempt in attempts:
            try:
                made[exp] = attempt()
                all_runs.update(1)
            except UsageError as error:
                if str(error) not in refusals:  # other runs with the same error are listed at the end
                    print(error)
                refusals.setdefault(str(error), []).append(exp.name)
                locked += [exp] if isinstance(error, RunLockedError) else []
            if stop():
                break
        if stop():
            print(f"stopped as asked; {AGAIN}")
    except KeyboardInterrupt as interrupt:
        interrupt.args = (AGAIN,)  # tells the caller that this has been printed
        print(f"interrupted; {AGAIN}")
        raise
    finally:
        attempts.close()  # now, not when the interrupt's traceback is released: cancels runs that have not begun
        all_runs.close()
        line.close()
        for _, *others in refusals.values():
            if others:
                print(f"the same stops {', '.join(dict.fromkeys(others))}")
    return made, locked


def schedule(
    executor: Executor, calls: Mapping[Experiment, Call], stop: Callable[[], bool], together: bool = True
) -> Generator[tuple[Experiment, Callable[[], Record]]]:
    """Yield each experiment, when its run has ended, with a function that returns its record. Parents run first.

    When the generator is closed, or `stop` returns True, runs that have not begun are cancelled, and the others stop
    after their epoch. Raises UsageError if the executor is lost.
    """
    waiting = list(calls)
    running: dict[Future, Experiment] = {}
    with _caller_file() as caller:
        try:
            while (waiting or running) and not stop():
                unfinished = {(exp.name, exp.profile, exp.seed) for exp in (*waiting, *running.values())}
                ready = [exp for exp in waiting if (exp.start_from, exp.profile, exp.seed) not in unfinished]
                # Timing runs have the machine to themselves, at the end.
                parallel = [exp for exp in ready if exp.kind != "timing"] if together else []
                for exp in parallel or ready[: not running]:
                    waiting.remove(exp)
                    call = _CallWhenUnpickled(_run_in_worker, calls[exp], caller, os.environ.get("WANDB_MODE"))
                    running[executor.submit(pickle.loads, pickle.dumps(call))] = exp
                for future in futures.wait(running, 1, futures.FIRST_COMPLETED).done:
                    exp = running.pop(future)
                    if isinstance(error := future.exception(), futures.BrokenExecutor):
                        raise error
                    yield exp, partial(_result, exp, future)
        except futures.BrokenExecutor:
            fault = "a worker process died (out of memory?) and its pool with it"
            raise UsageError(f"{fault}; {AGAIN}") from None
        except futures.CancelledError:  # not cancelled here, so by the loss of the scheduler
            raise UsageError(f"the scheduler is gone; once there is one again, {AGAIN}") from None
        finally:
            for future in running:
                future.cancel()


class _CallWhenUnpickled:
    """A call that is unpickled within the task, so that an ImportError fails the task and not the Dask worker."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


def _result(exp: Experiment, future: Future) -> Record:
    """The record of a run that has ended. Raises UsageError if its worker could not make one."""
    try:
        return future.result()
    except ImportError as error:
        remedy = "start it in the clone with `python -m dask worker`, or `pip install -e .` where it runs"
        raise UsageError(f"a worker cannot import the project ({error}); {remedy}") from None
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # Dask's, which need not be installed
            raise
        # Dask blames all runs that waited on that worker; tried again alone, the others succeed.
        reason = "its worker died, and each after it (out of memory?)"
        raise RunLockedError(f"{exp.name} (seed {exp.seed}) could not run: {reason}") from None


@contextmanager
def _caller_file() -> Iterator[str]:
    """A file in the records folder that exists and is locked while the caller lives.

    It tells a worker, also on another machine, that it sees the caller's folder and that the caller is alive. The files
    of killed callers are removed.
    """
    folder = runs_dir().resolve()
    prefix = f".caller-{socket.gethostname()}-"  # a lock may not be seen from another machine
    for path in folder.glob(f"{prefix}*"):
        with suppress(RunLockedError), lock(path, "its caller is alive"):
            _remove_locked(path)
    path = folder / f"{prefix}{uuid4().hex}"
    with lock(path, "its caller is alive"):
        try:
            yield str(path)
        finally:
            _remove_locked(path)


def _remove_locked(path: Path) -> None:
    with suppress(PermissionError):  # on Windows, which removes it when the lock is released
        path.unlink(missing_ok=True)


def _caller_is_gone(caller: str) -> bool:
    parent = parent_process()
    return not Path(caller).exists() or (parent is not None and not parent.is_alive())


_one_at_a_time = threading.Lock()  # a worker's threads share torch's random numbers


def _run_in_worker(call: Call, caller: str, wandb_mode: str | None) -> Record:
    """`call()` in a worker, with the caller's records folder and `WANDB_MODE`; it stops when the caller is gone.

    Raises UsageError if the worker does not see the caller's file.
    """
    with _one_at_a_time:
        folder = str(Path(caller).parent)
        if _caller_is_gone(caller):
            remedy = "set RUNS_DIR to a folder that all share"
            raise UsageError(f"the worker on {socket.gethostname()} cannot see {folder}; {remedy}")
        os.environ["RUNS_DIR"] = folder
        os.environ.pop("WANDB_MODE", None)
        os.environ |= {"WANDB_MODE": wandb_mode} if wandb_mode else {}
        return call(stop=partial(_caller_is_gone, caller))


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """A pool of processes that share the cores, so that threads x workers <= cores.

    The processes end at once if the block raises, for example at an interrupt, and when the caller's process ends.
    Raises UsageError for fewer than one worker.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with ProcessPoolExecutor(workers, context, _begin_worker, (max(1, cores // workers), receiver)) as pool:
        try:
            yield pool
        except BaseException:
            sender.close()
            raise


def _begin_worker(threads: int, receiver: Connection) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller too, which ends its workers
    with suppress(ImportError):
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())  # its own is shared among processes, and leaks when this one is killed
    threading.Thread(target=_exit_with_caller, args=(receiver,), daemon=True).start()


def _exit_with_caller(receiver: Connection) -> None:
    """End this process when the caller closes its end of the pipe or dies; a run may be killed at any time."""
    receiver.poll(None)
    os._exit(1)


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The workers of the Dask scheduler at `address`, as a context. Raises UsageError if there is no scheduler."""
    try:
        from dask.distributed import Client
    except ImportError:
        raise UsageError("--dask needs Dask: pip install distributed") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler at {address}: {error}") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # `schedule` reports a scheduler that is gone
    with client:
        if not client.scheduler_info()["workers"]:
            print(f"the scheduler at {address} has no worker yet; the runs begin when one comes")
        yield client.get_executor()
