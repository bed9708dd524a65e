"""A network in which each cell of a square grid sees its four neighbours only.

Each application of the network passes information on by one cell. There is no position encoding and no fixed size, so
moving a puzzle moves its answer, and a model trained on small grids solves large ones. Everything else is TRM (arXiv
2510.04871): cycles, gradient through the last H-cycle, heads, halting. Similar convolutional recursions for mazes:
arXiv 2106.04537, arXiv 2202.05826.

Shapes: B batch, N side of the grid, S = N·N `seq_len`, D hidden size, V vocabulary. No weight depends on N.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.arch_configs import LocalConfig
from models.blocks import Network, NetworkBlock
from models.layers import Linear
from models.ops import rms_norm, silu_gate
from models.recursive import SingleLatentModel, State, halting_head


class NeighbourBlock(NetworkBlock):
    """`h = rms(h + SwiGLU(h, neighbours of h))` for h (B, S, D) on a grid of `side` x `side` cells.

    Cells beyond the border are zero, which no latent is. With directions `distinct` the linear map has separate weights
    for each neighbour; with `shared` it sees the mean and the maximum of the four, which rotations and reflections do
    not change.
    """

    def __init__(self, config: LocalConfig, side: int):
        super().__init__()
        width, inner = config.hidden_size, round(config.expansion * config.hidden_size)
        self.side, self.distinct, self.eps = side, config.directions == "distinct", config.rms_norm_eps
        self.gate_up_proj = Linear((5 if self.distinct else 3) * width, 2 * inner)
        self.down_proj = Linear(inner, width)

    def with_neighbours(self, h: Tensor) -> Tensor:
        """Return (B, S, 5 D) or (B, S, 3 D): each cell's own vector, then its neighbours' or their pooled vectors."""
        grid = h.unflatten(1, (self.side, self.side))
        padded = F.pad(grid, (0, 0, 1, 1, 1, 1))  # (B, N + 2, N + 2, D)
        rows, columns = padded[:, :, 1:-1], padded[:, 1:-1]
        up, down = rows[:, :-2], rows[:, 2:]
        left, right = columns[:, :, :-2], columns[:, :, 2:]
        if self.distinct:
            return torch.cat((grid, up, down, left, right), dim=-1).flatten(1, 2)
        mean = (up + down + left + right) / 4
        maximum = torch.maximum(torch.maximum(up, down), torch.maximum(left, right))
        return torch.cat((grid, mean, maximum), dim=-1).flatten(1, 2)

    def forward(self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None = None) -> Tensor:
        return rms_norm(h + self.down_proj(silu_gate(self.gate_up_proj(self.with_neighbours(h)))), self.eps)

    def flops(self, length: int) -> int:
        """FLOP of the forward pass for one row of `length` cells."""
        return self.gate_up_proj.flops(length) + self.down_proj.flops(length)


class LocalModel(SingleLatentModel):
    """Embedding, network and heads for one latent with a vector for each cell of a square grid, (B, S, D)."""

    knows: ClassVar = "which cells are neighbours"

    Config = LocalConfig

    config: LocalConfig

    def __init__(self, config: LocalConfig):
        super().__init__(config)
        self.q_head = halting_head(2 * config.hidden_size)

    def make_network(self, num_layers: int) -> Network:
        side = math.isqrt(self.config.seq_len)
        return Network([NeighbourBlock(self.config, side) for _ in range(num_layers)])

    def heads(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, S, V) from each cell; q_halt and q_continue (B,) from the cells' mean and maximum."""
        (answer,) = state
        q = self.q_head(torch.cat((answer.mean(1), answer.amax(1)), dim=-1)).float()
        return self.lm_head(answer), q[:, 0], q[:, 1]
