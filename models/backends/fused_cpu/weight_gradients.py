"""Gradients of a network's weights, which the C++ library sums in its own layout."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.backends.fused_cpu.bindings import Unpacking
from models.backends.fused_cpu.kept_memory import ALIGNMENT
from models.backends.fused_cpu.kernel_interface import FLOAT, Kernels
from models.backends.fused_cpu.maps import RightMap, WeightMap

Maps = Sequence[Mapping[str, WeightMap]]  # the parameters of each layer, by their names in the C++ sources


class WeightGradients:
    """Float32 sums of the gradients of all weights during one supervision step."""

    def __init__(self, compiled: ctypes.CDLL, kernels: Kernels, layers: Maps):
        self.compiled, self.kernels, self.maps = compiled, kernels, layers
        # For each part of the rows: of all layers, one map after another.
        self.sums: list[Tensor] = []
        self.structures: ctypes.Array | None = None  # point to all of them

    def add_to(self, parts: int) -> ctypes.Array:
        """Return the gradient structures of each part and layer, in this order, for at least `parts` parts.

        Parts share no sums, so that results are reproducible bit for bit.
        """
        if self.structures is None or len(self.sums) < parts:
            sizes = [size_of_sum(each) for _, _, each in all_maps(self.maps)]
            while len(self.sums) < parts:
                self.sums.append(torch.zeros(sum(sizes)))
            self.structures = (self.kernels.gradients_type * (len(self.maps) * len(self.sums)))()
            for part, sums in enumerate(self.sums):
                address = sums.data_ptr()
                for (i, name, _), size in zip(all_maps(self.maps), sizes, strict=True):
                    setattr(self.structures[part * len(self.maps) + i], name, address)
                    address += size * FLOAT
        return self.structures

    def take(self) -> list[Tensor]:
        """Return the gradients of all weights, by layer and name, and reset the sums."""
        (total, *others), self.sums, self.structures = self.sums, [], None
        for other in others:
            total += other
        found, jobs, at = [], [], 0
        for _, _, each in all_maps(self.maps):
            if isinstance(each, RightMap):
                found.append(torch.empty_like(each.parameter, memory_format=torch.contiguous_format))
                jobs.append(each.unpacking(total.data_ptr() + at * FLOAT, found[-1].data_ptr()))
            else:
                found.append(each.gradient(total[at:][: math.prod(each.sum_shape)].view(each.sum_shape)))
            at += size_of_sum(each)
        self.compiled.unpack_gradients((Unpacking * len(jobs))(*jobs), len(jobs))
        return found


def all_maps(layers: Maps) -> Iterator[tuple[int, str, WeightMap]]:
    for i, maps in enumerate(layers):
        for name, each in maps.items():
            yield i, name, each


def size_of_sum(each: WeightMap) -> int:
    """Return the number of values that a parameter's gradient sum has room for: whole cache lines."""
    line = ALIGNMENT // FLOAT
    return -(-math.prod(each.sum_shape) // line) * line


class GradientsOfWeights(torch.autograd.Function):
    """A scalar token that represents all weights in autograd's graph.

    Applications take the token as input and add their weight gradients to `WeightGradients`. Autograd runs this
    backward after all of them, which passes the sums to the parameters: one tensor per parameter instead of one per
    application.
    """

    @staticmethod
    def forward(ctx: Any, gradients: WeightGradients, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients.take()
