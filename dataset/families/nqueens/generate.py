"""Generate N-Queens questions: some queens of a random full board.

The split is a function of the question, so a test question never occurs in train for any seed and number of questions,
and both splits have the same distribution, even on small boards for which nearly all questions are used. Candidate i
of a split is a pure function of (seed, split, i), and candidates are accepted in that order: a split does not depend
on the number of workers or on the size of the other split.
Shapes: n questions, N side of the board, S = N² cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from dataset.families.nqueens.rules import EMPTY, SIZES, solves, symmetry_keys
from dataset.families.nqueens.search import completions, count_completions
from dataset.parallel import ordered_map
from utils.errors import UserError

MOST_COUNTED = 100  # completions; large boards with few given queens have millions
TRAIN, TEST = range(2)
_TEST_SHARE = 51  # of 256: a fifth of all questions are test questions
_MAX_REJECTED_IN_A_ROW = 20_000
_BATCH = 64


@dataclass(frozen=True)
class BoardSpec:
    """Kind of questions to generate: N x N boards with `given[0]` to `given[1]` queens.

    Raises UserError if there are no such questions.
    """

    size: int
    given: tuple[int, int]

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise UserError(
                f"--size {self.size} is not supported: the number of rows and columns must be {SIZES[0]} to {SIZES[-1]}"
            )
        low, high = self.given
        if low > high:
            raise UserError(
                f"--given {low}-{high} has its minimum above its maximum: did you mean {high}-{low}?"
            )
        if high >= self.size:
            raise UserError(
                f"--given {low}-{high} leaves nothing to fill in: at most {self.size - 1} of the {self.size} queens on "
                f"{self.size}x{self.size} may be given"
            )


@dataclass(frozen=True)
class Questions:
    """questions, answers (n, S) tokens; completions (n,) int32, counted up to MOST_COUNTED; n keys up to symmetry."""

    questions: np.ndarray
    answers: np.ndarray
    completions: np.ndarray
    keys: list[bytes]

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, indices: list[int]) -> Questions:
        return Questions(
            self.questions[indices],
            self.answers[indices],
            self.completions[indices],
            [self.keys[index] for index in indices],
        )


def default_given(size: int) -> tuple[int, int]:
    """Return the default range of given queens, a quarter to half of all: 2 to 4 of 8, 4 to 8 of 16."""
    return size // 4, size // 2


def random_question(rng: np.random.Generator, spec: BoardSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return question and answer (S,): a random full board, and its queens in a random subset of rows."""
    size = spec.size
    answer = next(completions(np.full(size * size, EMPTY, np.uint8), size, rng))
    rows = rng.choice(size, rng.integers(spec.given[0], spec.given[1] + 1), replace=False)
    question = np.full((size, size), EMPTY, np.uint8)
    question[rows] = answer.reshape(size, size)[rows]
    return question.reshape(-1), answer


def split_of(key: bytes) -> int:
    """Return the split, TRAIN or TEST, of questions with this key of `symmetry_keys`: a fifth of the keys are TEST."""
    return TEST if hashlib.blake2b(key, digest_size=1).digest()[0] < _TEST_SHARE else TRAIN


def generate_split(spec: BoardSpec, num_questions: int, *, seed: int, split: int, workers: int) -> Questions:
    """Generate questions of a split, TRAIN or TEST, no two of which are equal up to rotation and reflection.

    Raises UserError if fewer than `num_questions` are found.
    """
    seen, accepted, num_accepted, rejected = set(), [], 0, 0
    for candidates in _candidates(spec, seed, split, workers):
        chosen = []
        for index, key in enumerate(candidates.keys):
            if key not in seen and num_accepted < num_questions:
                seen.add(key)
                chosen.append(index)
                num_accepted += 1
        accepted.append(candidates.take(chosen))
        if num_accepted == num_questions:
            return _joined(accepted)
        rejected = 0 if chosen else rejected + _BATCH
        if rejected > _MAX_REJECTED_IN_A_ROW:
            low, high = spec.given
            raise UserError(
                f"only {num_accepted} of {num_questions} different {'test' if split == TEST else 'train'} questions of "
                f"{spec.size}x{spec.size} with {low} to {high} given queens were found (a fifth of all questions are "
                "test questions): generate fewer (--generate, --test-size), widen --given or raise --size"
            )
    raise AssertionError("candidates never end")


def _candidates(spec: BoardSpec, seed: int, split: int, workers: int) -> Iterator[Questions]:
    """Yield batches of candidates without end, excluding those of the other split."""
    batches = (range(start, start + _BATCH) for start in count(0, _BATCH))
    return ordered_map(partial(_make_batch, spec, seed, split), batches, workers)


def _make_batch(spec: BoardSpec, seed: int, split: int, indices: range) -> Questions:
    made = [random_question(np.random.default_rng([seed, split, index]), spec) for index in indices]
    questions, answers = (np.stack(boards) for boards in zip(*made, strict=True))
    keys = symmetry_keys(questions, spec.size)
    mine = [index for index, key in enumerate(keys) if split_of(key) == split]
    questions, answers = questions[mine], answers[mine]
    assert solves(questions, answers, spec.size).all(), "a generated answer breaks the rules"
    counted = [count_completions(question, spec.size, MOST_COUNTED) for question in questions]
    assert all(counted), "a generated question has no completion"
    return Questions(questions, answers, np.array(counted, np.int32), [keys[index] for index in mine])


def _joined(parts: list[Questions]) -> Questions:
    return Questions(
        np.concatenate([part.questions for part in parts]),
        np.concatenate([part.answers for part in parts]),
        np.concatenate([part.completions for part in parts]),
        [key for part in parts for key in part.keys],
    )
