"""Memory of one application for what its layers save for backward: a few buffers, always divided in the same way."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from models.backends.fused_cpu.bindings import Pointer

ALIGNMENT = 64  # bytes of a cache line
# Bytes of a buffer that saved tensors share. glibc returns larger pieces than 32 MB to the system when they are freed
# (utils.device.keep_freed_memory), and new ones have a page fault per page, a quarter of the time of an application.
BUFFER = 16 * 2**20

# Bytes of each saved tensor, one dict per layer, names as in the C++ sources.
KeptSizes = list[dict[str, int]]


class KeptMemory:
    """Positions of the saved tensors in buffers, for applications of one shape.

    A layer's `after` is the next layer's `before`, or the application's output. Python objects for each tensor would
    take a tenth of a small application's time.
    """

    def __init__(self, kept_type: type[ctypes.Structure], layers: KeptSizes):
        fields = [field[0] for field in kept_type._fields_]
        self.sizes: list[int] = []  # bytes of each buffer
        self.positions: list[tuple[int, int] | None] = []  # of each layer's fields: buffer, offset
        before: dict[int, tuple[int, int]] = {}
        for i, sizes in enumerate(layers):
            positions = {name: self._place(size) for name, size in sizes.items()}
            if "before" in positions:
                before[i] = positions["before"]
            self.positions += [positions.get(name) for name in fields]
        num_fields, after = len(fields), fields.index("after")
        self.of_output = []  # the fields that point to the output
        for i in range(len(layers)):
            following = [position for j, position in before.items() if j > i]
            if following:
                self.positions[i * num_fields + after] = following[0]
            else:
                self.of_output.append(i * num_fields + after)
        self.array_type = Pointer * len(self.positions)

    def _place(self, size: int) -> tuple[int, int]:
        """Find room for `size` bytes in the last buffer, or in a new one if the last one would exceed BUFFER."""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        if not self.sizes or self.sizes[-1] + size > BUFFER:
            self.sizes.append(0)
        self.sizes[-1] += size
        return len(self.sizes) - 1, self.sizes[-1] - size

    def allocate(self) -> list[Tensor]:
        """Return new buffers for one application, each (bytes,) uint8."""
        return [torch.empty(size, dtype=torch.uint8) for size in self.sizes]

    def structures(self, buffers: Sequence[Tensor], out: Tensor) -> ctypes.Array:
        """Return the structures of all layers for these buffers, and the application's output (B, L, D)."""
        starts = [buffer.data_ptr() for buffer in buffers]
        addresses = (
            None if position is None else starts[position[0]] + position[1] for position in self.positions
        )
        pointers = self.array_type(*addresses)
        for field in self.of_output:
            pointers[field] = out.data_ptr()
        return pointers
