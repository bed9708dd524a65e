"""Base class of backends, which apply an architecture's networks and prepare their weights.

Shapes: B batch, L positions, D hidden size, H head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.blocks import Network
from models.optim.adam_atan2 import StepKernel

State = tuple[Tensor, ...]  # an architecture's latents, each (B, L, D)
Recursion = Callable[[State, Tensor], State]  # from a state and x (B, L, D)
CosSin = tuple[Tensor, Tensor] | None  # rotary tables (L, H) in float32


class Inner(Protocol):
    """The interface of a model that a backend needs; `models.recursive.RecursiveModel` implements it."""

    networks: ClassVar[tuple[str, ...]]  # names of the attributes that are a `Network`
    dtype: torch.dtype  # compute dtype
    training: bool

    @property
    def device(self) -> torch.device: ...


def networks_of(inner: Inner) -> list[Network]:
    return [getattr(inner, name) for name in inner.networks]


class Backend:
    """Base of all backends. A subclass defines `apply` and overrides other methods if needed.

    A backend is made for one model that is already on its device, and serves both training and evaluation.
    """

    adam_atan2: StepKernel | None = None
    """A faster step of the optimizer AdamATan2, with the same results."""

    def __init__(self) -> None:
        self.weights: Any = None  # the result of `prepared_weights`, during a step

    @staticmethod
    def fits(inner: Inner) -> bool:
        """True if this backend can run the model's networks on their device."""
        return True

    def apply(self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin) -> Tensor:
        """Return `network(h, injection, cos_sin)`; h, injection and result (B, L, D) in the compute dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(network, h, injection, cos_sin)")

    def apply_repeatedly(
        self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin, times: int
    ) -> Tensor:
        """Set h to `apply(network, h, injection, cos_sin)` `times` times."""
        for _ in range(times):
            h = self.apply(network, h, injection, cos_sin)
        return h

    def embed(self, ids: Tensor, table: Tensor) -> Tensor:
        """Look up ids (B, S) in a table (V, D) in the compute dtype; returns (B, S, D)."""
        return F.embedding(ids, table)

    def prepared_weights(self, inner: Inner) -> Any:
        """Convert the current weights for `apply`, once per supervision step."""
        return None

    @contextmanager
    def using(self, weights: Any) -> Iterator[None]:
        """Context manager in which `apply` uses these prepared weights."""
        self.weights = weights
        try:
            yield
        finally:
            self.weights = None

    def step(self, inner: Inner) -> AbstractContextManager[None]:
        """Context manager for one supervision step: weights are cast or packed once."""
        return self.using(self.prepared_weights(inner))

    def apply_checkpointed(
        self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin
    ) -> Tensor:
        """Run `apply` with activation checkpointing: backward recomputes everything from the inputs.

        Backward runs after the step has ended, so it restores the step's prepared weights.
        """
        weights = self.weights
        return checkpoint(
            self.apply,
            *(network, h, injection, cos_sin),
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), self.using(weights)),
        )

    def run_without_grad(
        self, recursion: Recursion, state: State, x: Tensor, rows_independent: bool = True
    ) -> State:
        """Return `recursion(state, x)`, computed without gradient.

        `rows_independent`: no random numbers are drawn for the batch as a whole.
        """
        with torch.no_grad():
            return recursion(state, x)

    def carried(self, state: State) -> State:
        """Detach the state for the next supervision step, in memory that no later step overwrites."""
        return tuple(latent.detach() for latent in state)
