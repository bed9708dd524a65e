"""Check answers against the rules of their puzzle family, which needs no labels.

Shapes: n puzzles, C chains per puzzle, m puzzles that are still active, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from dataset.families import family_of
from dataset.format import Metadata
from evaluators.inference import Output
from evaluators.strategies.accounting import EVERY, Tally
from evaluators.strategies.samples import NONE, Bundle, DecidingRule, PuzzleRows
from utils.errors import UserError

# (m, S) tokens of questions and of answers -> (m,) bool
Checker = Callable[[np.ndarray, np.ndarray], np.ndarray]


def checker_of(metadata: Metadata) -> Checker:
    """Return the rule check of the data's family. Raises UserError if its answers cannot be checked."""
    family = family_of(metadata)
    if family.check is None:
        raise UserError(f"checker=True: answers cannot be checked by rules, because {family.lacks('check')}")
    return family.check


class AcceptedAnswers:
    """Track the first answer of each puzzle that the checker accepts; does nothing without a checker."""

    @classmethod
    def for_rows(
        cls, checker: Checker | None, rows: PuzzleRows, bundle: Bundle | None = None
    ) -> AcceptedAnswers:
        return cls(checker, rows, bundle or Bundle.repeated(rows))

    def __init__(self, checker: Checker | None, rows: PuzzleRows, bundle: Bundle):
        self._checker, self._bundle = checker, bundle
        self._answers = np.zeros((len(bundle.inputs), bundle.inputs.shape[1]), np.int16)
        self._chain = np.full(len(rows), NONE)
        self._steps = np.zeros(len(rows), np.int64)
        self._questions = bundle.inputs.cpu().numpy() if checker else None

    def check(self, answers: np.ndarray | None, steps: int, puzzles: np.ndarray | None = None) -> np.ndarray:
        """Check the (m·C, S) answers of the puzzles (m,) after `steps` steps in total.

        Symmetric copies are checked without mapping them back, because symmetries preserve validity. Returns the
        accepted chain of each puzzle, or NONE.
        """
        if self._checker is None:
            return np.full(0, NONE)
        chains = self._bundle.num_chains
        puzzles = np.arange(len(self._chain)) if puzzles is None else puzzles
        rows = (puzzles[:, None] * chains + np.arange(chains)).reshape(-1)
        valid = self._checker(self._questions[rows], answers).reshape(-1, chains)
        chosen = np.where(valid.any(1), valid.argmax(1), NONE)
        new = np.flatnonzero((chosen != NONE) & (self._chain[puzzles] == NONE))
        where = puzzles[new]
        self._chain[where], self._steps[where] = chosen[new], steps
        self._answers[where * chains + chosen[new]] = answers[new * chains + chosen[new]]
        return chosen

    def wrap(self, decide: DecidingRule | None, steps_before: int = 0) -> DecidingRule | None:
        """Wrap a deciding rule so that answers are checked at every step; `decide` still decides."""
        if self._checker is None:
            return decide

        def check_and_decide(number: int, output: Output, answers: Tensor, puzzles: np.ndarray) -> np.ndarray:
            spent = steps_before + number * self._bundle.num_chains
            self.check(answers.cpu().numpy(), spent, puzzles)
            if decide is None:
                return np.full(len(puzzles), NONE)
            return decide(number, output, answers, puzzles)

        return check_and_decide

    def report(
        self, tally: Tally, otherwise: np.ndarray | None, steps: int | np.ndarray, part: slice = EVERY
    ) -> None:
        """Record accepted answers at their cost, and `otherwise` (n, S) at `steps` for puzzles without one."""
        if self._checker is None:
            return
        chains = self._bundle.num_chains
        accepted = self._chain != NONE
        undone = self._bundle.undo(self._answers).reshape(-1, chains, self._answers.shape[1])
        answers = undone[np.arange(len(undone)), np.maximum(self._chain, 0)]
        answers = np.where(accepted[:, None], answers, otherwise)
        spent = np.where(accepted, self._steps, steps)
        tally.record("with_checker", "with_checker", answers, spent, accepted, part)
