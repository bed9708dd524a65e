"""What a backend is: the code that applies an architecture's networks and keeps their weights ready for it.

Shapes: B batch, L positions, D hidden size, H head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.blocks import Network

State = tuple[Tensor, ...]  # an architecture's latents, each (B, L, D)
Recursion = Callable[[State, Tensor], State]  # from a state and x (B, L, D)
CosSin = tuple[Tensor, Tensor] | None  # rotary tables (L, H) in float32


class Inner(Protocol):
    """What a backend asks of the model that it runs; `models.recursive.RecursiveModel` is one."""

    networks: ClassVar[tuple[str, ...]]  # names of its attributes that are a `Network`
    dtype: torch.dtype  # of the computation
    training: bool

    @property
    def device(self) -> torch.device: ...


def networks_of(inner: Inner) -> list[Network]:
    return [getattr(inner, name) for name in inner.networks]


class Backend:
    """Base of all backends. A subclass defines `apply`, and of the rest what it does otherwise.

    A backend is made for one model, after that was moved to its device, and serves its training and evaluation.
    """

    def __init__(self) -> None:
        self.weights: Any = None  # what `prepared_weights` returned, during a step

    @staticmethod
    def fits(inner: Inner) -> bool:
        """Whether this backend can run the model's networks on the device they are on."""
        return True

    def apply(self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin) -> Tensor:
        """`network(h, injection, cos_sin)`; h, injection and the result (B, L, D) in the compute dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(network, h, injection, cos_sin)")

    def prepared_weights(self, inner: Inner) -> Any:
        """The current weights in the form that `apply` wants, for all applications of a supervision step."""
        return None

    @contextmanager
    def using(self, weights: Any) -> Iterator[None]:
        """Context manager in which `apply` takes these prepared weights."""
        self.weights = weights
        try:
            yield
        finally:
            self.weights = None

    def step(self, inner: Inner) -> AbstractContextManager[None]:
        """Context manager around the applications of one supervision step: weights are cast or packed once."""
        return self.using(self.prepared_weights(inner))

    def apply_checkpointed(
        self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin
    ) -> Tensor:
        """`apply` that keeps only its inputs for the backward pass, which computes the rest again.

        It does so after the step, with the weights of the step, so that it saves the same tensors.
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
        """`recursion(state, x)` without gradient.

        `rows_independent`: nothing is drawn at random for the batch as a whole.
        """
        with torch.no_grad():
            return recursion(state, x)

    def carried(self, state: State) -> State:
        """The state for the next supervision step: detached, in memory that no later step overwrites."""
        return tuple(latent.detach() for latent in state)
