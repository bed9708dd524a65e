"""Copies of test puzzles under the symmetries of their family, and their answers turned back.

The first copy of each puzzle is the puzzle itself. The others are drawn from a generator of (seed, the puzzle's place
in the test stream), so that neither batches nor ranks change them.
Shapes: n puzzles, C copies of each (copy c of puzzle r is row r·C + c), S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dataset import arc
from dataset.augment import DIHEDRAL_INVERSE, NUM_DIHEDRAL, SudokuSymmetry, dihedral
from dataset.format import BLANK_IDENTIFIER, Metadata
from dataset.look import Look
from dataset.sudoku import BoxShape, random_symmetries
from evaluators.arc_tasks import identifier_names
from utils.errors import UserError

# Those that keep the shape of any rectangle: itself, half a turn, the two flips.
_KEEPING_SHAPE = (0, 2, 4, 5)


@dataclass(frozen=True)
class Copies:
    """The copies of n puzzles, and what turns answers to them into answers to the puzzles."""

    tokens: np.ndarray  # (n·C, S)
    identifiers: np.ndarray  # (n·C,)
    undo: Callable[[np.ndarray], np.ndarray]  # (n·C, S) answers -> (n·C, S)


class Symmetries:
    """A family's symmetries."""

    most: int | None = None  # different copies that a puzzle has; None: more than anybody runs

    def copies(
        self, tokens: np.ndarray, identifiers: np.ndarray, numbers: np.ndarray, count: int, seed: int
    ) -> Copies:
        """`count` copies of each of the puzzles: tokens (n, S), identifiers (n,), places in the stream (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must define copies")


class SudokuSymmetries(Symmetries):
    """Digits permuted, bands, stacks and lines within them reordered, and transposed where boxes are square."""

    def __init__(self, box: BoxShape):
        self.box = box

    def copies(self, tokens, identifiers, numbers, count, seed):
        drawn = [random_symmetries(_generator(seed, number), count - 1, self.box) for number in numbers]
        symmetry = _of_tokens(_with_identity(drawn, self.box))
        shape = (len(tokens) * count, self.box.size, self.box.size)
        repeated = np.repeat(tokens, count, axis=0)
        undoing = symmetry.inverse()
        return Copies(
            symmetry.apply(repeated.astype(np.uint8).reshape(shape)).reshape(repeated.shape),
            np.repeat(identifiers, count),
            lambda answers: undoing.apply(answers.astype(np.uint8).reshape(shape)).reshape(answers.shape),
        )


class MazeSymmetries(Symmetries):
    """The 8 symmetries of the square, of other rectangles the 4 that keep their shape."""

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        self.transforms = range(NUM_DIHEDRAL) if shape[0] == shape[1] else _KEEPING_SHAPE
        self.most = len(self.transforms)

    def copies(self, tokens, identifiers, numbers, count, seed):
        others = np.array(self.transforms[1:])
        chosen = [[0, *_generator(seed, number).permutation(others)[: count - 1]] for number in numbers]
        transforms = np.array(chosen).reshape(-1)

        def moved(grids: np.ndarray, by: np.ndarray) -> np.ndarray:
            out, grids = np.empty_like(grids), grids.reshape(-1, *self.shape)
            for transform in np.unique(by):
                rows = by == transform
                out[rows] = dihedral(grids[rows], transform).reshape(rows.sum(), -1)
            return out

        undoing = np.array(DIHEDRAL_INVERSE)[transforms]
        return Copies(
            moved(np.repeat(tokens, count, axis=0), transforms),
            np.repeat(identifiers, count),
            lambda answers: moved(answers, undoing),
        )


class ArcSymmetries(Symmetries):
    """Colours 1..9 permuted and the grid turned or mirrored.

    Answers are cropped to their grid and framed anew, so that what a model writes outside of it does not divide votes.
    Where the model knows tasks by identifier, a copy is one of the augmentations of the task that have an identifier,
    and is given with it: under any other the model would be asked about an augmented task that it was never shown.
    """

    def __init__(self, identifier_names: Sequence[str] | None, asked: Sequence[int] = ()):
        """`identifier_names` is None where the model knows none; `asked` are the identifiers of all test puzzles.

        Raises `UserError` where one of them names no task.
        """
        self._known = None if identifier_names is None else [_split(name) for name in identifier_names]
        if self._known is None:
            return
        self._siblings: dict[str, list[int]] = {}
        for identifier, known in enumerate(self._known):
            if known is not None:
                self._siblings.setdefault(known[0], []).append(identifier)
        tasks = {self._named(identifier)[0] for identifier in asked}
        self.most = min((len(self._siblings[task]) for task in tasks), default=None)

    def copies(self, tokens, identifiers, numbers, count, seed):
        copies, ids, undoings = [], [], []
        for sequence, identifier, number in zip(tokens, identifiers.tolist(), numbers.tolist(), strict=True):
            question = arc.crop(sequence)
            now, others = self._others(identifier, count - 1, _generator(seed, number))
            original = now.invert(question)
            for place, (other, augmentation) in enumerate([(identifier, now), *others]):
                copies.append(sequence if place == 0 else arc.encode(augmentation.apply(original)))
                ids.append(other)
                undoings.append((augmentation, now))

        def undo(answers: np.ndarray) -> np.ndarray:
            out = np.empty_like(answers)
            for row, (then, now) in enumerate(undoings):
                out[row] = arc.encode(now.apply(then.invert(arc.crop(answers[row]))))
            return out

        return Copies(np.array(copies), np.array(ids, identifiers.dtype), undo)

    def _others(
        self, identifier: int, count: int, rng: np.random.Generator
    ) -> tuple[arc.Augmentation, list[tuple[int, arc.Augmentation]]]:
        """The augmentation that a puzzle is shown in, and (identifier, augmentation) of its other copies."""
        if self._known is None:
            # Without replacement, and without number 0, which is the puzzle as it is.
            numbers = 1 + rng.choice(arc.NUM_AUGMENTATIONS - 1, count, replace=False)
            return arc.Augmentation(), [(identifier, _augmentation(number)) for number in numbers.tolist()]
        task, now = self._named(identifier)
        others = [other for other in self._siblings[task] if other != identifier]
        chosen = rng.choice(others, count, replace=False)
        return now, [(other, self._known[other][1]) for other in chosen.tolist()]

    def _named(self, identifier: int) -> tuple[str, arc.Augmentation]:
        known = self._known[identifier] if identifier < len(self._known) else None
        if known is None:
            raise UserError(
                f"strategy: a test puzzle has the identifier {identifier}, which names no task, so there is no "
                "telling which identifiers its copies have; use strategy=plain, noise or ensemble"
            )
        return known


def symmetries_of(
    metadata: Metadata, data_paths: Sequence[str], asked: Sequence[int], *, knows_identifiers: bool
) -> Symmetries:
    """The symmetries of the data's family; raises `UserError` where there are none that the model can be asked with.

    `asked` are the test puzzles' identifiers, `knows_identifiers` is whether the model has an embedding for each.
    """
    look = Look.of(metadata)
    many = knows_identifiers and metadata.num_puzzle_identifiers > 1
    if look.family == "arc":
        return ArcSymmetries(identifier_names(list(data_paths)) if many else None, asked)
    if look.family not in ("sudoku", "maze"):
        raise UserError(
            f"strategy: no symmetry of the puzzles in {', '.join(map(str, data_paths))} is known: "
            f"{look.reason}; use strategy=plain, noise or ensemble"
        )
    if many:
        raise UserError(
            f"strategy: {', '.join(map(str, data_paths))} has {metadata.num_puzzle_identifiers} puzzle identifiers "
            f"and the model an embedding for each, but which of them a copy of a {look.family} would have is unknown; "
            "use strategy=plain, noise or ensemble"
        )
    return SudokuSymmetries(look.box) if look.family == "sudoku" else MazeSymmetries(look.shape)


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(int(number),))))


def _with_identity(drawn: Sequence[SudokuSymmetry], box: BoxShape) -> SudokuSymmetry:
    """All puzzles' symmetries in one, the identity before those of each."""
    lines = np.arange(box.size)[None]
    identity = SudokuSymmetry(np.arange(box.size + 1)[None], lines, lines, np.zeros(1, bool))

    def every(name: str) -> np.ndarray:
        parts = [part for symmetry in drawn for part in (getattr(identity, name), getattr(symmetry, name))]
        return np.concatenate(parts)

    return SudokuSymmetry(every("digits"), every("rows"), every("columns"), every("transpose"))


def _of_tokens(symmetry: SudokuSymmetry) -> SudokuSymmetry:
    """The symmetry on tokens, which are one more than values, 0 being padding: an answer may hold any of them."""
    padding = np.zeros_like(symmetry.digits[:, :1])
    return replace(symmetry, digits=np.concatenate([padding, symmetry.digits + 1], axis=1))


def _augmentation(number: int) -> arc.Augmentation:
    (transform,), (colours,) = arc.decode_numbers(np.array([number]))
    return arc.Augmentation(int(transform), "".join(map(str, colours)))


def _split(name: str) -> tuple[str, arc.Augmentation] | None:
    return None if name == BLANK_IDENTIFIER else arc.split_name(name)
