"""The training state and the update step, for any number of ranks.

Shapes: B rows of this rank, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from models.act import Carry, draw_min_steps
from models.flops import training_flops
from models.losses import ACTLossHead
from models.optim.optimizers import Optimizers
from models.optim.skip_step import all_finite, skip_step_unless
from models.randomness import seeded
from models.train.curriculum import DepthCurriculum
from models.train.ema import EMA
from models.train.metrics import MetricAccumulator


class Ranks(Protocol):
    """The interface of the run's processes; `utils.distributed.World` implements it."""

    rank: int
    size: int
    device: torch.device

    def sum_(self, tensor: Tensor) -> Tensor: ...
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None: ...


@dataclass
class TrainState:
    """Everything that an exact resume needs, including the position in the training stream."""

    model: ACTLossHead
    optimizers: Optimizers
    ema: EMA | None
    metrics: MetricAccumulator
    carries: list[Carry] = field(default_factory=list)  # one per micro-batch
    step: int = 0
    iteration: int = 1  # of the training stream, from 1
    batch: int = 0  # batches of this iteration already used
    seconds: float = 0.0  # spent in training, without evaluations
    flops: int | None = 0  # so far, over all ranks; None: resumed from a state that did not count them
    curriculum: DepthCurriculum | None = None
    # Per row, by (H_cycles, L_cycles).
    flops_of_depth: dict[tuple[int, int], int] = field(default_factory=dict)

    def row_flops(self) -> int:
        """FLOP of one update per row of the batch, at the current depth of the recursion."""
        inner = self.model.architecture
        depth = inner.H_cycles, inner.L_cycles
        if depth not in self.flops_of_depth:
            self.flops_of_depth[depth] = training_flops(self.model.act)
        return self.flops_of_depth[depth]

    def depth(self) -> AbstractContextManager[None]:
        """Context manager that applies this update's curriculum depth."""
        if self.curriculum is None:
            return nullcontext()
        return self.curriculum.applied(self.model.architecture, self.step)

    def progress(self) -> dict[str, float]:
        """Return the run's cost so far, under its logged names."""
        counted = {} if self.flops is None else {"train/flops": float(self.flops)}
        return counted | {"train/puzzles": self.metrics.puzzles, "train/seconds": round(self.seconds, 1)}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights in the published form: EMA averages if there are any, under uncompiled names."""
        return self.model.state_dict() | (self.ema.state_dict() if self.ema else {})

    def shared_state(self) -> dict[str, Any]:
        """Return the state that is equal on all ranks. Raises NonFiniteLoss instead of saving after a bad step."""
        self.metrics.check_finite()
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizers": self.optimizers.state_dict(),
            "step": self.step,
            "iteration": self.iteration,
            "batch": self.batch,
            "seconds": self.seconds,
            "flops": self.flops,
            "puzzles": self.metrics.puzzles,
        }

    def rank_state(self) -> dict[str, Any]:
        """Return the state of this rank."""
        names = self.model.act.latent_names
        return {
            "carries": [carry.tensors(names) for carry in self.carries],
            "interval": self.metrics.state_dict(),
        }

    def load(self, shared: dict[str, Any], rank_state: dict[str, Any] | None) -> None:
        """Restore a checkpoint; if `rank_state` is None (the number of ranks has changed) the carry is reset."""
        device = self.metrics.device
        self.model.load_state_dict(shared["model"])
        if self.ema:
            self.ema.load_state_dict(shared["ema"])
        self.optimizers.load_state_dict(shared["optimizers"])
        self.step, self.iteration, self.batch = shared["step"], shared["iteration"], shared["batch"]
        self.seconds, self.flops = shared["seconds"], shared.get("flops")
        self.metrics.puzzles = shared.get("puzzles", 0)
        if rank_state is not None:
            names = self.model.act.latent_names
            self.carries = [
                Carry.from_tensors({name: value.to(device) for name, value in tensors.items()}, names)
                for tensors in rank_state["carries"]
            ]
            self.metrics.load_state_dict(rank_state["interval"])


def train_step(
    state: TrainState,
    batch: dict[str, Tensor],
    ranks: Ranks,
    *,
    seed: int,
    global_batch_size: int,
    grad_accum_steps: int = 1,
) -> None:
    """Run one update from one supervision step of every row; `batch` is this rank's share, on the device.

    Does not synchronise with the device.
    """
    state.step += 1
    state.optimizers.schedule(state.step)
    with state.depth():
        if state.flops is not None:
            state.flops += global_batch_size * state.row_flops()
        sums = supervise(state, batch, ranks, seed, global_batch_size, grad_accum_steps)

    weights = state.optimizers.weights
    ranks.sum_gradients(weights)
    gradients = [p.grad for p in weights if p.grad is not None]
    gradients += state.optimizers.sparse_gradients()
    losses = [value for name, value in sums.items() if name.endswith("loss")]
    ok = all_finite([*losses, *gradients])
    if ranks.size > 1:
        ok = ranks.sum_((~ok).float()) == 0

    def update() -> None:
        state.optimizers.step()
        if state.ema is not None:
            state.ema.update(state.step)

    skip_step_unless(ok, state.optimizers, state.ema.shadow.values() if state.ema else [], update)
    state.optimizers.zero_grad()
    state.batch += 1
    state.metrics.add(sums, ok, state.step, state.iteration, state.batch)


def supervise(
    state: TrainState,
    batch: dict[str, Tensor],
    ranks: Ranks,
    seed: int,
    global_batch_size: int,
    grad_accum_steps: int,
) -> dict[str, Tensor]:
    """Run one supervision step of every row and accumulate its gradient; returns the metric sums.

    Exploration is a function of seed and step; random latents also of rank and micro-batch.
    """
    arch, is_stochastic = state.model.architecture.config, state.model.architecture.is_stochastic
    min_steps = torch.from_numpy(
        draw_min_steps(seed, state.step, global_batch_size, arch.halt_exploration_prob, arch.halt_max_steps)
    )
    min_steps = min_steps.chunk(ranks.size)[ranks.rank].to(ranks.device, non_blocking=True)
    micro_batches = [
        dict(zip(batch, rows, strict=True))
        for rows in zip(*(value.chunk(grad_accum_steps) for value in batch.values()), strict=True)
    ]
    if not state.carries:
        state.carries = [state.model.initial_carry(rows) for rows in micro_batches]

    sums: dict[str, Tensor] = {}
    for i, (rows, least) in enumerate(zip(micro_batches, min_steps.chunk(grad_accum_steps), strict=True)):
        with seeded(ranks.device, seed, state.step, ranks.rank, i) if is_stochastic else nullcontext():
            state.carries[i], loss, metrics, _ = state.model(state.carries[i], rows, least)
        (loss / global_batch_size).backward()
        sums = {name: sums[name] + value if sums else value for name, value in metrics.items()}
    return sums
