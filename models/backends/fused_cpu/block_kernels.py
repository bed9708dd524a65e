"""Kernels for `models.blocks.Block`: attention or a SwiGLU over positions, then SwiGLU (forward.hpp, backward.hpp).

Shapes: B batch, L positions, D hidden size, W heads times head width, I inner width of SwiGLU, J inner width of the
SwiGLU over positions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.backends.base import CosSin
from models.backends.fused_cpu.bindings import Gradients, Kept, Layer, Shape
from models.backends.fused_cpu.kernel_interface import KeptTensors, Kernels, chained
from models.backends.fused_cpu.maps import LeftMap, RightMap, block_of
from models.blocks import Block, Network
from models.feedforward import RMSSwiGLU
from models.layers import SwiGLU

GATE_BLOCK = 64  # columns of gate, and of up, in a product's block that is then gated


def heads_block(num_heads: int, head_dim: int) -> int:
    """Block width for queries, keys and values: whole heads."""
    return head_dim * max(n for n in range(1, max(1, 128 // head_dim) + 1) if 3 * num_heads % n == 0)


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
        if not isinstance(block, Block) or type(block.mlp) not in (SwiGLU, RMSSwiGLU):
            return False
        if block.mlp.down_proj.weight.shape[0] % 16:
            return False
        return block.mixes_by_mlp or (block.self_attn.head_dim % 16 == 0 and block.self_attn.head_dim <= 128)

    def maps(self, block: Block) -> Mapping[str, RightMap | LeftMap]:
        width = block.mlp.down_proj.weight.shape[0]
        feed_forward: dict[str, RightMap | LeftMap] = {
            "gate_up": RightMap(block.mlp.gate_up_proj, GATE_BLOCK, block_of(width), by_output=True),
            "down": RightMap(block.mlp.down_proj, block_of(width), GATE_BLOCK, by_output=False),
        }
        if block.mixes_by_mlp:
            return feed_forward | {
                "mix_gate_up": LeftMap(block.mlp_t.gate_up_proj, transposed_sum=False),
                "mix_down": LeftMap(block.mlp_t.down_proj, transposed_sum=True),
            }
        attention = block.self_attn
        heads = heads_block(attention.num_heads, attention.head_dim)
        inner = block_of(attention.num_heads * attention.head_dim)
        return feed_forward | {
            "qkv": RightMap(attention.qkv_proj, heads, block_of(width), by_output=True),
            "out": RightMap(attention.o_proj, block_of(width), inner, by_output=False),
        }

    def shape(self, rows: int, length: int, width: int, cos_sin: CosSin) -> ctypes.Structure:
        cos, sin = (None, None) if cos_sin is None else (table.data_ptr() for table in cos_sin)
        sizes = {"rows": rows, "length": length, "width": width, "layers": self.layers}
        sizes |= {"heads": self.heads, "head_dim": self.head_dim}
        sizes |= {"inner": self.inner, "mix_inner": self.mix_inner}
        return Shape(**sizes, rms_gated=self.rms_gated, eps=self.eps, cos=cos, sin=sin)

    def kept(self, out: Tensor) -> KeptTensors:
        rows, length, width = out.shape
        heads_width, inner, mix_inner = self.heads * self.head_dim, self.inner, self.mix_inner

        def floats(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32)

        layers = []
        for _ in range(self.layers):
            layer = {name: torch.empty_like(out) for name in ("before", "between")}
            if mix_inner:
                layer["mix_gate_up"] = out.new_empty(rows, 2 * mix_inner, width)
                layer |= {name: floats(rows, width) for name in ("scale_between", "scale_mix_inner")}
            else:
                layer |= {name: out.new_empty(rows, length, heads_width) for name in ("q", "k", "v", "mixed")}
                layer |= {"lse": floats(rows, self.heads, length), "scale_between": floats(rows, length)}
            layer |= {"gate_up": out.new_empty(rows, length, 2 * inner), "scale_after": floats(rows, length)}
            layer["scale_inner"] = floats(rows, length)
            layers.append(layer)
        return chained(layers, out)
