"""The base class of test-time strategies, which spend more compute on the answers of a trained model.

Each strategy answers a batch and records in a `Tally` what it would have answered with less compute. Step counts cover
all chains of a puzzle.
Shapes: n puzzles, C chains per puzzle, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from evaluators.strategies.accounting import Tally
from evaluators.strategies.samples import Candidates, PuzzleRows


@dataclass(frozen=True)
class Answered:
    """The answers of a strategy to n puzzles, on the device."""

    preds: Tensor  # (n, S) int64
    q_halt: Tensor  # (n,) float32, q_halt of these answers
    steps: Tensor  # (n,) int64: with one chain the first step that said stop (else the last); otherwise all steps run
    outputs: dict[str, Tensor] = field(default_factory=dict)  # of the last step, if all rows share one
    # Records what is not recorded yet; called when the labels of these rows are the tally's.
    record: Callable[[Tally], None] = lambda tally: None


class Strategy:
    """Base class of strategies. A strategy answers batches and never sees labels."""

    main_curve: str
    """The curve of the tally whose last point is the final answer; `solve` records it for every batch."""
    uses_rules: bool = False
    """True if the answers depend on a checker, so that their scores are not those of the model alone."""

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the tensors returned with the answers, in addition to those of the batch."""
        return frozenset({"preds", "q_halt_logits"})

    def solve(self, rows: PuzzleRows, tally: Tally) -> Answered:
        """Answer the rows of a batch, recording each intermediate answer and its cost in the tally."""
        raise NotImplementedError(f"{type(self).__name__} must define solve")

    def stream(self, batches: Iterable[PuzzleRows], tally: Tally) -> Iterator[Answered]:
        """Answer batches in order; a strategy may read some of them ahead."""
        for rows in batches:
            yield self.solve(rows, tally)


def answered(candidates: Candidates, chains: np.ndarray, rows: PuzzleRows) -> Answered:
    """Return the answers of the selected chain (n,) of each puzzle."""
    each, device = np.arange(len(rows)), rows.inputs.device
    return Answered(
        torch.from_numpy(candidates.answers[each, chains]).to(device, torch.int64),
        torch.from_numpy(candidates.q_halt[each, chains]).to(device),
        torch.from_numpy(candidates.steps * candidates.answers.shape[1]).to(device),
    )
