"""The operations of the layers. Each one chooses a kernel by device, dtype and compiler.

Shapes: B batch, L sequence length, N heads, H head width, K inner width of SwiGLU. Eager code on any device is
bit-equal to the published code.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention_gradient import FusedAttention
from models.kernels import (
    MAX_IN_TILES,
    FewRows,
    Gated,
    GatedByExp2,
    GatedLinear,
    LinearByCast,
    MaterialisedAttention,
    Normed,
    Rotated,
    linear_in_tiles,
    scaled,
)

# Up to this length the scores fit into a CPU's caches, so materialising them is cheaper than the fused kernel, which in
# bfloat16 spends most of its time in the backward pass.
MAX_MATERIALISED_LENGTH = 512

IN_16_BIT = (torch.bfloat16, torch.float16)


def compiles_for_cpu(x: Tensor) -> bool:
    """True while `torch.compile` traces for a CPU."""
    return torch.compiler.is_compiling() and x.device.type == "cpu"


def may_round_differently(x: Tensor) -> bool:
    """True when compiling for a CPU in 16 bit, where faster kernels with different rounding are acceptable."""
    return compiles_for_cpu(x) and x.dtype in IN_16_BIT


@cache
def processor_of_products() -> str:
    """Return "AMX", "AVX512" or "other": the instructions with which torch multiplies in 16 bit on this CPU."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "other"
    return "AMX" if torch.cpu.get_capabilities().get("amx_bf16") else "AVX512"


def is_eager_on_cpu(x: Tensor) -> bool:
    """True for a tensor on a CPU, unless `torch.compile` traces."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def may_reshape_products(x: Tensor) -> bool:
    """True for eager code on a CPU where products of other shapes or strides round no differently."""
    if not is_eager_on_cpu(x):
        return False
    return x.dtype not in IN_16_BIT or processor_of_products() == "AVX512"


def sums_in_tiles(x: Tensor) -> bool:
    """True if torch would multiply x (B, D, L) matrix by matrix and sum as `linear_in_tiles` does.

    This is so for a transposed batch in 16 bit, in eager code without gradient, on a CPU with AMX.
    """
    if torch.is_grad_enabled() or not is_eager_on_cpu(x):
        return False
    transposed = x.ndim == 3 and len(x) > 1 and not x.is_contiguous() and x.shape[-1] <= MAX_IN_TILES
    return transposed and x.dtype in IN_16_BIT and processor_of_products() == "AMX"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, cast: Tensor | None = None) -> Tensor:
    """Compute `x @ weight.T (+ bias)` in the dtype of `x`, for x (..., I), float32 weight (O, I) and bias (O,).

    `cast` is an existing copy of `weight` in the dtype of `x`; it requires `bias` to be None.
    """
    # torch multiplies a transposed batch matrix by matrix, which takes longer than a copy.
    if may_reshape_products(x):
        x = x.contiguous()
    elif bias is None and sums_in_tiles(x):
        return linear_in_tiles(x, weight.to(x.dtype) if cast is None else cast)
    if cast is None:
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    return LinearByCast.apply(x, weight, cast) if torch.is_grad_enabled() else F.linear(x, cast)


def few_rows(table: Tensor, ids: Tensor) -> Tensor:
    """Look up ids (B, L) in a table of few rows (n, D); returns (B, L, D)."""
    return FewRows.apply(table, ids)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide the last axis by its root mean square, computed in float32, without a learned weight."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return Normed.apply(x, eps)
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    if torch.compiler.is_compiling():  # autograd needs x32 again
        return (x32 * scale).to(x.dtype)
    return scaled(x32, scale, x)


def gated_linear(x: Tensor, weight: Tensor, cast: Tensor | None = None) -> Tensor:
    """Compute `silu(x @ gate.T) · (x @ up.T)` for x (..., I) and float32 weight (2 K, I), gate first; `cast` as above.

    In bfloat16 on a CPU with AVX-512 but not AMX, gate and up are two products: whole tensors in memory, of which
    without gradient one becomes the result. (In float32 that is no faster.)
    """
    if x.dtype != torch.bfloat16 or not may_reshape_products(x):
        return silu_gate(linear(x, weight, cast=cast))
    x = x.contiguous()
    cast = weight.detach().to(x.dtype) if cast is None else cast
    if torch.is_grad_enabled():
        return GatedLinear.apply(x, weight, cast)
    gate, up = cast.chunk(2)
    return F.silu(F.linear(x, gate), inplace=True).mul_(F.linear(x, up))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys (B, N, L, H) by their positions; `cos`, `sin` (L, H) in float32."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    (cos_first, cos_second), (sin_first, sin_second) = cos.chunk(2, dim=-1), sin.chunk(2, dim=-1)
    # Round each half separately, so that a compiler writes both in one pass without a rotated copy of `x`.
    rotated_first = (first * cos_first - second * sin_first).to(x.dtype)
    rotated_second = (second * cos_second + first * sin_second).to(x.dtype)
    return torch.cat((rotated_first, rotated_second), dim=-1)


def rotated_heads(heads: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate queries and keys as the projection writes them, (B, L, N, H), as `rotate` does; returns (B, N, L, H)."""
    if heads.device.type == "cpu" and not torch.compiler.is_compiling():
        return Rotated.apply(heads, *cos_sin).transpose(1, 2)
    return rotate(heads.transpose(1, 2), *cos_sin)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute softmax(q kᵀ / sqrt(H)) v for (B, N, L, H), with the softmax in float32."""
    if may_round_differently(q) and q.shape[-2] <= MAX_MATERIALISED_LENGTH:
        out, *_ = MaterialisedAttention.apply(*(x.flatten(0, 1) for x in (q, k, v)))
        return out.unflatten(0, q.shape[:2])
    if is_eager_on_cpu(q) and torch.is_grad_enabled() and FusedAttention.fits(q):
        return FusedAttention.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def silu_gate(gate_up: Tensor) -> Tensor:
    """Compute `silu(gate) · up` from (..., 2 K), gate first; returns (..., K)."""
    if may_round_differently(gate_up):
        return GatedByExp2.apply(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    if torch.compiler.is_compiling():  # the compiler fuses the plain form
        return F.silu(gate) * up
    return Gated.apply(gate_up) if torch.is_grad_enabled() else F.silu(gate).mul_(up)


def contiguous_if_faster(h: Tensor) -> Tensor:
    """Make a tensor contiguous if products of transposed tensors are slower than a copy."""
    return h.contiguous() if compiles_for_cpu(h) else h
