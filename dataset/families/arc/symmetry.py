"""Symmetries of ARC: rotations, reflections and colours. Shapes: n puzzles, C copies of each, S cells of a frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataset.families.arc import grids as arc
from dataset.families.symmetry import Copies, Symmetries, puzzle_generator
from dataset.metadata import BLANK_IDENTIFIER
from utils.errors import UserError


class ArcSymmetries(Symmetries):
    """Permutations of the colours 1..9, rotations and reflections.

    Answers are cropped to their grid and framed again, so that predictions outside of it do not split votes. If the
    model knows tasks by identifier, copies are restricted to augmentations of the task that have an identifier, which
    is passed to the model; it has not been trained on other augmentations.
    """

    def __init__(self, identifier_names: Sequence[str] | None, asked: Sequence[int] = ()) -> None:
        """Index the tasks by identifier.

        `identifier_names`: None if the model has no puzzle embeddings; `asked`: identifiers of all test puzzles. Raises
        UserError if one of them does not belong to a task.
        """
        self._by_identifier = identifier_names is not None
        self._known: list[tuple[str, arc.Augmentation] | None] = []
        if identifier_names is None:
            return
        self._known = [_split(name) for name in identifier_names]
        self._siblings: dict[str, list[int]] = {}
        for identifier, known in enumerate(self._known):
            if known is not None:
                self._siblings.setdefault(known[0], []).append(identifier)
        tasks = {self._named(identifier)[0] for identifier in asked}
        self.most = min((len(self._siblings[task]) for task in tasks), default=None)

    def copies(
        self, tokens: np.ndarray, identifiers: np.ndarray, numbers: np.ndarray, count: int, seed: int
    ) -> Copies:
        copies, ids, undo_steps = [], [], []
        for sequence, identifier, number in zip(tokens, identifiers.tolist(), numbers.tolist(), strict=True):
            question, side = arc.crop(sequence), arc.frame_side(len(sequence))
            now, others = self._others(identifier, count - 1, puzzle_generator(seed, number))
            original = now.invert(question)
            for copy, (other, augmentation) in enumerate([(identifier, now), *others]):
                copies.append(sequence if copy == 0 else arc.encode(augmentation.apply(original), side=side))
                ids.append(other)
                undo_steps.append((augmentation, now))

        def undo(answers: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
            out, side = np.empty_like(answers), arc.frame_side(answers.shape[-1])
            for row, copy in enumerate(np.arange(len(undo_steps))[rows].tolist()):
                then, now = undo_steps[copy]
                out[row] = arc.encode(now.apply(then.invert(arc.crop(answers[row]))), side=side)
            return out

        return Copies(np.array(copies), np.array(ids, identifiers.dtype), undo)

    def _others(
        self, identifier: int, count: int, rng: np.random.Generator
    ) -> tuple[arc.Augmentation, list[tuple[int, arc.Augmentation]]]:
        """Return the augmentation of a puzzle, and (identifier, augmentation) of its other copies."""
        if not self._by_identifier:
            # Without replacement, and without number 0, the identity.
            numbers = 1 + rng.choice(arc.NUM_AUGMENTATIONS - 1, count, replace=False)
            return arc.Augmentation(), [(identifier, _augmentation(number)) for number in numbers.tolist()]
        task, now = self._named(identifier)
        others = [other for other in self._siblings[task] if other != identifier]
        chosen = rng.choice(others, count, replace=False)
        return now, [(other, self._named(other)[1]) for other in chosen.tolist()]

    def _named(self, identifier: int) -> tuple[str, arc.Augmentation]:
        known = self._known[identifier] if identifier < len(self._known) else None
        if known is None:
            raise UserError(
                f"strategy: a test puzzle has the identifier {identifier}, which belongs to no task, so the "
                "identifiers of its copies are unknown; use strategy=plain, noise or ensemble"
            )
        return known


def _augmentation(number: int) -> arc.Augmentation:
    (transform,), (colours,) = arc.decode_numbers(np.array([number]))
    return arc.Augmentation(int(transform), "".join(map(str, colours)))


def _split(name: str) -> tuple[str, arc.Augmentation] | None:
    return None if name == BLANK_IDENTIFIER else arc.split_name(name)
