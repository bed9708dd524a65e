"""The layers every architecture shares: linear maps, embeddings, RMS norm, rotary positions, attention, SwiGLU.

Shapes: B batch, L sequence length with the puzzle prefix, D hidden size, N heads, H head width.
Parameters are float32; every layer computes in the dtype of what comes in, so the caller's activations decide the
compute dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.compiled_cpu import GatedByExp2, KeepsInput, WrittenOutAttention, may_round_elsewhere


def truncated_normal_(tensor: Tensor, std: float, bound: float = 2.0) -> Tensor:
    """Fill `tensor` in place from a normal truncated at ±`bound` σ whose *resulting* std is `std`.

    `torch.nn.init.trunc_normal_` leaves the truncated std smaller than asked for (0.88 of it at 2σ).
    """
    if std == 0:
        return tensor.zero_()
    density = math.exp(-0.5 * bound**2) / math.sqrt(2 * math.pi)
    mass = math.erf(bound / math.sqrt(2))
    sigma = std / math.sqrt(1 - 2 * bound * density / mass)
    with torch.no_grad():
        return nn.init.trunc_normal_(tensor, std=sigma, a=-bound * sigma, b=bound * sigma)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide the last axis by its root mean square, computed in float32, without a learned weight."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class LinearByCast(torch.autograd.Function):
    """`x @ cast.T`, whose gradient goes to `weight`, the float32 parameter that `cast` is a copy of.

    A recursion applies one weight many times a step. Casting it inside each application costs a pass over the weight
    each time; casting it once, inside autograd, would sum the applications' gradients in the lower precision.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, cast: Tensor) -> Tensor:
        return F.linear(x, cast)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        x, _, cast = inputs
        ctx.save_for_backward(x, cast)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, cast = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        grad_x = (flat @ cast).view(x.shape) if ctx.needs_input_grad[0] else None
        grad_weight = (flat.t() @ x.flatten(0, -2)).float() if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None


class Linear(nn.Module):
    """`x @ weight.T (+ bias)` with a truncated-normal weight of std 1/sqrt(fan_in) and a zero bias."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(
            truncated_normal_(torch.empty(out_features, in_features), in_features**-0.5)
        )
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.cast: Tensor | None = None  # `weight` in the compute dtype, while `weights_cast` lasts

    def forward(self, x: Tensor) -> Tensor:
        if self.cast is not None:
            return LinearByCast.apply(x, self.weight, self.cast)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)

    def flops(self, num_vectors: int) -> int:
        """FLOP of the forward pass for `num_vectors` vectors: 2 per multiply-add."""
        return 2 * num_vectors * self.weight.numel()


@contextmanager
def weights_cast(modules: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Within the block every `Linear` below `modules` uses one copy of its weight in `dtype`, made here."""
    linears = [m for module in modules for m in module.modules() if isinstance(m, Linear)]
    for linear in linears:
        assert linear.bias is None, "a cast for many applications is for the blocks' maps, which have no bias"
        linear.cast = None if linear.weight.dtype == dtype else linear.weight.detach().to(dtype)
    try:
        yield
    finally:
        for linear in linears:
            linear.cast = None


class Embedding(nn.Module):
    """A table of `num` rows of width `dim`, read in `dtype`."""

    def __init__(self, num: int, dim: int, std: float, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.embedding_weight = nn.Parameter(truncated_normal_(torch.empty(num, dim), std))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding_weight.to(self.dtype))


class RotaryEmbedding(nn.Module):
    """Cosine and sine tables of rotary positions (arXiv 2104.09864), split-halves convention."""

    def __init__(self, head_dim: int, length: int, theta: float):
        super().__init__()
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)  # (L, H/2)
        angles = torch.cat((angles, angles), dim=-1)  # (L, H)
        # Not in the state dict: published checkpoints do not carry them.
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys (B, N, L, H) by their positions; `cos`, `sin` (L, H) in float32."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    (cos_first, cos_second), (sin_first, sin_second) = cos.chunk(2, dim=-1), sin.chunk(2, dim=-1)
    # Each half rounded on its own: a compiler writes both in one pass, where a turned copy of `x` is a pass of its own.
    turned_first = (first * cos_first - second * sin_first).to(x.dtype)
    turned_second = (second * cos_second + first * sin_second).to(x.dtype)
    return torch.cat((turned_first, turned_second), dim=-1)


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
        qkv = self.qkv_proj(h).view(
            batch, length, 3 * self.num_heads, self.head_dim
        )  # q heads, k heads, v heads
        # Split as it lies in memory: the backward pass then writes the three gradients where they belong.
        q, k, v = (part.transpose(1, 2) for part in qkv.split(self.num_heads, dim=2))  # each (B, N, L, H)
        if cos_sin is not None:
            q, k = rotate(q, *cos_sin), rotate(k, *cos_sin)
        out = attend(q, k, v)  # (B, N, L, H)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))

    def flops(self, length: int) -> int:
        """FLOP of the forward pass for one sequence: the projections, q kᵀ and the weighted sum of v."""
        products = 4 * length * length * self.num_heads * self.head_dim
        return self.qkv_proj.flops(length) + self.o_proj.flops(length) + products


# Up to this length the scores fit into a CPU's caches, and writing them out is cheaper than the fused kernel, most of
# whose time in bfloat16 goes into its backward pass.
LONGEST_WRITTEN_OUT = 512


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(H)) v for (B, N, L, H), the softmax in float32."""
    if may_round_elsewhere(q) and q.shape[-2] <= LONGEST_WRITTEN_OUT:
        out, *_ = WrittenOutAttention.apply(*(x.flatten(0, 1) for x in (q, k, v)))
        return out.unflatten(0, q.shape[:2])
    return F.scaled_dot_product_attention(q, k, v)


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
        return self.down_proj(gated(self.gate_up_proj(x)))

    def flops(self, num_vectors: int) -> int:
        """FLOP of the products of the forward pass; what is elementwise counts nothing."""
        return self.gate_up_proj.flops(num_vectors) + self.down_proj.flops(num_vectors)


def gated(gate_up: Tensor) -> Tensor:
    """`silu(gate) · up` of (..., 2 K), (..., K)."""
    if may_round_elsewhere(gate_up):
        return GatedByExp2.apply(gate_up)
    if torch.compiler.is_compiling():  # which fuses it by itself
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    return Gated.apply(gate_up)


class Gated(KeepsInput):
    """`silu(gate) · up`, bit-equal to the plain form, without what autograd would keep and copy for it.

    silu(gate) is computed again in the backward pass instead of kept, and both gradients are written into one tensor.
    """

    @staticmethod
    def forward(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_gate_up
