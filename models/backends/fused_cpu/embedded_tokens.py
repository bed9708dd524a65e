"""Token embeddings whose gradient is summed in C++.

Shapes: B batch, S `seq_len`, V vocabulary, D hidden size.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class EmbeddedTokens(torch.autograd.Function):
    """`table[ids]` for a table (V, D) and ids (B, S); returns (B, S, D), D a multiple of the library's vectors.

    As in torch, the table's gradient adds one position after another in the dtype of the table, so it is bit-equal, but
    torch makes three tensors for each position.
    """

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor, library: ctypes.CDLL) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.num_rows, ctx.compiled = len(table), library
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (ids,) = ctx.saved_tensors
        ids, grad = ids.to(torch.int32).contiguous(), grad.contiguous()
        total = grad.new_zeros(ctx.num_rows, grad.shape[-1])
        ctx.compiled.sum_rows_by_id(
            ids.data_ptr(), ids.numel(), grad.shape[-1], grad.data_ptr(), total.data_ptr()
        )
        return None, total, None
