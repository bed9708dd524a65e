"""Takuzu (binary puzzles), a puzzle family outside the packages of the repository; docs/extending.md explains it.

Fill an N x N grid, N even, with 0 and 1: equally many of each in every row and column, no three equal cells in a row,
no two equal rows and no two equal columns. A puzzle has exactly one answer. Shapes: n puzzles, S = N² cells.

PYTHONPATH=docs python -m takuzu --output-dir data/takuzu-6x6
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache, cached_property
from itertools import islice, product
from math import isqrt
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.families.base import Comparison, Family
from dataset.families.grid_style import BLANK, EMPTY, GridStyle, Kind, LegendEntry, rgb
from dataset.families.revealed_cells import RevealedCells
from dataset.families.symmetry import FiniteSymmetries
from dataset.format import SPLITS, SplitWriter, close_splits, write_identifiers
from dataset.metadata import BLANK_IDENTIFIER, Metadata
from dataset.options import OptionParser, building_into, whole_number
from dataset.units import CellUnits
from utils.errors import UserError, report_user_errors

SYMBOLS = {".": 1, "0": 2, "1": 3}  # token 0 is padding
BLANK_TOKEN, ZERO, ONE = SYMBOLS.values()
VOCAB_SIZE = 4
SIZES = (4, 6, 8)  # of generated puzzles; the search takes too long for larger ones


class Takuzu(Family):
    name = "takuzu@Takuzu"
    completes = True
    characters = SYMBOLS
    text_help = "`0`, `1`, `.` for a blank; white space and `| - + /` are ignored."
    sizes_to_check: ClassVar = tuple({"seq_len": size**2, "vocab_size": VOCAB_SIZE} for size in SIZES[:2])

    @classmethod
    def size_problem(cls, metadata: Metadata) -> str | None:
        side = isqrt(metadata.seq_len)
        if side * side != metadata.seq_len or side % 2 or cls(metadata, None).shape != (side, side):
            return f"seq_len is {metadata.seq_len}, which is not the size of a square grid with even sides"
        if metadata.vocab_size != VOCAB_SIZE:
            return f"vocab_size is {metadata.vocab_size}, not {VOCAB_SIZE}"
        return None

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

    def broken(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        return (question != BLANK_TOKEN) & (answer != question)

    def remarks(self, question: np.ndarray) -> list[str]:
        if self.shape[0] > SIZES[-1]:
            return []
        found = len(list(islice(solutions(self.write(question).split()), 2)))
        return [] if found == 1 else [f"the puzzle has {'several answers' if found else 'no answer'}"]

    @cached_property
    def symmetries(self) -> FiniteSymmetries:
        """Rotations and reflections, each also with 0 and 1 swapped."""
        return FiniteSymmetries.of_rectangle(self.shape, np.array([[0, 1, 2, 3], [0, 1, 3, 2]]))

    def easier(self, probability: float) -> RevealedCells:
        return RevealedCells(probability, BLANK_TOKEN)

    def comparisons(self) -> list[Comparison]:
        return [Comparison("inputs rotated, mirrored or with 0 and 1 swapped", self.puzzle_keys)]

    def puzzle_keys(self, inputs: np.ndarray, labels: np.ndarray) -> list[bytes]:
        """Return the smallest image of each puzzle."""
        images = self.symmetries.images(np.asarray(inputs, np.uint8))
        return [min(image.tobytes() for image in of_row) for of_row in zip(*images, strict=True)]

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        puzzle, answer = random_puzzle(rng, self.shape[0])
        return self.read(puzzle), self.read(answer)

    @cached_property
    def grid_style(self) -> GridStyle:
        words = ("given", "filled in", "changed in this step", "given, but changed")
        legend = tuple(LegendEntry(ONE, kind, text) for kind, text in zip(Kind, words, strict=True))
        colours = rgb((EMPTY, BLANK, 0x4C78A8, 0xF58518))
        empty = frozenset({BLANK_TOKEN})
        return GridStyle(self.shape, " " + "".join(SYMBOLS), colours, legend=legend, empty_tokens=empty)


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
    side, sizes = options.size, {"seq_len": options.size**2, "vocab_size": VOCAB_SIZE}
    units = CellUnits(axes=(side, side), kinds=(((1,), (0,)),))  # rows and columns
    extra = {"family": Takuzu.name, "units": units.to_json(), "seed": options.seed}
    family, seen = Takuzu.from_sizes(**sizes), set()
    with building_into(options.output_dir, Takuzu.name) as folder, ExitStack() as stack:
        writers = [stack.enter_context(SplitWriter(folder / s, **sizes, extra=extra)) for s in SPLITS]
        for number, (writer, wanted) in enumerate(zip(writers, (options.train, options.test), strict=True)):
            for index in range(20 * wanted + 1000):
                rng = np.random.default_rng([options.seed, number, index])
                question, answer = (tokens[None] for tokens in family.example(rng))
                (key,) = family.puzzle_keys(question, answer)
                if key not in seen:
                    seen.add(key)
                    writer.add_group(question, answer, np.zeros(1, np.int64))
                if writer.num_puzzles == wanted:
                    break
            else:
                raise UserError(f"found only {len(seen)} different puzzles of {side}x{side}: generate fewer")
        write_identifiers(folder, [BLANK_IDENTIFIER])
        close_splits(writers, num_puzzle_identifiers=1)
    print(f"{folder}: {options.train} train and {options.test} test puzzles of {side}x{side}")


if __name__ == "__main__":
    main()
