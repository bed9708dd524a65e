"""Run several chains of supervision steps per puzzle in lockstep, and pick one of their answers.

Shapes: n puzzles, C chains per puzzle (chain c of puzzle r is row r·C + c of a batch), S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from dataset.families.symmetry import Undo
from evaluators.inference import Output, Rollout, Solver
from evaluators.strategies.latent_noise import LatentNoise

NONE = -1  # no chain


@dataclass(frozen=True)
class PuzzleRows:
    """A batch of test puzzles on the solver's device."""

    inputs: Tensor  # (n, S) int32
    identifiers: Tensor  # (n,) int32
    numbers: np.ndarray  # (n,) int64: indices in the whole test stream; all randomness is derived from them

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: np.ndarray) -> PuzzleRows:
        """Select puzzles by their indices (m,) int64."""
        index = torch.from_numpy(rows).to(self.inputs.device)
        return PuzzleRows(self.inputs[index], self.identifiers[index], self.numbers[rows])

    def chunks(self, num_chains: int, capacity: int) -> Iterator[tuple[PuzzleRows, slice]]:
        """Yield chunks whose chains fit in `capacity` rows, with at least one puzzle per chunk, and their slices."""
        size = max(1, capacity // num_chains)
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield PuzzleRows(self.inputs[part], self.identifiers[part], self.numbers[part]), part


def _unchanged(answers: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    return answers


@dataclass(frozen=True)
class Bundle:
    """The chains of n puzzles before their first step."""

    inputs: Tensor  # (n·C, S) int32
    identifiers: Tensor  # (n·C,) int32
    num_chains: int
    perturb: LatentNoise | None = None
    undo: Undo = _unchanged  # maps (n·C, S) answers, or those of some rows, back to the untransformed puzzles

    @classmethod
    def repeated(cls, rows: PuzzleRows, num_chains: int = 1, perturb: LatentNoise | None = None) -> Bundle:
        """Start every chain from the untransformed puzzle."""
        inputs, identifiers = (
            tensor.repeat_interleave(num_chains, 0) for tensor in (rows.inputs, rows.identifiers)
        )
        return cls(inputs, identifiers, num_chains, perturb)


@dataclass(frozen=True)
class Candidates:
    """The answers of all chains, taken at the deciding step of their puzzle or else at the last step."""

    answers: np.ndarray  # (n, C, S) int16
    q_halt: np.ndarray  # (n, C) float32
    says_stop: np.ndarray  # (n, C) bool
    decider: np.ndarray  # (n,) int64: the chain that ended the run of its puzzle, or NONE
    steps: np.ndarray  # (n,) int64: number of steps each chain of the puzzle ran

    @classmethod
    def joined(cls, parts: Sequence[Candidates], axis: int = 0) -> Candidates:
        """Concatenate along the puzzles or, with `axis` 1, along the chains of the same puzzles."""
        names = [f.name for f in fields(cls)]
        if axis == 0:
            return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        wide = (np.concatenate([getattr(part, name) for part in parts], 1) for name in names[:3])
        return cls(*wide, parts[0].decider, parts[0].steps)

    def first(self, num_chains: int) -> Candidates:
        """Keep the first `num_chains` chains of each puzzle."""
        arrays = (self.answers, self.q_halt, self.says_stop)
        return Candidates(*(array[:, :num_chains] for array in arrays), self.decider, self.steps)


# (step number, its output, (m·C, S) answers, (m,) active puzzles) -> (m,) deciding chain of each puzzle, or NONE
DecidingRule = Callable[[int, Output, Tensor, np.ndarray], np.ndarray]


def run_chains(
    rollout: Rollout, bundle: Bundle, num_steps: int, decide: DecidingRule | None = None
) -> Candidates:
    """Continue a rollout of the bundle until it has done `num_steps` steps in total.

    After each step `decide` selects the puzzles that end there; their chains leave the batch.
    """
    chains = bundle.num_chains
    num_puzzles = len(bundle.inputs) // chains
    answers = np.zeros((num_puzzles * chains, bundle.inputs.shape[1]), np.int16)
    q_halt = np.zeros((num_puzzles, chains), np.float32)
    says_stop = np.zeros((num_puzzles, chains), bool)
    decider = np.full(num_puzzles, NONE)
    steps = np.zeros(num_puzzles, np.int64)
    alive = rollout.row_indices.cpu().numpy()[::chains] // chains
    while rollout.num_steps < num_steps and len(alive):
        output = rollout.step(bundle.perturb)
        last = rollout.num_steps == num_steps
        if decide is None and not last:
            continue
        said = output.logits.argmax(-1)
        chosen = np.full(len(alive), NONE)
        if decide is not None:
            chosen = decide(rollout.num_steps, output, said, alive)
        ends = np.flatnonzero((chosen != NONE) | last)
        if not len(ends):
            continue
        rows = _rows_of(ends, chains)
        on_device = torch.from_numpy(rows).to(said.device)
        answers[_rows_of(alive[ends], chains)] = said[on_device].to(torch.int16).cpu().numpy()
        q_halt[alive[ends]] = output.q_halt.cpu().numpy()[rows].reshape(-1, chains)
        says_stop[alive[ends]] = output.says_stop.cpu().numpy()[rows].reshape(-1, chains)
        decider[alive[ends]], steps[alive[ends]] = chosen[ends], rollout.num_steps
        if not last:
            stays = np.flatnonzero(chosen == NONE)
            alive = alive[stays]
            rollout.keep(torch.from_numpy(_rows_of(stays, chains)).to(said.device))
    undone = bundle.undo(answers).reshape(num_puzzles, chains, -1)
    return Candidates(undone, q_halt, says_stop, decider, steps)


def solve_bundle(
    solver: Solver,
    bundle: Bundle,
    num_steps: int,
    decide: DecidingRule | None = None,
    sizes: Sequence[int] = (),
) -> Candidates:
    """Run a bundle from its first step."""
    return run_chains(solver.start(bundle.inputs, bundle.identifiers, sizes), bundle, num_steps, decide)


def _rows_of(puzzles: np.ndarray, num_chains: int) -> np.ndarray:
    return (puzzles[:, None] * num_chains + np.arange(num_chains)).reshape(-1)


# ---------------------------------------------------------------------------------------- deciding rules


def first_to_stop(number: int, output: Output, answers: Tensor, puzzles: np.ndarray) -> np.ndarray:
    """Deciding rule: a chain that says stop ends the run; of several, the largest q_halt wins (arXiv 2601.19085)."""
    says_stop = output.says_stop.cpu().numpy().reshape(len(puzzles), -1)
    q_halt = output.q_halt.cpu().numpy().reshape(len(puzzles), -1)
    return np.where(says_stop.any(1), np.where(says_stop, q_halt, -np.inf).argmax(1), NONE)


# ---------------------------------------------------------------------------------------- picks


def majority(candidates: Candidates) -> np.ndarray:
    """(n,) index of a chain with the most common whole-grid answer of its puzzle; ties broken by the largest q_halt."""
    winners = np.empty(len(candidates.answers), np.int64)
    for row, (answers, q_halt) in enumerate(zip(candidates.answers, candidates.q_halt, strict=True)):
        votes: dict[bytes, list[int]] = {}
        for chain, answer in enumerate(answers):
            votes.setdefault(answer.tobytes(), []).append(chain)
        most = max(votes.values(), key=lambda chains: (len(chains), max(q_halt[chains])))
        winners[row] = most[int(np.argmax(q_halt[most]))]
    return winners


def largest_q_halt(candidates: Candidates) -> np.ndarray:
    """(n,) index of the chain with the largest q_halt."""
    return candidates.q_halt.argmax(1)


def decider_or_first(candidates: Candidates) -> np.ndarray:
    """(n,) index of the deciding chain, or 0 if there is none (arXiv 2601.19085)."""
    return np.maximum(candidates.decider, 0)


PICKS: dict[str, Callable[[Candidates], np.ndarray]] = {
    "majority": majority,
    "q_halt": largest_q_halt,
    "first_stop": decider_or_first,
}
