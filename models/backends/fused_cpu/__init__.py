"""A network's application, forward and backward, in C++ for CPUs that multiply bfloat16: `compile=fused`.

A few rows go through all layers before the next ones, by `brgemm`, the product of small blocks that torch's own kernels
are made of, and what follows a product is done to its float32 result while a cache holds it. So memory is hardly
waited for, and numbers are rounded to bfloat16 in fewer places than by eager code.
"""

from models.backends.fused_cpu.backend import FusedCPU

__all__ = ["FusedCPU"]
