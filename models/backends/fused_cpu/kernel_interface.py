"""Interface of the C++ library's parts, one for each kind of block."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

from torch import Tensor, nn

from models.backends.base import CosSin
from models.backends.fused_cpu.maps import LeftMap, RightMap
from models.blocks import Network, NetworkBlock

BlockT = TypeVar("BlockT", bound=NetworkBlock)
KeptTensors = list[dict[str, Tensor]]  # one dict per layer, names as in the C++ sources


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
    def maps(self, block: BlockT) -> Mapping[str, RightMap | LeftMap]:
        """Return a block's linear maps by their names in the C++ sources."""

    @abstractmethod
    def shape(self, rows: int, length: int, width: int, cos_sin: CosSin) -> ctypes.Structure:
        """Make the structure that describes an application to (rows, length, width)."""

    @abstractmethod
    def kept(self, out: Tensor) -> KeptTensors:
        """Allocate the tensors that layers save for backward; the last layer's output is `out` (B, L, D)."""


def chained(layers: KeptTensors, out: Tensor) -> KeptTensors:
    """Add `after` to each layer: the next layer's `before`, or `out` for the last one."""
    following = [layer["before"] for layer in layers[1:]] + [out]
    return [layer | {"after": after} for layer, after in zip(layers, following, strict=True)]
