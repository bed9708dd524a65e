"""A new symmetric copy of an example at each draw, instead of the fixed copies that a dataset was built with.

Shapes: B rows of the global batch, b of them on this rank, S `seq_len`.
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
    """Replace each row by an image under a transformation drawn for it."""

    symmetries: Symmetries

    def __call__(
        self, rng: np.random.Generator, count: int, mine: slice, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels (b, S) of the rows `mine` of B = `count`; what is drawn depends on no other rank."""
        transforms = self.symmetries.draw(rng, count)[mine]
        return transforms.apply(inputs), transforms.apply(labels)


def augmentation_of(metadata: Metadata, where: str) -> OnlineCopies:
    """The copies that the data's family allows. Raises UserError, beginning with `where`, if it allows none."""
    family = family_of(metadata)
    if family.symmetries is None:
        raise UserError(
            f"{where}: augment=online is not possible, because {family.no_symmetries}. Leave out augment"
        )
    return OnlineCopies(family.symmetries)
