"""Values of `compile=` other than auto, true and false."""

from __future__ import annotations

from typing import Literal, get_args

FUSED = "fused"  # the C++ of models/backends/fused_cpu
# The modes of `torch.compile`; `compile=true` and `auto` use the first one.
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
COMPILE_MODES: tuple[str, ...] = get_args(CompileMode)
