"""Who gets which optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from models.losses import ACTLossHead
from models.optim.adam_atan2 import AdamATan2
from models.optim.schedule import learning_rate
from models.optim.sparse_sign_sgd import SparseSignSGD


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimisation keys of the config, and the schedule's length."""

    lr: float
    beta1: float
    beta2: float
    weight_decay: float
    puzzle_emb_lr: float
    puzzle_emb_weight_decay: float
    freeze_weights: bool
    lr_warmup_steps: int
    lr_min_ratio: float
    total_steps: int


def adam_atan2_class(device: torch.device) -> tuple[type[Optimizer], str]:
    """The AdamATan2 to use on `device` and one line saying which: the fused kernel where it imports, on CUDA."""
    if device.type != "cuda":
        return AdamATan2, "AdamATan2: PyTorch implementation"
    try:
        from adam_atan2 import AdamATan2 as Fused
    except ImportError as error:  # also raised when only its compiled backend is missing
        return AdamATan2, f"AdamATan2: PyTorch implementation (fused kernel not available: {error})"
    return Fused, "AdamATan2: fused CUDA kernel of the package adam-atan2"


class Optimizers:
    """All optimizers of a run under one schedule."""

    def __init__(
        self,
        model: ACTLossHead,
        settings: OptimizerSettings,
        gather: Callable[[Tensor], Tensor] = lambda t: t,
    ):
        """Raises ValueError if nothing is left to train. `notice` says which AdamATan2 is in use."""
        self.settings = settings
        self.notice = ""
        self.by_name: dict[str, Optimizer] = {}
        inner = model.model.inner
        table = getattr(inner, "puzzle_emb", None)
        for param in model.parameters():
            param.requires_grad_(not settings.freeze_weights)
        if table is not None:
            self.by_name["puzzle_emb"] = SparseSignSGD(
                table, settings.puzzle_emb_lr, settings.puzzle_emb_weight_decay, gather
            )
        elif settings.freeze_weights:
            raise ValueError(
                "freeze_weights=True trains only puzzle embeddings, and arch.puzzle_emb_ndim=0 has none: "
                "set freeze_weights=False or arch.puzzle_emb_ndim > 0"
            )
        if not settings.freeze_weights:
            params = list(model.parameters())
            cls, self.notice = adam_atan2_class(params[0].device)
            betas = (settings.beta1, settings.beta2)
            self.by_name["weights"] = cls(
                params, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay
            )

    def __iter__(self):
        return iter(self.by_name.values())

    def schedule(self, step: int) -> float:
        """Set every learning rate for update `step` (from 1); returns the rate of the weights (or the embeddings)."""
        s, rate = self.settings, 0.0
        for name, optimizer in self.by_name.items():
            base = s.lr if name == "weights" else s.puzzle_emb_lr
            rate = learning_rate(step, base, s.lr_warmup_steps, s.total_steps, s.lr_min_ratio)
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate

    def step(self) -> None:
        for optimizer in self:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self:
            optimizer.zero_grad()

    def state_dict(self) -> dict[str, dict]:
        return {name: optimizer.state_dict() for name, optimizer in self.by_name.items()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        if state.keys() != self.by_name.keys():
            raise ValueError(
                f"the saved optimizers are {sorted(state)}, this run's are {sorted(self.by_name)}"
            )
        for name, optimizer in self.by_name.items():
            optimizer.load_state_dict(state[name])

    def sparse_gradients(self) -> list[Tensor]:
        """Gradients of the puzzle table's leaves, which no parameter holds."""
        table = getattr(self.by_name.get("puzzle_emb"), "table", None)
        return [] if table is None else [leaf.grad for _, leaf in table.leaves if leaf.grad is not None]
