"""Kernels for `models.symbol_block.SymbolBlock`: attention over positions, then over symbols, SwiGLU (symbols.hpp).

Shapes: B batch, V symbols, L positions of a symbol, D hidden size, I inner width of SwiGLU.
"""

from __future__ import annotations

import ctypes

from torch import nn

from models.backends.base import CosSin
from models.backends.fused_cpu.bindings import Gradients, Kept, Layer, Shape, SymbolShape
from models.backends.fused_cpu.block_kernels import attention_fits, maps_of_attention, maps_of_swiglu
from models.backends.fused_cpu.kept_memory import KeptSizes
from models.backends.fused_cpu.kernel_interface import FLOAT, Kernels
from models.backends.fused_cpu.maps import WeightMap
from models.blocks import Network
from models.feedforward import RMSSwiGLU
from models.layers import Attention, SwiGLU
from models.symbol_block import SymbolBlock


class SymbolKernels(Kernels[SymbolBlock]):
    """The library's functions and structures for `models.symbol_block.SymbolBlock`, two layers per block."""

    forward, backward = "forward_symbols", "backward_symbols"
    layer_type, gradients_type, kept_type = Layer, Gradients, Kept

    def __init__(self, network: Network):
        block = network.layers[0]
        assert isinstance(block, SymbolBlock)
        self.layers, self.eps, self.num_symbols = len(network.layers), block.eps, block.num_symbols
        self.halves = block.over_positions, block.over_symbols
        self.inner = block.mlp.down_proj.weight.shape[1]
        self.rms_gated = isinstance(block.mlp, RMSSwiGLU)

    @staticmethod
    def fits(block: nn.Module) -> bool:
        if not isinstance(block, SymbolBlock) or type(block.mlp) not in (SwiGLU, RMSSwiGLU):
            return False
        return block.mlp.down_proj.weight.shape[0] % 16 == 0 and attention_fits(block.over_positions)

    def maps(self, block: SymbolBlock) -> list[dict[str, WeightMap]]:
        over_symbols = maps_of_attention(block.over_symbols) | maps_of_swiglu(block.mlp)
        return [maps_of_attention(block.over_positions), over_symbols]

    def shape(self, rows: int, length: int, width: int, cos_sin: CosSin) -> ctypes.Structure:
        cos, sin = (None, None) if cos_sin is None else (table.data_ptr() for table in cos_sin)
        num_positions = length // self.num_symbols

        def half(attention: Attention, rows: int, length: int, **others: int | None) -> ctypes.Structure:
            heads = {"heads": attention.num_heads, "head_dim": attention.head_dim}
            return Shape(
                rows=rows, length=length, width=width, layers=self.layers, eps=self.eps, **heads, **others
            )

        of_positions, of_symbols = self.halves
        return SymbolShape(
            rows=rows,
            positions=half(of_positions, rows * self.num_symbols, num_positions, cos=cos, sin=sin),
            symbols=half(
                of_symbols, rows * num_positions, self.num_symbols, inner=self.inner, rms_gated=self.rms_gated
            ),
        )

    def kept(self, rows: int, length: int, width: int, value: int) -> KeptSizes:
        vectors = rows * length
        halves: KeptSizes = []
        for attention in self.halves:
            half = {"between": value * vectors * width, "scale_between": FLOAT * vectors}
            heads_width = attention.num_heads * attention.head_dim
            half |= dict.fromkeys(("q", "k", "v", "mixed"), value * vectors * heads_width)
            halves.append(half | {"lse": FLOAT * vectors * attention.num_heads})
        halves[0]["before"] = value * vectors * width
        halves[1] |= {"gate_up": value * vectors * 2 * self.inner, "scale_after": FLOAT * vectors}
        if self.rms_gated:
            halves[1]["scale_inner"] = FLOAT * vectors
        return halves * self.layers
