"""Promises about datasets: units, leakage, easier puzzles, evaluator. Each test yields failures with an example."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dataset.families.base import Comparison
from dataset.promises.puzzles import Puzzles, shortened, shown
from dataset.promises.symmetries import images_of
from utils.modules import has_module, provides


def units(puzzles: Puzzles) -> Iterator[str]:
    units = puzzles.family.units("units")
    if units.num_cells != puzzles.seq_len:
        yield f"units have {units.num_cells} cells, but a puzzle has {puzzles.seq_len}"


def leakage_keys(puzzles: Puzzles) -> Iterator[str]:
    family = puzzles.family
    for comparison in family.comparisons():
        keys = list(comparison.keys(puzzles.questions, puzzles.answers))
        if len(keys) != len(puzzles) or not all(key is None or isinstance(key, bytes) for key in keys):
            yield f"{comparison.what}: the keys of {len(puzzles)} puzzles are {shortened(repr(keys))}"
        elif all(key is None for key in keys):
            yield f"{comparison.what}: no puzzle has a key"
        elif family.symmetries is not None:
            yield from _different_keys(puzzles, comparison, keys)


def _different_keys(puzzles: Puzzles, comparison: Comparison, keys: list[bytes | None]) -> Iterator[str]:
    """Yield symmetric images whose key differs from that of the puzzle."""
    numbers, questions, answers = images_of(puzzles)
    found = {"key": (keys, comparison.keys(questions, answers))}
    if comparison.prefilter is not None:
        found["prefilter key"] = (comparison.prefilter(puzzles.questions), comparison.prefilter(questions))
    for name, (own, of_images) in found.items():
        for number, question, key in zip(numbers, questions, of_images, strict=True):
            if key != own[number]:
                both = f"{puzzles.named(number)} and its image {shown(question)}"
                yield f"{comparison.what}: {both} differ in their {name}"


def rows_compared(puzzles: Puzzles) -> Iterator[str]:
    form = puzzles.family.rows_compared
    for rows in (puzzles.questions, puzzles.answers):
        canonical, sample = form.canonical(rows), form.sample(rows)
        if canonical.shape != rows.shape:
            yield f"canonical rows are {canonical.shape} instead of {rows.shape}"
        if sample.shape != (len(rows), 48) or sample.dtype != np.uint8:
            yield f"samples are {sample.dtype} {sample.shape} instead of uint8 {(len(rows), 48)}"
        if not np.array_equal(form.canonical(canonical), canonical):
            yield "the canonical form of a canonical row is not that row"
        if not np.array_equal(form.sample(canonical), sample):
            yield "a row and its canonical form have different samples"


def easier(puzzles: Puzzles) -> Iterator[str]:
    family, count = puzzles.family, len(puzzles)

    def make_easier(probability: float, mine: slice, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rows = puzzles.questions[mine].copy(), puzzles.answers[mine].copy()
        before = rows[0].copy(), rows[1].copy()
        easier = family.easier(probability)(np.random.default_rng(seed), count, mine, *rows)
        if not all(map(np.array_equal, rows, before)):
            raise ValueError("it changes its input arrays")
        return easier

    never = make_easier(0.0, slice(0, count))
    if not (np.array_equal(never[0], puzzles.questions) and np.array_equal(never[1], puzzles.answers)):
        yield "puzzles change although the probability is 0"
    questions, answers = make_easier(1.0, slice(0, count))
    others = (make_easier(1.0, slice(0, count), seed)[0] for seed in range(8))
    if all(np.array_equal(other, puzzles.questions) for other in others):
        yield "no puzzle becomes easier although the probability is 1"
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        verdict = family.judge(question, answer, answer.astype(np.int64))
        if not verdict.solved or family.broken(question, answer).any():
            yield f"{puzzles.named(number)} becomes {shown(question)} with the wrong answer {shown(answer)}"
    halves = [make_easier(1.0, part) for part in (slice(0, count // 2), slice(count // 2, count))]
    joined = [np.concatenate(parts) for parts in zip(*halves, strict=True)]
    if not all(map(np.array_equal, joined, (questions, answers))):
        yield "the easier version of a puzzle depends on which rows of the batch are requested"


def evaluator(puzzles: Puzzles) -> Iterator[str]:
    """Check that the evaluator exists, without importing it, because evaluators need torch."""
    name = puzzles.family.default_evaluator
    module, at, cls = name.partition("@")
    path = next(filter(has_module, (f"evaluators.{module}", module)), None) if at else None
    if path is None:
        yield f"{name!r} is not module@Class, of a module below evaluators/ or of one that can be imported"
    elif not provides(path, cls):
        yield f"{name!r}: the module {path} has no class {cls}"
