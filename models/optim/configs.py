"""What `optimizer=` can be: each choice is a name and the settings that belong to it alone.

The config's `lr`, `weight_decay`, `beta1` and `beta2` are those of the elementwise optimizer (AdamATan2 or AdamW),
whatever it trains; the schedule's shape is common to all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from torch import nn
from torch.optim import Muon

from models.settings import Settings

Elementwise = Literal["adam_atan2", "adamw"]


class OptimizerConfig(Settings):
    model_config = ConfigDict(frozen=True)

    name: str
    """Optimizer of the weights; the puzzle embeddings always have SignSGD."""

    @property
    def elementwise(self) -> Elementwise:
        """The elementwise optimizer: of all weights, or of those that no other optimizer takes."""
        return self.name


class AdamATan2Config(OptimizerConfig):
    """As published."""

    name: Literal["adam_atan2"] = "adam_atan2"


class AdamWConfig(OptimizerConfig):
    name: Literal["adamw"] = "adamw"


class MuonConfig(OptimizerConfig):
    """`torch.optim.Muon` for the matrices of the blocks, `rest` for embeddings, heads, biases and what is no matrix.

    The momentum is an average (`m = momentum·m + (1 - momentum)·g`), decay is by `lr` before its adjustment. The
    step is `lr` times `sqrt(max(1, rows / columns))`, or `0.2 sqrt(max(rows, columns))` with `match_rms_adamw`.
    """

    name: Literal["muon"]
    lr: float = Field(default=0.02, ge=0)
    """Learning rate of the blocks' matrices."""
    weight_decay: float = Field(default=0.005, ge=0)
    """Decoupled weight decay of the blocks' matrices."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the average of the gradients."""
    nesterov: bool = True
    """Nesterov momentum."""
    ns_steps: int = Field(default=5, ge=1, lt=100)
    """Newton-Schulz iterations per update."""
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    """How a matrix's shape scales its step: sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns))
    for match_rms_adamw.
    """
    rest: Elementwise = "adamw"
    """Optimizer of everything else (embeddings, heads, biases): adamw or adam_atan2."""

    @property
    def elementwise(self) -> Elementwise:
        return self.rest

    def build(self, matrices: Iterable[nn.Parameter]) -> Muon:
        return Muon(
            matrices,
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            ns_steps=self.ns_steps,
            adjust_lr_fn=self.adjust_lr,
        )


OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    "adam_atan2": AdamATan2Config,
    "adamw": AdamWConfig,
    "muon": MuonConfig,
}
AS_PUBLISHED = AdamATan2Config()
AnyOptimizerConfig = Annotated[AdamATan2Config | AdamWConfig | MuonConfig, Field(discriminator="name")]


def block_matrices(inner: nn.Module) -> list[nn.Parameter]:
    """The matrices of an architecture's networks. Raises ValueError where there are none."""
    networks = [getattr(inner, name) for name in inner.networks]
    matrices = [p for network in networks for p in network.parameters() if p.ndim == 2]
    if not matrices:
        raise ValueError(
            f"optimizer=muon trains the matrices of the blocks, and {type(inner).__name__} has none: "
            "use optimizer=adam_atan2"
        )
    return matrices
