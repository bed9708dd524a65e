"""Names of the puzzle identifiers: `identifiers.json`, or `identifiers.npz` for lazily stored ARC data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from dataset.families.arc.lazy import IdentifierTable
from dataset.metadata import BLANK_IDENTIFIER, Metadata
from utils.errors import UserError
from utils.files import replacing
from utils.reading import read_json


def read_identifiers(dataset_dir: str | Path) -> list[str]:
    """Read the names of the puzzle identifiers, `<blank>` first. Raises `UserError` if missing or malformed."""
    path = Path(dataset_dir) / "identifiers.json"
    if not path.exists() and path.with_suffix(".npz").exists():
        return list(IdentifierTable.load(dataset_dir).names())
    names = read_json(path, missing="is missing; it lists the names of the puzzle identifiers")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: must hold a list of names")
    if names[0] != BLANK_IDENTIFIER:
        raise UserError(f"{path}: index 0 is {names[0]!r}, but must be {BLANK_IDENTIFIER!r}")
    return names


def identifier_problems(
    dataset_dir: Path, metadata: dict[str, Metadata], *, may_be_missing: bool = False
) -> Iterator[str]:
    """Yield the problems of `identifiers.json`, given the metadata by split."""
    path = dataset_dir / "identifiers.json"
    if not path.exists() and path.with_suffix(".npz").exists():  # lazy dataset
        path = path.with_suffix(".npz")
    if may_be_missing and not path.exists():
        return
    try:
        # Cached until the file changes: it may hold a million names.
        version = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
        count = _count_identifiers(dataset_dir, version)
    except UserError as error:
        yield str(error)
        return
    for split, split_metadata in metadata.items():
        stated = split_metadata.num_puzzle_identifiers
        if stated != count:
            yield (
                f"{path}: holds {count} names, but num_puzzle_identifiers is {stated} in {split}/dataset.json: rebuild "
                "the dataset, or correct the number"
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
    with (
        replacing(Path(dataset_dir) / "identifiers.json") as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        file.write("[\n " + json.dumps(first))
        file.writelines(",\n " + json.encoder.encode_basestring_ascii(name) for name in names)
        file.write("\n]\n")
