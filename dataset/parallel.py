"""Parallel map over processes, with results in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from utils.errors import UserError
from utils.interrupts import signals_held_back

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cpus() -> int:
    """Return the number of CPUs available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Map over items on `workers` processes; items are consumed lazily, so there may be infinitely many.

    The function and all items must be picklable. With one worker everything runs in this process. Workers exit when
    this process does, even if it is killed. Raises `UserError` if a worker is killed.
    """
    if workers == 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    running = deque()
    wait = True
    try:
        for item in items:
            with signals_held_back():  # only the parent handles signals
                running.append(pool.submit(function, item))
            if len(running) > 2 * workers:  # enough to keep every worker busy
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps because memory ran out: use fewer --workers"
        ) from error
    except KeyboardInterrupt:
        wait = False  # do not wait for running work
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)


def _start_worker() -> None:
    """Ignore Ctrl-C, and exit together with the parent, because a killed parent cannot notify its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
