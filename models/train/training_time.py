"""A notice for trainings that are too long for a CPU, before the first update."""

from __future__ import annotations

import time

import torch

LONG = 24 * 3600.0  # seconds of a training
# Less is not long on any CPU that can be expected, so the rate is not measured: a day at 10 GFLOP/s.
SHORT = 8e14  # FLOP


def long_training_notice(
    flops: int, num_updates: int, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Return the notice if the matrix products of a training take a CPU more than a day.

    `flops`: FLOP of one update in this process; `dtype`: that of the products.
    """
    if device.type != "cpu" or flops * num_updates < SHORT:
        return None
    seconds = flops / product_rate(dtype)
    if seconds * num_updates < LONG:
        return None
    return (
        f"note: the matrix products alone take this CPU about {seconds * num_updates / LONG:,.0f} days, "
        f"{seconds:,.1f} s for each of {num_updates:,} updates; `python pretrain.py` lists recipes for a CPU"
    )


def product_rate(dtype: torch.dtype) -> float:
    """Measure the FLOP per second of a matrix product on the CPU, with all of torch's threads."""
    left, right = torch.ones(512, 256, dtype=dtype), torch.ones(256, 512, dtype=dtype)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * 512 * 256 * 512 / min(seconds)
