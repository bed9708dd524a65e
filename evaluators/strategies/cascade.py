"""The cascade (`strategy=ladder`): a puzzle enters the next, costlier stage only if no earlier stage has solved it.

Stages (the key `rungs`), usually from cheap to costly: `steps` runs the trained number of supervision steps;
`more_steps` continues the same rollout until a row says stop; `symmetry` runs symmetric copies in lockstep, and the
first to say stop decides (arXiv 2601.19085); `noise` runs chains with noise on the scratch latents (arXiv 2605.19943).
`guess` (guesses.py) is a stage of `plans.CascadePlan` only, which runs the cascade with continuous batching.
Shapes: n puzzles, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evaluators.inference import Solver
from evaluators.strategies.accounting import Tally
from evaluators.strategies.base import Answered, Strategy
from evaluators.strategies.samples import (
    NONE,
    PICKS,
    Bundle,
    Candidates,
    DecidingRule,
    PuzzleRows,
    first_to_stop,
    run_chains,
    solve_bundle,
)
from evaluators.strategies.test_time import Voting
from evaluators.strategies.verifier import AcceptedAnswers, Checker

STAGES = ("steps", "more_steps", "symmetry", "noise")


@dataclass(frozen=True)
class StageResult:
    """The outcome of one stage for the n puzzles that entered it."""

    answers: np.ndarray  # (n, S) int16
    q_halt: np.ndarray  # (n,) float32
    solved: np.ndarray  # (n,) bool, according to q_halt or to the checker
    steps: np.ndarray  # (n,) int64, over all chains, in this stage alone


class Cascade(Strategy):
    """Run `stages` in the given order; `votings` maps `symmetry` and `noise` to their strategies.

    A puzzle counts as solved if the halting rule says so. With a `checker`, the checker decides instead, and a run ends
    at the first answer it accepts. With `halt`, rows leave the stage `steps` as soon as they say stop. A puzzle that no
    stage solves keeps the answer with the largest q_halt; an answer picked by majority always replaces the previous
    one, because majority is chosen where q_halt ranks answers poorly.
    """

    main_curve = "rungs"

    def __init__(
        self,
        solver: Solver,
        stages: Sequence[str],
        num_steps: int,
        *,
        more_steps: int,
        votings: dict[str, Voting],
        halt: bool = False,
        checker: Checker | None = None,
        sizes: Sequence[int] = (),
    ):
        self.solver, self.stages = solver, stages
        self.num_steps, self.more_steps, self.votings = num_steps, more_steps, votings
        self.halt, self.checker, self.sizes = halt, checker, sizes
        self.uses_rules = checker is not None

    def solve(self, rows: PuzzleRows, tally: Tally) -> Answered:
        device = rows.inputs.device
        answers = np.zeros((len(rows), rows.inputs.shape[1]), np.int16)
        q_halt = np.full(len(rows), -np.inf, np.float32)
        solved, total_steps = np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
        runner = _StageRunner(self, rows)
        for name in self.stages:
            entering = ~solved
            steps = np.zeros(len(rows), np.int64)
            entered = np.flatnonzero(entering)
            if len(entered):
                result = runner.run(name, entered)
                steps[entered] = result.steps
                by_majority = name in self.votings and self.votings[name].pick == "majority"
                better = result.solved | by_majority | (result.q_halt > q_halt[entered])
                answers[entered[better]] = result.answers[better]
                q_halt[entered[better]] = result.q_halt[better]
                solved[entered] = result.solved
            total_steps += steps
            tally.record_stage(name, entering, entering & solved, answers, steps)
            tally.record("rungs", name, answers, total_steps, solved)
        return Answered(
            torch.from_numpy(answers).to(device, torch.int64),
            torch.from_numpy(q_halt).to(device),
            torch.from_numpy(total_steps).to(device),
        )


class _StageRunner:
    """Runs the stages of one batch; `steps` and `more_steps` share a rollout."""

    def __init__(self, cascade: Cascade, rows: PuzzleRows):
        self._cascade, self._rows = cascade, rows
        self._bundle = Bundle.repeated(rows)
        self._rollout = None

    def run(self, name: str, entered: np.ndarray) -> StageResult:
        """Run one stage on the puzzles with the indices `entered` (n,) in the batch."""
        if name in self._cascade.votings:
            return self._vote(self._cascade.votings[name], self._rows.take(entered))
        before = self._rollout.num_steps if self._rollout else 0
        if self._rollout is None:
            self._rollout = self._cascade.solver.start(
                self._bundle.inputs, self._bundle.identifiers, self._cascade.sizes
            )
        if name == "steps":
            last, decide = self._cascade.num_steps, first_to_stop if self._cascade.halt else None
        else:
            last, decide = self._cascade.more_steps, first_to_stop
            unsolved = np.flatnonzero(np.isin(self._rollout.row_indices.cpu().numpy(), entered))
            self._rollout.keep(torch.from_numpy(unsolved).to(self._bundle.inputs.device))
        done = run_chains(
            self._rollout, self._bundle, last, self._deciding_rule(decide, self._rows, self._bundle)
        )
        chains = np.zeros(len(self._rows), np.int64)
        result = self._result(done, chains, done.steps - before)
        return StageResult(*(getattr(result, field)[entered] for field in StageResult.__dataclass_fields__))

    def _vote(self, voting: Voting, rows: PuzzleRows) -> StageResult:
        parts = []
        for chunk, _ in rows.chunks(voting.num_chains, voting.capacity):
            bundle = voting.bundle(chunk)
            decide = self._deciding_rule(
                first_to_stop if voting.pick == "first_stop" else None, chunk, bundle
            )
            parts.append(solve_bundle(voting.solver, bundle, voting.num_steps, decide, voting.sizes))
        done = Candidates.joined(parts)
        chains = np.where(done.decider != NONE, done.decider, PICKS[voting.pick](done))
        return self._result(done, chains, done.steps * voting.num_chains)

    def _result(self, done: Candidates, chains: np.ndarray, steps: np.ndarray) -> StageResult:
        rows = np.arange(len(chains))
        solved = done.says_stop[rows, chains] if self._cascade.checker is None else done.decider != NONE
        return StageResult(done.answers[rows, chains], done.q_halt[rows, chains], solved, steps)

    def _deciding_rule(
        self, by_halting: DecidingRule | None, rows: PuzzleRows, bundle: Bundle
    ) -> DecidingRule | None:
        """Return the rule that ends a run: the checker's if there is one, else `by_halting`."""
        if self._cascade.checker is None:
            return by_halting
        accepted = AcceptedAnswers(self._cascade.checker, rows, bundle)
        return lambda number, output, answers, puzzles: accepted.check(answers.cpu().numpy(), number, puzzles)
