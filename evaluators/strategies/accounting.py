"""Accuracy against compute: sums over puzzles at every amount of compute that a strategy passes through.

A strategy never sees labels: it records its intermediate answers and their cost, and the tally scores them.
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

ORACLE = "oracle_pass_at"  # the curve that picks the right answer by means of the labels

# The sums kept for each point of a curve.
_COUNTS = ("rows", "labelled", "solved", "said_stop", "steps")


class Tally:
    """Curves (name -> point -> sums over the puzzles so far); they cover this rank until `gather`."""

    def __init__(self):
        self.curves: dict[str, dict[str, dict[str, float]]] = {}
        self.stages: dict[str, dict[str, int]] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self._labels = torch.empty(0)
        self._waiting: list[tuple[str, str, Tensor, Tensor]] = []

    def begin(self, labels: Tensor) -> None:
        """Start a batch with the labels (n, S), on the device that holds most answers."""
        self._labels = labels

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

        `answers` are (n, S) tokens, or (n, A, S) alternatives of which an oracle picks the right one. `steps`, a number
        or (n,), counts supervision steps over all chains.
        """
        labels = self._labels[part]
        alternatives = torch.as_tensor(answers, device=labels.device)
        if alternatives.ndim == 2:
            alternatives = alternatives[:, None]
        correct, has_label = right_cells(alternatives, labels[:, None])
        solved = (correct == has_label).any(1) & (has_label[:, 0] > 0)
        share = (correct / has_label.clamp(min=1)).amax(1).sum()
        steps = torch.as_tensor(steps, device=labels.device).expand(len(labels))
        stops = torch.zeros_like(solved) if says_stop is None else says_stop
        counts = (
            torch.ones_like(solved),
            has_label[:, 0] > 0,
            solved,
            torch.as_tensor(stops, device=labels.device),
            steps,
        )
        sums = torch.stack([values.sum(dtype=torch.int64) for values in counts])
        self._waiting.append((curve, str(point), sums, share))

    def record_stage(
        self, name: str, entering: np.ndarray, solved: np.ndarray, answers: np.ndarray, steps: np.ndarray
    ) -> None:
        """Add one stage of a cascade for the n puzzles of the batch.

        `entering` (n,) and `solved` (n,) are masks, `answers` is (n, S) and `steps` (n,).
        """
        correct, has_label = right_cells(torch.from_numpy(answers), self._labels.cpu())
        right = ((correct == has_label) & (has_label > 0)).numpy()
        sums = self.stages.setdefault(name, dict.fromkeys(STAGE_KEYS, 0))
        values = (entering, solved, solved & right, np.where(entering, steps, 0))
        for key, value in zip(STAGE_KEYS, values, strict=True):
            sums[key] += int(value.sum())

    def end(self) -> None:
        """Fetch the sums of the batch from the device in one transfer."""
        if not self._waiting:
            return
        counts = torch.stack([counts for _, _, counts, _ in self._waiting]).tolist()
        shares = torch.stack([share for *_, share in self._waiting]).tolist()
        for (curve, point, *_), values, share in zip(self._waiting, counts, shares, strict=True):
            sums = dict(zip(_COUNTS, values, strict=True)) | {"accuracy": share}
            _add(self.curves.setdefault(curve, {}).setdefault(point, {}), sums)
        self._waiting.clear()

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


STAGE_KEYS = ("rows_entering", "rows_said_solved", "of_them_exact", "supervision_steps")


def right_cells(answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Number of correct labelled cells of each answer (..., S), and number of labelled cells; shapes broadcast."""
    labelled = labels != IGNORE_LABEL_ID
    return (labelled & (answers == labels)).sum(-1), labelled.sum(-1)


def _add(sums: dict[str, float], more: dict[str, float]) -> None:
    for key, value in more.items():
        sums[key] = sums.get(key, 0) + value
