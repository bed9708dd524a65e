"""One pass over a test stream: every step of every row, metrics of the last one.

Shapes: B rows of this rank, S `seq_len`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from evaluators.base import Evaluator
from evaluators.saved import SavedOutputs
from models.act import ACTModel
from models.losses import ACTLossHead
from puzzle_dataset import Batch, PuzzleDataset
from utils.distributed import World

NOTHING: frozenset[str] = frozenset()


@torch.no_grad()
def run_steps(model: ACTModel, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Run a fresh carry through all `halt_max_steps` steps: the last step's outputs, and when each row said stop.

    The second value (B,) int32 is the first step at which the architecture's halting rule says stop, or
    `halt_max_steps` for rows that never do; the answers come from the last step all the same.
    """
    carry = model.initial_carry(batch)
    first_stop = torch.full_like(carry.steps, model.max_steps)
    for step in range(1, model.max_steps + 1):
        carry, outputs = model(carry, batch)
        stops = model.rule.says_stop(outputs["q_halt_logits"], outputs["q_continue_logits"])
        first_stop = torch.where(stops, first_stop.clamp(max=step), first_stop)
        # Where evaluation halts, stopped rows are frozen: once all are, further steps change nothing.
        if model.act_inference and bool(carry.halted.all()):
            break
    outputs["preds"] = outputs["logits"].argmax(-1)
    return outputs, first_stop


def limited(batches: Iterable[Batch], limit: int | None) -> Iterator[Batch]:
    """The batches up to the stream's first `limit` examples; of the last one fewer count as real."""
    for set_name, batch, num_global in batches:
        if limit is not None:
            if limit <= 0:
                return
            num_global, limit = min(num_global, limit), limit - num_global
        yield set_name, batch, num_global


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
    limit: int | None = None,
) -> dict[str, float]:
    """Metrics of the test stream `data` under the names they are logged by, on every rank.

    `test/metric` pools the sets; with several sets each is also reported as `test/{set}/metric`. `save_outputs` are
    written per rank to `{save_dir}/step_{step}_all_preds.{rank}`, evaluators' files below
    `{save_dir}/evaluator_{name}_step_{step}/`. Padding rows count nowhere. `poll` is called before each batch, on all
    ranks alike; what it raises ends the evaluation. `limit` stops after the stream's first rows.
    """
    was_training = model.training
    model.eval()
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    needed = set(save_outputs).union(*(evaluator.required_outputs for evaluator in evaluators.values()))
    seen: dict[str, int] = defaultdict(int)  # examples of the global stream so far, by set
    for evaluator in evaluators.values():
        evaluator.begin()

    batches = tqdm(
        limited(data.batches(), limit),
        total=data.num_batches()
        if limit is None
        else min(data.num_batches(), -(-limit // data.global_batch_size)),
        desc="evaluate",
        leave=False,
        disable=None if world.is_main else True,
    )
    path = None if save_dir is None else save_dir / f"step_{step}_all_preds.{world.rank}"
    with SavedOutputs(path, save_outputs) as saved:
        for set_name, batch, num_global in batches:
            poll()
            size = batch["inputs"].shape[0]
            start = seen[set_name] + world.rank * size
            seen[set_name] += num_global
            num_rows = max(0, min(size, seen[set_name] - start))
            if num_rows == 0:
                continue
            # The padded batch keeps one shape for the compiler; padding rows are dropped from what is counted.
            batch = {name: value.to(world.device) for name, value in batch.items()}
            outputs, first_stop = run_steps(model.model, batch)
            first_stop = first_stop[:num_rows]
            batch, outputs = ({k: v[:num_rows] for k, v in named.items()} for named in (batch, outputs))
            halted = torch.ones_like(first_stop, dtype=torch.bool)
            _, metrics = model.loss(outputs, batch["labels"], halted, first_stop)
            for name, value in zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True):
                sums[set_name][name] += value
            if count := sum(values["count"] for values in sums.values()):
                exact = sum(values["exact_accuracy"] for values in sums.values()) / count
                batches.set_postfix_str(f"exact accuracy {exact:.2%}", refresh=False)
            rows = {name: value.cpu() for name, value in (batch | outputs).items() if name in needed}
            saved.add(rows)
            for evaluator in evaluators.values():
                wanted = {name: rows[name] for name in evaluator.required_outputs}
                evaluator.update(set_name, wanted, torch.arange(start, start + num_rows))
        saved.write()

    results = means(world.gather_object({name: dict(values) for name, values in sums.items()}))
    for name, evaluator in evaluators.items():
        folder = None if save_dir is None else save_dir / f"evaluator_{name}_step_{step}"
        results |= world.broadcast_object(evaluator.result(world.gather_object, folder))
    model.train(was_training)
    return results


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
