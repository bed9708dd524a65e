"""A solver with scripted answers, and the output of `solve.py` for it."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import torch

import solve
from dataset.drawing.terminal import GridPrinter
from dataset.families import family_of
from dataset.families.arc import grids as arc
from dataset.families.base import Family
from dataset.families.maze import rules as maze
from dataset.families.sudoku.rules import BoxShape, parse_grid, to_tokens
from evaluators.inference import Step
from trained_run import recorded_metadata

# It has one solution, which singles alone find.
PUZZLE, ANSWER = "12..34....3..3.2", "1243342121344312"
RELABELLED = str.maketrans("1234", "2143")


class ScriptedSolver:
    """Return scripted (answer (S,), q_halt) for each step."""

    def __init__(self, steps: list[tuple[np.ndarray, float]], halts: bool = False, compares: bool = False):
        self.steps, self.halts, self.trained_steps = steps, halts, len(steps)
        self.head = SimpleNamespace(act=SimpleNamespace(rule=SimpleNamespace(compares=compares)))

    def refine(self, tokens, puzzle_identifiers, max_steps):
        for number, (answer, q_halt) in enumerate(self.steps[:max_steps], start=1):
            q = torch.tensor([q_halt])
            yield Step(number, torch.from_numpy(answer)[None].long(), torch.ones(1, len(answer)), q, q > 0)


def family_with(family: str, shape: tuple[int, int], vocab_size: int, **extra) -> Family:
    sizes = {"seq_len": shape[0] * shape[1], "vocab_size": vocab_size, "num_puzzle_identifiers": 1}
    return family_of(recorded_metadata({"family": family, "grid_shape": shape} | extra, sizes))


def sudoku_family(rows: int = 2, columns: int = 2) -> Family:
    box = BoxShape(rows, columns)
    return family_with("sudoku", (box.size, box.size), box.vocab_size, box_shape=[rows, columns])


def grid(text: str) -> np.ndarray:
    """Parse the text of a 4x4 Sudoku to tokens."""
    return to_tokens(parse_grid(text, BoxShape(2, 2)))


def watched(family: Family, question, labels, steps, *, colour=False, width=80, **solver) -> list[str]:
    out = io.StringIO()
    printer = GridPrinter(family.grid_style, out, colour=colour, width=width)
    puzzle = solve.Puzzle(question, labels, 0, "a puzzle")
    last = solve.watch(ScriptedSolver(steps, **solver), family, puzzle, len(steps), printer, [])
    return [*out.getvalue().splitlines(), last]


FAMILIES = {
    "sudoku4": sudoku_family(),
    "sudoku6": sudoku_family(2, 3),
    "sudoku9": sudoku_family(3, 3),
    "sudoku16": sudoku_family(4, 4),
    "maze30": family_with("maze", (30, 30), maze.VOCAB_SIZE),
    "arc": family_with("arc", (30, 30), arc.VOCAB_SIZE),
    "unknown": family_with("other", (6, 6), 9),
}
