"""Candidate answers to ARC test inputs and their votes: of one rank, of all ranks, and of several evaluations.

Legend: N predictions on a rank, slot: one test input of one task.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.families.arc.grids import grid_digest
from utils.errors import UserError
from utils.files import write_atomically
from utils.reading import read_npz

CANDIDATES_FILE = "candidates.npz"
_DIGEST_BYTES = 32
# Dtype kinds, in the candidates' file.
_COLUMNS = {"slots": "i", "digests": "u", "votes": "i", "confidences": "f"}


@dataclass(frozen=True)
class Votes:
    """Predictions of one rank in compact form, to be sent: (N,) arrays.

    `candidates` index the rows of `digests`, (distinct grids, 32) uint8; `examples` index the examples of a set.
    """

    sets: list[str]
    set_numbers: np.ndarray
    examples: np.ndarray
    slots: np.ndarray
    confidences: np.ndarray
    candidates: np.ndarray
    digests: np.ndarray


class Predictions:
    """Predictions of one rank: which grid was predicted for which slot, and each distinct grid once."""

    def __init__(self):
        self.grids: dict[bytes, np.ndarray] = {}
        self._numbers: dict[bytes, int] = {}  # digest -> number of the grid
        self._sets: dict[str, int] = {}
        self._votes: list[tuple[int, int, int, int]] = []
        self._confidences: list[float] = []

    def add(self, set_name: str, example: int, slot: int, grid: np.ndarray, confidence: float) -> None:
        """Add one prediction; ties between candidates are broken by set and example index."""
        digest = grid_digest(grid)
        if digest not in self.grids:
            self.grids[digest] = grid.copy()  # a view would keep the whole batch alive
            self._numbers[digest] = len(self._numbers)
        set_number = self._sets.setdefault(set_name, len(self._sets))
        self._votes.append((set_number, example, slot, self._numbers[digest]))
        self._confidences.append(confidence)

    def votes(self) -> Votes:
        """Return everything except the grids."""
        set_numbers, examples, slots, candidates = np.array(self._votes, np.int64).reshape(-1, 4).T
        digests = np.frombuffer(b"".join(self.grids), np.uint8).reshape(-1, _DIGEST_BYTES)
        confidences = np.array(self._confidences, np.float64)
        return Votes(list(self._sets), set_numbers, examples, slots, confidences, candidates, digests)


class CandidateVotes:
    """Votes and summed confidences of the candidates of each slot, in the order of their first votes."""

    def __init__(self):
        self._tallies: dict[tuple[int, bytes], list] = {}

    @classmethod
    def count(cls, votes_of_ranks: Sequence[Votes]) -> CandidateVotes:
        """Count the votes of all ranks in the order of the test stream, so the result is independent of world size."""
        ordered = []
        for votes in votes_of_ranks:
            digests = [digest.tobytes() for digest in votes.digests]
            columns = (votes.set_numbers, votes.examples, votes.slots, votes.candidates, votes.confidences)
            for number, example, slot, candidate, confidence in zip(
                *(c.tolist() for c in columns), strict=True
            ):
                ordered.append((votes.sets[number], example, slot, digests[candidate], confidence))
        ordered.sort()
        tallied = cls()
        for _, _, slot, digest, confidence in ordered:
            tallied._add(slot, digest, 1, confidence)
        return tallied

    @classmethod
    def pooled(cls, paths: Iterable[Path], fingerprint: str) -> CandidateVotes:
        """Add up saved tallies. Raises `UserError` if a file is malformed or belongs to other test tasks."""
        pool = cls()
        for path in paths:
            try:
                arrays = read_npz(path)
            except UserError as error:
                raise UserError(f"{error}; remove the folder to pool without it") from None
            if problem := _tally_problem(arrays):
                raise UserError(f"{path}: {problem}; remove the folder to pool without it")
            saved, columns = str(arrays["fingerprint"][()]), [arrays[key] for key in _COLUMNS]
            if saved != fingerprint:
                raise UserError(
                    f"{path}: belongs to other test tasks than this run's; use another checkpoint_path, or remove "
                    "the folder"
                )
            slots, digests, votes, confidences = columns
            rows = zip(slots.tolist(), digests, votes.tolist(), confidences.tolist(), strict=True)
            for slot, digest, count, confidence in rows:
                pool._add(slot, digest.tobytes(), count, confidence)
        return pool

    def ranked(self, num_slots: int) -> list[list[bytes]]:
        """Rank the candidates of each slot, best first: by votes, then mean confidence, then earlier first vote."""
        of_slots = [[] for _ in range(num_slots)]
        for (slot, digest), (votes, confidence) in self._tallies.items():
            of_slots[slot].append((votes, confidence / votes, digest))
        # sorted() is stable, also with reverse=True
        return [
            [digest for *_, digest in sorted(rows, key=lambda row: row[:2], reverse=True)]
            for rows in of_slots
        ]

    def save(self, path: Path, fingerprint: str) -> None:
        """Save the tallies, to be read by `pooled`."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            fingerprint=np.array(fingerprint),
            slots=np.array([slot for slot, _ in self._tallies], np.int32),
            digests=np.frombuffer(b"".join(d for _, d in self._tallies), np.uint8).reshape(-1, _DIGEST_BYTES),
            votes=np.array([votes for votes, _ in self._tallies.values()], np.int64),
            confidences=np.array([confidence for _, confidence in self._tallies.values()], np.float64),
        )
        write_atomically(path, content.getvalue())

    def _add(self, slot: int, digest: bytes, votes: int, confidence: float) -> None:
        tally = self._tallies.setdefault((slot, digest), [0, 0.0])
        tally[0] += votes
        tally[1] += confidence


def files_up_to(save_dir: Path) -> list[Path]:
    """Return the candidate files of all evaluations up to the one in `save_dir` (`..._step_N`), ordered by step."""
    match = re.fullmatch(r"(.*_step_)(\d+)", save_dir.name)
    if match is None:
        return [save_dir / CANDIDATES_FILE]
    prefix, last = match[1], int(match[2])
    steps = {}
    for folder in save_dir.parent.iterdir():
        step = folder.name[len(prefix) :]
        if folder.name.startswith(prefix) and step.isdecimal() and int(step) <= last:
            if (folder / CANDIDATES_FILE).is_file():
                steps[int(step)] = folder / CANDIDATES_FILE
            else:
                print(
                    f"{folder}: holds no {CANDIDATES_FILE}, so the pooled score leaves it out",
                    file=sys.stderr,
                )
    return [steps[step] for step in sorted(steps)]


def _tally_problem(arrays: dict[str, np.ndarray]) -> str | None:
    """Describe why `CandidateVotes.pooled` cannot read these arrays, or return None if it can."""
    for key, kind in _COLUMNS.items():
        if key not in arrays or arrays[key].dtype.kind != kind:
            return f"lacks the array {key!r}, or it has the wrong type"
    if "fingerprint" not in arrays or arrays["fingerprint"].shape:
        return "lacks a fingerprint"
    num = len(arrays["slots"]) if arrays["slots"].ndim else -1
    shapes = {key: (num, _DIGEST_BYTES) if key == "digests" else (num,) for key in _COLUMNS}
    wrong = [key for key, shape in shapes.items() if arrays[key].shape != shape]
    return f"the array {wrong[0]!r} has the shape {arrays[wrong[0]].shape}" if wrong else None
