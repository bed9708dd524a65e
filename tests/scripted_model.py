"""A model with known answers, to test test-time strategies.

It imitates a model of 4x4 Sudoku: it solves each grid at a step that is a function of the grid, for some grids later
or never, immediately if the noise is favourable; and sometimes it is confident about a wrong answer.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from dataset.families.sudoku.rules import BoxShape, to_tokens, to_values
from dataset.families.sudoku.search import solve
from models.act import HaltingRule
from models.losses import softmax_probabilities
from models.recursive import RecursiveConfig

BOX = BoxShape(2, 2)
WEIGHTS = np.random.default_rng(7).integers(1, 50, 16)
LUCKY = 0.9  # sum of the noise from which an answer is found
APPLICATIONS = 3


@cache
def solution(question: tuple[int, ...]) -> np.ndarray | None:
    """Return the tokens (16,) of the first solution, None if there is none."""
    found = solve(to_values(np.array(question)), BOX, limit=1).solutions
    return to_tokens(np.array(found[0])) if len(found) else None


def says(question: np.ndarray, step: int, luck: float) -> tuple[np.ndarray, float]:
    """Return the answer to a question (16,) after `step` steps with that much luck, and its q_halt."""
    number = int(question.astype(np.int64) @ WEIGHTS)
    needed = 1 + number % 13
    answer = solution(tuple(question.tolist()))
    if answer is not None and (step >= needed or luck > LUCKY):
        return answer, 0.5 + (number % 17) / 100 + step / 1000
    guess = np.where(question == 1, 2 + (number + step // 3) % 4, question)
    overconfident = number % 7 == 0 and step in (2, 3)
    return guess, 0.25 if overconfident else -1 - ((number + 5 * step) % 11) / 100


class ScriptedInner(nn.Module):
    """The interface of an architecture, with a latent that counts steps from `ahead` and one that accumulates noise."""

    networks = ("L_level",)
    latents = {"z_H": "", "z_L": ""}  # noqa: RUF012
    prefix_len = 0
    is_stochastic = False

    def __init__(self, ahead: int):
        super().__init__()
        self.ahead = ahead
        self.config = RecursiveConfig(seq_len=16, vocab_size=BOX.vocab_size, halt_max_steps=6)
        self.L_level = nn.Identity()
        self.rows_computed = self.most_rows = 0

    def initial_state(self, batch_size: int):
        return torch.full((batch_size, 1, 1), float(self.ahead)), torch.zeros(batch_size, 1, 1)

    def puzzle_rows(self, batch):
        return None

    def forward(self, state, inputs, puzzle_rows):
        count, luck = state[0] + 1, state[1]
        for _ in range(APPLICATIONS):
            luck = self.L_level(luck)
        self.rows_computed += len(inputs)
        self.most_rows = max(self.most_rows, len(inputs))
        said = [
            says(question, int(step), float(z))
            for question, step, z in zip(inputs.numpy(), count.flatten(), luck.flatten(), strict=True)
        ]
        answers = torch.from_numpy(np.stack([answer for answer, _ in said]).astype(np.int64))
        logits = 5.0 * nn.functional.one_hot(answers, BOX.vocab_size)
        q_halt = torch.tensor([q for _, q in said], dtype=torch.float32)
        return (count, luck), (logits, q_halt, torch.zeros_like(q_halt))


class ScriptedAct(nn.Module):
    def __init__(self, ahead: int):
        super().__init__()
        self.inner, self.max_steps, self.act_inference = ScriptedInner(ahead), 6, False
        self.rule = HaltingRule(compares=False, learns_continue=False)

    def start_evaluation(self, batch_size: int, device: torch.device):
        return self.inner.initial_state(batch_size)

    def run_inner(self, call: int, state, inputs, puzzle_rows):
        return self.inner(state, inputs, puzzle_rows)


class ScriptedHead(nn.Module):
    """A model that is `ahead` of others by this number of steps."""

    def __init__(self, ahead: int = 0):
        super().__init__()
        self.act = ScriptedAct(ahead)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return softmax_probabilities(logits)

    @property
    def architecture(self) -> ScriptedInner:
        return self.act.inner
