"""Choices of `arch.ffn`: SwiGLU as published, and two later variants.

Shapes: B batch, L positions, W width of a layer, I its inner width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import SwiGLU
from models.ops import rms_norm


class RMSSwiGLU(SwiGLU):
    """`down(sigmoid(gate) · rms(gate · up))` (arXiv 2601.19085): the product is normalised before gating."""

    def __init__(self, width: int, expansion: float, eps: float):
        super().__init__(width, expansion)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(gate.sigmoid() * rms_norm(gate * up, self.eps))


class ConvSwiGLU(SwiGLU):
    """`down(silu(conv(silu(gate) · up)))` (arXiv 2512.14693) for x (B, L, W).

    `conv` is a depthwise convolution over positions with two taps: the position itself and the one before it.
    """

    def __init__(self, width: int, expansion: float):
        super().__init__(width, expansion)
        inner = self.down_proj.weight.shape[1]
        self.conv = nn.Conv1d(inner, inner, kernel_size=2, groups=inner)  # weight (I, 1, 2), bias (I,)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        h = F.silu(gate) * up  # (B, L, I)
        before = F.pad(h, (0, 0, 1, 0))[:, :-1]
        assert self.conv.bias is not None
        earlier, here = self.conv.weight.to(h.dtype).squeeze(1).unbind(-1)
        return self.down_proj(F.silu(earlier * before + here * h + self.conv.bias.to(h.dtype)))


# (width, expansion, eps) -> layer over the last axis
FFNS: dict[str, Callable[[int, float, float], SwiGLU]] = {
    "swiglu": lambda width, expansion, eps: SwiGLU(width, expansion),
    "rms_swiglu": RMSSwiGLU,
    "conv_swiglu": lambda width, expansion, eps: ConvSwiGLU(width, expansion),
}
