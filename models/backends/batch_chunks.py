"""Run a recursion on chunks of a batch on a CPU, each chunk on one thread.

Threads that share every operation synchronise after each one, thousands of times a second in a small network, and pass
results through memory. A thread that takes its rows through the whole recursion synchronises once, and its
intermediate results stay in its core's caches.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from models.backends.base import Recursion, State

# Positions per chunk, by measurement: more is not faster; less than a sixth costs more than it gains.
POSITIONS = 2048


class BatchChunks:
    """Runs a recursion without gradient on several threads, each on a chunk of rows at a time."""

    def __init__(self, num_threads: int, positions: int = POSITIONS):
        self.num_threads, self.positions = num_threads, positions
        self.compiled: set[tuple] = set()  # shapes and dtypes of chunks that are compiled already

    def size(self, rows: int, length: int) -> int:
        """Rows per chunk, all equal; `rows` if one batch on all threads is faster."""
        fits = max(1, self.positions // length)
        for size in range(min(fits, rows // self.num_threads), 0, -1):
            rounds = -(-rows // (size * self.num_threads))
            busy = rows / (rounds * size * self.num_threads)  # share of the threads' time
            if rows % size == 0 and busy > 0.75 and 6 * size >= fits:
                return size
        return rows

    def apply(self, recursion: Recursion, state: State, x: Tensor) -> State:
        """Return `recursion(state, x)` without gradient, all (B, L, D); rows must be independent of each other."""
        rows, length, _ = x.shape
        size = self.size(rows, length)
        if size == rows:
            with torch.no_grad():
                return recursion(state, x)
        chunks = zip(*(tensor.split(size) for tensor in (*state, x)), strict=True)
        jobs = [functools.partial(_run_without_grad, recursion, latents, x) for *latents, x in chunks]
        if self.num_threads == 1:
            done = [job() for job in jobs]
        else:
            threads = single_thread_pool(self.num_threads)
            shapes = tuple((tensor.shape[1:], tensor.dtype) for tensor in (*state, x)), size
            done = []
            if shapes not in self.compiled:  # on one thread first, or every thread would compile it
                done = [threads.submit(jobs.pop(0)).result()]
                self.compiled.add(shapes)
            done += threads.map(lambda job: job(), jobs)
        return tuple(torch.cat(latents) for latents in zip(*done, strict=True))


def _run_without_grad(recursion: Recursion, latents: list[Tensor], x: Tensor) -> State:
    with torch.no_grad():  # a thread does not inherit it
        return recursion(tuple(latents), x)


@functools.cache
def single_thread_pool(number: int) -> ThreadPoolExecutor:
    """Return a pool of `number` threads in which torch uses one thread each; the caller's number is unchanged."""
    callers = torch.get_num_threads()
    started = threading.Barrier(number)
    pool = ThreadPoolExecutor(number, "rows", initializer=_compute_alone)
    list(pool.map(lambda _: started.wait(), range(number)))
    # For the calling thread, and for later ones, which inherit the last number that was set.
    torch.set_num_threads(callers)
    return pool


def _compute_alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # the first call in a thread fixes its number, to the last one set in any thread
