"""Casting weights once for all applications of a network is equivalent to casting them at every use."""

from __future__ import annotations

import pytest
import torch

from models.backends.eager import cast_weights, weights_cast
from models.layers import Linear


def applied(linear: Linear, x: torch.Tensor, times: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of x and of the weight after applying the map `times` times."""
    x = x.clone().requires_grad_()
    h = x
    for _ in range(times):
        h = linear(h)
    h.float().square().sum().backward()
    grad, linear.weight.grad = linear.weight.grad, None
    return x.grad, grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_equal_those_of_casting_at_every_use(dtype):
    torch.manual_seed(0)
    linear, x = Linear(8, 8), torch.randn(3, 5, 8).to(dtype)
    expected = applied(linear, x, times=7)
    with weights_cast(cast_weights([linear], dtype)):
        found = applied(linear, x, times=7)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_the_weight_gets_a_float32_gradient():
    linear, x = Linear(8, 4), torch.randn(2, 8).bfloat16()
    with weights_cast(cast_weights([linear], torch.bfloat16)):
        linear(x).sum().backward()
    assert linear.weight.grad.dtype == torch.float32


def test_a_changed_weight_takes_effect_after_the_block():
    linear, x = Linear(8, 4), torch.ones(2, 8).bfloat16()
    with weights_cast(cast_weights([linear], torch.bfloat16)):
        linear(x)
    with torch.no_grad():
        linear.weight.zero_()
    assert not linear(x).any()


def test_an_exception_leaves_no_cast_weight():
    linear = Linear(8, 4)
    with pytest.raises(KeyError), weights_cast(cast_weights([linear], torch.bfloat16)):
        raise KeyError
    assert linear.cast is None
