"""The JSON files of a dataset: `{split}/dataset.json` (sizes, meanings) and `identifiers.json` (names)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from utils.errors import UserError
from utils.files import replacing

if TYPE_CHECKING:
    from dataset.family import Finding

BLANK_IDENTIFIER = "<blank>"
SPLITS = ("train", "test")
# What splits and directories that are used together must have in common.
AGREEING_KEYS = ("seq_len", "vocab_size", "pad_id", "ignore_label_id", "blank_identifier_id")


@dataclass(frozen=True)
class Metadata:
    """What `dataset.json` says; `extra` holds keys that are not part of the format (family, grid_shape, ...).

    `finding` is the family that an opened split was found to be of (see `dataset.family`), not a key of the file.

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
    finding: Finding | None = field(default=None, compare=False)

    def to_json(self) -> dict:
        """The content of `dataset.json`, extra keys included."""
        known = {key: getattr(self, key) for key in _KEYS}
        return {**known, "sets": list(self.sets), **self.extra}


_KEYS = tuple(name for name in Metadata.__dataclass_fields__ if name not in ("extra", "finding"))
_REQUIRED_KEYS = tuple(key for key in _KEYS if key != "total_puzzles")
_SMALLEST = {
    "pad_id": 0,
    "blank_identifier_id": 0,
    "vocab_size": 1,
    "seq_len": 1,
    "num_puzzle_identifiers": 1,
    "total_groups": 1,
    "total_puzzles": 1,
}


def read_metadata(split_dir: str | Path) -> Metadata:
    """The metadata of a split, arrays unread; raises `UserError` for a missing or malformed dataset.json."""
    metadata, problems = parse_metadata(Path(split_dir) / "dataset.json")
    if metadata is None:
        raise UserError(problems_text(problems))
    return metadata


def parse_metadata(path: Path) -> tuple[Metadata | None, list[str]]:
    """The metadata in a dataset.json, or None with every rule that the file breaks."""
    raw = _read_json(path, "an unfinished build leaves none: build the dataset again")
    if isinstance(raw, UserError):
        return None, [str(raw)]
    if not isinstance(raw, dict):
        return None, [f"{path}: must hold a JSON object, but holds a {type(raw).__name__}"]
    missing = [key for key in _REQUIRED_KEYS if key not in raw]
    if missing:
        return None, [f"{path}: lacks the keys {', '.join(missing)}"]
    raw = {"total_puzzles": None, **raw}
    if raw["total_puzzles"] is None:
        raw["total_puzzles"] = raw["total_groups"]
    problems = [f"{path}: {problem}" for problem in _type_problems(raw) or _value_problems(raw)]
    if problems:
        return None, problems
    known = {key: raw[key] for key in _KEYS}
    extra = {key: value for key, value in raw.items() if key not in _KEYS}
    return Metadata(**{**known, "sets": tuple(raw["sets"])}, extra=extra), []


def _type_problems(raw: dict) -> list[str]:
    problems = []
    for key, smallest in _SMALLEST.items():
        if not _is_int(raw[key]) or raw[key] < smallest:
            problems.append(f"{key} is {raw[key]!r}, but must be an integer of at least {smallest}")
    ignored, mean, names = raw["ignore_label_id"], raw["mean_puzzle_examples"], raw["sets"]
    if ignored is not None and not _is_int(ignored):
        problems.append(f"ignore_label_id is {ignored!r}, but must be an integer or null")
    if isinstance(mean, bool) or not isinstance(mean, int | float) or not 0 < mean < float("inf"):
        problems.append(f"mean_puzzle_examples is {mean!r}, but must be a number above 0")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        problems.append(f"sets is {names!r}, but must be a list of one or more names")
    elif len(set(names)) < len(names) or any(not name or set(name) & {"/", "\\"} for name in names):
        problems.append(f"sets is {names!r}, but names must differ, not be empty and have no slashes")
    return problems


def _value_problems(raw: dict) -> list[str]:
    problems = []
    for key, limit in (("pad_id", "vocab_size"), ("blank_identifier_id", "num_puzzle_identifiers")):
        if raw[key] >= raw[limit]:
            problems.append(f"{key} is {raw[key]}, but must be below {limit}, which is {raw[limit]}")
    return problems


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def split_disagreements(dataset_dir: Path, train: Metadata, test: Metadata) -> Iterator[str]:
    """The keys in which the two splits of a dataset differ although they are used together."""
    for key in AGREEING_KEYS:
        one, other = getattr(train, key), getattr(test, key)
        if one != other:
            yield f"{dataset_dir}: {key} is {one} in train/dataset.json, but {other} in test/dataset.json"


def read_identifiers(dataset_dir: str | Path) -> list[str]:
    """The puzzle identifiers' names, `<blank>` first; raises `UserError` for a missing or malformed file."""
    path = Path(dataset_dir) / "identifiers.json"
    if not path.exists() and path.with_suffix(".npz").exists():
        from dataset.lazy import IdentifierTable  # which imports this module

        return list(IdentifierTable.load(dataset_dir).names())
    names = _read_json(path, "it lists the names of the puzzle identifiers")
    if isinstance(names, UserError):
        raise names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: must hold a list of names")
    if names[0] != BLANK_IDENTIFIER:
        raise UserError(f"{path}: index 0 is {names[0]!r}, but must be {BLANK_IDENTIFIER!r}")
    return names


def identifier_problems(
    dataset_dir: Path, metadata: dict[str, Metadata], *, may_be_missing: bool = False
) -> Iterator[str]:
    """What is wrong with `identifiers.json`; metadata by split."""
    path = dataset_dir / "identifiers.json"
    if not path.exists() and path.with_suffix(".npz").exists():  # of a lazy dataset
        path = path.with_suffix(".npz")
    if may_be_missing and not path.exists():
        return
    try:
        # A file that has not changed since is not read again: it may hold a million names.
        version = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
        count = _count_identifiers(dataset_dir, version)
    except UserError as error:
        yield str(error)
        return
    for split, split_metadata in metadata.items():
        stated = split_metadata.num_puzzle_identifiers
        if stated != count:
            yield (
                f"{path}: holds {count} names, but num_puzzle_identifiers is {stated} in {split}/dataset.json: build "
                "the dataset again, or correct the number"
            )


@lru_cache(maxsize=64)
def _count_identifiers(dataset_dir: Path, version: tuple[int, int] | None) -> int:
    return len(read_identifiers(dataset_dir))


def write_identifiers(dataset_dir: str | Path, names: Iterable[str]) -> None:
    """Write `identifiers.json` name by name (there may be millions); the first must be `<blank>`."""
    names = iter(names)
    first = next(names)
    assert first == BLANK_IDENTIFIER, f"identifier 0 must be {BLANK_IDENTIFIER}, not {first!r}"
    Path(dataset_dir).mkdir(parents=True, exist_ok=True)
    with _replacing(Path(dataset_dir) / "identifiers.json") as file:
        file.write("[\n " + json.dumps(first))
        file.writelines(",\n " + json.encoder.encode_basestring_ascii(name) for name in names)
        file.write("\n]\n")


def problems_text(problems: Sequence[str], most: int = 5) -> str:
    """The first few problems as one message."""
    more = [f"and {len(problems) - most} more problems"] if len(problems) > most else []
    return "\n  ".join([*problems[:most], *more])


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there complete or not at all."""
    with _replacing(path) as file:
        file.write(text + "\n")


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` once it is complete."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


def _read_json(path: Path, purpose: str) -> object:
    """The content of the file, or a `UserError` (returned) saying why there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return UserError(f"{path}: is missing; {purpose}")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return UserError(f"{path}: is not valid JSON ({error})")
