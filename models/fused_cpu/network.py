"""The application of a network to a batch: which networks fit, and its place in autograd's graph.

Shapes: B batch, L positions, D hidden size, W heads times head width, I inner width of SwiGLU, J of the one that mixes
the positions.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.feedforward import RMSSwiGLU
from models.fused_cpu.bindings import Kept, Shape, library, processor_fits
from models.fused_cpu.weights import Weights
from models.layers import SwiGLU

if TYPE_CHECKING:
    from models.blocks import Network

CosSin = tuple[Tensor, Tensor] | None
KeptTensors = list[dict[str, Tensor]]  # by layer, named as in the sources


def fits(network: Network, dtype: torch.dtype) -> bool:
    """Whether the library does what the network does, on this processor."""
    from models.blocks import Block

    if dtype != torch.bfloat16 or not network.layers or not processor_fits():
        return False
    return all(isinstance(block, Block) and block_fits(block) for block in network.layers)


def block_fits(block) -> bool:
    width = block.mlp.down_proj.weight.shape[0]
    if type(block.mlp) not in (SwiGLU, RMSSwiGLU) or width % 16:
        return False
    return block.mixes_by_mlp or (block.self_attn.head_dim % 16 == 0 and block.self_attn.head_dim <= 128)


class FusedNetwork:
    """`network(h, injection)` for both (B, L, D) in bfloat16. Raises what `library` raises."""

    def __init__(self, network: Network):
        library()  # compiled now rather than at the first step
        self.network = network
        block = network.layers[0]
        self.heads, self.head_dim, self.mix_inner = 0, 0, 0
        if block.mixes_by_mlp:
            self.mix_inner = block.mlp_t.down_proj.weight.shape[1]
        else:
            self.heads, self.head_dim = block.self_attn.num_heads, block.self_attn.head_dim
        self.inner = block.mlp.down_proj.weight.shape[1]
        self.rms_gated = isinstance(block.mlp, RMSSwiGLU)

    def weights(self) -> Weights:
        """Those of now, for as many applications as use them."""
        return Weights(self.network, with_gradient=torch.is_grad_enabled())

    def __call__(self, h: Tensor, injection: Tensor | None, cos_sin: CosSin, weights: Weights) -> Tensor:
        call = Call(self, weights, self.shape(*h.shape, cos_sin), cos_sin)
        if torch.is_grad_enabled():
            return Application.apply(h, injection, weights.token, call)
        return forward(call, h, injection, keeps=False)[0]

    def shape(self, rows: int, length: int, width: int, cos_sin: CosSin) -> Shape:
        cos, sin = (None, None) if cos_sin is None else (table.data_ptr() for table in cos_sin)
        sizes = {"rows": rows, "length": length, "width": width, "layers": len(self.network.layers)}
        sizes |= {
            "heads": self.heads,
            "head_dim": self.head_dim,
            "inner": self.inner,
            "mix_inner": self.mix_inner,
        }
        return Shape(**sizes, rms_gated=self.rms_gated, eps=self.network.layers[0].eps, cos=cos, sin=sin)


@dataclass
class Call:
    """What an application's backward pass needs beside tensors."""

    network: FusedNetwork
    weights: Weights
    shape: Shape
    cos_sin: CosSin  # whose memory `shape` points to

    @property
    def parts(self) -> int:
        """Into how many parts the rows go, one for each thread."""
        return max(1, min(torch.get_num_threads(), self.shape.rows))


class Application(torch.autograd.Function):
    """From h and injection, both (B, L, D), and the weights' token; their gradients are added to their sums."""

    @staticmethod
    def forward(ctx, h: Tensor, injection: Tensor | None, token: Tensor, call: Call) -> Tensor:
        out, kept = forward(call, h, injection, keeps=any(ctx.needs_input_grad))
        ctx.call, ctx.names = call, [list(layer) for layer in kept]
        ctx.save_for_backward(*(tensor for layer in kept for tensor in layer.values()))
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        kept = [{name: next(saved) for name in names} for names in ctx.names]
        grad = grad.contiguous()
        grad_in = torch.empty_like(grad)
        call = ctx.call
        run("backward", call, kept, call.weights.add_to(call.parts), grad, grad_in)
        needs_h, needs_injection, needs_token, _ = ctx.needs_input_grad
        return (
            grad_in if needs_h else None,
            grad_in if needs_injection else None,
            torch.zeros(()) if needs_token else None,
            None,
        )


def forward(call: Call, h: Tensor, injection: Tensor | None, keeps: bool) -> tuple[Tensor, KeptTensors]:
    """The application, and what its layers keep for the gradient."""
    h, injection = h.contiguous(), None if injection is None else injection.contiguous()
    out = torch.empty_like(h)
    kept = kept_tensors(call.network, out) if keeps else []
    run("forward", call, kept, h, injection, out)
    return out, kept


def kept_tensors(fused: FusedNetwork, out: Tensor) -> KeptTensors:
    """Room for what layers keep, `Kept` in the sources; what the last one gives is `out` (B, L, D)."""
    rows, length, width = out.shape
    heads_width, inner, mix_inner = fused.heads * fused.head_dim, fused.inner, fused.mix_inner

    def floats(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32)

    layers = []
    for _ in fused.network.layers:
        layer = {name: torch.empty_like(out) for name in ("before", "between")}
        if mix_inner:
            layer["mix_gate_up"] = out.new_empty(rows, 2 * mix_inner, width)
            layer |= {name: floats(rows, width) for name in ("scale_between", "scale_mix_inner")}
        else:
            layer |= {name: out.new_empty(rows, length, heads_width) for name in ("q", "k", "v", "mixed")}
            layer |= {"lse": floats(rows, fused.heads, length), "scale_between": floats(rows, length)}
        layer |= {"gate_up": out.new_empty(rows, length, 2 * inner), "scale_after": floats(rows, length)}
        layer["scale_inner"] = floats(rows, length)
        layers.append(layer)
    following = [layer["before"] for layer in layers[1:]] + [out]
    return [layer | {"after": after} for layer, after in zip(layers, following, strict=True)]


def run(name: str, call: Call, kept: KeptTensors, *arguments: Tensor | ctypes.Array | None) -> None:
    """`name` of the library, for all rows."""
    layers = [Kept(**{key: tensor.data_ptr() for key, tensor in layer.items()}) for layer in kept]
    all_kept = (Kept * len(layers))(*layers) if layers else None
    pointers = [each.data_ptr() if isinstance(each, Tensor) else each for each in arguments]
    function = getattr(library(), name)
    message = function(ctypes.byref(call.shape), call.weights.layers, call.parts, all_kept, *pointers)
    if message:
        raise RuntimeError(f"an application of the network on the CPU failed: {message.decode()}")
