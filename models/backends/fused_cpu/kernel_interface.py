"""Interface of the C++ library's parts, one for each kind of block."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from torch import nn

from models.backends.base import CosSin
from models.backends.fused_cpu.kept_memory import KeptSizes
from models.backends.fused_cpu.maps import WeightMap
from models.blocks import Network, NetworkBlock

BlockT = TypeVar("BlockT", bound=NetworkBlock)
FLOAT = 4  # bytes of a float32


class Kernels(ABC, Generic[BlockT]):
    """A part of the library, for networks whose blocks differ in their weights only."""

    forward: ClassVar[str]  # names of the library's functions
    backward: ClassVar[str]
    # Structures; the fields of the first two have the names of `maps`.
    layer_type: type[ctypes.Structure]
    gradients_type: type[ctypes.Structure]
    kept_type: type[ctypes.Structure]

    @abstractmethod
    def __init__(self, network: Network): ...

    @staticmethod
    @abstractmethod
    def fits(block: nn.Module) -> bool:
        """True if this part implements the block."""

    @abstractmethod
    def maps(self, block: BlockT) -> Sequence[Mapping[str, WeightMap]]:
        """Return the parameters of a block by their names in the C++ sources, for each of its layers there."""

    @abstractmethod
    def shape(self, rows: int, length: int, width: int, cos_sin: CosSin) -> ctypes.Structure:
        """Make the structure that describes an application to (rows, length, width)."""

    @abstractmethod
    def kept(self, rows: int, length: int, width: int, value: int) -> KeptSizes:
        """Return the sizes of the tensors that layers save for backward, without `after`; a value has `value` bytes."""
