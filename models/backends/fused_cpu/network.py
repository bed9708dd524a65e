"""Application of a network to a batch in C++, as an autograd function.

Shapes: B batch, L positions (for networks of units, (cell, symbol) pairs), D hidden size.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.backends.base import CosSin
from models.backends.fused_cpu.bindings import load_library, variant
from models.backends.fused_cpu.block_kernels import BlockKernels
from models.backends.fused_cpu.kept_memory import KeptMemory
from models.backends.fused_cpu.kernel_interface import Kernels
from models.backends.fused_cpu.packed_weights import Weights
from models.backends.fused_cpu.symbol_kernels import SymbolKernels
from models.backends.fused_cpu.unit_kernels import UnitKernels
from models.blocks import Network


def fits(network: Network, dtype: torch.dtype) -> bool:
    """True if the library implements the network on this processor."""
    return variant(dtype) is not None and kernels_for(network) is not None


def kernels_for(network: Network) -> type[Kernels] | None:
    """Find the part of the library that implements all blocks; None if there is none, or no block."""
    for kernels in (BlockKernels, SymbolKernels, UnitKernels):
        if network.layers and all(kernels.fits(block) for block in network.layers):
            return kernels
    return None


class FusedNetwork:
    """`network(h, injection, cos_sin)` for h and injection (B, L, D) in `dtype`, bfloat16 or float32.

    The constructor raises the errors of `load_library`, and ValueError if the network is not supported.
    """

    def __init__(self, network: Network, dtype: torch.dtype):
        kernels, chosen = kernels_for(network), variant(dtype)
        if kernels is None or chosen is None:
            raise ValueError("it does not implement this network")
        self.compiled = load_library(chosen)  # compiled now instead of at the first step
        self.kernels, self.dtype = kernels(network), dtype
        self.layers = [maps for block in network.layers for maps in self.kernels.maps(block)]
        self.shapes: dict[tuple, ApplicationShape] = {}

    def weights(self) -> Weights:
        """Pack the current weights, for use until they change."""
        return Weights(self.compiled, self.kernels, self.layers, self.dtype, torch.is_grad_enabled())

    def __call__(
        self,
        h: Tensor,
        injection: Tensor | None,
        cos_sin: CosSin,
        weights: Weights | None = None,
        times: int = 1,
        recomputes: bool = False,
    ) -> Tensor:
        """Apply the network `times` times; `weights` are packed weights, None: pack them for this call.

        `recomputes`: one application, which saves only its arguments and is run again by its backward pass.
        Between applications in one call little of Python runs, which has left the caches after each of them: 0.1 ms.
        """
        call = Call(self.compiled, self.kernels, weights or self.weights(), self.shape(h.shape, cos_sin))
        if not times:
            return h
        if recomputes and torch.is_grad_enabled():
            return RecomputedApplication.apply(h, injection, call.weights.token, call)
        if torch.is_grad_enabled():
            return Applications.apply(h, injection, call.weights.token, call, times)
        return forward(call, h, injection, times)

    def shape(self, size: torch.Size, cos_sin: CosSin) -> ApplicationShape:
        """Return what applications to tensors of one size share, which is made once."""
        key = (*size, cos_sin and tuple(table.data_ptr() for table in cos_sin))
        if key not in self.shapes:
            rows, length, width = size
            sizes = self.kernels.kept(rows, length, width, self.dtype.itemsize)
            kept = KeptMemory(self.kernels.kept_type, sizes)
            structure = self.kernels.shape(rows, length, width, cos_sin)
            self.shapes[key] = ApplicationShape(structure, rows, kept, cos_sin)
        return self.shapes[key]


@dataclass(frozen=True)
class ApplicationShape:
    """Sizes of an application, as the library and its memory need them."""

    structure: ctypes.Structure
    rows: int
    kept: KeptMemory
    cos_sin: CosSin  # kept alive because `structure` points to its memory


@dataclass(frozen=True)
class Call:
    """Arguments of an application that its backward pass needs besides tensors."""

    compiled: ctypes.CDLL
    kernels: Kernels
    weights: Weights
    shape: ApplicationShape

    @property
    def parts(self) -> int:
        """Number of parts of the rows, one per thread."""
        return max(1, min(torch.get_num_threads(), self.shape.rows))


class Applications(torch.autograd.Function):
    """Applies a network `times` times to h and injection (B, L, D); weight gradients are added to `WeightGradients`."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, injection: Tensor | None, token: Tensor, call: Call, times: int
    ) -> Tensor:
        if not any(ctx.needs_input_grad):
            return forward(call, h, injection, times)
        saved: list[Tensor] = []  # of one application after another: buffer, output
        for _ in range(times):
            kept = call.shape.kept.allocate()
            h = forward(call, h, injection, 1, kept)
            saved += [kept, h]
        ctx.call, ctx.times = call, times
        ctx.save_for_backward(*saved)
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call, saved = ctx.call, ctx.saved_tensors
        needs_h, needs_injection, needs_token, *_ = ctx.needs_input_grad
        sums, of_injection = call.weights.gradients.add_to(call.parts), None
        for kept, out in zip(saved[-2::-2], saved[::-2], strict=True):  # the last application first
            grad = backward(call, kept, out, sums, grad)
            if needs_injection:
                of_injection = grad if of_injection is None else of_injection + grad
        token = torch.zeros(()) if needs_token else None
        return grad if needs_h else None, of_injection, token, None, None


class RecomputedApplication(torch.autograd.Function):
    """`Applications` of one application with activation checkpointing: backward runs it again from its arguments.

    torch's checkpointing would also allocate in the forward pass what backward needs, and freeing that between other
    tensors leaves gaps that the next application does not fit into.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, injection: Tensor | None, token: Tensor, call: Call) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(h, injection)
        return forward(call, h, injection, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call, (h, injection) = ctx.call, ctx.saved_tensors
        needs_h, needs_injection, needs_token, _ = ctx.needs_input_grad
        kept = call.shape.kept.allocate()
        out = forward(call, h, injection, 1, kept)
        grad = backward(call, kept, out, call.weights.gradients.add_to(call.parts), grad)
        token = torch.zeros(()) if needs_token else None
        return grad if needs_h else None, grad if needs_injection else None, token, None


def backward(call: Call, kept: Tensor, out: Tensor, sums: ctypes.Array, grad: Tensor) -> Tensor:
    """Return the gradient of an application's h, and of its injection; adds those of its weights to `sums`."""
    grad_in = torch.empty_like(out)
    structures = call.shape.kept.structures(kept, out)
    run(call.kernels.backward, call, structures, sums, grad.contiguous(), grad_in)
    return grad_in


def forward(
    call: Call, h: Tensor, injection: Tensor | None, times: int, kept: Tensor | None = None
) -> Tensor:
    """Run applications; returns their output, and writes what backward needs of a single one to `kept`, if given."""
    h, injection = h.contiguous(), None if injection is None else injection.contiguous()
    out = torch.empty_like(h)
    structures = None if kept is None else call.shape.kept.structures(kept, out)
    for _ in range(times):
        run(call.kernels.forward, call, structures, h, injection, out)
        h = out  # the library may write to its input
    return out


def run(name: str, call: Call, kept: ctypes.Array | None, *arguments: Tensor | ctypes.Array | None) -> None:
    """Call the library's function `name` for all rows. Raises RuntimeError with its message if it fails."""
    pointers = [each.data_ptr() if isinstance(each, Tensor) else each for each in arguments]
    function, shape = getattr(call.compiled, name), ctypes.byref(call.shape.structure)
    message = function(shape, call.weights.layers, call.parts, kept, *pointers)
    if message:
        raise RuntimeError(f"an application of the network on the CPU failed: {message.decode()}")
