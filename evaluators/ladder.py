"""The ladder: a puzzle climbs to the next, costlier rung only while nothing says that it is solved.

Rungs, in the order in which they usually cost more: `steps`, the trained number of supervision steps; `more_steps`,
the same rollout going on until a row says stop; `symmetry`, copies in lockstep, of which the first to say stop decides
(arXiv 2601.19085); `noise`, chains with noise on the scratch latents (arXiv 2605.19943).
Shapes: n puzzles, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evaluators.chains import (
    NONE,
    PICKS,
    Bundle,
    Candidates,
    Rows,
    StopRule,
    first_to_stop,
    run_chains,
    solve_bundle,
)
from evaluators.checker import Checker, Found
from evaluators.inference import Solver
from evaluators.tally import Tally
from evaluators.test_time import Answered, Strategy, Voting

RUNGS = ("steps", "more_steps", "symmetry", "noise")


@dataclass(frozen=True)
class Climbed:
    """What a rung made of the puzzles that entered it."""

    answers: np.ndarray  # (n, S) int16
    q_halt: np.ndarray  # (n,) float32
    solved: np.ndarray  # (n,) bool, as far as q_halt or the checker can tell
    steps: np.ndarray  # (n,) int64, over all chains, of this rung alone


class Ladder(Strategy):
    """Climbs `rungs` in the order given; `votings` holds the settings of the rungs `symmetry` and `noise`.

    What tells a solved puzzle is the halting rule, or the `checker` where there is one, which then also ends each run
    at the first answer that it accepts. `halt` lets rows leave the rung `steps` as soon as they say stop. A puzzle that
    no rung solves keeps the answer with the largest q_halt; one that chains reached by majority replaces it all the
    same, since a majority is asked where q_halt ranks poorly.
    """

    def __init__(
        self,
        solver: Solver,
        rungs: Sequence[str],
        num_steps: int,
        *,
        more_steps: int,
        votings: dict[str, Voting],
        halt: bool = False,
        checker: Checker | None = None,
        sizes: Sequence[int] = (),
    ):
        self.solver, self.rungs = solver, rungs
        self.num_steps, self.more_steps, self.votings = num_steps, more_steps, votings
        self.halt, self.checker, self.sizes = halt, checker, sizes

    def solve(self, rows: Rows, tally: Tally) -> Answered:
        device = rows.inputs.device
        answers = np.zeros((len(rows), rows.inputs.shape[1]), np.int16)
        q_halt = np.full(len(rows), -np.inf, np.float32)
        solved, spent = np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
        walk = _Walk(self, rows)
        for name in self.rungs:
            entering = ~solved
            here = np.zeros(len(rows), np.int64)
            who = np.flatnonzero(entering)
            if len(who):
                climbed = walk.climb(name, who)
                here[who] = climbed.steps
                by_majority = name in self.votings and self.votings[name].pick == "majority"
                better = climbed.solved | by_majority | (climbed.q_halt > q_halt[who])
                answers[who[better]], q_halt[who[better]] = climbed.answers[better], climbed.q_halt[better]
                solved[who] = climbed.solved
            spent += here
            tally.rung(name, entering, entering & solved, answers, here)
            tally.point("rungs", name, answers, spent, solved)
        return Answered(
            torch.from_numpy(answers).to(device, torch.int64),
            torch.from_numpy(q_halt).to(device),
            torch.from_numpy(spent).to(device),
        )


class _Walk:
    """One batch on its way up: the rungs `steps` and `more_steps` share a rollout."""

    def __init__(self, ladder: Ladder, rows: Rows):
        self._ladder, self._rows = ladder, rows
        self._bundle = Bundle.repeated(rows)
        self._rollout = None

    def climb(self, name: str, who: np.ndarray) -> Climbed:
        """The puzzles `who`, places in the batch, on one rung."""
        if name in self._ladder.votings:
            return self._vote(self._ladder.votings[name], self._rows.take(who))
        before = self._rollout.num_steps if self._rollout else 0
        if self._rollout is None:
            self._rollout = self._ladder.solver.start(
                self._bundle.inputs, self._bundle.identifiers, self._ladder.sizes
            )
        if name == "steps":
            last, decide = self._ladder.num_steps, first_to_stop if self._ladder.halt else None
        else:
            last, decide = self._ladder.more_steps, first_to_stop
            unsolved = np.flatnonzero(np.isin(self._rollout.places.cpu().numpy(), who))
            self._rollout.keep(torch.from_numpy(unsolved).to(self._bundle.inputs.device))
        done = run_chains(self._rollout, self._bundle, last, self._decide(decide, self._rows, self._bundle))
        chains = np.zeros(len(self._rows), np.int64)
        climbed = self._climbed(done, chains, done.steps - before)
        return Climbed(*(getattr(climbed, field)[who] for field in Climbed.__dataclass_fields__))

    def _vote(self, voting: Voting, rows: Rows) -> Climbed:
        parts = []
        for some, _ in rows.chunks(voting.num_chains, voting.capacity):
            bundle = voting.bundle(some)
            decide = self._decide(first_to_stop if voting.pick == "first_stop" else None, some, bundle)
            parts.append(solve_bundle(voting.solver, bundle, voting.num_steps, decide, voting.sizes))
        done = Candidates.joined(parts)
        chains = np.where(done.decider != NONE, done.decider, PICKS[voting.pick](done))
        return self._climbed(done, chains, done.steps * voting.num_chains)

    def _climbed(self, done: Candidates, chains: np.ndarray, steps: np.ndarray) -> Climbed:
        each = np.arange(len(chains))
        says_stop = done.says_stop[each, chains] if self._ladder.checker is None else done.decider != NONE
        return Climbed(done.answers[each, chains], done.q_halt[each, chains], says_stop, steps)

    def _decide(self, by_halting: StopRule | None, rows: Rows, bundle: Bundle) -> StopRule | None:
        """Who ends a run: the checker where there is one."""
        if self._ladder.checker is None:
            return by_halting
        found = Found(self._ladder.checker, rows, bundle)
        return lambda number, output, answers, puzzles: found.look(answers.cpu().numpy(), number, puzzles)
