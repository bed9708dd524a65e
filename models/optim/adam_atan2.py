"""AdamATan2 (arXiv 2407.05872, section 4): Adam with the step `atan2(m, √v)`, which needs no epsilon.

It differs from Adam with decoupled weight decay in this line, and in that the first bias correction scales the step
instead of the numerator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from models.optim.uncompiled import EagerOptimizer


class Factors(NamedTuple):
    """Scalars of step t, as above."""

    decay: float
    """1 - lr·wd"""
    grad_weight: float
    """1 - β1"""
    square_weight: float
    """1 - β2"""
    correction: float
    """√(1 - β2ᵗ)"""
    alpha: float
    """-lr / (1 - β1ᵗ)"""


# Does what `step_by_torch` does; or returns False, and changes nothing, if the tensors are not supported.
StepKernel = Callable[[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Factors], bool]


def step_by_torch(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    factors: Factors,
) -> None:
    """Update parameters and averages in place, with torch's operations."""
    torch._foreach_mul_(params, factors.decay)
    torch._foreach_lerp_(exp_avgs, grads, factors.grad_weight)
    torch._foreach_lerp_(exp_avg_sqs, torch._foreach_mul(grads, grads), factors.square_weight)
    denominators = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_div_(denominators, factors.correction)
    angles = [torch.atan2(m, d, out=d) for m, d in zip(exp_avgs, denominators, strict=True)]
    torch._foreach_add_(params, angles, alpha=factors.alpha)


class AdamATan2(EagerOptimizer):
    """Per tensor: `p *= 1 - lr·wd; m = lerp(m, g, 1-β1); v = lerp(v, g², 1-β2);`
    `p -= lr/(1-β1ᵗ) · atan2(m, √v / √(1-β2ᵗ))`.

    State per parameter: `step` (float32 scalar on the CPU), `exp_avg`, `exp_avg_sq`. `lr` may be 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        kernel: Callable[[], StepKernel | None] = lambda: None,
    ):
        """`kernel()` returns a faster implementation for the coming step, if there is one."""
        if lr < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"AdamATan2 needs lr >= 0, weight_decay >= 0 and betas in [0, 1), "
                f"got lr={lr}, weight_decay={weight_decay}, betas={betas}"
            )
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})
        self.kernel = kernel

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group["lr"], group["betas"], group["weight_decay"])
        return loss

    def _update(self, params: list, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        beta1, beta2 = betas
        states = [self._state(p) for p in params]
        grads = [p.grad for p in params]
        exp_avgs = [state["exp_avg"] for state in states]
        exp_avg_sqs = [state["exp_avg_sq"] for state in states]
        torch._foreach_add_([state["step"] for state in states], 1)
        # On the CPU, so this does not synchronise; equal for all parameters, which always step together.
        t = states[0]["step"].item()

        factors = Factors(
            1 - lr * weight_decay, 1 - beta1, 1 - beta2, (1 - beta2**t) ** 0.5, -lr / (1 - beta1**t)
        )
        kernel = self.kernel()
        if kernel is None or not kernel(params, grads, exp_avgs, exp_avg_sqs, factors):
            step_by_torch(params, grads, exp_avgs, exp_avg_sqs, factors)

    def _state(self, p: torch.Tensor) -> dict:
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        return state


def adam_atan2_class(device: torch.device) -> tuple[Callable[..., Optimizer], str]:
    """Choose the AdamATan2 for `device`, on CUDA the fused kernel if installed; also returns a line that names it."""
    if device.type != "cuda":
        return AdamATan2, "AdamATan2: PyTorch implementation"
    try:
        from adam_atan2 import AdamATan2 as Fused
    except ImportError as error:  # also raised when only its compiled backend is missing
        return AdamATan2, f"AdamATan2: PyTorch implementation (fused kernel not available: {error})"
    return Fused, "AdamATan2: fused CUDA kernel of the package adam-atan2"
