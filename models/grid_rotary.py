"""Rotary positions of a grid: rows rotate one half of a head's pairs, columns the other half.

Shapes: P prefix length, S cells, L = P + S, H head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.arch_configs import grid_side


class GridRotaryEmbedding(nn.Module):
    """Cosine and sine tables (L, H) like `RotaryEmbedding`'s, for (row, column); the prefix is not rotated."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, prefix_len: int, seq_len: int, theta: float):
        super().__init__()
        side, half = grid_side(seq_len), head_dim // 2
        frequencies = theta ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)  # (H/4,)
        angles_1d = torch.outer(torch.arange(side, dtype=torch.float32), frequencies)
        rows, columns = angles_1d.repeat_interleave(side, 0), angles_1d.repeat(side, 1)  # (S, H/4) each
        angles = torch.cat((torch.zeros(prefix_len, half), torch.cat((rows, columns), dim=-1)))
        angles = torch.cat((angles, angles), dim=-1)  # (L, H), split halves
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin
