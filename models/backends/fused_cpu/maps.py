"""Memory layouts of a block's weights and weight gradients in the C++ library.

A product's right side (inner, columns) is stored in blocks of n columns: (columns / n, inner, n) in float32, and with
its rows in pairs in bfloat16: (columns / n, inner / 2, n, 2). A pair, or a float32, has 32 bits.

A side is a float32 parameter stored for an application in a dtype, or for the gradient of its input if that needs
another one. `pointer` describes a side to the library, which sums the parameter's gradient in float32 in the shape
`sum_shape`. Right sides are packed, and the sums of their gradients unpacked, by the library, for which `packing` and
`unpacking` describe this; the other maps do both by themselves, in `sides` and `gradient`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backends.fused_cpu.bindings import Packing, Right, Unpacking
from models.layers import Linear


def block_of(columns: int) -> int:
    """Choose the block width: the largest number of whole vectors that divides `columns`."""
    return next(n for n in range(128, 0, -16) if columns % n == 0)


Sides = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class RightMap:
    """`x @ weight.T`, weight (outputs, inputs): right sides are `weight.T` and, for the gradient of x, `weight`."""

    linear: Linear
    output_block: int
    input_block: int
    by_output: bool  # the gradient is summed in blocks of outputs, transposed; else in blocks of inputs

    @property
    def parameter(self) -> Tensor:
        return self.linear.weight

    def packing(self, weight: int, transposed: int, plain: int | None) -> ctypes.Structure:
        """Describe how to pack the weight at an address into its two sides, in this order."""
        return Packing(*self.parameter.shape, self.output_block, self.input_block, weight, transposed, plain)

    def pointer(self, address: int, backward: bool) -> ctypes.Structure:
        """Make the structure that describes a side to the library."""
        outputs, inputs = self.parameter.shape
        if backward:
            return Right(address, outputs, inputs, self.input_block)
        return Right(address, inputs, outputs, self.output_block)

    @property
    def sum_shape(self) -> tuple[int, ...]:
        outputs, inputs = self.parameter.shape
        if self.by_output:
            return outputs // self.output_block, inputs, self.output_block
        return inputs // self.input_block, outputs, self.input_block

    def unpacking(self, total: int, gradient: int) -> ctypes.Structure:
        """Describe how to make the gradient of a sum, both given by their addresses."""
        block = self.output_block if self.by_output else self.input_block
        return Unpacking(*self.parameter.shape, block, self.by_output, total, gradient)


@dataclass(frozen=True)
class LeftMap:
    """`weight @ x` over positions, weight (outputs, inputs) on the left, `inputs` zero-padded to whole pairs."""

    linear: Linear
    transposed_sum: bool  # the gradient is summed for `weight.T`

    @property
    def parameter(self) -> Tensor:
        return self.linear.weight

    def sides(self, weight: Tensor, dtype: torch.dtype, with_gradient: bool) -> Sides:
        rounded = weight.to(dtype)
        return whole_pairs(rounded), whole_pairs(rounded.t()) if with_gradient else None

    def pointer(self, address: int, backward: bool) -> int:
        return address

    @property
    def sum_shape(self) -> tuple[int, ...]:
        shape = tuple(self.parameter.shape)
        return shape[::-1] if self.transposed_sum else shape

    def gradient(self, total: Tensor) -> Tensor:
        return total.t().contiguous() if self.transposed_sum else total


@dataclass(frozen=True)
class VectorsMap:
    """Vectors over channels, for a parameter (channels, ...) of elementwise operations; in float32 in every dtype."""

    parameter: Tensor

    def sides(self, weight: Tensor, dtype: torch.dtype, with_gradient: bool) -> Sides:
        return weight.reshape(self.sum_shape[::-1]).t().contiguous(), None

    def pointer(self, address: int, backward: bool) -> int:
        return address

    @property
    def sum_shape(self) -> tuple[int, ...]:
        channels = len(self.parameter)
        return self.parameter.numel() // channels, channels

    def gradient(self, total: Tensor) -> Tensor:
        return total.t().reshape(self.parameter.shape)


WeightMap = RightMap | LeftMap | VectorsMap


def whole_pairs(side: Tensor) -> Tensor:
    """Pad the columns of a left side with zeros to whole pairs: two bfloat16, or one float32."""
    pair = 4 // side.element_size()
    return F.pad(side, (0, -side.shape[1] % pair)).contiguous()
