"""The choices of `optimizer=`: each has a name, its own settings, and `build`.

The config's `lr`, `weight_decay`, `beta1` and `beta2` belong to the elementwise optimizer (AdamATan2 or AdamW); the
schedule is common to all. A config is checked before torch is imported, so `build` imports what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import Field

from models.optim.base import Built, CommonSettings, OptimizerConfig

if TYPE_CHECKING:
    from torch import nn

    from models.recursive import RecursiveModel


class AdamATan2Config(OptimizerConfig):
    """AdamATan2, as published."""

    name: Literal["adam_atan2"] = "adam_atan2"

    def build(
        self, inner: RecursiveModel, weights: list[nn.Parameter], common: CommonSettings
    ) -> list[Built]:
        from models.optim.adam_atan2 import AdamATan2, adam_atan2_class

        cls, notice = adam_atan2_class(weights[0].device)
        optimizer = cls(weights, lr=common.lr, betas=common.betas, weight_decay=common.weight_decay)
        if isinstance(optimizer, AdamATan2):
            optimizer.kernel = lambda: inner.backend.adam_atan2
        return [Built("weights", optimizer, common.lr, notice)]


class AdamWConfig(OptimizerConfig):
    """`torch.optim.AdamW`."""

    name: Literal["adamw"] = "adamw"

    def build(
        self, inner: RecursiveModel, weights: list[nn.Parameter], common: CommonSettings
    ) -> list[Built]:
        from models.optim.uncompiled import AdamW

        optimizer = AdamW(weights, lr=common.lr, betas=common.betas, weight_decay=common.weight_decay)
        return [Built("weights", optimizer, common.lr)]


class MuonConfig(OptimizerConfig):
    """`torch.optim.Muon` for the matrices of the blocks, `rest` for all other parameters.

    The momentum is an average (`m = momentum·m + (1 - momentum)·g`); weight decay uses the unadjusted `lr`. The step is
    `lr` times `sqrt(max(1, rows / columns))`, or `0.2 sqrt(max(rows, columns))` with `match_rms_adamw`.
    """

    fixed_on_resume: ClassVar[tuple[str, ...]] = ("name", "rest")

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
    rest: Literal["adam_atan2", "adamw"] = "adamw"
    """Optimizer of everything else (embeddings, heads, biases): adamw or adam_atan2."""

    def build(
        self, inner: RecursiveModel, weights: list[nn.Parameter], common: CommonSettings
    ) -> list[Built]:
        from models.optim.uncompiled import Muon

        matrices = block_matrices(inner)
        muon = Muon(
            matrices,
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            ns_steps=self.ns_steps,
            adjust_lr_fn=self.adjust_lr,
        )
        in_blocks = {id(p) for p in matrices}
        rest = [p for p in weights if id(p) not in in_blocks]
        return [
            Built("matrices", muon, self.lr),
            *OPTIMIZERS[self.rest](name=self.rest).build(inner, rest, common),
        ]


# Add new optimizers to this line; config/optimizer/NAME.yaml holds their defaults.
_AnyConfig = AdamATan2Config | AdamWConfig | MuonConfig

AnyOptimizerConfig = Annotated[_AnyConfig, Field(discriminator="name")]
OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    get_args(config.model_fields["name"].annotation)[0]: config for config in get_args(_AnyConfig)
}
AS_PUBLISHED = AdamATan2Config()


def block_matrices(inner: RecursiveModel) -> list[nn.Parameter]:
    """Return the matrices of an architecture's networks. Raises ValueError if there are none."""
    from models.backends.base import networks_of

    matrices = [p for network in networks_of(inner) for p in network.parameters() if p.ndim == 2]
    if not matrices:
        raise ValueError(
            f"optimizer=muon trains the matrices of the blocks, and {type(inner).__name__} has none: "
            "use optimizer=adam_atan2"
        )
    return matrices
