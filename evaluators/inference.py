"""Run a trained model on tokens, one supervision step at a time; text, grids and rules belong to the families.

Shapes: B rows, S `seq_len`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.act import ACTModel
from models.flops import count_applications, step_flops
from models.losses import ACTLossHead
from models.recursive import State
from utils.compile_modes import FUSED

Tokens = Tensor | np.ndarray | Sequence[Sequence[int]]
Identifiers = Tensor | np.ndarray | Sequence[int]


@dataclass(frozen=True)
class Step:
    """The answers after one supervision step, on the solver's device."""

    number: int  # counted from 1
    answer: Tensor  # (B, S) int64 tokens
    confidence: Tensor  # (B, S) float32, probability of each token of the answer
    q_halt: Tensor  # (B,) float32 logits
    says_stop: Tensor  # (B,) bool, by the architecture's halting rule

    @property
    def halt_probability(self) -> Tensor:
        """(B,) float32: the probability, predicted by the model, that its answer is right."""
        return self.q_halt.sigmoid()


@dataclass(frozen=True)
class Solution:
    """The answers of `Solver.solve`, on the solver's device."""

    answer: Tensor  # (B, S) int64 tokens
    confidence: Tensor  # (B, S) float32
    q_halt: Tensor  # (B,) float32 logits that came with the answer
    first_stop: Tensor  # (B,) int64, the first step that said stop, or 0
    num_steps: int  # number of steps run


@dataclass(frozen=True)
class Output:
    """The outputs of the heads after one supervision step, for the n active rows."""

    logits: Tensor  # (n, S, V) in the compute dtype
    q_halt: Tensor  # (n,) float32
    q_continue: Tensor  # (n,) float32
    says_stop: Tensor  # (n,) bool, by the architecture's halting rule
    margin: Tensor  # (n,) float32, see `HaltingRule.margin`


# (state, number of the next step, (m,) indices of the state's rows in the initial batch) -> state
Perturbation = Callable[[State, int, Tensor], State]


class Rollout:
    """A batch advanced one supervision step at a time; `keep` drops rows, so that later steps cost less.

    `sizes` are the allowed batch sizes, because a compiler builds one program per size: rows are padded to the next
    size with copies of the first. Without `sizes`, or above the largest, the batch is not padded.
    """

    def __init__(self, act: ACTModel, batch: dict[str, Tensor], sizes: Sequence[int] = ()):
        # Steps the architecture directly: the ACT wrapper would reset rows after `halt_max_steps` steps.
        self._act, self._sizes = act, sorted(sizes)
        inputs = batch["inputs"]
        self._inputs, self._puzzle_rows = inputs, act.inner.puzzle_rows(batch)
        self._state = act.start_evaluation(len(inputs), inputs.device)
        self._row_indices = torch.arange(len(inputs), device=inputs.device)
        self.num_steps, self.num_rows = 0, len(inputs)
        self._gather(self._row_indices)

    @property
    def row_indices(self) -> Tensor:
        """(n,) int64: indices of the active rows in the initial batch."""
        return self._row_indices[: self.num_rows]

    @torch.inference_mode()
    def step(self, perturb: Perturbation | None = None) -> Output:
        """Run one supervision step; `perturb` modifies the latents before it."""
        self.num_steps += 1
        if perturb is not None:
            self._state = perturb(self._state, self.num_steps, self._row_indices)
        self._state, outputs = self._act.run_inner(
            self.num_steps, self._state, self._inputs, self._puzzle_rows
        )
        logits, q_halt, q_continue = (output[: self.num_rows] for output in outputs)
        rule = self._act.rule
        return Output(
            logits, q_halt, q_continue, rule.says_stop(q_halt, q_continue), rule.margin(q_halt, q_continue)
        )

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Keep only these active rows, an (m,) int64 index, in this order."""
        self.num_rows = len(rows)
        if self.num_rows:
            self._gather(rows)

    def _gather(self, rows: Tensor) -> None:
        size = padded_size(len(rows), self._sizes)
        if size > len(rows):
            rows = torch.cat([rows, rows[:1].expand(size - len(rows))])
        elif size == len(self._inputs) and self.num_steps == 0:
            return  # all rows, unchanged
        self._state = tuple(latent[rows] for latent in self._state)
        self._inputs, self._row_indices = self._inputs[rows], self._row_indices[rows]
        if self._puzzle_rows is not None:
            self._puzzle_rows = self._puzzle_rows[rows]


def padded_size(num_rows: int, sizes: Sequence[int]) -> int:
    """Return the smallest of the ascending `sizes` that holds the rows; `num_rows` if none does."""
    larger = bisect_left(sizes, num_rows)
    return sizes[larger] if larger < len(sizes) else num_rows


def padded_sizes(largest: int, mode: str | None) -> list[int]:
    """Return the batch sizes to pad to for a way of compiling (see `compile_policy`): few if each must be compiled."""
    if mode in (None, FUSED):
        return []
    return [size for power in range(4) if (size := largest >> power)]


class Solver:
    """Runs a model on token grids. The model is moved to `device` and put into evaluation mode."""

    def __init__(self, model: ACTLossHead, device: torch.device | str = "cpu"):
        self.head = model.to(device).eval()
        self.device = torch.device(device)

    @property
    def trained_steps(self) -> int:
        """The `halt_max_steps` used in training."""
        return self.head.act.max_steps

    @property
    def halts(self) -> bool:
        """True if evaluation halts rows that say stop (`act_inference`) instead of running all steps."""
        return self.head.act.act_inference

    @property
    def knows_identifiers(self) -> bool:
        """True if the model has an embedding for each puzzle identifier."""
        return bool(self.head.architecture.prefix_len)

    def start(
        self, tokens: Tokens, puzzle_identifiers: Identifiers | None = None, sizes: Sequence[int] = ()
    ) -> Rollout:
        """Start a `Rollout`, for callers that decide after each step; arguments as for `refine` and `Rollout`."""
        return Rollout(self.head.act, self.batch(tokens, puzzle_identifiers), sizes)

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run one step at each batch size, so that compilation is not included in later timings."""
        for size in sizes:
            tokens = torch.zeros(size, self.head.architecture.config.seq_len, dtype=torch.int32)
            self.start(tokens).step().q_halt.sum().item()

    def applications_per_step(self) -> int:
        """Number of network applications per supervision step: (L_cycles + 1) · H_cycles in TRM."""
        return sum(map(sum, count_applications(self.head.architecture).values()))

    def flops_per_step(self) -> int:
        """FLOP of the matrix products in one supervision step of one puzzle."""
        return step_flops(self.head.architecture, training=False)

    def refine(
        self, tokens: Tokens, puzzle_identifiers: Identifiers | None = None, max_steps: int | None = None
    ) -> Iterator[Step]:
        """Yield one `Step` for each of `max_steps` steps (default: as trained; more are allowed), computed lazily.

        `tokens` is (B, S); `puzzle_identifiers` is (B,) and defaults to 0, the blank identifier. No row stops early:
        the caller decides what to do about `says_stop`. Raises ValueError immediately for inputs out of range.
        """
        steps = self.trained_steps if max_steps is None else max_steps
        if steps < 1:
            raise ValueError(f"max_steps is {steps}, but must be at least 1")
        return self._steps(self.batch(tokens, puzzle_identifiers), steps)

    def solve(
        self,
        tokens: Tokens,
        puzzle_identifiers: Identifiers | None = None,
        max_steps: int | None = None,
        halt: bool | None = None,
    ) -> Solution:
        """Return the answers after all steps or, with `halt`, those of the first step at which each row says stop.

        `halt` defaults to `halts`. With `halt`, the loop ends once every row has stopped.
        """
        halt = self.halts if halt is None else halt
        for step in self.refine(tokens, puzzle_identifiers, max_steps):
            if step.number == 1:
                first_stop = torch.zeros_like(step.says_stop, dtype=torch.int64)
                answer, confidence, q_halt = step.answer, step.confidence, step.q_halt
            runs = (first_stop == 0) if halt else torch.ones_like(step.says_stop)
            answer = torch.where(runs[:, None], step.answer, answer)
            confidence = torch.where(runs[:, None], step.confidence, confidence)
            q_halt = torch.where(runs, step.q_halt, q_halt)
            first_stop = torch.where((first_stop == 0) & step.says_stop, step.number, first_stop)
            if halt and bool(first_stop.all()):
                break
        return Solution(answer, confidence, q_halt, first_stop, step.number)

    @torch.inference_mode()
    def _steps(self, batch: dict[str, Tensor], num_steps: int) -> Iterator[Step]:
        rollout = Rollout(self.head.act, batch)
        for number in range(1, num_steps + 1):
            output = rollout.step()
            answer = output.logits.argmax(-1)
            confidence = torch.exp(-self.head.token_loss(output.logits, answer))
            yield Step(number, answer, confidence, output.q_halt, output.says_stop)

    def batch(self, tokens: Tokens, puzzle_identifiers: Identifiers | None) -> dict[str, Tensor]:
        """Return a batch for the model on its device, checked; raises ValueError for inputs out of range."""
        config = self.head.architecture.config
        inputs = torch.as_tensor(tokens, device=self.device)
        if inputs.ndim != 2 or inputs.shape[1] != config.seq_len or not len(inputs):
            raise ValueError(f"tokens have shape {tuple(inputs.shape)}, but must be (rows, {config.seq_len})")
        if puzzle_identifiers is None:
            puzzle_identifiers = torch.zeros(len(inputs), dtype=torch.int32)
        ids = torch.as_tensor(puzzle_identifiers, device=self.device)
        if ids.shape != inputs.shape[:1]:
            raise ValueError(
                f"puzzle_identifiers have shape {tuple(ids.shape)}, but must be ({len(inputs)},)"
            )
        limits = (
            ("tokens", inputs, config.vocab_size),
            ("puzzle_identifiers", ids, config.num_puzzle_identifiers),
        )
        for name, values, limit in limits:
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= limit:
                raise ValueError(f"{name} range from {low} to {high}, but must be in 0..{limit - 1}")
        return {"inputs": inputs.int(), "puzzle_identifiers": ids.int()}
