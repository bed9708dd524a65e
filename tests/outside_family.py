"""A family as a user outside this repository would write it: complete a 4x4 Latin square, usually in several ways."""

from functools import cached_property

import numpy as np

from dataset.families.base import Family
from dataset.families.symmetry import FiniteSymmetries

SIDE, BLANK, FIRST = 4, 1, 2


class Latin(Family):
    name = "outside_family@Latin"
    evaluator = "outside_evaluator@LatinLines"
    blank = BLANK
    several_answers = True
    text_help = "`1` to `4`, `.` for a blank"
    characters = {".": BLANK, "1": 2, "2": 3, "3": 4, "4": 5}  # noqa: RUF012
    sizes_to_check = ({"seq_len": 16, "vocab_size": 6},)

    @classmethod
    def size_problem(cls, metadata):
        fits = (metadata.seq_len, metadata.vocab_size) == (16, 6)
        return (
            None
            if fits
            else f"there are {metadata.seq_len} cells and {metadata.vocab_size} tokens, not 16 and 6"
        )

    def lines(self, answers):
        """(n, 8) bool: which rows and columns of the answers hold each symbol once."""
        grids = answers.reshape(-1, SIDE, SIDE)
        right = [
            sum((part == FIRST + symbol).any(2) for symbol in range(SIDE)) == SIDE
            for part in (grids, grids.swapaxes(1, 2))
        ]
        return np.concatenate(right, 1)

    def check(self, questions, answers):
        right = ((questions == BLANK) | (questions == answers)).all(1)
        grids = answers.reshape(-1, SIDE, SIDE)
        for part in (grids, grids.swapaxes(1, 2)):
            for symbol in range(FIRST, FIRST + SIDE):
                right = right & (part == symbol).any(2).all(1)
        return right

    check_tensors = check

    @cached_property
    def symmetries(self):
        return FiniteSymmetries.of_rectangle(self.shape)

    def example(self, rng):
        square = (np.arange(SIDE)[:, None] + np.arange(SIDE)) % SIDE
        square = square[rng.permutation(SIDE)][:, rng.permutation(SIDE)]
        answer = (FIRST + rng.permutation(SIDE)[square]).reshape(-1).astype(np.uint8)
        return np.where(rng.random(16) < 0.4, answer, BLANK).astype(np.uint8), answer
