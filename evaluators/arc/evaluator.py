"""ARC's score: answers to all augmented copies of a test input are mapped back and vote for its answer.

As published: each prediction is cropped to the largest top-left rectangle of colours and its augmentation is undone;
the candidates of a test input are ranked by (votes, mean sigmoid(q_halt)); a task scores the share of its test inputs
whose answer is among the first K. Only hashes, votes and submitted grids are sent between ranks.

Legend: B rows of a batch, S cells of a sequence (`dataset.families.arc.grids`), slot: one test input of one task.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dataset.augment import inverse_dihedral
from dataset.families.arc.grids import (
    GRID_SIZE,
    Augmentation,
    crop_sizes,
    frame_side,
    grid_digest,
    split_name,
)
from dataset.families.arc.tasks import NO_GRID, identifier_names
from dataset.format import BLANK_IDENTIFIER, Metadata
from evaluators.arc.evaluated_tasks import TestTasks
from evaluators.arc.votes import CANDIDATES_FILE, CandidateVotes, Predictions, files_up_to
from evaluators.base import Evaluator
from utils.errors import UserError
from utils.files import make_folder, write_atomically

_NO_GRID = grid_digest(NO_GRID)  # a prediction without a colour in the top-left cell


class ARC(Evaluator):
    """`ARC/pass@K` of this evaluation and `submission.json`; with `aggregated_voting` also `ARC/pooled_pass@K`.

    The pooled score counts the votes of all evaluations of the run so far, read from the files that each writes to
    the checkpoint folder. Test inputs without a known answer are submitted but not scored; if no answer is known, there
    is no score. Raises `UserError` for invalid options and for data other than ARC's.
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

    def metric_names(self) -> set[str]:
        prefixes = ["ARC/pass", "ARC/pooled_pass"] if self.aggregated_voting else ["ARC/pass"]
        return {f"{prefix}@{size}" for prefix in prefixes for size in self.pass_sizes}

    def remark(self) -> str | None:
        unknown, count = self.tasks.num_unknown, self.tasks.num_inputs
        whose = "answers" if unknown == count else f"{unknown:,} of {count:,} answers"
        if self._submission_path is None:
            if not unknown:
                return None
            return f"{whose} unknown: these test inputs are not scored, each evaluation writes a submission"
        where = f"{self._submission_path} with {len(self.tasks.slots_of):,} tasks, {count:,} inputs"
        return (
            f"{whose} unknown, submission written to {where}" if unknown else f"submission written to {where}"
        )

    def begin(self) -> None:
        """Reset, before an evaluation."""
        self._predictions = Predictions()
        self._submission_path: Path | None = None

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        """Crop, map back and hash the predictions of a batch, except rows with the blank identifier (not ARC)."""
        identifiers = outputs["puzzle_identifiers"].numpy()
        rows = np.flatnonzero(identifiers != self.metadata.blank_identifier_id)
        if not len(rows):
            return
        identifiers = identifiers[rows]
        inputs, answers = (_Cropped(outputs[key].numpy()[rows]) for key in ("inputs", "preds"))
        confidences = outputs["q_halt_logits"].double().sigmoid().numpy()[rows]
        indices = example_indices.numpy()[rows]
        columns = zip(identifiers.tolist(), indices.tolist(), confidences.tolist(), strict=True)
        for row, (identifier, index, confidence) in enumerate(columns):
            task, augmentation = split_name(self._name(identifier))
            table = augmentation.inverse_table()
            slot = self.tasks.slots.get((task, grid_digest(inputs.grid(row, augmentation, table))))
            if slot is None:  # a test split may hold more than test_puzzles.json lists
                continue
            answer = answers.grid(row, augmentation, table)
            self._predictions.add(set_name, index, slot, answer, confidence)

    def result(self, gather: Callable[[Any], list[Any]], save_dir: Path | None) -> dict[str, float]:
        """Return the scores on rank 0, which also writes submission.json and the candidates to `save_dir`."""
        identity = secrets.token_hex(8)  # identifies this rank among the gathered objects
        gathered = gather((identity, self._predictions.votes()))
        is_first = gathered[0][0] == identity
        if is_first:
            candidates = CandidateVotes.count([votes for _, votes in gathered])
            ranked = candidates.ranked(len(self.tasks))
            best = [[d for d in digests if d != _NO_GRID][: self.submission_size] for digests in ranked]
            submitted = {digest for digests in best for digest in digests}
        submitted = gather(submitted if is_first else None)[0]
        parts = gather({d: g for d, g in self._predictions.grids.items() if d in submitted})
        if not is_first:
            return {}

        values = self._pass_rates("ARC/pass", ranked)
        if save_dir is not None:
            save_dir = Path(save_dir)
            make_folder(save_dir)
            grids = {digest: grid for part in parts for digest, grid in part.items()}
            self._submission_path = save_dir / "submission.json"
            write_atomically(self._submission_path, json.dumps(self._submission(best, grids)).encode())
            candidates.save(save_dir / CANDIDATES_FILE, self.tasks.fingerprint)
        if self.aggregated_voting:
            if save_dir is None:
                raise UserError(
                    "evaluator arc@ARC: aggregated_voting=True pools the evaluations saved in the checkpoint folder, "
                    "but this evaluation writes no files"
                )
            pool = CandidateVotes.pooled(files_up_to(save_dir), self.tasks.fingerprint)
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
            pairs = zip(self.tasks.slots_of[name], self.tasks.answers[name], strict=True)
            known = [(slot, answer) for slot, answer in pairs if answer is not None]
            for column, size in enumerate(self.pass_sizes):
                solved = sum(answer in ranked[slot][:size] for slot, answer in known)
                shares[column] += solved / len(known)
        rates = shares / len(self.tasks.scored)
        return {f"{prefix}@{size}": float(rate) for size, rate in zip(self.pass_sizes, rates, strict=True)}

    def _submission(self, best: list[list[bytes]], grids: dict[bytes, np.ndarray]) -> dict[str, list[dict]]:
        """Build the attempts for every test input: `best` candidates (digests by slot), filled up with fallbacks."""
        submission = {}
        for name, slots in self.tasks.slots_of.items():
            submission[name] = []
            for slot in slots:
                attempts = [grids[digest] for digest in best[slot]]
                for fallback in _fallbacks(self.tasks.questions[slot]):
                    if len(attempts) == self.submission_size:
                        break
                    if all(fallback.shape != attempt.shape for attempt in attempts):
                        attempts.append(fallback)
                named = {f"attempt_{n + 1}": attempt.tolist() for n, attempt in enumerate(attempts)}
                submission[name].append(named)
        return submission


def _fallbacks(question: np.ndarray) -> Iterator[np.ndarray]:
    """Yield grids of distinct shapes to attempt when there are too few candidates; a repeated attempt could not score.

    The test input comes first, because in many tasks the answer shares its shape and most cells; then blank grids.
    """
    yield question
    for height in range(1, GRID_SIZE + 1):
        for width in range(1, GRID_SIZE + 1):
            yield np.zeros((height, width), np.uint8)


class _Cropped:
    """The top-left grids of a batch of sequences (B, S)."""

    def __init__(self, sequences: np.ndarray):
        self._sizes = crop_sizes(sequences)
        side = frame_side(sequences.shape[-1])
        self._frames = sequences.astype(np.uint8).reshape(-1, side, side)

    def grid(self, row: int, augmentation: Augmentation, table: bytes) -> np.ndarray:
        """Return the grid of a row with its augmentation undone; `table` is `augmentation.inverse_table()`."""
        height, width = self._sizes[row]
        cells = self._frames[row, :height, :width].tobytes().translate(table)
        grid = np.frombuffer(cells, np.uint8).reshape(height, width)
        return inverse_dihedral(grid, augmentation.transform)
