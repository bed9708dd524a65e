"""A network's weights as the C++ library wants them, and the way of their gradients back to the parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.backends.fused_cpu.kernels import Kernels
from models.backends.fused_cpu.maps import LeftMap, RightMap
from models.blocks import Network


class Weights:
    """Copies in bfloat16, for the applications of one supervision step, and sums of their gradients in float32."""

    def __init__(self, network: Network, kernels: Kernels, with_gradient: bool):
        self.kernels = kernels
        self.maps = [kernels.maps(block) for block in network.layers]
        self.sides: list[Tensor] = []  # alive as long as the pointers to them
        layers = [kernels.layer_type(**self.pointers(maps, with_gradient)) for maps in self.maps]
        self.layers = (kernels.layer_type * len(layers))(*layers)
        # Of each part of the rows, by layer and name.
        self.sums: list[list[dict[str, Tensor]]] = []
        parameters = [each.linear.weight for maps in self.maps for each in maps.values()]
        self.token = GradientsOfWeights.apply(self, *parameters)

    def pointers(
        self, maps: Mapping[str, RightMap | LeftMap], with_gradient: bool
    ) -> dict[str, ctypes.Structure | int]:
        """What the library is given of one layer."""
        found: dict[str, ctypes.Structure | int] = {}
        for name, each in maps.items():
            weight = each.linear.weight.detach().to(torch.bfloat16)
            found[name] = each.pointer(self.keep(each.forward_side(weight)), backward=False)
            if with_gradient:
                found[f"{name}_t"] = each.pointer(self.keep(each.backward_side(weight)), backward=True)
        return found

    def keep(self, side: Tensor) -> int:
        self.sides.append(side)
        return side.data_ptr()

    def add_to(self, parts: int) -> ctypes.Array:
        """Where each of so many parts of the rows adds the weights' gradients, part by part, layer by layer.

        They share none, so that sums repeat bit for bit.
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
        """Of all weights, by layer and name; what was added before does not count again."""
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
    """A scalar that stands for all weights in autograd's graph.

    Applications take it as an input and add their weights' gradients to sums. When autograd arrives here, after the
    last of them, the sums go to the parameters: one tensor for each instead of one for each application.
    """

    @staticmethod
    def forward(ctx: Any, weights: Weights, *parameters: Tensor) -> Tensor:
        ctx.weights = weights
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.weights.gradients()
