"""Backend `compile=fused`: networks in C++, forward and backward, in bfloat16 or float32 (`bindings.variant`).

A few rows pass through all layers before the next rows. Products are of small blocks, in bfloat16 by `brgemm`, on which
torch's own kernels are built, and elementwise operations are applied to their float32 result while that is in a cache.
Little time goes into memory access, and numbers are rounded to bfloat16 in fewer places than in eager code.
"""

from models.backends.fused_cpu.backend import FusedCPU

__all__ = ["FusedCPU"]
