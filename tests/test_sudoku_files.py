"""Sudoku files in common formats: lists, drawn grids, tables in one file, and alphabets of large grids."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from sudoku_builds import build, build_error, puzzle_list, puzzles_6x6, read, texts, values

from dataset import report
from dataset.families import family_of
from dataset.families.sudoku.batch import solve_batch
from dataset.families.sudoku.generate import PuzzleSpec, generate_split, random_puzzle, random_solution
from dataset.families.sudoku.hashes import solution_hashes
from dataset.families.sudoku.lists import read_list
from dataset.families.sudoku.rules import BoxShape, draw_grid, format_grid, random_symmetries, to_values
from dataset.families.sudoku.search import solve
from dataset.families.sudoku.symbols import find_alphabet, numbers_as_symbols
from dataset.report import percentage
from trained_run import recorded_metadata
from utils.errors import UserError

NINE, SIXTEEN = BoxShape(3, 3), BoxShape(4, 4)
FIRST = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SECOND = "..............3.85..1.2.......5.7.....4...1...9.......5......73..2.1........4...9"
ROWS = [[puzzle[start : start + 9] for start in range(0, 81, 9)] for puzzle in (FIRST, SECOND)]
ZEROS = [[row.replace(".", "0") for row in rows] for rows in ROWS]


def drawn(puzzle: str) -> str:
    return draw_grid(np.array([".123456789".index(symbol) for symbol in puzzle]), NINE)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"# top95\n{FIRST}\n// next\n\n{SECOND}  # hard\n\n\n", [2, 5]),
        (f"\ufeffSudoku puzzles\r\n{FIRST}\r\n{SECOND}\r\n", [2, 3]),
        (f"{FIRST},1.2,easy\n{SECOND},7.0,\n", [1, 2]),
        (f"1;{FIRST};1.2\n2;{SECOND};7.0\n", [1, 2]),
        (f"{FIRST}\t1.2\n{SECOND} ED=7.1/1.2 named\n", [1, 2]),
        (f"{' '.join(FIRST)}\n{','.join(SECOND)}\n", [1, 2]),
        (f"{' '.join(ROWS[0])}\n{'|'.join(ROWS[1])}\n", [1, 2]),
        ("".join(f"Grid {i:02}\n" + "\n".join(rows) + "\n" for i, rows in enumerate(ZEROS, 1)), [2, 12]),
        (
            "[Puzzle]\n" + "\n".join(ROWS[0]) + "\n\n2.\n" + "\n".join(",".join(row) for row in ROWS[1]),
            [2, 13],
        ),
        (f"Author: N. N.\n{drawn(FIRST)}\n\n+-------+\n{drawn(SECOND)}\n", [2, 15]),
    ],
    ids=["comments", "bom", "columns", "id", "words", "spaced", "rows", "blocks", "sections", "drawn"],
)
def test_common_formats_of_lists_are_read(tmp_path, text, lines):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode())
    found = read_list(path)
    assert [bytes(row).decode().replace("0", ".") for row in found.cells] == [FIRST, SECOND]
    assert found.lines.tolist() == lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"# top95\n{FIRST}\n{SECOND[1:]}\n", "line 3 has 80 characters instead of the 81 of a 9x9 grid"),
        (f"{FIRST[1:]}\n", "line 1 is not a puzzle: 80 cells do not form a square grid"),
        (f"{FIRST[:-1]}_\n", "line 1 has '_' at character 81"),
        (
            "Grid 01\n" + "\n".join(ROWS[0][:8]) + "\nGrid 02\n",
            "line 2: the grid that starts here has 8 rows of 9",
        ),
        (
            "\n".join([*ROWS[0][:3], "53..7..."]),
            "line 4 has 8 cells, but the grid that starts in line 1 has rows of 9",
        ),
        ("\n".join([*ROWS[0][:3], "53..7...x"]), "line 4 has 'x' at character 9"),
        ("." * 529, "line 1 is not a puzzle: no Sudoku grid has size 23"),
        ("# nothing\n", "holds no puzzle"),
    ],
)
def test_lines_that_are_not_puzzles_are_rejected_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_list(path)
    assert f"{path} {message}" in str(error.value)


def test_a_custom_blank_is_read_if_specified(tmp_path, capsys):
    path = puzzle_list(tmp_path / "list.txt", [FIRST.replace(".", "_"), SECOND.replace(".", "_")])
    assert "--blank" in build_error(capsys, "--output-dir", tmp_path / "d", "--source-csv", path)
    build("--output-dir", tmp_path / "d", "--source-csv", path, "--blank", "_")
    found = [*texts(values(tmp_path / "d", "train")[0]), *texts(values(tmp_path / "d", "test")[0])]
    assert sorted(found) == sorted([FIRST, SECOND])
    assert "list.txt: symbols 1-9 with _ for a blank" in capsys.readouterr().out


# --- alphabets ---


@pytest.fixture(scope="module")
def large() -> list[tuple[str, str]]:
    """Generate two 16x16 puzzles and their solutions, with all 16 symbols among the given cells."""
    made = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        solution = random_solution(rng, SIXTEEN)
        puzzle = np.where(rng.random(256) < 0.08, 0, solution)
        assert solve(puzzle, SIXTEEN).unique
        made.append((format_grid(puzzle), format_grid(solution)))
    return made


HEX = str.maketrans("123456789ABCDEFG", "0123456789ABCDEF")
LETTERS = str.maketrans("123456789ABCDEFG", "ABCDEFGHIJKLMNOP")


def test_a_hexadecimal_list_needs_the_option_blank(tmp_path, capsys, large):
    path = puzzle_list(
        tmp_path / "hex.txt", ["# hex", *(puzzle.translate(HEX).lower() for puzzle, _ in large)]
    )
    arguments = ("--output-dir", tmp_path / "d", "--source-csv", path)
    message = build_error(capsys, *arguments)
    assert f"{path} line 2 has both 0 and . in one grid: use --blank ." in message
    build(*arguments, "--blank", ".")
    assert "symbols 0-9A-F with . for a blank" in capsys.readouterr().out
    found = texts(values(tmp_path / "d", "train")[1]) + texts(values(tmp_path / "d", "test")[1])
    assert sorted(found) == sorted(solution for _, solution in large)


@pytest.mark.parametrize(
    ("table", "said"), [(HEX, "0-9A-F"), (LETTERS, "A-P"), ({}, "1-9A-G")], ids=["hex", "letters", "one"]
)
def test_answers_determine_the_symbols_of_a_table(tmp_path, capsys, large, table, said):
    rows = [f"{puzzle.translate(table)},{solution.translate(table)}" for puzzle, solution in large]
    path = puzzle_list(tmp_path / "t.csv", ["Puzzle,Solution", *rows])
    build("--output-dir", tmp_path / "d", "--source-csv", path)
    assert f"t.csv: symbols {said} with . for a blank" in capsys.readouterr().out
    found = texts(values(tmp_path / "d", "train")[0]) + texts(values(tmp_path / "d", "test")[0])
    assert sorted(found) == sorted(puzzle for puzzle, _ in large)


def test_a_mixture_of_alphabets_is_rejected_with_the_line(tmp_path, capsys, large):
    (puzzle, solution), (other, other_solution) = large
    rows = [f"{puzzle},{solution}", f"{other.translate(HEX)},{other_solution.translate(HEX)}"]
    path = puzzle_list(tmp_path / "t.csv", ["puzzle,solution", *rows])
    message = build_error(capsys, "--output-dir", tmp_path / "d", "--source-csv", path)
    assert f"{path} line 3: its answer has '0' at character" in message


def test_solving_a_large_puzzle_rejects_an_ambiguous_zero(large):
    sizes = {"seq_len": 256, "vocab_size": 18, "num_puzzle_identifiers": 1}
    family = family_of(recorded_metadata({"family": "sudoku"}, sizes))
    puzzle, _ = large[0]
    assert (to_values(family.read(puzzle.replace(".", "0"))) == to_values(family.read(puzzle))).all()
    with pytest.raises(UserError, match="puzzle= has both 0 and"):
        family.read(puzzle.translate(HEX))


# --- 25x25 ---

TWENTY_FIVE = BoxShape(5, 5)


@pytest.fixture(scope="module")
def largest() -> tuple[np.ndarray, np.ndarray]:
    """Return three 25x25 puzzles with unique solutions, and the solutions, (3, 625) values each."""
    rng = np.random.default_rng(5)
    row, column = np.indices((25, 25))
    grid = ((5 * row + row // 5 + column) % 25 + 1).astype(np.uint8)
    solutions = random_symmetries(rng, 3, TWENTY_FIVE).apply(grid).reshape(3, 625)
    return np.where(rng.random((3, 625)) < 0.3, 0, solutions), solutions


def letters(values: np.ndarray) -> list[str]:
    return [".ABCDEFGHIJKLMNOPQRSTUVWXY"[value] for value in values]


def numbers(values: np.ndarray) -> list[str]:
    return [str(value) for value in values]


def rows_of(cells: list[str], between: str) -> str:
    return "\n".join(between.join(cells[start : start + 25]) for start in range(0, 625, 25))


@pytest.mark.parametrize(
    "write",
    [
        lambda grid: "".join(letters(grid)).lower(),
        lambda grid: rows_of(letters(grid), ""),
        lambda grid: " ".join(numbers(grid)),
        lambda grid: rows_of([f"{number:>2}" for number in numbers(grid)], " "),
        lambda grid: rows_of([number if int(number) else "." for number in numbers(grid)], ","),
    ],
    ids=["letters", "rows of letters", "numbers", "rows of numbers", "rows with commas"],
)
def test_lists_of_25x25_puzzles_are_read_in_letters_and_in_numbers(tmp_path, largest, write):
    path = puzzle_list(tmp_path / "list.txt", ["Straightforward giants", *map(write, largest[0])])
    found = read_list(path)
    alphabet = find_alphabet(found.cells, None, TWENTY_FIVE, found.where)
    assert (alphabet.values(found.cells) == largest[0]).all()


def test_a_title_as_long_as_a_large_row_is_not_a_row(tmp_path):
    title = "Straightforwardly made by Me"
    assert len(title.replace(" ", "")) == 25
    path = puzzle_list(tmp_path / "list.txt", [title, FIRST])
    assert read_list(path).lines.tolist() == [2]


def test_numbers_out_of_range_are_not_converted():
    for text in ("12 1 3 4", "1 2 3 4", f"{' '.join('1' * 15)} 17", f"{' '.join('1' * 14)} 12 abc"):
        assert numbers_as_symbols(text) == text
    assert numbers_as_symbols(f"16, 10 | {' '.join('0' * 14)}") == "GA" + "0" * 14


def test_tables_of_25x25_puzzles_are_built_checked_and_drawn(tmp_path, capsys, largest):
    (tmp_path / "s").mkdir()
    for split, part, write in (("train", slice(2), numbers), ("test", slice(2, 3), letters)):
        rows = [
            f"{' '.join(write(puzzle))},{' '.join(write(solution))}"
            for puzzle, solution in zip(*(grids[part] for grids in largest), strict=True)
        ]
        puzzle_list(tmp_path / "s" / f"{split}.csv", ["puzzle,solution", *rows])
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s", "--num-aug", 2)
    printed = capsys.readouterr().out
    assert "train.csv: symbols 1-9A-P with 0 for a blank" in printed
    assert "test.csv: symbols A-Y with . for a blank" in printed
    puzzles, solutions = values(tmp_path / "d", "test")
    assert (puzzles == largest[0][2:]).all()
    assert (solutions == largest[1][2:]).all()
    report.main([str(tmp_path / "d"), "--png", str(tmp_path / "sheet.png")])
    assert "25x25" in capsys.readouterr().out


def test_both_solvers_find_the_one_solution_of_25x25_puzzles(largest):
    solved = solve_batch(largest[0], TWENTY_FIVE)
    assert solved.num_solutions.tolist() == [1, 1, 1]
    assert (solved.solutions == largest[1]).all()
    for puzzle, solution, guesses in zip(*largest, solved.guesses, strict=True):
        found = solve(puzzle, TWENTY_FIVE)
        assert (found.solutions, found.guesses) == ([solution.tolist()], guesses)
    emptied = np.where(largest[1][:1] <= 2, 0, largest[1][:1])  # two symbols that can be swapped
    assert solve_batch(emptied, TWENTY_FIVE).num_solutions.tolist() == [2]


# --- compressed files ---


@pytest.mark.parametrize("name", ["list.txt", "table.csv"])
def test_a_compressed_file_is_read_like_an_uncompressed_one(tmp_path, capsys, name):
    header = ["puzzle,solution"] if name.endswith("csv") else []
    lines = [f"{p},{s}" if header else p for p, s in puzzles_6x6(12)]
    plain = puzzle_list(tmp_path / name, [*header, *lines])
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path, folder in ((plain, "plain"), (packed, "packed")):
        build("--output-dir", tmp_path / folder, "--source-csv", path)
    assert f"{name}.gz: symbols 1-6 with ." in capsys.readouterr().out
    for split in ("train", "test"):
        for one, two in zip(
            values(tmp_path / "plain", split), values(tmp_path / "packed", split), strict=True
        ):
            assert (one == two).all()


def test_a_folder_of_compressed_tables_is_read(tmp_path):
    rows = [f"{p},{s}" for p, s in puzzles_6x6(4)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv.gz").write_bytes(
            gzip.compress("\n".join(["puzzle,solution", *rows]).encode())
        )
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path)
    assert texts(values(tmp_path / "d", "train")[0]) == [row[:36] for row in rows]


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: b"no gzip", lambda _: b""])
@pytest.mark.parametrize("name", ["list.txt.gz", "train.csv.gz"])
def test_a_damaged_compressed_file_is_rejected_by_name(tmp_path, capsys, name, damage):
    path = tmp_path / name
    path.write_bytes(damage(gzip.compress("\n".join(p for p, _ in puzzles_6x6(12)).encode())))
    message = build_error(capsys, "--output-dir", tmp_path / "d", "--source-csv", path)
    assert str(path) in message
    assert not (tmp_path / "d").exists()


# --- splitting a single file ---


def test_a_single_table_is_split_without_a_solver(tmp_path, capsys):
    rows = puzzles_6x6(12)
    lines = [f"{number},{solution},{puzzle},{number}.5" for number, (puzzle, solution) in enumerate(rows)]
    path = puzzle_list(tmp_path / "t.csv", ["ID,Solutions,Quizzes,difficulty", *lines])
    arguments = ("--source-csv", path, "--test-size", 3, "--min-difficulty", 2)
    build("--output-dir", tmp_path / "d", *arguments)
    train, test = values(tmp_path / "d", "train"), values(tmp_path / "d", "test")
    assert sorted(texts(train[0]) + texts(test[0])) == sorted(puzzle for puzzle, _ in rows[2:])
    assert len(test[0]) == 3
    metadata, examples = read(tmp_path / "d", "test")
    assert metadata.extra["difficulty"] == "rating"
    recorded = np.load(tmp_path / "d" / "test" / "source_rows.npy")
    assert examples.difficulty.tolist() == [row + 0.5 for row in recorded]
    assert [rows[row][0] for row in recorded] == texts(test[0])


def test_an_answer_that_changes_clues_is_rejected_with_the_line(tmp_path, capsys):
    (puzzle, solution), (_, other) = puzzles_6x6(2)
    path = puzzle_list(
        tmp_path / "t.csv", ["puzzle,solution", "", f"{puzzle},{solution}", f"{puzzle},{other}"]
    )
    message = build_error(capsys, "--output-dir", tmp_path / "d", "--source-csv", path)
    assert f"{path} line 4: its answer {other} changes given cells" in message


# --- solutions up to symmetry ---


def images_of_one(number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    _, solution = random_puzzle(rng, PuzzleSpec(NINE, 40))
    return random_symmetries(rng, number, NINE).apply(solution.reshape(9, 9)).reshape(number, 81)


@pytest.mark.parametrize("shape", [BoxShape(2, 2), BoxShape(2, 3), BoxShape(2, 4), NINE, SIXTEEN], ids=str)
def test_hashes_of_full_grids_are_equal_iff_equivalent(shape):
    rng = np.random.default_rng(0)
    grids = np.stack([random_solution(rng, shape) for _ in range(4)])
    images = random_symmetries(rng, 40, shape).apply(
        grids.reshape(-1, shape.size, shape.size), np.arange(40) % 4
    )
    hashes = solution_hashes(images.reshape(40, -1), shape)
    assert (hashes == np.tile(solution_hashes(grids, shape), 10)).all()
    if shape.size >= 8:
        assert len(set(hashes.tolist())) == 4


def solution_rows(grids: np.ndarray, seed: int) -> list[str]:
    """Return table rows of these solutions, with a third of the cells blank."""
    blank = np.random.default_rng(seed).random(grids.shape) < 0.33
    return [
        f"{format_grid(p)},{format_grid(s)}" for p, s in zip(np.where(blank, 0, grids), grids, strict=True)
    ]


def test_equivalent_solutions_are_counted_as_leakage(tmp_path, capsys):
    rows = solution_rows(images_of_one(12, 0), 1)
    for split, part in (("train", rows[:8]), ("test", rows[8:])):
        (tmp_path / "s").mkdir(exist_ok=True)
        puzzle_list(tmp_path / "s" / f"{split}.csv", ["puzzle,solution", *part])
    build("--output-dir", tmp_path / "d", "--source-csv", tmp_path / "s")
    assert "test solutions: 0, up to symmetry 4" in capsys.readouterr().out
    report.main([str(tmp_path / "d"), "--examples", "0"])
    printed = capsys.readouterr().out
    assert "inputs up to symmetry: 0 of 4 (0%)" in printed
    assert "outputs up to symmetry: 4 of 4 (100%)" in printed


def test_copies_of_a_solution_stay_in_one_split(tmp_path, capsys):
    grids = np.concatenate([images_of_one(5, seed) for seed in range(6)])
    path = puzzle_list(tmp_path / "t.csv", ["puzzle,solution", *solution_rows(grids, 2)])
    build("--output-dir", tmp_path / "d", "--source-csv", path, "--test-size", 12)
    printed = capsys.readouterr().out
    assert "test solutions: 0, up to symmetry 0" in printed
    assert "the test split has 10 puzzles instead of 12" in printed
    path = puzzle_list(tmp_path / "t.csv", ["puzzle,solution", *solution_rows(grids[:5], 2)])
    message = build_error(capsys, "--output-dir", tmp_path / "d", "--source-csv", path)
    assert "its 5 puzzles form 1 groups that share a puzzle or solution up to symmetry" in message


def test_generated_splits_share_no_solution_up_to_symmetry():
    spec = PuzzleSpec(NINE, 40)
    wanted = generate_split(spec, 2, seed=0, split=1, workers=1)
    train = generate_split(spec, 2, seed=0, split=0, workers=1)
    symmetry = random_symmetries(np.random.default_rng(0), 1, NINE)
    train.solutions[1] = symmetry.apply(wanted.solutions[0].reshape(1, 9, 9)).reshape(-1)
    test = generate_split(spec, 1, seed=0, split=1, workers=1, excluded=train)
    assert (test.puzzles == wanted.puzzles[1:]).all()


@pytest.mark.parametrize(
    ("count", "total", "text"),
    [
        (1, 1, "100%"),
        (0, 7, "0%"),
        (996, 1000, "over 99%"),
        (1, 3, "33%"),
        (1, 300, "0.33%"),
        (1, 10**7, "0.00001%"),
        (95, 100, "95%"),
        (0, 0, "0%"),
    ],
)
def test_percentages_are_formatted_as_plain_numbers(count, total, text):
    assert percentage(count, total) == text
