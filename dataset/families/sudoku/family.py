"""The Sudoku family, with boxes of any shape. Shapes: n rows, S = N² cells of an N x N grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.families.base import Comparison, Family, Verdict, square_problem
from dataset.families.browser_rules import BrowserRules, CountRule
from dataset.families.grid_style import BLANK, EMPTY, GridStyle, completion_legend, distinct_colours, rgb
from dataset.families.labels import agreement, compare_with_labels
from dataset.families.sudoku import rules
from dataset.families.sudoku.batch import ambiguous_notes
from dataset.families.sudoku.generate import PuzzleSpec, default_clues, random_puzzle
from dataset.families.sudoku.hashes import invariant_hashes, solution_hashes
from dataset.families.sudoku.overlap import row_keys
from dataset.families.sudoku.rules import BoxShape
from dataset.families.sudoku.search import solve
from dataset.families.sudoku.symbols import ambiguous_zero
from dataset.families.sudoku.symmetry import SudokuSymmetries
from dataset.families.symmetry import Symmetries
from dataset.families.wording import count, describe_position, with_line_breaks
from dataset.metadata import Metadata
from dataset.units import CellUnits
from utils.errors import UserError

# About a second of search. The hardest known 9x9 puzzles need a few hundred guesses.
MAX_GUESSES = 20_000


class SudokuFamily(Family):
    name = "sudoku"
    recognition_priority = 2
    blank = rules.BLANK_ID
    evaluator = "sudoku@Sudoku"
    sigma = 0.3  # arXiv 2605.19943
    text_help = "Symbols in reading order, `.` or `0` for a blank; white space and `| - + /` are ignored."
    difficulty_classes: ClassVar = rules.DIFFICULTY_CLASSES
    sizes_to_check: ClassVar = (
        {"seq_len": 36, "vocab_size": 8, "box_shape": [3, 2]},
        {"seq_len": 81, "vocab_size": 11},
    )

    @classmethod
    def size_problem(cls, metadata: Metadata) -> str | None:
        return square_problem(metadata, isqrt(metadata.seq_len) + 2, rules.GRID_SIZES)

    @classmethod
    def recognise(
        cls, metadata: Metadata, sampled: Callable[[], tuple[np.ndarray, np.ndarray]], dataset_dir: Path
    ) -> tuple[bool, str]:
        """Expect all complete labels to obey the rules."""
        try:
            box = rules.recorded_shape(metadata.extra, metadata.seq_len, "dataset.json")
        except UserError as error:
            return False, str(error)
        inputs, labels = sampled()
        kind = f"{box.size}x{box.size} Sudoku with boxes of {box}"
        complete = ((labels >= 2) & (labels < metadata.vocab_size)).all(1)
        if not complete.any():
            return False, f"its sizes are those of {kind}, but no sampled label is a complete grid"
        values = labels[complete] - 1
        givens_kept = rules.keeps_givens(rules.to_values(inputs[complete]), values)
        if not (rules.is_solution(values, box) & givens_kept).all():
            return False, f"its sizes are those of {kind}, but sampled labels break its rules"
        return True, f"its sizes are those of {kind}, and all sampled labels obey its rules"

    @cached_property
    def box(self) -> BoxShape:
        """The box shape in dataset.json, otherwise as square as possible and not taller than wide."""
        return rules.recorded_shape(self.metadata.extra, self.metadata.seq_len, "dataset.json")

    @cached_property
    def grid_style(self) -> GridStyle:
        return GridStyle(
            (self.box.size, self.box.size),
            " ." + self.box.symbols,
            rgb((EMPTY, BLANK, *distinct_colours(self.box.size))),
            lines=(self.box.rows, self.box.columns),
            empty_tokens=frozenset({rules.BLANK_ID}),
            legend=completion_legend(2),
        )

    def describe(self) -> str:
        return f"{super().describe()}, boxes of {self.box}"

    def units(self, where: str) -> CellUnits:
        return super().units(where) or CellUnits.of_boxes(self.box.rows, self.box.columns)

    @cached_property
    def symmetries(self) -> Symmetries:
        return SudokuSymmetries(self.box)

    # ---------------------------------------------------------------- a single puzzle

    def read(self, text: str) -> np.ndarray:
        box = self.box
        text, cells = with_line_breaks(text), []
        for position, character in enumerate(text):
            if character.isspace() or character in "|-+/":  # a drawn grid
                continue
            if character.upper() not in rules.BLANKS + box.symbols:
                raise UserError(
                    f"puzzle= has {character!r} at {describe_position(text, position)}; allowed are {box.symbols}, "
                    f"{' or '.join(rules.BLANKS)} for a blank, and | - + / and white space, which are ignored"
                )
            cells.append(character.upper())
        if len(cells) != box.num_cells:
            raise UserError(
                f"puzzle= has {count(len(cells), 'cell')}, but this model solves {box.size}x{box.size} Sudoku with "
                f"{box.num_cells} cells (. or 0 is a blank; | - + / and white space do not count)"
            )
        codes = np.frombuffer("".join(cells).encode(), np.uint8)[None]
        if box.size > 9 and ambiguous_zero(codes, box).any():  # smaller grids rarely use symbols from 0 up
            raise UserError(
                f"puzzle= has both 0 and ., so 0 could be a blank or a symbol: write blanks as . and symbols as "
                f"{box.symbols}"
            )
        return rules.to_tokens(rules.parse_grid("".join(cells), box, "puzzle="))

    def write(self, question: np.ndarray) -> str:
        return rules.draw_grid(rules.to_values(question), self.box)

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        puzzle, solution = random_puzzle(rng, PuzzleSpec(self.box, default_clues(self.box)))
        return rules.to_tokens(puzzle), rules.to_tokens(solution)

    def remarks(self, question: np.ndarray) -> list[str]:
        puzzle = rules.to_values(question)
        if faults := rules.violations(puzzle, self.box):
            return [f"the puzzle contradicts itself, so it has no solution: {'; '.join(faults)}"]
        found = solve(puzzle, self.box, max_guesses=MAX_GUESSES)
        if found is None:
            return [f"whether the puzzle has exactly one solution is unknown after {MAX_GUESSES} guesses"]
        if found.unique:
            return []
        return ["the puzzle has several solutions" if found.solutions else "the puzzle has no solution"]

    def check(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return True for complete grids that obey the rules and keep the given cells."""
        values = answers.astype(np.int64) - 1
        return rules.is_solution(values, self.box) & rules.keeps_givens(rules.to_values(questions), values)

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        values = answer.astype(np.int64) - 1
        changed = int(self.broken(question, answer).sum())
        if rules.is_solution(values, self.box) and not changed:
            return Verdict(True, f"valid{compare_with_labels(answer, labels)}")
        parts = (
            ["the puzzle contradicts itself"] if rules.violations(rules.to_values(question), self.box) else []
        )
        size, units = self.box.size, values[rules.units(self.box)]
        holds_all = (np.sort(units, axis=1) == np.arange(1, size + 1)).all(axis=1).reshape(3, size)
        broken = [
            count(int((~fine).sum()), kind)
            for kind, fine in zip(("row", "column", "box"), holds_all, strict=True)
            if not fine.all()
        ]
        if broken:
            parts.append(f"{', '.join(broken)} broken")
        if changed:
            parts.append(f"{count(changed, 'given cell')} changed")
        if labels is not None:
            parts.append(agreement(answer, labels))
        return Verdict(False, "; ".join(parts))

    def browser_rules(self) -> BrowserRules:
        box = self.box
        tokens = tuple(range(2, box.size + 2))
        characters = {".": rules.BLANK_ID} | dict(zip(box.symbols, tokens, strict=True))
        if box.size <= 9:
            characters["0"] = rules.BLANK_ID
        characters |= {symbol.lower(): token for symbol, token in characters.items()}
        groups = rules.units(box).reshape(3, box.size, box.size).tolist()
        return BrowserRules(
            characters,
            becomes=super().browser_rules().becomes,
            counts=tuple(
                CountRule(name, tuple(map(tuple, cells)), tokens)
                for name, cells in zip(("row", "column", "box"), groups, strict=True)
            ),
        )

    # ---------------------------------------------------------------- the dataset report

    def comparisons(self) -> list[Comparison]:
        few = {4: ", of which only 2 exist", 6: ", of which only 49 exist"}.get(self.box.size, "")
        return [
            # The full hash costs 30 µs per puzzle; counts of givens cost a fiftieth of that and rule out most pairs.
            Comparison("inputs up to symmetry", self._puzzle_keys, self._given_counts),
            Comparison(f"outputs up to symmetry{few}", self._solution_keys),
        ]

    def _puzzle_keys(self, inputs: np.ndarray, labels: np.ndarray) -> list[bytes | None]:
        puzzles, solutions = rules.to_values(inputs), rules.to_values(labels)
        solved = rules.is_solution(solutions, self.box)
        return _keys_where(solved, invariant_hashes(puzzles[solved], solutions[solved], self.box))

    def _solution_keys(self, inputs: np.ndarray, labels: np.ndarray) -> list[bytes | None]:
        solutions = rules.to_values(labels)
        solved = rules.is_solution(solutions, self.box)
        return _keys_where(solved, solution_hashes(solutions[solved], self.box))

    def _given_counts(self, inputs: np.ndarray) -> list[bytes]:
        """Return sorted numbers of givens per row, column and box, which are invariant under symmetries."""
        box = self.box
        # A float matrix product is the fastest way to count.
        members = np.zeros((box.num_cells, 3 * box.size), np.float32)
        members[rules.units(box).T, np.arange(3 * box.size)] = 1
        counts = ((inputs > rules.BLANK_ID).astype(np.float32) @ members).astype(np.uint8)
        rows, columns, boxes = np.sort(counts.reshape(len(inputs), 3, box.size)).swapaxes(0, 1)
        if box.square:  # transposing swaps rows and columns
            rows, columns = np.minimum(rows, columns), np.maximum(rows, columns)
        return row_keys(np.concatenate([rows, columns, boxes], axis=1))

    def notes(self, inputs: np.ndarray, total: int) -> list[str]:
        """Report how many puzzles have several solutions."""
        puzzles = rules.to_values(inputs).astype(np.uint8)
        return ambiguous_notes(puzzles, "puzzles", self.box, 1, total)


def _keys_where(known: np.ndarray, hashes: np.ndarray) -> list[bytes | None]:
    """Return the bytes of a uint64 hash for each row that is `known`, and None for the others."""
    keys: list[bytes | None] = [None] * len(known)
    for row, value in zip(np.flatnonzero(known).tolist(), hashes.view("V8").tolist(), strict=True):
        keys[row] = value
    return keys


FAMILY = SudokuFamily
