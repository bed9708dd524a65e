"""`{split}/dataset.json`: the sizes of a dataset and the meaning of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.reading import read_json, shortened

BLANK_IDENTIFIER = "<blank>"
SPLITS = ("train", "test")
# Keys that must agree between splits and directories that are used together.
AGREEING_KEYS = ("seq_len", "vocab_size", "pad_id", "ignore_label_id", "blank_identifier_id")


@dataclass(frozen=True)
class FamilyFinding:
    """The family of a dataset, None if unknown, and the reason as the end of a sentence about the dataset.

    `is_stated`: the family was named by the user or in dataset.json, so no notice is needed.
    """

    name: str | None
    reason: str
    is_stated: bool = False

    @property
    def notice(self) -> str | None:
        """Message about the detected family, or None if the dataset names a known family itself."""
        if self.is_stated:
            return None
        return f"taken for {self.name}: {self.reason}" if self.name else f"of no known family: {self.reason}"


@dataclass(frozen=True)
class Metadata:
    """The content of `dataset.json`; `extra` holds keys that are not part of the format (family, grid_shape, ...).

    `finding` is the detected family of an opened split (see `dataset.families`), not a key of the file.

    `total_puzzles` is the number of puzzles in the arrays once a split is opened: older datasets lack the key
    or hold the number of groups in it.
    """

    pad_id: int
    ignore_label_id: int | None
    blank_identifier_id: int
    vocab_size: int
    seq_len: int
    num_puzzle_identifiers: int
    total_groups: int
    mean_puzzle_examples: float
    total_puzzles: int
    sets: tuple[str, ...]
    extra: dict = field(default_factory=dict)
    finding: FamilyFinding | None = field(default=None, compare=False)

    def to_json(self) -> dict:
        """Return the content of `dataset.json`, including extra keys."""
        known = {key: getattr(self, key) for key in _KEYS}
        return {**known, "sets": list(self.sets), **self.extra}


_KEYS = tuple(name for name in Metadata.__dataclass_fields__ if name not in ("extra", "finding"))
_REQUIRED_KEYS = tuple(key for key in _KEYS if key != "total_puzzles")
# Smallest valid value of each count and token id; all must fit in int32.
_SMALLEST = {
    "pad_id": 0,
    "blank_identifier_id": 0,
    "vocab_size": 1,
    "seq_len": 1,
    "num_puzzle_identifiers": 1,
    "total_groups": 1,
    "total_puzzles": 1,
}
INT32_MAX = 2**31 - 1
_LONGEST_NAME = 100  # characters in the name of a set, which is part of file names
# Limited because tables of symbols and colours have one entry per token.
_LARGEST = {"vocab_size": 1_000_000, "seq_len": 1_000_000}


def read_metadata(split_dir: str | Path) -> Metadata:
    """Read the metadata of a split, without its arrays. Raises `UserError` for a missing or malformed file."""
    metadata, problems = parse_metadata(Path(split_dir) / "dataset.json")
    if metadata is None:
        raise UserError(problems_text(problems))
    return metadata


def parse_metadata(path: Path) -> tuple[Metadata | None, list[str]]:
    """Parse a dataset.json; return None and the problems if it is invalid."""
    try:
        raw = read_json(
            path, missing="is missing, perhaps because the build did not finish: build the dataset again"
        )
    except UserError as error:
        return None, [str(error)]
    if not isinstance(raw, dict):
        return None, [f"{path}: must hold a JSON object, but holds a {type(raw).__name__}"]
    missing = [key for key in _REQUIRED_KEYS if key not in raw]
    if missing:
        return None, [f"{path}: lacks the keys {', '.join(missing)}"]
    raw = {"total_puzzles": None, **raw}
    if raw["total_puzzles"] is None:
        raw["total_puzzles"] = raw["total_groups"]
    problems = [f"{path}: {problem}" for problem in type_problems(raw) or _value_problems(raw)]
    if problems:
        return None, problems
    known = {key: raw[key] for key in _KEYS}
    extra = {key: value for key, value in raw.items() if key not in _KEYS}
    return Metadata(**{**known, "sets": tuple(raw["sets"])}, extra=extra), []


def type_problems(raw: Mapping[str, Any]) -> list[str]:
    """Return a problem for each key in `raw` whose value has the wrong type or is out of range.

    Besides the format's own keys these are the optional ones that this repository interprets (`INTERPRETED_KEYS`).
    """
    problems = []

    def check(key: str, is_right: Callable[[Any], bool], must_be: str) -> None:
        if key in raw and not is_right(raw[key]):
            problems.append(f"{key} is {shortened(repr(raw[key]))}, but must be {must_be}")

    for key, smallest in _SMALLEST.items():
        largest = _LARGEST.get(key, INT32_MAX)
        check(
            key,
            lambda value, low=smallest, high=largest: _is_int(value) and low <= value <= high,
            f"an integer from {smallest} to {largest}",
        )
    check(
        "ignore_label_id",
        lambda value: value is None or (_is_int(value) and abs(value) <= INT32_MAX),
        "an integer or null",
    )
    check("mean_puzzle_examples", _is_positive_number, "a number above 0")
    check("sets", _is_list_of_texts, "a list of one or more names")
    names = raw.get("sets")
    if _is_list_of_texts(names) and (
        len(set(names)) < len(names)
        or any(not 0 < len(name) <= _LONGEST_NAME or set(name) & {"/", "\\", "\0"} for name in names)
    ):
        problems.append(
            f"sets is {shortened(repr(names))}, but names must differ, have no slashes and 1 to {_LONGEST_NAME} "
            "characters"
        )
    for key, (is_right, must_be) in INTERPRETED_KEYS.items():
        if raw.get(key) is not None:
            check(key, is_right, must_be)
    return problems


def _value_problems(raw: dict) -> list[str]:
    problems = []
    for key, limit in (("pad_id", "vocab_size"), ("blank_identifier_id", "num_puzzle_identifiers")):
        if raw[key] >= raw[limit]:
            problems.append(f"{key} is {raw[key]}, but must be below {limit}, which is {raw[limit]}")
    return problems


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= INT32_MAX


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_shape(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(_is_int(side) and 0 < side <= INT32_MAX for side in value)
    )


def _is_numbers_by_task(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(numbers, list) and all(map(_is_int, numbers)) for numbers in value.values()
    )


# Optional keys that this repository interprets: (type check, description of valid values).
INTERPRETED_KEYS = {
    "family": (_is_text, "a name"),
    "store": (_is_text, "a name"),
    "difficulty": (_is_text, "the name of a unit"),
    "distinct_puzzles": (lambda value: _is_int(value) and 0 < value <= INT32_MAX, "a positive integer"),
    "box_shape": (_is_shape, "[rows, columns] of a box, positive integers"),
    "grid_shape": (_is_shape, "[rows, columns] of the grid, positive integers"),
    "unsolved_tasks": (lambda value: value == [] or _is_list_of_texts(value), "a list of task names"),
    "unknown_answers": (_is_numbers_by_task, "an object of lists of numbers by task"),
}


def split_disagreements(dataset_dir: Path, train: Metadata, test: Metadata) -> Iterator[str]:
    """Yield the required keys in which the two splits of a dataset differ."""
    for key in AGREEING_KEYS:
        one, other = getattr(train, key), getattr(test, key)
        if one != other:
            yield f"{dataset_dir}: {key} is {one} in train/dataset.json, but {other} in test/dataset.json"


def problems_text(problems: Sequence[str], most: int = 5) -> str:
    """Join the first few problems into one message."""
    more = [f"and {len(problems) - most} more problems"] if len(problems) > most else []
    return "\n  ".join([*problems[:most], *more])
