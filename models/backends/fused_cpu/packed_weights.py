"""A network's weights packed for the C++ library, and their gradients returned to the parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.backends.fused_cpu.kernel_interface import Kernels
from models.backends.fused_cpu.maps import WeightMap


class Weights:
    """Weights packed in `dtype` for one supervision step, and float32 sums of their gradients.

    `layers`: the parameters of each layer, by their names in the C++ sources.
    """

    def __init__(
        self,
        compiled: ctypes.CDLL,
        kernels: Kernels,
        layers: Sequence[Mapping[str, WeightMap]],
        dtype: torch.dtype,
        with_gradient: bool,
    ):
        self.compiled, self.kernels, self.maps, self.dtype = compiled, kernels, layers, dtype
        self.kept_alive: list[Tensor] = []  # for the pointers to them
        structures = [kernels.layer_type(**self.pointers(maps, with_gradient)) for maps in layers]
        self.layers = (kernels.layer_type * len(structures))(*structures)
        # Gradient sums for each part of the rows, by layer and name, and structures that point to all of them.
        self.sums: list[list[dict[str, Tensor]]] = []
        self.structures: ctypes.Array | None = None
        parameters = [each.parameter for maps in layers for each in maps.values()]
        self.token = GradientsOfWeights.apply(self, *parameters)

    def pointers(
        self, maps: Mapping[str, WeightMap], with_gradient: bool
    ) -> dict[str, ctypes.Structure | int]:
        """Pack one layer's weights; returns the fields of its structure."""
        found: dict[str, ctypes.Structure | int] = {}
        for name, each in maps.items():
            weight = each.parameter.detach().contiguous()
            sides = each.sides(self.compiled, weight, self.dtype, with_gradient)
            for key, side in zip((name, f"{name}_t"), sides, strict=True):
                if side is not None:
                    self.kept_alive.append(side)
                    found[key] = each.pointer(side.data_ptr(), backward=key != name)
        return found

    def add_to(self, parts: int) -> ctypes.Array:
        """Return the gradient structures of each part and layer, in this order, for at least `parts` parts.

        Parts share no sums, so that results are reproducible bit for bit.
        """
        if self.structures is None or len(self.sums) < parts:
            while len(self.sums) < parts:
                self.sums.append(
                    [{name: torch.zeros(each.sum_shape) for name, each in maps.items()} for maps in self.maps]
                )
            of_layer = self.kernels.gradients_type
            pointers = [
                of_layer(**{name: total.data_ptr() for name, total in layer.items()})
                for part in self.sums
                for layer in part
            ]
            self.structures = (of_layer * len(pointers))(*pointers)
        return self.structures

    def gradients(self) -> list[Tensor]:
        """Return the gradients of all weights, by layer and name, and reset the sums."""
        sums, self.sums, self.structures = self.sums, [], None
        found = []
        for i, maps in enumerate(self.maps):
            for name, each in maps.items():
                total = sums[0][i][name]
                for other in sums[1:]:
                    total += other[i][name]
                found.append(each.gradient(self.compiled, total))
        return found


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
