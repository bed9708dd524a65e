"""Promises about answers: judge, broken, check and check_tensors. Each test yields failures with an example."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np

from dataset.families.grid_style import Kind
from dataset.promises.puzzles import Puzzles, shown


def right_answers(puzzles: Puzzles) -> Iterator[str]:
    family = puzzles.family
    for number, (question, answer) in enumerate(zip(puzzles.questions, puzzles.answers, strict=True)):
        verdicts = [family.judge(question, answer, labels) for labels in (puzzles.labels[number], None)]
        if not verdicts[0].solved:
            yield f"{puzzles.named(number)}: its label is judged not solved: {verdicts[0].words}"
        if verdicts[1].solved is False:
            yield f"{puzzles.named(number)}: without a label its answer is judged not solved: {verdicts[1].words}"
        contradicted = np.flatnonzero(family.broken(question, answer))
        if len(contradicted):
            yield f"{puzzles.named(number)}: broken marks cell {contradicted[0]} of its right answer"
        for previous in (None, question, answer):
            kinds = family.kinds(question, previous, answer)
            if kinds.shape != question.shape or not np.isin(kinds, list(Kind)).all():
                yield f"{puzzles.named(number)}: kinds gives {shown(kinds)}"


def wrong_answers(puzzles: Puzzles) -> Iterator[str]:
    """A changed cell makes an answer wrong; with several right answers, it may sometimes give another right one."""
    family, marks, rejections = puzzles.family, 0, 0
    for number, other in zip(*puzzles.changed, strict=True):
        question = puzzles.questions[number]
        solved = family.judge(question, other, puzzles.labels[number]).solved
        contradicts = bool(family.broken(question, other).any())
        marks += contradicts
        rejections += not solved
        if solved and (contradicts or not family.several_answers):
            yield f"{puzzles.change(number, other)} is judged solved"
    if not rejections:
        yield "no answer with a changed cell is judged wrong"
    if family.completes and not marks:
        yield "answers complete the question, but broken marks no changed cell"


def check(puzzles: Puzzles) -> Iterator[str]:
    family, (numbers, answers) = puzzles.family, puzzles.tried
    questions = puzzles.questions[numbers]
    before = questions.copy(), answers.copy()
    solved = np.asarray(family.check(questions, answers))
    if solved.dtype != bool or solved.shape != (len(questions),):
        yield f"check gives {solved.dtype} {solved.shape} instead of bool {(len(questions),)}"
    if not (np.array_equal(before[0], questions) and np.array_equal(before[1], answers)):
        yield "check changes its input arrays"
    wide = np.asarray(family.check(questions.astype(np.int32), answers.astype(np.int64)))
    if not np.array_equal(solved, wide):
        yield "check gives different results for int64 and uint8 tokens"
    for number, answer, by_check in zip(numbers, answers, solved, strict=True):
        verdict = family.judge(puzzles.questions[number], answer, None)
        if verdict.solved != bool(by_check):
            answered = f"{puzzles.named(number)} answered with {shown(answer)}"
            yield f"check says {bool(by_check)}, but judge says {verdict.solved} for {answered}"


def check_tensors(puzzles: Puzzles) -> Iterator[str]:
    torch = importlib.import_module("torch")  # imported by name, because dataset/ works without torch
    family, (numbers, answers) = puzzles.family, puzzles.tried
    if family.check is None:
        yield "check_tensors is defined, but check is not"
        return
    questions = puzzles.questions[numbers]
    solved = np.asarray(family.check(questions, answers))
    for dtype in (torch.int32, torch.int64):
        result = family.check_tensors(
            torch.tensor(questions, dtype=torch.int32), torch.tensor(answers, dtype=dtype)
        )
        if result.dtype != torch.bool or result.shape != solved.shape:
            yield f"check_tensors gives {result.dtype} {tuple(result.shape)} instead of bool {solved.shape}"
            return
        for index in np.flatnonzero(result.numpy() != solved)[:1]:
            number = numbers[index]
            yield (
                f"check says {solved[index]}, but check_tensors says {bool(result[index])} for {puzzles.named(number)} "
                f"answered with {shown(answers[index])}"
            )
