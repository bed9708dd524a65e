"""The Sudoku family: box shapes, text, rules, solvers, generator, invariant hashes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from dataset.families.sudoku.batch import solve_batch
from dataset.families.sudoku.generate import (
    PuzzleSpec,
    default_clues,
    generate_split,
    random_puzzle,
    random_solution,
)
from dataset.families.sudoku.hashes import invariant_hashes
from dataset.families.sudoku.rules import (
    BoxShape,
    draw_grid,
    format_grid,
    is_solution,
    keeps_givens,
    parse_grid,
    random_symmetries,
    recorded_shape,
    to_tokens,
    to_values,
    units,
    violations,
)
from dataset.families.sudoku.search import solve
from utils.errors import UserError

DATA = Path(__file__).parent / "data" / "sudoku"
SHAPES = [
    BoxShape(2, 2),
    BoxShape(2, 3),
    BoxShape(3, 2),
    BoxShape(2, 4),
    BoxShape(3, 3),
    BoxShape(3, 4),
    BoxShape(4, 4),
]
SMALL = [BoxShape(2, 2), BoxShape(2, 3), BoxShape(3, 2), BoxShape(3, 3)]
SOLVED_4X4 = "1234341221434321"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def all_grids_4x4() -> np.ndarray:
    """Return all solved 4x4 grids, found without the solver by checking all permutations of rows."""

    def fits(rows):
        for a, b in itertools.combinations(range(len(rows)), 2):
            if any(x == y for x, y in zip(rows[a], rows[b], strict=True)):
                return False
            if a // 2 == b // 2 and any({*rows[a][c : c + 2]} & {*rows[b][c : c + 2]} for c in (0, 2)):
                return False
        return True

    partial = [()]
    for _ in range(4):
        extended = ((*rows, row) for rows in partial for row in itertools.permutations((1, 2, 3, 4)))
        partial = [rows for rows in extended if fits(rows)]
    return np.array(partial, np.uint8).reshape(-1, 16)


# --- shapes and text ---


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4, (2, 2)),
        (6, (2, 3)),
        (8, (2, 4)),
        (9, (3, 3)),
        (12, (3, 4)),
        (16, (4, 4)),
        (24, (4, 6)),
        (25, (5, 5)),
    ],
)
def test_a_size_has_default_boxes(size, expected):
    shape = BoxShape.for_size(size)
    assert (shape.rows, shape.columns) == expected
    assert shape == BoxShape.for_cells(size * size)
    assert shape.vocab_size == size + 2


@pytest.mark.parametrize("size", [2, 3, 5, 7, 13, 17, 22, 36])
def test_a_size_without_boxes_is_rejected_with_the_valid_ones(size):
    with pytest.raises(
        UserError, match=f"size {size}: it must be one of 4, 6, 8, 9, 10, 12, 14, 15, 16, 18, 20, 21, 24, 25"
    ):
        BoxShape.for_size(size)


@pytest.mark.parametrize("text", ["2", "2x", "x3", "2x3x4", "axb", "", "1x4", "4x1", "2x9", "5x6", "0x3"])
def test_an_impossible_box_shape_is_rejected(text):
    with pytest.raises(UserError, match=r"box shape|boxes of"):
        BoxShape.parse(text)


def test_a_number_of_cells_that_is_not_square_is_rejected():
    with pytest.raises(UserError, match="35 cells do not form a square grid"):
        BoxShape.for_cells(35)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_units_are_rows_columns_and_boxes_of_all_cells(shape):
    rows, columns, boxes = units(shape).reshape(3, shape.size, shape.size)
    for kind in (rows, columns, boxes):
        assert sorted(kind.reshape(-1).tolist()) == list(range(shape.num_cells))
    for cells in boxes:
        box_rows, box_columns = (
            {c // shape.size for c in cells.tolist()},
            {c % shape.size for c in cells.tolist()},
        )
        assert (len(box_rows), len(box_columns)) == (shape.rows, shape.columns)
        assert min(box_rows) % shape.rows == 0
        assert min(box_columns) % shape.columns == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_text_values_and_tokens_round_trip(shape):
    values = rng().integers(0, shape.size + 1, shape.num_cells).astype(np.uint8)
    text = format_grid(values)
    assert (parse_grid(text, shape) == values).all()
    assert (parse_grid(text.replace(".", "0"), shape) == values).all()
    tokens = to_tokens(values)
    assert tokens.dtype == np.uint8
    assert tokens.min() >= 1
    assert tokens.max() < shape.vocab_size
    assert (to_values(tokens) == values).all()


def test_a_large_grid_uses_letters_after_9():
    shape = BoxShape(4, 4)
    assert parse_grid("9ABCDEFG" + "." * 248, shape)[:8].tolist() == [9, 10, 11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("123", "it has 3 characters, but a 4x4 grid has 16"),
        ("5" + "." * 15, "it has '5' at character 1; allowed are 1234 and . or 0"),
        ("." * 15 + " ", "it has ' ' at character 16"),
        ("." * 15 + "é", "it has 'é' at character 16"),
    ],
)
def test_wrong_text_is_rejected_with_the_position(text, message):
    with pytest.raises(UserError) as error:
        parse_grid(text, BoxShape(2, 2), "it")
    assert message in str(error.value)


def test_a_drawing_has_lines_between_boxes():
    drawn = draw_grid(parse_grid("123456" + "." * 30, BoxShape(2, 3)), BoxShape(2, 3)).splitlines()
    assert drawn[:3] == ["1 2 3 | 4 5 6", ". . . | . . .", "------+------"]
    assert len(drawn) == 8
    assert {len(line) for line in drawn} == {13}


def test_a_recorded_box_shape_overrides_the_default():
    assert recorded_shape({"box_shape": [3, 2]}, 36, "f") == BoxShape(3, 2)
    assert recorded_shape({}, 36, "f") == BoxShape(2, 3)
    with pytest.raises(UserError, match=r"f: box_shape \[3, 3\] means grids of 81 cells, not 36"):
        recorded_shape({"box_shape": [3, 3]}, 36, "f")
    with pytest.raises(UserError, match="f: "):
        recorded_shape({"box_shape": [3]}, 36, "f")


# --- rules ---


def test_is_solution_finds_all_4x4_grids_among_all_latin_squares():
    # Rows and columns are not sufficient: of 576 Latin squares of order 4, 288 have valid boxes.
    permutations = list(itertools.permutations((1, 2, 3, 4)))
    latin = np.array(
        [
            rows
            for rows in itertools.product(permutations, repeat=4)
            if all(len({row[c] for row in rows}) == 4 for c in range(4))
        ]
    ).reshape(-1, 16)
    assert len(latin) == 576
    solutions = latin[is_solution(latin, BoxShape(2, 2))]
    assert {row.tobytes() for row in solutions.astype(np.uint8)} == {row.tobytes() for row in all_grids_4x4()}


@pytest.mark.parametrize("value", [0, 5, 255, -1, 10**6])
def test_a_value_out_of_range_is_not_a_solution(value):
    grid = parse_grid(SOLVED_4X4, BoxShape(2, 2)).astype(np.int64)
    assert is_solution(grid, BoxShape(2, 2))
    grid[7] = value
    assert not is_solution(grid, BoxShape(2, 2))


def test_violations_name_symbol_and_unit():
    shape = BoxShape(2, 2)
    assert violations(parse_grid(SOLVED_4X4, shape), shape) == []
    assert violations(np.zeros(16, np.uint8), shape) == []
    assert violations(parse_grid("1.1....." + "." * 8, shape), shape) == ["1 occurs 2 times in row 1"]
    assert violations(parse_grid("1....1.." + "." * 8, shape), shape) == ["1 occurs 2 times in box 1"]


def test_keeps_givens_ignores_only_blanks():
    puzzle, answer = np.array([[0, 2, 0, 4]] * 3), np.array([[1, 2, 3, 4], [9, 2, 9, 4], [1, 2, 3, 1]])
    assert keeps_givens(puzzle, answer).tolist() == [True, True, False]


# --- solvers ---


def test_both_solvers_match_brute_force_on_4x4_puzzles():
    shape, grids = BoxShape(2, 2), all_grids_4x4()
    assert len(grids) == 288
    generator = rng(1)
    blanked = grids[generator.integers(len(grids), size=600)]
    keep = generator.random(blanked.shape) < generator.uniform(0.1, 0.7, (600, 1))
    puzzles = blanked * keep
    puzzles[:100] = np.where(
        generator.random((100, 16)) < 0.1, generator.integers(1, 5, (100, 16)), puzzles[:100]
    )
    fits = ((puzzles[:, None] == 0) | (puzzles[:, None] == grids[None])).all(-1)
    expected = np.minimum(fits.sum(1), 2)
    assert {0, 1, 2} == set(expected.tolist())
    batch = solve_batch(puzzles, shape)
    assert (batch.num_solutions == expected).all()
    for puzzle, fitting, solution in zip(puzzles, fits, batch.solutions, strict=True):
        result = solve(puzzle, shape)
        assert len(result.solutions) == min(fitting.sum(), 2)
        assert result.unique == (fitting.sum() == 1)
        if result.unique:
            assert result.solutions[0] == solution.tolist() == grids[fitting][0].tolist()
    every = solve(puzzles[np.argmax(fits.sum(1))], shape, limit=1000)
    assert len(every.solutions) == fits.sum(1).max()


def test_both_solvers_agree_on_hard_puzzles_and_their_guesses():
    shape = BoxShape(3, 3)
    puzzles = np.stack([parse_grid(line, shape) for line in (DATA / "hardest.txt").read_text().split()])
    batch = solve_batch(puzzles, shape)
    assert (batch.num_solutions == 1).all()
    assert is_solution(batch.solutions, shape).all()
    assert keeps_givens(puzzles, batch.solutions).all()
    single = [solve(puzzle, shape) for puzzle in puzzles]
    assert [result.solutions[0] for result in single] == batch.solutions.tolist()
    assert [result.guesses for result in single] == batch.guesses.tolist()
    assert max(batch.guesses) > 10


@pytest.mark.parametrize("shape", [*SMALL, BoxShape(3, 4)], ids=str)
def test_guesses_agree_in_every_shape_and_in_any_batch(shape):
    made = [
        random_puzzle(rng(i), PuzzleSpec(shape, shape.num_cells, minimal=shape.size < 9)) for i in range(6)
    ]
    puzzles = np.stack([puzzle for puzzle, _ in made])
    batch = solve_batch(np.tile(puzzles, (50, 1)), shape)
    expected = [solve(puzzle, shape).guesses for puzzle in puzzles]
    assert batch.guesses.tolist() == expected * 50


def test_guesses_do_not_depend_on_the_order_of_values():
    shape = BoxShape(3, 3)
    puzzle = parse_grid((DATA / "hardest.txt").read_text().split()[1], shape)
    counts = {solve(puzzle, shape, order=rng(i).permutation(9) + 1).guesses for i in range(5)}
    assert len(counts) == 1


def test_a_puzzle_of_singles_needs_no_guesses():
    shape = BoxShape(3, 3)
    solution = random_solution(rng(), shape)
    puzzle = np.where(np.arange(81) % 9 == 0, 0, solution)
    assert solve(puzzle, shape).guesses == 0


def test_conflicting_givens_have_no_solution():
    puzzle = np.zeros(81, np.uint8)
    puzzle[[0, 8]] = 5
    assert solve(puzzle, BoxShape(3, 3)).solutions == []
    assert solve_batch(puzzle[None], BoxShape(3, 3)).num_solutions.tolist() == [0]


def test_an_excluded_value_is_never_used():
    shape = BoxShape(2, 2)
    first = solve(np.zeros(16, np.uint8), shape, limit=1).solutions[0]
    every = solve(np.zeros(16, np.uint8), shape, limit=1000, excluded=(0, first[0])).solutions
    assert len(every) == 216  # three quarters of 288
    assert all(grid[0] != first[0] for grid in every)


def test_a_search_stops_at_the_limit_of_guesses():
    shape = BoxShape(3, 3)
    puzzle = parse_grid((DATA / "hardest.txt").read_text().split()[1], shape)
    needed = solve(puzzle, shape).guesses
    assert solve(puzzle, shape, max_guesses=needed).unique
    assert solve(puzzle, shape, max_guesses=needed - 1) is None


# --- generator ---


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_generated_puzzles_have_the_requested_clues_and_one_solution(shape):
    spec = PuzzleSpec(shape, default_clues(shape))
    made = generate_split(spec, 3, seed=5, split=0, workers=1)
    assert (np.count_nonzero(made.puzzles, axis=1) == spec.clues).all()
    assert is_solution(made.solutions, shape).all()
    assert keeps_givens(made.puzzles, made.solutions).all()
    solved = solve_batch(made.puzzles, shape)
    assert (solved.num_solutions == 1).all()
    assert (solved.solutions == made.solutions).all()
    assert (solved.guesses == made.guesses).all()


def test_minimal_puzzles_need_every_given_cell():
    shape = BoxShape(2, 3)
    puzzle, _ = random_puzzle(rng(3), PuzzleSpec(shape, 12, minimal=True))
    assert 8 <= np.count_nonzero(puzzle) <= 12
    for cell in np.flatnonzero(puzzle):
        fewer = puzzle.copy()
        fewer[cell] = 0
        assert not solve(fewer, shape).unique


def test_an_impossible_number_of_clues_is_rejected(monkeypatch):
    monkeypatch.setattr("dataset.families.sudoku.generate._MAX_TRIES", 20)
    with pytest.raises(UserError, match=r"no 6x6 puzzle with at most 7 given cells .* raise --clues"):
        random_puzzle(rng(), PuzzleSpec(BoxShape(2, 3), 7))


def test_requesting_more_puzzles_than_exist_is_rejected(monkeypatch):
    monkeypatch.setattr("dataset.families.sudoku.generate._MAX_REJECTED_IN_A_ROW", 200)
    spec = PuzzleSpec(BoxShape(2, 2), 16)  # full grids: 288
    with pytest.raises(UserError, match=r"only \d+ of 300 different 4x4 puzzles"):
        generate_split(spec, 300, seed=0, split=0, workers=1)


def test_a_shorter_split_is_a_prefix_of_a_longer_one():
    spec = PuzzleSpec(BoxShape(2, 3), 14)
    few, many = (generate_split(spec, n, seed=1, split=0, workers=1) for n in (5, 70))
    assert (many.puzzles[:5] == few.puzzles).all()
    assert len({*many.hashes.tolist()}) == 70
    other = generate_split(spec, 5, seed=2, split=0, workers=1)
    assert (few.puzzles != other.puzzles).any(axis=1).all()


def test_splits_are_disjoint_up_to_symmetry_and_by_solution():
    spec = PuzzleSpec(BoxShape(2, 3), 20)
    train = generate_split(spec, 40, seed=0, split=0, workers=1)
    # Reuse the stream, so that the first 40 candidates are train puzzles, which must be skipped.
    test = generate_split(spec, 20, seed=0, split=0, workers=1, excluded=train)
    assert not {*train.hashes.tolist()} & {*test.hashes.tolist()}
    beyond = generate_split(spec, 60, seed=0, split=0, workers=1)
    assert (test.puzzles == beyond.puzzles[40:]).all()


def test_a_test_puzzle_with_the_solution_of_a_train_puzzle_is_skipped():
    spec = PuzzleSpec(BoxShape(2, 3), 20)
    wanted = generate_split(spec, 3, seed=0, split=1, workers=1)
    train = generate_split(spec, 3, seed=0, split=0, workers=1)
    train.solutions[1] = wanted.solutions[0]  # only the solution matches, not the hash
    test = generate_split(spec, 2, seed=0, split=1, workers=1, excluded=train)
    assert (test.puzzles == wanted.puzzles[1:]).all()


# --- invariant hash ---


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hashes_are_equal_for_all_symmetric_images(shape):
    made = generate_split(PuzzleSpec(shape, default_clues(shape)), 3, seed=2, split=0, workers=1)
    grid_shape = (-1, shape.size, shape.size)
    for puzzle, solution, expected in zip(made.puzzles, made.solutions, made.hashes, strict=True):
        symmetries = random_symmetries(rng(4), 40, shape)
        puzzles, solutions = (symmetries.apply(grid.reshape(grid_shape[1:])) for grid in (puzzle, solution))
        hashes = invariant_hashes(puzzles.reshape(40, -1), solutions.reshape(40, -1), shape)
        assert (hashes == expected).all()


def orders(num_bands: int, band_size: int) -> np.ndarray:
    """Return all orders of lines that keep bands together."""
    return np.array(
        [
            [band * band_size + line for band, lines in zip(bands, within, strict=True) for line in lines]
            for bands in itertools.permutations(range(num_bands))
            for within in itertools.product(itertools.permutations(range(band_size)), repeat=num_bands)
        ]
    )


def canonical(puzzle: np.ndarray, solution: np.ndarray, shape: BoxShape) -> bytes:
    """Return the smallest image of a puzzle by brute force; it is equal exactly for equivalent puzzles."""
    size = shape.size
    rows, columns = orders(shape.columns, shape.rows), orders(shape.rows, shape.columns)
    cells = (rows[:, None, :, None] * size + columns[None, :, None, :]).reshape(-1, size * size)
    if shape.square:
        cells = np.concatenate([cells, np.arange(size * size).reshape(size, size).T.reshape(-1)[cells]])
    images, given = solution[cells], puzzle[cells] > 0
    # Rename digits so that the first row is 1, 2, 3, ...
    names = np.zeros((len(cells), size + 1), np.uint8)
    np.put_along_axis(
        names, images[:, :size].astype(int), np.arange(1, size + 1, dtype=np.uint8)[None], axis=1
    )
    renamed = np.take_along_axis(names, images.astype(int), axis=1)
    return min(row.tobytes() for row in np.concatenate([renamed, given], axis=1))


@pytest.mark.parametrize(
    ("shape", "clues", "number"), [(BoxShape(2, 2), 7, 150), (BoxShape(2, 3), 14, 40)], ids=str
)
def test_hashes_distinguish_inequivalent_puzzles(shape, clues, number):
    made = [random_puzzle(rng(i), PuzzleSpec(shape, clues)) for i in range(number)]
    puzzles, solutions = (np.stack(grids) for grids in zip(*made, strict=True))
    hashes = invariant_hashes(puzzles, solutions, shape).tolist()
    classes = [canonical(p, s, shape) for p, s in zip(puzzles, solutions, strict=True)]
    # Equivalent puzzles have equal hashes.
    assert len({*zip(classes, hashes, strict=True)}) == len({*classes})
    assert len({*hashes}) == len({*classes})  # and only those, for these puzzles


def test_hashes_do_not_depend_on_the_size_of_the_batch():
    shape = BoxShape(2, 2)
    made = [random_puzzle(rng(i), PuzzleSpec(shape, 7)) for i in range(40)]
    puzzles, solutions = (np.tile(np.stack(grids), (100, 1)) for grids in zip(*made, strict=True))
    hashes = invariant_hashes(puzzles, solutions, shape).reshape(100, 40)
    alone = [invariant_hashes(p[None], s[None], shape)[0] for p, s in made]
    assert (hashes == np.array(alone)).all()
