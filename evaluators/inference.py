"""A trained model's answers to tokens, one supervision step at a time; text, grids and rules belong to the families.

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


@dataclass(frozen=True)
class Output:
    """What the heads say after one supervision step of the n rows that are still in flight."""

    logits: Tensor  # (n, S, V) in the compute dtype
    q_halt: Tensor  # (n,) float32
    q_continue: Tensor  # (n,) float32
    says_stop: Tensor  # (n,) bool, by the architecture's halting rule


# (state, number of the coming step, (m,) places of the state's rows in the batch that started) -> state
Perturbation = Callable[[State, int, Tensor], State]


class Rollout:
    """Rows between supervision steps; `keep` lets the others leave, and what is left then costs less.

    `sizes` are the batch sizes to run at, for a compiler that makes a program for each: rows are padded to the next
    one with copies of a row of theirs. Without any, or above the largest, a batch is as large as its rows are many.
    """

    def __init__(self, act: ACTModel, batch: dict[str, Tensor], sizes: Sequence[int] = ()):
        # The architecture itself, because around it a row that has done `halt_max_steps` steps starts again.
        self._act, self._sizes = act, sorted(sizes)
        inputs = batch["inputs"]
        self._inputs, self._puzzle_rows = inputs, act.inner.puzzle_rows(batch)
        self._state = act.start_evaluation(len(inputs), inputs.device)
        self._places = torch.arange(len(inputs), device=inputs.device)
        self.num_steps, self.num_rows = 0, len(inputs)
        self._gather(self._places)

    @property
    def places(self) -> Tensor:
        """(n,) int64: where the rows in flight stood in the batch that started."""
        return self._places[: self.num_rows]

    @torch.inference_mode()
    def step(self, perturb: Perturbation | None = None) -> Output:
        """One supervision step; `perturb` changes the latents before it."""
        self.num_steps += 1
        if perturb is not None:
            self._state = perturb(self._state, self.num_steps, self._places)
        self._state, outputs = self._act.run_inner(
            self.num_steps, self._state, self._inputs, self._puzzle_rows
        )
        logits, q_halt, q_continue = (output[: self.num_rows] for output in outputs)
        return Output(logits, q_halt, q_continue, self._act.rule.says_stop(q_halt, q_continue))

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with these of the rows in flight, an (m,) int64 index, in this order."""
        self.num_rows = len(rows)
        if self.num_rows:
            self._gather(rows)

    def _gather(self, rows: Tensor) -> None:
        larger = bisect_left(self._sizes, len(rows))
        size = self._sizes[larger] if larger < len(self._sizes) else len(rows)
        if size > len(rows):
            rows = torch.cat([rows, rows[:1].expand(size - len(rows))])
        elif size == len(self._inputs) and self.num_steps == 0:
            return  # all of them, as they stand
        self._state = tuple(latent[rows] for latent in self._state)
        self._inputs, self._places = self._inputs[rows], self._places[rows]
        if self._puzzle_rows is not None:
            self._puzzle_rows = self._puzzle_rows[rows]


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

    @property
    def knows_identifiers(self) -> bool:
        """True if the model has an embedding for each puzzle identifier."""
        return bool(self.head.model.inner.prefix_len)

    def start(
        self, tokens: Tokens, puzzle_identifiers: Identifiers | None = None, sizes: Sequence[int] = ()
    ) -> Rollout:
        """The rows before their first step, for who decides step by step; arguments as for `refine` and `Rollout`."""
        return Rollout(self.head.model, self._batch(tokens, puzzle_identifiers), sizes)

    def warm_up(self, sizes: Sequence[int]) -> None:
        """One step at each batch size, so that what a compiler takes is over before anything is timed."""
        for size in sizes:
            tokens = torch.zeros(size, self.head.model.inner.config.seq_len, dtype=torch.int32)
            self.start(tokens).step().q_halt.sum().item()

    def applications_per_step(self) -> int:
        """How often one supervision step applies a network: (L_cycles + 1) · H_cycles times in TRM."""
        return sum(map(sum, count_applications(self.head.model.inner).values()))

    def flops_per_step(self) -> int:
        """FLOP of the matrix products of one supervision step of one puzzle."""
        return step_flops(self.head.model.inner, training=False)

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
        rollout = Rollout(self.head.model, batch)
        for number in range(1, num_steps + 1):
            output = rollout.step()
            answer = output.logits.argmax(-1)
            confidence = torch.exp(-self.head.token_loss(output.logits, answer))
            yield Step(number, answer, confidence, output.q_halt, output.says_stop)

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
