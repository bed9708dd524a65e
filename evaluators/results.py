"""What every pass over a test stream does with the answers: which rows are real, and where their numbers go.

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
    """This rank's part of one global batch."""

    set_name: str
    batch: dict[str, Tensor]  # with padding rows behind the real ones
    num_rows: int  # real rows of this rank, 0 where the batch left it none
    start: int  # place of the first row within its set
    number: int  # place of the first row within the stream
    num_global: int  # real rows of all ranks


def local_batches(data: PuzzleDataset, rank: int, limit: int | None = None) -> Iterator[LocalBatch]:
    """The stream as this rank sees it, up to the stream's first `limit` examples."""
    seen: dict[str, int] = defaultdict(int)  # examples of the global stream so far, by set
    for set_name, batch, num_global in data.batches():
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
    """Tensors (B, ...) by name without the rows whose labels (B, S) are all ignored; None if no row is left.

    Such a row, whose answer nobody knows, counts nowhere. Labels on the CPU spare a wait for the device.
    """
    has_label = (labels != IGNORE_LABEL_ID).any(-1)
    if has_label.all():
        return list(named)
    rows = has_label.nonzero().squeeze(-1)
    if not len(rows):
        return None
    return [{name: value[rows.to(value.device)] for name, value in part.items()} for part in named]


class Collector:
    """Sums, saved outputs and evaluators of one evaluation; a context manager around its batches.

    Saved outputs go per rank to `{save_dir}/step_{step}_all_preds.{rank}`, evaluators' files below
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
        """Take the answers of a local batch's real rows: their metrics as sums, and tensors (B, ...) by name."""
        for name, value in sums.items():
            self.sums[local.set_name][name] += value
        rows = {name: value.cpu() for name, value in named.items() if name in self.needed}
        self._saved.add(rows)
        for evaluator in self.evaluators.values():
            wanted = {name: rows[name] for name in evaluator.required_outputs}
            evaluator.update(local.set_name, wanted, torch.arange(local.start, local.start + local.num_rows))

    @property
    def standing(self) -> str:
        """This rank's exact accuracy so far, in words; empty before there is one."""
        count, exact = (sum(s[name] for s in self.sums.values()) for name in ("count", "exact_accuracy"))
        return f"exact accuracy {exact / count:.2%}" if count else ""

    def results(self) -> dict[str, float]:
        """The metrics under the names they are logged by, equal on all ranks, which must all call this."""
        metrics = means(self.world.gather_object({name: dict(values) for name, values in self.sums.items()}))
        for name, evaluator in self.evaluators.items():
            folder = None if self.save_dir is None else self.save_dir / f"evaluator_{name}_step_{self.step}"
            metrics |= self.world.broadcast_object(evaluator.result(self.world.gather_object, folder))
        return metrics


def means(sums_by_rank: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Sums per rank and set, divided by the count, under the names they are logged by."""
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
