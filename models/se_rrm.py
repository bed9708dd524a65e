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
from models.blocks import Network, NetworkBlock
from models.feedforward import FFNS
from models.grid_rotary import GridRotaryEmbedding
from models.layers import Attention, Embedding, Linear
from models.ops import rms_norm
from models.recursive import SingleLatentModel, State

PAD, BLANK, SYMBOL = range(3)  # kinds of tokens; all symbols share one input vector


class SymbolBlock(NetworkBlock):
    """Post-norm: attention over the positions of each symbol, over the symbols of each position, feed-forward."""

    def __init__(self, config: SERRMConfig):
        super().__init__()
        c, head_dim = config, config.hidden_size // config.num_heads
        self.num_symbols, self.eps = c.vocab_size, c.rms_norm_eps
        self.over_positions = Attention(c.hidden_size, c.num_heads, head_dim)
        self.over_symbols = Attention(c.hidden_size, max(1, c.num_heads // 2), head_dim)
        self.mlp = FFNS[c.ffn](c.hidden_size, c.expansion, c.rms_norm_eps)

    def forward(self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, _, width = h.shape
        h = h.reshape(batch * self.num_symbols, -1, width)  # (B·V, L, D)
        h = rms_norm(h + self.over_positions(h, cos_sin), self.eps)
        h = h.view(batch, self.num_symbols, -1, width).transpose(1, 2)  # (B, L, V, D)
        shape, h = h.shape, h.flatten(0, 1)
        h = rms_norm(h + self.over_symbols(h, None), self.eps)
        h = rms_norm(h + self.mlp(h), self.eps)
        return h.view(shape).transpose(1, 2).reshape(batch, -1, width)

    def flops(self, length: int) -> int:
        """FLOP of the forward pass for one row of `length` = V·L vectors."""
        positions = length // self.num_symbols
        over_positions = self.num_symbols * self.over_positions.flops(positions)
        return over_positions + positions * self.over_symbols.flops(self.num_symbols) + self.mlp.flops(length)


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
        cells = self.embed_tokens(inputs.clamp(max=SYMBOL)).unsqueeze(1)  # (B, 1, S, D)
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
