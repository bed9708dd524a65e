"""Losses and batch metrics of one supervision step.

Shapes: B rows, S `seq_len`, V vocabulary. Labels of -100 are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from models.act import ACTModel, Carry
from models.arch_configs import LossConfig
from models.recursive import RecursiveModel
from models.train.metric_base import Metric, StepRows
from models.train.metrics import METRICS, SOLVED, metric_sums

IGNORE_LABEL_ID = -100  # as in dataset.format; torch's own convention


def stablemax(x: Tensor) -> Tensor:
    """Compute `x + 1` for x >= 0 and `1 / (1 - x)` below (arXiv 2501.04697), with no NaN in its gradient."""
    return F.relu(x) + 1 / (1 - x.clamp(max=0))


def stablemax_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute -log(s(x_label) / Σ s(x)) per token, (B, S) float32; 0 where the label is ignored.

    With `smoothing` ε the target distribution is (1 - ε) on the label plus ε/V on every token.

    Computed in float32, which agrees with the published float64 form up to float32 rounding; float64 is slow on
    consumer GPUs and missing on MPS.
    """
    s = stablemax(logits.float())
    valid = labels != IGNORE_LABEL_ID
    picked = s.gather(-1, torch.where(valid, labels, 0).long().unsqueeze(-1)).squeeze(-1)
    target = picked.log()
    if smoothing:
        target = (1 - smoothing) * target + smoothing * s.log().mean(-1)
    return torch.where(valid, s.sum(-1).log() - target, 0)


def softmax_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute the softmax cross-entropy per token, (B, S) float32; 0 where the label is ignored."""
    flat = F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.long().flatten(),
        ignore_index=IGNORE_LABEL_ID,
        reduction="none",
        label_smoothing=smoothing,
    )
    return flat.view(labels.shape)


TOKEN_LOSSES = {
    "stablemax_cross_entropy": stablemax_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
}


def stablemax_probabilities(logits: Tensor) -> Tensor:
    """Compute s(x_v) / Σ s(x), the probabilities of `stablemax_cross_entropy`, (..., V) float32."""
    s = stablemax(logits.float())
    return s / s.sum(-1, keepdim=True)


def softmax_probabilities(logits: Tensor) -> Tensor:
    """Compute the softmax, the probabilities of `softmax_cross_entropy`, (..., V) float32."""
    return logits.float().softmax(-1)


PROBABILITIES = {
    "stablemax_cross_entropy": stablemax_probabilities,
    "softmax_cross_entropy": softmax_probabilities,
}


class ACTLossHead(nn.Module):
    """The ACT model with its loss; published checkpoints are state dicts of this module (`model.inner...`)."""

    EVALUATION_LOSSES: ClassVar[tuple[str, ...]] = ("lm_loss", "q_halt_loss")
    metrics: Mapping[str, Metric] = METRICS
    solved_by_rules: Callable[[Tensor, Tensor], Tensor] | None = None
    """Inputs and answers (B, S) -> (B,) bool; None: an answer is right if it meets every label."""

    Config = LossConfig

    def __init__(
        self,
        model: ACTModel,
        loss_type: str = "stablemax_cross_entropy",
        label_smoothing: float = 0.0,
        q_halt_weight: float = 0.5,
        supervision_decay: float = 1.0,
    ):
        super().__init__()
        if loss_type not in TOKEN_LOSSES:
            raise ValueError(f"loss_type={loss_type!r} is not one of {', '.join(TOKEN_LOSSES)}")
        self.model = model
        self.token_loss, self.probabilities = TOKEN_LOSSES[loss_type], PROBABILITIES[loss_type]
        self.label_smoothing, self.q_halt_weight = label_smoothing, q_halt_weight
        self.supervision_decay = supervision_decay

    @property
    def act(self) -> ACTModel:
        """The network with its halting rule, `model` in checkpoints."""
        return self.model

    @property
    def architecture(self) -> RecursiveModel:
        """The recursive network alone, `model.inner` in checkpoints."""
        return self.act.inner

    def judge_by_rules(self, check: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Call an answer right if `check` does, for puzzles with several right answers.

        q_halt then learns from it, and the metric `solved` is reported beside `exact_accuracy`, the share of answers
        that meet every label.
        """
        self.solved_by_rules = check
        self.metrics = {**self.metrics, "solved": SOLVED}

    def initial_carry(self, batch: dict[str, Tensor]) -> Carry:
        return self.act.initial_carry(batch)

    def forward(
        self, carry: Carry, batch: dict[str, Tensor], min_steps: Tensor | None = None
    ) -> tuple[Carry, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Run one supervision step; returns the new carry, the summed loss, metric sums and the model's outputs."""
        carry, outputs = self.act(carry, batch, min_steps)
        outputs["preds"] = outputs["logits"].detach().argmax(-1)  # (B, S)
        # Of the rows in flight, which differ from those of `batch`.
        outputs["inputs"] = carry.current["inputs"]
        loss, metrics = self.loss(outputs, carry.current["labels"], carry.halted, carry.steps)
        return carry, loss, metrics, outputs

    def loss(
        self, outputs: dict[str, Tensor], labels: Tensor, halted: Tensor, steps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `lm + q_halt_weight (q_halt + q_continue)`, summed over rows, and the metric sums.

        `outputs` are the model's, with `preds` and, if rules decide, `inputs` (B, S).
        `weighted_sums` weights the rows in the loss, but not in the metrics. Losses are summed over all rows; `count`
        and the metrics of `self.metrics` over the rows that each metric declares. Every value is a float32 scalar on
        the device.
        """
        with torch.no_grad():
            labelled = labels != IGNORE_LABEL_ID  # (B, S)
            num_labelled = labelled.sum(-1)  # (B,)
            num_correct = (labelled & (outputs["preds"] == labels)).sum(-1)  # (B,)
            exact = num_correct == num_labelled
            solved = exact
            if self.solved_by_rules is not None:
                solved = self.solved_by_rules(outputs["inputs"], outputs["preds"])
            counted = halted & (num_labelled > 0)

        q_halt = outputs["q_halt_logits"]
        smoothing = self.label_smoothing if self.training else 0.0
        losses = {  # (B,) each
            "lm_loss": self.token_loss(outputs["logits"], labels, smoothing).sum(-1)
            / num_labelled.clamp(min=1),
            "q_halt_loss": binary_cross_entropy(q_halt, solved.to(q_halt.dtype), reduction="none"),
        }
        if "target_q_continue" in outputs:
            losses["q_continue_loss"] = binary_cross_entropy(
                outputs["q_continue_logits"], outputs["target_q_continue"], reduction="none"
            )
        metrics = {name: values.detach().sum() for name, values in losses.items()}
        rows = StepRows(
            outputs=outputs,
            labels=labels,
            steps=steps,
            num_labelled=num_labelled,
            num_correct=num_correct,
            exact=exact,
            solved=solved,
            counted=counted,
        )
        metrics |= metric_sums(self.metrics, rows)
        lm_loss, *halting_losses = self.weighted_sums(losses.values(), steps)
        loss = lm_loss
        for halting_loss in halting_losses:
            loss = loss + self.q_halt_weight * halting_loss
        return loss, metrics

    def weighted_sums(self, losses: Iterable[Tensor], steps: Tensor) -> list[Tensor]:
        """Sum each loss (B,) over its rows; `steps` (B,) are the supervision steps since each row's reset.

        With `supervision_decay` λ < 1 step t has weight λ^(t-1), divided by the mean weight over all steps, so that a
        puzzle that runs all steps keeps its total weight (arXiv 2511.08653, here by each row's own step).
        """
        if self.supervision_decay == 1:
            return [loss.sum() for loss in losses]
        last, decay = self.act.max_steps, self.supervision_decay
        mean = sum(decay**t for t in range(last)) / last
        weights = decay ** (steps - 1).float() / mean
        return [(loss * weights).sum() for loss in losses]
