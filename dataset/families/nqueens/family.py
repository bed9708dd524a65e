"""The N-Queens completion family: a question may have several right answers, and its label is one of them.

Shapes: n rows, S = N² cells of a board.
"""

from __future__ import annotations

from functools import cached_property
from math import isqrt
from typing import ClassVar

import numpy as np

from dataset.families.base import Comparison, Family, Verdict, square_problem
from dataset.families.browser_rules import BrowserRules, CountRule
from dataset.families.grid_style import BLANK, EMPTY, GridStyle, Kind, LegendEntry, distinct_colours, rgb
from dataset.families.labels import compare_with_labels
from dataset.families.nqueens import rules
from dataset.families.nqueens.generate import BoardSpec, default_given, random_question
from dataset.families.nqueens.search import completions, count_completions
from dataset.families.symmetry import FiniteSymmetries
from dataset.families.wording import count
from dataset.metadata import FamilyFinding, Metadata


class NQueensFamily(Family):
    name = "nqueens"
    blank = rules.EMPTY
    several_answers = True
    text_help = "`Q` queen, `.` empty, in reading order; white space and `| - + /` are ignored."
    characters: ClassVar = dict(zip(rules.SYMBOLS, (rules.EMPTY, rules.QUEEN), strict=True))
    sizes_to_check: ClassVar = tuple({"seq_len": size**2, "vocab_size": rules.VOCAB_SIZE} for size in (6, 8))
    difficulty_classes: ClassVar = ((1, 3, 10, 30), ("1", "2-3", "4-10", "11-30", "over_30"))

    @classmethod
    def size_problem(cls, metadata: Metadata) -> str | None:
        return square_problem(metadata, rules.VOCAB_SIZE, rules.SIZES)

    def __init__(self, metadata: Metadata, found: FamilyFinding) -> None:
        super().__init__(metadata, found)
        self.size = isqrt(metadata.seq_len)  # N

    @cached_property
    def grid_style(self) -> GridStyle:
        words = ("given", "added", "changed in this step", "given, but removed")
        tokens = (rules.QUEEN, rules.QUEEN, rules.QUEEN, rules.EMPTY)
        return GridStyle(
            self.shape,
            " " + rules.SYMBOLS,
            rgb((EMPTY, BLANK, *distinct_colours(1))),
            empty_tokens=frozenset({rules.EMPTY}),
            legend=tuple(map(LegendEntry, tokens, Kind, words)),
        )

    @cached_property
    def symmetries(self) -> FiniteSymmetries:
        """The 8 rotations and reflections."""
        return FiniteSymmetries.of_rectangle(self.shape)

    # ---------------------------------------------------------------- a single puzzle

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return random_question(rng, BoardSpec(self.size, default_given(self.size)))

    def browser_rules(self) -> BrowserRules:
        board = np.arange(self.size**2).reshape(self.shape)
        everywhere = tuple(range(self.size**2))
        diagonals = [
            tuple(grid.diagonal(offset).tolist())
            for grid in (board, board[:, ::-1])
            for offset in range(2 - self.size, self.size - 1)
        ]

        def lines(cells: np.ndarray) -> tuple[tuple[int, ...], ...]:
            return tuple(map(tuple, cells.tolist()))

        return BrowserRules(
            self.characters,
            becomes=super().browser_rules().becomes,
            counts=(
                CountRule("row", lines(board), (rules.QUEEN,)),
                CountRule("column", lines(board.T), (rules.QUEEN,)),
                CountRule("diagonal", tuple(diagonals), (rules.QUEEN,), least=0),
                CountRule("board", (everywhere,), (0,), least=0, most=0),  # no padding
            ),
        )

    def remarks(self, question: np.ndarray) -> list[str]:
        if pairs := rules.attacking_pairs(question, self.size):
            one, other = (self._cell_name(cell) for cell in pairs[0])
            return [f"the given queens at {one} and at {other} attack each other, so there is no solution"]
        if next(completions(question, self.size), None) is None:
            return ["the given queens cannot be completed to a solution"]
        return []

    def _cell_name(self, cell: int) -> str:
        row, column = divmod(cell, self.size)
        return f"row {row + 1}, column {column + 1}"

    def check(self, questions: rules.Array, answers: rules.Array) -> rules.Array:
        """Return True for answers with N queens, including the given ones, that do not attack each other.

        Accepts NumPy arrays and torch tensors.
        """
        return rules.solves(questions, answers, self.size)

    check_tensors = check

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        if self.check(question[None], answer[None])[0]:
            return Verdict(True, f"valid{compare_with_labels(answer, labels)}")
        parts = []
        if pairs := len(rules.attacking_pairs(answer, self.size)):
            parts.append(f"{count(pairs, 'pair')} of queens attack{'s' if pairs == 1 else ''} each other")
        missing = self.size - int((answer == rules.QUEEN).sum())
        if missing > 0:
            parts.append(f"{count(missing, 'queen')} missing")
        elif missing < 0:
            parts.append(f"{count(-missing, 'queen')} too many")
        if removed := int(self.broken(question, answer).sum()):
            parts.append(f"{count(removed, 'given queen')} removed")
        if others := int(((answer != rules.QUEEN) & (answer != rules.EMPTY)).sum()):
            parts.append(f"{count(others, 'cell')} neither empty nor a queen")
        return Verdict(False, "; ".join(parts))

    # ---------------------------------------------------------------- the dataset report

    def comparisons(self) -> list[Comparison]:
        number = rules.NUM_INEQUIVALENT.get(self.size)
        few = "" if number is None else f", of which only {number} exist{'s' if number == 1 else ''}"
        return [
            Comparison("inputs up to symmetry", lambda inputs, _: rules.symmetry_keys(inputs, self.size)),
            Comparison(
                f"outputs up to symmetry{few}", lambda _, labels: rules.symmetry_keys(labels, self.size)
            ),
        ]

    def notes(self, inputs: np.ndarray, total: int) -> list[str]:
        """Report how many questions have several right answers."""
        several = sum(count_completions(question, self.size, 2) > 1 for question in inputs)
        sampled = f"{len(inputs):,} of {total:,}" if len(inputs) < total else f"{total:,}"
        return [f"{several:,} of {sampled} questions have several right answers"]


FAMILY = NQueensFamily
