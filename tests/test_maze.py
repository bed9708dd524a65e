"""Maze tokens, and breadth-first search on bit sets and the checker compared with plain implementations."""

from __future__ import annotations

import csv
import re
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from dataset.augment import dihedral
from dataset.families.maze.generate import (
    MazeSpec,
    default_min_path,
    default_path_range,
    generate_split,
    random_maze,
)
from dataset.families.maze.perfect import perfect_grid
from dataset.families.maze.rules import (
    FREE,
    GOAL,
    PATH,
    START,
    SYMBOLS,
    WALL,
    decode,
    encode,
    find_faults,
    judge,
    pack,
    path_lengths,
    square_shape,
    symmetry_key,
    unpack,
)
from utils.errors import UserError

SAMPLES = Path(__file__).parent / "data" / "maze"
STEPS = ((1, 0), (0, -1), (0, 1), (-1, 0))  # down, left, right, up


def grid(text: str) -> np.ndarray:
    """Convert lines of symbols to tokens (H, W)."""
    lines = text.strip("\n").split("\n")
    return encode("".join(lines)).reshape(len(lines), -1)


def neighbours(cell: tuple[int, int], maze: np.ndarray):
    for down, right in STEPS:
        row, column = cell[0] + down, cell[1] + right
        if 0 <= row < maze.shape[0] and 0 <= column < maze.shape[1] and maze[row, column] != WALL:
            yield row, column


def ends(maze: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    start, goal = (tuple(np.argwhere(maze == token)[0].tolist()) for token in (START, GOAL))
    return start, goal


def queue_search(maze: np.ndarray) -> list[tuple[int, int]] | None:
    """Return the first shortest path found by a textbook breadth-first search."""
    start, goal = ends(maze)
    parents, queue = {start: None}, deque([start])
    while queue:
        cell = queue.popleft()
        for other in neighbours(cell, maze):
            if other not in parents:
                parents[other] = cell
                queue.append(other)
    if goal not in parents:
        return None
    path = [goal]
    while parents[path[-1]] is not None:
        path.append(parents[path[-1]])
    return path[::-1]


def all_paths(maze: np.ndarray) -> list[list[tuple[int, int]]]:
    """Return all simple paths from start to goal."""
    start, goal = ends(maze)
    found, unfinished = [], [[start]]
    while unfinished:
        path = unfinished.pop()
        if path[-1] == goal:
            found.append(path)
            continue
        unfinished += [[*path, cell] for cell in neighbours(path[-1], maze) if cell not in path]
    return found


def mark(maze: np.ndarray, cells) -> np.ndarray:
    marked = maze.copy()
    for cell in cells:
        if marked[cell] == FREE:
            marked[cell] = PATH
    return marked


def random_small_maze(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    maze = np.where(rng.random(shape) < 0.3, WALL, FREE).astype(np.uint8)
    maze.flat[rng.choice(maze.size, 2, replace=False)] = START, GOAL
    return maze


def judge_one(question: np.ndarray, prediction: np.ndarray) -> tuple[bool, bool]:
    valid, optimal = judge(question.reshape(1, -1), prediction.reshape(1, -1), question.shape)
    return bool(valid[0]), bool(optimal[0])


def published(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return questions and answers (N, 30, 30) of the first rows of the published data."""
    with (SAMPLES / f"{split}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        np.stack([encode(row[name]) for row in rows]).reshape(-1, 30, 30) for name in ("question", "answer")
    )


# Tokens


def test_symbols_are_the_tokens_from_1_in_the_published_order():
    assert encode("# SGo").tolist() == [1, 2, 3, 4, 5]


def test_decoding_undoes_encoding_in_any_shape():
    text = "S #\n oG"
    assert decode(grid(text)) == text
    assert decode(encode(SYMBOLS)) == SYMBOLS
    assert decode(np.array([0, 3, 9, -1])) == "?S??"


def test_a_character_outside_the_alphabet_is_named():
    with pytest.raises(UserError, match=r"'x' at cell 3"):
        encode("# xG")


def test_numbers_of_cells_that_are_not_square_are_rejected():
    assert square_shape(36) == (6, 6)
    with pytest.raises(UserError, match="35 cells"):
        square_shape(35)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (3, 8), (30, 30), (5, 70)])
def test_bit_sets_hold_the_packed_cells(shape):
    cells = np.random.default_rng(0).random(shape) < 0.5
    assert np.array_equal(unpack(pack(cells), shape), cells)


# Search and checker


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (12, 12), (9, 40)])
def test_path_lengths_match_a_textbook_search(shape):
    rng = np.random.default_rng(1)
    mazes = np.stack([random_small_maze(rng, shape) for _ in range(60)])
    paths = [queue_search(maze) for maze in mazes]
    expected = [-1 if path is None else len(path) - 1 for path in paths]
    assert -1 in expected
    assert path_lengths(mazes.reshape(60, -1), shape).tolist() == expected


@pytest.mark.parametrize(("shape", "seed"), [((3, 4), 0), ((4, 3), 1), ((2, 6), 2), ((3, 3), 3), ((1, 8), 4)])
def test_the_checker_agrees_with_enumeration_on_every_marking_of_small_mazes(shape, seed):
    rng = np.random.default_rng(seed)
    num_valid = 0
    for _ in range(12):
        maze = random_small_maze(rng, shape)
        free = np.argwhere(maze == FREE)
        paths = all_paths(maze)
        as_marks = {mark(maze, path).tobytes() for path in paths}
        shortest = {mark(maze, p).tobytes() for p in paths if len(p) == min(map(len, paths))}
        markings = np.stack([
            mark(maze, [tuple(cell) for bit, cell in enumerate(free) if code >> bit & 1])
            for code in range(1 << len(free))
        ])  # fmt: skip
        questions = np.broadcast_to(maze.reshape(1, -1), (len(markings), maze.size))
        valid, optimal = judge(questions, markings.reshape(len(markings), -1), shape)
        assert valid.tolist() == [marking.tobytes() in as_marks for marking in markings]
        assert optimal.tolist() == [marking.tobytes() in shortest for marking in markings]
        num_valid += valid.sum()
    assert num_valid > 5


MAZE = "S  #\n #  \n  #G"


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Soo#\n #oo\n  #G", (True, True)),
        ("S  #\n #oo\n  #G", (False, False)),  # a gap
        ("Soo#\n #oo\no #G", (False, False)),  # a stray mark
        ("Soo#\no#oo\n  #G", (False, False)),  # a dead end
        ("Soo#\n oo \n  #G", (False, False)),  # removes a wall
        ("Soo#\n #oo\n  oG", (False, False)),  # marks a wall
        ("ooo#\n #oo\n  #G", (False, False)),  # without the start
        ("Soo#\n #oo\n  #S", (False, False)),  # without the goal
        ("Soo#\n##oo\n  #G", (False, False)),  # an additional wall
    ],
)
def test_predictions_are_judged_by_marks_and_unchanged_cells(prediction, expected):
    assert judge_one(grid(MAZE), grid(prediction)) == expected


def test_padding_and_tokens_outside_the_vocabulary_are_not_valid():
    question = grid(MAZE)
    for token in (0, 6, -100):
        prediction = mark(question, queue_search(question)).astype(np.int32)
        assert judge_one(question, prediction) == (True, True)
        prediction[2, 1] = token
        assert judge_one(question, prediction) == (False, False)


def test_a_longer_path_is_valid_but_not_optimal():
    question = grid("S G\n   ")
    assert judge_one(question, grid("SoG\n   ")) == (True, True)
    assert judge_one(question, grid("S G\nooo")) == (True, False)
    assert judge_one(question, grid("SoG\nooo")) == (False, False)


def test_a_start_beside_the_goal_needs_no_marks():
    assert judge_one(grid("SG\n  "), grid("SG\n  ")) == (True, True)
    assert judge_one(grid("SG\n  "), grid("SG\noo")) == (True, False)


def test_an_unsolvable_maze_has_no_valid_path():
    assert judge_one(grid("S#G"), grid("S#G")) == (False, False)


def test_long_paths_that_touch_themselves_are_still_recognised():
    question = np.full((8, 8), FREE, np.uint8)
    question[0, 0], question[7, 0] = START, GOAL
    assert judge_one(question, mark(question, np.ndindex(8, 8))) == (True, False)
    question[7, 0], question[7, 7] = FREE, GOAL  # same colour of a checkerboard: impossible
    assert judge_one(question, mark(question, np.ndindex(8, 8))) == (False, False)


def test_the_search_for_an_order_of_marks_has_bounded_time():
    question = np.full((30, 30), FREE, np.uint8)
    question[0, 0], question[29, 29] = START, GOAL
    assert judge_one(question, mark(question, np.ndindex(30, 30))) == (False, False)


def test_published_answers_are_the_path_that_a_search_in_the_order_down_left_right_up_finds_first():
    for split in ("train", "test"):
        questions, answers = published(split)
        for question, answer in zip(questions, answers, strict=True):
            assert np.array_equal(mark(question, queue_search(question)), answer)
        valid, optimal = judge(questions.reshape(-1, 900), answers.reshape(-1, 900), (30, 30))
        assert valid.all()
        assert optimal.all()


def test_shortest_paths_other_than_the_published_one_are_optimal():
    questions, answers = published("test")
    # The same search in the flipped maze breaks ties differently.
    others = np.stack([mark(q[::-1], queue_search(q[::-1]))[::-1] for q in questions])
    assert (others != answers).any(axis=(1, 2)).sum() >= 5
    _, optimal = judge(questions.reshape(-1, 900), others.reshape(-1, 900), (30, 30))
    assert optimal.all()


# Wrong data


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        ("S G S", "SoGoS", r"2 starts \(S\)"),
        ("  G  ", "ooGoo", r"0 starts \(S\)"),
        ("S GGG", "SoGGG", r"3 goals \(G\)"),
        ("S    ", "Soooo", r"0 goals \(G\)"),
        ("S#G  ", "SoG  ", r"'o' at character 2, but the question has '#'"),
        ("S G# ", "SoG##", r"'#' at character 5, but the question has ' '"),
        ("S  G ", "So G ", "not one path from S to G"),
        ("S G  ", "SoGo ", "not one path from S to G"),
    ],
)
def test_an_invalid_pair_is_described(question, answer, message):
    good = encode("S G  "), encode("SoG  ")
    questions, answers = (
        np.stack(pair) for pair in zip(good, (encode(question), encode(answer)), strict=True)
    )
    faults = list(find_faults(questions, answers, (1, 5)))
    assert [row for row, _ in faults] == [1]
    assert re.search(message, faults[0][1])


# Symmetry and the generator


def test_images_of_a_maze_and_its_reverse_share_a_key_but_other_mazes_do_not():
    rng = np.random.default_rng(3)
    mazes = [random_small_maze(rng, (5, 6)) for _ in range(30)]
    for maze in mazes:
        reverse = maze.copy()
        reverse[maze == START], reverse[maze == GOAL] = GOAL, START
        keys = {symmetry_key(dihedral(m, t)) for m in (maze, reverse) for t in range(8)}
        assert keys == {symmetry_key(maze)}
    assert len({symmetry_key(maze) for maze in mazes}) == len(mazes)


@pytest.mark.parametrize(
    ("shape", "min_path", "count"), [((30, 30), 110, 4), ((8, 8), 18, 40), ((5, 9), 12, 40)]
)
def test_generated_mazes_have_a_unique_shortest_path_above_the_minimum(shape, min_path, count):
    for index in range(count):
        question, answer = random_maze(np.random.default_rng(index), MazeSpec(shape, min_path))
        assert question.shape == answer.shape == shape
        path = queue_search(question)
        assert len(path) - 1 > min_path
        assert np.array_equal(mark(question, path), answer)
        # Turning any cell of the only shortest path into a wall makes the path longer or impossible.
        for cell in path[1:-1]:
            without = question.copy()
            without[cell] = WALL
            other = queue_search(without)
            assert other is None or len(other) > len(path)


def test_generated_mazes_have_as_many_walls_as_published_ones():
    walls = [
        (random_maze(np.random.default_rng(index), MazeSpec((30, 30), 110))[0] == WALL).mean()
        for index in range(16)
    ]
    assert 0.34 < np.mean(walls) < 0.40


def test_default_lengths_match_the_published_threshold():
    assert [default_min_path(side) for side in (4, 6, 10, 30)] == [6, 14, 29, 110]


def test_default_lengths_of_perfect_mazes_are_100_to_140_steps_and_never_empty():
    assert default_path_range(30) == (99, 140)
    for side in range(3, 60):
        min_path, max_path = default_path_range(side)
        assert min_path < default_min_path(side) + 1 <= max_path


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (3, 3), (5, 9), (12, 12)])
def test_perfect_grids_are_trees_to_which_no_cell_can_be_added(shape):
    for seed in range(20):
        free = perfect_grid(np.random.default_rng(seed), shape)
        assert free.shape == shape
        assert is_tree(free)
        for cell in zip(*np.nonzero(~free), strict=True):
            more = free.copy()
            more[cell] = True
            assert not is_tree(more)


def is_tree(free: np.ndarray) -> bool:
    """Return True if the cells are connected and the number of adjacent pairs is the number of cells minus 1."""
    num_pairs = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
    cells = set(zip(*np.nonzero(free), strict=True))
    left = [cells.pop()]
    while left:
        row, column = left.pop()
        neighbours = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & cells
        cells -= neighbours
        left += neighbours
    return not cells and num_pairs == free.sum() - 1


def test_generation_does_not_depend_on_the_number_of_workers():
    spec = MazeSpec((7, 7), 10)
    one, three = (generate_split(spec, 40, seed=5, split=0, workers=workers) for workers in (1, 3))
    assert np.array_equal(one[0], three[0])
    assert np.array_equal(one[1], three[1])
    other = generate_split(spec, 40, seed=6, split=0, workers=1)
    assert not np.array_equal(one[0], other[0])


def test_a_longer_split_begins_with_the_shorter_one():
    spec = MazeSpec((6, 6), 10)
    short, long = (generate_split(spec, n, seed=0, split=0, workers=1)[0] for n in (10, 30))
    assert np.array_equal(long[:10], short)


def test_splits_share_no_maze_up_to_symmetry_even_if_there_are_few():
    spec = MazeSpec((4, 4), 6)
    train, _, keys = generate_split(spec, 60, seed=0, split=0, workers=1)
    test, _, _ = generate_split(spec, 60, seed=0, split=1, workers=1, excluded=keys)
    train_keys, test_keys = ({symmetry_key(q.reshape(4, 4)) for q in split} for split in (train, test))
    assert len(train_keys) == len(test_keys) == 60
    assert not train_keys & test_keys


def test_requesting_too_many_mazes_is_an_error_that_names_the_option():
    with pytest.raises(UserError, match=r"different 3x3 mazes .*--min-path"):
        generate_split(MazeSpec((3, 3), 3), 10_000, seed=0, split=0, workers=1)


def test_an_impossible_path_length_is_an_error_that_names_the_option(monkeypatch):
    monkeypatch.setattr("dataset.families.maze.generate._MAX_TRIES", 500)
    with pytest.raises(UserError, match=r"no 5x5 mazes .*--min-path"):
        random_maze(np.random.default_rng(0), MazeSpec((5, 5), 30))
