"""Memory layouts of a block's weights and weight gradients in the C++ library.

A product's right side (inner, columns) is stored in blocks of n columns: (columns / n, inner, n) in float32, and with
its rows in pairs in bfloat16: (columns / n, inner / 2, n, 2). A pair, or a float32, has 32 bits.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backends.fused_cpu.bindings import Right
from models.layers import Linear


def block_of(columns: int) -> int:
    """Choose the block width: the largest number of whole vectors that divides `columns`."""
    return next(n for n in range(128, 0, -16) if columns % n == 0)


def pair_size(weight: Tensor) -> int:
    """Return the number of rows of a right side that are stored together: 2 in bfloat16, 1 in float32."""
    return 4 // weight.element_size()


@dataclass(frozen=True)
class RightMap:
    """`x @ weight.T`, weight (outputs, inputs): right sides are `weight.T` and, for the gradient of x, `weight`."""

    linear: Linear
    output_block: int
    input_block: int
    by_output: bool  # the gradient is summed in blocks of outputs, transposed; else in blocks of inputs

    def forward_side(self, weight: Tensor) -> Tensor:
        num_blocks = weight.shape[0] // self.output_block
        pairs = weight.view(torch.int32).view(num_blocks, self.output_block, -1)
        return pairs.transpose(1, 2).contiguous()

    def backward_side(self, weight: Tensor) -> Tensor:
        outputs, inputs = weight.shape
        pair = pair_size(weight)
        pairs = weight.view(outputs // pair, pair, inputs // self.input_block, self.input_block)
        return pairs.permute(2, 0, 3, 1).contiguous()

    def pointer(self, address: int, backward: bool) -> ctypes.Structure:
        """Make the structure that describes a side to the library."""
        outputs, inputs = self.linear.weight.shape
        if backward:
            return Right(address, outputs, inputs, self.input_block)
        return Right(address, inputs, outputs, self.output_block)

    @property
    def sum_shape(self) -> tuple[int, ...]:
        outputs, inputs = self.linear.weight.shape
        if self.by_output:
            return outputs // self.output_block, inputs, self.output_block
        return inputs // self.input_block, outputs, self.input_block

    def gradient(self, total: Tensor) -> Tensor:
        total = total.transpose(1, 2) if self.by_output else total.transpose(0, 1)
        return total.reshape(self.linear.weight.shape)


@dataclass(frozen=True)
class LeftMap:
    """`weight @ x` over positions, weight (outputs, inputs) on the left, `inputs` zero-padded to whole pairs."""

    linear: Linear
    transposed_sum: bool  # the gradient is summed for `weight.T`

    def forward_side(self, weight: Tensor) -> Tensor:
        return F.pad(weight, (0, -weight.shape[1] % pair_size(weight))).contiguous()

    def backward_side(self, weight: Tensor) -> Tensor:
        return self.forward_side(weight.t())

    def pointer(self, address: int, backward: bool) -> int:
        return address

    @property
    def sum_shape(self) -> tuple[int, ...]:
        shape = tuple(self.linear.weight.shape)
        return shape[::-1] if self.transposed_sum else shape

    def gradient(self, total: Tensor) -> Tensor:
        return total.t().contiguous() if self.transposed_sum else total
