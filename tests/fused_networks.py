"""Outputs and gradients of a network from different code, for tests of `models.backends.fused_cpu`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks.step import Case
from models.backends import FusedCPU, choose_backend
from models.backends.fused_cpu.bindings import Variant, variant
from models.backends.fused_cpu.network import FusedNetwork, fits
from models.blocks import Network
from utils.device import missing_toolchain

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
NARROW = Variant("vectors_256.hpp", "float32.hpp", '#pragma GCC target("no-avx512f")')


def needs(dtype: torch.dtype, reason: str) -> pytest.MarkDecorator:
    lacks = variant(dtype) is None or missing_toolchain() is not None
    return pytest.mark.skipif(lacks, reason=f"needs {reason}, and a C++ compiler")


needs_processor = needs(BFLOAT16, "a CPU with avx512_bf16")
needs_avx2 = needs(FLOAT32, "a CPU with AVX2")
# The library in every dtype and with every width of vectors; `use` selects one.
each_library = pytest.mark.parametrize(
    "library",
    [
        pytest.param("bfloat16", marks=needs_processor),
        pytest.param("float32", marks=needs_avx2),
        pytest.param("float32 in AVX2", marks=needs_avx2),
    ],
)


def use(library: str, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Make networks use a library of `each_library`; return its dtype."""
    if library == "float32 in AVX2":
        monkeypatch.setattr("models.backends.fused_cpu.network.variant", lambda dtype: NARROW)
    return getattr(torch, library.split()[0])


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


ROUNDING = 1e-5  # largest relative difference of float32 results that are equal up to rounding


def assert_as_exact_as_eager(network, inputs, upstream, threads, cos_sin=None) -> None:
    """Check outputs and gradients of a network for inputs in bfloat16 or float32.

    In bfloat16 their errors against float32 are at most 1.1 times those of eager code; in float32 they equal those of
    eager code up to rounding.
    """
    dtype = inputs[0].dtype

    def plain(*values: torch.Tensor) -> torch.Tensor:
        return network(*values, cos_sin)

    exact = gradients(plain, [value.float() for value in inputs], upstream, network)
    with number_of_threads(threads):
        assert fits(network, dtype)
        fused = FusedNetwork(network, dtype)
        found, again = (
            gradients(lambda *values: fused(*values, cos_sin), inputs, upstream, network) for _ in range(2)
        )
        with torch.no_grad():
            without_gradient = fused(*inputs, cos_sin).float()
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    assert torch.equal(found[0], without_gradient)
    of_fused = errors(found, exact)
    assert (of_fused > 0).all()
    if dtype == FLOAT32:
        assert (of_fused < ROUNDING).all(), of_fused.tolist()
    else:
        of_eager = errors(gradients(plain, inputs, upstream, network), exact)
        assert (of_fused < 1.1 * of_eager).all(), (of_fused / of_eager).tolist()


def assert_trains_as_eager(
    make: Callable[[str], Case], library: str, monkeypatch: pytest.MonkeyPatch, *, steps: int = 1
) -> None:
    """Compare all gradients of supervision steps with those of eager code, with checkpointing too.

    `make` builds the case in a dtype. In bfloat16 the mean error against float32 may be half as large again as eager
    code's, and that of one tensor twice as large: over draws of the weights they are 0.7 to 1.3 times and up to 1.7
    times as large.
    """
    dtype = str(use(library, monkeypatch)).removeprefix("torch.")
    exact, eager, fused, checkpointed = (make(name) for name in ("float32", dtype, dtype, dtype))
    for case in (fused, checkpointed):
        inner = case.model.architecture
        inner.backend = choose_backend(inner)
        assert isinstance(inner.backend, FusedCPU)
    checkpointed.model.architecture.activation_checkpointing = True
    expected, of_eager, of_fused, of_checkpointed = (
        _gradients_of_training(case, steps) for case in (exact, eager, fused, checkpointed)
    )
    assert all(torch.equal(one, other) for one, other in zip(of_fused, of_checkpointed, strict=True))
    ours, theirs = errors(of_fused, expected), errors(of_eager, expected)
    if dtype == "bfloat16":
        assert ours.mean() < 1.5 * theirs.mean() + 1e-3
        assert (ours < 2 * theirs + 1e-3).all()
    else:
        assert (ours < 10 * ROUNDING).all()


def _gradients_of_training(case: Case, steps: int) -> list[torch.Tensor]:
    model = case.model.train()
    carry = model.act.initial_carry(case.batch)
    for _ in range(steps):
        carry, loss, *_ = model(carry, case.batch)
        loss.backward()
    return [parameter.grad for parameter in model.parameters()]
