"""Backend `compile=fused`: networks in C++, forward and backward, for CPUs with bfloat16 products.

A few rows pass through all layers before the next rows. Products use `brgemm`, the product of small blocks on
which torch's own kernels are built, and elementwise operations are applied to its float32 result while that is in a
cache. Little time goes into memory access, and numbers are rounded to bfloat16 in fewer places than in eager code.
"""

from models.backends.fused_cpu.backend import FusedCPU

__all__ = ["FusedCPU"]
