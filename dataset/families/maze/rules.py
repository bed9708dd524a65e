"""Rules of mazes: find a shortest path from S to G through the free cells of a grid, and mark it with `o`.

Shapes: N mazes, H rows, W columns, S = H·W cells. In this file a set of cells of one grid is a *bit set*: a
Python integer with bit `row·stride + column` set, where `stride` = W + 1, so that the unused last column keeps
shifts from wrapping around. A step of a breadth-first search is then four shifts for all cells of the frontier, 100
times faster than a queue of cells.

In the published Maze-Hard data shortest paths are never unique; its answers are the path that a breadth-first search
from S finds first when it tries neighbours in the order down, left, right, up. Another path of the same length is
equally good, so metrics report `optimal` in addition to `exact`. Rotated or mirrored answers do not follow that rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from dataset.augment import NUM_DIHEDRAL, dihedral
from utils.errors import UserError

SYMBOLS = "# SGo"
QUESTION_SYMBOLS = "# SG"
PAD = 0
WALL, FREE, START, GOAL, PATH = range(1, 6)
VOCAB_SIZE = 6

_TOKENS = np.full(256, PAD, np.uint8)
_TOKENS[np.frombuffer(SYMBOLS.encode("ascii"), np.uint8)] = np.arange(1, VOCAB_SIZE)


def encode(symbols: str | np.ndarray) -> np.ndarray:
    """Encode maze symbols, a string (line breaks are ignored) or an array of ASCII codes, as uint8 tokens."""
    if isinstance(symbols, str):
        codes = symbols.replace("\n", "").encode("latin-1", "replace")
        symbols = np.frombuffer(codes, np.uint8)
    tokens = _TOKENS[symbols]
    if not tokens.all():
        cell = tuple(np.argwhere(tokens == PAD)[0])
        raise UserError(
            f"a maze has {chr(symbols[cell])!r} at cell {int(cell[-1]) + 1}: allowed are {SYMBOLS!r}"
        )
    return tokens


def decode(tokens: np.ndarray) -> str:
    """Format the tokens of a maze: (S,) on one line, (H, W) with a line break between rows.

    Padding and invalid tokens, which a prediction may contain, become `?`.
    """
    if tokens.ndim == 2:
        return "\n".join(decode(row) for row in tokens)
    return "".join(SYMBOLS[token - 1] if 0 < token < VOCAB_SIZE else "?" for token in tokens.tolist())


def square_shape(seq_len: int) -> tuple[int, int]:
    """Return (rows, columns) of the square grid with `seq_len` cells. Raises `UserError` if there is none."""
    side = math.isqrt(seq_len)
    if side * side != seq_len:
        raise UserError(f"a maze of {seq_len} cells is not square: give rows of N x N characters")
    return side, side


def find_faults(
    questions: np.ndarray, answers: np.ndarray, shape: tuple[int, int]
) -> Iterator[tuple[int, str]]:
    """Yield (row, problem) for each of the (N, S) token pairs that is not a maze with a marked path.

    The answer must equal the question except for marks on free cells that form a path from start to goal. The path
    need not be a shortest one.
    """
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        fault = _fault(question, answer, shape)
        if fault:
            yield row, fault


def _fault(question: np.ndarray, answer: np.ndarray, shape: tuple[int, int]) -> str | None:
    for token, name in ((START, "starts (S)"), (GOAL, "goals (G)")):
        count = int(np.count_nonzero(question == token))
        if count != 1:
            return f"its question has {count} {name}, but must have one"
    changed = np.flatnonzero((answer != question) & ~((question == FREE) & (answer == PATH)))
    if len(changed):
        cell = int(changed[0])
        return (
            f"its answer has {SYMBOLS[answer[cell] - 1]!r} at character {cell + 1}, but the question has "
            f"{SYMBOLS[question[cell] - 1]!r}: an answer may only put 'o' on free cells"
        )
    is_path, _ = _judge_marks(question.reshape(shape), answer.reshape(shape) == PATH)
    return None if is_path else "the cells marked 'o' in its answer are not one path from S to G"


# Bit sets


def pack(cells: np.ndarray) -> int:
    """Convert an (H, W) boolean array to a bit set."""
    rows, columns = cells.shape
    padded = np.zeros((rows, columns + 1), bool)
    padded[:, :columns] = cells
    return int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")


def unpack(bits: int, shape: tuple[int, int]) -> np.ndarray:
    """Convert a bit set to an (H, W) boolean array."""
    rows, columns = shape
    size = rows * (columns + 1)
    packed = np.frombuffer(bits.to_bytes((size + 7) // 8, "little"), np.uint8)
    return np.unpackbits(packed, count=size, bitorder="little").reshape(rows, -1)[:, :columns].astype(bool)


def adjacent(bits: int, stride: int) -> int:
    """Return the neighbours of the cells in `bits`; the result may include bits outside the grid, so mask it."""
    return bits << 1 | bits >> 1 | bits << stride | bits >> stride


def distance_layers(cells: int, source: int, stride: int) -> list[int]:
    """Run a breadth-first search; item k of the result is the set of `cells` k steps from `source`."""
    layers, left, front = [], cells, source & cells
    while front:
        layers.append(front)
        left &= ~front
        front = adjacent(front, stride) & left
    return layers


def distance(cells: int, source: int, target: int, stride: int) -> int | None:
    """Return the distance within `cells` from `source` to `target`, None if there is no path."""
    steps, left, front = 0, cells, source & cells
    while front:
        if front & target:
            return steps
        steps += 1
        left &= ~front
        front = adjacent(front, stride) & left
    return None


def path_cells(answer: np.ndarray) -> np.ndarray | None:
    """Return the indices of the cells on the marked path of an (H, W) answer, from S to G inclusive.

    Return None if the path is ambiguous, that is if marks touch each other or lead elsewhere, which a shortest path
    never does.
    """
    stride = answer.shape[1] + 1
    start, goal = pack(answer == START), pack(answer == GOAL)
    marked = pack(answer == PATH) | start | goal
    layers = distance_layers(marked, start, stride)
    if not layers or layers[-1] != goal or len(layers) != marked.bit_count():
        return None
    bits = np.array([layer.bit_length() - 1 for layer in layers])
    return bits - bits // stride  # without the unused column


def join(layers: Iterable[int]) -> int:
    """Return the union of bit sets."""
    union = 0
    for layer in layers:
        union |= layer
    return union


def path_lengths(questions: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the length (N,) int32 of the shortest path of each of the (N, S) questions, -1 if there is none."""
    stride = shape[1] + 1
    lengths = np.empty(len(questions), np.int32)
    for row, grid in enumerate(questions.reshape(-1, *shape)):
        steps = distance(pack(grid != WALL), pack(grid == START), pack(grid == GOAL), stride)
        lengths[row] = -1 if steps is None else steps
    return lengths


# The checker


def judge(
    questions: np.ndarray, predictions: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Judge (N, S) predictions; return whether each is valid and whether it is optimal, (N,) bool.

    Valid: unmarked cells are as in the question, and the marks, all on free cells, are exactly the cells of a path from
    S to G that visits no cell twice: no gaps, stray marks or dead ends. Optimal: valid, and no path through the free
    cells is shorter.
    """
    valid, optimal = np.zeros(len(questions), bool), np.zeros(len(questions), bool)
    kept = (predictions == questions) | ((predictions == PATH) & (questions == FREE))
    for row in np.flatnonzero(kept.all(axis=1)):
        valid[row], optimal[row] = _judge_marks(
            questions[row].reshape(shape), predictions[row].reshape(shape) == PATH
        )
    return valid, optimal


def _judge_marks(question: np.ndarray, marks: np.ndarray) -> tuple[bool, bool]:
    stride = question.shape[1] + 1
    start, goal = pack(question == START), pack(question == GOAL)
    marked = pack(marks) | start | goal
    steps = marked.bit_count() - 1
    shortest = distance(marked, start, goal, stride)
    if shortest is None:
        return False, False
    if shortest == steps:  # the marks have only one possible order
        return True, distance(pack(question != WALL), start, goal, stride) == steps
    return _is_path(marked, start, goal, stride), False


def _is_path(marked: int, start: int, goal: int, stride: int) -> bool:
    """Return True if a path from `start` to `goal` visits every cell of `marked` once.

    If the path touches itself, its order must be searched for: depth first, pruning states with a dead end or an
    unreachable cell. The search is limited to 20 tries per cell, at most half a second; marks without an order by then
    do not count as a path.
    """
    paths = [(start, marked & ~start)]
    for _ in range(20 * marked.bit_count()):
        if not paths:
            return False
        cell, left = paths.pop()
        ahead = adjacent(cell, stride) & left
        if left == goal:
            if ahead:
                return True
            continue
        if (left & ~goal) & ~_with_two_neighbours(left | cell, stride):
            continue
        if ahead & (ahead - 1) and join(distance_layers(left, goal, stride)) != left:
            continue
        choices = [
            (-(adjacent(choice, stride) & left).bit_count(), choice) for choice in _cells(ahead & ~goal)
        ]
        # The last one is tried first: the cell with the fewest exits.
        paths += [(choice, left & ~choice) for _, choice in sorted(choices)]
    return False


def _cells(bits: int) -> Iterator[int]:
    """Yield the cells of a bit set, each as a bit set."""
    while bits:
        yield bits & -bits
        bits &= bits - 1


def _with_two_neighbours(cells: int, stride: int) -> int:
    """Return the bits with at least two neighbours in `cells`."""
    left, right, up, down = cells << 1, cells >> 1, cells << stride, cells >> stride
    return (left & right) | (up & down) | ((left | right) & (up | down))


def symmetry_key(question: np.ndarray) -> bytes:
    """Return a key of a question (H, W) that is invariant under rotation, reflection and swapping S and G."""
    undirected = np.where(question == GOAL, START, question).astype(np.uint8)
    images = (dihedral(undirected, transform) for transform in range(NUM_DIHEDRAL))
    return min(image.shape[0].to_bytes(4, "little") + image.tobytes() for image in images)
