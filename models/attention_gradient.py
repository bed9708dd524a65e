"""The gradient of attention on a CPU in bfloat16: torch's own, bit for bit, in a few products over all heads.

torch's fused attention multiplies each head's keys by `QUERIES` queries at a time. Below about 200 positions its
gradient takes longer to start those small products than to compute them. Here one product covers many heads, rounds
where torch rounds and sums in the same order. That order is not part of torch's interface, and depends on the
processor, so `rounds_as_torch` compares both before the first use of a shape.

Shapes: B batch, N heads, M = B·N, L positions, H head width. In the notation of arXiv 2205.14135, appendix B.4.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

QUERIES = 32  # per product in torch's kernel, below `MAX_LENGTH`
MAX_LENGTH = 191  # longer sequences have larger products in torch's kernel
MIN_PRODUCT = 16**3  # multiplications; torch computes smaller products without oneDNN, and rounds differently
LANES = 16  # float32 values of an AVX-512 register
_SCORES = 1 << 18  # scores at a time, in float32: a few such tensors fit into a CPU's caches

Gradients = tuple[Tensor, Tensor, Tensor]


class FusedAttention(torch.autograd.Function):
    """softmax(q kᵀ / sqrt(H)) v by torch's fused kernel, with `attention_gradient`; all (B, N, L, H) in bfloat16."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        ctx.save_for_backward(q, k, v, out, log_sum)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return attention_gradient(grad, *ctx.saved_tensors)

    @staticmethod
    def fits(q: Tensor) -> bool:
        """True if the gradient is known to be torch's for queries q (B, N, L, H) on a CPU."""
        batch, heads, length, width = q.shape
        if q.dtype != torch.bfloat16 or length > MAX_LENGTH or width % (2 * LANES):
            return False
        if length * width * (length % QUERIES or QUERIES) <= MIN_PRODUCT:  # of the last block of queries
            return False
        rows = _rows_at_once(q)
        batch = min(batch, rows + batch % rows)  # all sizes of products that occur
        return rounds_as_torch(batch, heads, length, width, torch.get_num_threads())


def attention_gradient(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor
) -> Gradients:
    """Return the gradients of q, k and v from that of the output; all (B, N, L, H), `log_sum` (B, N, L) float32.

    `log_sum` is the logarithm of the sum of exp(scores) over the keys. H must be a multiple of 2 · `LANES`.
    """
    batch, heads, length, width = q.shape
    # In memory (B, L, N, H), as the projection of q, k and v wrote them.
    grad_q, grad_k, grad_v = grads = (
        *(x.new_empty(batch, length, heads, width).transpose(1, 2) for x in (q, k, v)),
    )
    for parts in zip(
        *(x.split(_rows_at_once(q)) for x in (*grads, grad, q, k, v, out, log_sum)), strict=True
    ):
        results, inputs = parts[:3], parts[3:]
        for result, part in zip(results, _of_rows(*(x.flatten(0, 1) for x in inputs)), strict=True):
            result.copy_(part.view(result.shape))
    return grad_q, grad_k, grad_v


def _rows_at_once(q: Tensor) -> int:
    """Rows of the batch that `attention_gradient` works on at a time, for q (B, N, L, H)."""
    _, heads, length, _ = q.shape
    return max(1, _SCORES // (heads * length * length))


def _of_rows(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor) -> Gradients:
    """Compute `attention_gradient` of a few rows of the batch: all (M, L, H), `log_sum` (M, L).

    With weights P, dP = dO vᵀ and dS = P ∘ (dP - rowsum(dO ∘ O)): dv = Pᵀ dO, sqrt(H) dq = dS k, sqrt(H) dk = dSᵀ q.
    """
    length, scale = q.shape[1], q.shape[2] ** -0.5
    weights = _exp(_scores(q, k, scale).sub_(log_sum.unsqueeze(-1)))  # (M, L, L + 1)
    of_output = _sum_of_products(grad, out)  # (M, L, 1)
    grad_scores = _scores(grad, v).sub_(of_output).mul_(weights)
    # Without the column that `_exp` needed; rounded before the products with them, as in torch's kernel.
    weights, grad_scores = (x.to(q.dtype)[..., :length] for x in (weights, grad_scores))
    grad_q = _product(grad_scores, k, scale)
    return grad_q, _sum_over_queries(grad_scores, q, scale), _sum_over_queries(weights, grad)


def _product(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """Return `scale · a b`, rounded once."""
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _sum_over_queries(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """Return `scale · aᵀ b`, (M, I, J) for a (M, L, I) and b (M, L, J) over queries, rounded after every `QUERIES`."""
    (first_a, *blocks_a), (first_b, *blocks_b) = a.transpose(1, 2).split(QUERIES, dim=2), b.split(QUERIES, 1)
    total = _product(first_a, first_b, scale)
    for block_a, block_b in zip(blocks_a, blocks_b, strict=True):
        total.baddbmm_(block_a, block_b, alpha=scale)
    return total


def _scores(q: Tensor, k: Tensor, scale: float = 1.0) -> Tensor:
    """Return `scale · q kᵀ` in float32, (M, L, L + 1) with a last column of zeros, for q and k (M, L, H).

    torch calls MKL, which converts both to float32. It has another order of sums for a block of a single query.
    """
    length = q.shape[1]
    q, k = q.float(), F.pad(k.float(), (0, 0, 0, 1))
    scores = _product(q, k.transpose(1, 2), scale)
    if length % QUERIES == 1:  # four partial sums, whose operands are rounded before
        products = (k * scale).mul_(q[:, -1:]).unflatten(-1, (-1, 4))
        total = products.sum(-2)  # (M, L + 1, 4); up to H = 64 torch adds one after another
        total = total[..., :2] + total[..., 2:]
        scores[:, -1] = total[..., 0] + total[..., 1]
    return scores


def _exp(x: Tensor) -> Tensor:
    """Return exp(x) as torch's vectorised kernels compute it; the last column of the result has no meaning.

    `torch.exp` may differ in the last bit, because it calls MKL. The gradient of log-softmax does not: it is
    `g - exp(x) · sum(g)`, which is exp(x) if g is 0 except for -1 in the last column.
    """
    negative_one = torch.zeros_like(x)
    negative_one[..., -1] = -1
    return torch.ops.aten._log_softmax_backward_data(negative_one, x, -1, x.dtype)


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of `a · b` over the last axis, (..., 1) in float32, in the order of torch's vectorised sums."""
    products = a.float().mul_(b.float()).unflatten(-1, (-1, 2, LANES)).unbind(-3)
    lanes = sum(products[1:], products[0])  # (..., 2, LANES)
    total = lanes[..., 0, :] + lanes[..., 1, :]
    while (half := total.shape[-1] // 2) > 0:
        total = total[..., :half] + total[..., half:]
    return total


@cache
def rounds_as_torch(batch: int, heads: int, length: int, width: int, num_threads: int) -> bool:
    """Compare output and gradients with torch's, bit for bit, for (B, N, L, H) and so many threads, on this CPU.

    The last two comparisons are of inputs for which sums consist of numbers of all sizes that cancel each other, so
    that nothing but rounding errors remains, which show the order of each sum. First each score and gradient of a
    weight, by large inputs and keys and values that are the same at all positions; then the gradients of q, k and v.
    (The last bit of an exponential seldom shows.)
    """
    generator = torch.Generator().manual_seed(0)

    def normal(positions: int) -> Tensor:
        return torch.randn((batch, positions, heads, width), generator=generator)

    def of_all_sizes(positions: int = length) -> Tensor:
        return normal(positions) * torch.exp2(3 * normal(positions))

    def same() -> Tensor:  # at all positions
        return of_all_sizes(1).repeat(1, length, 1, 1)

    compared = (
        (normal(length), normal(length), normal(length), normal(length)),
        (of_all_sizes(), 8 * of_all_sizes(), 8 * same(), same()),
        (_cancelled(of_all_sizes()), same(), same(), of_all_sizes()),
    )
    return all(_equals_torch(*(x.bfloat16().transpose(1, 2) for x in inputs)) for inputs in compared)


def _cancelled(x: Tensor) -> Tensor:
    """Replace the second half of each block of `QUERIES` positions of x (B, L, N, H) by the negative first half."""
    parts = []
    for block in x.split(QUERIES, dim=1):
        half = block.shape[1] // 2
        first, middle = block[:, :half], block[:, 2 * half :]
        parts += [first, 0 * middle if half else middle, -first.flip(1)]
    return torch.cat(parts, dim=1)


@torch.enable_grad()
def _equals_torch(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """True if output and gradients for these inputs are torch's, all (B, N, L, H)."""
    leaves = q, k, v = tuple(x.detach().requires_grad_() for x in (q, k, v))
    results = []
    for attention in (F.scaled_dot_product_attention, FusedAttention.apply):
        out = attention(q, k, v)
        # A gradient given to `autograd.grad` would import sympy, 0.3 s.
        results.append((out, *torch.autograd.grad((out * grad).sum(), leaves)))
    return all(torch.equal(a, b) for a, b in zip(*results, strict=True))
