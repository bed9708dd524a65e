"""The families as one who puts a single puzzle needs them: reading it, remarks on it, and a verdict on an answer.

Shapes: S cells of a puzzle. Tokens everywhere; an answer is compared with labels in which ignored cells are -100.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset import arc, maze, sudoku
from dataset.format import IGNORE_LABEL_ID
from dataset.look import Look
from dataset.sudoku_solve import solve
from dataset.sudoku_symbols import ambiguous_zero
from utils.errors import UserError

# About a second of search. The hardest known 9x9 puzzles need a few hundred guesses.
MAX_GUESSES = 20_000


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is a solution (None: cannot be told), and why in words."""

    solved: bool | None
    words: str


class Family:
    """Puzzles of which no rules are known: an answer can only be compared with the dataset's."""

    completes: ClassVar[bool] = False  # whether an answer is the question with some cells filled in

    def __init__(self, look: Look):
        self.look = look

    def read(self, text: str) -> np.ndarray:
        """(S,) uint8 tokens of a puzzle that a user wrote; raises UserError naming the place of what is wrong."""
        raise UserError(
            f"puzzle=: there is no way to write this model's puzzles as text: {self.look.reason}; take one of its "
            "dataset with index="
        )

    def remarks(self, question: np.ndarray) -> list[str]:
        """What is wrong with a question (S,) that can be put all the same."""
        return []

    def counted(self, answer: np.ndarray) -> np.ndarray:
        """(S,) tokens of an answer, those that are no part of what it says replaced by padding."""
        return answer

    def broken(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """(S,) bool: the cells in which the answer contradicts the question."""
        return np.zeros(len(question), bool)

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        """The verdict on an answer (S,); `labels` (S,) where the dataset's answer is known."""
        if labels is None:
            return Verdict(None, "there are no rules and no answer to judge it by")
        if equals(answer, labels):
            return Verdict(True, "equal to the answer")
        return Verdict(False, agreement(answer, labels))


class Sudoku(Family):
    completes = True

    def read(self, text: str) -> np.ndarray:
        box = self.look.box
        text, cells = _with_line_breaks(text), []
        for position, character in enumerate(text):
            if character.isspace() or character in "|-+/":  # a drawn grid
                continue
            if character.upper() not in sudoku.BLANKS + box.symbols:
                raise UserError(
                    f"puzzle= has {character!r} at {_place(text, position)}; allowed are {box.symbols}, "
                    f"{' or '.join(sudoku.BLANKS)} for a blank, and | - + / and white space, which mean nothing"
                )
            cells.append(character.upper())
        if len(cells) != box.num_cells:
            raise UserError(
                f"puzzle= has {_count(len(cells), 'cell')}, but this model solves {box.size}x{box.size} Sudoku, of "
                f"{box.num_cells} cells (. or 0 is a blank; | - + / and white space are not counted)"
            )
        codes = np.frombuffer("".join(cells).encode(), np.uint8)[None]
        if box.size > 9 and ambiguous_zero(codes, box).any():  # smaller grids are hardly written from 0 up
            raise UserError(
                f"puzzle= has both 0 and ., so that 0 may be a blank or a symbol: write blanks as . and the symbols as "
                f"{box.symbols}"
            )
        return sudoku.to_tokens(sudoku.parse_grid("".join(cells), box, "puzzle="))

    def remarks(self, question: np.ndarray) -> list[str]:
        puzzle = sudoku.to_values(question)
        if faults := sudoku.violations(puzzle, self.look.box):
            return [f"the puzzle contradicts itself, so it has no solution: {'; '.join(faults)}"]
        found = solve(puzzle, self.look.box, max_guesses=MAX_GUESSES)
        if found is None:
            return [f"whether the puzzle has exactly one solution is unknown after {MAX_GUESSES} guesses"]
        if found.unique:
            return []
        return ["the puzzle has several solutions" if found.solutions else "the puzzle has no solution"]

    def broken(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        return (sudoku.to_values(question) > 0) & (answer != question)

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        values = answer.astype(np.int64) - 1
        changed = int(self.broken(question, answer).sum())
        if sudoku.is_solution(values, self.look.box) and not changed:
            return Verdict(True, f"valid{_beside(answer, labels)}")
        parts = []
        size, units = self.look.box.size, values[sudoku.units(self.look.box)]
        holds_all = (np.sort(units, axis=1) == np.arange(1, size + 1)).all(axis=1).reshape(3, size)
        broken = [
            _count(int((~fine).sum()), kind)
            for kind, fine in zip(("row", "column", "box"), holds_all, strict=True)
            if not fine.all()
        ]
        if broken:
            parts.append(f"{', '.join(broken)} broken")
        if changed:
            parts.append(f"{_count(changed, 'given cell')} changed")
        if labels is not None:
            parts.append(agreement(answer, labels))
        return Verdict(False, "; ".join(parts))


class Maze(Family):
    completes = True
    WRITTEN: ClassVar[str] = maze.QUESTION_SYMBOLS + "."

    def read(self, text: str) -> np.ndarray:
        rows, columns = self.look.shape
        text = _with_line_breaks(text).strip("\n/")
        for position, character in enumerate(text):
            if character not in f"{self.WRITTEN}\n/":
                raise UserError(
                    f"puzzle= has {character!r} at {_place(text, position)}; allowed are # (wall), space or . "
                    "(free), S, G, and a line break or / between rows"
                )
        lines = re.split("[\n/]", text)
        if len(lines) == 1 and len(text) == rows * columns:
            lines = [text[start : start + columns] for start in range(0, len(text), columns)]
        if len(lines) != rows:
            found = _count(len(lines), "row") if len(lines) > 1 else f"one row of {len(text)} cells"
            raise UserError(f"puzzle= has {found}, but this model solves mazes of {rows} rows of {columns}")
        for number, line in enumerate(lines, start=1):
            if len(line) != columns:
                raise UserError(
                    f"puzzle= has {_count(len(line), 'cell')} in row {number} instead of {columns} (write . for "
                    "free cells where spaces at the end of a row got lost)"
                )
        question = maze.encode("".join(lines).replace(".", " "))
        for token, name in ((maze.START, "S"), (maze.GOAL, "G")):
            if (count := int((question == token).sum())) != 1:
                raise UserError(f"puzzle= has {count} cells with {name}, but a maze has one")
        return question

    def remarks(self, question: np.ndarray) -> list[str]:
        unreachable = maze.path_lengths(question[None], self.look.shape)[0] < 0
        return ["G cannot be reached from S, so the maze has no solution"] if unreachable else []

    def broken(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        return (answer != question) & ~((question == maze.FREE) & (answer == maze.PATH))

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        (valid,), (optimal,) = maze.judge(question[None], answer[None], self.look.shape)
        num_marks = int((answer == maze.PATH).sum())
        if optimal:
            return Verdict(
                True, f"valid, a shortest path of {_count(num_marks + 1, 'step')}{_beside(answer, labels)}"
            )
        if valid:
            shortest = maze.path_lengths(question[None], self.look.shape)[0]
            return Verdict(False, f"a path of {num_marks + 1} steps, but {shortest} are enough")
        changed = int(self.broken(question, answer).sum())
        parts = [f"{_count(changed, 'cell')} of the maze changed"] if changed else []
        if num_marks:
            parts.append(f"the marked cells ({num_marks}) are not one path from S to G")
        else:
            parts.append("no path is marked")
        if labels is not None:
            parts.append(agreement(answer, labels))
        return Verdict(False, "; ".join(parts))


class Arc(Family):
    def read(self, text: str) -> np.ndarray:
        raise UserError(
            "puzzle=: this is a model of ARC tasks, which it knows by puzzle identifier from their demonstration "
            "pairs, so a grid alone is no puzzle to it; take one of its dataset's test inputs with index="
        )

    def counted(self, answer: np.ndarray) -> np.ndarray:
        # Training ignores what lies outside of the grid, so models write anything there.
        grid = arc.crop(answer)
        frame = np.full((arc.GRID_SIZE, arc.GRID_SIZE), arc.PAD)
        frame[: grid.shape[0], : grid.shape[1]] = grid + arc.FIRST_COLOUR
        return frame.reshape(-1)

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        if labels is None:
            return super().judge(question, answer, labels)
        ours, theirs = arc.crop(answer), arc.crop(labels)
        if ours.shape != theirs.shape:
            sizes = ("{}x{}".format(*grid.shape) if grid.size else "empty" for grid in (ours, theirs))
            return Verdict(False, "the grid is {}, the answer {}".format(*sizes))
        if (ours == theirs).all():
            return Verdict(True, "equal to the answer")
        return Verdict(
            False, f"{int((ours == theirs).sum())} of {_count(ours.size, 'cell')} as in the answer"
        )


FAMILIES: dict[str, type[Family]] = {"sudoku": Sudoku, "maze": Maze, "arc": Arc}


def family_of(look: Look) -> Family:
    """The family that a look was made for."""
    return FAMILIES.get(look.family, Family)(look)


def equals(answer: np.ndarray, labels: np.ndarray) -> bool:
    return bool(((answer == labels) | (labels == IGNORE_LABEL_ID)).all())


def agreement(answer: np.ndarray, labels: np.ndarray) -> str:
    """How many labelled cells an answer has right, in words."""
    labelled = labels != IGNORE_LABEL_ID
    right = int(((answer == labels) & labelled).sum())
    return f"{right} of {_count(int(labelled.sum()), 'cell')} as in the answer"


def _beside(answer: np.ndarray, labels: np.ndarray | None) -> str:
    if labels is None:
        return ""
    return ", and equal to the answer" if equals(answer, labels) else ", but not the one in the dataset"


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("x") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def _with_line_breaks(text: str) -> str:
    """Line breaks as one character, also where a shell has passed `\\n` on as written."""
    return text.replace("\\n", "\n").replace("\r\n", "\n")


def _place(text: str, position: int) -> str:
    """`character 7`, or `line 2, character 3` in a text of several lines."""
    before = text[:position].split("\n")
    character = f"character {len(before[-1]) + 1}"
    return f"line {len(before)}, {character}" if "\n" in text else character
