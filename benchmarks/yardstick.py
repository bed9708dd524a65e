"""The matrix products of a train step or an evaluation, to be timed separately.

A product is (rows, inner) by a weight (columns, inner), in attention (batch, rows, inner) by (batch, inner, columns).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import NetworkBlock
from models.flops import count_applications
from models.layers import Attention, SwiGLU
from models.losses import ACTLossHead
from models.symbol_block import SymbolBlock
from models.unit_block import UnitBlock


@dataclass
class Product:
    """`left @ right`, computed `forward` times in a step, `backward` of them with gradient."""

    left: Tensor  # (rows, inner) or (batch, rows, inner)
    right: Tensor  # (columns, inner) as a weight, or (batch, inner, columns)
    forward: int
    backward: int

    @property
    def flops(self) -> int:
        """Number of multiplications and additions of the product."""
        columns = self.right.shape[0] if self.left.ndim == 2 else self.right.shape[-1]
        return 2 * self.left.numel() * columns

    def run(self, backward: bool) -> None:
        out = F.linear(self.left, self.right) if self.left.ndim == 2 else torch.bmm(self.left, self.right)
        if backward and self.left.ndim == 2:
            out @ self.right
            out.T @ self.left
        elif backward:
            torch.bmm(out, self.right.transpose(1, 2))
            torch.bmm(self.left.transpose(1, 2), out)


@dataclass
class Yardstick:
    """All products of a train step and of an evaluation batch of a model."""

    products: list[Product]
    num_eval_steps: int

    @classmethod
    def of(cls, model: ACTLossHead, batch: dict[str, Tensor], device: torch.device) -> Yardstick:
        """Collect products by counting the applications of each network in a supervision step."""
        inner = model.architecture
        rows, dtype = batch["inputs"].shape[0], inner.dtype

        def new(*shape: int) -> Tensor:
            return torch.randn(shape, device=device).to(dtype)

        def linear(num_rows: int, weight: Tensor, forward: int, backward: int) -> Product:
            return Product(new(num_rows, weight.shape[1]), new(*weight.shape), forward, backward)

        products = []
        for name, (without_gradient, backward) in count_applications(inner).items():
            forward = without_gradient + backward
            for block in getattr(inner, name).layers:
                if isinstance(block, UnitBlock):
                    products += [
                        linear(rows * count, weight, forward, backward)
                        for count, weight in _of_units(block, inner.length)
                    ]
                    continue
                for module in _parts(block):
                    if isinstance(module, Attention):
                        length = _sequence_length(module, block, inner.length)
                        num_rows = rows * inner.length
                        n, h = num_rows // length * module.num_heads, module.head_dim
                        products += [
                            linear(num_rows, module.qkv_proj.weight, forward, backward),
                            Product(new(n, length, h), new(n, h, length), forward, backward),
                            Product(new(n, length, length), new(n, length, h), forward, backward),
                            linear(num_rows, module.o_proj.weight, forward, backward),
                        ]
                    else:
                        over_positions = module is getattr(block, "mlp_t", None)
                        num_rows = rows * (inner.config.hidden_size if over_positions else inner.length)
                        products += [
                            linear(num_rows, module.gate_up_proj.weight, forward, backward),
                            linear(num_rows, module.down_proj.weight, forward, backward),
                        ]
        products.append(linear(rows * (inner.length - inner.prefix_len), inner.lm_head.weight, 1, 1))
        return cls(products, model.act.max_steps)

    @property
    def train_flops(self) -> int:
        """FLOPs of a train step, forward and backward."""
        return sum(p.flops * (p.forward + 2 * p.backward) for p in self.products)

    def train(self) -> None:
        with torch.no_grad():
            for p in self.products:
                for i in range(p.forward):
                    p.run(backward=i < p.backward)

    def evaluate(self) -> None:
        with torch.no_grad():
            for _ in range(self.num_eval_steps):
                for p in self.products:
                    for _ in range(p.forward):
                        p.run(backward=False)


def _parts(block: NetworkBlock) -> list[nn.Module]:
    return [module for module in block.children() if isinstance(module, Attention | SwiGLU)]


def _sequence_length(attention: Attention, block: NetworkBlock, length: int) -> int:
    """Return the length of the sequences that a block's attention mixes, for rows of `length` vectors."""
    if not isinstance(block, SymbolBlock):
        return length
    return block.num_symbols if attention is block.over_symbols else length // block.num_symbols


def _of_units(block: UnitBlock, length: int) -> list[tuple[int, Tensor]]:
    """Return (number of vectors per row, weight) for each weight of a block over units."""
    cells = block.units.num_cells
    found = [(length, block.of_pair.weight), (cells, block.of_cell.weight), (length, block.down_proj.weight)]
    for linear, extents in zip(block.of_units, block.units.kinds, strict=True):
        found += [(length // cells * block.units.num_units(extent), linear.weight) for extent in extents]
    return found
