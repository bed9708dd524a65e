"""Plain objects that the methods of a family return.

Shapes: n rows, S cells of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is a solution (None: unknown), and why in words."""

    solved: bool | None
    words: str


@dataclass(frozen=True)
class Comparison:
    """A way in which a test example can occur in train.

    `keys`: inputs (n, S) and labels (n, S) to n keys that are equal for equivalent examples, None for an example that
    cannot be compared. `prefilter`: a cheaper key of the inputs that equivalent examples share as well; only examples
    whose prefilter key occurs in both splits get the full one. `per_group`: the first example of each train group is
    enough, because the others are its images.
    """

    what: str
    keys: Callable[[np.ndarray, np.ndarray], Sequence[bytes | None]]
    prefilter: Callable[[np.ndarray], Sequence[bytes]] | None = None
    per_group: bool = True


@dataclass(frozen=True)
class RowForm:
    """The form in which inputs or labels (n, S) are compared for equality, and 48 of its cells (n, 48) uint8."""

    canonical: Callable[[np.ndarray], np.ndarray]
    sample: Callable[[np.ndarray], np.ndarray]
