"""The metrics of a supervision step, summed on the device and fetched once per log interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from models.train.metric_base import Metric, StepRows

# Add new metrics to this table. They are logged as `train/NAME` in training and `test/NAME` in evaluations.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(lambda rows: rows.num_correct / rows.num_labelled.clamp(min=1)),
    "exact_accuracy": Metric(lambda rows: rows.exact),
    "q_halt_accuracy": Metric(lambda rows: (rows.outputs["q_halt_logits"] >= 0) == rows.solved),
    "steps": Metric(lambda rows: rows.steps),
}

# Added by a head that judges answers by rules.
SOLVED = Metric(lambda rows: rows.solved)


@torch.no_grad()
def metric_sums(metrics: Mapping[str, Metric], rows: StepRows) -> dict[str, Tensor]:
    """Return `count` and the sum of each metric over its rows, as float32 scalars on the device."""
    sums = {"count": rows.counted.sum().float()}
    for name, metric in metrics.items():
        values = metric.values(rows).float()
        sums[name] = (torch.where(rows.counted, values, 0) if metric.over == "halted" else values).sum()
    return sums


class NonFiniteLoss(ValueError):
    """Raised if the loss or a gradient of a step was NaN or infinite; the message names the step."""


class MetricAccumulator:
    """Sums metrics over steps, and remembers the first step whose loss or gradient was not finite.

    `metrics` are those of the loss head; any other name that is added counts as a loss, averaged over all rows.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        global_batch_size: int,
        device: torch.device,
        sum_over_ranks: Callable[[Tensor], Tensor],
    ):
        self.over_halted = {name for name, metric in metrics.items() if metric.over == "halted"}
        self.global_batch_size, self.device, self.sum_over_ranks = global_batch_size, device, sum_over_ranks
        self.names: list[str] = []
        self.sums: Tensor | None = None  # (metrics,) float32
        self.num_steps = 0
        self.puzzles = 0  # number halted so far, over all ranks and intervals
        self.bad_step: Tensor | None = None  # int64 scalar, 0 if all steps were finite
        self.position = (0, 0, 0)  # step, iteration and batch of the last addition

    def add(self, metrics: dict[str, Tensor], ok: Tensor, step: int, iteration: int, batch: int) -> None:
        """Add one step's sums (scalars on the device); `ok` (bool scalar) is false if its update was skipped.

        `batch`, from 1, is the step's batch within its iteration of the training stream.
        """
        self.position = step, iteration, batch
        values = torch.stack([value.float() for value in metrics.values()])
        if self.sums is None:
            self.names, self.sums = list(metrics), torch.zeros_like(values)
        if self.bad_step is None:
            self.bad_step = torch.zeros((), dtype=torch.int64, device=values.device)
        self.sums += values
        self.bad_step = torch.where((self.bad_step == 0) & ~ok, step, self.bad_step)
        self.num_steps += 1

    def fetch(self) -> dict[str, float]:
        """Return the means since the last fetch under their logged names, equal on all ranks, and reset the sums.

        Metrics over halted rows are omitted if no row has halted. This is the only synchronisation with the device.
        Raises NonFiniteLoss if a step was not finite.
        """
        if self.sums is None:
            return {}
        self.check_finite()
        sums = dict(zip(self.names, self.sum_over_ranks(self.sums).tolist(), strict=True))
        count = sums.pop("count")
        self.puzzles += round(count)
        examples = self.num_steps * self.global_batch_size
        self.sums, self.num_steps = None, 0
        return {
            f"train/{name}": value / (count if name in self.over_halted else examples)
            for name, value in sums.items()
            if count or name not in self.over_halted
        }

    def check_finite(self) -> None:
        """Raise NonFiniteLoss if a step since the start was not finite; synchronises with the device."""
        bad_step = 0 if self.bad_step is None else int(self.bad_step)
        if bad_step:
            step, iteration, batch = self.position
            batch -= step - bad_step
            raise NonFiniteLoss(
                f"step {bad_step} (batch {batch} of iteration {iteration} of the training stream): "
                f"the loss or its gradient is not finite. No update since then has changed the weights, and nothing "
                f"was saved after it. Lower lr, lengthen lr_warmup_steps, or use arch.forward_dtype=float32; an "
                f"earlier checkpoint can be continued with resume="
            )

    def state_dict(self) -> dict:
        return {"names": self.names, "sums": self.sums, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict) -> None:
        self.names, self.num_steps, self.sums = state["names"], state["num_steps"], state["sums"]
        if self.sums is not None:
            self.sums = self.sums.to(self.device)
