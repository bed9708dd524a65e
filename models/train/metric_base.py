"""Base of the metrics of a supervision step: a value per row, computed from the rows' labels and outputs.

Shapes: B rows, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class StepRows:
    """The rows of one supervision step, as input of the metrics."""

    outputs: dict[str, Tensor]
    """The model's outputs: `logits`, `q_halt_logits`, ..., and `preds` (B, S)."""
    labels: Tensor  # (B, S)
    steps: Tensor  # (B,) int: supervision steps since the row's reset
    num_labelled: Tensor  # (B,) int
    num_correct: Tensor  # (B,) int
    exact: Tensor  # (B,) bool: every label is met
    solved: Tensor  # (B,) bool: the answer is right, by the rules if the head judges by them, otherwise exact
    counted: Tensor  # (B,) bool: halted at this step and has a label


@dataclass(frozen=True)
class Metric:
    """A value per row, and the rows that its mean is taken over."""

    values: Callable[[StepRows], Tensor]
    """(B,) of any dtype, on the device of the rows."""
    over: Literal["halted", "all"] = "halted"
    """`halted`: the rows that halted at this step and have a label; `all`: all rows, as for the losses."""
