"""Networks compiled by `torch.compile`, and what that asks of memory and threads.

Shapes: B batch, L positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from models.backends.base import CosSin, Inner, Recursion, State, networks_of
from models.backends.batch_chunks import BatchChunks
from models.backends.eager import Eager
from models.blocks import Network

# The modes of `torch.compile` that record CUDA graphs.
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")


Compiled = dict[Network, Callable[[Tensor, Tensor | None, CosSin], Tensor]]


class TorchCompile(Eager):
    """Runs each application of a network compiled, in a mode of `torch.compile` or with its `options`.

    The step as a whole is not compiled: its applications are alike, and unrolled they took several times longer to
    compile (figures in benchmarks/README.md). On a CPU, recursions without gradient take the batch in chunks.
    """

    def __init__(self, inner: Inner, mode: str = "default", **options: Any):
        super().__init__()
        networks, on_cpu = networks_of(inner), inner.device.type == "cpu"
        # If so, an application's output lies in the graph's own memory, which the next step overwrites.
        self.uses_cuda_graphs = mode in CUDA_GRAPH_MODES and inner.device.type == "cuda"
        self.chunks = BatchChunks(torch.get_num_threads()) if on_cpu else None
        if self.chunks is None or options:
            self.compiled = self.compiled_in_thread = compiled(networks, mode=mode, **options)
            return
        from torch._inductor import list_mode_options  # seconds of import

        # Measured: attention's softmax takes a third longer in place (benchmarks/README.md).
        chosen = list_mode_options(mode) | {"inplace_buffers": False}
        self.compiled = self.compiled_in_thread = compiled(networks, options=chosen)
        if self.chunks.num_threads > 1:
            # Called from C++, an application holds Python's lock only at its start and end.
            self.compiled_in_thread = compiled(networks, options=chosen | {"cpp_wrapper": True})

    def step(self, inner: Inner) -> AbstractContextManager[None]:
        # Not where training looks a step ahead without gradient: the step before it still waits for its backward pass.
        if self.uses_cuda_graphs and (torch.is_grad_enabled() or not inner.training):
            torch.compiler.cudagraph_mark_step_begin()
        return super().step(inner)

    def apply(self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin) -> Tensor:
        # The sum stays outside of what is compiled: one tensor comes in, contiguous, so that a graph with gradient and
        # one without serve all applications.
        of_network = self.compiled if torch.is_grad_enabled() else self.compiled_in_thread
        return of_network[network](h if injection is None else h + injection, None, cos_sin)

    def run_without_grad(
        self, recursion: Recursion, state: State, x: Tensor, rows_independent: bool = True
    ) -> State:
        if self.chunks is not None and rows_independent:
            return self.chunks.apply(recursion, state, x)
        return super().run_without_grad(recursion, state, x)

    def carried(self, state: State) -> State:
        detached = super().carried(state)
        return tuple(latent.clone() for latent in detached) if self.uses_cuda_graphs else detached


def compiled(networks: Iterable[Network], **options: Any) -> Compiled:
    """Each network's application by `torch.compile` with these arguments; the state dict keeps its names."""
    return {network: torch.compile(network.forward, dynamic=False, **options) for network in networks}
