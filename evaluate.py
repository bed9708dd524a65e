"""Evaluate trained weights: `python evaluate.py checkpoint=RUN_FOLDER_OR_FILE [strategy=...] [key=value ...]`.

Data and settings are those of the run unless overridden (see config/cfg_evaluate.yaml); under `torchrun` the rows are
distributed over its processes.
"""

from __future__ import annotations

if __name__ == "__main__":  # for the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()
    from utils.collection import pause_collection

    pause_collection()

import sys

import hydra
from omegaconf import DictConfig

from config.command_line import Command
from config.evaluate_schema import OPTIONS, EvaluateConfig
from config.overrides import check_config, run_command
from utils.errors import UserError, report_user_errors

COMMAND = Command(
    "evaluate.py",
    "Evaluate trained weights and write a report. Null means: as the run was trained, or the strategy's default.",
    EvaluateConfig,
    config_name="cfg_evaluate",
)


@hydra.main(config_path="config", config_name="cfg_evaluate", version_base=None)
@report_user_errors
def launch(cfg: DictConfig) -> None:
    """Check the config; torch is imported only if it is valid."""
    config = check_config(cfg, EvaluateConfig)
    import evaluate  # this file as a module, including the part below

    evaluate.run(config)


if __name__ == "__main__":
    run_command(launch, COMMAND)
    sys.exit()

import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from dataset.families import named_family
from evaluators.base import build_evaluators, remarks
from evaluators.calibrated import OWN_RULE_IN_WORDS, calibrated, stop_rule_of
from evaluators.calibration import Calibration
from evaluators.inference import Solver, padded_sizes
from evaluators.measure import measure
from evaluators.reports.report import make_output_folder, summary, write_report
from evaluators.reports.training_cost import processor, training_cost
from evaluators.score import Score, wilson_interval
from evaluators.strategies.build import Choice, Setting, build_strategy
from evaluators.strategies.compute_curve import PLOT_NAME, compute_report, plot, tables
from models.backends import FusedCPU, choose_backend
from models.losses import ACTLossHead
from puzzle_dataset import PuzzleDataset
from trained_run import Trained, evaluation_folder, open_trained, opened_as
from utils.collection import resume_collection
from utils.device import FUSED, compile_policy
from utils.distributed import World
from utils.weights import weights_steps


def run_evaluation(config: EvaluateConfig, world: World) -> dict[str, Any]:
    """Evaluate as configured; return the report on every rank. Rank 0 also writes it to `out` and prints a summary."""
    members = open_members(config)
    trained = members[0]
    uses_own_data = config.data_paths_test is None
    config = config.completed(trained.config.values)
    with opened_as(trained, config.family):
        data = open_data(config, world, uses_own_data)
    for line in data.notices:
        world.print(line)
    heads = [build(member, config, data, world) for member in members]
    wanted = None if config.evaluators is None else [(e.name, e.options) for e in config.evaluators]
    score = Score(config.data_paths_test, data.metadata)
    try:
        evaluators = build_evaluators(wanted, config.data_paths_test, data.metadata, data.splits)
    except ValueError as error:
        raise UserError(str(error)) from error
    can_be_fused = all(FusedCPU.fits(head.architecture) for head in heads)
    wanted = config.compile
    if config.halt == "auto" and wanted == "auto" and can_be_fused:
        wanted = FUSED  # answers are to come fast, and the stop rule is chosen with the same roundings
    mode, reason = compile_policy(wanted, world.device, can_be_fused)
    solvers = [Solver(head, world.device) for head in heads]
    applications = {solver.applications_per_step() for solver in solvers}
    if len(applications) > 1:
        raise UserError(
            f"checkpoints: a supervision step applies networks {sorted(applications)} times, so their compute cannot "
            "be added; use checkpoints with the same H_cycles and L_cycles"
        )
    steps = config.halt_max_steps or solvers[0].trained_steps
    options = {name: getattr(config, name) for name in OPTIONS}
    sizes = padded_sizes(data.local_batch_size, mode)
    identifiers = sorted(
        {i for _, s in data.splits for part in s.sets.values() for i in part.puzzle_identifiers.tolist()}
    )
    setting = Setting(
        solvers, data.metadata, config.data_paths_test, data.local_batch_size, sizes, identifiers
    )
    choice = Choice(config.strategy, steps, **options)
    strategy, options = build_strategy(choice, setting)  # refuses what cannot run before anything is computed
    if mode:
        for head in heads:
            head.architecture.backend = choose_backend(head.architecture, mode)
    resume_collection()
    folder = Path(config.out) if config.out else evaluation_folder(trained)
    if world.is_main:
        make_output_folder(folder)
    where = ", ".join(filter(None, (str(world.device), reason)))
    world.print(f"{trained.label}: {type(heads[0].architecture).__name__} on {where}")

    began = time.perf_counter()
    for solver in solvers:
        solver.warm_up(sizes)
    seconds_compiling, began = time.perf_counter() - began, time.perf_counter()
    calibration = None
    if config.halt == "auto":
        calibration = calibrate(config, trained, solvers[0], setting, steps, data, world)
        strategy, options = build_strategy(choice, replace(setting, rule=stop_rule_of(calibration)))
    seconds_calibrating, began = time.perf_counter() - began, time.perf_counter()
    metrics, tally = measure(
        strategy,
        heads[0],
        data,
        world,
        evaluators={"score": score} | evaluators,
        save_outputs=config.eval_save_outputs or (),
        save_dir=folder,
        step=trained.step or 0,
        limit=config.limit,
    )
    seconds = time.perf_counter() - began
    curves = tables(tally, applications.pop())
    compute = compute_report(curves, tally, config.strategy)
    uses_rules = config.checker and config.strategy == "ladder"
    if uses_rules:
        metrics = {f"{name}_with_checker": value for name, value in metrics.items()}
    report = {
        "checkpoint": trained.label,
        "checkpoints": [member.label for member in members],
        "step": trained.step,
        "architecture": trained.arch["name"],
        "ema": trained.config.values["ema"],
        "seed_of_training": trained.config.values["seed"],
        "training": training_cost(trained),
        "knows_of_the_rules": heads[0].architecture.knows,
        "data": config.data_paths_test,
        "rows": score.rows,
        "rows_of_the_data": data.num_examples,
        "rows_with_labels": score.labelled,
        "rows_solved": score.solved,
        "solved_by": "labels" if score.check is None else "rules",
        "solved_interval_95": _interval(score.solved, score.judged),
        "rows_exact": score.exact,
        "exact_accuracy_interval_95": _interval(score.exact, score.labelled),
        "strategy": config.strategy,
        "options": options,
        "calibration": None if calibration is None else calibration.model_dump(),
        "answers_use_the_rules": uses_rules,
        "halt_max_steps": steps,
        "halt_max_steps_of_training": trained.settings().halt_max_steps,
        "forward_dtype": heads[0].architecture.config.forward_dtype,
        "metrics": metrics,
        "remarks": remarks(evaluators),
        **compute,
        "flops_per_puzzle": round(compute["supervision_steps_per_puzzle"] * solvers[0].flops_per_step()),
        "seconds": round(seconds, 3),
        "seconds_compiling_before": round(seconds_compiling, 3),
        "seconds_calibrating_before": round(seconds_calibrating, 3),
        "device": str(world.device),
        "processor": processor(),
        "processes": world.size,
        "global_batch_size": config.global_batch_size,
        "compiled": mode,
        "torch": str(torch.__version__),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if world.is_main:
        write_report(folder, report)
        world.print(summary(report, folder))
        plot(curves, folder / PLOT_NAME.format(config.strategy), f"{config.strategy}: {trained.label}")
    return report


def _interval(successes: int, trials: int) -> list[float] | None:
    return list(wilson_interval(successes, trials)) if trials else None


def open_members(config: EvaluateConfig) -> list[Trained]:
    """Open the checkpoint, or those of an ensemble: the given ones, else every step_N of the run, newest first."""
    if config.strategy != "ensemble":
        return [open_trained(config.checkpoint, step=config.step)]
    if config.checkpoints:
        return [open_trained(name) for name in config.checkpoints]
    newest = open_trained(config.checkpoint, step=config.step)
    steps = weights_steps(newest.located.folder)
    if len(steps) < 2:
        raise UserError(
            f"{newest.label}: an ensemble needs several checkpoints, but this folder has {len(steps)} step_N; give "
            "them as checkpoints=[A,B]"
        )
    return [open_trained(str(newest.located.folder), step=step) for step in reversed(steps)]


def calibrate(
    config: EvaluateConfig,
    trained: Trained,
    solver: Solver,
    setting: Setting,
    num_steps: int,
    data: PuzzleDataset,
    world: World,
) -> Calibration | None:
    """Return the calibrated stop rule, chosen by rank 0 if need be; None for the model's own rule."""
    if solver.halts:
        if config.calibrate_on is not None:
            raise UserError(f"calibrate_on has no effect here: {OWN_RULE_IN_WORDS}")
        world.print(OWN_RULE_IN_WORDS)
        return None
    found = None
    if world.is_main:
        found = calibrated(
            trained,
            solver,
            num_steps,
            world,
            family=setting.family,
            batch_size=setting.capacity,
            sizes=setting.sizes,
            calibrate_on=config.calibrate_on,
            test_splits=[split for _, split in data.splits],
        )
    found = world.broadcast_object(found)
    world.print(found.in_words)
    return found


def build(trained: Trained, config: EvaluateConfig, data: PuzzleDataset, world: World) -> ACTLossHead:
    return trained.build(
        sizes=trained.sizes_for(data.model_sizes, config.data_paths_test, world.print),
        settings={"forward_dtype": config.forward_dtype} if config.forward_dtype else {},
        data=data.metadata,
        device=world.device,
        notice=world.print,
    )


def open_data(config: EvaluateConfig, world: World, uses_own_data: bool) -> PuzzleDataset:
    dist_kwargs = {
        "global_batch_size": config.global_batch_size,
        "rank": world.rank,
        "world_size": world.size,
    }
    try:
        return PuzzleDataset(config.data_paths_test, "test", **dist_kwargs)
    except UserError as error:
        if not uses_own_data:
            raise
        raise UserError(
            f"{error}\n(this path is from the training run; give the folder on this machine as data_paths_test=[DIR])"
        ) from error


def run(config: EvaluateConfig) -> None:
    with World.start(config.device) as world, named_family(config.family):
        run_evaluation(config, world)
