"""Evaluate trained weights: `python evaluate.py checkpoint=RUN_FOLDER_OR_FILE [key=value ...]` (see README.md).

Data and settings are the run's own unless overridden; under `torchrun` the rows are shared by its processes.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from config.evaluate_schema import EvaluateConfig
from config.overrides import force_overrides
from config.schema import parse
from config.trained import Trained, open_trained
from evaluators.base import build_evaluators
from evaluators.evaluate import evaluate
from evaluators.score import Score, wilson_interval
from puzzle_dataset import PuzzleDataset
from utils.device import compile_policy
from utils.distributed import World
from utils.errors import UserError, report_user_errors
from utils.hub import HUB_PREFIX

REPORT_NAME = "report.json"


def run_evaluation(config: EvaluateConfig, world: World) -> dict[str, Any]:
    """Evaluate what `config` names: the report, on every rank; rank 0 has written it to `out` and the console."""
    trained = open_trained(config.checkpoint, step=config.step)
    uses_own_data = config.data_paths_test is None
    config = config.completed(trained.config.values)
    data = open_data(config, world, uses_own_data)
    sizes = {key: getattr(data.metadata, key) for key in ("seq_len", "vocab_size", "num_puzzle_identifiers")}
    settings = {key: value for key in ("halt_max_steps", "forward_dtype") if (value := getattr(config, key))}
    model = trained.build(
        sizes=trained.sizes_for(sizes, config.data_paths_test, world.print),
        settings=settings,
        device=world.device,
        notice=world.print,
    )
    wanted = None if config.evaluators is None else [(e.name, e.options) for e in config.evaluators]
    score = Score(config.data_paths_test, data.metadata)
    try:
        evaluators = build_evaluators(wanted, config.data_paths_test, data.metadata)
    except ValueError as error:
        raise UserError(str(error)) from error
    compiles, reason = compile_policy(config.compile, world.device)
    if compiles:
        model.model.inner.compile(dynamic=False)
    folder = Path(config.out) if config.out else default_output_folder(trained)
    if world.is_main:
        make_output_folder(folder)
    arch = model.model.inner.config
    world.print(f"{trained.label}: {type(model.model.inner).__name__} on {world.device}, {reason}")

    began = time.perf_counter()
    metrics = evaluate(
        model,
        data,
        world,
        evaluators={"score": score} | evaluators,
        save_outputs=config.eval_save_outputs or (),
        save_dir=folder,
        step=trained.step or 0,
        limit=config.limit,
    )
    seconds = time.perf_counter() - began
    report = {
        "checkpoint": trained.label,
        "step": trained.step,
        "architecture": trained.arch["name"],
        "ema": trained.config.values["ema"],
        "seed_of_training": trained.config.values["seed"],
        "data": config.data_paths_test,
        "rows": score.rows,
        "rows_of_the_data": sum(s.num_examples for _, split in data.splits for s in split.sets.values()),
        "rows_with_labels": score.labelled,
        "rows_solved": score.solved,
        "exact_accuracy_interval_95": list(wilson_interval(score.solved, score.labelled))
        if score.labelled
        else None,
        "halt_max_steps": arch.halt_max_steps,
        "halt_max_steps_of_training": trained.settings().halt_max_steps,
        "forward_dtype": arch.forward_dtype,
        "metrics": metrics,
        "seconds": round(seconds, 3),
        "device": str(world.device),
        "processes": world.size,
        "global_batch_size": config.global_batch_size,
        "compiled": compiles,
        "torch": str(torch.__version__),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if world.is_main:
        write_report(folder, report)
        world.print(summary(report, folder))
    return report


def open_data(config: EvaluateConfig, world: World, uses_own_data: bool) -> PuzzleDataset:
    places = {"global_batch_size": config.global_batch_size, "rank": world.rank, "world_size": world.size}
    try:
        return PuzzleDataset(config.data_paths_test, "test", **places)
    except UserError as error:
        if not uses_own_data:
            raise
        raise UserError(
            f"{error}\n(the data is the run's own; data_paths_test=[DIR] names it where it lies on this machine)"
        ) from error


def default_output_folder(trained: Trained) -> Path:
    """A folder beside the weights; for downloaded ones in the working directory."""
    if trained.label.startswith(HUB_PREFIX):
        return Path("evaluations", trained.label.removeprefix(HUB_PREFIX).replace("/", "--"))
    return trained.located.folder / f"evaluation_{trained.located.weights.name}"


def make_output_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error.strerror or error}); give another folder as out="
        ) from error


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """`report.json` holds the latest evaluation, `reports.jsonl` one line for each."""
    try:
        (folder / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        with open(folder / "reports.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); give another out="
        ) from error


def summary(report: dict[str, Any], folder: Path) -> str:
    """The report for the console."""
    lines = [f"{name}: {value:.4g}" for name, value in report["metrics"].items()]
    rows = f"{report['rows']:,} of {report['rows_of_the_data']:,} rows"
    if report["rows"] < report["rows_of_the_data"]:
        rows = f"the first {rows}"
    if report["exact_accuracy_interval_95"]:
        low, high = report["exact_accuracy_interval_95"]
        share = report["rows_solved"] / report["rows_with_labels"]
        lines.append(f"exact accuracy {share:.2%}, 95% interval {low:.2%} to {high:.2%}, on {rows}")
    else:
        lines.append(f"no row of {rows} has a label, so there is no accuracy")
    lines.append(f"{report['halt_max_steps']} steps, {report['seconds']:.1f} s; {folder / 'report.json'}")
    return "\n".join(lines)


@hydra.main(config_path="config", config_name="cfg_evaluate", version_base=None)
@report_user_errors
def launch(cfg: DictConfig) -> None:
    values = OmegaConf.to_container(cfg, resolve=True)
    config = parse(EvaluateConfig, values)
    with World.start(config.device) as world:
        run_evaluation(config, world)


if __name__ == "__main__":
    sys.argv[1:] = force_overrides(sys.argv[1:])
    launch()
