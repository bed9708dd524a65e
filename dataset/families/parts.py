"""Plain objects that the methods of a family return.

Shapes: n rows, S cells of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is a solution (None if unknown), and an explanation."""

    solved: bool | None
    words: str


@dataclass(frozen=True)
class Comparison:
    """A criterion by which a test example can be equivalent to a train example.

    `keys` maps inputs (n, S) and labels (n, S) to n keys that are equal for equivalent examples, None for examples that
    cannot be compared. `prefilter` returns cheaper keys of the inputs, also equal for equivalent examples; full keys
    are computed only for examples whose prefilter key occurs in both splits. `per_group`: compare only the first
    example of each train group, because the others are its images.
    """

    what: str
    keys: Callable[[np.ndarray, np.ndarray], Sequence[bytes | None]]
    prefilter: Callable[[np.ndarray], Sequence[bytes]] | None = None
    per_group: bool = True


@dataclass(frozen=True)
class RowForm:
    """A canonical form in which inputs or labels (n, S) are compared, and a sample (n, 48) uint8 of its cells."""

    canonical: Callable[[np.ndarray], np.ndarray]
    sample: Callable[[np.ndarray], np.ndarray]
