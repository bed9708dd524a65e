"""What each part of the C++ library, for one kind of network, says of itself."""

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
KeptTensors = list[dict[str, Tensor]]  # by layer, named as in the sources


class Kernels(ABC, Generic[BlockT]):
    """A part of the library for networks whose blocks are of one kind and differ in their weights only."""

    forward: ClassVar[str]  # the library's functions
    backward: ClassVar[str]
    # Structures of the sources; the fields of the first two are named as `maps` names them.
    layer_type: type[ctypes.Structure]
    gradients_type: type[ctypes.Structure]
    kept_type: type[ctypes.Structure]

    @abstractmethod
    def __init__(self, network: Network): ...

    @staticmethod
    @abstractmethod
    def fits(block: nn.Module) -> bool:
        """Whether this part does what the block does."""

    @abstractmethod
    def maps(self, block: BlockT) -> Mapping[str, RightMap | LeftMap]:
        """A block's maps by their names in the sources."""

    @abstractmethod
    def shape(self, rows: int, length: int, width: int, cos_sin: CosSin) -> ctypes.Structure:
        """What the functions are told of an application to (rows, length, width)."""

    @abstractmethod
    def kept(self, out: Tensor) -> KeptTensors:
        """Room for what layers keep for the gradient; what the last one gives is `out` (B, L, D)."""


def chained(layers: KeptTensors, out: Tensor) -> KeptTensors:
    """The layers, each with `after`, which is the next one's `before`, and of the last one `out`."""
    following = [layer["before"] for layer in layers[1:]] + [out]
    return [layer | {"after": after} for layer, after in zip(layers, following, strict=True)]
