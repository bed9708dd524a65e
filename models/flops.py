"""Floating-point operations of a supervision step, counted in the same way for every architecture.

Matrix products are counted, 2 FLOP per multiply-add; elementwise operations and reductions are not, as in
`torch.utils.flop_counter`. A backward pass counts twice its forward pass.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from models.act import ACTModel
from models.blocks import Network
from models.recursive import RecursiveModel


def count_applications(inner: RecursiveModel) -> dict[str, tuple[int, int]]:
    """Count a supervision step's applications of each network: (without gradient in training, with gradient).

    Runs the recursion at its current depth with networks that return their input, so an architecture needs no formula.
    It must apply its networks through `f`.
    """
    counts: Counter[tuple[int, bool]] = Counter()

    def count(network: Network, h: Tensor, injection: Tensor | None, times: int = 1) -> Tensor:
        counts[id(network), torch.is_grad_enabled()] += times
        return h

    inner.f = count  # type: ignore[method-assign]  # hides the method of the class until it is deleted
    try:
        with torch.enable_grad():
            inner.recur(tuple(torch.zeros(1, 1, 1) for _ in inner.latents), torch.zeros(1, 1, 1))
    finally:
        del inner.f  # the class has the real one
    return {
        name: (counts[id(getattr(inner, name)), False], counts[id(getattr(inner, name)), True])
        for name in inner.networks
    }


def step_flops(inner: RecursiveModel, *, training: bool) -> int:
    """FLOP of one supervision step of one row, in training including backward.

    `activation_checkpointing` repeats the forward pass within the backward pass.
    """
    with_gradient = 3 + inner.activation_checkpointing if training else 1
    flops = (3 if training else 1) * inner.heads_flops() + training * inner.embedding_gradient_flops()
    for name, (without, with_) in count_applications(inner).items():
        flops += (without + with_gradient * with_) * getattr(inner, name).flops(inner.length)
    return flops


def training_flops(act: ACTModel) -> int:
    """FLOP of one update per row of the batch; Q-learning runs one more step without gradient."""
    looks_ahead = act.max_steps > 1 and act.rule.learns_continue
    return step_flops(act.inner, training=True) + looks_ahead * step_flops(act.inner, training=False)
