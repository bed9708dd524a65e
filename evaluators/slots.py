"""The active rows of continuous batching: rows that stop leave, and new rows take their slots.

As in servers of language models, rows may be at different steps, so every supervision step runs on a full batch,
although puzzles differ in the number of steps they need. Shapes: n active rows, m new rows, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluators.inference import Solver, padded_size
from evaluators.stop_rule import StopRule
from evaluators.strategies.latent_noise import add_noise


@dataclass(frozen=True)
class NewRows:
    """Rows to start."""

    tokens: Tensor  # (m, S) int32
    identifiers: Tensor  # (m,) int32
    owners: np.ndarray  # (m,) int64: the caller's numbers for these rows
    limits: np.ndarray  # (m,) int64: maximum number of steps
    noise_keys: Tensor | None = None  # (m,) int64, see `latent_noise.chain_keys`; None: without noise


@dataclass(frozen=True)
class SlotsOutput:
    """The active rows after a step; arrays are on the CPU, tensors on the device."""

    owners: np.ndarray  # (n,) int64
    steps: np.ndarray  # (n,) int64: number of steps each row has done
    logits: Tensor  # (n, S, V) in the compute dtype
    answers: Tensor  # (n, S) int64
    q_halt: np.ndarray  # (n,) float32
    says_stop: np.ndarray  # (n,) bool, by the architecture's halting rule
    settled: np.ndarray  # (n,) bool, by the stop rule
    ended: np.ndarray  # (n,) bool: settled, or at its limit


class Slots:
    """At most `capacity` active rows; call `add`, `step` and `keep` in turns.

    `rule` None lets every row run to its limit. `sigma` is the scale of the noise of rows that have noise keys.
    A batch is padded to the next of `sizes`, see `Rollout`. If the model draws random numbers, it draws them per batch
    and step, so all rows must be at the same step: `free` is then 0 until the last row has left.
    """

    def __init__(
        self,
        solver: Solver,
        capacity: int,
        rule: StopRule | None,
        *,
        sizes: Sequence[int] = (),
        sigma: float = 0.0,
    ):
        assert capacity > 0, capacity
        self.capacity, self.rule = capacity, rule
        self._solver, self._act = solver, solver.head.act
        self._sizes, self._sigma = sorted(sizes), sigma
        self._in_lockstep = self._act.inner.is_stochastic
        self.num_rows = self.total_steps = 0
        self._state: tuple[Tensor, ...] = ()
        self._inputs = self._puzzle_rows = self._previous = None
        self._keys, self._has_noise = torch.zeros(0, dtype=torch.int64), np.zeros(0, bool)
        self._owners = self._steps = self._limits = self._still = np.zeros(0, np.int64)

    @property
    def free(self) -> int:
        """Number of rows that may be added now."""
        if self._in_lockstep and self.num_rows:
            return 0
        return max(0, self.capacity - self.num_rows)

    @property
    def limits(self) -> np.ndarray:
        """(n,) int64: the maximum number of steps of each active row."""
        return self._limits

    @torch.inference_mode()
    def add(self, new: NewRows) -> None:
        """Start new rows, at most `free`, or any number if no row is active."""
        count = len(new.owners)
        assert count > 0
        assert count <= self.free or not self.num_rows, (count, self.free)
        batch = self._solver.batch(new.tokens, new.identifiers)
        puzzle_rows = self._act.inner.puzzle_rows(batch)
        state = self._act.start_evaluation(count, new.tokens.device)
        keys = torch.zeros(count, dtype=torch.int64, device=new.tokens.device)
        if new.noise_keys is not None:
            keys = new.noise_keys.to(keys.device)
        previous = torch.full_like(batch["inputs"], -1, dtype=torch.int64)  # no answer yet
        has_noise = np.full(count, new.noise_keys is not None)
        zeros = np.zeros(count, np.int64)
        if not self.num_rows:
            self._state, self._inputs, self._puzzle_rows = state, batch["inputs"], puzzle_rows
            self._previous, self._keys, self._has_noise = previous, keys, has_noise
            self._owners, self._limits, self._steps, self._still = new.owners, new.limits, zeros, zeros
        else:
            own = slice(self.num_rows)  # without padding
            self._state = tuple(
                torch.cat([old[own], first]) for old, first in zip(self._state, state, strict=True)
            )
            self._inputs = torch.cat([self._inputs[own], batch["inputs"]])
            if puzzle_rows is not None:
                self._puzzle_rows = torch.cat([self._puzzle_rows[own], puzzle_rows])
            self._previous = torch.cat([self._previous, previous])
            self._keys = torch.cat([self._keys, keys])
            self._has_noise = np.concatenate([self._has_noise, has_noise])
            self._owners = np.concatenate([self._owners, new.owners])
            self._limits = np.concatenate([self._limits, new.limits])
            self._steps = np.concatenate([self._steps, zeros])
            self._still = np.concatenate([self._still, zeros])
        self.num_rows += count

    @torch.inference_mode()
    def step(self) -> SlotsOutput:
        """Run one supervision step of all rows."""
        self._pad()
        call = int(self._steps[0]) + 1  # equal for all rows if the model draws random numbers
        state = self._with_noise() if self._has_noise.any() else self._state
        self._state, outputs = self._act.run_inner(call, state, self._inputs, self._puzzle_rows)
        logits, q_halt, q_continue = (output[: self.num_rows] for output in outputs)
        answers = logits.argmax(-1)
        same = (answers == self._previous).all(1)
        says_stop = self._act.rule.says_stop(q_halt, q_continue)
        margin = self._act.rule.margin(q_halt, q_continue)
        # One transfer of what decides the next action.
        q, margins, stop, unchanged = (
            torch.stack([q_halt, margin, says_stop.float(), same.float()]).cpu().numpy()
        )
        self._previous = answers
        self._steps = self._steps + 1
        self._still = np.where(unchanged > 0, self._still + 1, 0)
        self.total_steps += self.num_rows
        settled = np.zeros(self.num_rows, bool)
        if self.rule is not None:
            settled = self.rule.settled(margins, self._still)
        ended = settled | (self._steps >= self._limits)
        return SlotsOutput(self._owners, self._steps, logits, answers, q, stop > 0, settled, ended)

    @torch.inference_mode()
    def keep(self, stays: np.ndarray, limits: np.ndarray | None = None) -> None:
        """Keep the rows in `stays` (n,) bool, with new `limits` (n,) if given, and free the other slots."""
        if limits is not None:
            self._limits = limits
        if stays.all():
            return
        rows = np.flatnonzero(stays)
        index = torch.from_numpy(rows).to(self._inputs.device)
        self._state = tuple(latent[index] for latent in self._state)
        self._inputs, self._previous = self._inputs[index], self._previous[index]
        self._keys, self._has_noise = self._keys[index], self._has_noise[rows]
        if self._puzzle_rows is not None:
            self._puzzle_rows = self._puzzle_rows[index]
        self._owners, self._limits = self._owners[rows], self._limits[rows]
        self._steps, self._still = self._steps[rows], self._still[rows]
        self.num_rows = len(rows)

    def _pad(self) -> None:
        """Repeat the first row until the batch has one of the sizes."""
        size = padded_size(self.num_rows, self._sizes)
        if len(self._inputs) == size:
            return
        extra = torch.zeros(size - self.num_rows, dtype=torch.int64, device=self._inputs.device)
        rows = torch.cat([torch.arange(self.num_rows, device=extra.device), extra])
        self._state = tuple(latent[rows] for latent in self._state)
        self._inputs = self._inputs[rows]
        if self._puzzle_rows is not None:
            self._puzzle_rows = self._puzzle_rows[rows]

    def _with_noise(self) -> tuple[Tensor, ...]:
        noisy = torch.from_numpy(np.flatnonzero(self._has_noise)).to(self._inputs.device)
        numbers = torch.from_numpy(self._steps + 1).to(self._inputs.device)[noisy]
        some = tuple(latent[noisy] for latent in self._state)
        with_noise = add_noise(some, self._keys[noisy], self._sigma, numbers)
        return tuple(
            latent.index_copy(0, noisy, new) for latent, new in zip(self._state, with_noise, strict=True)
        )
