"""Build a maze dataset from the hub, from CSV files, or by generating mazes.

python dataset/build_maze_dataset.py --output-dir data/maze-10x10 --generate 1000 --size 10 --aug
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: sys.path[0] is this folder instead of the repository
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

if __name__ == "__main__":  # Ctrl-C during the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()

import argparse
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.augment import NUM_DIHEDRAL, dihedral
from dataset.families.maze.generate import MazeSpec, default_min_path, default_path_range, generate_split
from dataset.families.maze.rules import (
    QUESTION_SYMBOLS,
    SYMBOLS,
    VOCAB_SIZE,
    encode,
    find_faults,
    path_lengths,
    square_shape,
    symmetry_key,
)
from dataset.format import BLANK_IDENTIFIER, SPLITS, SplitWriter, close_splits, write_identifiers
from dataset.options import OptionParser, building_into, whole_number
from dataset.parallel import available_cpus
from dataset.provenance import write_source_rows
from dataset.sources import TableRows, find_table, read_rows
from utils.errors import UserError, report_user_errors
from utils.files import expand_home, writing_into

BUILDER = "build_maze_dataset"
BUILDER_VERSION = 1
DEFAULT_REPO = "sapientinc/maze-30x30-hard-1k"
DEFAULT_SIZE = 30
TRAIN_STREAM, TEST_STREAM, CHOICE_STREAM = range(3)  # one random stream per purpose


@dataclass(frozen=True)
class MazeSet:
    """questions, answers (N, S) tokens; rows (N,) source row of each maze, None if generated."""

    questions: np.ndarray
    answers: np.ndarray
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.questions)


@dataclass(frozen=True)
class MazeSplits:
    """Both splits before augmentation, of grids with `shape` = (rows, columns)."""

    shape: tuple[int, int]
    train: MazeSet
    test: MazeSet


@report_user_errors
def main(arguments: list[str] | None = None) -> None:
    started = time.perf_counter()
    options = parse_options(arguments)
    with building_into(options.output_dir, "maze") as output_dir:
        splits = load_splits(options)
        shared = overlap(splits)
        with writing_into(output_dir, "--output-dir"):
            write_dataset(output_dir, splits, options, shared)

    (rows, columns), train, test = splits.shape, len(splits.train), len(splits.test)
    copies = NUM_DIHEDRAL if options.aug else 1
    print(f"{output_dir}: {rows}x{columns} mazes")
    print(f"  train: {train:,} mazes, {train * copies:,} examples; test: {test:,} mazes")
    print(f"  {shared} test mazes occur in train, possibly rotated, mirrored or with S and G swapped")
    if options.subsample_size and options.subsample_size > train:
        print(
            f"  note: --subsample-size {options.subsample_size}: there are only {train} train mazes; using all of them"
        )
    for name, mazes in zip(SPLITS, (splits.train, splits.test), strict=True):
        if longer := longer_than_needed(mazes, splits.shape):
            print(f"  note: {longer} of the {name} answers are not shortest paths")
    print(f"  built in {time.perf_counter() - started:.1f} s")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Raises `UserError` for incompatible options."""
    parser = OptionParser(prog=BUILDER, description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output-dir", type=expand_home, default="data/maze-30x30-hard-1k", help="folder to build into"
    )
    parser.add_argument(
        "--subsample-size",
        type=whole_number(1),
        help="number of train mazes to sample from the source; default: all",
    )
    parser.add_argument(
        "--aug",
        action="store_true",
        help="add all 8 rotations and reflections of each train maze. Off by default, as in the published builder, "
        "although the published README mentions 8 augmentations. If there are several shortest paths, the published "
        "answers mark the one that a fixed rule picks; rotated and reflected answers do not follow that rule",
    )
    source = parser.add_argument_group("source of the mazes").add_mutually_exclusive_group()
    source.add_argument(
        "--source-repo", help=f"hub dataset with train.csv and test.csv; default: {DEFAULT_REPO}"
    )
    source.add_argument(
        "--source-csv",
        type=expand_home,
        help="folder with train.csv and test.csv (columns source,question,answer,rating)",
    )
    source.add_argument("--generate", type=whole_number(1), help="number of train mazes to generate")
    parser.add_argument(
        "--test-size",
        type=whole_number(1),
        help="number of test mazes to generate; default: a tenth of the train mazes",
    )
    parser.add_argument(
        "--size",
        type=whole_number(3),
        help=f"rows and columns of generated mazes; default: {DEFAULT_SIZE}",
    )
    parser.add_argument(
        "--min-path",
        type=whole_number(1),
        help="generated mazes have a unique shortest path of more than this many steps; default: 110 for 30x30, 99 "
        "with --perfect, scaled with SIZE**1.2 for other sizes",
    )
    parser.add_argument(
        "--max-path",
        type=whole_number(1),
        help="maximum number of steps of that path; default: none without --perfect, 140 for 30x30 with --perfect, "
        "scaled with SIZE**1.2 for other sizes",
    )
    parser.add_argument(
        "--perfect",
        action="store_true",
        help="generate perfect mazes: exactly one path between any two free cells",
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of all random choices")
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        help="processes that generate mazes; default: all CPUs; does not change the result",
    )
    options = parser.parse_args(arguments)
    _check_options(options)
    return options


def _check_options(options: argparse.Namespace) -> None:
    """Raise `UserError` for options that have no effect with this source, or that allow no path length."""
    generates = options.generate is not None
    for name in ("test_size", "size", "min_path", "max_path", "perfect", "workers"):
        if getattr(options, name) not in (None, False) and not generates:
            raise UserError(f"--{name.replace('_', '-')} can only be used with --generate")
    if options.subsample_size is not None and generates:
        raise UserError(
            "--subsample-size samples rows of a source; with --generate, give the number of mazes there"
        )
    if generates:
        _spec(options)


def load_splits(options: argparse.Namespace) -> MazeSplits:
    """Read or generate both splits, before augmentation."""
    if options.generate is not None:
        return _generated(options)
    train = _read(options, "train")
    try:
        shape = square_shape(train.questions.shape[1])
    except UserError as error:
        raise UserError(f"{train.where(0)}: {error}") from None
    test = _read(options, "test", seq_len=train.questions.shape[1])
    if options.subsample_size is not None and options.subsample_size < len(train):
        rng = np.random.default_rng([options.seed, CHOICE_STREAM])
        train = train.take(np.sort(rng.choice(len(train), options.subsample_size, replace=False)))
    return MazeSplits(shape, _checked(train, shape), _checked(test, shape))


def _read(options: argparse.Namespace, split: str, seq_len: int | None = None) -> TableRows:
    repo = options.source_repo or DEFAULT_REPO
    path = find_table(split, source_csv=options.source_csv, source_repo=repo)
    return read_rows(path, question_symbols=QUESTION_SYMBOLS, answer_symbols=SYMBOLS, seq_len=seq_len)


def _generated(options: argparse.Namespace) -> MazeSplits:
    spec = _spec(options)
    settings = {"seed": options.seed, "workers": options.workers or available_cpus()}
    questions, answers, keys = generate_split(spec, options.generate, split=TRAIN_STREAM, **settings)
    train = MazeSet(questions, answers)
    questions, answers, _ = generate_split(
        spec, _test_size(options), split=TEST_STREAM, excluded=keys, **settings
    )
    return MazeSplits(spec.shape, train, MazeSet(questions, answers))


def _spec(options: argparse.Namespace) -> MazeSpec:
    size = options.size or DEFAULT_SIZE
    min_path, max_path = default_path_range(size) if options.perfect else (default_min_path(size), None)
    return MazeSpec(
        (size, size), options.min_path or min_path, options.max_path or max_path, perfect=options.perfect
    )


def _test_size(options: argparse.Namespace) -> int:
    return options.test_size or max(1, options.generate // 10)


def _checked(table: TableRows, shape: tuple[int, int]) -> MazeSet:
    """Convert the rows of a table to tokens. Raises `UserError` naming the first row that is not a solved maze."""
    questions, answers = encode(table.questions), encode(table.answers)
    for row, fault in find_faults(questions, answers, shape):
        raise UserError(f"{table.where(row)}: {fault}")
    return MazeSet(questions, answers, table.numbers)


def overlap(splits: MazeSplits) -> int:
    """Count test mazes that occur in train, possibly rotated, mirrored or with S and G swapped."""
    train, test = (
        [symmetry_key(question.reshape(splits.shape)) for question in mazes.questions]
        for mazes in (splits.train, splits.test)
    )
    seen = set(train)
    return sum(key in seen for key in test)


def longer_than_needed(mazes: MazeSet, shape: tuple[int, int]) -> int:
    """Count answers that mark more cells than the shortest path has."""
    steps = np.count_nonzero(mazes.answers != mazes.questions, axis=1) + 1
    return int(np.count_nonzero(steps > path_lengths(mazes.questions, shape)))


def write_dataset(output_dir: Path, splits: MazeSplits, options: argparse.Namespace, shared: int) -> None:
    """Write both splits in the format of `dataset.format`, and publish them together once complete."""
    write_identifiers(output_dir, [BLANK_IDENTIFIER])
    extra = {
        **_provenance(splits.shape, options),
        "overlap_of_test_with_train": {"equivalent_puzzles": shared},
    }
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                SplitWriter(
                    output_dir / name,
                    seq_len=splits.train.questions.shape[1],
                    vocab_size=VOCAB_SIZE,
                    extra=extra,
                )
            )
            for name in SPLITS
        ]
        add_mazes(writers[0], splits.train, splits.shape, copies=NUM_DIHEDRAL if options.aug else 1)
        writers[1].extra["difficulty"] = "shortest path, steps"
        lengths = path_lengths(splits.test.questions, splits.shape)
        add_mazes(writers[1], splits.test, splits.shape, difficulty=lengths)
        for writer, mazes in zip(writers, (splits.train, splits.test), strict=True):
            writer.extra |= write_source_rows(writer.split_dir, mazes.rows)
        close_splits(writers, num_puzzle_identifiers=1)


def add_mazes(
    writer: SplitWriter,
    mazes: MazeSet,
    shape: tuple[int, int],
    *,
    copies: int = 1,
    difficulty: np.ndarray | None = None,
) -> None:
    """Write each maze as a group: its images under the first `copies` dihedral transforms, starting with itself.

    difficulty: (N,) numbers; only allowed if copies is 1.
    """
    inputs, labels = (
        np.stack([dihedral(tokens.reshape(-1, *shape), t) for t in range(copies)], axis=1).reshape(
            -1, tokens.shape[1]
        )
        for tokens in (mazes.questions, mazes.answers)
    )
    writer.add_groups(
        inputs,
        labels,
        np.zeros(len(inputs), np.int32),
        group_lengths=np.full(len(mazes), copies),
        difficulty=difficulty,
    )


def _provenance(shape: tuple[int, int], options: argparse.Namespace) -> dict:
    """Return the extra keys of dataset.json, none of which may differ between equal datasets."""
    recorded = {name: value for name, value in vars(options).items() if name not in ("output_dir", "workers")}
    if options.generate is not None:
        spec = _spec(options)
        recorded |= {
            "size": spec.shape[0],
            "min_path": spec.min_path,
            "max_path": spec.max_path,
            "test_size": _test_size(options),
        }
        source = "generate"
    elif options.source_csv is not None:
        source = "csv"
    else:
        source = "hub"
        recorded["source_repo"] = options.source_repo or DEFAULT_REPO
    return {
        "family": "maze",
        "grid_shape": list(shape),
        "builder": BUILDER,
        "builder_version": BUILDER_VERSION,
        "source": source,
        "seed": options.seed,
        "options": recorded,
    }


if __name__ == "__main__":
    main()
