"""Logic of the web page, independent of Gradio: read or sample a puzzle, solve it step by step, draw a step.

Shapes: S cells of a puzzle, C symmetric copies that vote.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dataset.families.base import Family
from dataset.families.symmetry import Symmetries
from evaluators.drawing.pictures import Panel, halting_chart, still
from evaluators.inference import Solver, Step
from evaluators.strategies.samples import Candidates, majority
from utils.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

MOST_STEPS = 256
NUM_COPIES = 8
# Leaves room for boxes, lines and line breaks in a puzzle drawn as text.
_CHARACTERS_PER_CELL = 6


@dataclass(frozen=True)
class Solved:
    """A puzzle and the answers to it: one panel for the puzzle and one per step."""

    panels: list[Panel]
    remarks: list[str]

    @property
    def summary(self) -> str:
        """State the last verdict, and the step since which answers have been right."""
        last = self.panels[-1]
        right = [panel.number for panel in self.panels[1:] if panel.verdict.solved]
        if not last.verdict.solved:
            lost = f" It was solved at step {right[0]}, but changed later." if right else ""
            return f"Not solved: {last.verdict.words}.{lost}"
        first = last.number
        while first - 1 in right:
            first -= 1
        return f"Solved from step {first} on: {last.verdict.words}."


class Session:
    """Solve puzzles that users type. Raises UserError if puzzles of the model's family cannot be typed."""

    def __init__(self, solver: Solver, family: Family, symmetries: Symmetries | None, identifier: int = 0):
        if family.text_help is None:
            named = f"a model of {family.name}" if family.name else "a model of no known family"
            raise UserError(
                f"checkpoint= is {named}, whose puzzles cannot be typed: {family.lacks('text_help')}; solve.py shows "
                "puzzles of its dataset"
            )
        self.solver, self.family, self.symmetries, self.identifier = solver, family, symmetries, identifier

    @property
    def most_characters(self) -> int:
        """Maximum length of a puzzle as text."""
        rows, columns = self.family.shape
        return rows * columns * _CHARACTERS_PER_CELL

    def sample(self, seed: int) -> str:
        """Return a random puzzle as text, drawn like those of generated datasets."""
        if self.family.example is None:
            raise UserError(f"random puzzles are not available: {self.family.lacks('example')}; type one")
        question, _ = self.family.example(np.random.default_rng(seed))
        return self.family.write(question)

    def solve(self, text: str, num_steps: int, voting: bool = False) -> Solved:
        """Solve a puzzle given as text. Raises UserError saying what is wrong with the text or the numbers."""
        if len(text) > self.most_characters:
            raise UserError(f"the puzzle has {len(text):,} characters, more than {self.most_characters:,}")
        if not 1 <= num_steps <= MOST_STEPS:
            raise UserError(f"{num_steps} steps were requested: choose 1 to {MOST_STEPS}")
        if not text.strip():
            raise UserError("there is no puzzle yet: type one, or sample one")
        question = self._read(text)
        panels = [Panel(0, question)]
        previous = question
        for step, answer, confidence in (self._votes if voting else self._answers)(question, num_steps):
            verdict = self.family.judge(question, answer, None)
            panels.append(Panel.of(self.family, question, previous, answer, step, verdict, confidence))
            previous = answer
        return Solved(panels, self.family.remarks(question))

    def show(self, solved: Solved, number: int) -> Image.Image:
        """Draw the panel of a step (0: the puzzle) above a chart of the halting probability of all steps."""
        number = min(max(number, 0), len(solved.panels) - 1)
        picture = still(self.family, solved.panels[number], len(solved.panels) - 1, scale=1.5)
        return halting_chart(picture, solved.panels, number)

    def _read(self, text: str) -> np.ndarray:
        try:
            return self.family.read(text)
        except UserError as error:  # its message begins with solve.py's argument
            raise UserError(str(error).replace("puzzle= has", "the puzzle has")) from error

    def _answers(self, question: np.ndarray, num_steps: int) -> Iterator[tuple[Step, np.ndarray, np.ndarray]]:
        for step in self.solver.refine(question[None], [self.identifier], num_steps):
            yield step, step.answer[0].cpu().numpy(), step.confidence[0].float().cpu().numpy()

    def _votes(self, question: np.ndarray, num_steps: int) -> Iterator[tuple[Step, np.ndarray, np.ndarray]]:
        """Vote over C symmetric copies, mapped back; the confidence of a cell is the share of copies that agree.

        The step is that of the chosen copy, so that its halting probability matches the answer.
        """
        if self.symmetries is None:
            raise UserError(
                "this model uses puzzle identifiers, and symmetric copies have none, so they cannot vote"
            )
        count = min(NUM_COPIES, self.symmetries.most or NUM_COPIES)
        copies = self.symmetries.copies(
            question[None], np.array([self.identifier]), np.zeros(1, np.int64), count, 0
        )
        none, steps = np.full(1, -1), np.zeros(1, np.int64)
        for step in self.solver.refine(copies.tokens, copies.identifiers, num_steps):
            answers = copies.undo(step.answer.cpu().numpy()).astype(np.int16)  # (C, S)
            q_halt, stops = step.q_halt.cpu().numpy(), step.says_stop.cpu().numpy()
            (chosen,) = majority(Candidates(answers[None], q_halt[None], stops[None], none, steps))
            row = slice(chosen, chosen + 1)
            own = Step(
                step.number, step.answer[row], step.confidence[row], step.q_halt[row], step.says_stop[row]
            )
            yield own, answers[chosen].astype(np.int64), (answers == answers[chosen]).mean(0)
