"""What may change in the config between a run's start and its continuation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from utils.errors import UserError

# Another value would make the saved weights, optimizer state or stream position meaningless.
FIXED = (
    "data_paths",
    "global_batch_size",
    "eval_interval",
    "seed",
    "ema",
    "freeze_weights",
    "grad_accum_steps",
)
FREE_BELOW_ARCH = ("arch.halt_exploration_prob",)


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a nested config."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_changes(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """One line per key that differs from the saved config. Raises UserError for a change that resuming forbids."""
    before, after = dict(flat(saved)), dict(flat(current))
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key) and key != "resume"]
    forbidden = [
        key for key in changed if key in FIXED or (key.startswith("arch.") and key not in FREE_BELOW_ARCH)
    ]
    if forbidden:
        lines = [
            f"  {key}: {before.get(key)!r} in the checkpoint, {after.get(key)!r} now" for key in forbidden
        ]
        raise UserError(
            "this run cannot be resumed with another value of\n" + "\n".join(lines) + "\n"
            "Put these back, or start a new run (another checkpoint_path; load_checkpoint= takes over the weights)."
        )
    return [f"{key}: {before.get(key)!r} in the checkpoint, {after.get(key)!r} now" for key in changed]
