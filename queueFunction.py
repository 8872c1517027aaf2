"""Many runs in one call: their order, one estimate, one bar, and an executor that runs independent ones side by side."""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import partial

from experimentTable import Experiment, Held, UsageError, experiment, price
from recordFunction import Record
from utilityFunction import bar, duration


def generation(exp: Experiment) -> int:
    """0 for a run that starts afresh, one more than its parent's otherwise."""
    return 0 if exp.start_from is None else 1 + generation(experiment(exp.start_from))


def work_off(
    todo: list[Experiment], wanted: int, call: Callable[..., Record], executor: Executor | None, stop: Callable[[], bool]
) -> list[Experiment]:
    """Make the runs of `todo`; returns those that another process held."""
    held, total = [], sum(map(price, todo))
    recorded = f", {wanted - len(todo)} of them recorded already" if wanted > len(todo) else ""
    print(f"{wanted} run{'s' * (wanted != 1)}{recorded}; about {duration(total)} to go")
    whole, line = bar(len(todo), "all runs", unit="run"), bar(1)
    attempts = spread(executor, todo, call) if executor else ((exp, partial(call, exp, line=line, stop=stop)) for exp in todo)
    try:
        for exp, attempt in attempts:
            try:
                attempt()
            except UsageError as error:
                print(error)
                held += [exp] if isinstance(error, Held) else []
            whole.update(1)
            if stop():
                print("left off as asked; the same call goes on from here")
                break
    except KeyboardInterrupt:
        print("interrupted; the same call goes on from here")
        raise
    finally:
        whole.close()
        line.close()
    return held


def spread(executor: Executor, todo: list[Experiment], call: Callable[..., Record]) -> Iterator[tuple[Experiment, Callable[[], Record]]]:
    """Each experiment and the call that gives its record, as they end; one begins when no parent of it is waiting or running."""
    waiting = list(todo)
    running: dict[Future, Experiment] = {}
    try:
        while waiting or running:
            held_up = {(exp.name, exp.seed) for exp in (*waiting, *running.values())}
            for exp in [exp for exp in waiting if (exp.start_from, exp.seed) not in held_up]:
                waiting.remove(exp)
                running[executor.submit(call, exp)] = exp
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result
    finally:
        for future in running:
            future.cancel()
