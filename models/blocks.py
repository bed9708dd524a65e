"""The block and the network: what the recursion applies again and again.

Shapes: B batch, L sequence length with the puzzle prefix, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.backends.fused_cpu import FusedNetwork
from models.backends.fused_cpu.weights import Weights
from models.feedforward import FFNS
from models.layers import Attention, Linear
from models.ops import contiguous_if_faster, rms_norm


class Block(nn.Module):
    """Post-norm block: `h = rms(h + mix(h)); h = rms(h + SwiGLU(h))`.

    `mix` is self-attention, or with `mlp_t` a SwiGLU over the `length` positions of each channel
    (arXiv 2510.04871, section 4.5), whose sum is normalised over the positions. `ffn` names what stands for SwiGLU.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        expansion: float,
        length: int,
        mlp_t: bool,
        eps: float,
        ffn: str = "swiglu",
    ):
        super().__init__()
        self.eps = eps
        # The attribute names are those of published checkpoints.
        if mlp_t:
            self.mlp_t = FFNS[ffn](length, expansion, eps)
        else:
            self.self_attn = Attention(hidden_size, num_heads)
        self.mixes_by_mlp = mlp_t
        self.mlp = FFNS[ffn](hidden_size, expansion, eps)

    def forward(self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.mixes_by_mlp:
            h = contiguous_if_faster(h.transpose(1, 2))  # (B, D, L)
            h = contiguous_if_faster(rms_norm(h + self.mlp_t(h), self.eps).transpose(1, 2))
        else:
            h = rms_norm(h + self.self_attn(h, cos_sin), self.eps)
        return rms_norm(h + self.mlp(h), self.eps)

    def flops(self, length: int) -> int:
        """FLOP of the forward pass for one row of `length` positions."""
        if self.mixes_by_mlp:
            return self.mlp_t.flops(self.mlp.down_proj.weight.shape[0]) + self.mlp.flops(length)
        return self.self_attn.flops(length) + self.mlp.flops(length)


class Network(nn.Module):
    """`f(h, injection)`: a stack of blocks applied to `h + injection`, all (B, L, D)."""

    def __init__(self, blocks: list[Block]):
        super().__init__()
        self.layers = nn.ModuleList(blocks)
        # `apply_blocks` compiled for where no gradient is wanted, if that differs.
        self.apply_in_thread: Callable[..., Tensor] | None = None
        self.fused: FusedNetwork | None = None  # what takes the place of all of it, once asked for
        self.fused_weights: Weights | None = None  # while `weights_ready` lasts

    def forward(
        self,
        h: Tensor,
        injection: Tensor | None,
        cos_sin: tuple[Tensor, Tensor] | None,
        fused_weights: Weights | None = None,
    ) -> Tensor:
        if self.fused is not None:
            weights = fused_weights or self.fused_weights or self.fused.weights()
            return self.fused(h, injection, cos_sin, weights)
        # The sum stays outside of what `compile_blocks` compiles: one tensor comes in, contiguous, so that a graph
        # with gradient and one without serve all applications.
        in_thread = self.apply_in_thread is not None and not torch.is_grad_enabled()
        apply = self.apply_in_thread if in_thread else self.apply_blocks
        return apply(h if injection is None else h + injection, cos_sin)

    def flops(self, length: int) -> int:
        """FLOP of one application's forward pass for one row of `length` positions."""
        return sum(block.flops(length) for block in self.layers)

    def apply_blocks(self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
        for block in self.layers:
            h = block(h, cos_sin)
        return h

    def compile_blocks(
        self, mode: str = "default", on_cpu: bool = False, in_threads: bool = False, **options
    ) -> None:
        """Compile what an application does, by `torch.compile`; the state dict keeps its names.

        `in_threads`: applications without gradient will run in several threads of this process at once. `options`
        are `torch.compile`'s own, and take the place of what is chosen for a CPU here.
        """
        plain = self.apply_blocks
        if not on_cpu or options:
            self.apply_blocks = torch.compile(plain, dynamic=False, mode=mode, **options)
            return
        from torch._inductor import list_mode_options  # seconds of import

        # Measured: attention's softmax takes a third longer in place (benchmarks/README.md).
        chosen = list_mode_options(mode) | {"inplace_buffers": False}
        self.apply_blocks = torch.compile(plain, dynamic=False, options=chosen)
        if in_threads:
            # Called from C++, an application holds Python's lock at its start and end only.
            in_thread = chosen | {"cpp_wrapper": True}
            self.apply_in_thread = torch.compile(plain, dynamic=False, options=in_thread)


@contextmanager
def weights_cast(modules: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Within the block every `Linear` below `modules` uses one copy of its weight in `dtype`, made here."""
    linears = [m for module in modules for m in module.modules() if isinstance(m, Linear)]
    for linear in linears:
        assert linear.bias is None, "a cast for many applications is for the blocks' maps, which have no bias"
        linear.cast = None if linear.weight.dtype == dtype else linear.weight.detach().to(dtype)
    try:
        yield
    finally:
        for linear in linears:
            linear.cast = None


@contextmanager
def weights_ready(networks: Iterable[Network], dtype: torch.dtype) -> Iterator[None]:
    """Within the block the networks use one copy of their weights in `dtype`, as their applications want them."""
    networks = list(networks)
    fused = [network for network in networks if network.fused is not None]
    for network in fused:
        network.fused_weights = network.fused.weights()
    try:
        with weights_cast([network for network in networks if network.fused is None], dtype):
            yield
    finally:
        for network in fused:
            network.fused_weights = None
