"""Symmetric copies of test puzzles: exact inverses, valid solutions, and determinism."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dataset.families import family_of
from dataset.families.arc import grids as arc
from dataset.families.arc.symmetry import ArcSymmetries
from dataset.families.maze import rules as maze
from dataset.families.sudoku.rules import BoxShape, is_solution, random_symmetries, to_tokens
from dataset.families.sudoku.symmetry import SudokuSymmetries
from dataset.families.symmetry import FiniteSymmetries
from dataset.format import Metadata
from utils.errors import UserError

COUNT = 6
BOXES = [BoxShape(2, 2), BoxShape(2, 3), BoxShape(3, 3), BoxShape(4, 4)]


def solved_sudokus(box: BoxShape, count: int) -> np.ndarray:
    """Return tokens (count, N²) of solved grids: images of the pattern of shifted rows."""
    size = box.size
    lines = np.arange(size)
    pattern = (lines[:, None] * box.columns + lines[:, None] // box.rows + lines) % size + 1
    grids = np.repeat(pattern[None].astype(np.uint8), count, 0)
    assert is_solution(pattern.reshape(-1), box)
    return to_tokens(random_symmetries(np.random.default_rng(1), count, box).apply(grids).reshape(count, -1))


def copies(symmetries, tokens: np.ndarray, *, count: int = COUNT, seed: int = 3, first: int = 0, ids=None):
    numbers = np.arange(first, first + len(tokens))
    ids = np.zeros(len(tokens), np.int32) if ids is None else ids
    return symmetries.copies(tokens, ids, numbers, count, seed)


def of_family(name: str, rng: np.random.Generator, rows: int = 5):
    """Return (symmetries, tokens (rows, S)), with random tokens as a model might predict them."""
    if name.startswith("sudoku"):
        box = BoxShape.parse(name.removeprefix("sudoku "))
        return SudokuSymmetries(box), rng.integers(0, box.vocab_size, (rows, box.num_cells)).astype(np.int16)
    shape = (5, 5) if name == "maze" else (3, 7)
    return FiniteSymmetries.of_rectangle(shape), rng.integers(
        0, maze.VOCAB_SIZE, (rows, shape[0] * shape[1])
    ).astype(np.int16)


FAMILIES = [*(f"sudoku {box}" for box in BOXES), "maze", "flat maze"]


@pytest.mark.parametrize("family", FAMILIES)
def test_undo_inverts_any_answer_exactly(family):
    symmetries, tokens = of_family(family, np.random.default_rng(0))
    count = min(COUNT, symmetries.most or COUNT)
    made = copies(symmetries, tokens, count=count)
    assert np.array_equal(made.tokens.reshape(5, count, -1)[:, 0], tokens)
    assert np.array_equal(made.undo(made.tokens.astype(np.int16)), np.repeat(tokens, count, 0))
    # Answers to copies are mapped back by different symmetries, so equal answers become different ones.
    same = np.repeat(tokens[:1], 5 * count, 0)
    assert len(np.unique(made.undo(same).reshape(5, count, -1)[0], axis=0)) == count


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_copies_of_solutions_and_answers_mapped_back_are_solutions(box):
    tokens = solved_sudokus(box, 8)
    made = copies(SudokuSymmetries(box), tokens)
    assert is_solution(made.tokens.astype(np.int64) - 1, box).all()
    others = solved_sudokus(box, 8 * COUNT)
    assert is_solution(made.undo(others).astype(np.int64) - 1, box).all()


@pytest.mark.parametrize("family", ["maze", "flat maze"])
def test_copies_of_a_maze_have_its_shortest_paths(family):
    shape = (5, 5) if family == "maze" else (3, 7)
    symmetries = FiniteSymmetries.of_rectangle(shape)
    text = ("S    #### G", "S   ###   # #   G    ")[family == "flat maze"]
    question = maze.encode(text.ljust(shape[0] * shape[1], " "))[None]
    length = maze.path_lengths(question, shape)
    assert length > 3
    made = copies(symmetries, question, count=symmetries.most)
    assert (maze.path_lengths(made.tokens, shape) == length).all()
    assert len(np.unique(made.tokens, axis=0)) == symmetries.most


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_of_a_puzzle_depend_only_on_the_seed_and_its_index(family):
    symmetries, tokens = of_family(family, np.random.default_rng(0))
    count = 4
    together = copies(symmetries, tokens, count=count).tokens.reshape(5, count, -1)
    alone = [copies(symmetries, tokens[i : i + 1], count=count, first=i).tokens for i in range(5)]
    assert np.array_equal(together, np.stack(alone))
    assert not np.array_equal(
        together, copies(symmetries, tokens, count=count, seed=4).tokens.reshape(together.shape)
    )


# ------------------------------------------------------------------------------ ARC

TASK = "0a1b2c3d"
NAMES = [
    "<blank>",
    TASK,
    f"{TASK}|||t3|||0234567891",
    f"{TASK}|||t6|||0987654321",
    f"{TASK}|||t0|||0132456789",
    "other",
]


def arc_question(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid before augmentation, and its sequence under the augmentation of `name`."""
    grid = np.random.default_rng(5).integers(0, 10, (4, 7)).astype(np.uint8)
    return grid, arc.encode(arc.split_name(name)[1].apply(grid))


@pytest.mark.parametrize("identifier", [1, 2, 3, 4])
def test_arc_copies_match_the_data_of_their_identifiers(identifier):
    grid, sequence = arc_question(NAMES[identifier])
    made = copies(ArcSymmetries(NAMES), sequence[None], count=4, ids=np.array([identifier], np.int32))
    assert made.identifiers[0] == identifier
    assert sorted(made.identifiers) == [1, 2, 3, 4]
    for tokens, shown_as in zip(made.tokens, made.identifiers, strict=True):
        assert np.array_equal(tokens, arc.encode(arc.split_name(NAMES[shown_as])[1].apply(grid)))
    answer = np.random.default_rng(6).integers(0, 10, (3, 5)).astype(np.uint8)
    said = np.stack([arc.encode(arc.split_name(NAMES[i])[1].apply(answer)) for i in made.identifiers])
    said[:, -1] = 9  # outside the grid, so it is ignored
    expected = arc.encode(arc.split_name(NAMES[identifier])[1].apply(answer))
    assert (made.undo(said.astype(np.int16)) == expected).all()


def test_arc_without_identifiers_uses_any_augmentation():
    grid, sequence = arc_question(TASK)
    made = copies(ArcSymmetries(None), sequence[None], count=12)
    assert len(np.unique(made.tokens, axis=0)) == 12
    assert (made.undo(made.tokens) == sequence).all()
    blanks = [np.sort(np.bincount(arc.crop(tokens).reshape(-1), minlength=10)) for tokens in made.tokens]
    assert all(
        np.array_equal(counts, np.sort(np.bincount(grid.reshape(-1), minlength=10))) for counts in blanks
    )
    assert all((arc.crop(tokens) == 0).sum() == (grid == 0).sum() for tokens in made.tokens)


def test_the_number_of_arc_copies_is_the_minimum_of_identifiers_per_task():
    assert ArcSymmetries(NAMES, [1, 3]).most == 4
    assert ArcSymmetries(NAMES, [1, 5]).most == 1
    assert ArcSymmetries(None, [0]).most is None
    for unnamed in (0, 6):
        with pytest.raises(UserError, match=f"identifier {unnamed}, which belongs to no task"):
            ArcSymmetries(NAMES, [1, unnamed])


# ------------------------------------------------------------------------------ which family


def metadata(seq_len: int, vocab_size: int, *, identifiers: int = 1, **extra) -> Metadata:
    return Metadata(0, 0, 0, vocab_size, seq_len, identifiers, 1, 1.0, 1, ("all",), extra)


def test_the_family_determines_the_symmetries(tmp_path):
    def found(*sizes, identifiers=1, knows_identifiers=True, **extra):
        family = family_of(metadata(*sizes, identifiers=identifiers, **extra))
        return family.symmetries_to_ask([tmp_path], [1, 5], identifiers if knows_identifiers else 1)

    assert found(36, 8, family="sudoku", box_shape=[3, 2]).box == BoxShape(3, 2)
    assert found(21, 6, family="maze", grid_shape=[3, 7]).most == 4
    assert found(25, 6, family="maze", grid_shape=[5, 5]).most == 8
    (tmp_path / "test_puzzles.json").write_text("{}")
    (tmp_path / "identifiers.json").write_text(json.dumps(NAMES))
    assert found(900, 12, identifiers=6, family="arc").most == 1
    assert found(900, 12, identifiers=6, family="arc", knows_identifiers=False).most is None
    with pytest.raises(UserError, match="names no family"):
        found(17, 9)
    with pytest.raises(UserError, match="3 puzzle identifiers"):
        found(16, 6, identifiers=3, family="sudoku")
    found(16, 6, identifiers=3, family="sudoku", knows_identifiers=False)
