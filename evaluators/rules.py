"""Judge answers by the rules of their family: the default evaluator, and the target of halting in the loss head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.families import family_of
from dataset.format import IGNORE_LABEL_ID, Metadata, Split
from dataset.mixing import named_sets
from evaluators.base import Evaluator, open_test_splits, summed_by_set
from models.losses import ACTLossHead
from utils.errors import UserError


class Rules(Evaluator):
    """Compute `{family}/solved` and `{family}/exact`, shares of the test puzzles.

    solved: the answer obeys all rules and keeps the given cells (`Family.check`). exact: it equals the label; puzzles
    without a label are excluded. With several sets, each also has `{family}/{set}/...`.
    """

    def __init__(
        self,
        data_paths: list[str],
        metadata: Metadata,
        splits: Sequence[tuple[str, Split]] | None = None,
    ):
        """Raises UserError if the answers of a dataset cannot be checked, or if there are several families."""
        super().__init__(data_paths, metadata)
        sets = named_sets(list(splits or open_test_splits(data_paths)))
        families = {name: family_of(example_set.metadata) for name, example_set in sets.items()}
        for name, family in families.items():
            if family.check is None:
                raise UserError(
                    f"evaluator rules@Rules: answers to {name} cannot be checked by rules: {family.lacks('check')}"
                )
        names = sorted({family.name for family in families.values()})
        if len(names) > 1:
            raise UserError(
                f"evaluator rules@Rules: the datasets are of several families, {', '.join(names)}"
            )
        self.checks = {name: family.check for name, family in families.items()}
        self.prefix = names[0].rpartition("@")[2].lower()
        self.begin()

    def metric_names(self) -> set[str]:
        prefixes = [self.prefix]
        if len(self.checks) > 1:
            prefixes += [f"{self.prefix}/{set_name}" for set_name in self.checks]
        return {f"{prefix}/{metric}" for prefix in prefixes for metric in ("solved", "exact")}

    def begin(self) -> None:
        # Set -> (4,): puzzles, solved, labelled, exact.
        self._counts: dict[str, np.ndarray] = {}

    def update(self, set_name: str, outputs: dict[str, Tensor], example_indices: Tensor) -> None:
        inputs, labels, predictions = (outputs[name].numpy() for name in ("inputs", "labels", "preds"))
        solved = self.checks[set_name](inputs, predictions)
        ignored = labels == IGNORE_LABEL_ID
        labelled = ~ignored.all(axis=1)
        exact = ((predictions == labels) | ignored).all(axis=1) & labelled
        counts = np.array([len(inputs), solved.sum(), labelled.sum(), exact.sum()], np.int64)
        self._counts[set_name] = self._counts.get(set_name, 0) + counts

    def result(self, gather: Callable[[Any], list[Any]], save_dir: Path | None) -> dict[str, float]:
        counts = summed_by_set(gather(self._counts))
        if not counts:
            return {}
        named = {self.prefix: sum(counts.values())}
        if len(counts) > 1:
            named |= {f"{self.prefix}/{set_name}": of_set for set_name, of_set in counts.items()}
        values = {}
        for prefix, (number, solved, labelled, exact) in named.items():
            values[f"{prefix}/solved"] = float(solved / number)
            if labelled:
                values[f"{prefix}/exact"] = float(exact / labelled)
        return values


def judge_by_rules(head: ACTLossHead, metadata: Metadata) -> None:
    """Make a loss head judge answers by the rules of the family, if its puzzles have several right answers.

    Raises UserError if the `check_tensors` of the family gives anything but a bool for each row.
    """
    family = family_of(metadata)
    if not family.several_answers:
        return
    assert family.check_tensors is not None, "`family_class` rejects such families"
    questions = torch.zeros(2, metadata.seq_len, dtype=torch.int32)
    given = family.check_tensors(questions, questions.long())
    if not isinstance(given, Tensor) or (given.dtype, given.shape) != (torch.bool, (2,)):
        what = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)
        cls = type(family)
        raise UserError(
            f"{cls.__module__}@{cls.__qualname__}.check_tensors gives {what}, but must give torch.bool (2,) for 2 rows"
        )
    head.judge_by_rules(family.check_tensors)
