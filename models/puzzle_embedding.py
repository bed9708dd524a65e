"""The sparse table of puzzle embeddings: outside autograd, read through a per-batch leaf.

Shapes: B batch, N number of puzzle identifiers, E `puzzle_emb_ndim`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PuzzleEmbedding(nn.Module):
    """Zero-initialised (N, E) float32 table whose gradient exists for the batch's rows only.

    In training a call copies the batch's rows into a new leaf (B, E) and appends it with its ids to `leaves`, once per
    micro-batch. After backward `SparseSignSGD` updates the touched rows from the leaves' gradients. In evaluation the
    table is read directly.
    """

    weights: Tensor

    def __init__(self, num_puzzles: int, dim: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(num_puzzles, dim))
        self.leaves: list[tuple[Tensor, Tensor]] = []

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.weights[ids]
        if self.training and torch.is_grad_enabled():
            self.leaves.append((ids, rows.requires_grad_()))
        return rows
