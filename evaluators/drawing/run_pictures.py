"""Pictures that a training run logs at an evaluation, from one batch of test data and the results."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from dataset.families import family_of
from dataset.families.base import Verdict
from dataset.format import IGNORE_LABEL_ID
from evaluators.drawing.curves import accuracy_by_difficulty, accuracy_by_step
from evaluators.drawing.pictures import Panel, sheet
from evaluators.drawing.style import encoded
from evaluators.inference import Solver
from evaluators.strategies.accounting import Tally
from evaluators.strategies.compute_curve import tables
from models.losses import ACTLossHead
from puzzle_dataset import PuzzleDataset

_BY_DIFFICULTY = re.compile(r"(\w+/)exact_difficulty_([\w-]+)")


def evaluation_pictures(
    model: ACTLossHead, data: PuzzleDataset, results: Mapping[str, float]
) -> dict[str, bytes]:
    """Return name -> PNG: the first test puzzle after each step, and accuracies by step and by difficulty.

    Evaluates one batch. The training mode of the model is restored.
    """
    was_training = model.training
    try:
        pictures = _solve_first_batch(model, data)
    finally:
        model.train(was_training)
    classes = {
        match[2].replace("over_", "over "): _counts(results, match[1], match[2], share)
        for name, share in results.items()
        if (match := _BY_DIFFICULTY.fullmatch(name))
    }
    if classes:
        unit = str(data.metadata.extra.get("difficulty", "as recorded"))
        pictures["accuracy_by_difficulty"] = encoded(accuracy_by_difficulty(classes, unit), "png")
    return {f"pictures/{name}": picture for name, picture in pictures.items()}


def _solve_first_batch(model: ACTLossHead, data: PuzzleDataset) -> dict[str, bytes]:
    solver = Solver(model, next(model.parameters()).device)
    family = family_of(data.metadata)
    _, batch, num_global = next(data.batches())
    # Run all rows, including padding, so that a compiled model sees the same shape as in evaluation.
    num_rows = min(num_global, len(batch["inputs"]))
    labels = batch["labels"][:num_rows]
    question, label = batch["inputs"][0].numpy(), labels[0].numpy()
    known = label if (label != IGNORE_LABEL_ID).any() else None
    panels = [Panel(0, family.counted(question))]
    previous = question if family.completes else None
    verdict: Verdict | None = None
    tally = Tally(model.solved_by_rules)
    tally.begin(labels, batch["inputs"][:num_rows])
    for step in solver.refine(batch["inputs"], batch["puzzle_identifiers"]):
        answers = step.answer[:num_rows].cpu()
        tally.record("steps", step.number, answers, step.number, step.says_stop[:num_rows].cpu())
        answer = family.counted(answers[0].numpy())
        if verdict is None or not np.array_equal(answer, previous):
            verdict = family.judge(question, answer, known)
        panels.append(Panel.of(family, question, previous, answer, step, verdict))
        previous = answer
    pictures = {"first_test_puzzle": sheet(family, panels)}
    tally.end()
    table = tables(tally, solver.applications_per_step())["steps"]
    if num_judged := tally.num_judged("steps"):
        figure = accuracy_by_step(table, num_judged, solver.trained_steps)
        pictures["accuracy_by_step"] = encoded(figure, "png")
    return pictures


def _counts(results: Mapping[str, float], prefix: str, name: str, share: float) -> tuple[int, int]:
    """(puzzles, solved) of a difficulty class."""
    number = int(results[f"{prefix}count_difficulty_{name}"])
    return number, round(share * number)
