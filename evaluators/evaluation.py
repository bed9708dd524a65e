"""Evaluate a model on a test stream: run all steps of every row and compute metrics of the last.

Shapes: B rows of this rank, S `seq_len`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from evaluators.base import Evaluator
from evaluators.results import NOTHING, Collector, LocalBatch, labelled_only, local_batches
from models.act import ACTModel
from models.losses import ACTLossHead
from puzzle_dataset import PuzzleDataset, on_device
from utils.distributed import World
from utils.progress import Progress


@torch.no_grad()
def run_steps(model: ACTModel, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Run a new carry for `halt_max_steps` steps; return the last outputs and the first step that said stop.

    The second value (B,) int32 is the first step at which the architecture's halting rule says stop, or
    `halt_max_steps` for rows that never do; the answers are those of the last step in either case.
    """
    carry = model.initial_carry(batch)
    first_stop = torch.full_like(carry.steps, model.max_steps)
    for step in range(1, model.max_steps + 1):
        carry, outputs = model(carry, batch)
        stops = model.rule.says_stop(outputs["q_halt_logits"], outputs["q_continue_logits"])
        first_stop = torch.where(stops, first_stop.clamp(max=step), first_stop)
        # With act_inference, halted rows are frozen: once all have halted, further steps change nothing.
        if model.act_inference and bool(carry.halted.all()):
            break
    outputs["preds"] = outputs["logits"].argmax(-1)
    return outputs, first_stop


@torch.no_grad()
def metric_names(
    model: ACTLossHead, data: PuzzleDataset, evaluators: dict[str, Evaluator]
) -> set[str] | None:
    """Return all names that `evaluate` can return, or None if the loss head or an evaluator does not declare them.

    Not all of them need occur: a set may have no such puzzles, or none with labels.
    """
    of_evaluators = [evaluator.metric_names() for evaluator in evaluators.values()]
    if type(model).loss is not ACTLossHead.loss or None in of_evaluators:
        return None
    metrics = {*model.EVALUATION_LOSSES, *model.metrics}
    sets = data.metadata.sets
    prefixes = ["test", *(f"test/{name}" for name in sets if len(sets) > 1)]
    return {f"{prefix}/{name}" for prefix in prefixes for name in metrics}.union(*of_evaluators)


def loss_sums(
    model: ACTLossHead, local: LocalBatch, named: dict[str, Tensor], first_stop: Tensor
) -> dict[str, float]:
    """Sum the metrics of the loss head over the real rows, `named` (B, ...) and `first_stop` (B,), of a batch."""
    scored = labelled_only(local.batch["labels"][: local.num_rows], named, {"first_stop": first_stop})
    if scored is None:
        return {}
    outputs, stops = scored
    halted = torch.ones_like(stops["first_stop"], dtype=torch.bool)
    _, metrics = model.loss(outputs, outputs["labels"], halted, stops["first_stop"])
    return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))


@torch.no_grad()
def evaluate(
    model: ACTLossHead,
    data: PuzzleDataset,
    world: World,
    *,
    evaluators: dict[str, Evaluator],
    save_outputs: Collection[str] = NOTHING,
    save_dir: Path | None = None,
    step: int = 0,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Evaluate the test stream `data`; return metrics by the names they are logged under, on every rank.

    `test/metric` pools the sets; with several sets each is also reported as `test/{set}/metric`. Padding rows and rows
    without a label are excluded. `Collector` writes the files. `poll` is called before each batch on every rank; an
    exception it raises ends the evaluation.
    """
    was_training = model.training
    model.eval()
    progress = Progress("evaluate", "batch", world, total=data.num_batches(), leave=False)
    with closing(progress), Collector(world, evaluators, save_outputs, save_dir, step) as collector:
        for local in local_batches(data, world.rank):
            poll()
            progress.update()
            if local.num_rows == 0:
                continue
            # Run the padded batch, which has one shape for the compiler; padding rows are dropped afterwards.
            batch = on_device(local.batch, world.device)
            outputs, first_stop = run_steps(model.act, batch)
            named = {name: value[: local.num_rows] for name, value in (batch | outputs).items()}
            collector.add(local, loss_sums(model, local, named, first_stop[: local.num_rows]), named)
            progress.show(collector.running_score)
    results = collector.results()
    model.train(was_training)
    return results
