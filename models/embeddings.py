"""Input embedding `x` of the recursion: tokens, puzzle prefix, positions. The only owner of the prefix length.

Shapes: B batch, S `seq_len`, P prefix length, L = P + S, D hidden size, E `puzzle_emb_ndim`.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arch_configs import prefix_length
from models.backends.base import Backend
from models.grid_rotary import GridRotaryEmbedding
from models.layers import Embedding, RotaryEmbedding
from models.puzzle_embedding import PuzzleEmbedding


class EmbeddingConfig(Protocol):
    """The settings that the tables depend on; `models.recursive.RecursiveConfig` has them."""

    seq_len: int
    vocab_size: int
    num_puzzle_identifiers: int
    hidden_size: int
    num_heads: int
    pos_encodings: Literal["rope", "rope2d", "learned", "none"]
    rope_theta: float
    puzzle_emb_ndim: int
    puzzle_emb_len: int


class InputEmbedding(nn.Module):
    """The tables that make `x` (B, L, D), and the rotary tables.

    A base class rather than a submodule, because published checkpoints have the tables at this level
    (`inner.embed_tokens...`, `inner.puzzle_emb...`).
    """

    backend: Backend  # of the model that this is a part of
    rotary_emb: RotaryEmbedding | GridRotaryEmbedding

    def __init__(self, config: EmbeddingConfig, dtype: torch.dtype):
        super().__init__()
        hidden = config.hidden_size
        self.dtype = dtype
        self.scale = math.sqrt(hidden)
        self.prefix_len = prefix_length(hidden, config.puzzle_emb_ndim, config.puzzle_emb_len)
        self.length = self.prefix_len + config.seq_len
        self.embed_tokens = Embedding(config.vocab_size, hidden, std=1 / self.scale, dtype=dtype)

    def add_tables(self, config: EmbeddingConfig) -> None:
        """Create the optional tables, after the heads because the order of parameters is part of the format."""
        if config.puzzle_emb_ndim > 0:
            self.puzzle_emb = PuzzleEmbedding(config.num_puzzle_identifiers, config.puzzle_emb_ndim)
        if config.pos_encodings == "rope":
            head_dim = config.hidden_size // config.num_heads
            self.rotary_emb = RotaryEmbedding(head_dim, self.length, config.rope_theta)
        elif config.pos_encodings == "rope2d":
            self.rotary_emb = GridRotaryEmbedding(
                config.hidden_size // config.num_heads, self.prefix_len, config.seq_len, config.rope_theta
            )
        elif config.pos_encodings == "learned":
            self.embed_pos = Embedding(self.length, config.hidden_size, std=1 / self.scale, dtype=self.dtype)

    def puzzle_rows(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Return the batch's rows (B, E) of the puzzle table; in training a leaf that receives their gradient."""
        return self.puzzle_emb(batch["puzzle_identifiers"]) if self.prefix_len else None

    def embed(self, inputs: Tensor, puzzle_rows: Tensor | None) -> Tensor:
        """Return `x = sqrt(D) · cat(puzzle prefix, token embedding)`, (B, L, D)."""
        x = self.embed_tokens(inputs, self.backend.embed)
        if puzzle_rows is not None:
            room = self.prefix_len * x.shape[-1] - puzzle_rows.shape[-1]
            prefix = F.pad(puzzle_rows, (0, room)).view(-1, self.prefix_len, x.shape[-1])
            x = torch.cat((prefix.to(x.dtype), x), dim=1)
        if hasattr(self, "embed_pos"):
            x = math.sqrt(0.5) * (x + self.embed_pos.embedding_weight.to(x.dtype))
        return self.scale * x

    def cos_sin(self) -> tuple[Tensor, Tensor] | None:
        return self.rotary_emb() if hasattr(self, "rotary_emb") else None
