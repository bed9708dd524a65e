"""Generate a dataset of N-Queens completion: boards with some queens given.

python dataset/build_nqueens_dataset.py --size 8 --generate 1000 --test-size 200
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
import re
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dataset.augment import NUM_DIHEDRAL, dihedral
from dataset.families.nqueens.generate import (
    MOST_COUNTED,
    TEST,
    TRAIN,
    BoardSpec,
    Questions,
    default_given,
    generate_split,
)
from dataset.families.nqueens.rules import SIZES, VOCAB_SIZE
from dataset.format import BLANK_IDENTIFIER, SPLITS, SplitWriter, close_splits, write_identifiers
from dataset.options import OptionParser, building_into, whole_number
from dataset.parallel import available_cpus
from utils.errors import report_user_errors
from utils.files import expand_home, writing_into

BUILDER = "build_nqueens_dataset"
BUILDER_VERSION = 1


@report_user_errors
def main(arguments: list[str] | None = None) -> None:
    started = time.perf_counter()
    options = parse_options(arguments)
    with building_into(options.output_dir, "nqueens") as output_dir:
        train, test = generated(options)
        with writing_into(output_dir, "--output-dir"):
            write_dataset(output_dir, train, test, options)

    low, high = options.given
    given = f"{low}" if low == high else f"{low} to {high}"
    copies = NUM_DIHEDRAL if options.aug else 1
    several = int(np.count_nonzero(test.completions > 1))
    print(f"{output_dir}: {options.size}x{options.size} boards, {given} of {options.size} queens given")
    print(
        f"  train: {len(train):,} questions, {len(train) * copies:,} examples; test: {len(test):,} questions"
    )
    print(f"  {several:,} of the test questions have several right answers")
    print("  no test question occurs in train, not even rotated or mirrored")
    print(f"  built in {time.perf_counter() - started:.1f} s")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line and fill in defaults. Raises `UserError` for impossible boards."""
    parser = OptionParser(prog=BUILDER, description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output-dir", type=expand_home, help="folder to build into; default: data/nqueens-SIZE"
    )
    parser.add_argument(
        "--size",
        type=whole_number(SIZES[0]),
        default=8,
        help=f"rows and columns of the board, and its number of queens, {SIZES[0]} to {SIZES[-1]}",
    )
    parser.add_argument(
        "--generate", type=whole_number(1), default=1000, help="number of train questions to generate"
    )
    parser.add_argument(
        "--test-size",
        type=whole_number(1),
        help="number of test questions to generate; default: a tenth of the train questions",
    )
    parser.add_argument(
        "--given",
        type=_range,
        help="number of given queens, MIN-MAX (drawn uniformly) or a single number; default: from a quarter to half of "
        "the queens, such as 2-4 of 8",
    )
    parser.add_argument(
        "--aug",
        action="store_true",
        help="add all 8 rotations and reflections of each train question. Not needed for training with augment=online",
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of all random choices")
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        default=available_cpus(),
        help="processes that generate questions; does not change the result",
    )
    options = parser.parse_args(arguments)
    options.given = options.given or default_given(options.size)
    BoardSpec(options.size, options.given)
    options.test_size = options.test_size or max(1, options.generate // 10)
    options.output_dir = options.output_dir or f"data/nqueens-{options.size}"
    return options


def _range(text: str) -> tuple[int, int]:
    """Parse `2-4` as (2, 4) and `3` as (3, 3)."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor a range such as 2-4")
    return int(match[1]), int(match[2] or match[1])


def generated(options: argparse.Namespace) -> tuple[Questions, Questions]:
    """Generate the questions of both splits, no two of which are equal up to rotation and reflection."""
    spec = BoardSpec(options.size, options.given)
    settings = {"seed": options.seed, "workers": options.workers}
    return tuple(
        generate_split(spec, number, split=split, **settings)
        for split, number in ((TRAIN, options.generate), (TEST, options.test_size))
    )


def write_dataset(output_dir: Path, train: Questions, test: Questions, options: argparse.Namespace) -> None:
    """Write both splits in the format of `dataset.format`, and publish them together once complete."""
    write_identifiers(output_dir, [BLANK_IDENTIFIER])
    extra = _provenance(options)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                SplitWriter(output_dir / name, seq_len=options.size**2, vocab_size=VOCAB_SIZE, extra=extra)
            )
            for name in SPLITS
        ]
        add_train(writers[0], train, options.size, copies=NUM_DIHEDRAL if options.aug else 1)
        writers[1].extra["difficulty"] = f"completions, counted up to {MOST_COUNTED}"
        writers[1].add_groups(
            test.questions, test.answers, np.zeros(len(test), np.int32), difficulty=test.completions
        )
        close_splits(writers, num_puzzle_identifiers=1)


def add_train(writer: SplitWriter, questions: Questions, size: int, *, copies: int) -> None:
    """Write each question as a group: its images under the first `copies` dihedral transforms, starting with itself."""
    inputs, labels = (
        np.stack([dihedral(tokens.reshape(-1, size, size), t) for t in range(copies)], axis=1).reshape(
            -1, size * size
        )
        for tokens in (questions.questions, questions.answers)
    )
    identifiers = np.zeros(len(inputs), np.int32)
    writer.add_groups(inputs, labels, identifiers, group_lengths=np.full(len(questions), copies))


def _provenance(options: argparse.Namespace) -> dict:
    """Return the extra keys of dataset.json, none of which may differ between equal datasets."""
    recorded = {name: value for name, value in vars(options).items() if name not in ("output_dir", "workers")}
    return {
        "family": "nqueens",
        "grid_shape": [options.size, options.size],
        "builder": BUILDER,
        "builder_version": BUILDER_VERSION,
        "source": "generate",
        "seed": options.seed,
        "options": recorded,
    }


if __name__ == "__main__":
    main()
