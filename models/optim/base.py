"""Base class of the choices of `optimizer=`: settings, and `build` to make the optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import ConfigDict

from utils.strict_model import StrictModel

if TYPE_CHECKING:  # a config is checked before torch is imported
    from torch import nn
    from torch.optim import Optimizer

    from models.recursive import RecursiveModel


@dataclass(frozen=True)
class CommonSettings:
    """The config's `lr`, `beta1`, `beta2` and `weight_decay`, which are shared by all choices."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float


class Built(NamedTuple):
    """One optimizer of a run."""

    name: str
    """Key of its state in a checkpoint, unique within a run; `puzzle_emb` is reserved."""
    optimizer: Optimizer
    lr: float
    """Learning rate at the schedule's peak."""
    notice: str = ""
    """A line for the console, such as the implementation in use."""


class OptimizerConfig(StrictModel):
    """Base of every choice; the config's warm-up and cosine schedule apply to all optimizers that it builds."""

    model_config = ConfigDict(frozen=True)

    fixed_on_resume: ClassVar[tuple[str, ...]] = ("name",)
    """Keys that a resumed run must not change, because the saved optimizer state depends on them."""

    name: str
    """Optimizer of the weights; the puzzle embeddings always have SignSGD."""

    def build(
        self, inner: RecursiveModel, weights: list[nn.Parameter], common: CommonSettings
    ) -> list[Built]:
        """Build optimizers for `weights`, each parameter in exactly one.

        `weights` (not empty) are the trained parameters; `inner` is the architecture, whose modules determine which
        parameter belongs where. The learning rate of the last optimizer is logged as `train/lr`.
        Raises ValueError if this choice does not suit the model.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build")
