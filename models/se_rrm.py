"""A symbol-equivariant recursion (SE-RRM, arXiv 2603.02193): relabelling the digits relabels the answer.

Shapes: B batch, V vocabulary, R registers (extra positions), S `seq_len`, L = R + S, D hidden size. The only
latent has a vector for every symbol at every position, (B, V·L, D). No weight depends on V or S, so a model trained on
grids of one size solves grids of another. Differences from the paper: halting is learned as in TRM (there: random),
and there is no dropout.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.arch_configs import SERRMConfig
from models.blocks import Network
from models.grid_rotary import GridRotaryEmbedding
from models.layers import Embedding, Linear
from models.recursive import SingleLatentModel, State
from models.symbol_block import SymbolBlock

PAD, BLANK, SYMBOL = range(3)  # kinds of tokens; all symbols share one input vector


class SERRM(SingleLatentModel):
    """z = f(z, x), L times a cycle, with f over symbols and positions, for the tokens of Sudoku."""

    knows: ClassVar = "that all symbols are equivalent"

    Config = SERRMConfig

    config: SERRMConfig

    def __init__(self, config: SERRMConfig):
        super().__init__(config)
        c, std = config, 1 / self.scale
        self.length = c.vocab_size * (c.num_registers + c.seq_len)
        self.embed_tokens = Embedding(3, c.hidden_size, std, self.dtype)
        self.registers = Embedding(c.num_registers, c.hidden_size, std, self.dtype)
        self.lm_head = Linear(c.hidden_size, 1)
        head_dim = c.hidden_size // c.num_heads
        self.rotary_emb = GridRotaryEmbedding(head_dim, c.num_registers, c.seq_len, c.rope_theta)

    def make_network(self, num_layers: int) -> Network:
        return Network([SymbolBlock(self.config) for _ in range(num_layers)])

    def embed(self, inputs: Tensor, puzzle_rows: Tensor | None) -> Tensor:
        """Return (B, V·L, D): a cell's vector times sqrt(V) at its own symbol, 0 at others; registers at all."""
        num_symbols = self.config.vocab_size
        cells = self.embed_tokens(inputs.clamp(max=SYMBOL), self.backend.embed).unsqueeze(1)  # (B, 1, S, D)
        is_its = F.one_hot(inputs.long(), num_symbols).transpose(1, 2).unsqueeze(-1)  # (B, V, S, 1)
        cells = math.sqrt(num_symbols) * is_its.to(cells.dtype) * cells
        registers = self.registers.embedding_weight.to(cells.dtype).expand(*cells.shape[:2], -1, -1)
        return self.scale * torch.cat((registers, cells), dim=2).flatten(1, 2)

    def heads_flops(self) -> int:
        return self.lm_head.flops(self.config.vocab_size * self.config.seq_len) + self.q_head.flops(1)

    def heads(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        z = state[0].unflatten(1, (self.config.vocab_size, -1))  # (B, V, L, D)
        logits = self.lm_head(z[:, :, self.config.num_registers :]).squeeze(-1).transpose(1, 2)
        q = self.q_head(z[:, :, 0].mean(1)).float()
        return logits.contiguous(), q[:, 0], q[:, 1]
