"""The smallest useful TRM, for tests that build a model themselves."""

from __future__ import annotations

SMALLEST_TRM = {
    "name": "trm",
    "hidden_size": 16,
    "num_heads": 2,
    "H_cycles": 1,
    "L_cycles": 1,
    "L_layers": 1,
    "halt_max_steps": 4,
    "puzzle_emb_ndim": 0,
    "forward_dtype": "float32",
}
