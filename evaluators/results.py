"""Split a test stream over ranks, and collect metrics, saved outputs and evaluator results of one evaluation.

Shapes: B rows of this rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dataset.format import IGNORE_LABEL_ID
from evaluators.base import Evaluator
from evaluators.saved_outputs import SavedOutputs
from puzzle_dataset import PuzzleDataset
from utils.distributed import World

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LocalBatch:
    """The rows of one global batch that belong to this rank."""

    set_name: str
    batch: dict[str, Tensor]  # for `on_device`; padding rows follow the real ones
    num_rows: int  # real rows of this rank, may be 0
    start: int  # index of the first row in its set
    number: int  # index of the first row in the stream
    num_global: int  # real rows on all ranks


def local_batches(data: PuzzleDataset, rank: int, limit: int | None = None) -> Iterator[LocalBatch]:
    """Yield the batches of this rank, with narrow tokens, up to the first `limit` examples of the stream."""
    seen: dict[str, int] = defaultdict(int)  # examples of the global stream so far, by set
    for set_name, batch, num_global in data.batches(narrow=True):
        before, in_set = sum(seen.values()), seen[set_name]
        if limit is not None:
            num_global = min(num_global, limit - before)
            if num_global <= 0:
                return
        seen[set_name] += num_global
        offset = rank * data.local_batch_size
        num_rows = max(0, min(data.local_batch_size, num_global - offset))
        yield LocalBatch(set_name, batch, num_rows, in_set + offset, before + offset, num_global)


def labelled_only(labels: Tensor, *named: dict[str, Tensor]) -> list[dict[str, Tensor]] | None:
    """Drop rows whose labels (B, S) are all ignored from tensors (B, ...) by name; None if no row is left.

    Rows without a label are excluded from all metrics. Pass `labels` on the CPU to avoid a device synchronisation.
    """
    has_label = (labels != IGNORE_LABEL_ID).any(-1)
    if has_label.all():
        return list(named)
    rows = has_label.nonzero().squeeze(-1)
    if not len(rows):
        return None
    return [{name: value[rows.to(value.device)] for name, value in part.items()} for part in named]


class Collector:
    """Collect metric sums, saved outputs and evaluator results; a context manager around the batches of an evaluation.

    Each rank saves its outputs to `{save_dir}/step_{step}_all_preds.{rank}`; evaluators write to
    `{save_dir}/evaluator_{name}_step_{step}/`.
    """

    def __init__(
        self,
        world: World,
        evaluators: dict[str, Evaluator],
        save_outputs: Collection[str],
        save_dir: Path | None,
        step: int,
    ):
        self.world, self.evaluators, self.save_dir, self.step = world, evaluators, save_dir, step
        self.needed = set(save_outputs).union(*(e.required_outputs for e in evaluators.values()))
        self.sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        path = None if save_dir is None else save_dir / f"step_{step}_all_preds.{world.rank}"
        self._saved = SavedOutputs(path, save_outputs)
        for evaluator in evaluators.values():
            evaluator.begin()

    def __enter__(self) -> Collector:
        self._saved.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        try:
            if exception[0] is None:
                self._saved.write()
        finally:
            self._saved.__exit__(*exception)

    def add(self, local: LocalBatch, sums: dict[str, float], named: dict[str, Tensor]) -> None:
        """Add the real rows of a local batch: their metrics as sums, and tensors (B, ...) by name."""
        for name, value in sums.items():
            self.sums[local.set_name][name] += value
        rows = {name: value.cpu() for name, value in named.items() if name in self.needed}
        self._saved.add(rows)
        for evaluator in self.evaluators.values():
            wanted = {name: rows[name] for name in evaluator.required_outputs}
            evaluator.update(local.set_name, wanted, torch.arange(local.start, local.start + local.num_rows))

    @property
    def running_score(self) -> str:
        """The share solved on this rank so far, as text; empty before the first labelled row."""
        count, exact, solved = (
            sum(sums.get(name, 0) for sums in self.sums.values())
            for name in ("count", "exact_accuracy", "solved")
        )
        if not count:
            return ""
        if any("solved" in sums for sums in self.sums.values()):
            return f"solved {solved / count:.2%}"
        return f"exact accuracy {exact / count:.2%}"

    def results(self) -> dict[str, float]:
        """Return metrics by the names they are logged under, equal on all ranks; every rank must call this."""
        metrics = means(self.world.gather_object({name: dict(values) for name, values in self.sums.items()}))
        for name, evaluator in self.evaluators.items():
            folder = None if self.save_dir is None else self.save_dir / f"evaluator_{name}_step_{self.step}"
            metrics |= self.world.broadcast_object(evaluator.result(self.world.gather_object, folder))
        return metrics


def means(sums_by_rank: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Divide sums per rank and set by their count; keys are the names they are logged under."""
    per_set: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    pooled: dict[str, float] = defaultdict(float)
    for of_rank in sums_by_rank:
        for set_name, values in of_rank.items():
            for name, value in values.items():
                per_set[set_name][name] += value
                pooled[name] += value
    groups = {"test": pooled}
    if len(per_set) > 1:
        groups |= {f"test/{set_name}": values for set_name, values in per_set.items()}
    return {
        f"{prefix}/{name}": value / values["count"]
        for prefix, values in groups.items()
        for name, value in values.items()
        if name != "count" and values["count"]
    }
