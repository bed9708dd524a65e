"""Winner-takes-all over K chains of each puzzle, in training ("Speed is Confidence", arXiv 2601.19085).

The chains of a puzzle share the answer latent (z_H) and differ in the others (z_L), which a reset draws. Each
supervision step runs all of them. Only the one of lowest loss is trained, measured and may halt, and all go on from
its answer, each with its own z_L. The paper's code also drops chains whose z_L have become alike; here every one stays.
Shapes: B rows, K chains of each (chain k of row b is row b·K + k of what the network is given), S `seq_len`, V
vocabulary, L positions with the prefix, D hidden size. The state of chains is z_H (B, L, D) and each z_L (B, K, L, D).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.layers import truncated_normal_

if TYPE_CHECKING:
    from models.recursive import RecursiveModel, State

# (logits (n, S, V), labels (n, S)) -> (n,): what a row is trained on
RowLoss = Callable[[Tensor, Tensor], Tensor]

_START = 0x57A7  # seed of evaluation's draw, whatever a run's own seed is


def evaluation_start(num_latents: int, length: int, width: int) -> Tensor:
    """(num_latents, L, D) float32: the z_L of evaluation's one chain.

    One draw of what training draws for each chain, the same for all puzzles and on every machine, so that an answer
    depends on nothing but the weights and the puzzle.
    """
    generator = torch.Generator().manual_seed(_START)
    return truncated_normal_(torch.empty(num_latents, length, width), std=1.0, generator=generator)


class Chains:
    """The `num` chains of every row of a batch. The architecture must have another latent than the answer."""

    def __init__(self, inner: RecursiveModel, num: int):
        self.inner, self.num = inner, num

    def initial_state(self, batch_size: int) -> State:
        """z_H as one chain has it; z_L drawn for every chain, position and channel: a truncated normal of std 1."""
        answer, *others = self.inner.initial_state(batch_size)
        drawn = (truncated_normal_(z.new_empty(batch_size, self.num, *z.shape[1:]), std=1.0) for z in others)
        return answer, *drawn

    def step(
        self, state: State, current: dict[str, Tensor], puzzle_rows: Tensor | None, row_loss: RowLoss
    ) -> tuple[State, State, tuple[Tensor, Tensor, Tensor]]:
        """One supervision step: the chains' new state, and the winner's own state and heads, of B rows each.

        The winner of a row is its chain of lowest `row_loss` (the first of equal ones), so that only its part of the
        graph has a gradient that is not 0.
        """
        answer, *others = state
        latents = self._repeated(answer), *(z.flatten(0, 1) for z in others)
        rows = None if puzzle_rows is None else self._repeated(puzzle_rows)
        new, heads = self.inner(latents, self._repeated(current["inputs"]), rows)
        with torch.no_grad():
            losses = row_loss(heads[0], self._repeated(current["labels"])).view(-1, self.num)
            winner = losses.argmin(1) + self.num * torch.arange(len(losses), device=losses.device)
        won = tuple(latent[winner] for latent in new)
        kept = (z.unflatten(0, (-1, self.num)) for z in new[1:])
        return (won[0], *kept), won, tuple(output[winner] for output in heads)

    def _repeated(self, rows: Tensor) -> Tensor:
        """(B·K, ...): every row once for each of its chains."""
        return rows.repeat_interleave(self.num, 0)
