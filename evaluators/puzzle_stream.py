"""Solve a stream of puzzles of any length in constant memory, from text to rows of answers in the same order.

Shapes: n puzzles of a chunk, S `seq_len`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from dataset.families.base import Family
from evaluators.puzzle_files import INVALID, PuzzleLine
from evaluators.strategies.continuous import Continuous
from evaluators.strategies.plans import Outcome
from evaluators.strategies.samples import PuzzleRows
from utils.errors import UserError

SOLVED, UNSOLVED, UNKNOWN = "solved", "not solved", "unknown"


@dataclass
class Summary:
    """The numbers of outcomes of a stream."""

    verdicts: Counter[str] = field(default_factory=Counter)
    steps: int = 0  # supervision steps of all chains

    @property
    def in_words(self) -> str:
        total = self.verdicts.total()
        parts = [f"{self.verdicts[name]:,} {name}" for name in (SOLVED, UNSOLVED, UNKNOWN, INVALID)]
        known = [part for part in parts if not part.startswith("0 ")]
        asked = total - self.verdicts[INVALID]
        steps = f"; {self.steps / asked:.2f} supervision steps per puzzle" if asked else ""
        return f"{total:,} puzzle{'' if total == 1 else 's'}: {', '.join(known) or 'none'}{steps}"


@dataclass
class _Chunk:
    """Lines in order, with the question of each, or a message if it is invalid."""

    lines: list[PuzzleLine]
    questions: list[np.ndarray | str]  # (S,) tokens each, or a message

    @property
    def asked(self) -> np.ndarray:
        valid = [question for question in self.questions if not isinstance(question, str)]
        return np.stack(valid) if valid else np.zeros((0, 0), np.uint8)


def solve_stream(
    strategy: Continuous,
    family: Family,
    lines: Iterable[PuzzleLine],
    write: Callable[[list[dict[str, Any]]], None],
    *,
    identifier: int = 0,
    chunk_size: int,
    first_number: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> Summary:
    """Solve the puzzles of `lines` and `write` a row for each, in order; `advance` receives the numbers written.

    A line that is not a puzzle becomes a row with the reason. `first_number`: index of the first puzzle in the whole
    stream, which determines random symmetries and noise.
    """
    summary, waiting = Summary(), deque[_Chunk]()

    def batches() -> Iterator[PuzzleRows]:
        remaining, number = iter(lines), first_number
        while some := list(islice(remaining, chunk_size)):
            chunk = _Chunk(some, [_question(family, line) for line in some])
            row_indices = number + np.flatnonzero([not isinstance(q, str) for q in chunk.questions])
            number += len(some)
            waiting.append(chunk)
            asked = torch.from_numpy(chunk.asked.astype(np.int32)).to(strategy.solver.device)
            identifiers = torch.full((len(asked),), identifier, dtype=torch.int32, device=asked.device)
            yield PuzzleRows(asked, identifiers, row_indices)

    for outcomes, steps in strategy.outcomes(batches()):
        rows = list(_rows(family, waiting.popleft(), outcomes, steps))
        write(rows)
        summary.verdicts.update(row["verdict"] for row in rows)
        summary.steps += int(steps.sum())
        advance(len(rows))
    return summary


def _question(family: Family, line: PuzzleLine) -> np.ndarray | str:
    if line.problem is not None:
        return line.problem
    try:
        return family.read(line.text)
    except UserError as error:  # its message begins with solve.py's argument
        return str(error).replace("puzzle= has", "the puzzle has").removeprefix("puzzle=: ")


def _rows(
    family: Family, chunk: _Chunk, outcomes: Sequence[Outcome], steps: np.ndarray
) -> Iterator[dict[str, Any]]:
    answers = [family.counted(outcome.answer.astype(np.int64)) for outcome in outcomes]
    valid = np.zeros(len(answers), bool)
    if family.check is not None and answers:
        valid = family.check(chunk.asked, np.stack(answers))
    answered = iter(zip(outcomes, answers, valid, steps, strict=True))
    for line, question in zip(chunk.lines, chunk.questions, strict=True):
        row = {"line": line.number, "puzzle": line.text}
        if isinstance(question, str):
            yield row | {
                "answer": None,
                "verdict": INVALID,
                "confidence": None,
                "steps": None,
                "message": question,
            }
            continue
        outcome, answer, is_valid, spent = next(answered)
        verdict, message = SOLVED, None
        if not is_valid:
            judged = family.judge(question, answer, None)
            verdict, message = {True: SOLVED, False: UNSOLVED, None: UNKNOWN}[judged.solved], judged.words
        yield row | {
            "answer": answer_text(family, answer),
            "verdict": verdict,
            "confidence": round(float(1 / (1 + np.exp(-np.float64(outcome.q_halt)))), 6),
            "steps": int(spent),
            "message": message,
        }


def answer_text(family: Family, answer: np.ndarray) -> str:
    """Format an answer (S,) on one line: a symbol per cell; grids without blanks have / between their rows."""
    symbols = family.grid_style.symbols
    cells = [symbols[token] for token in family.grid_style.known(answer)]
    if family.completes:
        return "".join(cells)
    width = family.shape[1]
    return "/".join("".join(cells[start : start + width]) for start in range(0, len(cells), width))
