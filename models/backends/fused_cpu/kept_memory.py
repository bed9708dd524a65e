"""Memory of one application for what its layers save for backward: one buffer, divided in the same way every time."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from models.backends.fused_cpu.bindings import Pointer

ALIGNMENT = 64  # bytes of a cache line

# Bytes of each saved tensor, one dict per layer, names as in the C++ sources.
KeptSizes = list[dict[str, int]]


class KeptMemory:
    """Offsets of the saved tensors in one buffer, for applications of one shape.

    A layer's `after` is the next layer's `before`, or the application's output. Python objects for each tensor would
    take a tenth of a small application's time.
    """

    def __init__(self, kept_type: type[ctypes.Structure], layers: KeptSizes):
        fields = [field[0] for field in kept_type._fields_]
        self.size = 0
        self.offsets: list[int | None] = []  # of each layer's fields
        before: dict[int, int] = {}
        for i, sizes in enumerate(layers):
            offsets = {}
            for name, size in sizes.items():
                offsets[name] = self.size
                self.size += -(-size // ALIGNMENT) * ALIGNMENT
            if "before" in offsets:
                before[i] = offsets["before"]
            self.offsets += [offsets.get(name) for name in fields]
        num_fields, after = len(fields), fields.index("after")
        self.of_output = []  # the fields that point to the output
        for i in range(len(layers)):
            following = [offset for j, offset in before.items() if j > i]
            if following:
                self.offsets[i * num_fields + after] = following[0]
            else:
                self.of_output.append(i * num_fields + after)
        self.array_type = Pointer * len(self.offsets)

    def allocate(self) -> Tensor:
        """Return a new buffer for one application, (bytes,) uint8."""
        return torch.empty(self.size, dtype=torch.uint8)

    def structures(self, buffer: Tensor, out: Tensor) -> ctypes.Array:
        """Return the structures of all layers for a buffer, and the application's output (B, L, D)."""
        start = buffer.data_ptr()
        pointers = self.array_type(*(None if offset is None else start + offset for offset in self.offsets))
        for field in self.of_output:
            pointers[field] = out.data_ptr()
        return pointers
