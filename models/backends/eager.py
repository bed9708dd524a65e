"""Eager backend: PyTorch's operations one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.backends.base import Backend, CosSin, Inner, networks_of
from models.blocks import Network
from models.layers import Linear

Casts = dict[Linear, Tensor]


class Eager(Backend):
    """Runs the networks eagerly, bit-equal to the published code; weights are cast once per step."""

    def apply(self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin) -> Tensor:
        return network(h, injection, cos_sin)

    def prepared_weights(self, inner: Inner) -> Casts:
        return cast_weights(networks_of(inner), inner.dtype)

    @contextmanager
    def using(self, weights: Casts | None) -> Iterator[None]:
        with super().using(weights), weights_cast(weights or {}):
            yield


def cast_weights(modules: Iterable[nn.Module], dtype: torch.dtype) -> Casts:
    """Copy the weight of every `Linear` within `modules` to `dtype`, unless it has that dtype already."""
    linears = [m for module in modules for m in module.modules() if isinstance(m, Linear)]
    for linear in linears:
        assert linear.bias is None, "only Linear without bias supports a cast weight"
    return {linear: linear.weight.detach().to(dtype) for linear in linears if linear.weight.dtype != dtype}


@contextmanager
def weights_cast(casts: Casts) -> Iterator[None]:
    """Context manager in which each `Linear` uses its cast weight instead of casting at every use."""
    for linear, cast in casts.items():
        linear.cast = cast
    try:
        yield
    finally:
        for linear in casts:
            linear.cast = None
