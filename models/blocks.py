"""The block, and the network that the recursion applies repeatedly.

Shapes: B batch, L sequence length with the puzzle prefix, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from models.feedforward import FFNS
from models.layers import Attention
from models.ops import contiguous_if_faster, rms_norm


class NetworkBlock(nn.Module):
    """Base of every block: `h = block(h, cos_sin)`, both (B, L, D)."""

    def forward(self, h: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward(h, cos_sin)")

    def flops(self, length: int) -> int:
        """FLOP of the forward pass for one row of `length` positions."""
        raise NotImplementedError(f"{type(self).__name__} must define flops(length)")


class Block(NetworkBlock):
    """Post-norm block: `h = rms(h + mix(h)); h = rms(h + SwiGLU(h))`.

    `mix` is self-attention, or with `mlp_t` a SwiGLU over the `length` positions of each channel
    (arXiv 2510.04871, section 4.5), normalised over the positions. `ffn` chooses the variant of SwiGLU.
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
        if self.mixes_by_mlp:
            return self.mlp_t.flops(self.mlp.down_proj.weight.shape[0]) + self.mlp.flops(length)
        return self.self_attn.flops(length) + self.mlp.flops(length)


class Network(nn.Module):
    """`f(h, injection)`: a stack of blocks applied to `h + injection`, all (B, L, D)."""

    def __init__(self, blocks: Sequence[NetworkBlock]):
        super().__init__()
        self.layers = cast(Sequence[NetworkBlock], nn.ModuleList(blocks))  # ModuleList is not generic

    def forward(self, h: Tensor, injection: Tensor | None, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
        if injection is not None:
            h = h + injection
        for block in self.layers:
            h = block(h, cos_sin)
        return h

    def flops(self, length: int) -> int:
        """FLOP of one application's forward pass for one row of `length` positions."""
        return sum(block.flops(length) for block in self.layers)
