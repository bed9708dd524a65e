"""The dataset format on disk: open and check splits. Arrays are in `example_set.py`, writing in `writer.py`.

`DIR/{train,test}/dataset.json` describes a split; for each set named there (normally only `all`) five
arrays are stored as `{set}__{field}.npy`, and optionally a sixth, `difficulty`. `DIR/identifiers.json` names the
rows of the puzzle-embedding table. Examples belong to puzzles, puzzles (one and its copies) to groups.

Legend: E examples, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset.example_set import FIELD_DTYPES, ExampleSet, array_path, load_arrays
from dataset.families import find_family
from dataset.families.arc.lazy import LazyExampleSet
from dataset.families.labels import IGNORE_LABEL_ID
from dataset.identifiers import identifier_problems, read_identifiers, write_identifiers
from dataset.metadata import (
    AGREEING_KEYS,
    BLANK_IDENTIFIER,
    SPLITS,
    Metadata,
    parse_metadata,
    problems_text,
    read_metadata,
    split_disagreements,
    type_problems,
)
from dataset.writer import SplitWriter, close_splits
from utils.errors import UserError

__all__ = [
    "AGREEING_KEYS",
    "BLANK_IDENTIFIER",
    "FIELD_DTYPES",
    "IGNORE_LABEL_ID",
    "SPLITS",
    "STORES",
    "ExampleSet",
    "Metadata",
    "Split",
    "SplitWriter",
    "array_path",
    "close_splits",
    "load_arrays",
    "open_split",
    "open_valid",
    "problems_text",
    "read_identifiers",
    "read_metadata",
    "type_problems",
    "validate",
    "write_identifiers",
]

# `store` in dataset.json (default: npy) -> class that reads the examples.
STORES = {"npy": ExampleSet, "lazy": LazyExampleSet}


@dataclass(frozen=True)
class Split:
    """An opened split: its metadata, its folder, and its sets by name in the order of dataset.json."""

    metadata: Metadata
    path: Path
    sets: dict[str, ExampleSet]


def open_split(dataset_dir: str | Path, split: str) -> Split:
    """Open a split, memory-mapped, and run the checks of `validate` on it; identifiers.json may be missing.

    Raises `UserError` naming file and index of the first few broken rules.
    """
    dataset_dir = Path(dataset_dir)
    opened, problems = _open_checked(dataset_dir, split)
    if opened is not None:
        # The arrays are usable without names.
        problems = list(identifier_problems(dataset_dir, {split: opened.metadata}, may_be_missing=True))
    if problems:
        raise UserError(problems_text(problems))
    return opened


def validate(dataset_dir: str | Path) -> list[str]:
    """Return the problems of all splits and of `identifiers.json`, with file and index; [] if there are none."""
    return open_valid(dataset_dir)[1]


def open_valid(dataset_dir: str | Path) -> tuple[dict[str, Split], list[str]]:
    """Return the valid splits by name, memory-mapped, and all problems; each file is read once."""
    dataset_dir = Path(dataset_dir)
    present = [split for split in SPLITS if (dataset_dir / split).is_dir()]
    if not present:
        return {}, [_missing_split(dataset_dir, SPLITS[0])]
    splits, problems, metadata = {}, [], {}
    for name in present:
        split, found = _open_checked(dataset_dir, name)
        problems += found
        if split is not None:
            splits[name] = split
        parsed, _ = parse_metadata(dataset_dir / name / "dataset.json")
        if parsed is not None:
            metadata[name] = parsed
    if len(metadata) == len(SPLITS):
        problems += split_disagreements(dataset_dir, *(metadata[split] for split in SPLITS))
    return splits, [*problems, *identifier_problems(dataset_dir, metadata)]


def _open_checked(dataset_dir: Path, split: str) -> tuple[Split | None, list[str]]:
    split_dir = dataset_dir / split
    if not split_dir.is_dir():
        return None, [_missing_split(dataset_dir, split)]
    path = split_dir / "dataset.json"
    metadata, problems = parse_metadata(path)
    if metadata is None:
        return None, problems
    store = metadata.extra.get("store", "npy")
    if store not in STORES:
        return None, [f"{path}: store is {store!r}, but must be one of {', '.join(STORES)}"]
    sets = {}
    for name in metadata.sets:
        sets[name], found = STORES[store].open(split_dir, name, metadata)
        problems += found if sets[name] is None else sets[name].problems()
    if None in sets.values():
        return None, problems
    problems += _count_problems(path, metadata, list(sets.values()))
    if problems:
        return None, problems
    metadata = replace(
        metadata,
        total_puzzles=sum(example_set.num_puzzles for example_set in sets.values()),
        finding=find_family(metadata, list(sets.values()), dataset_dir),
    )
    for example_set in sets.values():
        example_set.metadata = metadata
    return Split(metadata, split_dir, sets), []


def _missing_split(dataset_dir: Path, split: str) -> str:
    if not dataset_dir.is_dir():
        return (
            f"{dataset_dir}: there is no such dataset; the commands dataset/build_*_dataset.py build datasets"
        )
    found = sorted(path.parent.name for path in dataset_dir.glob("*/dataset.json"))
    has = f"it has {', '.join(found)}" if found else "no folder in it holds a dataset.json"
    return f"{dataset_dir}: has no split {split!r} ({has})"


def _count_problems(path: Path, metadata: Metadata, sets: Sequence[ExampleSet]) -> Iterator[str]:
    groups, puzzles = sum(s.num_groups for s in sets), sum(s.num_puzzles for s in sets)
    if metadata.total_groups != groups:
        yield f"{path}: total_groups is {metadata.total_groups}, but the arrays hold {groups} groups"
    # Published Sudoku and maze datasets count groups here.
    if metadata.total_puzzles not in (puzzles, groups):
        yield f"{path}: total_puzzles is {metadata.total_puzzles}, but the arrays hold {puzzles} puzzles"
    stated, mean = metadata.mean_puzzle_examples, sum(s.num_examples for s in sets) / max(1, puzzles)
    if abs(stated - mean) > 1e-3 * mean:
        yield f"{path}: mean_puzzle_examples is {stated}, but the arrays give {mean:.6g}"
