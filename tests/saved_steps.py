"""Checkpoints in which every value identifies its step, for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from utils.checkpoint import Checkpointer
from utils.distributed import World

ALONE = World()


def state_of(step: int, size: int = 64) -> dict:
    """Return the arguments of `save` at a step; every value identifies the step."""
    generator = torch.Generator().manual_seed(step)
    shared = {
        "step": step,
        "model": {
            "weight": torch.rand(size, generator=generator),
            "half": torch.full((3,), step, dtype=torch.bfloat16),
        },
        "optimizer": {
            0: {"moment": torch.rand(size, generator=generator)},
            "names": ["a", ("b", 2.5, None, True)],
        },
        "config": {"lr": 1e-4, "run": "größer"},
    }
    return {"shared": shared, "per_rank": {"carry": torch.full((2, 2), float(step)), "steps": [step]}}


def weights_of(step: int) -> dict:
    return {
        "model.inner.lm_head.weight": torch.full((4, 3), float(step)),
        "model.inner.H_init": torch.ones(3),
    }


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def save_steps(directory: Path, *steps: int, keep_last: int | None = None) -> None:
    with Checkpointer(directory, ALONE, keep_last=keep_last) as checkpointer:
        for step in steps:
            checkpointer.save(step, weights=weights_of(step), **state_of(step))


def loads(directory: Path, step: int) -> bool:
    """Return True if the newest complete state is bit-identical to that of the step."""
    checkpointer = Checkpointer(directory, ALONE)
    found = checkpointer.latest()
    shared, per_rank = checkpointer.load(found)
    return found.step == step and equal({"shared": shared, "per_rank": per_rank}, state_of(step))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}
