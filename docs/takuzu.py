"""Takuzu (binary puzzles), a puzzle family outside the packages of the repository; docs/extending.md explains it.

Fill an N x N grid, N even, with 0 and 1: equally many of each in every row and column, no three equal cells in a row,
no two equal rows and no two equal columns. A puzzle has exactly one answer. Shapes: n puzzles, S = N² cells.

PYTHONPATH=docs python -m takuzu --output-dir data/takuzu-6x6
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property
from itertools import islice, product
from math import isqrt
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.examples import write_examples
from dataset.families.base import Family, square_problem
from dataset.families.symmetry import FiniteSymmetries
from dataset.metadata import Metadata
from dataset.options import OptionParser, building_into, whole_number
from dataset.units import CellUnits
from utils.errors import report_user_errors

SYMBOLS = {".": 1, "0": 2, "1": 3}  # token 0 is padding
BLANK_TOKEN, ZERO, ONE = SYMBOLS.values()
VOCAB_SIZE = 4
SIZES = (4, 6, 8)  # of generated puzzles; the search takes too long for larger ones


class Takuzu(Family):
    name = "takuzu@Takuzu"
    blank = BLANK_TOKEN
    characters = SYMBOLS
    text_help = "`0`, `1`, `.` for a blank; white space and `| - + /` are ignored."
    sizes_to_check: ClassVar = tuple({"seq_len": size**2, "vocab_size": VOCAB_SIZE} for size in SIZES[:2])

    @classmethod
    def size_problem(cls, metadata: Metadata) -> str | None:
        return square_problem(metadata, VOCAB_SIZE, sides=range(2, isqrt(metadata.seq_len) + 1, 2))

    def check(self, questions, answers):
        """Check the rules, for NumPy arrays and torch tensors."""
        side = self.shape[0]
        right = ((answers == ZERO) | (answers == ONE)).all(1)
        right &= ((questions == BLANK_TOKEN) | (questions == answers)).all(1)
        grids = answers.reshape(-1, side, side)
        for lines in (grids, grids.swapaxes(1, 2)):
            right &= ((lines == ONE).sum(2) == side // 2).all(1)
            equal = lines[:, :, 1:] == lines[:, :, :-1]
            right &= ~(equal[:, :, 1:] & equal[:, :, :-1]).any(2).any(1)
            same = (lines[:, :, None] == lines[:, None]).all(3)  # (n, N, N): line i equals line j
            right &= same.sum(2).sum(1) == side
        return right

    check_tensors = check

    def remarks(self, question: np.ndarray) -> list[str]:
        if self.shape[0] > SIZES[-1]:
            return []
        found = len(list(islice(solutions(self.write(question).split()), 2)))
        return [] if found == 1 else [f"the puzzle has {'several answers' if found else 'no answer'}"]

    @cached_property
    def symmetries(self) -> FiniteSymmetries:
        """Rotations and reflections, each also with 0 and 1 swapped."""
        return FiniteSymmetries.of_rectangle(self.shape, np.array([[0, 1, 2, 3], [0, 1, 3, 2]]))

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        puzzle, answer = random_puzzle(rng, self.shape[0])
        return self.read(puzzle), self.read(answer)


# ---------------------------------------------------------------- puzzles with exactly one answer, rows as text


@cache
def valid_lines(side: int) -> tuple[list[str], set[str]]:
    """Return all rows that obey the rules on their own, and all prefixes of such rows."""
    lines = ["".join(line) for line in product("01", repeat=side)]
    lines = [s for s in lines if s.count("1") == side // 2 and "000" not in s and "111" not in s]
    return lines, {line[:end] for line in lines for end in range(side + 1)}


def solutions(puzzle: list[str], rng: np.random.Generator | None = None) -> Iterator[list[str]]:
    """Yield every answer to a puzzle, as rows, by exhaustive search; with `rng` in random order."""
    side = len(puzzle)
    lines, beginnings = valid_lines(side)
    fitting = [
        [s for s in lines if all(given in (".", c) for given, c in zip(row, s, strict=True))]
        for row in puzzle
    ]
    if rng is not None:
        fitting = [rng.permutation(row).tolist() for row in fitting]

    def completed(rows: list[str], columns: list[str]) -> Iterator[list[str]]:
        if len(rows) == side:
            if len(set(columns)) == side:
                yield rows
            return
        for line in fitting[len(rows)]:
            longer = [column + c for column, c in zip(columns, line, strict=True)]
            if line not in rows and all(column in beginnings for column in longer):
                yield from completed([*rows, line], longer)

    return completed([], [""] * side)


def random_puzzle(rng: np.random.Generator, side: int) -> tuple[str, str]:
    """Generate a puzzle and its only answer; without any of the given cells it would have several."""
    blank = "." * side**2
    answer = "".join(next(solutions([blank[:side]] * side, rng)))
    puzzle = answer
    for cell in rng.permutation(side**2).tolist():
        other = puzzle[:cell] + "10"[int(answer[cell])] + puzzle[cell + 1 :]
        rows = [other[start : start + side] for start in range(0, side**2, side)]
        if next(solutions(rows), None) is None:  # the cell follows from the others
            puzzle = puzzle[:cell] + "." + puzzle[cell + 1 :]
    return puzzle, answer


@report_user_errors
def main(arguments: list[str] | None = None) -> None:
    """Build a dataset of puzzles that are all different up to symmetry, across both splits."""
    parser = OptionParser(prog="takuzu", description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to build into")
    parser.add_argument("--size", type=int, choices=SIZES, default=6, help="rows and columns")
    parser.add_argument("--train", type=whole_number(1), default=1000, help="train puzzles")
    parser.add_argument("--test", type=whole_number(1), default=200, help="test puzzles")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of all random choices")
    options = parser.parse_args(arguments)
    side = options.size
    family = Takuzu.from_sizes(seq_len=side**2, vocab_size=VOCAB_SIZE)
    units = CellUnits(axes=(side, side), kinds=(((1,), (0,)),))  # rows and columns
    counts = {"train": options.train, "test": options.test}
    with building_into(options.output_dir, Takuzu.name) as folder:
        write_examples(folder, family, counts, options.seed, extra={"units": units.to_json()})
    print(f"{folder}: {options.train} train and {options.test} test puzzles of {side}x{side}")


if __name__ == "__main__":
    main()
