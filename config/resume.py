"""What may change between a run's start and its continuation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.optim.configs import OPTIMIZERS
from utils.errors import UserError

# Another value would make the saved weights, optimizer state or stream position meaningless. What an optimizer adds is
# its `fixed_on_resume`.
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
    """(dotted key, value) of every leaf of a nested config."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, str]:
    """For every dotted key that differs, one line that says how."""
    before, after = dict(flat(saved)), dict(flat(current))
    return {
        key: f"{key}: {before.get(key)!r} in the checkpoint, {after.get(key)!r} now"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }


def check_changes(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """One line per key that differs from the saved config. Raises UserError for a change that resuming forbids."""
    changed = {key: line for key, line in differences(saved, current).items() if key != "resume"}
    # Without an interval all epochs are one iteration of the stream, in which the position would mean another place.
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
    """Raise UserError unless the train data describes itself as it did; its folder may be another."""
    if changed := differences(saved, current):
        raise UserError(_listing("the data is not what this run was trained on", list(changed.values())))


def _listing(what: str, lines: list[str]) -> str:
    return "\n".join([what, *(f"  {line}" for line in lines), CURE])
