"""Plans, which choose the chains of one puzzle until its answer is known, for strategies with continuous batching.

A plan returns the chains to run first and, as these end one by one, the chains to run next. It ends as soon as no
further chain could change its answer; chains that are still running then leave. Shapes: C chains of a puzzle, S
`seq_len`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

PLAIN = "plain"  # chains that start from the puzzle itself, without noise


@dataclass(frozen=True)
class Ended:
    """A chain that settled or reached its last step."""

    chain: int
    answer: np.ndarray  # (S,) int16, mapped back to the puzzle
    q_halt: float
    says_stop: bool  # by the architecture's halting rule
    settled: bool  # by the stop rule


@dataclass(frozen=True)
class Next:
    """The next chains of a puzzle; none by default, while its other chains are running."""

    chains: Sequence[int] = ()
    kind: str = PLAIN  # the voting that makes the chains
    limit: int = 0  # their number of steps
    together: bool = False  # they must start in the same step
    goes_on: bool = False  # instead, the only chain, which has ended, continues to step `limit`


@dataclass(frozen=True)
class StageOutcome:
    """The outcome of one stage of a cascade for a puzzle."""

    name: str
    answer: np.ndarray  # (S,) int16, the best so far
    solved: bool
    steps: int  # over all chains, in this stage alone


@dataclass(frozen=True)
class Outcome:
    """The answer to a puzzle."""

    answer: np.ndarray  # (S,) int16
    q_halt: float  # of the answer
    settled: bool  # by the stop rule; in a cascade, because a stage has solved the puzzle
    stages: list[StageOutcome] = field(default_factory=list)


class Plan:
    """Base class of plans; each puzzle has its own object."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.chosen: Ended | None = None  # the chain of the final answer

    def start(self) -> Next:
        """Return the first chains."""
        raise NotImplementedError(f"{type(self).__name__} must define start")

    def ended(self, ended: Sequence[Ended], spent: int) -> Next:
        """Handle the chains that ended in a step, in ascending order; set `outcome` or return what to run next.

        `spent` is the number of steps of all chains of the puzzle so far.
        """
        raise NotImplementedError(f"{type(self).__name__} must define ended")

    def finish(self, chosen: Ended) -> Next:
        """End with the answer of a chain."""
        self.chosen = chosen
        self.outcome = Outcome(chosen.answer, chosen.q_halt, chosen.settled)
        return Next()


class OneChain(Plan):
    """A single chain, which ends when it settles."""

    def __init__(self, num_steps: int):
        super().__init__()
        self.num_steps = num_steps

    def start(self) -> Next:
        return Next([0], limit=self.num_steps)

    def ended(self, ended: Sequence[Ended], spent: int) -> Next:
        return self.finish(ended[0])


class MajorityPlan(Plan):
    """Choose the most common whole-grid answer of C chains, ties broken by q_halt, with as few chains as possible.

    More than half of the chains start, the others only if those disagree. The answer is that of all C chains: a plan
    ends early only if the chains that have not ended could not even tie with the leader.
    """

    def __init__(self, kind: str, num_chains: int, num_steps: int):
        super().__init__()
        self.kind, self.num_chains, self.num_steps = kind, num_chains, num_steps
        self._votes: dict[bytes, list[Ended]] = {}
        self._begun = self._counted = 0

    def start(self) -> Next:
        return self._begin(self.num_chains // 2 + 1)

    def ended(self, ended: Sequence[Ended], spent: int) -> Next:
        for one in ended:
            self._votes.setdefault(one.answer.tobytes(), []).append(one)
            self._counted += 1
        counts = sorted((len(votes) for votes in self._votes.values()), reverse=True)
        leader, second = counts[0], counts[1] if len(counts) > 1 else 0
        left = self.num_chains - self._counted
        if leader > second + left or not left:
            most = max(self._votes.values(), key=lambda votes: (len(votes), max(v.q_halt for v in votes)))
            surest = max(sorted(most, key=lambda vote: vote.chain), key=lambda vote: vote.q_halt)
            return self.finish(surest)
        if self._begun > self._counted:  # others are still running
            return Next()
        # As many as decide the vote if all agree with the leader.
        return self._begin(max(1, -(-(second + left - leader + 1) // 2)))

    def _begin(self, count: int) -> Next:
        first = self._begun
        self._begun = min(self.num_chains, first + count)
        return Next(range(first, self._begun), self.kind, self.num_steps)


class SurestPlan(Plan):
    """Choose the answer of the chain with the largest q_halt; each chain ends when it settles."""

    def __init__(self, kind: str, num_chains: int, num_steps: int):
        super().__init__()
        self.kind, self.num_chains, self.num_steps = kind, num_chains, num_steps
        self._ended: list[Ended] = []

    def start(self) -> Next:
        return Next(range(self.num_chains), self.kind, self.num_steps)

    def ended(self, ended: Sequence[Ended], spent: int) -> Next:
        self._ended += ended
        if len(self._ended) < self.num_chains:
            return Next()
        return self.finish(max(sorted(self._ended, key=lambda one: one.chain), key=lambda one: one.q_halt))


class FirstStopPlan(Plan):
    """Run chains in lockstep until one settles; if several do, the largest q_halt wins (arXiv 2601.19085).

    If none does, a chain that says stop at its last step counts as settled; without one, the first chain is chosen.
    """

    def __init__(self, kind: str, num_chains: int, num_steps: int):
        super().__init__()
        self.kind, self.num_chains, self.num_steps = kind, num_chains, num_steps

    def start(self) -> Next:
        return Next(range(self.num_chains), self.kind, self.num_steps, together=True)

    def ended(self, ended: Sequence[Ended], spent: int) -> Next:
        settled = [one for one in ended if one.settled] or [one for one in ended if one.says_stop]
        return self.finish(max(settled, key=lambda one: one.q_halt) if settled else ended[0])


VOTES = {"majority": MajorityPlan, "q_halt": SurestPlan, "first_stop": FirstStopPlan}


@dataclass(frozen=True)
class StageSpec:
    """One stage of a cascade: more steps of the single chain, or a vote."""

    name: str
    limit: int  # number of steps of its chains
    pick: str | None = None  # of a vote
    num_chains: int = 1


class CascadePlan(Plan):
    """The stages of `evaluators.strategies.cascade.Cascade`, each chain ending when it settles.

    A stage has solved a puzzle if the halting rule says stop at its answer or, if `by_settling`, if the chain of its
    answer has settled.
    """

    def __init__(self, stages: Sequence[StageSpec], by_settling: bool):
        super().__init__()
        self._specs, self._by_settling = list(stages), by_settling
        self._outcomes: list[StageOutcome] = []
        self._best: Ended | None = None
        self._vote: Plan | None = None

    @property
    def _spec(self) -> StageSpec:
        return self._specs[len(self._outcomes)]

    def start(self) -> Next:
        return self._enter()

    def ended(self, ended: Sequence[Ended], spent: int) -> Next:
        answered = ended[0]
        if self._vote is not None:
            following = self._vote.ended(ended, spent)
            if self._vote.outcome is None:
                return following
            answered = self._vote.chosen
        solved = answered.settled if self._by_settling else answered.says_stop
        replaces = self._best is None or solved or self._spec.pick == "majority"
        if self._best is None or replaces or answered.q_halt > self._best.q_halt:
            self._best = answered
        before = sum(stage.steps for stage in self._outcomes)
        self._outcomes.append(StageOutcome(self._spec.name, self._best.answer, solved, spent - before))
        if solved or len(self._outcomes) == len(self._specs):
            self.outcome = Outcome(self._best.answer, self._best.q_halt, solved, self._outcomes)
            return Next()
        return self._enter()

    def _enter(self) -> Next:
        spec = self._spec
        if spec.pick is None:
            self._vote = None
            goes_on = bool(self._outcomes)  # `more_steps` comes right after `steps`
            return Next([0], limit=spec.limit, goes_on=goes_on)
        self._vote = VOTES[spec.pick](spec.name, spec.num_chains, spec.limit)
        return self._vote.start()
