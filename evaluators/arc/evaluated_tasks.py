"""Test tasks of ARC datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset.families.arc.grids import grid_digest, parse_grid
from dataset.families.arc.tasks import TEST_PUZZLES_FILE, UNKNOWN_OUTPUT, arc_paths, unknown_answers
from dataset.format import read_metadata
from utils.errors import UserError
from utils.reading import read_json


@dataclass
class TestTasks:
    """The test tasks of all ARC datasets in a run.

    slots: (task, digest of a test input) -> slot. slots_of, answers: task -> the slots of its test inputs, and the
    digests of their answers (None if unknown). questions: slot -> test input.
    """

    __test__ = False  # not a test class, despite its name

    slots: dict[tuple[str, bytes], int] = field(default_factory=dict)
    slots_of: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[bytes | None]] = field(default_factory=dict)
    questions: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def load(cls, data_paths: Sequence[str]) -> TestTasks:
        """Load every `test_puzzles.json`. Raises `UserError` if there is none or one is malformed."""
        tasks, sources = cls(), {}
        for data_path in arc_paths(data_paths):
            path = data_path / TEST_PUZZLES_FILE
            puzzles = read_json(path)
            if not isinstance(puzzles, dict):
                raise UserError(f"{path}: must hold an object of tasks by name")
            unknown = unknown_answers(read_metadata(data_path / "test"))
            for name, puzzle in puzzles.items():
                if name in sources:
                    if sources[name][1] != puzzle:
                        raise UserError(f"{path}: task {name} differs from the one in {sources[name][0]}")
                    continue
                sources[name] = path, puzzle
                tasks._add(name, puzzle, path, unknown)
        return tasks

    @property
    def fingerprint(self) -> str:
        """Hash of the set of test inputs."""
        text = "".join(f"{name} {digest.hex()} {slot}\n" for (name, digest), slot in self.slots.items())
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def scored(self) -> list[str]:
        """Tasks with at least one known answer."""
        return [name for name, answers in self.answers.items() if any(answers)]

    @property
    def num_inputs(self) -> int:
        return sum(map(len, self.answers.values()))

    @property
    def num_unknown(self) -> int:
        """Number of test inputs without a known answer."""
        return sum(answer is None for answers in self.answers.values() for answer in answers)

    def _add(
        self, name: str, puzzle: object, path: Path, unknown: dict[str, list[int] | None] | None
    ) -> None:
        where = f"{path}: task {name}"
        tests = puzzle.get("test") if isinstance(puzzle, dict) else None
        if not isinstance(tests, list) or not tests:
            raise UserError(f"{where}: must hold a list of pairs under test")
        if unknown is None:  # not from our builder: only [[0]] as outputs means that answers are unknown
            is_known = any(
                isinstance(p, dict) and p.get("output", UNKNOWN_OUTPUT) != UNKNOWN_OUTPUT for p in tests
            )
            numbers = None if not is_known else []
        else:
            numbers = unknown.get(name, [])
        self.slots_of[name], self.answers[name] = [], []
        for number, pair in enumerate(tests):
            if not isinstance(pair, dict) or "input" not in pair:
                raise UserError(f"{where}, test pair {number}: lacks the key 'input'")
            question = parse_grid(pair["input"], f"{where}, test pair {number}, input")
            answer = parse_grid(pair.get("output", UNKNOWN_OUTPUT), f"{where}, test pair {number}, output")
            slot = self.slots.setdefault((name, grid_digest(question)), len(self.slots))
            if slot == len(self.questions):
                self.questions.append(question)
            is_known = numbers is not None and number not in numbers and "output" in pair
            self.slots_of[name].append(slot)
            self.answers[name].append(grid_digest(answer) if is_known else None)
