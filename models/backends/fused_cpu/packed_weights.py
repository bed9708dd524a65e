"""Weights of a network as the C++ library reads them."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from models.backends.fused_cpu.bindings import Packing
from models.backends.fused_cpu.kernel_interface import Kernels
from models.backends.fused_cpu.maps import RightMap
from models.backends.fused_cpu.weight_gradients import GradientsOfWeights, Maps, WeightGradients, all_maps


class Weights:
    """Weights packed in `dtype` for one supervision step, and their gradients.

    The token refers to the gradients but not to this object, so that the packed weights are freed with the step's
    graph instead of by a later garbage collection.
    """

    def __init__(
        self, compiled: ctypes.CDLL, kernels: Kernels, layers: Maps, dtype: torch.dtype, with_gradient: bool
    ):
        self.compiled, self.maps, self.dtype = compiled, layers, dtype
        self.kept_alive: list[Tensor] = []  # for the pointers to them
        self.layers = (kernels.layer_type * len(layers))()
        self._pack_right_sides(with_gradient)
        self._store_other_sides(with_gradient)
        self.gradients = WeightGradients(compiled, kernels, layers)
        self.token = GradientsOfWeights.apply(
            self.gradients, *(each.parameter for _, _, each in all_maps(layers))
        )

    def _pack_right_sides(self, with_gradient: bool) -> None:
        """Pack all right sides into one buffer, in one call. Raises RuntimeError if that fails."""
        right = [(i, name, each) for i, name, each in all_maps(self.maps) if isinstance(each, RightMap)]
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
        for i, name, each in all_maps(self.maps):
            if isinstance(each, RightMap):
                continue
            sides = each.sides(each.parameter.detach(), self.dtype, with_gradient)
            for key, side in zip((name, f"{name}_t"), sides, strict=True):
                if side is not None:
                    self.kept_alive.append(side)
                    setattr(self.layers[i], key, each.pointer(side.data_ptr(), backward=key != name))
