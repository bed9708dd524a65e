"""Outputs and gradients of a network from different code, for tests of `models.backends.fused_cpu`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from models.backends.fused_cpu.bindings import processor_fits
from models.backends.fused_cpu.network import FusedNetwork, fits
from models.blocks import Network
from utils.device import missing_toolchain

needs_processor = pytest.mark.skipif(
    not processor_fits() or missing_toolchain() is not None,
    reason="needs a CPU with avx512_bf16, and a C++ compiler",
)
BFLOAT16 = torch.bfloat16


def gradients(
    apply: Callable[..., torch.Tensor], inputs: list[torch.Tensor], upstream: torch.Tensor, network: Network
) -> list[torch.Tensor]:
    """Return the output, and the gradients of the inputs and of all weights."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = apply(*leaves)
    found = torch.autograd.grad(out, [*leaves, *network.parameters()], upstream.to(out.dtype))
    return [tensor.detach().float() for tensor in (out, *found)]


def errors(found: list[torch.Tensor], expected: list[torch.Tensor]) -> torch.Tensor:
    """Return the error of each tensor, relative to its norm."""
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


def assert_as_close_to_float32_as_eager(network, inputs, upstream, threads, cos_sin=None) -> None:
    """Check that errors of outputs and gradients against float32 are at most 1.1 times those of eager bfloat16."""

    def plain(*values: torch.Tensor) -> torch.Tensor:
        return network(*values, cos_sin)

    exact = gradients(plain, [value.float() for value in inputs], upstream, network)
    eager = gradients(plain, inputs, upstream, network)
    with number_of_threads(threads):
        assert fits(network, BFLOAT16)
        fused = FusedNetwork(network)
        found, again = (
            gradients(lambda *values: fused(*values, cos_sin), inputs, upstream, network) for _ in range(2)
        )
        with torch.no_grad():
            without_gradient = fused(*inputs, cos_sin).float()
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    assert torch.equal(found[0], without_gradient)
    of_eager, of_fused = errors(eager, exact), errors(found, exact)
    assert (of_fused > 0).all()
    assert (of_fused < 1.1 * of_eager).all(), (of_fused / of_eager).tolist()
