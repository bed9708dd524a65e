"""Solve train puzzles, new symmetric copies of them, and test puzzles, checked by the rules of their family.

A symmetric copy is as hard as its original, so a model that has learned the rules solves both equally often.
Shapes: n puzzles, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataset.families import family_of
from dataset.families.base import Family
from dataset.format import ExampleSet
from evaluators.inference import Solver
from puzzle_dataset import PuzzleDataset, named_sets

# Draw more copies than needed, because some occur among the train examples.
_DRAWN_PER_COPY = 3
_CHUNK_CELLS = 1 << 22  # cells of train examples read at a time

ORIGINALS, COPIES, TEST = "train puzzles", "new copies of them", "test puzzles"


class NotKnown(ValueError):
    """A check cannot be made; the message is the reason."""


def solve_with_copies(
    solver: Solver,
    train: PuzzleDataset,
    test: PuzzleDataset,
    *,
    limit: int,
    copies: int,
    num_steps: int,
    seed: int,
) -> dict[str, tuple[int, int]]:
    """Return kind of puzzle -> (puzzles, solved) for up to `limit` train and test puzzles, evenly spaced.

    Copies that occur among the train examples are skipped. Raises NotKnown if the family has no symmetries or no rule
    check, or if the model needs an identifier that copies lack.
    """
    family = family_of(train.metadata)
    symmetries = family.symmetries
    if symmetries is None or family.check is None:
        raise NotKnown(
            family.no_symmetries
            if symmetries is None
            else f"answers cannot be checked by rules: {family.lacks('check')}"
        )
    if solver.knows_identifiers and train.metadata.num_puzzle_identifiers > 1:
        raise NotKnown("the model uses puzzle identifiers, and a new copy has none")
    train_sets, test_sets = (list(named_sets(data.splits).values()) for data in (train, test))
    originals, identifiers = first_examples(train_sets, limit)

    drawn = 1 + copies * _DRAWN_PER_COPY
    drawn = min(drawn, symmetries.most or drawn)
    every = symmetries.copies(originals, identifiers, np.arange(len(originals)), drawn, seed)
    fresh = ~occurring(every.tokens, train_sets).reshape(-1, drawn)
    chosen = np.flatnonzero(fresh & (fresh.cumsum(1) <= copies))
    answers = np.zeros(every.tokens.shape, np.int64)
    answers[chosen] = answered(solver, every.tokens[chosen], every.identifiers[chosen], num_steps)
    undone = every.undo(answers)[chosen]

    questions, ids = first_examples(test_sets, limit)
    return {
        ORIGINALS: counted(family, originals, answered(solver, originals, identifiers, num_steps)),
        COPIES: counted(family, originals[chosen // drawn], undone),
        TEST: counted(family, questions, answered(solver, questions, ids, num_steps)),
    }


def first_examples(sets: Sequence[ExampleSet], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, S) and identifiers (n,) of the first, unaugmented example of up to `limit` groups."""
    firsts = [np.asarray(s.puzzle_indices)[np.asarray(s.group_indices)[:-1]] for s in sets]
    owners = np.concatenate([np.full(len(indices), number) for number, indices in enumerate(firsts)])
    examples = np.concatenate(firsts)
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(limit, len(examples))).astype(np.int64))
    inputs, identifiers = [], []
    for number, example_set in enumerate(sets):
        mine = examples[chosen[owners[chosen] == number]]
        if len(mine):
            inputs.append(example_set.read(mine)[0])
            identifiers.append(np.asarray(example_set.puzzle_identifiers)[example_set.puzzles_of(mine)])
    return np.concatenate(inputs).astype(np.int64), np.concatenate(identifiers).astype(np.int64)


def occurring(rows: np.ndarray, sets: Sequence[ExampleSet]) -> np.ndarray:
    """(n,) bool: True for rows (n, S) that are inputs of these sets."""
    keys = _keys(rows)
    wanted, seen = set(keys), set()
    for example_set in sets:
        step = max(1, _CHUNK_CELLS // rows.shape[1])
        for start in range(0, example_set.num_examples, step):
            part = np.arange(start, min(start + step, example_set.num_examples))
            seen |= wanted.intersection(_keys(example_set.read(part)[0]))
    return np.array([key in seen for key in keys], bool)


def answered(solver: Solver, tokens: np.ndarray, identifiers: np.ndarray, num_steps: int) -> np.ndarray:
    """Return the answers (n, S) of the model after all steps."""
    parts = [np.zeros((0, tokens.shape[1]), np.int64)]
    for start in range(0, len(tokens), 256):
        part = slice(start, start + 256)
        solution = solver.solve(tokens[part], identifiers[part], num_steps)
        parts.append(solution.answer.cpu().numpy())
    return np.concatenate(parts)


def counted(family: Family, questions: np.ndarray, answers: np.ndarray) -> tuple[int, int]:
    """Return the number of puzzles, and the number solved according to the rules."""
    verdicts = [family.judge(*pair, None).solved for pair in zip(questions, answers, strict=True)]
    return len(verdicts), sum(map(bool, verdicts))


def _keys(rows: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(rows.astype(np.uint8))]
