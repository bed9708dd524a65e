"""The promises of a puzzle family, which are tested on puzzles with known answers."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dataset.families.base import Family
from dataset.promises import answers, data, drawing, in_browser, symmetries, text
from dataset.promises.puzzles import Puzzles


@dataclass(frozen=True)
class Promise:
    """`is_offered` tells whether a family supports the feature; `failures` yields violations of the promise."""

    name: str
    failures: Callable[[Puzzles], Iterator[str]]
    is_offered: Callable[[Family], bool] = lambda family: True


@dataclass(frozen=True)
class PromiseOutcome:
    """The outcome of one promise: not offered, kept (`failure` is None) or broken."""

    name: str
    is_offered: bool = True
    failure: str | None = None


def broken_promises(family: Family, questions: np.ndarray, labels: np.ndarray) -> list[str]:
    """Return a line for each promise that the family breaks for puzzles (n, S) with labels (n, S).

    Ignored labels are -100. Pass several puzzles, because some tests compare puzzles.
    """
    outcomes = check_promises(Puzzles(family, questions, labels))
    return [f"{outcome.name}: {outcome.failure}" for outcome in outcomes if outcome.failure is not None]


def check_promises(puzzles: Puzzles) -> Iterator[PromiseOutcome]:
    """Yield the outcome of each promise."""
    return (_outcome(promise, puzzles) for promise in PROMISES)


def _outcome(promise: Promise, puzzles: Puzzles) -> PromiseOutcome:
    """Test a promise; any exception raised by the family breaks it."""
    try:
        if not promise.is_offered(puzzles.family):
            return PromiseOutcome(promise.name, is_offered=False)
        return PromiseOutcome(promise.name, failure=next(promise.failures(puzzles), None))
    except Exception as error:
        *_, where = traceback.extract_tb(error.__traceback__)
        location = f"{Path(where.filename).name}, line {where.lineno}"
        return PromiseOutcome(promise.name, failure=f"{type(error).__name__}: {error} ({location})")


PROMISES = (
    Promise("name and sizes", text.sizes),
    Promise("text", text.text, lambda family: family.text_help is not None or bool(family.characters)),
    Promise("examples", text.examples, lambda family: family.example is not None),
    Promise("right answers", answers.right_answers),
    Promise("wrong answers", answers.wrong_answers),
    Promise("check", answers.check, lambda family: family.check is not None),
    Promise(
        "check_tensors",
        answers.check_tensors,
        lambda family: family.check_tensors is not None and find_spec("torch") is not None,
    ),
    Promise("rules in the browser", in_browser.rules_in_browser),
    Promise("inverse symmetries", symmetries.inverses, lambda family: family.symmetries is not None),
    Promise("group of symmetries", symmetries.group, lambda family: family.symmetries is not None),
    Promise(
        "symmetric answers",
        symmetries.symmetric_answers,
        lambda family: family.symmetries is not None and family.check is not None,
    ),
    Promise("copies that vote", symmetries.copies, lambda family: symmetries.copied_by(family) is not None),
    Promise("grid style", drawing.style),
    Promise("drawing in the terminal", drawing.drawn_in_terminal),
    Promise("drawing in pictures", drawing.drawn_in_pictures, lambda family: find_spec("PIL") is not None),
    Promise("units", data.units, lambda family: family.units("units") is not None),
    Promise("leakage keys", data.leakage_keys, lambda family: bool(family.comparisons())),
    Promise("rows compared", data.rows_compared, lambda family: family.rows_compared is not None),
    Promise("easier puzzles", data.easier, lambda family: family.easier(0.5) is not None),
    Promise("evaluator", data.evaluator, lambda family: family.default_evaluator is not None),
)
