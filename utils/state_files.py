"""Find, verify, read and remove the files of full training states. Layout: utils/checkpoint.py."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils import tensor_files
from utils.errors import UserError
from utils.files import TEMPORARY_SUFFIX, write_atomically
from utils.reading import parse_json

STATE_PREFIX = "state_step_"
_FOLDER = re.compile(rf"{STATE_PREFIX}(\d+)", re.ASCII)
_PART = re.compile(r"(\d+)-(shared|rank_\d+)\.(pt|json)", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """A full state on disk; `number` counts the saves of the run."""

    path: Path
    step: int
    number: int
    world_size: int = 1

    def part(self, name: str) -> Path:
        return self.path / f"{self.number}-{name}.pt"

    def manifest(self, rank: int) -> Path:
        return self.path / f"{self.number}-rank_{rank}.json"


class BrokenState(Exception):
    """Raised for a state that cannot be used; `completed`: it was damaged later, not interrupted while saving."""

    def __init__(self, message: str, completed: bool):
        super().__init__(message)
        self.completed = completed


def write_parts(state: Checkpoint, rank: int, parts: dict[str, dict]) -> None:
    """Write one rank's parts of a state, its manifest last."""
    files = {}
    for name, part in parts.items():
        data, path = serialise(part), state.part(name)
        write_atomically(path, data)
        files[path.name] = {"bytes": len(data), "sha256": sha256(data)}
    facts = {"step": state.step, "rank": rank, "world_size": state.world_size, "files": files}
    manifest = {"facts": facts, "sha256": sha256(json.dumps(facts).encode())}
    write_atomically(state.manifest(rank), json.dumps(manifest).encode())


def list_states(directory: Path, name: str = f"{STATE_PREFIX}*") -> list[Checkpoint]:
    """List all states in a run's folder, complete or not, newest first, without reading their world sizes."""
    found = set()
    for part in directory.glob(f"{name}/*"):
        folder, match = _FOLDER.fullmatch(part.parent.name), _PART.fullmatch(part.name)
        if match and folder and part.is_file():
            found.add(Checkpoint(part.parent, int(folder[1]), int(match[1])))
    return sorted(found, key=lambda state: state.number, reverse=True)


def stray_entries(state: Checkpoint) -> list[Path]:
    """List entries of a state's folder that belong to no state; they are never read or removed."""
    entries = sorted(state.path.iterdir())
    return [
        path
        for path in entries
        if not (path.is_file() and (_PART.fullmatch(path.name) or path.name.endswith(TEMPORARY_SUFFIX)))
    ]


def newest_whole(states: list[Checkpoint]) -> tuple[Checkpoint | None, list[str]]:
    """Return the first complete state, verified by its checksums, and the problems of those before it.

    Raises `UserError` if there is none and at least one was damaged after it had been completed.
    """
    problems, damage = [], None
    for state in states:
        try:
            world_size = verify(state)
        except BrokenState as error:
            problems.append(str(error))
            damage = damage or (error if error.completed else None)
        else:
            return Checkpoint(state.path, state.step, state.number, world_size), problems
    if damage:
        raise UserError(
            f"{damage}; there is no complete state to fall back to: start again in another checkpoint_path"
        )
    return None, problems


def is_whole(state: Checkpoint) -> bool:
    """True if all parts of a state exist with the right sizes; checksums are not computed."""
    try:
        verify(state, read_files=False)
    except BrokenState:
        return False
    return True


def verify(state: Checkpoint, read_files: bool = True) -> int:
    """Return the world size of a complete state; raises `BrokenState` for any other."""
    rank, world_size = 0, 1
    while rank < world_size:
        facts = _read_manifest(state, rank)
        world_size = facts["world_size"]
        for name, expected in facts["files"].items():
            path = state.path / name
            if not path.is_file():
                raise BrokenState(f"{path}: damaged (the file is missing)", completed=True)
            if (size := path.stat().st_size) != expected["bytes"]:
                raise BrokenState(
                    f"{path}: damaged ({size} bytes instead of {expected['bytes']})", completed=True
                )
            if read_files and sha256(path.read_bytes()) != expected["sha256"]:
                raise BrokenState(
                    f"{path}: damaged (its SHA-256 differs from the manifest's)", completed=True
                )
        rank += 1
    return world_size


def _read_manifest(state: Checkpoint, rank: int) -> dict:
    path = state.manifest(rank)
    try:
        manifest = parse_json(path.read_bytes(), str(path))
        facts = manifest["facts"]
        if manifest["sha256"] != sha256(json.dumps(facts).encode()):
            raise ValueError("its SHA-256 differs from the one that it contains")
        if not _is_manifest(facts):
            raise ValueError("it is not a manifest of a training state")
    except FileNotFoundError:
        raise BrokenState(
            f"{state.path}: its saving was not completed (no {path.name})", completed=False
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BrokenState(f"{path}: damaged ({error})", completed=True) from error
    return facts


def _is_manifest(facts: Any) -> bool:
    """True if a manifest has the types that `verify` needs, and names no file outside the folder."""
    files, world_size = facts["files"], facts["world_size"]
    return (
        isinstance(world_size, int)
        and world_size >= 1
        and all(_PART.fullmatch(name) for name in files)
        and all({"bytes", "sha256"} <= expected.keys() for expected in files.values())
    )


def remove(state: Checkpoint) -> None:
    """Remove the files of one state, manifests first, so that a crash leaves an incomplete state."""
    parts = [
        path
        for path in state.path.iterdir()
        if path.name.startswith(f"{state.number}-") and (path.is_file() or path.is_symlink())
    ]
    try:
        for path in sorted(parts, key=lambda path: path.suffix != ".json"):
            path.unlink(missing_ok=True)
        if not any(state.path.iterdir()):
            state.path.rmdir()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{state.path}: an old state cannot be removed ({reason}); remove it yourself"
        ) from error


def serialise(obj: dict) -> memoryview:
    """Return the bytes of a `torch.save` file; torch's own file writer hides the cause of disk errors."""
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getbuffer()


def read(path: Path) -> Any:
    """Read a `torch.save` file with tensors on the CPU, without running its code. Raises `UserError` if unreadable."""
    return tensor_files.load(path, "part of a training state")


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
