"""The learning-rate schedule, a pure function of the step."""

from __future__ import annotations

import math


def learning_rate(step: int, base: float, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    """Linear warm-up (`step / warmup_steps`), then a cosine from `base` to `base · min_ratio` at `total_steps`.

    The first update is step 1. Progress is capped at 1, because the stream may yield a few more steps than estimated.
    """
    if step < warmup_steps:
        return base * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return base * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
