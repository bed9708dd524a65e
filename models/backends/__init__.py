"""Backends that run an architecture's networks: eager PyTorch, `torch.compile`, or our own C++.

Architectures contain mathematics only and call `backend.apply`. To add a backend, define a `Backend` in a module here
and add a line to `choose_backend`.
"""

from __future__ import annotations

import warnings
from typing import Any

from models.backends.base import Backend, Inner
from models.backends.eager import Eager
from models.backends.fused_cpu import FusedCPU
from models.backends.torch_compile import TorchCompile

FUSED = "fused"  # the mode that selects `FusedCPU`

__all__ = ["FUSED", "Backend", "Eager", "FusedCPU", "TorchCompile", "choose_backend"]


def choose_backend(inner: Inner, mode: str | None = None, **options: Any) -> Backend:
    """Choose the backend for a model on its device; `mode` is FUSED or a mode of `torch.compile`, with `options`.

    None: FUSED if it supports the model, else the default mode. If the C++ library cannot be used, warns with the
    reason and falls back to `torch.compile`.
    """
    if mode is None:
        mode = FUSED if FusedCPU.fits(inner) and not options else "default"
    if mode != FUSED:
        return TorchCompile(inner, mode, **options)
    try:
        return FusedCPU(inner)
    except Exception as error:  # compilers and loaders raise all kinds
        lines = str(error).splitlines() or [type(error).__name__]
        # The relevant line of a compiler's output.
        why = next((line for line in lines if "error:" in line), lines[0])
        warnings.warn(
            f"models/backends/fused_cpu cannot be used, falling back to torch.compile: {why}", stacklevel=2
        )
        return TorchCompile(inner)
