"""How the networks of an architecture are run: as they are written, by `torch.compile`, or in C++ of our own.

The architectures hold mathematics and call `backend.apply`. A new backend is a file or package here that defines a
`Backend`, and a line in `choose_backend`.
"""

from __future__ import annotations

import warnings
from typing import Any

from models.backends.base import Backend, Inner
from models.backends.eager import Eager
from models.backends.fused_cpu import FusedCPU
from models.backends.torch_compile import TorchCompile

FUSED = "fused"  # the mode that asks for `FusedCPU`

__all__ = ["FUSED", "Backend", "Eager", "FusedCPU", "TorchCompile", "choose_backend"]


def choose_backend(inner: Inner, mode: str | None = None, **options: Any) -> Backend:
    """The backend for a model on its device: a mode and options of `torch.compile`, or FUSED.

    None: FUSED where that fits, else the default mode. If the C++ library cannot be used, a warning says why and
    `torch.compile` takes its place.
    """
    if mode is None:
        mode = FUSED if FusedCPU.fits(inner) and not options else "default"
    if mode != FUSED:
        return TorchCompile(inner, mode, **options)
    try:
        return FusedCPU(inner)
    except Exception as error:  # whatever a compiler or a loader raises
        lines = str(error).splitlines() or [type(error).__name__]
        why = next((line for line in lines if "error:" in line), lines[0])  # of a compiler's pages
        warnings.warn(f"models/backends/fused_cpu cannot be used, torch.compile is: {why}", stacklevel=2)
        return TorchCompile(inner)
