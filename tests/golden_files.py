"""Read the golden vectors from `GOLDEN_DIR` in the environment, by default `tests/golden`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")


def load(stem: str) -> dict[str, np.ndarray]:
    """Load all arrays of `stem.npz` and its continuation parts; skip the test if there is no such file."""
    paths = [GOLDEN_DIR / f"{stem}.npz", *sorted(GOLDEN_DIR.glob(f"{stem}.part*.npz"))]
    if not paths[0].exists():
        pytest.skip(f"{paths[0].name} is not in GOLDEN_DIR={GOLDEN_DIR}")
    return {key: arrays[key] for path in paths for arrays in [np.load(path)] for key in arrays.files}


def model_stems() -> list[str]:
    """Return the names of files that contain a model."""
    whole = (path for path in sorted(GOLDEN_DIR.glob("*.npz")) if ".part" not in path.name)
    return [path.stem for path in whole if "param_names" in np.load(path).files]


def rounding_noise() -> dict[str, dict[str, float]]:
    """Return the difference of the reference between float32 and float64, by file and key."""
    path = GOLDEN_DIR / "noise_f32_vs_f64.json"
    return json.loads(path.read_text()) if path.exists() else {}
