"""The layers every architecture shares: linear maps, embeddings, rotary positions, attention, SwiGLU.

Shapes: B batch, L sequence length with the puzzle prefix, D hidden size, N heads, H head width.
Parameters are float32; every layer computes in the dtype of what comes in, so the caller's activations decide the
compute dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops import attend, gated_linear, linear, rotated_heads


def truncated_normal_(tensor: Tensor, std: float, bound: float = 2.0) -> Tensor:
    """Fill `tensor` in place from a normal truncated at ±`bound` σ whose *resulting* std is `std`.

    `torch.nn.init.trunc_normal_` results in a smaller std than requested (a factor of 0.88 at 2σ).
    """
    if std == 0:
        return tensor.zero_()
    density = math.exp(-0.5 * bound**2) / math.sqrt(2 * math.pi)
    mass = math.erf(bound / math.sqrt(2))
    sigma = std / math.sqrt(1 - 2 * bound * density / mass)
    with torch.no_grad():
        return nn.init.trunc_normal_(tensor, std=sigma, a=-bound * sigma, b=bound * sigma)


class Linear(nn.Module):
    """`x @ weight.T (+ bias)` with a truncated-normal weight of std 1/sqrt(fan_in) and a zero bias."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(
            truncated_normal_(torch.empty(out_features, in_features), in_features**-0.5)
        )
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.cast: Tensor | None = None  # `weight` in the compute dtype, if a backend has cast it already

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.cast)

    def flops(self, num_vectors: int) -> int:
        """FLOP of the forward pass for `num_vectors` vectors: 2 per multiply-add."""
        return 2 * num_vectors * self.weight.numel()


class Embedding(nn.Module):
    """A table of `num` rows of width `dim`, read in `dtype`."""

    def __init__(self, num: int, dim: int, std: float, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.embedding_weight = nn.Parameter(truncated_normal_(torch.empty(num, dim), std))

    def forward(self, ids: Tensor, embed: Callable[[Tensor, Tensor], Tensor] = F.embedding) -> Tensor:
        """Return the rows `ids`, looked up by `embed`, which a backend may implement in its own way."""
        return embed(ids, self.embedding_weight.to(self.dtype))


class RotaryEmbedding(nn.Module):
    """Cosine and sine tables of rotary positions (arXiv 2104.09864), split-halves convention."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, length: int, theta: float):
        super().__init__()
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)  # (L, H/2)
        angles = torch.cat((angles, angles), dim=-1)  # (L, H)
        # Not in the state dict, as in published checkpoints.
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin


class Attention(nn.Module):
    """Bidirectional multi-head self-attention without biases; the head width is floor(D / N) unless given."""

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int | None = None):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim or hidden_size // num_heads
        width = num_heads * self.head_dim
        self.qkv_proj = Linear(hidden_size, 3 * width)
        self.o_proj = Linear(width, hidden_size)

    def forward(self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, length, _ = h.shape
        out = attend(*self.queries_keys_values(h, cos_sin))  # (B, N, L, H)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))

    def queries_keys_values(
        self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v, each (B, N, L, H), with q and k rotated if there are rotary positions."""
        batch, length, _ = h.shape
        # Heads in the order q, k, v. Split in memory order: backward then writes the gradients in place.
        heads = self.qkv_proj(h).view(batch, length, 3 * self.num_heads, self.head_dim)
        qk, v = heads.split((2 * self.num_heads, self.num_heads), dim=2)
        qk = qk.transpose(1, 2) if cos_sin is None else rotated_heads(qk, cos_sin)
        q, k = qk.split(self.num_heads, dim=1)
        return q, k, v.transpose(1, 2)

    def weights(self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return softmax(q kᵀ / sqrt(H)), (B, N, L, L) float32, for inspection; `forward` does not materialise it."""
        q, k, _ = self.queries_keys_values(h, cos_sin)
        scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(self.head_dim)
        return scores.softmax(-1)

    def flops(self, length: int) -> int:
        """FLOP of the forward pass for one sequence: projections, q kᵀ and weighted sum of v."""
        products = 4 * length * length * self.num_heads * self.head_dim
        return self.qkv_proj.flops(length) + self.o_proj.flops(length) + products


def swiglu_width(width: int, expansion: float) -> int:
    """Inner width of SwiGLU: two thirds of `expansion · width`, rounded up to a multiple of 256."""
    return -(-round(expansion * width * 2 / 3) // 256) * 256


class SwiGLU(nn.Module):
    """`down(silu(gate) · up)` (arXiv 2002.05202) over the last axis, gate and up in one matrix, gate first."""

    def __init__(self, width: int, expansion: float):
        super().__init__()
        inner = swiglu_width(width, expansion)
        self.gate_up_proj = Linear(width, 2 * inner)
        self.down_proj = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        projection = self.gate_up_proj
        return self.down_proj(gated_linear(x, projection.weight, projection.cast))

    def flops(self, num_vectors: int) -> int:
        """FLOP of the forward pass's matrix products; elementwise operations are not counted."""
        return self.gate_up_proj.flops(num_vectors) + self.down_proj.flops(num_vectors)
