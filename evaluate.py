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

from config.evaluate_schema import OPTIONS, EvaluateConfig
from config.overrides import check_config, run_command
from utils.command_line.arguments import Command
from utils.errors import UserError, missing_package, report_user_errors

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
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from dataset.families import named_family
from evaluators.base import Evaluator, build_evaluators, remarks
from evaluators.calibrated import OWN_RULE_IN_WORDS, calibrated, stop_rule_of
from evaluators.calibration import Calibration
from evaluators.drawing.against_compute import PLOT_NAME, accuracy_against_compute
from evaluators.drawing.style import write_figure
from evaluators.inference import Solver, padded_sizes
from evaluators.measure import measure
from evaluators.reports.evaluation_report import make_output_folder, summary, write_report
from evaluators.reports.training_cost import processor, training_cost
from evaluators.score import Score, wilson_interval
from evaluators.stop_rule import StopRule
from evaluators.strategies.base import Strategy
from evaluators.strategies.build import Choice, Setting, build_strategy
from evaluators.strategies.compute_curve import compute_report, tables
from models.backends import FusedCPU, choose_backend
from models.losses import ACTLossHead
from puzzle_dataset import PuzzleDataset
from trained_run import Trained, open_trained
from utils.collection import resume_collection
from utils.device import FUSED, compile_policy
from utils.distributed import World
from utils.output_folders import evaluation_folder
from utils.weights import weights_steps


@dataclass
class Parts:
    """The parts of one evaluation."""

    config: EvaluateConfig  # with the run's own values instead of None
    world: World
    members: list[Trained]  # one, or several for an ensemble
    data: PuzzleDataset
    solvers: list[Solver]  # of the members
    evaluators: dict[str, Evaluator]
    score: Score

    @property
    def num_steps(self) -> int:
        """Supervision steps of every row."""
        return self.config.halt_max_steps or self.solvers[0].trained_steps


def run_evaluation(config: EvaluateConfig, world: World) -> dict[str, Any]:
    """Evaluate as configured; return the report on every rank. Rank 0 also writes it to `out` and prints a summary."""
    parts = open_parts(config, world)
    trained, config, inner = parts.members[0], parts.config, parts.solvers[0].head.architecture
    mode, reason = compile_mode(parts)
    setting = compiled_setting(parts, mode)
    options = {name: getattr(config, name) for name in OPTIONS}
    choice = Choice(config.strategy, parts.num_steps, **options)
    strategy, options = build_strategy(choice, setting)  # rejects invalid options before anything is computed
    if mode:
        for solver in parts.solvers:
            solver.head.architecture.backend = choose_backend(solver.head.architecture, mode)
    resume_collection()
    folder = Path(config.out) if config.out else evaluation_folder(trained.located)
    if world.is_main:
        make_output_folder(folder)
    where = ", ".join(filter(None, (str(world.device), reason)))
    world.print(f"{trained.label}: {type(inner).__name__} on {where}")

    began = time.perf_counter()
    for solver in parts.solvers:
        solver.warm_up(setting.sizes)
    seconds_compiling, began = time.perf_counter() - began, time.perf_counter()
    calibration = None
    if config.by_rule:
        if config.halt == "auto":
            calibration = calibrate(parts, setting)
            rule = stop_rule_of(calibration)
        else:
            rule = StopRule.of_probability(config.halt)
        strategy, options = build_strategy(choice, replace(setting, rule=rule))
    seconds_calibrating, began = time.perf_counter() - began, time.perf_counter()
    metrics, tally = measure(
        strategy,
        parts.solvers[0].head,
        parts.data,
        world,
        evaluators={"score": parts.score} | parts.evaluators,
        save_outputs=config.eval_save_outputs or (),
        save_dir=folder,
        step=trained.step or 0,
        limit=config.limit,
    )
    seconds = time.perf_counter() - began
    curves = tables(tally, parts.solvers[0].applications_per_step())
    report = report_of(parts, strategy, options, metrics, compute_report(curves, tally, strategy.main_curve))
    report |= {
        "calibration": None if calibration is None else calibration.model_dump(),
        "seconds": round(seconds, 3),
        "seconds_compiling_before": round(seconds_compiling, 3),
        "seconds_calibrating_before": round(seconds_calibrating, 3),
        "compiled": mode,
    }
    if world.is_main:
        write_report(folder, report)
        world.print(summary(report, folder))
        rows = {curve: tally.num_judged(curve) for curve in curves}
        title = f"{config.strategy}: {trained.label}"
        try:
            write_figure(
                folder,
                PLOT_NAME.format(config.strategy),
                lambda: accuracy_against_compute(curves, rows, title),
            )
        except ModuleNotFoundError as error:
            if (missing := missing_package(error)) is None:
                raise
            world.print(f"no plot: {missing}")
    return report


def open_parts(config: EvaluateConfig, world: World) -> Parts:
    """Open checkpoints and data, and build models and evaluators. Raises UserError if they do not fit together."""
    members = open_members(config)
    trained, given = members[0], config.data_paths_test
    config = config.completed(trained.config)
    data = trained.open_data(
        "test",
        given,
        family=config.family,
        global_batch_size=config.global_batch_size,
        rank=world.rank,
        world_size=world.size,
    )
    for line in data.notices:
        world.print(line)
    solvers = [Solver(build(member, config, data, world), world.device) for member in members]
    applications = {solver.applications_per_step() for solver in solvers}
    if len(applications) > 1:
        raise UserError(
            f"checkpoints: a supervision step applies networks {sorted(applications)} times, so their compute cannot "
            "be added; use checkpoints with the same H_cycles and L_cycles"
        )
    wanted = None if config.evaluators is None else [(e.name, e.options) for e in config.evaluators]
    score = Score(config.data_paths_test, data.metadata)
    try:
        evaluators = build_evaluators(wanted, config.data_paths_test, data.metadata, data.splits)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Parts(config, world, members, data, solvers, evaluators, score)


def compile_mode(parts: Parts) -> tuple[str | None, str]:
    """Return how the networks are compiled, None for eager code, and the reason for the console."""
    can_be_fused = all(FusedCPU.fits(solver.head.architecture) for solver in parts.solvers)
    wanted = parts.config.compile
    trained_fused = all(member.config.values.get("compile") in (True, FUSED) for member in parts.members)
    if wanted == "auto" and can_be_fused and (parts.config.by_rule or trained_fused):
        # By a rule, answers are to come fast. Otherwise the run's own evaluations had these roundings, too.
        wanted = FUSED
    return compile_policy(wanted, parts.world.device, can_be_fused)


def compiled_setting(parts: Parts, mode: str | None) -> Setting:
    """Return what a strategy is built on, with the batch sizes that `mode` compiles for."""
    data = parts.data
    identifiers = sorted(
        {i for _, s in data.splits for part in s.sets.values() for i in part.puzzle_identifiers.tolist()}
    )
    return Setting(
        parts.solvers,
        data.metadata,
        parts.config.data_paths_test,
        data.local_batch_size,
        padded_sizes(data.local_batch_size, mode),
        identifiers,
    )


def report_of(
    parts: Parts,
    strategy: Strategy,
    options: dict[str, Any],
    metrics: dict[str, float],
    compute: dict[str, Any],
) -> dict[str, Any]:
    """Collect what was evaluated and how, with its metrics and its `compute_report`, for report.json."""
    config, score, world = parts.config, parts.score, parts.world
    trained, solver = parts.members[0], parts.solvers[0]
    inner = solver.head.architecture
    if strategy.uses_rules:
        metrics = {f"{name}_with_checker": value for name, value in metrics.items()}
    return {
        "checkpoint": trained.label,
        "checkpoints": [member.label for member in parts.members],
        "step": trained.step,
        "architecture": trained.arch["name"],
        "ema": trained.config.values["ema"],
        "seed_of_training": trained.config.values["seed"],
        "training": training_cost(trained),
        "knows_of_the_rules": inner.knows,
        "data": config.data_paths_test,
        "rows": score.rows,
        "rows_of_the_data": parts.data.num_examples,
        "rows_with_labels": score.labelled,
        "rows_solved": score.solved,
        "solved_by": "labels" if score.check is None else "rules",
        "solved_interval_95": _interval(score.solved, score.judged),
        "rows_exact": score.exact,
        "exact_accuracy_interval_95": _interval(score.exact, score.labelled),
        "strategy": config.strategy,
        "options": options,
        "answers_use_the_rules": strategy.uses_rules,
        "halt_max_steps": parts.num_steps,
        "halt_max_steps_of_training": trained.settings().halt_max_steps,
        "forward_dtype": inner.config.forward_dtype,
        "metrics": metrics,
        "remarks": remarks(parts.evaluators),
        **compute,
        "flops_per_puzzle": round(compute["supervision_steps_per_puzzle"] * solver.flops_per_step()),
        "device": str(world.device),
        "processor": processor(),
        "processes": world.size,
        "global_batch_size": config.global_batch_size,
        "torch": str(torch.__version__),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


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


def calibrate(parts: Parts, setting: Setting) -> Calibration | None:
    """Return the calibrated stop rule, chosen by rank 0 if need be; None for the model's own rule."""
    config, solver, world = parts.config, parts.solvers[0], parts.world
    if solver.halts:
        if config.calibrate_on is not None:
            raise UserError(f"calibrate_on has no effect here: {OWN_RULE_IN_WORDS}")
        world.print(OWN_RULE_IN_WORDS)
        return None
    found = None
    if world.is_main:
        found = calibrated(
            parts.members[0],
            solver,
            parts.num_steps,
            world,
            family=setting.family,
            batch_size=setting.capacity,
            sizes=setting.sizes,
            calibrate_on=config.calibrate_on,
            test_splits=[split for _, split in parts.data.splits],
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


def run(config: EvaluateConfig) -> None:
    with World.start(config.device) as world, named_family(config.family):
        run_evaluation(config, world)
