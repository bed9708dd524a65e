"""The maze family: mark a shortest path in a rectangular maze. Shapes: n rows, S = H·W cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.families.base import Augmentation, Comparison, Family, Verdict
from dataset.families.browser_rules import BrowserRules
from dataset.families.grid_style import GridStyle, Kind, LegendEntry, rgb
from dataset.families.labels import agreement, compare_with_labels
from dataset.families.maze import rules
from dataset.families.maze.generate import MazeSpec, default_min_path, random_maze
from dataset.families.maze.shorten import ShorterPaths
from dataset.families.symmetry import FiniteSymmetries
from dataset.families.wording import count, describe_position, with_line_breaks
from dataset.metadata import Metadata
from utils.errors import UserError

_COLOURS = (0x000000, 0x30343F, 0xE8E6DF, 0x2ECC40, 0xFF4136, 0xFF851B)  # padding and "# SGo"
_WRITTEN = rules.QUESTION_SYMBOLS + "."


class MazeFamily(Family):
    name = "maze"
    recognition_priority = 1
    completes = True
    evaluator = "maze@Maze"
    # arXiv 2605.19943: on mazes the halting head ranks answers poorly, so take the majority of whole grids instead.
    sigma = 1.0
    noise_pick = "majority"
    text_help = "`#` wall, `.` or space free, `S` start, `G` goal; one line per row."
    sizes_to_check: ClassVar = (
        {"seq_len": 100, "vocab_size": rules.VOCAB_SIZE},
        {"seq_len": 48, "vocab_size": rules.VOCAB_SIZE, "grid_shape": [6, 8]},
    )

    @classmethod
    def size_problem(cls, metadata: Metadata) -> str | None:
        square = isqrt(metadata.seq_len) ** 2 == metadata.seq_len
        if not square and "grid_shape" not in metadata.extra:
            return f"seq_len is {metadata.seq_len}, which is not the size of such a grid"
        if metadata.vocab_size != rules.VOCAB_SIZE:
            return f"vocab_size is {metadata.vocab_size}, not {rules.VOCAB_SIZE}"
        return None

    @classmethod
    def recognise(
        cls, metadata: Metadata, sampled: Callable[[], tuple[np.ndarray, np.ndarray]], dataset_dir: Path
    ) -> tuple[bool, str]:
        """Expect one start and one goal in every input, and labels that only mark free cells."""
        inputs, labels = sampled()
        ends = ((inputs == rules.START).sum(1) == 1) & ((inputs == rules.GOAL).sum(1) == 1)
        symbols = (inputs >= rules.WALL) & (inputs <= rules.GOAL)
        if not (ends.all() and symbols.all()):
            return (
                False,
                "its sizes are those of mazes, but not every sampled input has one start and one goal",
            )
        kept = (labels == inputs) | ((labels == rules.PATH) & (inputs == rules.FREE))
        if metadata.ignore_label_id is not None:
            kept |= labels == metadata.ignore_label_id
        if not kept.all():
            return False, "its sizes are those of mazes, but sampled labels change more than free cells"
        return True, "its sizes are those of mazes, and every sampled input has one start and one goal"

    @cached_property
    def grid_style(self) -> GridStyle:
        return GridStyle(
            self.shape,
            "?" + rules.SYMBOLS,
            rgb(_COLOURS),
            cells="path",
            blend=(rules.FREE, rules.PATH),
            wall=rules.WALL,
            ends=frozenset({rules.START, rules.GOAL}),
            changed_symbols={rules.PATH: "O", rules.FREE: "-"},
            legend=(
                LegendEntry(rules.PATH, Kind.FILLED, "on the path"),
                LegendEntry(rules.PATH, Kind.CHANGED, "since this step"),
                LegendEntry(rules.FREE, Kind.CHANGED, "no longer"),
                LegendEntry(rules.WALL, Kind.BROKEN, "not as in the maze"),
            ),
            shade="orange: path; stronger colour: more certain",
            frame=((30, 90, 230), "blue"),
        )

    @cached_property
    def symmetries(self) -> FiniteSymmetries:
        """Rotations and reflections: 8 for a square, 4 for other rectangles."""
        return FiniteSymmetries.of_rectangle(self.shape)

    def easier(self, probability: float) -> Augmentation:
        return ShorterPaths(probability, self.shape)

    # ---------------------------------------------------------------- a single puzzle

    def read(self, text: str) -> np.ndarray:
        return self._read(text, _WRITTEN, "# (wall), space or . (free), S, G")

    def read_answer(self, text: str) -> np.ndarray:
        return self._read(text, rules.SYMBOLS + ".", "# (wall), space or . (free), o (path), S, G")

    def _read(self, text: str, written: str, in_words: str) -> np.ndarray:
        rows, columns = self.shape
        text = with_line_breaks(text).strip("\n/")
        for position, character in enumerate(text):
            if character not in f"{written}\n/":
                raise UserError(
                    f"puzzle= has {character!r} at {describe_position(text, position)}; allowed are {in_words}, "
                    "and a line break or / between rows"
                )
        lines = re.split("[\n/]", text)
        if len(lines) == 1 and len(text) == rows * columns:
            lines = [text[start : start + columns] for start in range(0, len(text), columns)]
        if len(lines) != rows:
            found = count(len(lines), "row") if len(lines) > 1 else f"one row of {len(text)} cells"
            raise UserError(f"puzzle= has {found}, but this model solves mazes of {rows} rows of {columns}")
        for number, line in enumerate(lines, start=1):
            if len(line) != columns:
                raise UserError(
                    f"puzzle= has {count(len(line), 'cell')} in row {number} instead of {columns} (if trailing spaces "
                    "were removed, write . for free cells)"
                )
        question = rules.encode("".join(lines).replace(".", " "))
        for token, name in ((rules.START, "S"), (rules.GOAL, "G")):
            if (number := int((question == token).sum())) != 1:
                raise UserError(f"puzzle= has {number} cells with {name}, but a maze has one")
        return question

    def write(self, question: np.ndarray) -> str:
        return rules.decode(np.asarray(question).reshape(self.shape)).replace(" ", ".")

    def example(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        question, answer = random_maze(rng, MazeSpec(self.shape, default_min_path(min(self.shape))))
        return question.reshape(-1), answer.reshape(-1)

    def browser_rules(self) -> BrowserRules:
        return BrowserRules(
            dict(zip("#.SG ", (rules.WALL, rules.FREE, rules.START, rules.GOAL, rules.FREE), strict=True)),
            ignored="/",
            required={rules.START: 1, rules.GOAL: 1},
            becomes={rules.FREE: (rules.PATH,)},
            script=Path(__file__).with_name("rules.js"),
        )

    def remarks(self, question: np.ndarray) -> list[str]:
        unreachable = rules.path_lengths(question[None], self.shape)[0] < 0
        return ["G cannot be reached from S, so the maze has no solution"] if unreachable else []

    def broken(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        return (answer != question) & ~((question == rules.FREE) & (answer == rules.PATH))

    def check(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return True for answers that mark a shortest path and change nothing else."""
        return rules.judge(questions, answers, self.shape)[1]

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        (valid,), (optimal,) = rules.judge(question[None], answer[None], self.shape)
        num_marks = int((answer == rules.PATH).sum())
        if optimal:
            steps = count(num_marks + 1, "step")
            return Verdict(True, f"valid, a shortest path of {steps}{compare_with_labels(answer, labels)}")
        if valid:
            shortest = rules.path_lengths(question[None], self.shape)[0]
            return Verdict(False, f"a path of {num_marks + 1} steps, but {shortest} are enough")
        changed = int(self.broken(question, answer).sum())
        parts = [f"{count(changed, 'cell')} of the maze changed"] if changed else []
        if num_marks:
            parts.append(f"the marked cells ({num_marks}) are not one path from S to G")
        else:
            parts.append("no path is marked")
        if labels is not None:
            parts.append(agreement(answer, labels))
        return Verdict(False, "; ".join(parts))

    # ---------------------------------------------------------------- the dataset report

    def comparisons(self) -> list[Comparison]:
        return [Comparison("inputs rotated, mirrored or with S and G swapped", self._keys, per_group=False)]

    def _keys(self, inputs: np.ndarray, labels: np.ndarray) -> Sequence[bytes]:
        """Return the smallest image of each maze, with S and G made indistinguishable."""
        undirected = np.where(inputs == rules.GOAL, rules.START, inputs).astype(np.uint8)
        images = self.symmetries.images(undirected)
        return [min(row.tobytes() for row in rows) for rows in zip(*images, strict=True)]


FAMILY = MazeFamily
