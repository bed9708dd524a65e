"""Memory of one application for what its layers save for backward: one buffer, always divided in the same way."""

from __future__ import annotations

import ctypes
import weakref

import torch
from torch import Tensor

from models.backends.fused_cpu.bindings import Pointer

ALIGNMENT = 64  # bytes of a cache line

# Bytes of each saved tensor, one dict per layer, names as in the C++ sources.
KeptSizes = list[dict[str, int]]


class KeptMemory:
    """Buffers for applications of one shape, and the offsets of the saved tensors in a buffer.

    A layer's `after` is the next layer's `before`, or the application's output. Python objects for each tensor would
    take a tenth of a small application's time. Buffers are used again in the next training step: glibc would place
    other tensors in their memory meanwhile, so that it needed more with each step, or return it to the system, so that
    every page of a new one had a page fault.
    """

    def __init__(self, kept_type: type[ctypes.Structure], layers: KeptSizes):
        fields = [field[0] for field in kept_type._fields_]
        self.size = 0  # bytes of a buffer
        self.offsets: list[int | None] = []  # of each layer's fields
        before: dict[int, int] = {}
        for i, sizes in enumerate(layers):
            offsets = {name: self._place(size) for name, size in sizes.items()}
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
        self.bytes_type = ctypes.c_char * max(self.size, 1)
        self.unused: list[Tensor] = []

    def _place(self, size: int) -> int:
        offset = self.size
        self.size += -(-size // ALIGNMENT) * ALIGNMENT
        return offset

    def allocate(self) -> Tensor:
        """Return a buffer (bytes,) uint8 for one application; once it is deleted, its memory is used again."""
        size = ctypes.sizeof(self.bytes_type)
        memory = self.unused.pop() if self.unused else torch.empty(size, dtype=torch.uint8)
        borrowed = self.bytes_type.from_address(memory.data_ptr())
        # The tensor below refers to `borrowed` until its storage is freed, also by autograd.
        weakref.finalize(borrowed, self.unused.append, memory).atexit = False
        return torch.frombuffer(borrowed, dtype=torch.uint8)

    def structures(self, buffer: Tensor, out: Tensor) -> ctypes.Array:
        """Return the structures of all layers for this buffer, and the application's output (B, L, D)."""
        start = buffer.data_ptr()
        pointers = self.array_type(*(None if offset is None else start + offset for offset in self.offsets))
        for field in self.of_output:
            pointers[field] = out.data_ptr()
        return pointers
