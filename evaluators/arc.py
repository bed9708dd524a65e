"""ARC's score: answers to all augmented copies of a test input are mapped back and vote for the answer.

As published: of each prediction the largest top-left rectangle of colours is taken and the augmentation undone;
the candidates of a test input are ranked by (votes, mean sigmoid(q_halt)); a task counts by the share of its test
inputs whose answer is among the first K. Only hashes, votes and the grids that are submitted leave a rank.

Legend: B rows of a batch, S 900 cells of a sequence (`dataset.arc`), slot: one test input of one task.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dataset.arc import GRID_SIZE, Augmentation, crop_sizes, grid_digest, parse_grid, split_name
from dataset.arc_tasks import UNKNOWN_OUTPUT
from dataset.augment import inverse_dihedral
from dataset.format import BLANK_IDENTIFIER, Metadata, read_identifiers, read_metadata
from evaluators.base import Evaluator
from utils.errors import UserError

PLACEHOLDER = (
    UNKNOWN_OUTPUT  # attempted where there is no usable prediction: a submission must have some grid
)
CANDIDATES_FILE = "candidates.npz"
_DIGEST_BYTES = 32


class ARC(Evaluator):
    """`ARC/pass@K` of this evaluation and `submission.json`; with `aggregated_voting` also `ARC/pooled_pass@K`.

    The pooled score lets all evaluations of the run up to this one vote together, read from the files that each leaves
    below the checkpoint folder. Tasks without known answers are submitted but not scored; without any task to score
    there is no score. Raises `UserError` for impossible options and data that are not ARC's.
    """

    required_outputs: ClassVar[frozenset[str]] = frozenset(
        {"inputs", "puzzle_identifiers", "preds", "q_halt_logits"}
    )

    def __init__(
        self,
        data_paths: list[str],
        metadata: Metadata,
        *,
        submission_K: int = 2,
        pass_Ks: Sequence[int] = (1, 2, 5, 10, 100, 1000),
        aggregated_voting: bool = False,
    ):
        super().__init__(data_paths, metadata)
        for name, counts in (("submission_K", [submission_K]), ("pass_Ks", list(pass_Ks))):
            if not counts or not all(type(count) is int and count >= 1 for count in counts):
                raise UserError(f"evaluator arc@ARC: {name} is {counts}, but must be whole numbers from 1 up")
        self.submission_size, self.pass_sizes = submission_K, tuple(pass_Ks)
        self.aggregated_voting = aggregated_voting
        self.tasks = TestTasks.load(data_paths)
        self._identifier_names = identifier_names(data_paths)
        self.begin()

    def begin(self) -> None:
        """Forget the evaluation before."""
        self._predictions = _Predictions()

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        """Crop, map back and hash the predictions of a batch; rows with the blank identifier are not ARC's."""
        identifiers = outputs["puzzle_identifiers"].numpy()
        rows = np.flatnonzero(identifiers != self.metadata.blank_identifier_id)
        if not len(rows):
            return
        identifiers = identifiers[rows]
        inputs, answers = (_Cropped(outputs[key].numpy()[rows]) for key in ("inputs", "preds"))
        confidences = outputs["q_halt_logits"].double().sigmoid().numpy()[rows]
        places = example_indices.numpy()[rows]
        columns = zip(identifiers.tolist(), places.tolist(), confidences.tolist(), strict=True)
        for row, (identifier, place, confidence) in enumerate(columns):
            task, augmentation = split_name(self._name(identifier))
            table = augmentation.inverse_table()
            slot = self.tasks.slots.get((task, grid_digest(inputs.grid(row, augmentation, table))))
            if slot is None:  # a test split may hold more than test_puzzles.json asks for
                continue
            answer = answers.grid(row, augmentation, table)
            self._predictions.add(set_name, place, slot, answer, confidence)

    def result(self, gather: Callable[[Any], list[Any]], save_dir: Path | None) -> dict[str, float]:
        """The scores, on rank 0; there submission.json and this evaluation's candidates go below `save_dir`."""
        identity = secrets.token_hex(8)  # tells a rank which of the gathered objects is its own
        gathered = gather((identity, self._predictions.votes()))
        is_first = gathered[0][0] == identity
        if is_first:
            candidates = Candidates.count([votes for _, votes in gathered])
            ranked = candidates.ranked(len(self.tasks))
            submitted = {digest for digests in ranked for digest in digests[: self.submission_size]}
        submitted = gather(submitted if is_first else None)[0]
        parts = gather({d: g for d, g in self._predictions.grids.items() if d in submitted})
        if not is_first:
            return {}

        values = self._pass_rates("ARC/pass", ranked)
        if save_dir is not None:
            save_dir = Path(save_dir)
            save_dir.mkdir(parents=True, exist_ok=True)
            grids = {digest: grid for part in parts for digest, grid in part.items()}
            _write(save_dir / "submission.json", json.dumps(self._submission(ranked, grids)).encode())
            candidates.save(save_dir / CANDIDATES_FILE, self.tasks.fingerprint)
        if self.aggregated_voting:
            if save_dir is None:
                raise UserError(
                    "evaluator arc@ARC: aggregated_voting=True pools the evaluations saved in the checkpoint folder, "
                    "but this evaluation writes no files"
                )
            pool = Candidates.pooled(files_up_to(save_dir), self.tasks.fingerprint)
            values |= self._pass_rates("ARC/pooled_pass", pool.ranked(len(self.tasks)))
        return values

    def _name(self, identifier: int) -> str:
        if 0 <= identifier < len(self._identifier_names):
            name = self._identifier_names[identifier]
            if name != BLANK_IDENTIFIER:
                return name
        raise UserError(
            f"puzzle identifier {identifier} of the test split is not among the identifiers in "
            f"{' or '.join(map(str, self.data_paths))}"
        )

    def _pass_rates(self, prefix: str, ranked: list[list[bytes]]) -> dict[str, float]:
        if not self.tasks.scored:
            return {}
        shares = np.zeros(len(self.pass_sizes))
        for name in self.tasks.scored:
            slots = self.tasks.slots_of[name]
            answers = self.tasks.answers[name]
            for column, size in enumerate(self.pass_sizes):
                solved = sum(
                    answer in ranked[slot][:size] for slot, answer in zip(slots, answers, strict=True)
                )
                shares[column] += solved / len(slots)
        rates = shares / len(self.tasks.scored)
        return {f"{prefix}@{size}": float(rate) for size, rate in zip(self.pass_sizes, rates, strict=True)}

    def _submission(self, ranked: list[list[bytes]], grids: dict[bytes, np.ndarray]) -> dict[str, list[dict]]:
        """Attempts for every test input: the best candidates, the first again where there are too few."""
        submission = {}
        for name, slots in self.tasks.slots_of.items():
            submission[name] = []
            for slot in slots:
                attempts = [
                    grids[digest].tolist() or PLACEHOLDER for digest in ranked[slot][: self.submission_size]
                ]
                attempts += [attempts[0] if attempts else PLACEHOLDER] * (
                    self.submission_size - len(attempts)
                )
                submission[name].append({f"attempt_{n + 1}": attempt for n, attempt in enumerate(attempts)})
        return submission


class _Cropped:
    """The grids at the top left of a batch of sequences (B, S)."""

    def __init__(self, sequences: np.ndarray):
        self._sizes = crop_sizes(sequences)
        self._frames = sequences.astype(np.uint8).reshape(-1, GRID_SIZE, GRID_SIZE)

    def grid(self, row: int, augmentation: Augmentation, table: bytes) -> np.ndarray:
        """The grid of a row before its augmentation; `table` is the augmentation's `inverse_table`."""
        height, width = self._sizes[row]
        cells = self._frames[row, :height, :width].tobytes().translate(table)
        grid = np.frombuffer(cells, np.uint8).reshape(height, width)
        return inverse_dihedral(grid, augmentation.transform)


@dataclass(frozen=True)
class _Votes:
    """One rank's predictions, compact: (N,) arrays, with `candidates` rows of `digests` (distinct grids, 32) uint8."""

    sets: list[str]
    set_numbers: np.ndarray
    places: np.ndarray
    slots: np.ndarray
    confidences: np.ndarray
    candidates: np.ndarray
    digests: np.ndarray


class _Predictions:
    """What one rank has seen: which grid was predicted for which slot, and every different grid once."""

    def __init__(self):
        self.grids: dict[bytes, np.ndarray] = {}
        self._numbers: dict[bytes, int] = {}  # of the grids
        self._sets: dict[str, int] = {}
        self._votes: list[tuple[int, int, int, int]] = []
        self._confidences: list[float] = []

    def add(self, set_name: str, place: int, slot: int, grid: np.ndarray, confidence: float) -> None:
        """One prediction; its set and place there decide between candidates that are otherwise equal."""
        digest = grid_digest(grid)
        if digest not in self.grids:
            self.grids[digest] = grid.copy()  # a view would keep the whole batch alive
            self._numbers[digest] = len(self._numbers)
        set_number = self._sets.setdefault(set_name, len(self._sets))
        self._votes.append((set_number, place, slot, self._numbers[digest]))
        self._confidences.append(confidence)

    def votes(self) -> _Votes:
        """Everything but the grids."""
        set_numbers, places, slots, candidates = np.array(self._votes, np.int64).reshape(-1, 4).T
        digests = np.frombuffer(b"".join(self.grids), np.uint8).reshape(-1, _DIGEST_BYTES)
        confidences = np.array(self._confidences, np.float64)
        return _Votes(list(self._sets), set_numbers, places, slots, confidences, candidates, digests)


class Candidates:
    """Votes and summed confidences of the candidates of every slot, in order of their first votes."""

    def __init__(self):
        self._tallies: dict[tuple[int, bytes], list] = {}

    @classmethod
    def count(cls, votes_of_ranks: Sequence[_Votes]) -> Candidates:
        """Tally all ranks' votes in the order of the test stream, so that the number of ranks changes nothing."""
        ordered = []
        for votes in votes_of_ranks:
            digests = [digest.tobytes() for digest in votes.digests]
            columns = (votes.set_numbers, votes.places, votes.slots, votes.candidates, votes.confidences)
            for number, place, slot, candidate, confidence in zip(
                *(c.tolist() for c in columns), strict=True
            ):
                ordered.append((votes.sets[number], place, slot, digests[candidate], confidence))
        ordered.sort()
        tallied = cls()
        for _, _, slot, digest, confidence in ordered:
            tallied._add(slot, digest, 1, confidence)
        return tallied

    @classmethod
    def pooled(cls, paths: Iterable[Path], fingerprint: str) -> Candidates:
        """The sum of saved tallies; raises `UserError` for a file that is broken or about other test tasks."""
        pool = cls()
        for path in paths:
            try:
                with np.load(path, allow_pickle=False) as file:
                    saved = str(file["fingerprint"][()])
                    columns = [file[key] for key in ("slots", "digests", "votes", "confidences")]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise UserError(
                    f"{path}: is not readable ({error}); remove the folder to pool without it"
                ) from None
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
        """Each slot's candidates, best first: by votes, then mean confidence, then the earlier first vote."""
        of_slots = [[] for _ in range(num_slots)]
        for (slot, digest), (votes, confidence) in self._tallies.items():
            of_slots[slot].append((votes, confidence / votes, digest))
        # sorted is stable, also in reverse
        return [
            [digest for *_, digest in sorted(rows, key=lambda row: row[:2], reverse=True)]
            for rows in of_slots
        ]

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the tallies for `pooled`."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            fingerprint=np.array(fingerprint),
            slots=np.array([slot for slot, _ in self._tallies], np.int32),
            digests=np.frombuffer(b"".join(d for _, d in self._tallies), np.uint8).reshape(-1, _DIGEST_BYTES),
            votes=np.array([votes for votes, _ in self._tallies.values()], np.int64),
            confidences=np.array([confidence for _, confidence in self._tallies.values()], np.float64),
        )
        _write(path, content.getvalue())

    def _add(self, slot: int, digest: bytes, votes: int, confidence: float) -> None:
        tally = self._tallies.setdefault((slot, digest), [0, 0.0])
        tally[0] += votes
        tally[1] += confidence


@dataclass
class TestTasks:
    """The test tasks of all ARC datasets in a run.

    slots: (task, digest of a test input) to its number; slots_of, answers: of each task its test inputs' slots and the
    digests of their answers; scored: tasks whose answers are known.
    """

    __test__ = False  # the name is not a test's

    slots: dict[tuple[str, bytes], int] = field(default_factory=dict)
    slots_of: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[bytes]] = field(default_factory=dict)
    scored: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, data_paths: Sequence[str]) -> TestTasks:
        """The tasks in every `test_puzzles.json`; raises `UserError` when there is none or one is malformed."""
        tasks, sources = cls(), {}
        for data_path in _arc_paths(data_paths):
            path = data_path / "test_puzzles.json"
            try:
                puzzles = json.loads(path.read_text(encoding="utf-8"))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: is not valid JSON ({error})") from None
            if not isinstance(puzzles, dict):
                raise UserError(f"{path}: must hold an object of tasks by name")
            unsolved = read_metadata(data_path / "test").extra.get("unsolved_tasks")
            for name, puzzle in puzzles.items():
                if name in sources:
                    if sources[name][1] != puzzle:
                        raise UserError(f"{path}: task {name} differs from the one in {sources[name][0]}")
                    continue
                sources[name] = path, puzzle
                tasks._add(name, puzzle, path, unsolved)
        return tasks

    @property
    def fingerprint(self) -> str:
        """A hash that differs between different sets of test inputs."""
        text = "".join(f"{name} {digest.hex()} {slot}\n" for (name, digest), slot in self.slots.items())
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.slots)

    def _add(self, name: str, puzzle: object, path: Path, unsolved: list[str] | None) -> None:
        where = f"{path}: task {name}"
        tests = puzzle.get("test") if isinstance(puzzle, dict) else None
        if not isinstance(tests, list) or not tests:
            raise UserError(f"{where}: must hold a list of pairs under test")
        self.slots_of[name], self.answers[name] = [], []
        for number, pair in enumerate(tests):
            if not isinstance(pair, dict) or "input" not in pair:
                raise UserError(f"{where}, test pair {number}: lacks the key 'input'")
            question = parse_grid(pair["input"], f"{where}, test pair {number}, input")
            answer = parse_grid(pair.get("output", UNKNOWN_OUTPUT), f"{where}, test pair {number}, output")
            slot = self.slots.setdefault((name, grid_digest(question)), len(self.slots))
            self.slots_of[name].append(slot)
            self.answers[name].append(grid_digest(answer))
        if unsolved is None:  # built elsewhere: [[0]] throughout stands for answers that are not known
            is_solved = any(pair.get("output", UNKNOWN_OUTPUT) != UNKNOWN_OUTPUT for pair in tests)
        else:
            is_solved = name not in unsolved and all("output" in pair for pair in tests)
        if is_solved:
            self.scored.append(name)


def _arc_paths(data_paths: Sequence[str]) -> list[Path]:
    """The data paths that are ARC datasets, known by `test_puzzles.json`."""
    paths = [Path(path) for path in data_paths if (Path(path) / "test_puzzles.json").is_file()]
    if not paths:
        raise UserError(
            f"evaluator arc@ARC: there is no test_puzzles.json in {' or '.join(map(str, data_paths))}; it suits "
            "datasets of dataset/build_arc_dataset.py, so leave it out of evaluators= for others"
        )
    return paths


def identifier_names(data_paths: Sequence[str]) -> list[str]:
    """The names of all ARC datasets' identifiers; where several datasets are used each has a range of its own."""
    merged: list[str] = []
    for path in _arc_paths(data_paths):
        names = read_identifiers(path)
        merged += [BLANK_IDENTIFIER] * (len(names) - len(merged))
        for identifier, name in enumerate(names):
            if name != BLANK_IDENTIFIER:
                merged[identifier] = name
    return merged


def files_up_to(save_dir: Path) -> list[Path]:
    """The saved candidates of all evaluations up to the one in `save_dir` (`..._step_N`), in order of their steps."""
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


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is there complete or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)
