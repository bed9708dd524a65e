"""Kernels of eager CPU code equal the plain operations bit for bit, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.published_step import cases, logits_of
from models import kernels, ops
from models.kernels import Gated
from models.layers import RotaryEmbedding
from models.ops import gated_linear, linear, rms_norm, rotate, rotated_heads

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
TRANSPOSED = pytest.mark.parametrize("transposed", [False, True])
B, L, D, K = 3, 7, 20, 64  # SwiGLU widths are multiples of 256


def drawn(*shape: int, dtype: torch.dtype = torch.float32, transposed: bool = False) -> Tensor:
    """Draw normal numbers; with `transposed` the last two axes are swapped in memory."""
    if transposed:
        shape = (*shape[:-2], shape[-1], shape[-2])
    x = torch.randn(shape).to(dtype)
    return (x.mT if transposed else x).requires_grad_()


def assert_same(one, other, *inputs: Tensor) -> None:
    """Assert that both functions give equal results, with and without gradient, and equal gradients of all inputs."""
    with torch.no_grad():
        assert torch.equal(one(*inputs), other(*inputs))
    results = []
    for function in (one, other):
        out = function(*inputs)
        assert out.requires_grad
        grads = torch.autograd.grad(
            out, inputs, torch.arange(out.numel()).view(out.shape).sin().to(out.dtype)
        )
        results.append((out, *grads))
    for found, expected in zip(*results, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found, expected)


def plain_norm(x: Tensor) -> Tensor:
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


def plain_gate(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@DTYPES
@TRANSPOSED
def test_rms_norm_is_the_plain_form(dtype, transposed):
    torch.manual_seed(0)
    assert_same(lambda x: rms_norm(x, 1e-5), plain_norm, drawn(B, L, D, dtype=dtype, transposed=transposed))


@DTYPES
def test_the_gate_is_the_plain_form(dtype):
    torch.manual_seed(0)
    assert_same(Gated.apply, plain_gate, drawn(B, L, 2 * K, dtype=dtype))


@DTYPES
@TRANSPOSED
def test_a_gated_product_is_the_plain_form(dtype, transposed):
    torch.manual_seed(0)
    x, weight = drawn(B, L, D, dtype=dtype, transposed=transposed), drawn(2 * K, D)
    assert_same(gated_linear, lambda x, w: plain_gate(F.linear(x, w.to(x.dtype))), x, weight)


@TRANSPOSED
def test_a_gated_product_of_a_cast_weight_is_the_plain_form(transposed):
    torch.manual_seed(0)
    x, weight = drawn(B, L, D, dtype=torch.bfloat16, transposed=transposed), drawn(2 * K, D)
    cast = weight.detach().bfloat16()
    assert_same(
        lambda x, w: gated_linear(x, w, cast), lambda x, w: plain_gate(F.linear(x, w.bfloat16())), x, weight
    )


@DTYPES
@TRANSPOSED
def test_a_product_is_the_plain_form(dtype, transposed):
    torch.manual_seed(0)
    x, weight = drawn(B, L, D, dtype=dtype, transposed=transposed), drawn(K, D)
    assert_same(linear, lambda x, w: F.linear(x, w.to(x.dtype)), x, weight)


@pytest.fixture
def code_for_amx(monkeypatch):
    """Use the code for CPUs with AMX, which is right with AVX-512 too."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs a CPU with AVX-512")
    monkeypatch.setattr(ops, "processor_of_products", lambda: "AMX")


@pytest.mark.parametrize("amx", [False, True], ids=["this processor", "the code for AMX"])
@pytest.mark.parametrize("length", [4, 36, 40, 52, 64, 97, 112, 480, 487])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_product_of_a_transposed_batch_rounds_as_the_plain_form(rows, length, amx, request):
    # With AMX and without AVX-512, sums have another order for other shapes, and with than without gradient.
    if amx:
        request.getfixturevalue("code_for_amx")
    torch.manual_seed(0)
    x, weight = drawn(rows, D, length, dtype=torch.bfloat16, transposed=True), drawn(2 * K, length)
    cast = weight.detach().bfloat16()

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight.bfloat16())

    assert_same(lambda x, weight: linear(x, weight, cast=cast), plain, x, weight)
    assert_same(
        lambda x, weight: gated_linear(x, weight, cast),
        lambda x, weight: plain_gate(plain(x, weight)),
        x,
        weight,
    )


@DTYPES
@pytest.mark.parametrize("of_three", [False, True], ids=["all heads", "two thirds of the heads"])
@pytest.mark.parametrize("piece", [1, 700, 1 << 18], ids=["single rows", "a few rows", "all rows"])
def test_rotated_heads_are_the_plain_form(dtype, of_three, piece, monkeypatch):
    monkeypatch.setattr(kernels, "_PIECE", piece)
    torch.manual_seed(0)
    cos_sin = RotaryEmbedding(8, L, 10_000.0)()
    heads = drawn(B, L, 6, 8, dtype=dtype)

    def some(heads: Tensor) -> Tensor:
        return heads[:, :, :4] if of_three else heads

    assert_same(
        lambda x: rotated_heads(some(x), cos_sin),
        lambda x: rotate(some(x).transpose(1, 2), *cos_sin),
        heads,
    )


@pytest.mark.parametrize("arch", ["arch.mlp_t=True", "arch.mlp_t=False"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "bfloat16 with AMX"])
def test_the_published_step_gives_equal_logits_and_latents(arch, dtype, request):
    dtype, *amx = dtype.split(" with ")
    if amx:
        request.getfixturevalue("code_for_amx")
    small = ("arch.hidden_size=32", "arch.num_heads=2", "arch.H_cycles=2", "arch.L_cycles=2")
    positions = "arch.pos_encodings=" + ("none" if "True" in arch else "rope")
    ours, published = cases(
        ("arch=trm", arch, positions, *small, "global_batch_size=4", "lr_warmup_steps=0", "seq_len=36"), dtype
    )
    assert torch.equal(logits_of(ours), published.evaluate())
    ours.train_step()
    published.train_step()
    for one, other in zip(ours.state.carries[0].state, published.latents, strict=True):
        assert torch.equal(one, other)
    changed = zip(ours.model.parameters(), published.model.parameters(), strict=True)
    # Losses differ by float64, and AdamATan2 takes a whole step from the smallest gradient: nearly all agree.
    assert all(torch.isclose(one, other, rtol=0, atol=1e-6).float().mean() > 0.9 for one, other in changed)


@pytest.mark.parametrize("arch", ["arch.mlp_t=True", "arch.mlp_t=False"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("prefix", [0, 16])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_published_step_gives_equal_gradients(arch, rows, prefix, dtype):
    size = ("arch.hidden_size=64", "arch.num_heads=2", "arch.H_cycles=2", "arch.L_cycles=2", "seq_len=36")
    positions = "arch.pos_encodings=" + ("none" if "True" in arch else "rope")
    embedding = (f"arch.puzzle_emb_len={prefix}", f"arch.puzzle_emb_ndim={prefix * 64}")
    ours, published = cases(
        ("arch=trm", arch, positions, *size, *embedding, f"global_batch_size={rows}"), dtype
    )
    batch = ours.batch
    act = ours.model.train().act
    _, outputs = act(act.initial_carry(batch), batch)
    published.model.train()
    started = torch.ones(rows, dtype=torch.bool)
    _, logits, _ = published.step(started, published.empty_state(batch), batch)
    assert torch.equal(outputs["logits"], logits)
    grad = torch.randn(logits.shape).to(logits.dtype)
    for each in (outputs["logits"], logits):
        each.backward(grad)
    expected = {name: p.grad for name, p in published.model.named_parameters()}
    found = {name: p.grad for name, p in ours.model.named_parameters()}
    assert sum(grad is not None for grad in found.values()) >= 6
    for name, grad in found.items():
        assert grad is expected[name] is None or torch.equal(grad, expected[name]), name
