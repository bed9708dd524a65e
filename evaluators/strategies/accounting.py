"""Accuracy against compute: sums over puzzles at every amount of compute that a strategy passes through.

A strategy never sees labels: it records its intermediate answers and their cost. The tally scores them by the labels
and, for puzzles with several right answers, also by the rules of their family.
Shapes: n puzzles, A alternative answers to each, S `seq_len`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.format import IGNORE_LABEL_ID

Answers = Tensor | np.ndarray
EVERY = slice(None)

ORACLE = "oracle_pass_at"  # the curve that picks a right answer by means of the labels, or of the rules

# Questions and answers (n, S) -> (n,) bool, on the device of the answers
RuleCheck = Callable[[Tensor, Tensor], Tensor]


class Tally:
    """Curves (name -> point -> sums over the puzzles so far); they cover this rank until `gather`.

    The sums are `rows`, `labelled`, `exact` (answers equal to the label), `said_stop`, `steps` and `accuracy`. With
    `solved_by_rules` there is also `solved`: answers that are right by the rules, including rows without a label.
    """

    def __init__(self, solved_by_rules: RuleCheck | None = None):
        self.solved_by_rules = solved_by_rules
        self.curves: dict[str, dict[str, dict[str, float]]] = {}
        self.stages: dict[str, dict[str, int]] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self._labels = self._questions = torch.empty(0)
        self._waiting: list[tuple[str, str, dict[str, Tensor], Tensor]] = []

    def begin(self, labels: Tensor, questions: Tensor) -> None:
        """Start a batch with its labels and questions (n, S), on the device that holds most answers."""
        self._labels, self._questions = labels, questions

    def record(
        self,
        curve: str,
        point: str | int,
        answers: Answers,
        steps: int | np.ndarray,
        says_stop: Answers | None = None,
        part: slice = EVERY,
    ) -> None:
        """Add the answers of a `part` of the batch to the point `point` of a curve.

        `answers` are (n, S) tokens, or (n, A, S) alternatives of which an oracle picks a right one. `steps`, a number
        or (n,), counts supervision steps over all chains.
        """
        labels = self._labels[part]
        alternatives = torch.as_tensor(answers, device=labels.device)
        if alternatives.ndim == 2:
            alternatives = alternatives[:, None]
        correct, has_label = right_cells(alternatives, labels[:, None])
        exact = (correct == has_label).any(1) & (has_label[:, 0] > 0)
        share = (correct / has_label.clamp(min=1)).amax(1).sum()
        stops = torch.zeros_like(exact) if says_stop is None else says_stop
        values = {
            "rows": torch.ones_like(exact),
            "labelled": has_label[:, 0] > 0,
            "exact": exact,
            "said_stop": torch.as_tensor(stops, device=labels.device),
            "steps": torch.as_tensor(steps, device=labels.device).expand(len(labels)),
        }
        if self.solved_by_rules is not None:
            values["solved"] = self._by_rules(alternatives, part).any(1)
        sums = {name: value.sum(dtype=torch.int64) for name, value in values.items()}
        self._waiting.append((curve, str(point), sums, share))

    def record_stage(
        self, name: str, entering: np.ndarray, solved: np.ndarray, answers: np.ndarray, steps: np.ndarray
    ) -> None:
        """Add one stage of a cascade for the n puzzles of the batch.

        `entering` (n,) and `solved` (n,) are masks, `answers` is (n, S) and `steps` (n,).
        """
        given = torch.from_numpy(answers)
        correct, has_label = right_cells(given, self._labels.cpu())
        exact = ((correct == has_label) & (has_label > 0)).numpy()
        values = {"rows_entering": entering, "rows_said_solved": solved}
        if self.solved_by_rules is not None:
            alternatives = given[:, None].to(self._questions.device)
            values["of_them_solved"] = solved & self._by_rules(alternatives)[:, 0].cpu().numpy()
        values |= {"of_them_exact": solved & exact, "supervision_steps": np.where(entering, steps, 0)}
        _add(self.stages.setdefault(name, {}), {key: int(value.sum()) for key, value in values.items()})

    def _by_rules(self, alternatives: Tensor, part: slice = EVERY) -> Tensor:
        """Check answers (n, A, S) to a `part` of the batch by the rules; returns (n, A) bool."""
        assert self.solved_by_rules is not None
        asked = self._questions[part, None].expand(alternatives.shape).flatten(0, 1)
        right = self.solved_by_rules(asked, alternatives.flatten(0, 1).long())
        return right.view(alternatives.shape[:2])

    def end(self) -> None:
        """Fetch the sums of the batch from the device in one transfer."""
        if not self._waiting:
            return
        counts = torch.stack([torch.stack(list(sums.values())) for _, _, sums, _ in self._waiting]).tolist()
        shares = torch.stack([share for *_, share in self._waiting]).tolist()
        for (curve, point, sums, _), values, share in zip(self._waiting, counts, shares, strict=True):
            fetched = dict(zip(sums, values, strict=True)) | {"accuracy": share}
            _add(self.curves.setdefault(curve, {}).setdefault(point, {}), fetched)
        self._waiting.clear()

    def num_judged(self, curve: str) -> int:
        """Return the number of puzzles behind the score of a curve: all if judged by rules, else the labelled ones."""
        sums = next(iter(self.curves[curve].values()))
        return int(sums["rows" if "solved" in sums else "labelled"])

    def gather(self, gather_object: Callable[[Any], list[Any]]) -> None:
        """Sum over ranks, on every rank; seconds are those of the slowest rank."""
        parts = gather_object((self.curves, self.stages, dict(self.seconds)))
        self.curves, self.stages, self.seconds = {}, {}, defaultdict(float)
        for curves, stages, seconds in parts:
            for curve, points in curves.items():
                for point, sums in points.items():
                    _add(self.curves.setdefault(curve, {}).setdefault(point, {}), sums)
            for name, sums in stages.items():
                _add(self.stages.setdefault(name, {}), sums)
            for name, value in seconds.items():
                self.seconds[name] = max(self.seconds[name], value)


def right_cells(answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Number of correct labelled cells of each answer (..., S), and number of labelled cells; shapes broadcast."""
    labelled = labels != IGNORE_LABEL_ID
    return (labelled & (answers == labels)).sum(-1), labelled.sum(-1)


def _add(sums: dict[str, float], more: dict[str, float]) -> None:
    for key, value in more.items():
        sums[key] = sums.get(key, 0) + value
