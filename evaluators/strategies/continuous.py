"""Run strategies with continuous batching: chains leave when they settle, and new ones take their slots.

One loop runs every strategy: `Slots` runs rows at different steps, and each puzzle's `Plan` chooses its chains.
Batches are streamed, so that no slot waits for the slowest puzzle of a batch; answers keep their order.
Shapes: n puzzles of a batch, C chains of a puzzle, S `seq_len`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from evaluators.inference import Solver
from evaluators.slots import NewRows, Slots, SlotsOutput
from evaluators.stop_rule import StopRule
from evaluators.strategies.accounting import Tally
from evaluators.strategies.base import Answered, Strategy
from evaluators.strategies.guesses import GuessChains
from evaluators.strategies.plans import PLAIN, Ended, Next, Outcome, Plan
from evaluators.strategies.samples import Bundle, PuzzleRows
from evaluators.strategies.test_time import Voting

# Maximum number of puzzles that are active or wait for an older one, in multiples of the capacity: without it, answers
# behind one slow puzzle would pile up in memory.
_MAX_OPEN = 8


@dataclass(eq=False)
class _Puzzle:
    """An active puzzle."""

    batch: _Batch
    index: int  # in its batch
    plan: Plan
    running: dict[int, tuple[str, int]] = field(default_factory=dict)  # row number -> (kind, chain)
    steps: int = 0  # of chains that have left
    probabilities: np.ndarray | None = None  # (S, V) of its last plain chain that ended, for guesses


@dataclass(eq=False)
class _Batch:
    """A batch with puzzles that have not been answered yet."""

    rows: PuzzleRows
    outcomes: list[Outcome | None]
    steps: np.ndarray  # (n,) int64, over all chains
    left: int
    # Chains of the whole batch, by kind, or of one puzzle, by (kind, index).
    bundles: dict[str | tuple[str, int], Bundle] = field(default_factory=dict)


class Continuous(Strategy):
    """Answer puzzles by plans; `make_plan` creates the plan of a puzzle.

    `votings` create the chains of each kind that a plan may request. `for_all`: every puzzle requests them, so they are
    created for a whole batch at once. The tally gets the answers as the only point of `curve` or, if plans have
    `stages`, as a point after each stage.
    """

    def __init__(
        self,
        solver: Solver,
        rule: StopRule | None,
        make_plan: Callable[[], Plan],
        *,
        capacity: int,
        votings: Mapping[str, Voting] | None = None,
        for_all: bool = True,
        sigma: float = 0.0,
        sizes: Sequence[int] = (),
        curve: tuple[str, str] = ("halted", "halted"),
        stages: Sequence[str] = (),
    ):
        self.solver, self.rule, self.make_plan = solver, rule, make_plan
        self.capacity, self.votings, self.for_all = capacity, dict(votings or {}), for_all
        self.sigma, self.sizes, self.curve, self.stages = sigma, sizes, curve, stages
        self.main_curve = "rungs" if stages else curve[0]
        self.guesses = any(isinstance(voting, GuessChains) for voting in self.votings.values())

    def solve(self, rows: PuzzleRows, tally: Tally) -> Answered:
        (answered,) = self.stream([rows], tally)
        answered.record(tally)
        return answered

    def stream(self, batches: Iterable[PuzzleRows], tally: Tally) -> Iterator[Answered]:
        device = self.solver.device
        for outcomes, steps in self.outcomes(batches):
            answers = np.stack([outcome.answer for outcome in outcomes])
            q_halt = np.array([outcome.q_halt for outcome in outcomes], np.float32)
            yield Answered(
                torch.from_numpy(answers).to(device, torch.int64),
                torch.from_numpy(q_halt).to(device),
                torch.from_numpy(steps).to(device),
                record=_Record(self.curve, self.stages, answers, steps, outcomes),
            )

    def outcomes(self, batches: Iterable[PuzzleRows]) -> Iterator[tuple[list[Outcome], np.ndarray]]:
        """Yield the outcomes of each batch in order, and their steps (n,) int64 over all chains.

        Batches are read ahead, and may be empty.
        """
        yield from _Run(self, iter(batches))


class _Run:
    """One pass over a stream of batches."""

    def __init__(self, strategy: Continuous, batches: Iterator[PuzzleRows]):
        self._strategy, self._batches = strategy, batches
        self._slots = Slots(
            strategy.solver,
            strategy.capacity,
            strategy.rule,
            sizes=strategy.sizes,
            sigma=strategy.sigma,
        )
        self._open: deque[_Batch] = deque()
        self._num_open = 0  # number of puzzles of the open batches
        self._waiting: deque[tuple[_Puzzle, Next]] = deque()
        self._num_waiting = 0  # chains of these
        self._owners: dict[int, _Puzzle] = {}
        self._next_owner = 0
        self._exhausted = False

    def __iter__(self) -> Iterator[tuple[list[Outcome], np.ndarray]]:
        while not self._exhausted or self._open:
            self._read_ahead()
            self._fill()
            if self._slots.num_rows:
                output = self._slots.step()
                if output.ended.any():
                    self._end(output)
            while self._open and not self._open[0].left:
                batch = self._open.popleft()
                self._num_open -= self._size(batch)
                yield [outcome for outcome in batch.outcomes if outcome is not None], batch.steps

    def _read_ahead(self) -> None:
        """Read batches until enough chains wait for the free slots."""
        while self._num_waiting < self._slots.free:
            if self._open and self._num_open >= _MAX_OPEN * self._strategy.capacity:
                return
            rows = next(self._batches, None)
            if rows is None:
                self._exhausted = True
                return
            count = len(rows)
            batch = _Batch(rows, [None] * count, np.zeros(count, np.int64), count)
            self._open.append(batch)
            self._num_open += self._size(batch)
            for index in range(count):
                puzzle = _Puzzle(batch, index, self._strategy.make_plan())
                self._wait(puzzle, puzzle.plan.start())

    def _size(self, batch: _Batch) -> int:
        """Return the number of puzzles; an empty batch counts as a full one, so that few are read ahead."""
        return len(batch.outcomes) or self._strategy.capacity

    def _wait(self, puzzle: _Puzzle, following: Next, first: bool = False) -> None:
        if following.chains:
            (self._waiting.appendleft if first else self._waiting.append)((puzzle, following))
            self._num_waiting += len(following.chains)

    def _fill(self) -> None:
        """Start waiting chains in order while there are free slots."""
        room, chosen = self._slots.free, []
        while self._waiting and room > 0:
            puzzle, following = self._waiting[0]
            chains = list(following.chains)
            if len(chains) > room and following.together and (self._slots.num_rows or chosen):
                break
            now = chains if following.together else chains[:room]
            self._waiting.popleft()
            self._num_waiting -= len(chains)
            rest = Next(chains[len(now) :], following.kind, following.limit)
            self._wait(puzzle, rest, first=True)
            chosen += [(puzzle, following, chain) for chain in now]
            room -= len(now)
        if chosen:
            self._begin(chosen)

    def _begin(self, chosen: list[tuple[_Puzzle, Next, int]]) -> None:
        parts: dict[int, tuple[Bundle, list[int], list[tuple[_Puzzle, Next, int]]]] = {}
        for puzzle, following, chain in chosen:
            bundle, offset = self._bundle(puzzle, following.kind)
            _, rows, chains = parts.setdefault(id(bundle), (bundle, [], []))
            rows.append(offset + chain)
            chains.append((puzzle, following, chain))
        for with_noise in (False, True):
            some = [part for part in parts.values() if (part[0].perturb is not None) == with_noise]
            if not some:
                continue
            owners, limits = [], []
            for puzzle, following, chain in (each for _, _, chains in some for each in chains):
                owners.append(self._next_owner)
                limits.append(following.limit)
                puzzle.running[self._next_owner] = following.kind, chain
                self._owners[self._next_owner] = puzzle
                self._next_owner += 1
            index = [torch.tensor(rows, device=bundle.inputs.device) for bundle, rows, _ in some]
            bundles = [bundle for bundle, _, _ in some]
            keys = None
            if with_noise:
                keys = torch.cat([b.perturb.keys[i] for b, i in zip(bundles, index, strict=True)])
            self._slots.add(
                NewRows(
                    torch.cat([b.inputs[i] for b, i in zip(bundles, index, strict=True)]),
                    torch.cat([b.identifiers[i] for b, i in zip(bundles, index, strict=True)]),
                    np.array(owners),
                    np.array(limits),
                    keys,
                )
            )

    def _bundle(self, puzzle: _Puzzle, kind: str) -> tuple[Bundle, int]:
        """Return the chains of a kind, and the index of this puzzle's first chain among them."""
        batch, voting = puzzle.batch, self._strategy.votings.get(kind)
        if voting is None:
            assert kind == PLAIN, kind
            if kind not in batch.bundles:
                batch.bundles[kind] = Bundle.repeated(batch.rows)
            return batch.bundles[kind], puzzle.index
        if self._strategy.for_all:
            if kind not in batch.bundles:
                batch.bundles[kind] = voting.bundle(batch.rows)
            return batch.bundles[kind], puzzle.index * voting.num_chains
        key = kind, puzzle.index
        if key not in batch.bundles:
            rows = batch.rows.take(np.array([puzzle.index]))
            if isinstance(voting, GuessChains):
                assert puzzle.probabilities is not None
                batch.bundles[key] = voting.bundle_after(rows, puzzle.probabilities[None])
            else:
                batch.bundles[key] = voting.bundle(rows)
        return batch.bundles[key], 0

    def _end(self, output: SlotsOutput) -> None:
        """Pass the chains that ended to the plans of their puzzles, and free the slots of those that leave."""
        row_of = {owner: row for row, owner in enumerate(output.owners.tolist())}
        stays, limits = ~output.ended, None
        for puzzle, ended in self._ended_chains(output).items():
            owners = list(puzzle.running)
            now = output.steps[[row_of[owner] for owner in owners]]
            following = puzzle.plan.ended([each for _, each in ended], puzzle.steps + int(now.sum()))
            if puzzle.plan.outcome is not None:
                stays[[row_of[owner] for owner in owners]] = False
                self._leave(puzzle, owners, output, row_of)
                batch = puzzle.batch
                batch.outcomes[puzzle.index], batch.steps[puzzle.index] = puzzle.plan.outcome, puzzle.steps
                batch.left -= 1
                continue
            if following.goes_on:
                ((owner, _),) = ended
                limits = self._slots.limits.copy() if limits is None else limits
                stays[row_of[owner]], limits[row_of[owner]] = True, following.limit
                continue
            self._leave(puzzle, [owner for owner, _ in ended], output, row_of)
            self._wait(puzzle, following, first=True)
        self._slots.keep(stays, limits)

    def _leave(
        self, puzzle: _Puzzle, owners: Sequence[int], output: SlotsOutput, row_of: Mapping[int, int]
    ) -> None:
        for owner in owners:
            puzzle.steps += int(output.steps[row_of[owner]])
            del puzzle.running[owner], self._owners[owner]

    def _ended_chains(self, output: SlotsOutput) -> dict[_Puzzle, list[tuple[int, Ended]]]:
        """Return the chains that ended in this step, by puzzle, with their row numbers."""
        rows = np.flatnonzero(output.ended)
        on_device = torch.from_numpy(rows).to(output.answers.device)
        answers = output.answers[on_device].to(torch.int16).cpu().numpy()
        probabilities = None
        if self._strategy.guesses:
            probabilities = self._strategy.solver.head.probabilities(output.logits[on_device]).cpu().numpy()
        owners = output.owners[rows].tolist()
        # Map the answers of a bundle back to their puzzles at once.
        of_bundle: dict[int, tuple[Bundle, list[int], list[int]]] = defaultdict(lambda: (None, [], []))
        for number, owner in enumerate(owners):
            puzzle = self._owners[owner]
            kind, chain = puzzle.running[owner]
            if probabilities is not None and kind == PLAIN:
                puzzle.probabilities = probabilities[number]
            bundle, offset = self._bundle(puzzle, kind)
            _, numbers, copies = of_bundle[id(bundle)]
            of_bundle[id(bundle)] = bundle, numbers, copies
            numbers.append(number)
            copies.append(offset + chain)
        undone = answers
        for bundle, numbers, copies in of_bundle.values():
            undone[numbers] = bundle.undo(answers[numbers], np.array(copies))
        found: dict[_Puzzle, list[tuple[int, Ended]]] = defaultdict(list)
        for row, owner, answer in zip(rows.tolist(), owners, undone, strict=True):
            puzzle = self._owners[owner]
            _, chain = puzzle.running[owner]
            one = Ended(
                chain,
                answer,
                float(output.q_halt[row]),
                bool(output.says_stop[row]),
                bool(output.settled[row]),
            )
            found[puzzle].append((owner, one))
        for ended in found.values():
            ended.sort(key=lambda pair: pair[1].chain)
        return found


@dataclass(frozen=True)
class _Record:
    """Records the answers of a batch in the tally once its labels are known."""

    curve: tuple[str, str]
    stages: Sequence[str]
    answers: np.ndarray  # (n, S)
    steps: np.ndarray  # (n,)
    outcomes: Sequence[Outcome]

    def __call__(self, tally: Tally) -> None:
        if not self.stages:
            settled = np.array([outcome.settled for outcome in self.outcomes])
            tally.record(*self.curve, self.answers, self.steps, torch.from_numpy(settled))
            return
        total = np.zeros(len(self.outcomes), np.int64)
        for number, name in enumerate(self.stages):
            # A puzzle solved by an earlier stage keeps its answer.
            entering = np.array([len(outcome.stages) > number for outcome in self.outcomes])
            at = [outcome.stages[min(number, len(outcome.stages) - 1)] for outcome in self.outcomes]
            answers, solved = np.stack([one.answer for one in at]), np.array([one.solved for one in at])
            steps = np.where(entering, [one.steps for one in at], 0)
            total += steps
            tally.record_stage(name, entering, entering & solved, answers, steps)
            tally.record("rungs", name, answers, total, torch.from_numpy(solved))
