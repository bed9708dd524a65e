"""A network that knows which cells share a unit, and is equivariant under every symmetry of the units.

The network sees a grid only through pooling over units (cell, row, column, box), so permuting symbols, or cells in any
way that maps units onto units, permutes its answer in the same way. Of the puzzle's rules it knows only the units.
Everything else is TRM (arXiv 2510.04871): state (y, z), cycles, gradient through the last H-cycle, heads, halting.

Shapes: B batch, S `seq_len` cells, N symbols, L = S·N (cell, symbol) pairs, D hidden size, V vocabulary. No weight
depends on S or N, so a model trained on grids of one size solves grids of another.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.units import CellUnits
from models.arch_configs import EquivariantConfig
from models.blocks import Network
from models.layers import Embedding, Linear
from models.ops import few_rows
from models.recursive import RecursiveModel, State, halting_head
from models.unit_block import UnitBlock

BLANK_ID, FIRST_SYMBOL_ID = 1, 2  # tokens: 0 pad, 1 blank, then the symbols
GIVEN, EXCLUDED, OPEN = range(3)  # a pair's cell shows this symbol, another symbol, or is blank
# Logit of pad and blank, which no answer contains: probability 0 in softmax, 1e-4 of s(0) in stablemax.
ABSENT_LOGIT = -1e4


class EquivariantModel(RecursiveModel):
    """Embedding, network and heads for latents with a vector for each (cell, symbol) pair, (B, S·N, D)."""

    knows: ClassVar = (
        "which cells share a row, column, box or other unit, and that all symbols are equivalent"
    )

    Config = EquivariantConfig

    config: EquivariantConfig

    def __init__(self, config: EquivariantConfig):
        self.units = config.units or CellUnits.usual(config.seq_len)
        super().__init__(config)
        self.num_symbols = config.vocab_size - FIRST_SYMBOL_ID
        self.length = config.seq_len * self.num_symbols
        self.embed_tokens = Embedding(3, config.hidden_size, 1 / self.scale, self.dtype)
        self.lm_head = Linear(config.hidden_size, 1)
        self.q_head = halting_head(2 * config.hidden_size)

    def make_network(self, num_layers: int) -> Network:
        c = self.config
        return Network(
            [
                UnitBlock(c.hidden_size, c.expansion, self.units, c.pooling, c.rms_norm_eps)
                for _ in range(num_layers)
            ]
        )

    def embed(self, inputs: Tensor, puzzle_rows: Tensor | None) -> Tensor:
        """Return (B, L, D): for each pair the embedding of given, excluded or open."""
        symbols = torch.arange(FIRST_SYMBOL_ID, self.config.vocab_size, device=inputs.device)
        cells = inputs.unsqueeze(-1)  # (B, S, 1)
        clues = torch.where(cells == symbols, GIVEN, EXCLUDED)
        clues = torch.where(cells < FIRST_SYMBOL_ID, OPEN, clues)  # (B, S, N)
        return few_rows(self.scale * self.embed_tokens.embedding_weight.to(self.dtype), clues.flatten(1))

    def embedding_gradient_flops(self) -> int:
        return 2 * self.length * self.embed_tokens.embedding_weight.numel()

    def heads(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        answer = state[0].unflatten(1, (-1, self.num_symbols))  # (B, S, N, D)
        logits = F.pad(self.lm_head(answer).squeeze(-1), (FIRST_SYMBOL_ID, 0), value=ABSENT_LOGIT)
        cells = answer.mean(2)  # (B, S, D)
        q = self.q_head(torch.cat((cells.mean(1), cells.amax(1)), dim=-1)).float()
        return logits, q[:, 0], q[:, 1]
