"""Promises about symmetries: inverses, the group, preserved right answers, copies that vote.

Each test yields failures with an example. Shapes: n puzzles, k images of each, S cells of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dataset.families.base import Family
from dataset.families.symmetry import Symmetries, Transforms
from dataset.promises.puzzles import Puzzles, shown
from utils.errors import UserError

_IMAGES = 16  # symmetric images of each puzzle
_DRAWS = 64  # transformations drawn to compare with the whole group
_LARGEST_GROUP = 10_000


def inverses(puzzles: Puzzles) -> Iterator[str]:
    """Test inverses on arbitrary tokens, because a model may answer with any."""
    rng, symmetries = np.random.default_rng(2), puzzles.family.symmetries
    transforms = symmetries.draw(rng, _DRAWS)
    inverse = transforms.inverse()
    for dtype in (np.uint8, np.int64):
        tokens = rng.integers(0, puzzles.vocab_size, (_DRAWS, puzzles.seq_len)).astype(dtype)
        before, images = tokens.copy(), transforms.apply(tokens)
        if images.shape != tokens.shape or images.dtype != dtype:
            yield f"images of {np.dtype(dtype)} {tokens.shape} are {images.dtype} {images.shape}"
        if not np.array_equal(before, tokens):
            yield "apply changes its input tokens"
        for back in (inverse.apply(images), transforms.apply(inverse.apply(tokens))):
            for row, cell in np.argwhere(back != tokens)[:1]:
                yield f"a transformation and its inverse map cell {cell} of {shown(tokens[row])} to {back[row, cell]}"
        half = slice(_DRAWS // 2, None)
        if not np.array_equal(transforms[half].apply(tokens[half]), images[half]):
            yield "indexing transformations by rows gives different transformations"


def group(puzzles: Puzzles) -> Iterator[str]:
    """Test that `most` counts the transformations, and that copies are all of them, starting with the identity."""
    symmetries, rng = puzzles.family.symmetries, np.random.default_rng(3)
    count = min(8, symmetries.most or 8)
    several = symmetries.draw_copies([np.random.default_rng(seed) for seed in (0, 1)], count)
    probe = rng.integers(0, puzzles.vocab_size, (4, puzzles.seq_len)).astype(np.uint8)
    keys = _image_keys(several, 2 * count, probe)
    unchanged = b"".join(grid.tobytes() for grid in probe)
    if [keys[0], keys[count]] != [unchanged] * 2:
        yield "the first copy of a puzzle is not the puzzle itself"
    if symmetries.most is None or symmetries.most > _LARGEST_GROUP:
        return
    if len(set(keys[:count])) < count:
        yield f"{count} copies of a puzzle repeat a transformation, although most is {symmetries.most}"
    every = _image_keys(symmetries.draw_copies([rng], symmetries.most), symmetries.most, probe)
    if len(set(every)) != symmetries.most:
        yield f"most is {symmetries.most}, but there are {len(set(every))} different transformations"
    if not set(_image_keys(symmetries.draw(rng, _DRAWS), _DRAWS, probe)) <= set(every):
        yield f"draw gives transformations that are not among the {symmetries.most} copies"


def _image_keys(transforms: Transforms, count: int, probe: np.ndarray) -> list[bytes]:
    """Apply each of `count` transformations to the grids (p, S)."""
    images = [transforms.apply(np.repeat(grid[None], count, axis=0)) for grid in probe]
    return [b"".join(image[row].tobytes() for image in images) for row in range(count)]


def images_of(puzzles: Puzzles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return puzzle numbers (n·k,) and images (n·k, S) of questions and answers under the same transformations."""
    numbers = np.repeat(np.arange(len(puzzles)), _IMAGES)
    transforms = puzzles.family.symmetries.draw(np.random.default_rng(4), len(numbers))
    return numbers, *(transforms.apply(tokens[numbers]) for tokens in (puzzles.questions, puzzles.answers))


def symmetric_answers(puzzles: Puzzles) -> Iterator[str]:
    family, (numbers, questions, answers) = puzzles.family, images_of(puzzles)
    for row in range(len(numbers)):
        verdict = family.judge(questions[row], answers[row], answers[row].astype(np.int64))
        if not verdict.solved:
            yield (
                f"an image of {puzzles.named(numbers[row])} is {shown(questions[row])}, to which the image of the "
                f"answer, {shown(answers[row])}, is judged not solved: {verdict.words}"
            )


def copies(puzzles: Puzzles) -> Iterator[str]:
    """Test copies that vote: `undo` maps answers back, and the draws do not depend on the batch."""
    family, symmetries = puzzles.family, copied_by(puzzles.family)
    identifiers, positions = np.zeros(len(puzzles), np.int32), np.arange(len(puzzles))
    count = min(4, symmetries.most or 4)
    made = symmetries.copies(puzzles.questions, identifiers, positions, count, 0)
    shapes = made.tokens.shape, made.identifiers.shape
    if shapes != ((count * len(puzzles), puzzles.seq_len), (count * len(puzzles),)):
        yield f"{count} copies of each of {len(puzzles)} puzzles have tokens and identifiers of shapes {shapes}"
        return
    if not np.array_equal(made.tokens[::count], puzzles.questions):
        yield "the first copy of a puzzle is not the puzzle itself"
    for row, back in enumerate(made.undo(made.tokens)):
        question = puzzles.questions[row // count]
        if not np.array_equal(family.counted(back), family.counted(question)):
            yield f"copy {row % count} of {puzzles.named(row // count)} is mapped back to {shown(back)}"
    alone = symmetries.copies(puzzles.questions[-1:], identifiers[-1:], positions[-1:], count, 0)
    if not np.array_equal(alone.tokens, made.tokens[-count:]):
        yield "the copies of a puzzle depend on the batch that it is in"


def copied_by(family: Family) -> Symmetries | None:
    """Return the symmetries that make copies for a model without puzzle embeddings, or None."""
    try:
        return family.symmetries_to_ask([], (), 1)
    except UserError:
        return None
