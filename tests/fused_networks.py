"""What the tests of `models.backends.fused_cpu` compare: outputs and gradients of a network by different code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from models.backends.fused_cpu.bindings import processor_fits
from models.blocks import Network
from utils.device import missing_toolchain

needs_processor = pytest.mark.skipif(
    not processor_fits() or missing_toolchain() is not None,
    reason="needs a processor with avx512_bf16, and a C++ compiler",
)
BFLOAT16 = torch.bfloat16


def gradients(
    apply: Callable[..., torch.Tensor], inputs: list[torch.Tensor], upstream: torch.Tensor, network: Network
) -> list[torch.Tensor]:
    """The output, and the gradients of the inputs and of all weights."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = apply(*leaves)
    found = torch.autograd.grad(out, [*leaves, *network.parameters()], upstream.to(out.dtype))
    return [tensor.detach().float() for tensor in (out, *found)]


def errors(found: list[torch.Tensor], expected: list[torch.Tensor]) -> torch.Tensor:
    """Of each tensor, relative to its size."""
    return torch.stack(
        [(one - other).norm() / other.norm() for one, other in zip(found, expected, strict=True)]
    )


@contextmanager
def number_of_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
