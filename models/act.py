"""Adaptive computation time around an architecture: carry, reset of halted rows, halting rule, exploration.

Shapes: B rows of this rank, S `seq_len`, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from models.randomness import seeded
from models.recursive import RecursiveModel, State

_EVALUATION = 0xE7A1  # seeds evaluation differently from training
_DRAWN_AT_ONCE = 32  # training steps
_RESET, _STEP = 0, 1  # the parts of an evaluation step that draw random numbers


@dataclass
class Carry:
    """State of the batch's slots between supervision steps."""

    state: State  # the architecture's latents, each (B, L, D), detached
    steps: Tensor  # (B,) int32, supervision steps done on the current puzzle
    halted: Tensor  # (B,) bool; a halted slot takes its row of the next batch
    current: dict[str, Tensor]  # the data each slot is working on

    def tensors(self, latent_names: list[str]) -> dict[str, Tensor]:
        """Return all tensors under flat names, for checkpoints."""
        named = {f"state.{name}": latent for name, latent in zip(latent_names, self.state, strict=True)}
        named |= {f"current.{name}": value for name, value in self.current.items()}
        return named | {"steps": self.steps, "halted": self.halted}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], latent_names: list[str]) -> Carry:
        current = {name[8:]: value for name, value in tensors.items() if name.startswith("current.")}
        state = tuple(tensors[f"state.{name}"] for name in latent_names)
        return cls(state, tensors["steps"], tensors["halted"], current)


@dataclass(frozen=True)
class HaltingRule:
    """When a slot halts: q_halt > 0, or q_halt > q_continue; `learns_continue` adds the Q-learning target."""

    compares: bool
    learns_continue: bool

    @classmethod
    def resolve(cls, halting: str | None, published: str, no_act_continue: bool) -> HaltingRule:
        name = halting or (published if no_act_continue or published != "halt" else "q_learning")
        return cls(compares=name != "halt", learns_continue=name == "q_learning")

    def says_stop(self, q_halt: Tensor, q_continue: Tensor) -> Tensor:
        return q_halt > q_continue if self.compares else q_halt > 0

    def margin(self, q_halt: Tensor, q_continue: Tensor) -> Tensor:
        """Return the margin (B,) by which the rule says stop; a calibrated stop rule compares it with its threshold."""
        return q_halt - q_continue if self.compares else q_halt


def draw_min_steps(
    seed: int, step: int, global_batch_size: int, probability: float, max_steps: int
) -> np.ndarray:
    """Draw one training step's exploration: the number of steps that each row must reach before it may halt.

    Returns (global batch,) int32: with `probability` uniform in 2..max_steps, else 0. A pure function of (seed, step)
    for the whole global batch, so that it does not depend on the number of ranks.
    """
    block, place = divmod(step, _DRAWN_AT_ONCE)
    return _draw_block(seed, block, global_batch_size, probability, max_steps)[place].copy()


@lru_cache(maxsize=1)
def _draw_block(
    seed: int, block: int, global_batch_size: int, probability: float, max_steps: int
) -> list[np.ndarray]:
    """Draw for several steps, because a generator that has left the caches takes 0.2 ms, and 0.03 ms right again."""
    steps = range(block * _DRAWN_AT_ONCE, (block + 1) * _DRAWN_AT_ONCE)
    return [_draw(seed, step, global_batch_size, probability, max_steps) for step in steps]


def _draw(seed: int, step: int, global_batch_size: int, probability: float, max_steps: int) -> np.ndarray:
    # A seed of three numbers differs from the data stream's generators, which are seeded with one.
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, step, 0xAC7))))
    explores = rng.random(global_batch_size) < probability
    steps = rng.integers(2, max(max_steps, 2), size=global_batch_size, endpoint=True)
    return np.where(explores, steps, 0).astype(np.int32)


class ACTModel(nn.Module):
    """An architecture (`inner`) with a halting rule: each call runs one supervision step of every slot."""

    def __init__(self, inner: RecursiveModel):
        super().__init__()
        self.inner = inner
        config = inner.config
        self.max_steps = config.halt_max_steps
        self.act_enabled, self.act_inference = config.act_enabled, config.act_inference
        self.num_calls = 0  # since the last `initial_carry`
        self.rule = HaltingRule.resolve(config.halting, inner.published_halting, config.no_ACT_continue)

    @property
    def latent_names(self) -> list[str]:
        return list(self.inner.latents)

    def evaluation_rng(self, device: torch.device, call: int, part: int) -> AbstractContextManager[None]:
        """Seed the RNG from (call, part) so that evaluation is reproducible; `call` counts steps from 1."""
        if self.training or not self.inner.is_stochastic:
            return nullcontext()
        return seeded(device, _EVALUATION, call, part)

    def start_evaluation(self, batch_size: int, device: torch.device) -> State:
        """Return the initial latents of an evaluation, each (B, L, D)."""
        with self.evaluation_rng(device, 1, _RESET):
            return self.inner.initial_state(batch_size)

    def run_inner(
        self, call: int, state: State, inputs: Tensor, puzzle_rows: Tensor | None
    ) -> tuple[State, tuple[Tensor, Tensor, Tensor]]:
        """Run `inner` as the `call`-th step, without halting and resets."""
        with self.evaluation_rng(inputs.device, call, _STEP):
            return self.inner(state, inputs, puzzle_rows)

    def initial_carry(self, batch: dict[str, Tensor]) -> Carry:
        """Return a carry in which every slot is free, so the next call loads all of `batch` (inputs (B, S), ...)."""
        self.num_calls = 0
        size, device = batch["inputs"].shape[0], batch["inputs"].device
        return Carry(
            state=self.inner.initial_state(size),
            steps=torch.zeros(size, dtype=torch.int32, device=device),
            halted=torch.ones(size, dtype=torch.bool, device=device),
            current={name: torch.zeros_like(value) for name, value in batch.items()},
        )

    def load(self, carry: Carry, batch: dict[str, Tensor]) -> Carry:
        """Load the rows of `batch` into halted slots, with initial latents and zero steps; keep the others."""
        free = carry.halted
        return Carry(
            state=self._with_initial_latents(carry.state, free),
            steps=carry.steps.masked_fill(free, 0),
            halted=torch.zeros_like(free),
            current={
                name: torch.where(free.view(-1, *[1] * (value.ndim - 1)), batch[name], value)
                for name, value in carry.current.items()
            },
        )

    def _with_initial_latents(self, state: State, rows: Tensor) -> State:
        """Return the state with the rows of a (B,) mask set to initial latents."""
        if rows.device.type == "cpu":
            # In most steps few rows start over, and drawing random latents for all doubled the time of a training step.
            # A GPU sets them all, because selecting rows would wait for it.
            index = rows.nonzero().squeeze(1)
            if not len(index):
                return state
            inits = self.inner.initial_state(len(index))
            return tuple(old.index_copy(0, index, init) for init, old in zip(inits, state, strict=True))
        inits = self.inner.initial_state(len(rows))
        mask = rows.view(-1, 1, 1)
        return tuple(torch.where(mask, init, old) for init, old in zip(inits, state, strict=True))

    def forward(
        self, carry: Carry, batch: dict[str, Tensor], min_steps: Tensor | None = None
    ) -> tuple[Carry, dict[str, Tensor]]:
        """Run one supervision step of every slot.

        `min_steps` (B,) int32 is the exploration of `draw_min_steps`, used in training only. Returns the new carry and
        `logits` (B, S, V), `q_halt_logits` and `q_continue_logits` (B,) float32 and, in training if q_continue is
        learned, `target_q_continue` (B,). In evaluation all slots run `halt_max_steps` steps; with `act_inference` a
        halted slot is frozen until the caller starts a new carry. Random numbers come from the caller's generator in
        training; in evaluation they depend only on the number of calls since `initial_carry`.
        """
        self.num_calls += 1
        halts_in_eval = self.act_inference and not self.training
        frozen = carry.halted & (carry.steps > 0) if halts_in_eval else None
        if frozen is not None:
            carry = Carry(carry.state, carry.steps, carry.halted & ~frozen, carry.current)
        with self.evaluation_rng(carry.halted.device, self.num_calls, _RESET):
            carry = self.load(carry, batch)

        puzzle_rows = self.inner.puzzle_rows(carry.current)
        inputs = carry.current["inputs"]
        state, heads = self.run_inner(self.num_calls, carry.state, inputs, puzzle_rows)
        logits, q_halt, q_continue = heads
        steps = carry.steps + 1
        if frozen is not None:
            state = tuple(
                torch.where(frozen.view(-1, 1, 1), old, new)
                for old, new in zip(carry.state, state, strict=True)
            )
            steps = torch.where(frozen, carry.steps, steps)
            logits, q_halt, q_continue = self.inner.heads(state)
        outputs = {"logits": logits, "q_halt_logits": q_halt, "q_continue_logits": q_continue}

        with torch.no_grad():
            is_last = steps >= self.max_steps
            halted = is_last
            halts = self.act_enabled if self.training else self.act_inference
            if halts and self.max_steps > 1:
                halted = halted | self.rule.says_stop(q_halt, q_continue)
                if self.training and min_steps is not None:
                    halted = halted & (steps >= min_steps)
            if frozen is not None:
                halted = halted | frozen
            if self.training and self.max_steps > 1 and self.rule.learns_continue:
                outputs["target_q_continue"] = self.continue_target(state, carry.current, is_last)
        return Carry(state, steps, halted, carry.current), outputs

    def continue_target(self, state: State, current: dict[str, Tensor], is_last: Tensor) -> Tensor:
        """Compute q_continue's Q-learning target (arXiv 2506.21734) from one more step: (B,), in (0, 1)."""
        _, (_, q_halt, q_continue) = self.inner(state, current["inputs"], self.inner.puzzle_rows(current))
        return torch.sigmoid(torch.where(is_last, q_halt, torch.maximum(q_halt, q_continue)))
