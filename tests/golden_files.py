"""Reading the parity vectors: `GOLDEN_DIR` in the environment, `tests/golden` when unset."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")


def load(stem: str) -> dict[str, np.ndarray]:
    """All arrays of `stem.npz` and its continuation parts; skips the test where the folder has no such file."""
    paths = [GOLDEN_DIR / f"{stem}.npz", *sorted(GOLDEN_DIR.glob(f"{stem}.part*.npz"))]
    if not paths[0].exists():
        pytest.skip(f"{paths[0].name} is not in GOLDEN_DIR={GOLDEN_DIR}")
    return {key: arrays[key] for path in paths for arrays in [np.load(path)] for key in arrays.files}


def model_stems() -> list[str]:
    """Names of the files that hold a model, told by their content."""
    whole = (path for path in sorted(GOLDEN_DIR.glob("*.npz")) if ".part" not in path.name)
    return [path.stem for path in whole if "param_names" in np.load(path).files]


def rounding_noise() -> dict[str, dict[str, float]]:
    """Per file and key, how far a float32 run of the reference lies from its float64 run."""
    path = GOLDEN_DIR / "noise_f32_vs_f64.json"
    return json.loads(path.read_text()) if path.exists() else {}
