"""Which puzzle family a dataset belongs to. Everything that depends on the family asks here.

A dataset says so itself (`family` in dataset.json). Datasets of other builders do not: these are recognised by their
sizes together with evidence in their files, and every command that uses such a dataset says what it was taken for.

Legend: n sampled examples, S cells of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from pathlib import Path

import numpy as np

from dataset import arc, maze, sudoku
from dataset.example_set import ExampleSet
from dataset.metadata import Finding, Metadata
from utils.errors import UserError

FAMILIES = ("sudoku", "maze", "arc")
TEST_PUZZLES_FILE = "test_puzzles.json"
_SAMPLED = 64  # examples of each set that are looked at


def family_of(metadata: Metadata) -> Finding:
    """The family of an opened dataset, or of bare metadata, which is known only if `family` names it."""
    return metadata.finding or _stated(metadata) or Finding(None, "dataset.json names no family")


def find_family(metadata: Metadata, sets: Sequence[ExampleSet], dataset_dir: Path) -> Finding:
    """The family of a dataset by everything that its folder holds; `sets` are those of one of its splits."""
    stated = _stated(metadata)
    if stated is not None:
        return stated
    reasons = []
    for name, evidence in (("sudoku", _sudoku_evidence), ("maze", _maze_evidence)):
        if _size_problem(name, metadata) is None:
            samples = [s.read(_spread(s.num_examples)) for s in sets]
            inputs, labels = (np.concatenate(part).astype(np.int64) for part in zip(*samples, strict=True))
            found, reason = evidence(metadata, inputs, labels)
            if found:
                return Finding(name, f"dataset.json names no family, but {reason}")
            reasons.append(reason)
    if _size_problem("arc", metadata) is None:
        has_puzzles = (dataset_dir / TEST_PUZZLES_FILE).is_file()
        sizes = f"{metadata.seq_len} cells and {metadata.vocab_size} tokens are those of ARC"
        if has_puzzles:
            return Finding(
                "arc", f"dataset.json names no family, but {sizes} and there is a {TEST_PUZZLES_FILE}"
            )
        reasons.append(f"{sizes}, but there is no {TEST_PUZZLES_FILE}")
    sizes = (
        f"{metadata.seq_len} cells and {metadata.vocab_size} tokens are not those of {', '.join(FAMILIES)}"
    )
    return Finding(None, f"dataset.json names no family; {'; '.join(reasons) or sizes}")


def family_by_sizes(metadata: Metadata) -> Finding:
    """The family of a model whose data is not at hand: what the metadata names, else the first that has its sizes."""
    found = family_of(metadata)
    if found.name is not None or "family" in metadata.extra:
        return found
    sizes = f"{metadata.seq_len} cells and {metadata.vocab_size} tokens"
    for name in FAMILIES:
        if _size_problem(name, metadata) is None:
            return Finding(name, f"nothing but its sizes, {sizes}, says what it was trained on")
    return Finding(None, f"{sizes} are not those of {', '.join(FAMILIES)}")


def recorded_family(metadata: Metadata) -> dict[str, str]:
    """What a run's metadata.json says of a dataset that was recognised: its checkpoints are used without the data."""
    found = family_of(metadata)
    return (
        {}
        if found.name is None or found.is_stated
        else {"family": found.name, "family_evidence": found.reason}
    )


def family_notices(described: Sequence[tuple[str, Metadata]]) -> list[str]:
    """What to tell the user about the families of (name, metadata), one line for each that does not state its own."""
    notices = ((name, family_of(metadata).notice) for name, metadata in described)
    return [f"{name}: {notice}" for name, notice in notices if notice]


def merged_finding(findings: list[tuple[str, Finding]]) -> Finding:
    """The family of several datasets used together, by folder."""
    names = {found.name for _, found in findings}
    if len(names) == 1:
        return next((found for _, found in findings if not found.is_stated), findings[0][1])
    listed = ", ".join(f"{folder} is {found.name or 'of no known family'}" for folder, found in findings)
    return Finding(None, f"the datasets differ: {listed}")


def box_shape(metadata: Metadata) -> sudoku.BoxShape:
    """The boxes of a Sudoku dataset: what dataset.json says, else the flattest that fit the grid."""
    return sudoku.recorded_shape(metadata.extra, metadata.seq_len, "dataset.json")


def _stated(metadata: Metadata) -> Finding | None:
    """What the key `family` says; None without it."""
    if metadata.extra.get("family") is None:
        return None
    name = metadata.extra["family"]
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        return Finding(None, f"dataset.json names the family {name!r}, which is not one of {known}")
    if problem := _size_problem(name, metadata):
        return Finding(None, f"dataset.json names the family {name}, but {problem}")
    return Finding(name, f"dataset.json names the family {name}", is_stated=True)


def _size_problem(name: str, metadata: Metadata) -> str | None:
    """Why a dataset of these sizes cannot be of the family, None if it can."""
    side, vocab_size = isqrt(metadata.seq_len), metadata.vocab_size
    square = side * side == metadata.seq_len
    if name == "sudoku":
        expected = (square and side in sudoku.GRID_SIZES, side + 2)
    elif name == "maze":
        expected = (square or "grid_shape" in metadata.extra, maze.VOCAB_SIZE)
    else:
        expected = (metadata.seq_len == arc.SEQ_LEN, arc.VOCAB_SIZE)
    if not expected[0]:
        return f"seq_len is {metadata.seq_len}, which is not the size of such a grid"
    if vocab_size != expected[1]:
        return f"vocab_size is {vocab_size}, not {expected[1]}"
    return None


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, _SAMPLED).astype(np.int64))


def _sudoku_evidence(metadata: Metadata, inputs: np.ndarray, labels: np.ndarray) -> tuple[bool, str]:
    try:
        box = box_shape(metadata)
    except UserError as error:
        return False, str(error)
    kind = f"{box.size}x{box.size} Sudoku with boxes of {box}"
    complete = ((labels >= 2) & (labels < metadata.vocab_size)).all(1)
    if not complete.any():
        return False, f"its sizes are those of {kind}, but no sampled label is a complete grid"
    values = labels[complete] - 1
    valid = sudoku.is_solution(values, box) & sudoku.keeps_givens(sudoku.to_values(inputs[complete]), values)
    if not valid.all():
        return False, f"its sizes are those of {kind}, but sampled labels break its rules"
    return True, f"its sizes are those of {kind}, and all sampled labels obey its rules"


def _maze_evidence(metadata: Metadata, inputs: np.ndarray, labels: np.ndarray) -> tuple[bool, str]:
    ends = ((inputs == maze.START).sum(1) == 1) & ((inputs == maze.GOAL).sum(1) == 1)
    symbols = (inputs >= maze.WALL) & (inputs <= maze.GOAL)
    if not (ends.all() and symbols.all()):
        return False, "it has as many tokens as mazes, but not one start and one goal in every sampled input"
    kept = (labels == inputs) | ((labels == maze.PATH) & (inputs == maze.FREE))
    if metadata.ignore_label_id is not None:
        kept |= labels == metadata.ignore_label_id
    if not kept.all():
        return False, "it has as many tokens as mazes, but sampled labels change more than free cells"
    return True, "its sizes are those of mazes, and every sampled input has one start and one goal"
