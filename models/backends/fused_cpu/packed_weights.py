"""A network's weights packed for the C++ library, and their gradients returned to the parameters."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.backends.fused_cpu.bindings import Packing, Unpacking
from models.backends.fused_cpu.kept_memory import ALIGNMENT
from models.backends.fused_cpu.kernel_interface import FLOAT, Kernels
from models.backends.fused_cpu.maps import RightMap, WeightMap

Maps = Sequence[Mapping[str, WeightMap]]  # the parameters of each layer, by their names in the C++ sources


class Weights:
    """Weights packed in `dtype` for one supervision step, and float32 sums of their gradients."""

    def __init__(
        self, compiled: ctypes.CDLL, kernels: Kernels, layers: Maps, dtype: torch.dtype, with_gradient: bool
    ):
        self.compiled, self.kernels, self.maps, self.dtype = compiled, kernels, layers, dtype
        self.kept_alive: list[Tensor] = []  # for the pointers to them
        self.layers = (kernels.layer_type * len(layers))()
        self._pack_right_sides(with_gradient)
        self._store_other_sides(with_gradient)
        # Gradient sums for each part of the rows: of all layers, one map after another.
        self.sums: list[Tensor] = []
        self.structures: ctypes.Array | None = None  # point to all of them
        self.token = GradientsOfWeights.apply(self, *(each.parameter for _, _, each in self._all_maps()))

    def _all_maps(self) -> Iterator[tuple[int, str, WeightMap]]:
        for i, maps in enumerate(self.maps):
            for name, each in maps.items():
                yield i, name, each

    def _pack_right_sides(self, with_gradient: bool) -> None:
        """Pack all right sides into one buffer, in one call. Raises RuntimeError if that fails."""
        right = [(i, name, each) for i, name, each in self._all_maps() if isinstance(each, RightMap)]
        weights = [each.parameter.detach().contiguous() for _, _, each in right]
        sizes = [weight.numel() for weight in weights]
        packed = torch.empty(sum(sizes) * (2 if with_gradient else 1), dtype=self.dtype)
        self.kept_alive.append(packed)
        address, value = packed.data_ptr(), packed.element_size()
        jobs = []
        for (i, name, each), weight, size in zip(right, weights, sizes, strict=True):
            side, address = address, address + size * value
            setattr(self.layers[i], name, each.pointer(side, backward=False))
            other = None
            if with_gradient:
                other, address = address, address + size * value
                setattr(self.layers[i], f"{name}_t", each.pointer(other, backward=True))
            jobs.append(each.packing(weight.data_ptr(), side, other))
        message = self.compiled.pack_weights((Packing * len(jobs))(*jobs), len(jobs))
        if message:
            raise RuntimeError(f"weights could not be stored for the CPU: {message.decode()}")

    def _store_other_sides(self, with_gradient: bool) -> None:
        for i, name, each in self._all_maps():
            if isinstance(each, RightMap):
                continue
            sides = each.sides(each.parameter.detach(), self.dtype, with_gradient)
            for key, side in zip((name, f"{name}_t"), sides, strict=True):
                if side is not None:
                    self.kept_alive.append(side)
                    setattr(self.layers[i], key, each.pointer(side.data_ptr(), backward=key != name))

    def add_to(self, parts: int) -> ctypes.Array:
        """Return the gradient structures of each part and layer, in this order, for at least `parts` parts.

        Parts share no sums, so that results are reproducible bit for bit.
        """
        if self.structures is None or len(self.sums) < parts:
            sizes = [size_of_sum(each) for _, _, each in self._all_maps()]
            while len(self.sums) < parts:
                self.sums.append(torch.zeros(sum(sizes)))
            self.structures = (self.kernels.gradients_type * (len(self.maps) * len(self.sums)))()
            for part, sums in enumerate(self.sums):
                address = sums.data_ptr()
                for (i, name, _), size in zip(self._all_maps(), sizes, strict=True):
                    setattr(self.structures[part * len(self.maps) + i], name, address)
                    address += size * FLOAT
        return self.structures

    def gradients(self) -> list[Tensor]:
        """Return the gradients of all weights, by layer and name, and reset the sums."""
        (total, *others), self.sums, self.structures = self.sums, [], None
        for other in others:
            total += other
        found, jobs, at = [], [], 0
        for _, _, each in self._all_maps():
            if isinstance(each, RightMap):
                found.append(torch.empty_like(each.parameter, memory_format=torch.contiguous_format))
                jobs.append(each.unpacking(total.data_ptr() + at * FLOAT, found[-1].data_ptr()))
            else:
                found.append(each.gradient(total[at:][: math.prod(each.sum_shape)].view(each.sum_shape)))
            at += size_of_sum(each)
        self.compiled.unpack_gradients((Unpacking * len(jobs))(*jobs), len(jobs))
        return found


def size_of_sum(each: WeightMap) -> int:
    """Return the number of values that a parameter's gradient sum has room for: whole cache lines."""
    line = ALIGNMENT // FLOAT
    return -(-math.prod(each.sum_shape) // line) * line


class GradientsOfWeights(torch.autograd.Function):
    """A scalar token that represents all weights in autograd's graph.

    Applications take the token as input and add their weight gradients to `Weights.sums`. Autograd runs this backward
    after all of them, which passes the sums to the parameters: one tensor per parameter instead of one per application.
    """

    @staticmethod
    def forward(ctx: Any, weights: Weights, *parameters: Tensor) -> Tensor:
        ctx.weights = weights
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.weights.gradients()
