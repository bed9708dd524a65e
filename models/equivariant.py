"""A network that is equivariant under every symmetry of the puzzle: it knows which cells share a unit.

The network sees a grid only through pooling over units (cell, row, column, box), so permuting symbols, or cells in any
way that maps units onto units, permutes its answer in the same way. It is told which cells share a unit, which is a
part of the rules, and nothing else of them. Everything else is TRM (arXiv 2510.04871): state (y, z), cycles,
gradient through the last H-cycle, heads, halting.

Shapes: B batch, S `seq_len` cells, N symbols, L = S·N pairs of a cell and a symbol, D hidden size, V vocabulary.
No weight knows S or N: a model trained on grids of one size answers grids of another.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dataset.units import CellUnits
from models.blocks import Network
from models.layers import Embedding, Linear
from models.ops import few_rows, rms_norm, silu_gate
from models.recursive import MAX_CYCLES, MAX_LAYERS, RecursiveConfig, RecursiveModel, State

BLANK_ID, FIRST_SYMBOL_ID = 1, 2  # tokens: 0 pad, 1 blank, then the symbols
GIVEN, EXCLUDED, OPEN = range(3)  # what a clue says of a pair: this symbol, another one, nothing
ABSENT_LOGIT = (
    -1e4
)  # of pad and blank, which no answer contains: probability 0 in softmax, 1e-4 of s(0) in stablemax


class UnitBlock(nn.Module):
    """`h = rms(h + SwiGLU(h, pooled h))` for h (B, L, D): one linear map of each pair and of each unit it is in.

    gate and up are the sum of a map of the pair itself, of its cell's pooled vector (over the symbols) and of the
    pooled vectors of the units (over their cells, for this symbol). Pooling is a mean, or a mean beside a maximum.
    """

    def __init__(self, config: EquivariantModel.Config, units: CellUnits):
        super().__init__()
        width, inner = config.hidden_size, round(config.expansion * config.hidden_size)
        pooled = width * (2 if config.pooling == "mean_max" else 1)
        self.units, self.pooling, self.eps = units, config.pooling, config.rms_norm_eps
        self.of_pair = Linear(width, 2 * inner)
        self.of_cell = Linear(pooled, 2 * inner)
        self.of_units = nn.ModuleList(Linear(pooled, 2 * inner) for _ in units.kinds)
        self.down_proj = Linear(inner, width)

    def pool(self, h: Tensor, axes: tuple[int, ...]) -> Tensor:
        mean = h.mean(axes, keepdim=True)
        return torch.cat((mean, h.amax(axes, keepdim=True)), dim=-1) if self.pooling == "mean_max" else mean

    def forward(self, h: Tensor, cos_sin: None = None) -> Tensor:
        axes = self.units.axes
        grid = h.view(h.shape[0], *axes, -1, h.shape[-1])  # (B, *axes, N, D)
        gate_up = self.of_pair(grid) + self.of_cell(self.pool(grid, (len(axes) + 1,)))
        for linear, extents in zip(self.of_units, self.units.kinds, strict=True):
            for extent in extents:
                gate_up = gate_up + linear(self.pool(grid, tuple(axis + 1 for axis in extent)))
        return rms_norm(grid + self.down_proj(silu_gate(gate_up)), self.eps).view(h.shape)

    def flops(self, length: int) -> int:
        """FLOP of the forward pass for one row of `length` pairs; pooled vectors are mapped once for each unit."""
        cells = self.units.num_cells
        symbols = length // cells
        products = self.of_pair.flops(length) + self.of_cell.flops(cells) + self.down_proj.flops(length)
        for linear, extents in zip(self.of_units, self.units.kinds, strict=True):
            products += sum(linear.flops(symbols * self.units.num_units(extent)) for extent in extents)
        return products


class EquivariantModel(RecursiveModel):
    """Embedding, network and heads for latents with a vector for each pair of a cell and a symbol, (B, S·N, D)."""

    knows: ClassVar = "which cells share a row, column, box or other unit, and that all symbols are alike"

    class Config(RecursiveConfig):
        free_sizes: ClassVar = ("seq_len", "vocab_size")

        units: CellUnits | None = None
        """Which cells share a unit; the data says it, None: the usual boxes of Sudoku."""
        hidden_size: int = Field(default=48, gt=0)
        num_heads: int = Field(default=1, ge=1, le=1)
        expansion: float = Field(default=2, gt=0)
        pooling: Literal["mean", "mean_max"] = "mean_max"
        """How a unit is pooled: mean, or mean_max, the mean beside the maximum."""
        H_cycles: int = Field(default=2, ge=1, le=MAX_CYCLES)
        L_cycles: int = Field(default=3, ge=1, le=MAX_CYCLES)
        L_layers: int = Field(default=1, ge=0, le=MAX_LAYERS)
        pos_encodings: Literal["none"] = "none"
        ffn: Literal["swiglu"] = "swiglu"
        mlp_t: Literal[False] = False
        puzzle_emb_ndim: int = Field(default=0, ge=0, le=0)
        puzzle_emb_len: int = Field(default=0, ge=0, le=0)

        @model_validator(mode="after")
        def check_units(self):
            if self.units is not None and self.units.num_cells != self.seq_len:
                raise ValueError(
                    f"the data's units have {self.units.num_cells} cells, its sequences {self.seq_len}"
                )
            return self

    def __init__(self, config: EquivariantModel.Config):
        self.units = config.units or CellUnits.usual(config.seq_len)
        super().__init__(config)
        self.num_symbols = config.vocab_size - FIRST_SYMBOL_ID
        self.length = config.seq_len * self.num_symbols
        self.embed_tokens = Embedding(3, config.hidden_size, 1 / self.scale, self.dtype)
        self.lm_head = Linear(config.hidden_size, 1)
        self.q_head = Linear(2 * config.hidden_size, 2, bias=True)
        with torch.no_grad():  # as in every architecture: nothing halts at first
            self.q_head.weight.zero_()
            self.q_head.bias.fill_(-5.0)

    def make_network(self, num_layers: int) -> Network:
        return Network([UnitBlock(self.config, self.units) for _ in range(num_layers)])

    def embed(self, inputs: Tensor, puzzle_rows: Tensor | None) -> Tensor:
        """(B, L, D): for each pair what the clue in its cell says of it."""
        symbols = torch.arange(FIRST_SYMBOL_ID, self.config.vocab_size, device=inputs.device)
        cells = inputs.unsqueeze(-1)  # (B, S, 1)
        says = torch.where(cells == symbols, GIVEN, EXCLUDED)
        says = torch.where(cells < FIRST_SYMBOL_ID, OPEN, says)  # (B, S, N)
        return few_rows(self.scale * self.embed_tokens.embedding_weight.to(self.dtype), says.flatten(1))

    def embedding_gradient_flops(self) -> int:
        return 2 * self.length * self.embed_tokens.embedding_weight.numel()

    def heads(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        answer = state[0].unflatten(1, (-1, self.num_symbols))  # (B, S, N, D)
        logits = F.pad(self.lm_head(answer).squeeze(-1), (FIRST_SYMBOL_ID, 0), value=ABSENT_LOGIT)
        cells = answer.mean(2)  # (B, S, D)
        q = self.q_head(torch.cat((cells.mean(1), cells.amax(1)), dim=-1)).float()
        return logits, q[:, 0], q[:, 1]
