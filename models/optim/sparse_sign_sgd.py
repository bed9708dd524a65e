"""SignSGD on the rows of the puzzle table that occur in the batch.

Shapes: B batch (of this rank), E `puzzle_emb_ndim`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.optim.uncompiled import EagerOptimizer
from models.puzzle_embedding import PuzzleEmbedding


def sum_by_id(ids: Tensor, rows: Tensor) -> Tensor:
    """Replace every row (B, E) by the sum of the rows with the same id.

    Uses a sort and a segment sum, because `torch.unique` synchronises with the device.
    """
    sorted_ids, order = torch.sort(ids, stable=True)
    starts = torch.ones_like(sorted_ids)
    starts[1:] = (sorted_ids[1:] != sorted_ids[:-1]).to(starts.dtype)
    segment = starts.cumsum(0) - 1  # (B,), for the sorted rows
    sums = torch.zeros_like(rows).index_add_(0, segment, rows[order])
    return torch.empty_like(rows).index_copy_(0, order, sums[segment])


class SparseSignSGD(EagerOptimizer):
    """`p <- p·(1 - lr·wd) - lr·sign(Σg)` on the touched rows; gradients of equal ids are summed, over all ranks.

    `gather` concatenates a tensor of all ranks in rank order; it is the identity for one process. A step without
    gradients (no training call since the last step) changes nothing.
    """

    def __init__(
        self,
        table: PuzzleEmbedding,
        lr: float = 1e-2,
        weight_decay: float = 0.1,
        gather: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ):
        super().__init__([table.weights], {"lr": lr, "weight_decay": weight_decay})
        self.table, self.gather = table, gather

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.table.leaves.clear()

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None, "SparseSignSGD takes no closure"
        leaves = [(ids, leaf.grad) for ids, leaf in self.table.leaves if leaf.grad is not None]
        if not leaves:
            return
        (group,) = self.param_groups
        ids = self.gather(torch.cat([ids for ids, _ in leaves])).long()
        gradient = self.gather(torch.cat([gradient for _, gradient in leaves]))
        weights = self.table.weights
        rows = weights[ids] * (1 - group["lr"] * group["weight_decay"])
        rows -= group["lr"] * torch.sign(sum_by_id(ids, gradient))
        weights[ids] = rows  # equal ids write equal rows
