"""The strategies `plain`, `symmetry`, `noise` and `ensemble`; none of them trains the model further.

Shapes: n puzzles, C chains per puzzle, S `seq_len`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dataset.families.symmetry import Symmetries
from evaluators.inference import Solver
from evaluators.strategies.accounting import ORACLE, Tally
from evaluators.strategies.base import Answered, Strategy, answered
from evaluators.strategies.latent_noise import LatentNoise, chain_keys
from evaluators.strategies.samples import (
    PICKS,
    Bundle,
    Candidates,
    PuzzleRows,
    first_to_stop,
    solve_bundle,
)
from evaluators.strategies.verifier import AcceptedAnswers, Checker


class Plain(Strategy):
    """Run every row for `num_steps` steps, as evaluation during training does; more steps than trained are allowed.

    With `halt`, run a second pass in which rows leave the batch at the first step that says stop (adaptive computation
    time, arXiv 2510.04871) and return its answers; the full pass is the baseline. `halt=False` keeps the answer of the
    last step even if the model's own evaluation freezes a row that says stop (`act_inference`); None leaves that to the
    model. With a `checker`, the tally also records the result of stopping at the first answer that the checker accepts,
    at whatever step, frozen or not.
    """

    main_curve = "steps"

    def __init__(
        self,
        solver: Solver,
        num_steps: int,
        *,
        halt: bool | None = None,
        checker: Checker | None = None,
        sizes: Sequence[int] = (),
    ):
        self.solver, self.num_steps, self.halt, self.sizes = solver, num_steps, halt, sizes
        self.freezes = solver.halts and halt is not False
        self.checker = checker
        if halt:
            self.main_curve = "halted"

    @property
    def outputs(self) -> frozenset[str]:
        return super().outputs | (set() if self.halt else {"logits", "q_continue_logits"})

    def solve(self, rows: PuzzleRows, tally: Tally) -> Answered:
        began = time.perf_counter()
        full = self._full_run(rows, tally)
        if not self.halt:
            return full
        full.q_halt.sum().item()  # synchronise with the device
        tally.seconds["full"] += time.perf_counter() - began

        began = time.perf_counter()
        bundle = Bundle.repeated(rows)
        halted = solve_bundle(self.solver, bundle, self.num_steps, first_to_stop, self.sizes)
        tally.seconds["halted"] += time.perf_counter() - began
        tally.record("halted", "halted", halted.answers[:, 0], halted.steps, halted.says_stop[:, 0])
        return answered(halted, np.zeros(len(rows), np.int64), rows)

    def _full_run(self, rows: PuzzleRows, tally: Tally) -> Answered:
        rollout = self.solver.start(rows.inputs, rows.identifiers, self.sizes)
        accepted = AcceptedAnswers.for_rows(self.checker, rows)
        first_stop = torch.full((len(rows),), self.num_steps, device=rows.inputs.device)
        outputs: dict[str, Tensor] = {}
        for number in range(1, self.num_steps + 1):
            output = rollout.step()
            now = {
                "logits": output.logits,
                "q_halt_logits": output.q_halt,
                "q_continue_logits": output.q_continue,
                "preds": output.logits.argmax(-1),
            }
            latest = now["preds"]
            if self.freezes and outputs:  # evaluation of this model freezes the answer at its halt
                goes_on = first_stop >= number
                now = {
                    name: torch.where(goes_on.view(-1, *[1] * (value.ndim - 1)), value, outputs[name])
                    for name, value in now.items()
                }
            outputs = now
            first_stop = torch.where(output.says_stop, first_stop.clamp(max=number), first_stop)
            tally.record("steps", number, outputs["preds"], number, output.says_stop)
            accepted.check(latest.cpu().numpy() if self.checker else None, number)
        accepted.report(tally, outputs["preds"].cpu().numpy() if self.checker else None, self.num_steps)
        return Answered(outputs["preds"], outputs["q_halt_logits"], first_stop, outputs)


class Voting(Strategy):
    """Run C chains per puzzle and pick one of their answers; subclasses define how the chains differ.

    `pick`: `majority` votes over whole grids, ties broken by q_halt; `q_halt` takes the largest q_halt; `first_stop`
    runs the chains in lockstep until one says stop ("Speed is Confidence", arXiv 2601.19085).
    """

    main_curve = "chains"
    sigma: float = 0.0  # of the noise that chains get

    def __init__(
        self,
        solver: Solver,
        num_steps: int,
        num_chains: int,
        *,
        pick: str,
        seed: int,
        capacity: int,
        checker: Checker | None = None,
        sizes: Sequence[int] = (),
    ):
        self.solver, self.num_steps, self.num_chains = solver, num_steps, num_chains
        self.pick, self.seed, self.capacity = pick, seed, capacity
        self.checker, self.sizes = checker, sizes

    def bundle(self, rows: PuzzleRows) -> Bundle:
        """Return the chains of these puzzles, before their first step."""
        raise NotImplementedError(f"{type(self).__name__} must define bundle")

    def solve(self, rows: PuzzleRows, tally: Tally) -> Answered:
        return self.choose(self.candidates(rows, tally), rows, tally)

    def candidates(self, rows: PuzzleRows, tally: Tally) -> Candidates:
        """Run all chains and return their answers."""
        parts = []
        for some, part in rows.chunks(self.num_chains, self.capacity):
            bundle = self.bundle(some)
            accepted = AcceptedAnswers.for_rows(self.checker, some, bundle)
            decide = accepted.wrap(first_to_stop if self.pick == "first_stop" else None)
            done = solve_bundle(self.solver, bundle, self.num_steps, decide, self.sizes)
            parts.append(done)
            picked = done.answers[np.arange(len(some)), PICKS[self.pick](done)]
            accepted.report(tally, picked, done.steps * self.num_chains, part)
        return Candidates.joined(parts)

    def choose(self, candidates: Candidates, rows: PuzzleRows, tally: Tally) -> Answered:
        """Pick one answer per puzzle, recording in the tally what fewer chains would have given."""
        return choose(candidates, self.pick, rows, tally)


class SymmetryVoting(Voting):
    """Solve symmetric copies of each puzzle, map the answers back, and vote.

    Test-time augmentation as in arXiv 2601.19085 (rotations, digit relabelings) and, similarly, in the ARC scoring of
    arXiv 2506.21734. The first chain is the untransformed puzzle.
    """

    def __init__(self, *arguments, symmetries: Symmetries, **options):
        super().__init__(*arguments, **options)
        self.symmetries = symmetries

    def bundle(self, rows: PuzzleRows) -> Bundle:
        device = rows.inputs.device
        inputs, identifiers = (tensor.cpu().numpy() for tensor in (rows.inputs, rows.identifiers))
        copies = self.symmetries.copies(inputs, identifiers, rows.numbers, self.num_chains, self.seed)
        return Bundle(
            torch.from_numpy(copies.tokens).to(device, torch.int32),
            torch.from_numpy(copies.identifiers).to(device),
            self.num_chains,
            undo=copies.undo,
        )


class NoiseChains(Voting):
    """Chains that differ by noise N(0, sigma² I), added to the scratch latents before every supervision step.

    As in PTRM (arXiv 2605.19943): constant scale, one draw per supervision step and none inside it, no renormalisation.
    The answer latent gets no noise.
    """

    def __init__(self, *arguments, sigma: float, **options):
        super().__init__(*arguments, **options)
        self.sigma = sigma

    def bundle(self, rows: PuzzleRows) -> Bundle:
        keys = chain_keys(self.seed, rows.numbers, self.num_chains).to(rows.inputs.device)
        return Bundle.repeated(rows, self.num_chains, LatentNoise(keys, self.sigma))


class Ensemble(Strategy):
    """Vote over several checkpoints of the same task, one chain each; cf. the late checkpoints of arXiv 2601.10679.

    That paper combines its checkpoints by means of the labels; here only votes and q_halt are used.
    """

    main_curve = "chains"

    def __init__(
        self,
        solvers: Sequence[Solver],
        num_steps: int,
        *,
        pick: str,
        checker: Checker | None = None,
        sizes: Sequence[int] = (),
    ):
        self.solvers, self.num_steps, self.pick, self.sizes = solvers, num_steps, pick, sizes
        self.checker = checker

    def solve(self, rows: PuzzleRows, tally: Tally) -> Answered:
        bundle = Bundle.repeated(rows)
        accepted = AcceptedAnswers.for_rows(self.checker, rows)
        runs = []
        for number, solver in enumerate(self.solvers):
            decide = accepted.wrap(None, steps_before=number * self.num_steps)
            runs.append(solve_bundle(solver, bundle, self.num_steps, decide, self.sizes))
        candidates = Candidates.joined(runs, axis=1)
        picked = candidates.answers[np.arange(len(rows)), PICKS[self.pick](candidates)]
        accepted.report(tally, picked, len(self.solvers) * self.num_steps)
        return choose(candidates, self.pick, rows, tally)


def choose(candidates: Candidates, pick: str, rows: PuzzleRows, tally: Tally) -> Answered:
    """Pick one answer per puzzle; record in the tally what fewer chains, and an oracle, would have given."""
    each = np.arange(len(rows))
    num_chains = candidates.answers.shape[1]
    if pick != "first_stop":  # with fewer chains, a run ended by one of the others would have continued
        for count in counts_up_to(num_chains):
            some = candidates.first(count)
            chains = PICKS[pick](some)
            answers, stops = some.answers[each, chains], some.says_stop[each, chains]
            tally.record("chains", count, answers, some.steps * count, stops)
            tally.record(ORACLE, count, some.answers, some.steps * count)
    chains = PICKS[pick](candidates)
    if pick == "first_stop":
        answers, stops = candidates.answers[each, chains], candidates.says_stop[each, chains]
        tally.record("chains", num_chains, answers, candidates.steps * num_chains, stops)
    return answered(candidates, chains, rows)


def counts_up_to(most: int) -> list[int]:
    """Return 1, 2, 4, 8, ... below `most`, then `most` itself."""
    doubled = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [*doubled, most]
