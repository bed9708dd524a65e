"""A train step never synchronises: it runs on the meta device, whose tensors have no values."""

from __future__ import annotations

import pytest
import torch

from benchmarks.step import Case, config_of
from utils.distributed import World

SMALL = ("arch.hidden_size=32", "arch.num_heads=2", "arch.L_cycles=2", "global_batch_size=4", "ema=True")


def case_on_meta(*overrides: str) -> Case:
    return Case(config_of(*SMALL, *overrides), 36, World(device=torch.device("meta")))


@pytest.mark.parametrize(
    "overrides",
    [
        ("arch=trm",),
        ("arch=trm", "arch.mlp_t=True", "arch.pos_encodings=none", "arch.loss.supervision_decay=0.7"),
        ("arch=trm", "optimizer=muon", "grad_clip=1.0", "grad_accum_steps=2"),
        ("arch=trm", "optimizer=adamw", "arch.random_init=True", "arch.noise=0.01"),
        ("arch=hrm",),
        ("arch=urm",),
        ("arch=se_rrm",),
        ("arch=trm_equivariant", "arch.num_heads=1"),
        ("arch=trm_local", "arch.num_heads=1"),
    ],
    ids=" ".join,
)
def test_a_step_does_not_read_values_back(overrides):
    case = case_on_meta(*overrides)
    for _ in range(2):  # the first step creates carry and optimizer states, the second uses them
        case.train_step()
    assert case.state.step == 2


def test_reading_the_metrics_does_wait():
    case = case_on_meta("arch=trm")
    case.train_step()
    with pytest.raises(RuntimeError, match="meta"):
        case.state.metrics.check_finite()
