"""Check which config keys and data have changed when a run is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.optim.configs import OPTIMIZERS
from utils.errors import UserError

# Changing these would invalidate the saved weights, optimizer state or stream position. Each optimizer adds its own
# `fixed_on_resume`.
FIXED = (
    "global_batch_size",
    "eval_interval",
    "seed",
    "ema",
    "freeze_weights",
    "grad_accum_steps",
    "depth_curriculum",
    "augment",
    "reveal_prob",
)
FREE_BELOW_ARCH = ("arch.halt_exploration_prob",)
CURE = (
    "Put these back, or start a new run (another checkpoint_path; load_checkpoint= takes over the weights)."
)


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every leaf of a nested config."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, str]:
    """Return one line for every dotted key that differs."""
    before, after = dict(flat(saved)), dict(flat(current))
    return {
        key: f"{key}: {before.get(key)!r} in the checkpoint, {after.get(key)!r} now"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }


def check_changes(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Return one line per changed key. Raises UserError for keys that a resumed run must not change."""
    changed = {key: line for key, line in differences(saved, current).items() if key != "resume"}
    # Without eval_interval all epochs are one iteration of the stream, in which other epochs would move the position.
    fixed = {*FIXED, *(() if saved["eval_interval"] else ("epochs",))}
    for config in (saved, current):
        optimizer = config["optimizer"]["name"]
        fixed |= {f"optimizer.{key}" for key in OPTIMIZERS[optimizer].fixed_on_resume}
    forbidden = [
        line
        for key, line in changed.items()
        if key in fixed or (key.startswith("arch.") and key not in FREE_BELOW_ARCH)
    ]
    if forbidden:
        raise UserError(_listing("this run cannot be resumed with another value of", forbidden))
    return list(changed.values())


def check_data(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise UserError if the training data's metadata has changed; its folder may differ."""
    if changed := differences(saved, current):
        raise UserError(_listing("the data is not what this run was trained on", list(changed.values())))


def _listing(what: str, lines: list[str]) -> str:
    return "\n".join([what, *(f"  {line}" for line in lines), CURE])
