"""The block of `se_rrm`: attention over the positions of each symbol, and over the symbols of each position.

Shapes: B batch, V symbols, L positions of a symbol (cells and registers), D hidden size.
"""

from __future__ import annotations

from torch import Tensor

from models.arch_configs import SERRMConfig
from models.blocks import NetworkBlock
from models.feedforward import FFNS
from models.layers import Attention
from models.ops import rms_norm


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
