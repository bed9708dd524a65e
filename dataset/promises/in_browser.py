"""Promises about the rules that a family states for a page without Python; failures come with an example."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dataset.families.browser_rules import BrowserRules
from dataset.promises.puzzles import Puzzles, shortened, shown

_SWAPS = 48  # per puzzle


def rules_in_browser(puzzles: Puzzles) -> Iterator[str]:
    family, rules = puzzles.family, puzzles.family.browser_rules()
    numbers, answers = map(np.concatenate, zip(puzzles.tried, _swapped(puzzles), strict=True))
    questions = puzzles.questions[numbers]
    for number, question, answer in zip(numbers, questions, answers, strict=True):
        marked, expected = rules.broken(question[None], answer[None])[0], family.broken(question, answer)
        if not np.array_equal(marked, expected):
            (cell, *_) = np.flatnonzero(marked != expected)
            yield (
                f"browser_rules and broken disagree about cell {cell} of {puzzles.named(number)} answered with "
                f"{shown(answer)}"
            )
    if rules.counts and rules.script is None and family.check is not None:
        obeyed, solved = rules.obeyed(questions, answers), family.check(questions, answers)
        for index in np.flatnonzero(obeyed != solved)[:1]:
            yield (
                f"check says {bool(solved[index])}, but browser_rules say {bool(obeyed[index])} for "
                f"{puzzles.named(numbers[index])} answered with {shown(answers[index])}"
            )
    if rules.script is not None and not rules.script.is_file():
        yield f"browser_rules name the script {rules.script}, which does not exist"
    for number, question in enumerate(puzzles.questions):
        for token, wanted in rules.required.items():
            if (found := int((question == token).sum())) != wanted:
                yield f"{puzzles.named(number)} has {found} cells of token {token}, but browser_rules require {wanted}"
        if rules.characters:
            text = family.write(question)
            if not np.array_equal(_read(rules, text), question):
                yield f"browser_rules read {shortened(text)} differently from {puzzles.named(number)}"


def _swapped(puzzles: Puzzles) -> tuple[np.ndarray, np.ndarray]:
    """Puzzle numbers (m,) and right answers (m, S) with two cells swapped, which keeps the counts of some groups."""
    numbers = np.repeat(np.arange(len(puzzles)), _SWAPS)
    answers = puzzles.answers[numbers]
    cells = np.random.default_rng(2).integers(0, puzzles.seq_len, (len(numbers), 2))
    rows = np.arange(len(numbers))[:, None]
    answers[rows, cells] = answers[rows, cells[:, ::-1]]
    return numbers, answers


def _read(rules: BrowserRules, text: str) -> list[int | None]:
    """Parse text as the page does; None for a character that it does not know."""
    return [
        rules.characters.get(character)
        for character in text
        if character in rules.characters or not (character.isspace() or character in rules.ignored)
    ]
