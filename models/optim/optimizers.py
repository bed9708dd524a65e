"""All optimizers of a run: `optimizer=` for the weights, and SignSGD for the puzzle embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from models.losses import ACTLossHead
from models.optim.base import Built, CommonSettings
from models.optim.configs import AS_PUBLISHED, AnyOptimizerConfig
from models.optim.schedule import learning_rate
from models.optim.sparse_sign_sgd import SparseSignSGD


@dataclass(frozen=True)
class OptimizerSettings:
    """The config's optimisation keys, and the length of the schedule."""

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


class Optimizers:
    """All optimizers of a run under one schedule."""

    def __init__(
        self,
        model: ACTLossHead,
        settings: OptimizerSettings,
        gather: Callable[[Tensor], Tensor] = lambda t: t,
    ):
        """Raises ValueError if there is nothing to train; sets `notice`, a line for the console or ""."""
        self.settings = settings
        self.notice = ""
        self.by_name: dict[str, Optimizer] = {}
        self.base_rates: dict[str, float] = {}
        inner = model.architecture
        table = getattr(inner, "puzzle_emb", None)
        for param in model.parameters():
            param.requires_grad_(not settings.freeze_weights)
        self.weights = [] if settings.freeze_weights else list(model.parameters())
        if table is not None:
            signs = SparseSignSGD(table, settings.puzzle_emb_lr, settings.puzzle_emb_weight_decay, gather)
            self._add(Built("puzzle_emb", signs, settings.puzzle_emb_lr))
        elif settings.freeze_weights:
            raise ValueError(
                "freeze_weights=True trains only puzzle embeddings, and arch.puzzle_emb_ndim=0 has none: "
                "set freeze_weights=False or arch.puzzle_emb_ndim > 0"
            )
        if self.weights:
            betas = (settings.beta1, settings.beta2)
            common = CommonSettings(settings.lr, betas, settings.weight_decay)
            for built in settings.optimizer.build(inner, self.weights, common):
                self._add(built)

    def _add(self, built: Built) -> None:
        self.by_name[built.name], self.base_rates[built.name] = built.optimizer, built.lr
        self.notice = "; ".join(filter(None, (self.notice, built.notice)))

    def __iter__(self):
        return iter(self.by_name.values())

    def schedule(self, step: int) -> float:
        """Set all learning rates for update `step` (from 1); returns the last optimizer's rate."""
        s, rate = self.settings, 0.0
        for name, optimizer in self.by_name.items():
            rate = learning_rate(
                step, self.base_rates[name], s.lr_warmup_steps, s.total_steps, s.lr_min_ratio
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate

    def step(self) -> None:
        """Update all parameters; with `grad_clip` the norm of the weights' gradient is clipped first.

        The embeddings' gradient is not part of the norm, because SignSGD ignores its scale.
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
            names = optimizer.defaults.keys() - {"lr"}  # the schedule sets lr
            ours = [{key: group[key] for key in names} for group in optimizer.param_groups]
            optimizer.load_state_dict(state[name])
            for group, options in zip(optimizer.param_groups, ours, strict=True):
                group.update(options)  # a setting changed at resume takes effect

    def sparse_gradients(self) -> list[Tensor]:
        """Return the gradients of the puzzle table's leaves, which belong to no parameter."""
        table = getattr(self.by_name.get("puzzle_emb"), "table", None)
        return [] if table is None else [leaf.grad for _, leaf in table.leaves if leaf.grad is not None]
