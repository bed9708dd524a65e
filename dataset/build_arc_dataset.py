"""Build an ARC dataset from task files, with random rotations, flips and colour permutations of each task.

python -m dataset.build_arc_dataset --input-file-prefix kaggle/combined/arc-agi --output-dir data/arc1concept-aug-1000 \
  --subsets training evaluation concept --test-set-name evaluation
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
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.families.arc.grids import GRID_SIZE, VOCAB_SIZE
from dataset.families.arc.lazy import IDENTIFIERS_FILE, Originals, originals_path
from dataset.families.arc.plan import DatasetPlan, plan_dataset
from dataset.families.arc.render import Frames, render, unpack
from dataset.families.arc.tasks import Pair
from dataset.format import SPLITS, Metadata, SplitWriter, close_splits, write_identifiers
from dataset.options import OptionParser, building_into, whole_number
from dataset.parallel import available_cpus, ordered_map
from utils.errors import UserError, report_user_errors
from utils.files import expand_home, write_text, writing_into

BUILDER = "build_arc_dataset"
BUILDER_VERSION = 2
_PART_EXAMPLES = 4096  # rendered at once, so that memory does not grow with --num-aug


@report_user_errors
def main(arguments: list[str] | None = None) -> None:
    started = time.perf_counter()
    options = parse_options(arguments)
    with building_into(options.output_dir, "arc") as output_dir:
        plan, notes = plan_dataset(options)
        with writing_into(output_dir, "--output-dir"):
            metadata = write_dataset(output_dir, plan, options)

    copies = sum(len(group.numbers) for group in plan.groups)
    print(f"{output_dir}: ARC, {len(plan.groups):,} tasks, {copies:,} with their augmented copies")
    for split in metadata:
        examples = round(metadata[split].mean_puzzle_examples * metadata[split].total_puzzles)
        print(f"  {split}: {metadata[split].total_groups:,} tasks, {examples:,} examples")
    for note in notes:
        print(f"  note: {note}")
    print(f"  built in {time.perf_counter() - started:.1f} s")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Raises `UserError` for incompatible options."""
    parser = OptionParser(prog=BUILDER, description=__doc__.splitlines()[0])
    parser.add_argument(
        "--input-file-prefix",
        type=expand_home,
        required=True,
        help="PREFIX of PREFIX_SUBSET_challenges.json and PREFIX_SUBSET_solutions.json (hyphens work too), or a "
        "folder with a subfolder SUBSET of one JSON file per task, at any depth",
    )
    parser.add_argument("--output-dir", type=expand_home, required=True, help="folder to build into")
    parser.add_argument("--subsets", nargs="+", required=True, help="task collections to use, in this order")
    parser.add_argument("--test-set-name", required=True, help="subset whose test pairs are the test split")
    parser.add_argument("--test-set-name2", help="another such subset")
    parser.add_argument(
        "--seed", type=whole_number(0), default=42, help="seed of order, augmentations and shifts"
    )
    parser.add_argument(
        "--num-aug",
        type=whole_number(0),
        default=1000,
        help="augmented copies of each task besides the task itself; small tasks may have fewer different ones",
    )
    parser.add_argument(
        "--max-grid",
        type=whole_number(1, GRID_SIZE),
        default=GRID_SIZE,
        metavar="SIDE",
        help="leave out tasks with a grid of more rows or columns, and store frames of SIDE x SIDE instead of "
        f"{GRID_SIZE} x {GRID_SIZE}, so that a model has fewer cells to compute",
    )
    parser.add_argument(
        "--puzzle-identifiers-start",
        type=whole_number(1),
        default=1,
        help="first identifier; to train on two datasets, start the second after the last identifier of the first",
    )
    parser.add_argument("--workers", type=whole_number(1), default=available_cpus(), help="processes to use")
    parser.add_argument(
        "--store",
        choices=("full", "lazy"),
        default="full",
        help="full: store every example; lazy: store tasks and augmentation numbers, and augment when reading",
    )
    options = parser.parse_args(arguments)
    for name, count in Counter(options.subsets).items():
        if count > 1:
            raise UserError(f"--subsets names {name} twice")
    for option in ("test_set_name", "test_set_name2"):
        name = getattr(options, option)
        if name is not None and name not in options.subsets:
            raise UserError(
                f"--{option.replace('_', '-')} is {name!r}, but must be one of --subsets: {' '.join(options.subsets)}"
            )
    return options


def write_dataset(output_dir: Path, plan: DatasetPlan, options: argparse.Namespace) -> dict[str, Metadata]:
    """Write both splits in the chosen store and return their metadata; an existing dataset is replaced at the end."""
    extras = {split: provenance(plan, options, split) for split in SPLITS}
    write = write_lazy if options.store == "lazy" else write_full
    return write(output_dir, plan, options, extras)


def provenance(plan: DatasetPlan, options: argparse.Namespace, split: str) -> dict:
    """Return the extra keys of dataset.json, none of which may differ between equal datasets."""
    recorded = {name: value for name, value in vars(options).items() if name not in ("output_dir", "workers")}
    extra = {
        "family": "arc",
        "grid_shape": [options.max_grid, options.max_grid],
        "builder": BUILDER,
        "builder_version": BUILDER_VERSION,
        "seed": options.seed,
        "options": recorded,
    }
    if split == "test":
        # Task -> indices of test inputs without an answer; their [[0]] in test_puzzles.json could also be an answer.
        tasks = {group.task.name: group.task for group in plan.in_split("test")}
        extra["unknown_answers"] = {
            name: task.unknown for name, task in sorted(tasks.items()) if task.unknown
        }
    return extra


def write_full(
    output_dir: Path, plan: DatasetPlan, options: argparse.Namespace, extras: dict
) -> dict[str, Metadata]:
    """Write every example to disk."""
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                SplitWriter(
                    output_dir / split,
                    seq_len=options.max_grid**2,
                    vocab_size=VOCAB_SIZE,
                    extra=extras[split],
                )
            )
            for split in SPLITS
        }
        parts = _parts(plan, options.seed, options.max_grid)
        for part, packed in ordered_map(_render_part, parts, options.workers):
            writers[part.split].add_group(
                *unpack(packed),
                part.identifiers,
                np.full(len(part.identifiers), len(part.pairs)),
                complete=part.ends_group,
            )
        _retract(output_dir)
        for split in SPLITS:
            originals_path(output_dir / split, "all").unlink(missing_ok=True)
        (output_dir / IDENTIFIERS_FILE).unlink(missing_ok=True)
        write_identifiers(output_dir, plan.table.names())
        write_test_puzzles(output_dir, plan)
        return dict(zip(SPLITS, close_splits(list(writers.values()), len(plan.table)), strict=True))


@dataclass(frozen=True)
class _Part:
    """Copies of one group in one split, few enough to be rendered at once."""

    split: str
    pairs: list[Pair]
    numbers: np.ndarray
    identifiers: np.ndarray
    ends_group: bool
    first_puzzle: int
    first_example: int
    shift_seed: int | None
    side: int


def _parts(plan: DatasetPlan, seed: int, side: int) -> Iterator[_Part]:
    counts = {split: [0, 0] for split in SPLITS}  # puzzles and examples before the part
    for group in plan.groups:
        for split in SPLITS:
            pairs = group.pairs(split)
            if not pairs:
                continue
            copies = max(1, _PART_EXAMPLES // len(pairs))
            for first in range(0, len(group.numbers), copies):
                numbers = group.numbers[first : first + copies]
                yield _Part(
                    split,
                    pairs,
                    numbers,
                    group.identifiers[first : first + copies],
                    first + copies >= len(group.numbers),
                    *counts[split],
                    seed if split == "train" else None,
                    side,
                )
                counts[split][0] += len(numbers)
                counts[split][1] += len(numbers) * len(pairs)


def _render_part(part: _Part) -> tuple[_Part, np.ndarray]:
    copies, length = len(part.numbers), len(part.pairs)
    positions = np.tile(np.arange(length), copies)
    packed = render(
        Frames(part.pairs, part.side),
        part.shift_seed,
        pairs=positions,
        positions=positions,
        lengths=np.full(len(positions), length),
        numbers=np.repeat(part.numbers, length),
        puzzles=part.first_puzzle + np.repeat(np.arange(copies), length),
        examples=part.first_example + np.arange(len(positions)),
    )
    return part, packed


def write_lazy(
    output_dir: Path, plan: DatasetPlan, options: argparse.Namespace, extras: dict
) -> dict[str, Metadata]:
    """Write the tasks and the augmentation number of each copy."""
    originals, metadata = {}, {}
    for split in SPLITS:
        groups = plan.in_split(split)
        originals[split] = Originals(
            [group.pairs(split) for group in groups],
            [group.identifiers for group in groups],
            options.seed if split == "train" else None,
        )
        metadata[split] = Metadata(
            pad_id=0,
            ignore_label_id=0,
            blank_identifier_id=0,
            vocab_size=VOCAB_SIZE,
            seq_len=options.max_grid**2,
            num_puzzle_identifiers=len(plan.table),
            sets=("all",),
            **originals[split].metadata_counts,
            extra={**extras[split], "store": "lazy"},
        )
        (output_dir / split).mkdir(parents=True, exist_ok=True)
    _retract(output_dir)
    for split in SPLITS:
        for path in (output_dir / split).glob("all__*.npy"):
            path.unlink()
        originals[split].save(output_dir / split)
    (output_dir / "identifiers.json").unlink(missing_ok=True)
    plan.table.save(output_dir)
    write_test_puzzles(output_dir, plan)
    for split in SPLITS:
        write_text(
            output_dir / split / "dataset.json", json.dumps(metadata[split].to_json(), indent=2) + "\n"
        )
    return metadata


def write_test_puzzles(output_dir: Path, plan: DatasetPlan) -> None:
    """Write the test tasks to `test_puzzles.json`, in the format of the official files."""
    puzzles = {group.task.name: group.task.to_json() for group in plan.in_split("test")}
    write_text(output_dir / "test_puzzles.json", json.dumps(puzzles) + "\n")


def _retract(output_dir: Path) -> None:
    """Make an existing dataset unreadable before its files are replaced one by one."""
    for split in SPLITS:
        (output_dir / split / "dataset.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
