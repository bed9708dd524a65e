"""Attention and SwiGLU's gate where a CPU's compiler is at work.

What autograd finds by itself, in fewer passes over memory and rounded in other places. Eager code, bit-equal to the
published one, uses none of it.
Shapes: M batch times heads, L positions, H head width, K inner width of SwiGLU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)  # for exp2, which takes a CPU less time than exp


def compiled_on_cpu(x: Tensor) -> bool:
    """Whether a CPU's compiler is at work."""
    return torch.compiler.is_compiling() and x.device.type == "cpu"


def may_round_elsewhere(x: Tensor) -> bool:
    """Whether a faster form may be taken whose roundings are others: a CPU's compiler at work in 16 bits."""
    return compiled_on_cpu(x) and x.dtype in (torch.bfloat16, torch.float16)


class WrittenOutAttention(torch.autograd.Function):
    """softmax(q kᵀ / sqrt(H)) v for (M, L, H): batched products around a softmax in float32.

    Scores have a column for each query, so that maxima and sums over the keys go by vectors of queries. As in
    arXiv 2205.14135 the weights are divided by their sum after the product with v, and the sum's gradient is found from
    the output. Returns the output, and for the backward pass weights (M, L keys, L queries) and their sums (M, L, 1).
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
        ctx, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        out, weights, total = output
        ctx.mark_non_differentiable(weights, total)
        ctx.save_for_backward(*inputs, out, weights, total)

    @staticmethod
    def backward(ctx, grad: Tensor, *_) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, weights, total = ctx.saved_tensors
        grad = grad / total  # of the weighted sum of v
        grad_total = (grad * out).sum(-1).unsqueeze(1)  # minus that of `total`, (M, 1, L)
        grad = grad.to(q.dtype)
        grad_weights = torch.bmm(v, grad.transpose(1, 2)) - grad_total
        grad_scores = (weights * grad_weights * q.shape[-1] ** -0.5).to(q.dtype)
        grad_q = torch.bmm(grad_scores.transpose(1, 2), k)
        return grad_q, torch.bmm(grad_scores, q), torch.bmm(weights, grad)


class KeepsInput(torch.autograd.Function):
    """A function of one tensor that needs nothing else for its backward pass."""

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)


class GatedByExp2(KeepsInput):
    """`silu(gate) · up` of (..., 2 K), gate first, with one exponential and one division each way; (..., K)."""

    @staticmethod
    def forward(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.float().chunk(2, dim=-1)
        return (gate * up / (1 + torch.exp2(-LOG2_E * gate))).to(gate_up.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.float().chunk(2, dim=-1)
        sigmoid = 1 / (1 + torch.exp2(-LOG2_E * gate))
        silu = gate * sigmoid
        grad_gate = grad * up * (sigmoid + silu * (1 - sigmoid))
        # Rounded before they are joined, or the compiler would keep both in float32 first.
        return torch.cat((grad_gate.to(grad.dtype), (grad * silu).to(grad.dtype)), dim=-1)
