"""Run a function on several ranks on this machine, as `torchrun` would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class RankResult:
    returncode: int
    stdout: str
    stderr: str
    ended: float  # seconds of time.monotonic()


def run_ranks(
    folder: Path, function: Callable, *args, size: int = 2, timeout_seconds: float = 60, **environment: str
) -> list[RankResult]:
    """Call `function(*args)` in `size` processes; return the results in rank order.

    The function must be at the top level of a module. Processes are forked from a server that has already imported
    torch and the modules that optimizers import at their first use, which saves seconds per process. A rank that is
    still running after the timeout is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "torch._dynamo", "utils.distributed", "pretrain"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | environment
    processes = []
    for rank in range(size):
        variables = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(target=_be_rank, args=(str(folder), rank, variables, function, args))
        process.start()
        processes.append(process)
    deadline, ended = time.monotonic() + timeout_seconds, [0.0] * size
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
        for rank, process in enumerate(processes):
            ended[rank] = ended[rank] or (0.0 if process.is_alive() else time.monotonic())
    for process in processes:
        process.kill()
        process.join()
    return [
        RankResult(
            process.exitcode,
            Path(folder, f"{rank}.out").read_text(),
            Path(folder, f"{rank}.err").read_text(),
            end,
        )
        for rank, (process, end) in enumerate(zip(processes, ended, strict=True))
    ]


def outputs_of(results: list[RankResult]) -> list[str]:
    """Return the output of each rank, after checking that all exited successfully."""
    for result in results:
        assert result.returncode == 0, result.stderr
    return [result.stdout for result in results]


def _be_rank(folder: str, rank: int, variables: dict[str, str], function: Callable, args: tuple) -> None:
    os.environ.update(variables)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(Path(folder, f"{rank}.{name}"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    import torch

    torch.set_num_threads(1)
    try:
        function(*args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
