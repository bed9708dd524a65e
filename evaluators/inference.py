"""A trained model's answers to tokens, one supervision step at a time; text, grids and rules belong to the families.

Shapes: B rows, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.losses import ACTLossHead

Tokens = Tensor | np.ndarray | Sequence[Sequence[int]]
Identifiers = Tensor | np.ndarray | Sequence[int]


@dataclass(frozen=True)
class Step:
    """What a model says after one supervision step, on the solver's device."""

    number: int  # 1 for the first
    answer: Tensor  # (B, S) int64 tokens
    confidence: Tensor  # (B, S) float32, the probability that the model gives each token of its answer
    q_halt: Tensor  # (B,) float32 logits
    says_stop: Tensor  # (B,) bool, by the architecture's halting rule

    @property
    def halt_probability(self) -> Tensor:
        """(B,) float32: how likely the model holds its answer to be right."""
        return self.q_halt.sigmoid()


@dataclass(frozen=True)
class Solution:
    """The answers of `Solver.solve`, on the solver's device."""

    answer: Tensor  # (B, S) int64 tokens
    confidence: Tensor  # (B, S) float32
    q_halt: Tensor  # (B,) float32 logits that came with the answer
    first_stop: Tensor  # (B,) int64, the first step that said stop, 0 where none did
    num_steps: int  # steps that were run


class Solver:
    """Runs a model on token grids. The model is moved to `device` and put into evaluation mode."""

    def __init__(self, model: ACTLossHead, device: torch.device | str = "cpu"):
        self.head = model.to(device).eval()
        self.device = torch.device(device)

    @property
    def trained_steps(self) -> int:
        """The `halt_max_steps` of the training."""
        return self.head.model.max_steps

    @property
    def halts(self) -> bool:
        """Whether evaluation lets this model stop when it says so (`act_inference`), instead of running all steps."""
        return self.head.model.act_inference

    def refine(
        self, tokens: Tokens, puzzle_identifiers: Identifiers | None = None, max_steps: int | None = None
    ) -> Iterator[Step]:
        """One `Step` for each of `max_steps` (the trained ones by default; more are fine), computed when asked for.

        `tokens` is (B, S), `puzzle_identifiers` (B,), by default all 0, the blank one. No row stops early: what to do
        about `says_stop` is the caller's choice. Raises ValueError, at once, for what the model has no input for.
        """
        steps = self.trained_steps if max_steps is None else max_steps
        if steps < 1:
            raise ValueError(f"max_steps is {steps}, but must be at least 1")
        return self._steps(self._batch(tokens, puzzle_identifiers), steps)

    def solve(
        self,
        tokens: Tokens,
        puzzle_identifiers: Identifiers | None = None,
        max_steps: int | None = None,
        halt: bool | None = None,
    ) -> Solution:
        """The answers after all steps, or with `halt` those of the first step at which each row says stop.

        `halt` is by default what evaluation does with this model. Its steps end when every row has stopped.
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
        act = self.head.model
        # The architecture itself, because around it a row that has done `halt_max_steps` steps starts again.
        inner = act.inner
        state, rows = inner.initial_state(batch["inputs"].shape[0]), inner.puzzle_rows(batch)
        for number in range(1, num_steps + 1):
            state, (logits, q_halt, q_continue) = inner(state, batch["inputs"], rows)
            answer = logits.argmax(-1)
            confidence = torch.exp(-self.head.token_loss(logits, answer))
            yield Step(number, answer, confidence, q_halt, act.rule.says_stop(q_halt, q_continue))

    def _batch(self, tokens: Tokens, puzzle_identifiers: Identifiers | None) -> dict[str, Tensor]:
        config = self.head.model.inner.config
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
