"""What this machine has, found without torch, for hints before it is imported; `utils.device` decides what is used."""

from __future__ import annotations

import os
import re
from pathlib import Path

_DEVICE = re.compile(r"nvidia\d+")


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_gpus(devices: Path = Path("/dev")) -> int:
    """Return the number of NVIDIA GPUs that this process may use, by their device files and CUDA_VISIBLE_DEVICES."""
    found = sum(1 for path in devices.glob("nvidia*") if _DEVICE.fullmatch(path.name))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return min(found, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))
