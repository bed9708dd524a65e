"""Operations with a hand-written backward pass that is cheaper than autograd's. `models.ops` chooses among them.

Shapes: B batch, M batch times heads, L positions, D hidden size, N heads, H head width, K inner width of SwiGLU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOG2_E = math.log2(math.e)  # for exp2, which is faster than exp on a CPU
_PIECE = 1 << 19  # values at a time, of which a CPU's last cache holds a few pieces in float32


TILE = 32  # values of 16 bit in a row of an AMX tile
MAX_IN_TILES = 480  # up to this inner size, `linear_in_tiles` rounds as a batch of products does


def linear_in_tiles(x: Tensor, weight: Tensor) -> Tensor:
    """Compute `x @ weight.T` for a transposed batch x (B, D, L) as one product that rounds as a batch of products.

    On a CPU with AMX, torch multiplies a transposed batch without gradient matrix by matrix. oneDNN then sums `TILE`
    inner values at a time and fills the last tile with zeros, whereas for one contiguous matrix it prefers a number
    that divides the inner size (26 of 52). Filled up to whole tiles, one matrix rounds like the batch, and is faster.
    """
    length = x.shape[-1]
    padding = -length % TILE
    if not padding:
        return F.linear(x.contiguous(), weight)
    rows = x.new_empty(*x.shape[:-1], length + padding)
    rows[..., :length] = x
    rows[..., length:] = 0
    return F.linear(rows, F.pad(weight, (0, padding)))


class LinearByCast(torch.autograd.Function):
    """`x @ cast.T`, with its gradient going to `weight`, the float32 parameter that `cast` is a copy of.

    A recursion applies each weight many times per step. Casting within each application costs a pass over the weight
    each time; casting once within autograd would sum the applications' gradients in the lower precision.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cast: Tensor) -> Tensor:
        # As one matrix, which is what torch's own linear does if the weight needs a gradient.
        flat = x.flatten(0, -2)
        ctx.save_for_backward(flat, cast)
        return F.linear(flat, cast).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        flat, cast = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_x = (rows @ cast).unflatten(0, grad.shape[:-1]) if ctx.needs_input_grad[0] else None
        grad_weight = (rows.t() @ flat).float() if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None


class MaterialisedAttention(torch.autograd.Function):
    """softmax(q kᵀ / sqrt(H)) v for (M, L, H): batched products around a softmax in float32.

    Scores have a column per query, so that maxima and sums over keys are vectorised over queries. As in arXiv
    2205.14135 the weights are divided by their sum after the product with v, and the sum's gradient is computed from
    the output. Returns the output, and for backward the weights (M, L keys, L queries) and their sums (M, L, 1).
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = torch.bmm(k, q.transpose(1, 2)).float()
        shifted = scores - scores.amax(1, keepdim=True)
        weights = torch.exp2(shifted * (LOG2_E * q.shape[-1] ** -0.5)).to(q.dtype)
        total = weights.sum(1, dtype=torch.float32).unsqueeze(-1)
        out = torch.bmm(weights.transpose(1, 2), v) / total
        return out.to(q.dtype), weights, total

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        out, weights, total = output
        ctx.mark_non_differentiable(weights, total)
        ctx.save_for_backward(*inputs, out, weights, total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, weights, total = ctx.saved_tensors
        grad = grad / total  # gradient of the weighted sum of v
        grad_total = (grad * out).sum(-1).unsqueeze(1)  # negative gradient of `total`, (M, 1, L)
        grad = grad.to(q.dtype)
        grad_weights = torch.bmm(v, grad.transpose(1, 2)) - grad_total
        grad_scores = (weights * grad_weights * q.shape[-1] ** -0.5).to(q.dtype)
        grad_q = torch.bmm(grad_scores.transpose(1, 2), k)
        return grad_q, torch.bmm(grad_scores, q), torch.bmm(weights, grad)


class SavesInput(torch.autograd.Function):
    """A function of one tensor that saves only this input for its backward pass."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)


class Gated(torch.autograd.Function):
    """`silu(gate) · up`, bit-equal to the plain form, with fewer copies than autograd needs.

    The backward pass writes both gradients into one tensor. It reads silu(gate) instead of computing it again, because
    an exponential costs more than its memory.
    """

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        silu = F.silu(gate)
        ctx.save_for_backward(gate_up, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, silu = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
        torch.mul(grad, silu, out=grad_up)
        torch.mul(grad, up, out=grad_gate)
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_gate_up


class GatedLinear(torch.autograd.Function):
    """`silu(x @ gate.T) · (x @ up.T)`, bit-equal to the plain form; `cast` (2 K, I), gate first, is a copy of `weight`.

    Gate and up are two products, so that all later operations go through whole tensors in memory instead of through
    halves of rows. The input's gradient is one product again, because it is rounded only once. As in `LinearByCast` the
    gradient goes to the float32 `weight`, and as in `Gated` silu(gate) is not computed again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cast: Tensor) -> Tensor:
        of_gate, of_up = cast.chunk(2)
        gate, up = F.linear(x, of_gate), F.linear(x, of_up)
        silu = F.silu(gate)
        ctx.save_for_backward(x, cast, gate, up, silu)
        return silu * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, cast, gate, up, silu = ctx.saved_tensors
        both = grad.new_empty(*grad.shape[:-1], len(cast))
        grad_gate, grad_up = both.chunk(2, dim=-1)
        torch.mul(grad, silu, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        flat = both.flatten(0, -2)
        grad_x = (flat @ cast).view(x.shape) if ctx.needs_input_grad[0] else None
        grad_weight = (flat.t() @ x.flatten(0, -2)).float() if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None


class Normed(torch.autograd.Function):
    """RMS norm over the last axis in float32, bit-equal to the plain form, also its gradient.

    It saves its input instead of a float32 copy, and its backward pass makes half of autograd's passes over memory:
    `g·r + x·c` for a gradient g, r = 1 / rms(x) and one factor c for each vector.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        x32 = x.float()
        scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, scale)
        return scaled(x32, scale, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, scale = ctx.saved_tensors
        grad32, x32 = grad.float(), x.float()
        # In the order in which autograd rounds. Doubling is exact, so either factor may be doubled.
        of_scale = (grad32 * x32).sum(-1, keepdim=True)
        factor = -0.5 * of_scale * scale.pow(3) / x.shape[-1] * 2
        grad_x = grad32 * scale if grad32 is grad else grad32.mul_(scale)
        return grad_x.add_(x32 * factor if x32 is x else x32.mul_(factor)).to(x.dtype), None


def scaled(x32: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """Return `x32 * scale` in the dtype of x; overwrites x32 unless it is x."""
    return x32 * scale if x32 is x else x32.mul_(scale).to(x.dtype)


class Rotated(torch.autograd.Function):
    """Rotary positions of heads (B, L, N, H), bit-equal to `models.ops.rotate`; `cos`, `sin` (L, H) in float32.

    The tables are repeated for each head, so that most passes go through whole rows of N·H channels instead of halves
    of a head; the sines of first halves are negated. A few rows of the batch at a time stay in the CPU's caches during
    all passes. The gradient is rotated back in the same way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = (table.unsqueeze(1).repeat(1, x.shape[2], 1) for table in (cos, sin))
        half = x.shape[-1] // 2
        sin[..., :half].neg_()
        ctx.save_for_backward(cos, sin)
        out = x.new_empty(x.shape)
        for rows, x32, turned in _pieces(x, cos.dtype):
            torch.mul(x32[..., half:], sin[..., :half], out=turned[..., :half])
            torch.mul(x32[..., :half], sin[..., half:], out=turned[..., half:])
            out[rows] = x32.mul_(cos).add_(turned)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        half = grad.shape[-1] // 2
        back = grad.new_empty(grad.shape)
        for rows, grad32, turned in _pieces(grad, cos.dtype):
            torch.mul(grad32, sin, out=turned)
            grad32.mul_(cos)
            grad32[..., :half] += turned[..., half:]
            grad32[..., half:] += turned[..., :half]
            back[rows] = grad32
        return back, None, None


def _pieces(x: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield rows of x, copies of them in `dtype`, and room for as many values; both may be overwritten."""
    size = max(1, _PIECE // x[0].numel())
    copies, room = (torch.empty((min(size, len(x)), *x.shape[1:]), dtype=dtype) for _ in range(2))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        count = len(x[rows])
        yield rows, copies[:count].copy_(x[rows]), room[:count]


class GatedByExp2(SavesInput):
    """`silu(gate) · up` of (..., 2 K), gate first, with one exponential and one division in each direction."""

    @staticmethod
    def forward(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.float().chunk(2, dim=-1)
        return (gate * up / (1 + torch.exp2(-LOG2_E * gate))).to(gate_up.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.float().chunk(2, dim=-1)
        sigmoid = 1 / (1 + torch.exp2(-LOG2_E * gate))
        silu = gate * sigmoid
        grad_gate = grad * up * (sigmoid + silu * (1 - sigmoid))
        # Rounded before the concatenation, because the compiler would otherwise store both in float32 first.
        return torch.cat((grad_gate.to(grad.dtype), (grad * silu).to(grad.dtype)), dim=-1)


class FewRows(torch.autograd.Function):
    """`table[ids]` for a table of few rows (n, D) and ids (B, L); returns (B, L, D).

    The table's gradient is a matrix product with one-hot rows, because torch's embedding backward adds the batch's rows
    one after another in the precision of the table.
    """

    @staticmethod
    def forward(table: Tensor, ids: Tensor) -> Tensor:
        return F.embedding(ids, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        table, ids = inputs
        ctx.save_for_backward(ids)
        ctx.num_rows = len(table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        is_row = torch.arange(ctx.num_rows, device=ids.device).unsqueeze(1) == ids.flatten()  # (n, B·L)
        return is_row.to(grad.dtype) @ grad.flatten(0, 1), None
