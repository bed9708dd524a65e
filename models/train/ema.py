"""Exponential moving average of the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """`shadow = rate·shadow + (1 - rate)·param` for every trainable parameter; buffers are not averaged.

    Up to update `start_step` the averages are the parameters themselves.
    """

    def __init__(self, model: nn.Module, rate: float, start_step: int = 0):
        if not 0 <= rate < 1:
            raise ValueError(f"ema_rate={rate} must be in [0, 1)")
        self.rate, self.start_step = rate, start_step
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.params: list[Tensor] = list(named.values())
        self.shadow = {name: p.detach().clone() for name, p in named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the parameters as optimizer update `step` (from 1) left them."""
        if step <= self.start_step:
            self.reset()
        elif self.params:
            torch._foreach_lerp_(list(self.shadow.values()), self.params, 1 - self.rate)

    @torch.no_grad()
    def reset(self) -> None:
        """Set the averages to the current parameters."""
        for param, shadow in zip(self.params, self.shadow.values(), strict=True):
            shadow.copy_(param)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Context manager in which the model holds the averages; restores the live weights, also after an exception.

        Parameters keep their identity, so a compiled model is not recompiled.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for param, shadow in zip(self.params, self.shadow.values(), strict=True):
            live = param.clone()
            param.copy_(shadow)
            shadow.copy_(live)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.shadow)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        missing, unexpected = self.shadow.keys() - state.keys(), state.keys() - self.shadow.keys()
        if missing or unexpected:
            raise ValueError(
                f"EMA state does not fit: missing {sorted(missing)}, unexpected {sorted(unexpected)}"
            )
        for name, shadow in self.shadow.items():
            shadow.copy_(state[name])
