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
from models.backends.fused_cpu.bindings import Variant, library, variant
from models.backends.fused_cpu.block_kernels import BlockKernels
from models.backends.fused_cpu.kernel_interface import KeptTensors, Kernels
from models.backends.fused_cpu.packed_weights import Weights
from models.backends.fused_cpu.unit_kernels import UnitKernels
from models.blocks import Network


def fits(network: Network, dtype: torch.dtype) -> bool:
    """True if the library implements the network on this processor."""
    return variant(dtype) is not None and kernels_for(network) is not None


def kernels_for(network: Network) -> type[Kernels] | None:
    """Find the part of the library that implements all blocks; None if there is none, or no block."""
    for kernels in (BlockKernels, UnitKernels):
        if network.layers and all(kernels.fits(block) for block in network.layers):
            return kernels
    return None


class FusedNetwork:
    """`network(h, injection, cos_sin)` for h and injection (B, L, D) in `dtype`, bfloat16 or float32.

    The constructor raises the errors of `library`, and ValueError if the network is not supported.
    """

    def __init__(self, network: Network, dtype: torch.dtype):
        kernels, chosen = kernels_for(network), variant(dtype)
        if kernels is None or chosen is None:
            raise ValueError("it does not implement this network")
        library(chosen)  # compile now instead of at the first step
        self.network, self.kernels, self.dtype, self.variant = network, kernels(network), dtype, chosen

    def weights(self) -> Weights:
        """Pack the current weights, for use until they change."""
        return Weights(self.network, self.kernels, self.dtype, with_gradient=torch.is_grad_enabled())

    def __call__(
        self, h: Tensor, injection: Tensor | None, cos_sin: CosSin, weights: Weights | None = None
    ) -> Tensor:
        """Apply the network; `weights` are packed weights, None: pack them for this application."""
        weights = weights or self.weights()
        rows, length, width = h.shape
        shape = self.kernels.shape(rows, length, width, cos_sin)
        call = Call(self.variant, self.kernels, weights, shape, cos_sin)
        if torch.is_grad_enabled():
            return Application.apply(h, injection, weights.token, call)
        return forward(call, h, injection, keeps=False)[0]


@dataclass
class Call:
    """Arguments of an application that its backward pass needs besides tensors."""

    variant: Variant
    kernels: Kernels
    weights: Weights
    shape: ctypes.Structure
    cos_sin: CosSin  # kept alive because `shape` points to its memory

    @property
    def parts(self) -> int:
        """Number of parts of the rows, one per thread."""
        return max(1, min(torch.get_num_threads(), self.shape.rows))


class Application(torch.autograd.Function):
    """Applies a network to h and injection (B, L, D); weight gradients are added to `Weights.sums`."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, injection: Tensor | None, token: Tensor, call: Call) -> Tensor:
        out, kept = forward(call, h, injection, keeps=any(ctx.needs_input_grad))
        ctx.call, ctx.names = call, [list(layer) for layer in kept]
        ctx.save_for_backward(*(tensor for layer in kept for tensor in layer.values()))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        kept = [{name: next(saved) for name in names} for names in ctx.names]
        grad = grad.contiguous()
        grad_in = torch.empty_like(grad)
        call = ctx.call
        run(call.kernels.backward, call, kept, call.weights.add_to(call.parts), grad, grad_in)
        needs_h, needs_injection, needs_token, _ = ctx.needs_input_grad
        return (
            grad_in if needs_h else None,
            grad_in if needs_injection else None,
            torch.zeros(()) if needs_token else None,
            None,
        )


def forward(call: Call, h: Tensor, injection: Tensor | None, keeps: bool) -> tuple[Tensor, KeptTensors]:
    """Run an application; returns its output and the tensors saved for backward."""
    h, injection = h.contiguous(), None if injection is None else injection.contiguous()
    out = torch.empty_like(h)
    kept = call.kernels.kept(out) if keeps else []
    run(call.kernels.forward, call, kept, h, injection, out)
    return out, kept


def run(name: str, call: Call, kept: KeptTensors, *arguments: Tensor | ctypes.Array | None) -> None:
    """Call the library's function `name` for all rows. Raises RuntimeError with its message if it fails."""
    kept_type = call.kernels.kept_type
    layers = [kept_type(**{key: tensor.data_ptr() for key, tensor in layer.items()}) for layer in kept]
    all_kept = (kept_type * len(layers))(*layers) if layers else None
    pointers = [each.data_ptr() if isinstance(each, Tensor) else each for each in arguments]
    function = getattr(library(call.variant), name)
    message = function(ctypes.byref(call.shape), call.weights.layers, call.parts, all_kept, *pointers)
    if message:
        raise RuntimeError(f"an application of the network on the CPU failed: {message.decode()}")
