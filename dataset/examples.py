"""Build a dataset of the puzzles that a family makes itself, no two of them equal up to symmetry.

Shapes: S cells of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from dataset.families.base import Family
from dataset.format import SPLITS, SplitWriter, close_splits, write_identifiers
from dataset.metadata import BLANK_IDENTIFIER
from utils.errors import UserError

_TRIES_PER_PUZZLE, _MORE_TRIES = 20, 1000


def write_examples(
    folder: Path, family: Family, counts: Mapping[str, int], seed: int, extra: Mapping[str, Any] | None = None
) -> None:
    """Write `counts[split]` puzzles of `Family.example` for each split, in both splits together all different.

    Puzzles are the same if the first of the family's `comparisons` gives them one key; without one, if they are equal.
    Puzzle i of a split is drawn from (seed, split, i), so that the size of one split does not change the other's draws.
    `extra` are further keys of dataset.json, beside the family's name and the seed. Raises UserError if the family has
    too few different puzzles.
    """
    if family.example is None:
        raise UserError(f"the family {family.name} makes no puzzles: it has no example")
    comparisons = family.comparisons()
    sizes = {"seq_len": family.metadata.seq_len, "vocab_size": family.metadata.vocab_size}
    keys: dict[str, Any] = {"family": family.name, **(extra or {}), "seed": seed}
    seen: set[bytes] = set()
    with ExitStack() as stack:
        writers = [stack.enter_context(SplitWriter(folder / split, **sizes, extra=keys)) for split in SPLITS]
        for number, (split, writer) in enumerate(zip(SPLITS, writers, strict=True)):
            tries = iter(range(_TRIES_PER_PUZZLE * counts[split] + _MORE_TRIES))
            while writer.num_puzzles < counts[split]:
                if (index := next(tries, None)) is None:
                    raise UserError(
                        f"found only {len(seen)} different puzzles of {family.describe()}: generate fewer"
                    )
                question, answer = family.example(np.random.default_rng([seed, number, index]))
                rows = question[None], answer[None]
                key = (comparisons[0].keys(*rows)[0] if comparisons else None) or question.tobytes()
                if key not in seen:
                    seen.add(key)
                    writer.add_group(*rows, np.zeros(1, np.int64))
        write_identifiers(folder, [BLANK_IDENTIFIER])
        close_splits(writers, num_puzzle_identifiers=1)
