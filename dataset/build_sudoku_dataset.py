"""Build a Sudoku dataset: from the hub, from CSV files or lists of puzzles, or from no source at all.

python dataset/build_sudoku_dataset.py --output-dir data/sudoku-6x6 --generate 2000 --size 6 --num-aug 30
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
import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dataset.families.sudoku.copies import CopyFilter, with_copies
from dataset.families.sudoku.generate import SMALLEST_INEQUIVALENT_SIZE, PuzzleSpec, default_clues
from dataset.families.sudoku.neighbours import with_neighbours
from dataset.families.sudoku.overlap import overlap, row_keys
from dataset.families.sudoku.rules import BoxShape, to_tokens
from dataset.families.sudoku.splits import (
    AUGMENT_STREAM,
    NEIGHBOUR_STREAM,
    PuzzleSet,
    PuzzleSplits,
    box_shape,
    from_file,
    from_tables,
    generated,
)
from dataset.format import BLANK_IDENTIFIER, SPLITS, SplitWriter, close_splits, write_identifiers
from dataset.options import OptionParser, building_into, whole_number
from dataset.parallel import available_cpus
from dataset.provenance import write_source_rows
from utils.errors import UserError, report_user_errors
from utils.files import expand_home, writing_into

BUILDER = "build_sudoku_dataset"
BUILDER_VERSION = 2
DEFAULT_REPO = "sapientinc/sudoku-extreme"
_BLOCK_EXAMPLES = 4096  # augmented at once, so that arrays stay in the CPU caches


@report_user_errors
def main(arguments: list[str] | None = None) -> None:
    started = time.perf_counter()
    options = parse_options(arguments)
    with building_into(options.output_dir, "sudoku") as output_dir:
        splits = load_splits(options)
        grids = ((puzzles.puzzles, puzzles.solutions) for puzzles in (splits.train, splits.test))
        shared = overlap(*grids, splits.shape, options.workers)
        with writing_into(output_dir, "--output-dir"):
            examples = write_dataset(output_dir, splits, options, shared)

    size, train, test = splits.shape.size, len(splits.train), len(splits.test)
    print(f"{output_dir}: {size}x{size} Sudoku, boxes of {splits.shape}")
    derived = f"{examples // (options.num_aug + 1) - train:,} neighbours, " if options.neighbours else ""
    print(f"  train: {train:,} puzzles, {derived}{examples:,} examples; test: {test:,} puzzles")
    print(
        f"  test puzzles that occur in train: {shared['puzzles']}, up to symmetry {shared['equivalent_puzzles']}; "
        f"test solutions: {shared['solutions']}, up to symmetry {shared['equivalent_solutions']}"
    )
    for symbols in splits.symbols:
        print(f"  {symbols}")
    for note in splits.notes:
        print(f"  note: {note}")
    print(f"  built in {time.perf_counter() - started:.1f} s")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Raises `UserError` for incompatible options."""
    parser = OptionParser(prog=BUILDER, description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output-dir", type=expand_home, default="data/sudoku-extreme-full", help="folder to build into"
    )
    parser.add_argument(
        "--subsample-size",
        type=whole_number(1),
        help="number of train puzzles to sample from the source; default: all",
    )
    parser.add_argument(
        "--num-aug",
        type=whole_number(0),
        default=0,
        help="number of randomly augmented copies of each train puzzle, in addition to the puzzle itself",
    )
    parser.add_argument(
        "--neighbours",
        type=whole_number(0),
        default=0,
        help="maximum number of further train puzzles to derive from each one by replacing a given cell; "
        "solutions are unique, and often others",
    )
    parser.add_argument("--min-difficulty", type=int, help="skip rows of either split with a lower rating")
    source = parser.add_argument_group("source of the puzzles").add_mutually_exclusive_group()
    source.add_argument(
        "--source-repo", help=f"hub dataset with train.csv and test.csv; default: {DEFAULT_REPO}"
    )
    source.add_argument(
        "--source-csv",
        type=expand_home,
        help="folder with train.csv and test.csv (columns question or puzzle, answer or solution, optionally rating), "
        "a single such table, or a list of puzzles to solve; a single file is split by --test-size",
    )
    source.add_argument("--generate", type=whole_number(1), help="number of train puzzles to generate")
    parser.add_argument(
        "--test-size",
        type=whole_number(1),
        help="number of test puzzles to generate or to hold out from a single file; default: a tenth",
    )
    parser.add_argument(
        "--clues",
        type=whole_number(1),
        help="maximum number of given cells in a generated puzzle; default: 6 of 16, 14 of 36, 32 of 81, 128 of 256",
    )
    parser.add_argument(
        "--minimal", action="store_true", help="generate puzzles in which every given cell is needed"
    )
    parser.add_argument(
        "--size", type=whole_number(4), help="grid size: 4, 6, 9, 16, ...; default: the source's, or 9"
    )
    parser.add_argument(
        "--box-shape", help="ROWSxCOLUMNS of a box, such as 2x3; default: as square as the size allows"
    )
    parser.add_argument(
        "--blank",
        type=blank_characters,
        help="characters that stand for a blank in a source; default: . and 0, unless 0 could also be a symbol",
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of all random choices")
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        default=available_cpus(),
        help="processes; does not change the result",
    )
    options = parser.parse_args(arguments)
    check_options(options)
    return options


def blank_characters(text: str) -> str:
    """Argparse `type` for one or more characters that can stand for a blank cell."""
    if not text or not text.isascii() or not text.isprintable() or any(c in " \t,;|#" for c in text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: give visible characters other than , ; | #, such as . or .0"
        )
    return text


def source_kind(options: argparse.Namespace) -> str:
    """Return the kind of source: generate, list (one file), csv (a folder of tables) or hub."""
    if options.generate is not None:
        return "generate"
    if options.source_csv is None:
        return "hub"
    path = Path(options.source_csv)
    if not path.exists():
        raise UserError(
            f"--source-csv {path} does not exist: give a folder with train.csv and test.csv, or a file"
        )
    return "csv" if path.is_dir() else "list"


def check_options(options: argparse.Namespace) -> None:
    """Raise `UserError` for an option that has no effect with this source."""
    kind = source_kind(options)
    effective = {
        "test_size": (kind in ("generate", "list"), "--generate or --source-csv FILE"),
        "subsample_size": (kind != "generate", "a source, not with --generate"),
        "min_difficulty": (kind != "generate", "rated tables, from the hub or --source-csv"),
        "blank": (kind != "generate", "a source, not with --generate"),
        "clues": (kind == "generate", "--generate"),
        "minimal": (kind == "generate", "--generate"),
    }
    for name, (used, where) in effective.items():
        if getattr(options, name) not in (None, False) and not used:
            raise UserError(f"--{name.replace('_', '-')} can only be used with {where}")


def load_splits(options: argparse.Namespace) -> PuzzleSplits:
    """Read or generate both splits, before augmentation."""
    kind = source_kind(options)
    if kind == "generate":
        shape = box_shape(None, options.size, options.box_shape)
        spec = PuzzleSpec(shape, _most_clues(options, shape), options.minimal)
        return generated(
            spec, options.generate, options.test_size, seed=options.seed, workers=options.workers
        )
    settings = {
        "size": options.size,
        "box": options.box_shape,
        "blank": options.blank,
        "min_difficulty": options.min_difficulty,
        "subsample_size": options.subsample_size,
        "seed": options.seed,
        "workers": options.workers,
    }
    if kind == "list":
        return from_file(options.source_csv, test_size=options.test_size, **settings)
    repo = options.source_repo or DEFAULT_REPO
    return from_tables(options.source_csv, repo, **settings)


def _most_clues(options: argparse.Namespace, shape: BoxShape) -> int:
    if options.clues is not None:
        if options.clues >= shape.num_cells:
            raise UserError(
                f"--clues {options.clues} leaves nothing to solve: a {shape.size}x{shape.size} grid has "
                f"{shape.num_cells} cells"
            )
        return options.clues
    return shape.num_cells if options.minimal else default_clues(shape)


def write_dataset(
    output_dir: Path, splits: PuzzleSplits, options: argparse.Namespace, shared: dict[str, int]
) -> int:
    """Write both splits in the format of `dataset.format`, and publish them together once complete.

    Returns the number of train examples.
    """
    write_identifiers(output_dir, [BLANK_IDENTIFIER])
    kind = source_kind(options)
    with ExitStack() as stack:
        writers = []
        for name in SPLITS:
            writer = SplitWriter(
                output_dir / name,
                seq_len=splits.shape.num_cells,
                vocab_size=splits.shape.vocab_size,
                extra={**provenance(splits, options, kind), "overlap_of_test_with_train": shared},
            )
            writers.append(stack.enter_context(writer))
        rejects = leakage_filter(splits) if kind == "generate" else None  # sources are not filtered
        add_train(writers[0], splits, options, rejects)
        add_test(writers[1], splits.test)
        examples = writers[0].num_examples
        if options.neighbours:
            writers[0].extra["distinct_puzzles"] = examples // (options.num_aug + 1)
        for writer, puzzles in zip(writers, (splits.train, splits.test), strict=True):
            writer.extra |= write_source_rows(writer.split_dir, puzzles.rows)
        close_splits(writers, num_puzzle_identifiers=1)
        return examples


def provenance(splits: PuzzleSplits, options: argparse.Namespace, kind: str) -> dict:
    """Return the extra keys of dataset.json, none of which may differ between equal datasets."""
    recorded = {name: value for name, value in vars(options).items() if name not in ("output_dir", "workers")}
    if kind == "generate":
        recorded["clues"] = _most_clues(options, splits.shape)
    if kind == "hub":
        recorded["source_repo"] = options.source_repo or DEFAULT_REPO
    shape = splits.shape
    return {
        "family": "sudoku",
        "grid_shape": [shape.size, shape.size],
        "box_shape": [shape.rows, shape.columns],
        "builder": BUILDER,
        "builder_version": BUILDER_VERSION,
        "source": kind,
        "source_sha256": {path.name: _sha256(path) for path in splits.files},
        "seed": options.seed,
        "options": recorded,
    }


def _sha256(path: Path) -> str:
    """Hash a file, to identify the version that recorded source rows refer to."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def add_test(writer: SplitWriter, test: PuzzleSet) -> None:
    """Write the unaugmented test puzzles in source order, with their difficulty if known."""
    if test.difficulty_kind is not None:
        writer.extra["difficulty"] = test.difficulty_kind
    identifiers = np.zeros(len(test), np.int32)
    writer.add_groups(
        to_tokens(test.puzzles), to_tokens(test.solutions), identifiers, difficulty=test.difficulty
    )


def add_train(
    writer: SplitWriter, splits: PuzzleSplits, options: argparse.Namespace, rejects: CopyFilter | None
) -> None:
    """Write each train puzzle, its neighbours and copies of all of them as one group; rejected copies are redrawn."""
    rng = np.random.default_rng([options.seed, AUGMENT_STREAM])
    each = options.num_aug + 1
    for puzzles, solutions, group_lengths in train_blocks(splits, options):
        puzzles, solutions = with_copies(rng, puzzles, solutions, options.num_aug, splits.shape, rejects)
        writer.add_groups(
            to_tokens(puzzles),
            to_tokens(solutions),
            np.zeros(len(puzzles), np.int32),
            group_lengths=group_lengths * each,
        )


def train_blocks(
    splits: PuzzleSplits, options: argparse.Namespace
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield train puzzles, their solutions, (E, N²) each, and the number of puzzles in each group."""
    train, test = ((puzzles.puzzles, puzzles.solutions) for puzzles in (splits.train, splits.test))
    if options.neighbours:
        seed = [options.seed, NEIGHBOUR_STREAM]
        groups = with_neighbours(train, test, splits.shape, options.neighbours, seed, options.workers)
        for puzzles, solutions in groups:
            yield puzzles, solutions, np.array([len(puzzles)])
        return
    step = max(1, _BLOCK_EXAMPLES // (options.num_aug + 1))
    for start in range(0, len(train[0]), step):
        puzzles, solutions = (grids[start : start + step] for grids in train)
        yield puzzles, solutions, np.ones(len(puzzles), np.int64)


def leakage_filter(splits: PuzzleSplits) -> CopyFilter:
    """Return a filter that rejects copies of train puzzles that leak a test puzzle.

    From 6x6 up no copy equals a test puzzle, because the splits are inequivalent, but it may have the same
    solution as one. There are only 288 solutions of 4x4, so there only the puzzle itself must differ.
    """
    by_solution = splits.shape.size >= SMALLEST_INEQUIVALENT_SIZE
    test_keys = set(row_keys(splits.test.solutions if by_solution else splits.test.puzzles))

    def rejects(puzzles: np.ndarray, solutions: np.ndarray) -> np.ndarray:
        return np.array([key in test_keys for key in row_keys(solutions if by_solution else puzzles)], bool)

    return rejects


if __name__ == "__main__":
    main()
