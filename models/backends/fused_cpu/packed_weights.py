"""A network's weights packed for the C++ library, and their gradients returned to the parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.backends.fused_cpu.kernel_interface import Kernels
from models.backends.fused_cpu.maps import LeftMap, RightMap
from models.blocks import Network


class Weights:
    """Weights packed in `dtype` for one supervision step, and float32 sums of their gradients."""

    def __init__(self, network: Network, kernels: Kernels, dtype: torch.dtype, with_gradient: bool):
        self.kernels, self.dtype = kernels, dtype
        self.maps = [kernels.maps(block) for block in network.layers]
        self.sides: list[Tensor] = []  # kept alive for the pointers to them
        layers = [kernels.layer_type(**self.pointers(maps, with_gradient)) for maps in self.maps]
        self.layers = (kernels.layer_type * len(layers))(*layers)
        # Gradient sums for each part of the rows, by layer and name.
        self.sums: list[list[dict[str, Tensor]]] = []
        parameters = [each.linear.weight for maps in self.maps for each in maps.values()]
        self.token = GradientsOfWeights.apply(self, *parameters)

    def pointers(
        self, maps: Mapping[str, RightMap | LeftMap], with_gradient: bool
    ) -> dict[str, ctypes.Structure | int]:
        """Pack one layer's weights; returns the fields of its structure."""
        found: dict[str, ctypes.Structure | int] = {}
        for name, each in maps.items():
            weight = each.linear.weight.detach().to(self.dtype)
            found[name] = each.pointer(self.keep(each.forward_side(weight)), backward=False)
            if with_gradient:
                found[f"{name}_t"] = each.pointer(self.keep(each.backward_side(weight)), backward=True)
        return found

    def keep(self, side: Tensor) -> int:
        self.sides.append(side)
        return side.data_ptr()

    def add_to(self, parts: int) -> ctypes.Array:
        """Return the gradient structures of each part and layer, in this order.

        Parts share no sums, so that results are reproducible bit for bit.
        """
        while len(self.sums) < parts:
            self.sums.append(
                [{name: torch.zeros(each.sum_shape) for name, each in maps.items()} for maps in self.maps]
            )
        of_layer = self.kernels.gradients_type
        pointers = [
            of_layer(**{name: total.data_ptr() for name, total in layer.items()})
            for layers in self.sums[:parts]
            for layer in layers
        ]
        return (of_layer * len(pointers))(*pointers)

    def gradients(self) -> list[Tensor]:
        """Return the gradients of all weights, by layer and name, and reset the sums."""
        sums, self.sums = self.sums, []
        found = []
        for i, maps in enumerate(self.maps):
            for name, each in maps.items():
                total = sums[0][i][name]
                for other in sums[1:]:
                    total += other[i][name]
                found.append(each.gradient(total))
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
