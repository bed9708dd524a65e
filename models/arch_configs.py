"""Settings of the architectures and of the loss head (`arch.*`), with their limits and consistency checks.

No torch here: a config is checked, and help is printed, before torch is imported.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from dataset.units import CellUnits
from utils.strict_model import StrictModel

# Larger values would take hours or days for a single step or evaluation; published models use 1 to 16 of each.
MAX_CYCLES, MAX_LAYERS, MAX_STEPS = 1000, 1000, 100_000


def prefix_length(hidden_size: int, puzzle_emb_ndim: int, puzzle_emb_len: int) -> int:
    """Return the number of positions P of the puzzle embedding: `puzzle_emb_len`, or as few as it needs if that is 0.

    Raises ValueError if the embedding does not fit into `puzzle_emb_len` positions.
    """
    if puzzle_emb_ndim == 0:
        return 0
    length = puzzle_emb_len or -(-puzzle_emb_ndim // hidden_size)
    if puzzle_emb_ndim > length * hidden_size:
        raise ValueError(
            f"puzzle_emb_ndim={puzzle_emb_ndim} does not fit into puzzle_emb_len={length} positions of "
            f"hidden_size={hidden_size}: raise puzzle_emb_len to {-(-puzzle_emb_ndim // hidden_size)} or set it to 0"
        )
    return length


def grid_side(seq_len: int) -> int:
    """Return the side of a square grid of `seq_len` cells. Raises ValueError if that is not a square number."""
    side = math.isqrt(seq_len)
    if side * side != seq_len:
        raise ValueError(
            f"pos_encodings=rope2d needs a square grid, but seq_len={seq_len}: use rope or learned"
        )
    return side


class RecursiveConfig(StrictModel):
    """Settings under `arch`, plus the three sizes set by the dataset."""

    # Sizes that no weight depends on: a model trained with one value can be evaluated with another.
    free_sizes: ClassVar[tuple[str, ...]] = ()

    seq_len: int = Field(gt=0)
    """Cells of a puzzle; set by the dataset."""
    vocab_size: int = Field(gt=1)
    """Number of tokens; set by the dataset."""
    num_puzzle_identifiers: int = Field(default=1, gt=0)
    """Rows of the puzzle-embedding table; set by the dataset."""

    hidden_size: int = Field(default=512, gt=0)
    """Width D of the latents."""
    num_heads: int = Field(default=8, gt=0)
    """Attention heads, of floor(D / heads) channels."""
    expansion: float = Field(default=4, gt=0)
    """SwiGLU's inner width is expansion · width · 2/3, rounded up to a multiple of 256."""
    H_cycles: int = Field(default=3, ge=1, le=MAX_CYCLES)
    """Cycles per supervision step."""
    L_cycles: int = Field(default=6, ge=1, le=MAX_CYCLES)
    """Updates of z per cycle."""
    H_layers: int = Field(default=0, ge=0, le=MAX_LAYERS)
    """Blocks of the second network (hrm, transformers_baseline); no effect in trm."""
    L_layers: int = Field(default=2, ge=0, le=MAX_LAYERS)
    """Blocks of the network."""
    pos_encodings: Literal["rope", "rope2d", "learned", "none"] = "rope"
    """Position encoding: rope, rope2d (over the rows and columns of a square grid), learned or none."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square in RMS norm."""
    mlp_t: bool = False
    """An MLP over cells instead of attention."""
    ffn: Literal["swiglu", "rms_swiglu", "conv_swiglu"] = "swiglu"
    """Feed-forward layer; rms_swiglu: RMS-gated; conv_swiglu: with a convolution over positions
    (arXiv 2512.14693), the default of urm.
    """
    puzzle_emb_ndim: int = Field(default=512, ge=0)
    """Channels of a puzzle embedding; 0: none, and no prefix."""
    puzzle_emb_len: int = Field(default=16, ge=0)
    """Tokens of the puzzle prefix; 0: as few as the embedding needs."""
    forward_dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    """Dtype of the computation; weights are float32. The CPU recipes write ${faster_dtype:${device}}:
    bfloat16 on processors with AMX and on AMD's with avx512_bf16, else float32.
    """

    # Equilibrium reasoning (arXiv 2605.21488), in training and in evaluation
    random_init: bool = False
    """Draw the latents of a reset row from a truncated normal of std 1 (arXiv 2605.21488)."""
    damping: float = Field(default=0.0, ge=0, lt=1)
    """Share of the old latent that an update keeps (arXiv 2605.21488)."""
    noise: float = Field(default=0.0, ge=0)
    """Std of the noise added to each updated latent (arXiv 2605.21488)."""

    train_noise: float = Field(default=0.0, ge=0)
    """Std of the noise added to all latents before each supervision step of training, against overfitting;
    evaluation adds none.
    """

    halt_max_steps: int = Field(default=16, ge=1, le=MAX_STEPS)
    """Maximum number of supervision steps per example."""
    halt_exploration_prob: float = Field(default=0.1, ge=0, le=1)
    """Probability that a row may not halt before a step drawn from 2 to halt_max_steps."""
    no_ACT_continue: bool = True
    """true: halt on q_halt > 0; false: on q_halt > q_continue, which is then learned."""
    halting: Literal["halt", "q_learning"] | None = None
    """halt: on q_halt > 0; q_learning: on q_halt > q_continue, both learned; null: as published for the
    architecture.
    """
    act_enabled: bool = True
    """Halting in training."""
    act_inference: bool = False
    """Halting in evaluation."""

    @model_validator(mode="after")
    def check_widths(self):
        prefix_length(self.hidden_size, self.puzzle_emb_ndim, self.puzzle_emb_len)
        head_dim = self.hidden_size // self.num_heads
        if not self.mlp_t and head_dim == 0:
            raise ValueError(
                f"num_heads={self.num_heads} is more than hidden_size={self.hidden_size}: lower it"
            )
        if not self.mlp_t and self.pos_encodings == "rope" and head_dim % 2:
            raise ValueError(
                f"rope needs an even head width, but hidden_size={self.hidden_size} / num_heads={self.num_heads} "
                f"gives {head_dim}: change one of them, or pos_encodings"
            )
        if not self.mlp_t and self.pos_encodings == "rope2d":
            grid_side(self.seq_len)
            if head_dim % 4:
                raise ValueError(
                    f"rope2d needs a head width that is a multiple of 4, but hidden_size={self.hidden_size} / "
                    f"num_heads={self.num_heads} gives {head_dim}: change one of them, or pos_encodings"
                )
        if self.mlp_t and self.pos_encodings == "rope2d":
            raise ValueError("pos_encodings=rope2d rotates queries and keys, but mlp_t=True has no attention")
        if self.mlp_t and self.ffn == "conv_swiglu":
            raise ValueError(
                "ffn=conv_swiglu convolves over positions, but mlp_t=True mixes them with an MLP: use mlp_t=False, or "
                "another ffn"
            )
        return self


class PooledConfig(RecursiveConfig):
    """Settings of networks that mix positions by pooling: no attention, position encoding or puzzle prefix."""

    num_heads: int = Field(default=1, ge=1, le=1)
    expansion: float = Field(default=2, gt=0)
    L_layers: int = Field(default=1, ge=0, le=MAX_LAYERS)
    pos_encodings: Literal["none"] = "none"
    ffn: Literal["swiglu"] = "swiglu"
    mlp_t: Literal[False] = False
    puzzle_emb_ndim: int = Field(default=0, ge=0, le=0)
    puzzle_emb_len: int = Field(default=0, ge=0, le=0)


class Hier6Config(RecursiveConfig):
    """Settings of `trm_hier6`."""

    # Each step of a cycle replaces one of the six latents.
    L_cycles: int = Field(default=6, ge=1, le=6)
    # Damping is undefined, because the network's input is a sum and not the latent that it replaces.
    damping: float = Field(default=0.0, ge=0, le=0)


class HRMConfig(RecursiveConfig):
    """Settings of `hrm`."""

    H_cycles: int = Field(default=2, ge=1, le=MAX_CYCLES)
    L_cycles: int = Field(default=2, ge=1, le=MAX_CYCLES)
    H_layers: int = Field(default=4, ge=1, le=MAX_LAYERS)
    L_layers: int = Field(default=4, ge=1, le=MAX_LAYERS)
    puzzle_emb_len: int = Field(default=0, ge=0, le=0)  # as few tokens as the embedding needs


class TransformersBaselineConfig(RecursiveConfig):
    """Settings of `transformers_baseline`."""

    # Published configs set both cycles; the stack is applied once anyway.
    H_cycles: int = Field(default=1, ge=1, le=MAX_CYCLES)
    L_cycles: int = Field(default=1, ge=0, le=MAX_CYCLES)
    H_layers: int = Field(default=8, ge=1, le=MAX_LAYERS)
    L_layers: int = Field(default=0, ge=0, le=MAX_LAYERS)
    num_heads: int = Field(default=12, gt=0)
    puzzle_emb_len: int = Field(default=0, ge=0, le=0)


class URMConfig(RecursiveConfig):
    """Settings of `urm`."""

    H_cycles: int = Field(default=2, ge=1, le=MAX_CYCLES)
    L_layers: int = Field(default=4, ge=1, le=MAX_LAYERS)
    ffn: Literal["swiglu", "rms_swiglu", "conv_swiglu"] = "conv_swiglu"


class SERRMConfig(RecursiveConfig):
    """Settings of `se_rrm`."""

    free_sizes: ClassVar[tuple[str, ...]] = ("seq_len", "vocab_size")
    hidden_size: int = Field(default=256, gt=0)
    num_heads: int = Field(default=4, gt=0)
    num_registers: int = Field(default=4, ge=1)
    """Learned positions in addition to the cells; q_halt reads the first."""
    pos_encodings: Literal["rope2d"] = "rope2d"
    ffn: Literal["swiglu", "rms_swiglu"] = "swiglu"
    mlp_t: Literal[False] = False
    puzzle_emb_ndim: int = Field(default=0, ge=0, le=0)
    puzzle_emb_len: int = Field(default=0, ge=0, le=0)


class EquivariantConfig(PooledConfig):
    """Settings of `trm_equivariant`."""

    free_sizes: ClassVar[tuple[str, ...]] = ("seq_len", "vocab_size")

    units: CellUnits | None = None
    """Which cells share a unit; set by the dataset; None: the usual boxes of Sudoku."""
    hidden_size: int = Field(default=48, gt=0)
    pooling: Literal["mean", "mean_max"] = "mean_max"
    """How a unit is pooled: mean, or mean_max, mean and maximum concatenated."""
    H_cycles: int = Field(default=2, ge=1, le=MAX_CYCLES)
    L_cycles: int = Field(default=3, ge=1, le=MAX_CYCLES)

    @model_validator(mode="after")
    def check_units(self):
        if self.units is not None and self.units.num_cells != self.seq_len:
            raise ValueError(
                f"the data's units have {self.units.num_cells} cells, but its sequences have {self.seq_len}"
            )
        return self


class LocalConfig(PooledConfig):
    """Settings of `trm_local`."""

    free_sizes: ClassVar[tuple[str, ...]] = ("seq_len",)

    hidden_size: int = Field(default=32, gt=0)
    directions: Literal["distinct", "shared"] = "distinct"
    """The four neighbours of a cell: distinct, with weights for each direction, or shared, pooled: then
    rotating or mirroring a puzzle does the same to its answer.
    """
    H_cycles: int = Field(default=1, ge=1, le=MAX_CYCLES)
    L_cycles: int = Field(default=12, ge=1, le=MAX_CYCLES)

    @field_validator("seq_len")
    @classmethod
    def check_square(cls, seq_len: int) -> int:
        if math.isqrt(seq_len) ** 2 != seq_len:
            raise ValueError(
                f"trm_local needs a square grid, but seq_len={seq_len} is not a square number: use another arch"
            )
        return seq_len


# What `arch.name` can be, and the settings of each; `models.architectures.ARCHITECTURES` has their classes.
CONFIGS: dict[str, type[RecursiveConfig]] = {
    "trm": RecursiveConfig,
    "trm_singlez": RecursiveConfig,
    "trm_hier6": Hier6Config,
    "hrm": HRMConfig,
    "transformers_baseline": TransformersBaselineConfig,
    "urm": URMConfig,
    "se_rrm": SERRMConfig,
    "trm_equivariant": EquivariantConfig,
    "trm_local": LocalConfig,
}

# models.losses.TOKEN_LOSSES has the functions.
LOSS_TYPES = ("stablemax_cross_entropy", "softmax_cross_entropy")


class LossConfig(StrictModel):
    """Settings of the loss head."""

    loss_type: str = "stablemax_cross_entropy"
    """Loss per token: stablemax_cross_entropy or softmax_cross_entropy."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label spread over all tokens, in training only."""
    q_halt_weight: float = Field(default=0.5, ge=0)
    """Weight of the halting losses, also of q_continue's."""
    supervision_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on a row's weight from one supervision step to the next."""
