"""The gradient of eager attention in bfloat16 is torch's, bit for bit, whichever code computes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import attention_gradient
from models.attention_gradient import FusedAttention, rounds_as_torch
from models.ops import attend

# (B, N, L, H); the lengths of 9x9 grids with and without 16 prefix tokens, 6x6 and 4x4 grids, and around 32 queries
USED = [(8, 8, 97, 64), (3, 4, 81, 64), (16, 4, 52, 32), (5, 4, 36, 32), (2, 2, 32, 64), (4, 4, 65, 64)]
# torch multiplies one to three queries in other ways, as a comparison shows, and small matrices
COMPARED = [(2, 4, 34, 64), (2, 4, 67, 32), (2, 4, 97, 128), (4, 4, 65, 128)]
OTHERS = [(3, 5, 33, 32), (3, 3, 97, 32), (6, 4, 9, 32), (2, 2, 40, 48), (1, 2, 200, 32)]


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> list[Tensor]:
    """Draw the gradient of the output, q, k and v, each (B, N, L, H) and in memory (B, L, N, H)."""
    batch, heads, length, width = shape
    generator = torch.Generator().manual_seed(seed)
    new = [torch.randn(batch, length, heads, width, generator=generator) for _ in range(4)]
    return [x.to(dtype).transpose(1, 2) for x in new]


def gradients(attention, grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return out, *torch.autograd.grad(out, leaves, grad)


@pytest.mark.parametrize("shape", [*USED, *COMPARED, *OTHERS], ids=str)
def test_the_gradient_is_torchs_bit_for_bit(shape):
    for seed in range(3):
        inputs = drawn(shape, seed=seed)
        expected = gradients(F.scaled_dot_product_attention, *inputs)
        for one, other in zip(gradients(attend, *inputs), expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("scores", [1, 1 << 18], ids=["a row at a time", "many rows at a time"])
@pytest.mark.parametrize("shape", USED, ids=str)
def test_the_gradient_is_that_of_attention(shape, scores, monkeypatch):
    # Whether or not it rounds as torch does on this CPU
    monkeypatch.setattr(attention_gradient, "_SCORES", scores)
    inputs = drawn(shape)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v

    expected = gradients(plain, *(x.double() for x in inputs))
    for one, other in zip(gradients(FusedAttention.apply, *inputs), expected, strict=True):
        assert (one.double() - other).norm() < 0.01 * other.norm()


def test_a_gradient_that_rounds_differently_is_not_used(monkeypatch):
    _, *inputs = drawn(USED[0])
    leaves = [x.requires_grad_() for x in inputs]
    for equal in (False, True):
        monkeypatch.setattr(attention_gradient, "rounds_as_torch", lambda *_, equal=equal: equal)
        used = attend(*leaves).grad_fn.name().startswith("FusedAttention")
        assert used == equal


@pytest.mark.parametrize("shape", OTHERS, ids=str)
def test_other_shapes_are_not_even_compared(shape, monkeypatch):
    monkeypatch.setattr(attention_gradient, "rounds_as_torch", lambda *_: pytest.fail("compared"))
    assert not FusedAttention.fits(drawn(shape)[1])
    assert not FusedAttention.fits(drawn(USED[0], torch.float32)[1])


@pytest.mark.parametrize("shape", USED, ids=str)
def test_equal_results_are_found_equal(shape, monkeypatch):
    # On every CPU: no input of the comparison overflows, and NaN is not equal to NaN
    monkeypatch.setattr(F, "scaled_dot_product_attention", FusedAttention.apply)
    assert rounds_as_torch.__wrapped__(*shape, torch.get_num_threads())


def sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() * b.float()).sum(-1, keepdim=True)


def scores(q: Tensor, k: Tensor, scale: float = 1.0) -> Tensor:
    return scale * torch.bmm(q.float(), F.pad(k.float(), (0, 0, 0, 1)).mT)


def product(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    return scale * torch.bmm(a.flip(-1), b.flip(-2))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("_sum_of_products", sum_of_products),
        ("_scores", scores),
        ("_product", product),
        ("QUERIES", 16),
    ],
)
def test_another_order_of_sums_is_noticed(name, other, monkeypatch):
    # `scores` sums another way for the last of 97 queries
    monkeypatch.setattr(attention_gradient, name, other)
    assert not rounds_as_torch.__wrapped__(2, 8, 97, 64, torch.get_num_threads())


def test_exponentials_are_those_of_vectorised_kernels():
    x = -10 * torch.rand(5, 7, 98, generator=torch.Generator().manual_seed(0))
    _, expected = torch.ops.aten.log_sigmoid_forward(x)  # which keeps exp(-|x|)
    assert torch.equal(attention_gradient._exp(x)[..., :-1], expected[..., :-1])
