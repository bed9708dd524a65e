"""Runs of test-time strategies on a scripted model, and naive implementations of votes and chains."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from scripted_model import APPLICATIONS, BOX, ScriptedHead, says, solution

from dataset.families.sudoku.rules import random_symmetries, to_tokens
from dataset.families.sudoku.symmetry import SudokuSymmetries
from dataset.format import Metadata
from evaluators.inference import Solver
from evaluators.strategies.accounting import Tally
from evaluators.strategies.build import Choice, Setting, build_strategy
from evaluators.strategies.compute_curve import tables
from evaluators.strategies.latent_noise import chain_keys, standard_normal
from evaluators.strategies.samples import PuzzleRows

STEPS = 6
NUM_ROWS = 40
FIRST = 100  # index of the first row in the test stream
SUDOKU = Metadata(0, 0, 0, BOX.vocab_size, 16, 1, 1, 1.0, 1, ("all",), {"family": "sudoku"})


def made_questions() -> np.ndarray:
    """Return tokens (rows, 16) of puzzles with 6 blanks each."""
    rng = np.random.default_rng(0)
    lines = np.arange(4)
    pattern = ((lines[:, None] * 2 + lines[:, None] // 2 + lines) % 4 + 1).astype(np.uint8)
    symmetries = random_symmetries(rng, NUM_ROWS, BOX)
    questions = to_tokens(symmetries.apply(np.repeat(pattern[None], NUM_ROWS, 0)).reshape(-1, 16))
    blanks = np.argsort(rng.random(questions.shape), axis=1)[:, :6]
    np.put_along_axis(questions, blanks, 1, axis=1)
    return questions


QUESTIONS = made_questions()
LABELS = np.stack([solution(tuple(question.tolist())) for question in QUESTIONS]).astype(np.int64)
NUMBERS = np.arange(FIRST, FIRST + NUM_ROWS)


def run(
    strategy: str,
    *,
    capacity: int = 16,
    sizes=(),
    batch: int = NUM_ROWS,
    labels=LABELS,
    models=(0,),
    rule=None,
    act_inference=False,
    **options,
):
    """Run a strategy on all rows, `batch` at a time; return (answers, steps, q_halt, curves, tally, options).

    models: number of steps by which each model is ahead.
    """
    solvers = [Solver(ScriptedHead(ahead)) for ahead in models]
    for solver in solvers:
        solver.head.act.act_inference = act_inference
    setting = Setting(solvers, SUDOKU, ["data"], capacity, sizes, rule=rule)
    built, used = build_strategy(Choice(strategy, options.pop("num_steps", STEPS), **options), setting)
    tally, parts, begun = Tally(), [], []

    def batches():
        for start in range(0, NUM_ROWS, batch):
            part = slice(start, start + batch)
            inputs = torch.from_numpy(QUESTIONS[part].astype(np.int32))
            begun.append((torch.from_numpy(labels[part]), inputs))
            tally.begin(*begun[-1])
            yield PuzzleRows(inputs, torch.zeros(len(inputs), dtype=torch.int32), NUMBERS[part])

    for answered in built.stream(batches(), tally):
        tally.begin(*begun.pop(0))
        answered.record(tally)
        parts.append(answered)
        tally.end()
    answers = torch.cat([part.preds for part in parts]).numpy()
    steps = torch.cat([part.steps for part in parts]).numpy()
    q_halt = torch.cat([part.q_halt for part in parts]).numpy()
    return answers, steps, q_halt, tables(tally, APPLICATIONS), tally, used


def exact(answers: np.ndarray, labels=LABELS) -> float:
    return round(float((answers == labels).all(1).mean()), 6)


def lucks(row: int, num_chains: int, sigma: float, num_steps: int, seed: int = 0) -> np.ndarray:
    """Return the accumulated noise (chains, steps) in the single value of z_L at the end of each step."""
    keys = chain_keys(seed, np.array([FIRST + row]), num_chains)
    draws = [standard_normal(keys, 2 * number, 1) for number in range(num_steps)]
    return sigma * torch.cat(draws, 1).numpy().cumsum(1)


def naive_majority(answers: list[bytes], q_halt: list[float]) -> bytes:
    votes = Counter(answers)
    ahead = [answer for answer, count in votes.items() if count == max(votes.values())]
    return max(ahead, key=lambda answer: max(q for a, q in zip(answers, q_halt, strict=True) if a == answer))


def naive_copies(row: int, count: int) -> tuple[np.ndarray, callable]:
    made = SudokuSymmetries(BOX).copies(
        QUESTIONS[row : row + 1], np.zeros(1, np.int32), np.array([FIRST + row]), count, 0
    )
    return made.tokens, lambda answers: made.undo(np.stack(answers).astype(np.int16))


def lockstep(row: int, tokens, undo, luck=None, num_steps=STEPS):
    """Return (answer, solved, steps per chain) at the first step with q > 0 in any chain, for the largest q."""
    for step in range(1, num_steps + 1):
        said = [says(t, step, 0 if luck is None else luck[c, step - 1]) for c, t in enumerate(tokens)]
        stopped = [(np.float32(q), -c) for c, (_, q) in enumerate(said) if q > 0]
        if stopped:
            chain = -max(stopped)[1]
            return undo([a for a, _ in said])[chain], np.float32(said[chain][1]), True, step
    return undo([a for a, _ in said])[0], np.float32(said[0][1]), False, num_steps
