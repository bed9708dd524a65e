"""Training metrics: summed on the device, fetched once per log interval."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Metrics that count rows which halted; everything else is a loss, over all rows.
PER_COUNT = ("accuracy", "exact_accuracy", "q_halt_accuracy", "steps")


class NonFiniteLoss(ValueError):
    """The loss or a gradient of a step was NaN or infinite; the message names the step."""


class IntervalMetrics:
    """Sums of the steps since the last fetch, and the first step whose loss or gradient was not finite."""

    def __init__(
        self, global_batch_size: int, device: torch.device, sum_over_ranks: Callable[[Tensor], Tensor]
    ):
        self.global_batch_size, self.device, self.sum_over_ranks = global_batch_size, device, sum_over_ranks
        self.names: list[str] = []
        self.sums: Tensor | None = None  # (metrics,) float32
        self.num_steps = 0
        self.puzzles = 0  # that have halted so far, over all ranks and intervals
        self.bad_step: Tensor | None = None  # int64 scalar, 0 while all is well
        self.place = (0, 0, 0)  # step, iteration and batch of the last addition

    def add(self, metrics: dict[str, Tensor], ok: Tensor, step: int, iteration: int, batch: int) -> None:
        """Add one step's sums (scalars on the device); `ok` (bool scalar) is false where its update was masked.

        `batch`, from 1, is the step's batch within its iteration of the stream.
        """
        self.place = step, iteration, batch
        values = torch.stack([value.float() for value in metrics.values()])
        if self.sums is None:
            self.names, self.sums = list(metrics), torch.zeros_like(values)
        if self.bad_step is None:
            self.bad_step = torch.zeros((), dtype=torch.int64, device=values.device)
        self.sums += values
        self.bad_step = torch.where((self.bad_step == 0) & ~ok, step, self.bad_step)
        self.num_steps += 1

    def fetch(self) -> dict[str, float]:
        """The interval's metrics under their logged names, equal on all ranks; starts the next interval.

        Losses are divided by the examples seen, the rest by the rows that halted; without any such row they are left
        out. The one synchronisation with the device. Raises NonFiniteLoss if a step was not finite.
        """
        if self.num_steps == 0:
            return {}
        self.check_finite()
        sums = dict(zip(self.names, self.sum_over_ranks(self.sums).tolist(), strict=True))
        count = sums.pop("count")
        self.puzzles += round(count)
        examples = self.num_steps * self.global_batch_size
        self.sums, self.num_steps = None, 0
        return {
            f"train/{name}": value / (count if name in PER_COUNT else examples)
            for name, value in sums.items()
            if count or name not in PER_COUNT
        }

    def check_finite(self) -> None:
        """Raise NonFiniteLoss if a step since the start was not finite; waits for the device."""
        bad_step = 0 if self.bad_step is None else int(self.bad_step)
        if bad_step:
            step, iteration, batch = self.place
            batch -= step - bad_step
            raise NonFiniteLoss(
                f"step {bad_step} (batch {batch} of iteration {iteration} of the training stream): "
                f"the loss or its gradient is not finite. No update since then has touched the weights, and nothing "
                f"was saved after it. Lower lr, lengthen lr_warmup_steps, or use arch.forward_dtype=float32; an "
                f"earlier checkpoint can be continued with resume="
            )

    def state_dict(self) -> dict:
        return {"names": self.names, "sums": self.sums, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict) -> None:
        self.names, self.num_steps, self.sums = state["names"], state["num_steps"], state["sums"]
        if self.sums is not None:
            self.sums = self.sums.to(self.device)
