"""Kernels for `models.unit_block.UnitBlock`, which pools over units and symbols (units.hpp, units_back.hpp).

Shapes: B batch, S cells, N symbols, L = S·N pairs, D hidden size, I inner width of SwiGLU, P width of a pooled vector.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.backends.base import CosSin
from models.backends.fused_cpu.bindings import Pointer, Pool, Right, UnitKept, UnitShape, structure
from models.backends.fused_cpu.kept_memory import KeptSizes
from models.backends.fused_cpu.kernel_interface import FLOAT, Kernels
from models.backends.fused_cpu.maps import RightMap, block_of
from models.blocks import Network
from models.unit_block import UnitBlock


class UnitKernels(Kernels[UnitBlock]):
    """The library's functions and structures for `models.unit_block.UnitBlock`."""

    forward, backward = "forward_units", "backward_units"
    kept_type = UnitKept

    def __init__(self, network: Network):
        block = network.layers[0]
        assert isinstance(block, UnitBlock)
        self.layers, self.eps, self.units = len(network.layers), block.eps, block.units
        self.inner, self.has_maximum = block.down_proj.weight.shape[1], block.pooling == "mean_max"
        self.pools_by_length: dict[int, Pools] = {}
        names = list(self.maps(block)[0])
        sides = dict.fromkeys([*names, *(f"{name}_t" for name in names)], Right)
        self.layer_type = structure("UnitLayer", **sides)
        self.gradients_type = structure("UnitGradients", **dict.fromkeys(names, Pointer))

    @staticmethod
    def fits(block: nn.Module) -> bool:
        if not isinstance(block, UnitBlock):
            return False
        width, inner = block.down_proj.weight.shape
        return width % 16 == 0 and inner % 16 == 0

    def maps(self, block: UnitBlock) -> list[dict[str, RightMap]]:
        width, inner = block.down_proj.weight.shape
        pooled = {"cell": block.of_cell} | {f"unit_{i}": linear for i, linear in enumerate(block.of_units)}
        maps = {
            "pair": RightMap(block.of_pair, block_of(inner), block_of(width), by_output=True),
            "down": RightMap(block.down_proj, block_of(width), block_of(inner), by_output=False),
        }
        for name, linear in pooled.items():
            maps[name] = RightMap(linear, block_of(inner), block_of(linear.weight.shape[1]), by_output=True)
        return [maps]

    def shape(self, rows: int, length: int, width: int, cos_sin: CosSin) -> ctypes.Structure:
        pools = self.pools(length)
        sizes = {"rows": rows, "length": length, "width": width, "inner": self.inner, "layers": self.layers}
        sizes |= {"kinds": 1 + len(self.units.kinds), "num_pools": len(pools.array)}
        address = ctypes.addressof(pools.array)
        return UnitShape(**sizes, has_maximum=self.has_maximum, eps=self.eps, pools=address)

    def kept(self, rows: int, length: int, width: int, value: int) -> KeptSizes:
        pairs = rows * length
        layer = {
            "before": value * pairs * width,
            "gate_up": value * pairs * 2 * self.inner,
            "scale": FLOAT * pairs,
        }
        return [layer] * self.layers

    def pools(self, length: int) -> Pools:
        """Return the pools for rows of `length` pairs; cached, because shape structures point to them."""
        if length not in self.pools_by_length:
            axes = self.units.axes
            pairs = torch.arange(length, dtype=torch.int32).view(*axes, -1)
            kinds = [((len(axes),),), *self.units.kinds]  # the first pools each cell over its symbols
            tables = [(kind, pooled_over(pairs, axes)) for kind, all in enumerate(kinds) for axes in all]
            self.pools_by_length[length] = Pools.of(tables)
        return self.pools_by_length[length]


@dataclass(frozen=True)
class Pools:
    """Array of `Pool` structures, and the tensors that they point to."""

    array: ctypes.Array
    tables: list[Tensor]

    @classmethod
    def of(cls, members: list[tuple[int, Tensor]]) -> Pools:
        """Make the array from each pool's kind and members, (vectors, pairs per vector)."""
        tables, pools = [], []
        for kind, table in members:
            of_pair = torch.empty(table.numel(), dtype=torch.int32)
            of_pair[table.flatten().long()] = torch.arange(len(table), dtype=torch.int32).repeat_interleave(
                table.shape[1]
            )
            tables += [table, of_pair]
            sizes = {"vectors": len(table), "size": table.shape[1], "kind": kind}
            pools.append(Pool(members=table.data_ptr(), of_pair=of_pair.data_ptr(), **sizes))
        return cls((Pool * len(pools))(*pools), tables)


def pooled_over(pairs: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return (vectors, pairs per vector): the pairs that pooling over these axes reduces to each vector."""
    others = [axis for axis in range(pairs.ndim) if axis not in axes]
    table = pairs.permute(*others, *axes)
    return table.flatten(len(others)).flatten(0, -2).contiguous()
