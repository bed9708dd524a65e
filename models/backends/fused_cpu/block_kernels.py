"""Kernels for `models.blocks.Block`: attention or a SwiGLU over positions, then SwiGLU (forward.hpp, backward.hpp).

Shapes: B batch, L positions, D hidden size, W heads times head width, I inner width of SwiGLU, J inner width of the
SwiGLU over positions.
"""

from __future__ import annotations

import ctypes

from torch import nn

from models.backends.base import CosSin
from models.backends.fused_cpu.bindings import Gradients, Kept, Layer, Shape
from models.backends.fused_cpu.kept_memory import KeptSizes
from models.backends.fused_cpu.kernel_interface import FLOAT, Kernels
from models.backends.fused_cpu.maps import LeftMap, RightMap, VectorsMap, WeightMap, block_of
from models.blocks import Block, Network
from models.feedforward import ConvSwiGLU, RMSSwiGLU
from models.layers import Attention, SwiGLU

GATE_BLOCK = 64  # columns of gate, and of up, in a product's block that is then gated


def heads_block(num_heads: int, head_dim: int) -> int:
    """Block width for queries, keys and values: whole heads."""
    return head_dim * max(n for n in range(1, max(1, 128 // head_dim) + 1) if 3 * num_heads % n == 0)


def maps_of_attention(attention: Attention) -> dict[str, WeightMap]:
    width, inner = attention.o_proj.weight.shape
    heads = heads_block(attention.num_heads, attention.head_dim)
    return {
        "qkv": RightMap(attention.qkv_proj, heads, block_of(width), by_output=True),
        "out": RightMap(attention.o_proj, block_of(width), block_of(inner), by_output=False),
    }


def maps_of_swiglu(mlp: SwiGLU) -> dict[str, WeightMap]:
    width = mlp.down_proj.weight.shape[0]
    maps: dict[str, WeightMap] = {
        "gate_up": RightMap(mlp.gate_up_proj, GATE_BLOCK, block_of(width), by_output=True),
        "down": RightMap(mlp.down_proj, block_of(width), GATE_BLOCK, by_output=False),
    }
    if isinstance(mlp, ConvSwiGLU):
        assert mlp.conv.bias is not None
        maps |= {"conv_taps": VectorsMap(mlp.conv.weight), "conv_bias": VectorsMap(mlp.conv.bias)}
    return maps


def attention_fits(attention: Attention) -> bool:
    return attention.head_dim % 16 == 0 and attention.head_dim <= 128


class BlockKernels(Kernels[Block]):
    """The library's functions and structures for `models.blocks.Block`."""

    forward, backward = "forward", "backward"
    layer_type, gradients_type, kept_type = Layer, Gradients, Kept

    def __init__(self, network: Network):
        block = network.layers[0]
        assert isinstance(block, Block)
        self.layers, self.eps = len(network.layers), block.eps
        self.heads, self.head_dim, self.mix_inner = 0, 0, 0
        if block.mixes_by_mlp:
            self.mix_inner = block.mlp_t.down_proj.weight.shape[1]
        else:
            self.heads, self.head_dim = block.self_attn.num_heads, block.self_attn.head_dim
        self.inner = block.mlp.down_proj.weight.shape[1]
        self.rms_gated = isinstance(block.mlp, RMSSwiGLU)

    @staticmethod
    def fits(block: nn.Module) -> bool:
        if not isinstance(block, Block) or type(block.mlp) not in (SwiGLU, RMSSwiGLU, ConvSwiGLU):
            return False
        if block.mlp.down_proj.weight.shape[0] % 16:
            return False
        if block.mixes_by_mlp:  # a convolution would be over the channels of the transposed sequence
            return not isinstance(block.mlp_t, ConvSwiGLU)
        return attention_fits(block.self_attn)

    def maps(self, block: Block) -> list[dict[str, WeightMap]]:
        if not block.mixes_by_mlp:
            return [maps_of_swiglu(block.mlp) | maps_of_attention(block.self_attn)]
        mix: dict[str, WeightMap] = {
            "mix_gate_up": LeftMap(block.mlp_t.gate_up_proj, transposed_sum=False),
            "mix_down": LeftMap(block.mlp_t.down_proj, transposed_sum=True),
        }
        return [maps_of_swiglu(block.mlp) | mix]

    def shape(self, rows: int, length: int, width: int, cos_sin: CosSin) -> ctypes.Structure:
        cos, sin = (None, None) if cos_sin is None else (table.data_ptr() for table in cos_sin)
        sizes = {"rows": rows, "length": length, "width": width, "layers": self.layers}
        sizes |= {"heads": self.heads, "head_dim": self.head_dim}
        sizes |= {"inner": self.inner, "mix_inner": self.mix_inner}
        return Shape(**sizes, rms_gated=self.rms_gated, eps=self.eps, cos=cos, sin=sin)

    def kept(self, rows: int, length: int, width: int, value: int) -> KeptSizes:
        positions, channels = rows * length, rows * width
        layer = dict.fromkeys(("before", "between"), value * positions * width)
        layer |= {"gate_up": value * positions * 2 * self.inner, "scale_after": FLOAT * positions}
        if self.rms_gated:
            layer["scale_inner"] = FLOAT * positions
        if self.mix_inner:
            layer |= {"mix_gate_up": value * channels * 2 * self.mix_inner, "scale_between": FLOAT * channels}
            if self.rms_gated:
                layer["scale_mix_inner"] = FLOAT * channels
        else:
            heads_width = self.heads * self.head_dim
            layer |= dict.fromkeys(("q", "k", "v", "mixed"), value * positions * heads_width)
            layer |= {"lse": FLOAT * positions * self.heads, "scale_between": FLOAT * positions}
        return [layer] * self.layers
