"""Guesses as given cells: what the strategy `guess` asks a model about a puzzle that it has not solved.

A puzzle with blank cells is easier with one more cell given, and models learn this from `reveal_prob`. So each chain
starts from the puzzle with one blank cell filled in as the model itself would have it. Under a wrong guess the puzzle
has no answer, and q_halt stays low. No rules are used: only that a blank cell may be given.
Shapes: n puzzles, C chains per puzzle, S `seq_len`, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from evaluators.strategies.samples import Bundle, PuzzleRows
from evaluators.strategies.test_time import Voting

_LEAST = 1e-6  # uncertainty of a cell of which the model is sure, so that it may still be guessed


class GuessChains(Voting):
    """Chains that differ by the guess they start from, after a chain that had none; for continuous batching only."""

    def __init__(self, *arguments, blank: int, never: Sequence[int], **options):
        super().__init__(*arguments, **options)
        self.blank, self.never = blank, never

    def bundle_after(self, rows: PuzzleRows, probabilities: np.ndarray) -> Bundle:
        """Return the chains of puzzles, given (n, S, V) the probabilities that the model gave to their tokens."""
        questions = rows.inputs.cpu().numpy()
        chains = np.repeat(questions, self.num_chains, axis=0)
        for index, number in enumerate(rows.numbers.tolist()):
            rng = np.random.default_rng([self.seed, number])
            cells, tokens = draw_guesses(
                questions[index] == self.blank, probabilities[index], self.never, self.num_chains, rng
            )
            chains[index * self.num_chains + np.arange(self.num_chains), cells] = tokens
        device = rows.inputs.device
        identifiers = rows.identifiers.repeat_interleave(self.num_chains, 0)
        return Bundle(torch.from_numpy(chains).to(device), identifiers, self.num_chains)


def draw_guesses(
    is_blank: np.ndarray,
    probabilities: np.ndarray,
    never: Sequence[int],
    count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` pairs of a blank cell and a token, (count,) int64 each, without repetition while there are others.

    `is_blank` is (S,) bool, `probabilities` (S, V). A cell is drawn in proportion to its entropy, its token in
    proportion to its probability; tokens in `never` are not drawn.
    """
    p = probabilities.astype(np.float64)
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(-1)
    weights = np.where(is_blank, entropy + _LEAST, 0)[:, None] * np.maximum(p, 1e-30)
    weights[:, list(never)] = 0
    pairs = np.flatnonzero(weights)
    # The largest of log-weights with Gumbel noise are a sample without replacement (Efraimidis and Spirakis, 2006).
    keys = np.log(weights.reshape(-1)[pairs]) + rng.gumbel(size=len(pairs))
    drawn = np.resize(pairs[np.argsort(-keys)], count)
    return np.divmod(drawn, p.shape[1])
