"""A recursion over chunks of a batch on a CPU, each chunk on one thread that computes alone.

Threads that share every operation wait for each other after each one, thousands of times a second in a small network,
and write to memory what the next operation reads. A thread that takes its rows through the whole recursion waits once,
and what lies between its products stays in its core's caches.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from models.backends.base import Recursion, State

# Positions of a chunk, as measured: more is no faster or slower, less than a sixth of it costs more than it brings.
POSITIONS = 2048


class BatchChunks:
    """The threads of a recursion without gradient, and how many rows of the batch each of them takes at a time."""

    def __init__(self, num_threads: int, positions: int = POSITIONS):
        self.num_threads, self.positions = num_threads, positions
        self.compiled: set[tuple] = set()  # shapes and dtypes of chunks that a compiler has seen

    def size(self, rows: int, length: int) -> int:
        """Rows of a chunk, all equal; `rows` if they are better taken together, by all threads at once."""
        fits = max(1, self.positions // length)
        for size in range(min(fits, rows // self.num_threads), 0, -1):
            rounds = -(-rows // (size * self.num_threads))
            busy = rows / (rounds * size * self.num_threads)  # share of the threads' time
            if rows % size == 0 and busy > 0.75 and 6 * size >= fits:
                return size
        return rows

    def apply(self, recursion: Recursion, state: State, x: Tensor) -> State:
        """`recursion(state, x)` without gradient, all (B, L, D); rows must not depend on each other or on draws."""
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
            if shapes not in self.compiled:  # on one thread, or each would compile the same
                done = [threads.submit(jobs.pop(0)).result()]
                self.compiled.add(shapes)
            done += threads.map(lambda job: job(), jobs)
        return tuple(torch.cat(latents) for latents in zip(*done, strict=True))


def _run_without_grad(recursion: Recursion, latents: list[Tensor], x: Tensor) -> State:
    with torch.no_grad():  # which a thread does not inherit
        return recursion(tuple(latents), x)


@functools.cache
def single_thread_pool(number: int) -> ThreadPoolExecutor:
    """A pool of `number` threads, each of which computes alone however many threads the caller uses."""
    callers = torch.get_num_threads()
    started = threading.Barrier(number)
    pool = ThreadPoolExecutor(number, "rows", initializer=_compute_alone)
    list(pool.map(lambda _: started.wait(), range(number)))
    # Of the calling thread, and of those that start later, which take the number that was set last.
    torch.set_num_threads(callers)
    return pool


def _compute_alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread that asks for the first time takes the number that was set last, by any thread
