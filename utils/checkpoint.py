"""Weights and full training states on disk: written atomically in the background, verified by checksums.

A run's folder holds
    step_{N}            the weights: a plain state dict, as published
    best, best.json     the weights of the best evaluation so far, and its step and value
    state_step_{N}/     everything that an exact resume needs:
        {K}-shared.pt       state that is equal on all ranks, written by rank 0
        {K}-rank_{r}.pt     state of rank r
        {K}-rank_{r}.json   rank r's manifest, written last: sizes and SHA-256 of its files
K counts the saves of the run over all its starts, so that files of two saves never mix and the newest state is the
one saved last, not the one with the highest step. A state is complete if the manifests of all ranks exist and are
correct. This needs no communication between ranks, so each rank writes in its own thread.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils import state_files
from utils.distributed import World
from utils.errors import UserError
from utils.files import (
    cannot_write,
    make_folder,
    remove_temporary_files,
    replacing,
    sync_folder,
    write_atomically,
)
from utils.state_files import STATE_PREFIX, Checkpoint

WEIGHTS_PREFIX, BEST = "step_", "best"


@dataclass(frozen=True)
class Best:
    """The evaluation in which the weights are the best so far."""

    metric: str
    value: float


class Checkpointer:
    """Saves and finds the checkpoints of one run; all ranks construct it, find and save together.

    `keep_last` (None: all) is the number of full states to keep; weights are never removed. `exclusive`: no other
    process can be saving here, so temporary files are left from earlier starts and are removed.
    """

    def __init__(
        self,
        directory: str | Path,
        world: World,
        *,
        keep_last: int | None = None,
        exclusive: bool = True,
    ):
        if keep_last is not None and keep_last < 1:
            raise UserError(f"keep_last={keep_last}: must be at least 1, or null to keep every state")
        self.directory, self.world, self.keep_last = Path(directory), world, keep_last
        self.blocked_seconds = 0.0  # time that saving has taken from the training loop
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._buffers: dict[tuple, torch.Tensor] = {}
        number = None
        if world.is_main:
            make_folder(self.directory)
            if exclusive:
                remove_temporary_files(self.directory, *self.directory.glob(f"{STATE_PREFIX}*"))
            number = max((state.number for state in state_files.list_states(self.directory)), default=0)
        # Number of the last save, equal on all ranks because they save together.
        self._number = self._number_at_start = world.broadcast_object(number)

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            self.close()
        elif self._thread is not None:  # show the error that ended the run, not that of the save
            self._thread.join()

    # Saving

    def save(
        self,
        step: int,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        shared: Mapping | None = None,
        per_rank: Mapping | None = None,
        best: Best | None = None,
        wait: bool = False,
    ) -> None:
        """Save weights, or a full state (`shared` and `per_rank`), or both; `best` marks the weights as the best.

        All values are copied before this returns and written by a thread; `wait` waits for it. States contain dicts,
        lists, tuples, tensors, numbers and strings only. Every rank calls this and, for a full state, passes its own
        `per_rank` ({} if it has none); `weights` and `shared` are taken from rank 0 only. Raises `UserError` if this or
        the previous save could not be written; complete checkpoints are never damaged.
        """
        start = time.perf_counter()
        self.join()
        snapshot = self._copy(
            {
                "weights": weights if self.world.is_main else None,
                "shared": shared if self.world.is_main else None,
                "per_rank": per_rank,
            }
        )
        self._number += 1
        self._thread = threading.Thread(target=self._write, args=(step, snapshot, best), name="checkpoint")
        self._thread.start()
        if wait:
            self.join()
        self.blocked_seconds += time.perf_counter() - start

    def join(self) -> None:
        """Wait until the current save is on disk; raises its error if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Finish the last save on all ranks, then remove all but `keep_last` states."""
        self.join()
        self.world.barrier()
        if self.world.is_main:
            self._prune()

    def _copy(self, tree: Any, path: tuple = (), copied: dict | None = None) -> Any:
        """Copy nested containers with every tensor in a CPU buffer, which the next save reuses."""
        top, copied = copied is None, {} if copied is None else copied
        if isinstance(tree, torch.Tensor):
            # Tensors in both weights and state (EMA) are copied once.
            key = (tree.device, tree.data_ptr(), tree.dtype, tree.shape, tree.stride())
            if key not in copied:
                buffer = self._buffers.get(path)
                if buffer is None or buffer.shape != tree.shape or buffer.dtype != tree.dtype:
                    buffer = torch.empty(tree.shape, dtype=tree.dtype, pin_memory=tree.is_cuda)
                    self._buffers[path] = buffer
                copied[key] = buffer.copy_(tree.detach(), non_blocking=tree.is_cuda)
            result: Any = copied[key]
        elif isinstance(tree, Mapping):
            result = {key: self._copy(value, (*path, key), copied) for key, value in tree.items()}
        elif isinstance(tree, (list, tuple)):
            result = type(tree)([self._copy(value, (*path, i), copied) for i, value in enumerate(tree)])
        elif tree is None or type(tree) in (bool, int, float, str, bytes):
            result = tree
        else:
            raise TypeError(
                f"{'.'.join(map(str, path))}: loading a {type(tree).__name__} would need to run code"
            )
        if top and self.world.device.type == "cuda":
            torch.cuda.current_stream(self.world.device).synchronize()
        return result

    def _write(self, step: int, snapshot: dict, best: Best | None) -> None:
        """Body of the thread: write weights, then the state with its manifest last, then remove old states."""
        try:
            if snapshot["weights"] is not None:
                self._write_weights(step, snapshot["weights"], best)
            if snapshot["per_rank"] is not None:
                self._write_state(step, snapshot["shared"], snapshot["per_rank"])
                if self.world.is_main:
                    self._prune()
        except BaseException as error:
            self._error = error  # raised in the training thread by the next call

    def _write_weights(self, step: int, weights: dict, best: Best | None) -> None:
        path, data = self.directory / f"{WEIGHTS_PREFIX}{step}", state_files.serialise(weights)
        write_atomically(path, data)
        if best is None:
            return
        try:
            with replacing(self.directory / BEST) as temporary:
                temporary.unlink(missing_ok=True)
                os.link(path, temporary)  # takes no space; safe because `step_N` is replaced, never modified
        except OSError:  # a file system without hard links
            write_atomically(self.directory / BEST, data)
        facts = {"step": step, "metric": best.metric, "value": best.value, "sha256": state_files.sha256(data)}
        write_atomically(self.directory / f"{BEST}.json", json.dumps(facts).encode())

    def _write_state(self, step: int, shared: dict | None, per_rank: dict) -> None:
        folder, rank = self.directory / f"{STATE_PREFIX}{step}", self.world.rank
        try:
            folder.mkdir(exist_ok=True)
            sync_folder(self.directory)
        except OSError as error:
            raise cannot_write(folder, error) from error
        parts = {} if shared is None else {"shared": shared}
        parts[f"rank_{rank}"] = per_rank
        state_files.write_parts(Checkpoint(folder, step, self._number, self.world.size), rank, parts)

    def _prune(self) -> None:
        """Remove states that newer complete ones replace, and incomplete ones from earlier starts of the run."""
        steps_kept: set[int] = set()
        for state in state_files.list_states(self.directory):
            whole = state_files.is_whole(state)
            replaced = state.step in steps_kept or len(steps_kept) == self.keep_last
            # An incomplete state of this start may still be written by another rank.
            left_over = steps_kept and not whole and state.number <= self._number_at_start
            if replaced or left_over:
                state_files.remove(state)
            elif whole:
                steps_kept.add(state.step)

    # Finding and loading

    def latest(self) -> Checkpoint | None:
        """Find the newest complete state in the run's folder; damaged ones are skipped with a warning.

        None if there is none, as after a crash during the first save. Raises `UserError` if all are damaged.
        """
        return self._newest(self.directory, f"{STATE_PREFIX}*")

    def find(self, path: str | Path) -> Checkpoint:
        """Find the state for a path: a run's folder (its newest complete state), `state_step_N` or `step_N`."""
        path = Path(path)
        if match := re.fullmatch(r"(?:state_)?step_(\d+)", path.name):
            found = self._newest(path.parent, f"{STATE_PREFIX}{match[1]}")
        else:
            found = self._newest(path, f"{STATE_PREFIX}*")
        if found is None:
            raise UserError(
                f"resume={path}: no full training state there; name a run's folder or a state_step_N in it "
                "(load_checkpoint= starts from weights only)"
            )
        return found

    def load(self, checkpoint: Checkpoint) -> tuple[dict, dict | None]:
        """Load `shared` and `per_rank` with tensors on the CPU, without running code of the file.

        `per_rank` is None if the state was saved by a different number of ranks.
        """
        shared = state_files.read(checkpoint.part("shared"))
        if checkpoint.world_size != self.world.size:
            return shared, None
        return shared, state_files.read(checkpoint.part(f"rank_{self.world.rank}"))

    def _newest(self, directory: Path, name: str) -> Checkpoint | None:
        """Find the newest complete state in the folders that match `name`; rank 0 searches for all ranks."""
        answer: Any = None
        if self.world.is_main:
            try:
                answer = state_files.newest_whole(state_files.list_states(directory, name))
            except UserError as error:
                answer = error
        answer = self.world.broadcast_object(answer)
        if isinstance(answer, UserError):
            raise answer
        found, problems = answer
        for problem in problems:
            self.world.print(f"warning: {problem}; skipped")
        for path in state_files.stray_entries(found) if found is not None and self.world.is_main else ():
            self.world.print(f"warning: {path}: is not part of a training state; ignored")
        return found
