"""One pass of a test-time strategy over a test stream: metrics of its answers, and a tally of accuracy against compute.

Shapes: B rows of this rank, S `seq_len`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from evaluators.base import Evaluator
from evaluators.chains import Rows
from evaluators.evaluate import NOTHING, limited, means
from evaluators.saved import SavedOutputs
from evaluators.tally import Tally, right_cells
from evaluators.test_time import Answered, Strategy
from models.losses import ACTLossHead
from puzzle_dataset import PuzzleDataset
from utils.distributed import World
from utils.errors import UserError

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
    """Metrics by name and the tally, both on every rank; files and names are those of `evaluators.evaluate.evaluate`.

    Losses are among the metrics where the strategy answers with the logits of one step. Raises `UserError` for an
    output to save that the strategy does not have.
    """
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    needed = set(save_outputs).union(*(evaluator.required_outputs for evaluator in evaluators.values()))
    seen: dict[str, int] = defaultdict(int)  # examples of the global stream so far, by set
    if missing := needed - strategy.outputs - _OF_THE_BATCH:
        raise UserError(
            f"{', '.join(sorted(missing))} (asked for by eval_save_outputs or an evaluator) is of one step of one "
            "model, which the answers of this strategy are not: only strategy=plain without halt has it"
        )
    tally = Tally()
    for evaluator in evaluators.values():
        evaluator.begin()

    num_rows_in_all = data.num_examples if limit is None else min(limit, data.num_examples)
    progress = tqdm(
        total=num_rows_in_all,
        desc="evaluate",
        unit="row",
        leave=False,
        disable=None if world.is_main else True,
    )
    path = None if save_dir is None else save_dir / f"step_{step}_all_preds.{world.rank}"
    with progress, SavedOutputs(path, save_outputs) as saved:
        for set_name, batch, num_global in limited(data.batches(), limit):
            size = data.local_batch_size
            start, number = (count + world.rank * size for count in (seen[set_name], sum(seen.values())))
            seen[set_name] += num_global
            num_rows = max(0, min(size, seen[set_name] - start))
            if num_rows:
                batch = {name: value[:num_rows].to(world.device) for name, value in batch.items()}
                numbers = torch.arange(number, number + num_rows).numpy()
                rows = Rows(batch["inputs"], batch["puzzle_identifiers"], numbers)
                tally.begin(batch["labels"])
                answered = strategy.solve(rows, tally)
                tally.end()
                outputs = {"preds": answered.preds, "q_halt_logits": answered.q_halt} | answered.outputs
                of_set = sums[set_name]
                for name, value in batch_sums(head, answered, outputs, batch["labels"]).items():
                    of_set[name] += value
                kept = {name: value.cpu() for name, value in (batch | outputs).items() if name in needed}
                saved.add(kept)
                for evaluator in evaluators.values():
                    wanted = {name: kept[name] for name in evaluator.required_outputs}
                    evaluator.update(set_name, wanted, torch.arange(start, start + num_rows))
                if count := sum(values["count"] for values in sums.values()):
                    exact = sum(values["exact_accuracy"] for values in sums.values()) / count
                    progress.set_postfix_str(f"exact accuracy {exact:.2%}", refresh=False)
            progress.update(num_global)
        saved.write()

    tally.gather(world.gather_object)
    metrics = means(world.gather_object({name: dict(values) for name, values in sums.items()}))
    for name, evaluator in evaluators.items():
        folder = None if save_dir is None else save_dir / f"evaluator_{name}_step_{step}"
        metrics |= world.broadcast_object(evaluator.result(world.gather_object, folder))
    return metrics, tally


def batch_sums(
    head: ACTLossHead, answered: Answered, outputs: dict[str, Tensor], labels: Tensor
) -> dict[str, float]:
    """Metrics of a batch as sums over its rows: those of the loss head, or as many of them as need no logits."""
    if "logits" in outputs:
        every = torch.ones_like(answered.steps, dtype=torch.bool)
        _, metrics = head.loss(outputs, labels, every, answered.steps)
        return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True))
    correct, labelled = right_cells(answered.preds, labels)
    counted, solved = labelled > 0, correct == labelled
    metrics = {
        "count": counted,
        "accuracy": torch.where(counted, correct / labelled.clamp(min=1), 0),
        "exact_accuracy": counted & solved,
        "q_halt_accuracy": counted & ((answered.q_halt >= 0) == solved),
        "steps": torch.where(counted, answered.steps, 0),
    }
    return {name: float(values.sum()) for name, values in metrics.items()}
