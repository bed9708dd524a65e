"""The block of `trm_equivariant`: each (cell, symbol) pair receives the pooled vectors of its units.

Shapes: B batch, N symbols, L (cell, symbol) pairs, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dataset.units import CellUnits
from models.blocks import NetworkBlock
from models.layers import Linear
from models.ops import rms_norm, silu_gate


class UnitBlock(NetworkBlock):
    """`h = rms(h + SwiGLU(h, pooled h))` for h (B, L, D).

    Gate and up are a sum of linear maps: of the pair itself, of its cell's vector pooled over the symbols, and of its
    units' vectors pooled over their cells for this symbol. Pooling is a mean, or the mean and the maximum concatenated.
    """

    def __init__(
        self,
        hidden_size: int,
        expansion: float,
        units: CellUnits,
        pooling: Literal["mean", "mean_max"],
        eps: float,
    ):
        super().__init__()
        inner = round(expansion * hidden_size)
        pooled = hidden_size * (2 if pooling == "mean_max" else 1)
        self.units, self.pooling, self.eps = units, pooling, eps
        self.of_pair = Linear(hidden_size, 2 * inner)
        self.of_cell = Linear(pooled, 2 * inner)
        of_units = nn.ModuleList(Linear(pooled, 2 * inner) for _ in units.kinds)
        self.of_units = cast(Sequence[Linear], of_units)  # ModuleList is not generic
        self.down_proj = Linear(inner, hidden_size)

    def pool(self, h: Tensor, axes: tuple[int, ...]) -> Tensor:
        mean = h.mean(axes, keepdim=True)
        return torch.cat((mean, h.amax(axes, keepdim=True)), dim=-1) if self.pooling == "mean_max" else mean

    def forward(self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None = None) -> Tensor:
        axes = self.units.axes
        grid = h.view(h.shape[0], *axes, -1, h.shape[-1])  # (B, *axes, N, D)
        gate_up = self.of_pair(grid) + self.of_cell(self.pool(grid, (len(axes) + 1,)))
        for linear, extents in zip(self.of_units, self.units.kinds, strict=True):
            for extent in extents:
                gate_up = gate_up + linear(self.pool(grid, tuple(axis + 1 for axis in extent)))
        return rms_norm(grid + self.down_proj(silu_gate(gate_up)), self.eps).view(h.shape)

    def flops(self, length: int) -> int:
        """FLOP of the forward pass for one row of `length` pairs; pooled vectors are mapped once per unit."""
        cells = self.units.num_cells
        symbols = length // cells
        products = self.of_pair.flops(length) + self.of_cell.flops(cells) + self.down_proj.flops(length)
        for linear, extents in zip(self.of_units, self.units.kinds, strict=True):
            products += sum(linear.flops(symbols * self.units.num_units(extent)) for extent in extents)
        return products
