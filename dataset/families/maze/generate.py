"""Generate mazes: random walls, changed until there is a unique, long shortest path, or perfect mazes.

Candidate i of a split is a pure function of (seed, split, i), and candidates are accepted in that order: the
result does not depend on the number of workers, and the train split does not depend on the size of the test split.
Cells of a grid are bit sets as in `dataset.families.maze.rules`; H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from dataset.families.maze.perfect import perfect_grid
from dataset.families.maze.rules import (
    FREE,
    GOAL,
    PATH,
    START,
    WALL,
    adjacent,
    distance_layers,
    join,
    pack,
    symmetry_key,
    unpack,
)
from dataset.parallel import ordered_map
from utils.errors import UserError

# Long shortest paths are rare with fewer and with more walls. With shares from this range, 30x30 mazes with paths of
# more than 110 steps have the same share of walls as the published data, 0.371 with standard deviation 0.026.
WALL_SHARES = (0.30, 0.45)
_MAX_TRIES = 100_000
_MAX_PERFECT_TRIES = 20_000  # half a minute at 30x30
_MAX_REJECTED_IN_A_ROW = 1000
_BATCH = 16


@dataclass(frozen=True)
class MazeSpec:
    """Mazes to generate: H x W with a unique shortest path of more than `min_path` and at most `max_path` steps.

    max_path: None for no limit. perfect: exactly one path, of any length, between any two free cells.
    Raises `UserError` if the range is empty.
    """

    shape: tuple[int, int]
    min_path: int
    max_path: int | None = None
    perfect: bool = False

    def __post_init__(self) -> None:
        if self.max_path is not None and self.max_path <= self.min_path:
            raise UserError(
                f"no path has more than {self.min_path} (--min-path) and at most {self.max_path} (--max-path) "
                "steps: lower --min-path or raise --max-path"
            )

    def __str__(self) -> str:
        """Describe the mazes, for error messages."""
        rows, columns = self.shape
        limit = "" if self.max_path is None else f" and of at most {self.max_path}"
        return (
            f"{'perfect ' if self.perfect else ''}{rows}x{columns} mazes with a shortest path longer than "
            f"{self.min_path} steps{limit}"
        )


def default_min_path(side: int) -> int:
    """Return the default of `min_path` for `side` x `side` mazes.

    It is 110 for 30x30 and scales with a power of the size that keeps such paths about as rare (with a share of walls
    of 0.37, one start in 1,000 has a cell that far away): 29 for 10x10, 67 for 20x20. Tiny grids have few mazes with
    paths as rare as that, so they use 0.4 of the number of cells: 14 for 6x6, 6 for 4x4.
    """
    return int(_usual_min_path(side))


def default_path_range(side: int) -> tuple[int, int]:
    """Return the defaults of `min_path` and `max_path` for perfect `side` x `side` mazes.

    99 and 140 for 30x30, that is paths of 100 to 140 steps; other sizes are scaled as in `default_min_path`.
    """
    usual = _usual_min_path(side)
    return int(usual * 99 / 110), int(usual * 140 / 110)


def _usual_min_path(side: int) -> float:
    return min(110 * (side / 30) ** 1.2, 0.4 * side * side)


def random_maze(rng: np.random.Generator, spec: MazeSpec) -> tuple[np.ndarray, np.ndarray]:
    """Generate a random maze and return question and answer, (H, W) tokens.

    Walls are random; start and goal are two random cells that are far enough apart. Then, while there are several
    shortest paths, a random cell with an alternative at the same distance becomes a wall. Afterwards the same number
    of random walls is opened without creating a new shortest path, so that the share of walls stays as drawn. The
    walls of a perfect maze are not changed. Raises `UserError` if many grids have no path of the required length.
    """
    shape = spec.shape
    free, start, goal = _grid_with_ends(rng, spec)
    if not spec.perfect:
        narrowed = _leave_one_shortest_path(rng, free, start, goal, shape)
        free = _open_walls(rng, narrowed, start, goal, shape, (free & ~narrowed).bit_count())
    path = join(_shortest_layers(free, start, goal, shape[1] + 1))
    question = np.where(unpack(free, shape), FREE, WALL).astype(np.uint8)
    question[unpack(start, shape)], question[unpack(goal, shape)] = START, GOAL
    answer = np.where(unpack(path & ~start & ~goal, shape), PATH, question).astype(np.uint8)
    return question, answer


def generate_split(
    spec: MazeSpec,
    num_mazes: int,
    *,
    seed: int,
    split: int,
    workers: int,
    excluded: Collection[bytes] = (),
) -> tuple[np.ndarray, np.ndarray, set[bytes]]:
    """Generate inequivalent mazes; return questions and answers (num_mazes, H·W) and their keys.

    Mazes are equivalent up to rotation, reflection and swapping S and G (`symmetry_key`). split: selects a stream of
    the seed. excluded: keys of mazes that must not occur, such as those of the other split.
    """
    keys: set[bytes] = set()
    accepted: list[tuple[np.ndarray, np.ndarray]] = []
    rejected = 0
    for question, answer in _candidates(spec, seed, split, workers):
        key = symmetry_key(question)
        if key in keys or key in excluded:
            rejected += 1
            if rejected > _MAX_REJECTED_IN_A_ROW:
                raise UserError(
                    f"only {len(accepted)} of {num_mazes} different {spec} were found"
                    f"{' in addition to those of the other split' if excluded else ''}: generate fewer, or "
                    f"{'lower --min-path' if spec.max_path is None else 'change --min-path or --max-path'}"
                )
            continue
        keys.add(key)
        accepted.append((question.ravel(), answer.ravel()))
        rejected = 0
        if len(accepted) == num_mazes:
            questions, answers = (np.stack(grids) for grids in zip(*accepted, strict=True))
            return questions, answers, keys
    raise AssertionError("candidates never end")


def _candidates(
    spec: MazeSpec, seed: int, split: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield candidates without end; the batch size does not affect them."""
    batches = (range(start, start + _BATCH) for start in count(0, _BATCH))
    for batch in ordered_map(partial(_make_batch, spec, seed, split), batches, workers):
        yield from batch


def _make_batch(spec: MazeSpec, seed: int, split: int, indices: range) -> list[tuple[np.ndarray, np.ndarray]]:
    return [random_maze(np.random.default_rng([seed, split, index]), spec) for index in indices]


def _grid_with_ends(rng: np.random.Generator, spec: MazeSpec) -> tuple[int, int, int]:
    """Return the free cells of a random grid, and a start and a goal at a distance within the range of `spec`."""
    num_tries = _MAX_PERFECT_TRIES if spec.perfect else _MAX_TRIES
    for _ in range(num_tries):
        if spec.perfect:
            free = pack(perfect_grid(rng, spec.shape))
        else:
            free = pack(rng.random(spec.shape) >= rng.uniform(*WALL_SHARES))
        ends = _distant_ends(rng, free, spec)
        if ends is not None:
            return free, *ends
    side = max(spec.shape)
    default = default_path_range(side)[0] if spec.perfect else default_min_path(side)
    raise UserError(
        f"no {spec} found in {num_tries} tries: lower --min-path (the default for this size is {default})"
    )


def _distant_ends(rng: np.random.Generator, free: int, spec: MazeSpec) -> tuple[int, int] | None:
    """Return two random cells at a distance within the range of `spec`, as single-bit sets, or None."""
    shape, min_path = spec.shape, spec.min_path
    in_range = slice(min_path + 1, None if spec.max_path is None else spec.max_path + 1)
    stride = shape[1] + 1
    if not free:
        return None
    layers = distance_layers(free, _random_cell(rng, free, shape), stride)
    # No two cells of a component are further apart than twice the largest distance from any of its cells.
    if 2 * (len(layers) - 1) <= min_path:
        return None
    # The cell furthest from a random one is nearly always an end of a longest shortest path.
    layers = distance_layers(free, _random_cell(rng, layers[-1], shape), stride)
    if len(layers) - 1 <= min_path:
        return None
    # That end is not a random cell: redraw each end, given the other, to approximate a random pair.
    goal = _random_cell(rng, join(layers[in_range]), shape)
    layers = distance_layers(free, goal, stride)
    return _random_cell(rng, join(layers[in_range]), shape), goal


def _leave_one_shortest_path(
    rng: np.random.Generator, free: int, start: int, goal: int, shape: tuple[int, int]
) -> int:
    """Turn free cells into walls until one shortest path is left; return the remaining free cells."""
    stride = shape[1] + 1
    layers = _shortest_layers(free, start, goal, stride)
    while alternatives := join(layer for layer in layers if layer & (layer - 1)):
        # The other cells of its layer are also on shortest paths, so the length does not change.
        wall = _random_cell(rng, alternatives, shape)
        free &= ~wall
        # The new shortest paths are among the old ones, so it is enough to search there.
        layers = _shortest_layers(join(layers) & ~wall, start, goal, stride)
    return free


def _open_walls(
    rng: np.random.Generator, free: int, start: int, goal: int, shape: tuple[int, int], count: int
) -> int:
    """Open up to `count` random walls such that the shortest path stays unique; return the free cells."""
    stride = shape[1] + 1
    grid = pack(np.ones(shape, bool))
    for _ in range(count):
        from_start, from_goal = (distance_layers(free, end, stride) for end in (start, goal))
        length = next(steps for steps, layer in enumerate(from_start) if layer & goal)
        # Opening a wall next to a cell i steps from the start and to one j steps from the goal creates a path of
        # i + j + 2 steps: `near` holds the cells at most length - 2 - i steps from the goal.
        shortcuts, near, reached = 0, 0, 0
        for steps in range(min(length - 1, len(from_start)) - 1, -1, -1):
            while reached < len(from_goal) and reached <= length - 2 - steps:
                near |= from_goal[reached]
                reached += 1
            shortcuts |= adjacent(from_start[steps], stride) & adjacent(near, stride)
        openable = grid & ~free & ~shortcuts
        if not openable:
            break
        free |= _random_cell(rng, openable, shape)
    return free


def _shortest_layers(cells: int, start: int, goal: int, stride: int) -> list[int]:
    """Return a list whose item k is the set of cells that are the k-th of a shortest path from `start` to `goal`."""
    layers = []
    for layer in distance_layers(cells, start, stride):
        layers.append(layer)
        if layer & goal:
            break
    layers[-1] = goal
    for step in range(len(layers) - 2, -1, -1):
        layers[step] &= adjacent(layers[step + 1], stride)
    return layers


def _random_cell(rng: np.random.Generator, bits: int, shape: tuple[int, int]) -> int:
    """Draw a cell of a nonempty bit set."""
    row, column = divmod(int(rng.choice(np.flatnonzero(unpack(bits, shape)))), shape[1])
    return 1 << (row * (shape[1] + 1) + column)
