"""Memory layouts of a block's weights and weight gradients in the C++ library.

A product's right side (inner, columns) is stored in blocks of n columns: (columns / n, inner, n) in float32, and with
its rows in pairs in bfloat16: (columns / n, inner / 2, n, 2). A pair, or a float32, has 32 bits.

Each map has the same methods. `sides` stores a float32 parameter for an application in a dtype, and for the gradient of
its input, None if that needs nothing else. `pointer` describes a side to the library. `sum_shape` is the shape in which
the library sums the parameter's gradient in float32, and `gradient` makes the gradient of such a sum.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backends.fused_cpu.bindings import Packing, Right
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

    def packing(self) -> ctypes.Structure:
        return Packing(*self.parameter.shape, self.output_block, self.input_block)

    def sides(self, library: ctypes.CDLL, weight: Tensor, dtype: torch.dtype, with_gradient: bool) -> Sides:
        transposed = torch.empty_like(weight, dtype=dtype)
        plain = torch.empty_like(transposed) if with_gradient else None
        pointers = weight.data_ptr(), transposed.data_ptr(), None if plain is None else plain.data_ptr()
        message = library.pack_weight(ctypes.byref(self.packing()), *pointers)
        if message:
            raise RuntimeError(f"weights could not be stored for the CPU: {message.decode()}")
        return transposed, plain

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

    def gradient(self, library: ctypes.CDLL, total: Tensor) -> Tensor:
        gradient = torch.empty_like(self.parameter)
        packing = ctypes.byref(self.packing())
        library.unpack_gradient(packing, total.data_ptr(), self.by_output, gradient.data_ptr())
        return gradient


@dataclass(frozen=True)
class LeftMap:
    """`weight @ x` over positions, weight (outputs, inputs) on the left, `inputs` zero-padded to whole pairs."""

    linear: Linear
    transposed_sum: bool  # the gradient is summed for `weight.T`

    @property
    def parameter(self) -> Tensor:
        return self.linear.weight

    def sides(self, library: ctypes.CDLL, weight: Tensor, dtype: torch.dtype, with_gradient: bool) -> Sides:
        rounded = weight.to(dtype)
        return whole_pairs(rounded), whole_pairs(rounded.t()) if with_gradient else None

    def pointer(self, address: int, backward: bool) -> int:
        return address

    @property
    def sum_shape(self) -> tuple[int, ...]:
        shape = tuple(self.parameter.shape)
        return shape[::-1] if self.transposed_sum else shape

    def gradient(self, library: ctypes.CDLL, total: Tensor) -> Tensor:
        return total.t().contiguous() if self.transposed_sum else total


@dataclass(frozen=True)
class VectorsMap:
    """Vectors over channels, for a parameter (channels, ...) of elementwise operations; in float32 in every dtype."""

    parameter: Tensor

    def sides(self, library: ctypes.CDLL, weight: Tensor, dtype: torch.dtype, with_gradient: bool) -> Sides:
        return weight.reshape(self.sum_shape[::-1]).t().contiguous(), None

    def pointer(self, address: int, backward: bool) -> int:
        return address

    @property
    def sum_shape(self) -> tuple[int, ...]:
        channels = len(self.parameter)
        return self.parameter.numel() // channels, channels

    def gradient(self, library: ctypes.CDLL, total: Tensor) -> Tensor:
        return total.t().reshape(self.parameter.shape)


WeightMap = RightMap | LeftMap | VectorsMap


def whole_pairs(side: Tensor) -> Tensor:
    """Pad the columns of a left side with zeros to whole pairs: two bfloat16, or one float32."""
    pair = 4 // side.element_size()
    return F.pad(side, (0, -side.shape[1] % pair)).contiguous()
