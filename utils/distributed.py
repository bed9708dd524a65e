"""`World`: the processes of one run, with collectives that do nothing for a single process."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

# Import this before a process group exists: its functions have the current group as a default argument. torch's
# optimizers import it at their first step, and would then keep a group alive after `close`, whose threads can abort the
# process when Python exits.
import torch.distributed.nn.functional

from utils.device import resolve_device
from utils.errors import UserError
from utils.interrupts import SIGNAL_EXIT_BASE

BUCKET_BYTES = 25 * 2**20
DEFAULT_TIMEOUT_SECONDS = 600.0
# How long a failing rank waits for the first failing rank to print its error.
SHOW_SECONDS = 5.0
# How long rank 0, after its own error, waits for other ranks that fail as well.
STORE_SECONDS = 3.0


@dataclass
class World:
    """This process's rank among all processes of the run, and collectives.

    Use it as a context manager around all code that calls collectives: if a rank fails, one error is printed for all
    ranks, and the rank exits immediately with a non-zero code, so that the others end as well. All ranks must call the
    collectives in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _vote: tuple[torch.Tensor, dist.Work] | None = field(default=None, repr=False)

    @classmethod
    def start(cls, device_name: str = "auto", timeout_seconds: float | None = None) -> World:
        """Join the processes that `torchrun` started, by its environment variables, or run as a single process.

        `timeout_seconds` bounds every collective; None reads `DIST_TIMEOUT_SECONDS`, else 600.
        CUDA tensors use NCCL, CPU tensors Gloo.
        """
        size = _number_from_env("WORLD_SIZE", 1, int)
        if size == 1:
            return cls(device=resolve_device(device_name))
        rank = _number_from_env("RANK", 0, int)
        local_rank = _number_from_env("LOCAL_RANK", 0, int)
        device = resolve_device(device_name, local_rank, _number_from_env("LOCAL_WORLD_SIZE", size, int))
        if timeout_seconds is None:
            timeout_seconds = _number_from_env("DIST_TIMEOUT_SECONDS", DEFAULT_TIMEOUT_SECONDS, float)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        _join_process_group(backend, rank, size, timedelta(seconds=timeout_seconds))
        return cls(rank, size, local_rank, device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def print(self, *values: object) -> None:
        """Print on rank 0 only, above the progress bar if there is one."""
        if self.is_main:
            from tqdm import tqdm

            tqdm.write(" ".join(map(str, values)))
            sys.stdout.flush()  # output to a file (`nohup`, Slurm) is buffered

    # Collectives

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over ranks in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Concatenate all ranks' (n, ...) tensors in rank order to (size·n, ...); shapes must be equal."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather_object(self, obj: Any) -> list[Any]:
        """Return all ranks' objects in rank order, on every rank; objects must be picklable."""
        if self.size == 1:
            return [obj]
        objects: list[Any] = [None] * self.size
        dist.all_gather_object(objects, obj)
        return objects

    def broadcast_object(self, obj: Any) -> Any:
        """Return rank 0's object on every rank; it must be picklable."""
        if self.size == 1:
            return obj
        box = [obj]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def broadcast_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite `tensors` in place with rank 0's."""
        if self.size > 1:
            self._in_buckets(list(tensors), lambda flat: dist.broadcast(flat, src=0, async_op=True))

    def sum_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Sum the gradients over ranks in place, in few flat buckets; parameters without a gradient are skipped.

        The calls do not overlap with backward, because each network is applied many times per step and its gradients
        are complete only when backward ends.
        """
        if self.size > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            self._in_buckets(gradients, lambda flat: dist.all_reduce(flat, async_op=True))

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # on the CPU, so that it does not wait for a GPU

    def any_flags(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether any rank has set it, equal on all ranks; call it once per step.

        With several ranks it returns the result of the previous call (all False at first), because the vote is
        communicated while the step is computed.
        """
        if self.size == 1:
            return tuple(map(bool, flags))
        before = self._finish_vote()
        votes = torch.tensor(flags, dtype=torch.int32)
        self._vote = votes, dist.all_reduce(votes, op=dist.ReduceOp.MAX, async_op=True)
        return (False,) * len(flags) if before is None else tuple(map(bool, before.tolist()))

    def _finish_vote(self) -> torch.Tensor | None:
        if self._vote is None:
            return None
        votes, work = self._vote
        self._vote = None
        work.wait()
        return votes

    @staticmethod
    def _in_buckets(tensors: list[torch.Tensor], start: Callable[[torch.Tensor], dist.Work]) -> None:
        """Run a collective on flat copies of the tensors, all buckets in flight together, and copy back."""
        flights = []
        with torch.no_grad():
            for bucket in _buckets(tensors, BUCKET_BYTES):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                flights.append((bucket, flat, start(flat)))
            for bucket, flat, work in flights:
                work.wait()
                parts = flat.split([tensor.numel() for tensor in bucket])
                torch._foreach_copy_(
                    bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)]
                )

    # Closing

    def close(self) -> None:
        """Leave the process group; called by all ranks after success."""
        if self.size > 1 and dist.is_initialized():
            self._finish_vote()
            dist.destroy_process_group()

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        succeeded = error is None or (isinstance(error, SystemExit) and not error.code)
        if succeeded or self.size == 1:
            self.close()
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> NoReturn:
        """Print the error unless another rank has printed one, and exit without waiting for other ranks.

        A normal exit would hang, because destructors of the process group wait for the failed rank.
        """
        try:
            store = dist.distributed_c10d._get_default_store()
            store.set_timeout(timedelta(seconds=SHOW_SECONDS))
            first = store.add("failures", 1) == 1
            if first:
                self._show(error)
                store.set("failure shown", "yes")
            else:
                # If this rank exits earlier, the launcher may kill the first rank before it has printed its error.
                store.wait(["failure shown"], timedelta(seconds=SHOW_SECONDS))
            store.add("left", 1)
            # Rank 0 may host the store: if it exits too early, a rank that fails at the same time prints its error too.
            # If rank 0 has lost another rank, there is no rank to wait for.
            deadline = time.monotonic() + STORE_SECONDS
            waits = self.rank == 0 and not _is_lost_contact(error)
            while waits and store.add("left", 0) < self.size and time.monotonic() < deadline:
                time.sleep(0.01)
        except (RuntimeError, ValueError):  # the store's process has ended, or there is no store
            self._show(error)
        sys.stdout.flush()
        os._exit(_exit_code(error))

    def _show(self, error: BaseException) -> None:
        if isinstance(error, UserError):
            message = f"error: {error}"
        elif isinstance(error, KeyboardInterrupt):
            message = f"rank {self.rank}: {error or 'interrupted'}"
        elif isinstance(error, SystemExit):
            message = f"rank {self.rank}: {error.code}" if isinstance(error.code, str) else ""
        elif _is_lost_contact(error):
            first_line = str(error).strip().partition("\n")[0]
            message = f"error: rank {self.rank} lost contact with another rank, which has ended or hangs: {first_line}"
        else:
            message = f"rank {self.rank} failed:\n" + "".join(traceback.format_exception(error)).rstrip()
        if message:
            print(message, file=sys.stderr, flush=True)


# Connection to the common store of all processes, and the number of groups that this process has joined.
_store: dist.Store | None = None
_groups_joined = 0


def _join_process_group(backend: str, rank: int, size: int, timeout: timedelta) -> None:
    """Start torch's process group; `UserError` if the other processes cannot be reached in time.

    A process may join again after it has left a group, as in a sweep. The store is opened only once, because rank 0's
    port may not be free again immediately.
    """
    global _store, _groups_joined
    try:
        if _store is None:
            _store, rank, size = next(dist.rendezvous("env://", rank, size, timeout=timeout))
        _store.set_timeout(timeout)
        # The prefix is unique, because the store keeps the addresses of earlier groups: of workers before a restart by
        # the launcher, and of earlier runs of a sweep.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt_{attempt}/group_{_groups_joined}", _store)
        _groups_joined += 1
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        # Wait until all are connected; otherwise an early failure of one would leave the others waiting.
        dist.all_reduce(torch.zeros(1))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"rank {rank} of {size} cannot join the other processes: {reason}") from error


def _buckets(tensors: Iterable[torch.Tensor], limit_bytes: int) -> Iterator[list[torch.Tensor]]:
    """Group tensors of equal dtype and device, in order, into lists of at most `limit_bytes` (or one tensor)."""
    open_buckets: dict[tuple, tuple[list[torch.Tensor], int]] = {}
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        bucket, size = open_buckets.get(kind, ([], 0))
        if bucket and size + tensor.nbytes > limit_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        open_buckets[kind] = bucket, size + tensor.nbytes
    yield from (bucket for bucket, _ in open_buckets.values())


def _is_lost_contact(error: BaseException) -> bool:
    """True if a collective failed because another rank has ended or is late (Gloo raises a plain RuntimeError)."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return SIGNAL_EXIT_BASE + getattr(error, "number", signal.SIGINT)
    return 2 if isinstance(error, UserError) else 1


def _number_from_env(name: str, default: float, kind: type) -> Any:
    text = os.environ.get(name, "")
    try:
        return kind(text) if text else default
    except ValueError:
        raise UserError(f"environment variable {name}={text!r} must be a number ({kind.__name__})") from None
