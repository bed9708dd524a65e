"""Online augmentation: a new symmetric copy of each drawn example, instead of copies fixed at build time.

Shapes: B rows of the global batch, b rows on this rank, S `seq_len`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset.families import family_of
from dataset.families.symmetry import Symmetries
from dataset.metadata import Metadata
from utils.errors import UserError


@dataclass(frozen=True)
class OnlineCopies:
    """Replace each row by its image under a random symmetry."""

    symmetries: Symmetries

    def __call__(
        self, rng: np.random.Generator, count: int, mine: slice, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Transform inputs and labels (b, S), the rows `mine` of B = `count`; the draws are the same on all ranks."""
        transforms = self.symmetries.draw(rng, count)[mine]
        return transforms.apply(inputs), transforms.apply(labels)


def augmentation_of(metadata: Metadata, where: str) -> OnlineCopies:
    """Return the augmentation of the data's family. Raises UserError, prefixed with `where`, if it has none."""
    family = family_of(metadata)
    if family.symmetries is None:
        raise UserError(
            f"{where}: augment=online is not possible, because {family.no_symmetries}. Leave out augment"
        )
    return OnlineCopies(family.symmetries)
