"""Augmentations: inverses, group structure, and validity of puzzles under Sudoku symmetries."""

from __future__ import annotations

import numpy as np
import pytest

from dataset.augment import (
    DIHEDRAL_INVERSE,
    NUM_DIHEDRAL,
    SudokuSymmetry,
    dihedral,
    inverse_dihedral,
    inverse_permutation,
    shuffled_bands,
)
from dataset.families.sudoku.copies import with_copies
from dataset.families.sudoku.generate import PuzzleSpec, generate_split
from dataset.families.sudoku.rules import BoxShape, is_solution, random_symmetries

SHAPES = [BoxShape(2, 2), BoxShape(2, 3), BoxShape(3, 2), BoxShape(3, 3), BoxShape(2, 4), BoxShape(4, 4)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def solutions(shape: BoxShape, number: int = 2):
    spec = PuzzleSpec(shape, shape.num_cells * 3 // 4)
    return generate_split(spec, number, seed=0, split=0, workers=1)


# --- dihedral ---


def test_dihedral_ids_match_the_published_ones():
    grid = np.array([[1, 2, 3], [4, 5, 6]])
    expected = [
        [[1, 2, 3], [4, 5, 6]],
        [[3, 6], [2, 5], [1, 4]],
        [[6, 5, 4], [3, 2, 1]],
        [[4, 1], [5, 2], [6, 3]],
        [[3, 2, 1], [6, 5, 4]],
        [[4, 5, 6], [1, 2, 3]],
        [[1, 4], [2, 5], [3, 6]],
        [[6, 3], [5, 2], [4, 1]],
    ]
    assert [dihedral(grid, transform).tolist() for transform in range(8)] == expected


@pytest.mark.parametrize("transform", range(NUM_DIHEDRAL))
def test_dihedral_transforms_are_undone_on_batches(transform):
    grids = rng().integers(0, 10, (5, 2, 3, 4))
    assert (inverse_dihedral(dihedral(grids, transform), transform) == grids).all()
    assert (dihedral(grids, transform)[3, 1] == dihedral(grids[3, 1], transform)).all()
    assert DIHEDRAL_INVERSE[DIHEDRAL_INVERSE[transform]] == transform


def test_dihedral_transforms_form_a_group_of_eight():
    grid = np.arange(9).reshape(3, 3)
    images = {dihedral(grid, transform).tobytes() for transform in range(8)}
    assert len(images) == 8
    assert {dihedral(dihedral(grid, a), b).tobytes() for a in range(8) for b in range(8)} == images


@pytest.mark.parametrize("transform", [-1, 8, 100])
def test_an_unknown_dihedral_transform_is_rejected(transform):
    with pytest.raises(ValueError, match="0 to 7"):
        dihedral(np.zeros((2, 2)), transform)


# --- permutations ---


def test_the_inverse_of_each_permutation_undoes_it():
    many = np.stack([rng(seed).permutation(10) for seed in range(6)])
    inverses = inverse_permutation(many)
    assert (np.take_along_axis(many, inverses, -1) == np.arange(10)).all()
    assert (np.take_along_axis(inverses, many, -1) == np.arange(10)).all()
    assert (inverse_permutation(many[0]) == inverses[0]).all()


@pytest.mark.parametrize(("num_bands", "band_size"), [(2, 2), (3, 2), (2, 3), (3, 3), (4, 4), (2, 8)])
def test_shuffled_lines_stay_in_their_bands(num_bands, band_size):
    orders = shuffled_bands(rng(), 500, num_bands, band_size)
    assert (np.sort(orders, axis=1) == np.arange(num_bands * band_size)).all()
    bands = (orders // band_size).reshape(500, num_bands, band_size)
    assert (bands == bands[:, :, :1]).all()


def test_every_valid_order_of_lines_is_drawn_about_equally_often():
    orders = shuffled_bands(rng(), 48_000, 3, 2)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 48  # 3! orders of bands, 2! orders in each
    assert counts.min() > 800
    assert counts.max() < 1200


# --- Sudoku symmetries ---


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_symmetries_keep_solutions_valid_and_are_undone(shape):
    made = solutions(shape)
    for grid in (*made.solutions, *made.puzzles):
        grid = grid.reshape(shape.size, shape.size)
        symmetries = random_symmetries(rng(1), 50, shape)
        images = symmetries.apply(grid)
        assert images.shape == (50, shape.size, shape.size)
        assert (symmetries.inverse().apply(images) == grid).all()
        if grid.all():
            assert is_solution(images.reshape(50, -1), shape).all()
        assert (np.count_nonzero(images, axis=(1, 2)) == np.count_nonzero(grid)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_symmetries_match_their_definition_cell_by_cell(shape):
    grid = rng(2).integers(0, shape.size + 1, (shape.size, shape.size)).astype(np.uint8)
    symmetries = random_symmetries(rng(3), 8, shape)
    for k, image in enumerate(symmetries.apply(grid)):
        source = grid.T if symmetries.transpose[k] else grid
        for i in range(shape.size):
            for j in range(shape.size):
                moved = source[symmetries.rows[k, i], symmetries.columns[k, j]]
                assert image[i, j] == symmetries.digits[k, moved]


def test_only_square_boxes_are_transposed():
    assert 300 < random_symmetries(rng(), 1000, BoxShape(3, 3)).transpose.sum() < 700
    assert not random_symmetries(rng(), 1000, BoxShape(2, 3)).transpose.any()


def test_batched_indexed_and_single_symmetries_give_the_same_images():
    shape = BoxShape(2, 3)
    grids = rng(5).integers(0, 7, (4, 6, 6)).astype(np.uint8)
    symmetries = random_symmetries(rng(6), 4, shape)
    images = symmetries.apply(grids)
    assert (
        symmetries.apply(grids[[2, 0]], np.array([1, 0, 0, 1])) == symmetries.apply(grids[[0, 2, 2, 0]])
    ).all()
    for k in range(4):
        fields = (symmetries.digits, symmetries.rows, symmetries.columns, symmetries.transpose)
        alone = SudokuSymmetry(*(field[k] for field in fields))
        assert (alone.apply(grids[k]) == images[k]).all()
        assert (alone.inverse().apply(images[k]) == grids[k]).all()


def test_bits_above_the_values_move_with_their_cell():
    shape = BoxShape(4, 4)
    grid = rng(7).integers(0, 17, (16, 16)).astype(np.uint8)
    marks = rng(8).integers(0, 8, (16, 16)).astype(np.uint8) << 5
    symmetries = random_symmetries(rng(9), 10, shape)
    images = symmetries.apply(grid | marks)
    identity = np.broadcast_to(np.arange(17, dtype=np.uint8), (10, 17))
    moved = SudokuSymmetry(identity, symmetries.rows, symmetries.columns, symmetries.transpose)
    assert (images & 31 == symmetries.apply(grid)).all()
    assert (images >> 5 == moved.apply(marks >> 5)).all()


# --- copies of puzzles ---


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_copies_are_valid_and_follow_the_puzzle_itself(shape):
    made = solutions(shape, 3)
    puzzles, answers = with_copies(rng(), made.puzzles, made.solutions, 5, shape)
    assert (puzzles[::6] == made.puzzles).all()
    assert (answers[::6] == made.solutions).all()
    assert is_solution(answers, shape).all()
    assert ((puzzles == 0) | (puzzles == answers)).all()
    given = np.count_nonzero(puzzles, axis=1)
    assert (given == np.repeat(np.count_nonzero(made.puzzles, axis=1), 6)).all()


def test_without_copies_only_the_puzzles_remain():
    shape = BoxShape(2, 2)
    made = solutions(shape)
    puzzles, answers = with_copies(rng(), made.puzzles, made.solutions, 0, shape)
    assert (puzzles == made.puzzles).all()
    assert (answers == made.solutions).all()


def test_rejected_copies_are_redrawn():
    shape = BoxShape(2, 2)
    made = solutions(shape)

    def first_cell_is_one(puzzles, answers):
        return answers[:, 0] == 1

    _, answers = with_copies(rng(), made.puzzles, made.solutions, 200, shape, first_cell_is_one)
    copies = np.delete(answers, [0, 201], axis=0)
    assert not (copies[:, 0] == 1).any()
    assert {2, 3, 4} == set(copies[:, 0].tolist())


def test_copies_that_are_always_rejected_are_replaced_by_the_puzzle_itself():
    shape = BoxShape(2, 2)
    made = solutions(shape)
    puzzles, _ = with_copies(
        rng(), made.puzzles, made.solutions, 3, shape, lambda p, a: np.ones(len(p), bool)
    )
    assert (puzzles == np.repeat(made.puzzles, 4, axis=0)).all()
