"""AdamATan2's update of all parameters in one pass over memory (atan2_step.hpp)."""

from __future__ import annotations

import ctypes
from itertools import chain

import torch
from torch import Tensor

from models.backends.fused_cpu.bindings import Moments, StepFactors
from models.optim.adam_atan2 import Factors, step_by_torch


class ATan2Step:
    """`models.optim.adam_atan2.step_by_torch` in C++, bit-equal: a `StepKernel`."""

    def __init__(self, library: ctypes.CDLL):
        self.compiled = library

    @classmethod
    def if_exact(cls, library: ctypes.CDLL) -> ATan2Step | None:
        """Return the kernel if it computes the same numbers as torch here, otherwise None.

        torch can be built with other square roots and arctangents, which round differently.
        """
        kernel = cls(library)
        return kernel if kernel.is_exact() else None

    def __call__(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        factors: Factors,
    ) -> bool:
        """Update params, exp_avgs and exp_avg_sqs in place; returns False, and changes nothing, if they do not fit.

        They must be contiguous float32 tensors on the CPU, and both betas greater than 1/2.
        """
        if max(factors.grad_weight, factors.square_weight) >= 0.5:  # torch interpolates in another way
            return False
        moments = []
        for tensors in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
            if not all(fits(tensor) for tensor in tensors):
                return False
            moments.append(Moments(*(tensor.data_ptr() for tensor in tensors), tensors[0].numel()))
        array = (Moments * len(moments))(*moments)
        if self.compiled.adam_atan2(array, len(moments), ctypes.byref(StepFactors(*factors))):
            return False  # torch does not export what the library needs
        # Autograd would not notice otherwise that a saved tensor has changed.
        torch.autograd.graph.increment_version([*params, *exp_avgs, *exp_avg_sqs])
        return True

    def is_exact(self) -> bool:
        """Compare two steps on random values with torch's, bit by bit."""
        rng = torch.Generator().manual_seed(0)
        sizes, betas = (31, 4099, 40_000), (0.1, 0.05)
        ours, theirs = ([[torch.zeros(n) for n in sizes] for _ in range(3)] for _ in range(2))
        for step in (1, 2):
            scales = (10.0 ** torch.randint(-12, 4, (n,), generator=rng) for n in sizes)
            grads = [scale * torch.randn(len(scale), generator=rng) for scale in scales]
            factors = Factors(0.99, *betas, (1 - 0.95**step) ** 0.5, -0.01)
            if not self(ours[0], grads, ours[1], ours[2], factors):
                return False
            step_by_torch(theirs[0], grads, theirs[1], theirs[2], factors)
        return all(map(torch.equal, chain(*ours), chain(*theirs)))


def fits(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
