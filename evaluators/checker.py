"""Whether answers obey the rules of their family: what a solver may ask that has no labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataset import maze
from dataset.format import Metadata
from dataset.look import Look
from dataset.sudoku import is_solution, keeps_givens, to_values
from utils.errors import UserError

# (m, S) questions and answers, tokens -> (m,) bool
Checker = Callable[[np.ndarray, np.ndarray], np.ndarray]


def checker_of(metadata: Metadata) -> Checker:
    """Sudoku: a complete grid by the rules with the given cells kept. Mazes: a shortest path and nothing else changed.

    Raises `UserError` for families whose answers no rule can check.
    """
    look = Look.of(metadata)
    if look.family == "sudoku":

        def check(questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
            values = answers.astype(np.int64) - 1
            return is_solution(values, look.box) & keeps_givens(to_values(questions), values)

        return check
    if look.family == "maze":
        return lambda questions, answers: maze.judge(questions, answers, look.shape)[1]
    raise UserError(
        f"checker=True: there is no rule that tells whether an answer to {_named(look.family)} is right; it works for "
        "sudoku and maze"
    )


def _named(family: str) -> str:
    return "puzzles of an unknown family" if family == "unknown" else family
