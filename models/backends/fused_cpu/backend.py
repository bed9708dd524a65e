"""The backend: runs networks in C++, with weights packed once per supervision step."""

from __future__ import annotations

import torch
from torch import Tensor

from models.backends.base import Backend, CosSin, Inner, networks_of
from models.backends.fused_cpu.atan2_step import ATan2Step
from models.backends.fused_cpu.embedded_tokens import EmbeddedTokens
from models.backends.fused_cpu.network import FusedNetwork, fits
from models.backends.fused_cpu.packed_weights import Weights
from models.blocks import Network


class FusedCPU(Backend):
    """Runs the networks in C++; the constructor raises the same errors as `FusedNetwork`."""

    def __init__(self, inner: Inner):
        super().__init__()
        self.fused = {network: FusedNetwork(network, inner.dtype) for network in networks_of(inner)}
        self.compiled = next(iter(self.fused.values())).compiled
        self.adam_atan2 = ATan2Step.if_exact(self.compiled)

    @staticmethod
    def fits(inner: Inner) -> bool:
        return inner.device.type == "cpu" and all(
            fits(network, inner.dtype) for network in networks_of(inner)
        )

    def embed(self, ids: Tensor, table: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().embed(ids, table)
        return EmbeddedTokens.apply(ids, table, self.compiled)

    def prepared_weights(self, inner: Inner) -> dict[Network, Weights]:
        return {network: fused.weights() for network, fused in self.fused.items()}

    def apply(self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin) -> Tensor:
        return self.apply_repeatedly(network, h, injection, cos_sin, 1)

    def apply_repeatedly(
        self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin, times: int
    ) -> Tensor:
        return self.fused[network](h, injection, cos_sin, self.weights and self.weights[network], times)

    def apply_checkpointed(
        self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin
    ) -> Tensor:
        weights = self.weights and self.weights[network]
        return self.fused[network](h, injection, cos_sin, weights, recomputes=True)
