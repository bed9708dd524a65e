"""Backend that compiles networks with `torch.compile`, and handles its memory and threads.

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

# Modes of `torch.compile` that record CUDA graphs.
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")


Compiled = dict[Network, Callable[[Tensor, Tensor | None, CosSin], Tensor]]


class TorchCompile(Eager):
    """Compiles the application of each network, in a mode of `torch.compile` or with `options`.

    The step as a whole is not compiled, because its applications are identical and unrolling them took several times
    longer to compile (benchmarks/LOG.md). On a CPU, recursions without gradient run on chunks of the batch.
    """

    def __init__(self, inner: Inner, mode: str = "default", **options: Any):
        super().__init__()
        # Tells the compiler too, which `utils.device.make_deterministic` does not import.
        torch.use_deterministic_algorithms(
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        networks, on_cpu = networks_of(inner), inner.device.type == "cpu"
        # With CUDA graphs an application's output is in the graph's memory, which the next step overwrites.
        self.uses_cuda_graphs = mode in CUDA_GRAPH_MODES and inner.device.type == "cuda"
        self.chunks = BatchChunks(torch.get_num_threads()) if on_cpu else None
        if self.chunks is None or options:
            self.compiled = self.compiled_in_thread = compiled(networks, mode=mode, **options)
            return
        from torch._inductor import list_mode_options  # seconds of import

        # In-place buffers make attention's softmax a third slower (benchmarks/LOG.md).
        chosen = list_mode_options(mode) | {"inplace_buffers": False}
        self.compiled = self.compiled_in_thread = compiled(networks, options=chosen)
        if self.chunks.num_threads > 1:
            # A C++ wrapper holds Python's global lock only at the start and end of an application.
            self.compiled_in_thread = compiled(networks, options=chosen | {"cpp_wrapper": True})

    def step(self, inner: Inner) -> AbstractContextManager[None]:
        # Not for Q-learning's extra step without gradient, because the step before it still needs its backward pass.
        if self.uses_cuda_graphs and (torch.is_grad_enabled() or not inner.training):
            torch.compiler.cudagraph_mark_step_begin()
        return super().step(inner)

    def apply(self, network: Network, h: Tensor, injection: Tensor | None, cos_sin: CosSin) -> Tensor:
        # The sum is not compiled: the graph then has one contiguous input, so that one graph with gradient and one
        # without serve all applications.
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
    """Compile each network's `forward` with these arguments of `torch.compile`; the state dict keeps its names."""
    return {network: torch.compile(network.forward, dynamic=False, **options) for network in networks}
