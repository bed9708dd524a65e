"""Make training puzzles easier by revealing part of their answer (`reveal_prob`)."""

from __future__ import annotations

from collections.abc import Sequence

from dataset.families import family_of
from dataset.families.base import Augmentation
from dataset.metadata import Metadata
from utils.errors import UserError


def easier_puzzles(probability: float, described: Sequence[tuple[str, Metadata]]) -> Augmentation:
    """Return the augmentation that reveals cells, for datasets of one family and shape.

    Raises UserError, naming the folder, if a dataset's family does not support it.
    """
    kinds: dict[Augmentation, str] = {}
    for folder, metadata in described:
        family = family_of(metadata)
        kind = family.easier(probability)
        if kind is None:
            raise UserError(
                f"{folder}: reveal_prob={probability} is not supported: {family.lacks('easier')}. Leave it out"
            )
        kinds.setdefault(kind, folder)
    if len(kinds) > 1:
        (_, one), (_, other), *_ = kinds.items()
        raise UserError(
            f"reveal_prob={probability} needs datasets of one family and size, but {one} and {other} differ: leave "
            "it out"
        )
    return next(iter(kinds))
