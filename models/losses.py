"""Losses and batch metrics of one supervision step.

Shapes: B rows, S `seq_len`, V vocabulary. A label of -100 is not trained on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from models.act import ACTModel, Carry

IGNORE_LABEL_ID = -100  # as in dataset.format; torch's own convention


def stablemax(x: Tensor) -> Tensor:
    """`s(x) = x + 1` for x >= 0, `1 / (1 - x)` below (arXiv 2501.04697), without a branch whose gradient is NaN."""
    return F.relu(x) + 1 / (1 - x.clamp(max=0))


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(s(x_label) / Σ s(x)) per token, (B, S) float32; 0 where the label is ignored.

    In float32: on logits of either dtype it agrees with the published float64 form to float32 rounding, and float64
    is slow on consumer GPUs and missing on MPS.
    """
    s = stablemax(logits.float())
    valid = labels != IGNORE_LABEL_ID
    picked = s.gather(-1, torch.where(valid, labels, 0).long().unsqueeze(-1)).squeeze(-1)
    return torch.where(valid, s.sum(-1).log() - picked.log(), 0)


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy per token in float32, (B, S); 0 where the label is ignored."""
    flat = F.cross_entropy(
        logits.float().flatten(0, 1), labels.long().flatten(), ignore_index=IGNORE_LABEL_ID, reduction="none"
    )
    return flat.view(labels.shape)


TOKEN_LOSSES = {
    "stablemax_cross_entropy": stablemax_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
}


class ACTLossHead(nn.Module):
    """The ACT model under its loss; published checkpoints are state dicts of this module (`model.inner...`)."""

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        loss_type: str = "stablemax_cross_entropy"

    def __init__(self, model: ACTModel, loss_type: str = "stablemax_cross_entropy"):
        super().__init__()
        if loss_type not in TOKEN_LOSSES:
            raise ValueError(f"loss_type={loss_type!r} is not one of {', '.join(TOKEN_LOSSES)}")
        self.model = model
        self.token_loss = TOKEN_LOSSES[loss_type]

    def initial_carry(self, batch: dict[str, Tensor]) -> Carry:
        return self.model.initial_carry(batch)

    def forward(
        self, carry: Carry, batch: dict[str, Tensor], min_steps: Tensor | None = None
    ) -> tuple[Carry, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """One supervision step: the new carry, the summed loss, the metrics' sums, and the model's outputs."""
        carry, outputs = self.model(carry, batch, min_steps)
        outputs["preds"] = outputs["logits"].detach().argmax(-1)  # (B, S)
        loss, metrics = self.loss(outputs, carry.current["labels"], carry.halted, carry.steps)
        return carry, loss, metrics, outputs

    def loss(
        self, outputs: dict[str, Tensor], labels: Tensor, halted: Tensor, steps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`lm + 0.5 (q_halt + q_continue)`, summed over rows and not divided, and the metrics as sums.

        Losses sum over all rows; `count`, `accuracy`, `exact_accuracy`, `q_halt_accuracy` and `steps` over the rows
        that halted at this step and have a label. Every value is a float32 scalar on the device.
        """
        with torch.no_grad():
            labelled = labels != IGNORE_LABEL_ID  # (B, S)
            num_labelled = labelled.sum(-1)  # (B,)
            correct = labelled & (outputs["preds"] == labels)
            solved = correct.sum(-1) == num_labelled
            counted = halted & (num_labelled > 0)
            divisor = num_labelled.clamp(min=1)

        q_halt = outputs["q_halt_logits"]
        lm_loss = (self.token_loss(outputs["logits"], labels).sum(-1) / divisor).sum()
        q_halt_loss = F.binary_cross_entropy_with_logits(q_halt, solved.to(q_halt.dtype), reduction="sum")
        loss = lm_loss + 0.5 * q_halt_loss
        metrics = {"lm_loss": lm_loss.detach(), "q_halt_loss": q_halt_loss.detach()}
        if "target_q_continue" in outputs:
            q_continue_loss = F.binary_cross_entropy_with_logits(
                outputs["q_continue_logits"], outputs["target_q_continue"], reduction="sum"
            )
            loss = loss + 0.5 * q_continue_loss
            metrics["q_continue_loss"] = q_continue_loss.detach()

        with torch.no_grad():
            metrics |= {
                "count": counted.sum().float(),
                "accuracy": torch.where(counted, correct.sum(-1) / divisor, 0).sum(),
                "exact_accuracy": (counted & solved).sum().float(),
                "q_halt_accuracy": (counted & ((q_halt >= 0) == solved)).sum().float(),
                "steps": torch.where(counted, steps, 0).sum().float(),
            }
        return loss, metrics
