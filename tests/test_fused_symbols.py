"""The C++ application of a network over symbols and positions (`se_rrm`), compared with PyTorch."""

from __future__ import annotations

import pytest
import torch
from fused_networks import (
    assert_as_exact_as_eager,
    assert_trains_as_eager,
    each_library,
    errors,
    gradients,
    needs_processor,
    number_of_threads,
    use,
)

from benchmarks.step import Case, config_of
from models.backends import FusedCPU, choose_backend
from models.backends.fused_cpu.network import FusedNetwork
from utils.distributed import World


def case(*overrides: str, seq_len: int = 16, rows: int = 3, dtype: str = "bfloat16") -> Case:
    small = "arch.hidden_size=32", "arch.num_heads=2", "arch.H_cycles=2", "arch.L_cycles=2"
    own = f"arch.forward_dtype={dtype}", f"global_batch_size={rows}", "ema=True"
    return Case(
        config_of("arch=se_rrm", *small, *overrides, *own), seq_len, World(device=torch.device("cpu"))
    )


def inputs_of(case: Case, rows: int, dtype: torch.dtype) -> torch.Tensor:
    inner = case.model.architecture
    shape = 3, rows, inner.length, inner.config.hidden_size
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@each_library
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("overrides", "seq_len", "rows"),
    [
        ((), 16, 5),  # 12 symbols; four rows at once in the gradient, then one
        (("arch.ffn=rms_swiglu", "arch.hidden_size=64"), 36, 3),  # 8 symbols
        (("arch.hidden_size=64", "arch.L_layers=1"), 81, 2),  # 11 symbols, an odd number
        (("arch.hidden_size=128", "arch.num_heads=1"), 81, 1),  # as many heads over symbols as over positions
        (("arch.num_registers=1",), 225, 1),  # more positions than pass through the network at once
    ],
    ids=str,
)
def test_outputs_and_gradients_are_as_exact_as_eager_ones(
    library, overrides, seq_len, rows, threads, monkeypatch
):
    dtype = use(library, monkeypatch)
    one = case(*overrides, seq_len=seq_len, rows=rows)
    h, injection, upstream = inputs_of(one, rows, dtype)
    inner = one.model.architecture

    assert_as_exact_as_eager(inner.L_level, [h, injection], upstream, threads, inner.cos_sin())


@each_library
def test_rows_do_not_depend_on_threads_and_other_rows(library, monkeypatch):
    dtype = use(library, monkeypatch)
    inner = case().model.architecture
    fused = FusedNetwork(inner.L_level, dtype)
    h, injection, upstream = inputs_of(case(), 5, dtype)

    def plain(*inputs: torch.Tensor) -> torch.Tensor:
        return fused(*inputs, inner.cos_sin())

    results = []
    for threads in (1, 2, 4):
        with number_of_threads(threads):
            results.append(gradients(plain, [h, injection], upstream, inner.L_level))
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0][:3], other[:3], strict=True))
        # Sums over rows are accumulated in a different order.
        assert (errors(results[0][3:], other[3:]) < 1e-5).all()
    with torch.no_grad():
        alone = torch.cat([plain(h[i : i + 1], injection[i : i + 1]) for i in range(5)])
    assert torch.equal(alone.float(), results[0][0])


@each_library
def test_values_that_are_not_finite_stay_in_their_row(library, monkeypatch):
    dtype = use(library, monkeypatch)
    inner = case().model.architecture
    fused = FusedNetwork(inner.L_level, dtype)
    h = inputs_of(case(), 3, dtype)[0]
    h[1, 5, 3] = torch.nan
    with torch.no_grad():
        finite = fused(h, None, inner.cos_sin()).isfinite().flatten(1).all(1)
    assert finite.tolist() == [True, False, True]


@each_library
def test_zero_rows_are_supported(library, monkeypatch):
    dtype = use(library, monkeypatch)
    inner = case().model.architecture
    h = inputs_of(case(), 3, dtype)[0][:0].requires_grad_()
    out = FusedNetwork(inner.L_level, dtype)(h, None, inner.cos_sin())
    assert out.shape == h.shape
    assert torch.autograd.grad(out.sum(), h)[0].shape == h.shape


@each_library
@pytest.mark.parametrize("overrides", [(), ("arch.ffn=rms_swiglu",)], ids=str)
def test_training_equals_eager_training(library, overrides, monkeypatch):
    assert_trains_as_eager(lambda dtype: case(*overrides, dtype=dtype), library, monkeypatch)


@needs_processor
@pytest.mark.parametrize(
    ("overrides", "dtype"),
    [
        ((), "float16"),
        (("arch.hidden_size=40", "arch.num_heads=1"), "bfloat16"),  # not a multiple of the vector width
        (("arch.hidden_size=256", "arch.num_heads=1"), "bfloat16"),  # a head wider than a block
        (("arch.L_layers=0",), "bfloat16"),
    ],
    ids=str,
)
def test_unsupported_settings_are_left_to_torch(overrides, dtype):
    inner = case(*overrides, dtype=dtype).model.architecture
    assert not FusedCPU.fits(inner)
    assert not isinstance(choose_backend(inner), FusedCPU)
