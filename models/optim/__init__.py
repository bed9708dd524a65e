"""Who gets which optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from models.losses import ACTLossHead
from models.optim.adam_atan2 import AdamATan2
from models.optim.configs import AS_PUBLISHED, AnyOptimizerConfig, MuonConfig, block_matrices
from models.optim.schedule import learning_rate
from models.optim.sparse_sign_sgd import SparseSignSGD

# What a parameter group takes from the config, beside the scheduled `lr`; the rest of a group is state.
OPTIONS = {"betas", "weight_decay", "momentum", "nesterov", "ns_steps", "adjust_lr_fn"}


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
    optimizer: AnyOptimizerConfig = AS_PUBLISHED
    grad_clip: float | None = None


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
        self.base_rates: dict[str, float] = {}
        inner = model.model.inner
        table = getattr(inner, "puzzle_emb", None)
        for param in model.parameters():
            param.requires_grad_(not settings.freeze_weights)
        self.weights = [] if settings.freeze_weights else list(model.parameters())
        if table is not None:
            signs = SparseSignSGD(table, settings.puzzle_emb_lr, settings.puzzle_emb_weight_decay, gather)
            self._add("puzzle_emb", signs, settings.puzzle_emb_lr)
        elif settings.freeze_weights:
            raise ValueError(
                "freeze_weights=True trains only puzzle embeddings, and arch.puzzle_emb_ndim=0 has none: "
                "set freeze_weights=False or arch.puzzle_emb_ndim > 0"
            )
        if self.weights:
            self._add_for_weights(inner)

    def _add(self, name: str, optimizer: Optimizer, base_rate: float) -> None:
        self.by_name[name], self.base_rates[name] = optimizer, base_rate

    def _add_for_weights(self, inner: nn.Module) -> None:
        """What trains `self.weights`: one optimizer, or Muon for the blocks' matrices and another for the rest."""
        s, choice, rest = self.settings, self.settings.optimizer, self.weights
        if isinstance(choice, MuonConfig):
            matrices = block_matrices(inner)
            self._add("matrices", choice.build(matrices), choice.lr)
            in_blocks = {id(p) for p in matrices}
            rest = [p for p in rest if id(p) not in in_blocks]
        cls = AdamW
        if choice.elementwise == "adam_atan2":
            cls, self.notice = adam_atan2_class(rest[0].device)
        betas = (s.beta1, s.beta2)
        self._add("weights", cls(rest, lr=s.lr, betas=betas, weight_decay=s.weight_decay), s.lr)

    def __iter__(self):
        return iter(self.by_name.values())

    def schedule(self, step: int) -> float:
        """Set every learning rate for update `step` (from 1); returns the rate of `lr` (or the embeddings')."""
        s, rate = self.settings, 0.0
        for name, optimizer in self.by_name.items():
            rate = learning_rate(
                step, self.base_rates[name], s.lr_warmup_steps, s.total_steps, s.lr_min_ratio
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate

    def step(self) -> None:
        """One update of everything; with `grad_clip` the weights' gradient is first scaled down to that norm.

        The embeddings' gradient has no part in the norm: SignSGD is blind to its scale.
        """
        if self.settings.grad_clip is not None:
            clip_grad_norm_(self.weights, self.settings.grad_clip)
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
            ours = [{key: group[key] for key in OPTIONS & group.keys()} for group in optimizer.param_groups]
            optimizer.load_state_dict(state[name])
            for group, options in zip(optimizer.param_groups, ours, strict=True):
                group.update(options)  # a changed setting is meant to take effect

    def sparse_gradients(self) -> list[Tensor]:
        """Gradients of the puzzle table's leaves, which no parameter holds."""
        table = getattr(self.by_name.get("puzzle_emb"), "table", None)
        return [] if table is None else [leaf.grad for _, leaf in table.leaves if leaf.grad is not None]
