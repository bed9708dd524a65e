"""Run a test-time strategy over a test stream: metrics of its answers, and a tally of accuracy against compute.

Shapes: B rows on this rank, S `seq_len`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from evaluators.base import Evaluator
from evaluators.results import NOTHING, Collector, LocalBatch, labelled_only, local_batches
from evaluators.strategies.accounting import Tally, right_cells
from evaluators.strategies.base import Answered, Strategy
from evaluators.strategies.samples import PuzzleRows
from models.losses import ACTLossHead
from puzzle_dataset import PuzzleDataset, on_device
from utils.distributed import World
from utils.errors import UserError
from utils.progress import Progress

_OF_THE_BATCH = {"inputs", "labels", "puzzle_identifiers"}


@torch.inference_mode()
def measure(
    strategy: Strategy,
    head: ACTLossHead,
    data: PuzzleDataset,
    world: World,
    *,
    evaluators: dict[str, Evaluator],
    save_outputs: Collection[str] = NOTHING,
    save_dir: Path | None = None,
    step: int = 0,
    limit: int | None = None,
) -> tuple[dict[str, float], Tally]:
    """Return metrics, named as in training, and the tally, on every rank; `Collector` writes the files.

    Losses are included if the strategy returns the logits of one step. Raises `UserError` if an output to save is not
    available from the strategy.
    """
    collector = Collector(world, evaluators, save_outputs, save_dir, step)
    if missing := collector.needed - strategy.outputs - _OF_THE_BATCH:
        raise UserError(
            f"{', '.join(sorted(missing))} (requested by eval_save_outputs or an evaluator) belongs to one step of one "
            "model, which this strategy does not have: only strategy=plain without halt provides it"
        )
    tally = Tally(head.solved_by_rules)
    num_rows = data.num_examples if limit is None else min(limit, data.num_examples)
    progress = Progress("evaluate", "row", world, total=num_rows, leave=False)
    waiting: deque[tuple[LocalBatch, dict[str, Tensor]]] = deque()  # batches that have no answers yet

    def rows_of_batches() -> Iterator[PuzzleRows]:
        for local in local_batches(data, world.rank, limit):
            if not local.num_rows:  # the last rows belong to other ranks
                progress.update(local.num_global)
                continue
            rows = {name: value[: local.num_rows] for name, value in local.batch.items()}
            batch = on_device(rows, world.device)
            numbers = torch.arange(local.number, local.number + local.num_rows).numpy()
            waiting.append((local, batch))
            tally.begin(batch["labels"], batch["inputs"])
            yield PuzzleRows(batch["inputs"], batch["puzzle_identifiers"], numbers)

    with closing(progress), collector:
        for answered in strategy.stream(rows_of_batches(), tally):
            local, batch = waiting.popleft()
            tally.begin(batch["labels"], batch["inputs"])  # again, because a strategy may read batches ahead
            answered.record(tally)
            tally.end()
            outputs = {"preds": answered.preds, "q_halt_logits": answered.q_halt} | answered.outputs
            named = batch | outputs
            collector.add(local, batch_sums(head, answered, named), named)
            progress.show(collector.running_score)
            progress.update(local.num_global)
    tally.gather(world.gather_object)
    return collector.results(), tally


def batch_sums(head: ACTLossHead, answered: Answered, outputs: dict[str, Tensor]) -> dict[str, float]:
    """Sum metrics over the rows of a batch: all of the loss head or, without logits, those that do not need them.

    `outputs` (B, ...) are those of the model and the `inputs` and `labels` of the batch.
    """
    labels = outputs["labels"]
    if "logits" in outputs:
        scored = labelled_only(labels, outputs, {"labels": labels, "steps": answered.steps})
        if scored is None:
            return {}
        outputs, rows = scored
        every = torch.ones_like(rows["steps"], dtype=torch.bool)
        _, metrics = head.loss(outputs, rows["labels"], every, rows["steps"])
        return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))
    correct, labelled = right_cells(answered.preds, labels)
    counted, exact = labelled > 0, correct == labelled
    solved = exact
    by_rules = {}
    if head.solved_by_rules is not None:
        solved = head.solved_by_rules(outputs["inputs"], answered.preds)
        by_rules = {"solved": counted & solved}
    metrics = {
        "count": counted,
        "accuracy": torch.where(counted, correct / labelled.clamp(min=1), 0),
        "exact_accuracy": counted & exact,
        "q_halt_accuracy": counted & ((answered.q_halt >= 0) == solved),
        "steps": torch.where(counted, answered.steps, 0),
        **by_rules,
    }
    return {name: float(values.sum()) for name, values in metrics.items()}
