"""Train a recursive model on puzzles: `python pretrain.py arch=trm data_paths="[DIR]" ...`.

Composes the config, builds the parts of the run and runs the training loop. Everything else is in its own module: data
order in `puzzle_dataset.py`, the model in `models/`, metrics in `evaluators/`, disk and devices in `utils/`.
"""

from __future__ import annotations

if __name__ == "__main__":  # for the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()
    from utils.collection import pause_collection

    pause_collection()

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from config.jobs import check_objective, run_alone, run_in_sweep
from config.overrides import check_config, resolved, run_command
from config.recipe_headers import recipes_for_this_machine
from config.schema import PretrainConfig
from utils.command_line.arguments import Command
from utils.errors import UserError
from utils.loggers import Loggers, check_loggers, make_loggers
from utils.outcome import RunOutcome
from utils.strict_model import parse

COMMAND = Command(
    "pretrain.py",
    "Train a recursive model on puzzles.",
    PretrainConfig,
    {"data_paths": "[DIR]"},
    config_name="cfg_pretrain",
    advice=recipes_for_this_machine,
)


@hydra.main(config_path="config", config_name="cfg_pretrain", version_base=None)
def launch(cfg: DictConfig) -> float | None:
    """Train; torch is imported only if the config is valid. Returns the objective to the sweeper of `--multirun`."""
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN

    def train() -> RunOutcome:
        config = check_config(cfg, PretrainConfig)
        if sweep:
            check_loggers(config.logger, sweep=True)
            check_objective(config)
        import pretrain  # this file as a module, including the part below

        return pretrain.run(resolved(cfg, PretrainConfig))

    return run_in_sweep(train) if sweep else run_alone(train)


if __name__ == "__main__":
    run_command(launch, COMMAND)
    sys.exit()

import time
from contextlib import nullcontext
from functools import partial
from typing import Any

from dataset.families import named_family
from evaluators.base import remarks
from evaluators.drawing.run_pictures import evaluation_pictures
from evaluators.evaluation import evaluate, metric_names
from evaluators.reports.training_result import end, outcome_of, stopped
from models.backends import FusedCPU, choose_backend
from models.train.metrics import NonFiniteLoss
from models.train.step import train_step
from models.train.training_time import long_training_notice
from puzzle_dataset import Prefetcher, on_device
from training_run import (
    Run,
    best_metric,
    build,
    find_checkpoint,
    resolve_names,
    restore,
    run_metadata,
    start_from,
    write_run_folder,
)
from utils.checkpoint import Checkpointer
from utils.checkpoint_manager import CheckpointManager, Stopped
from utils.checkpoint_schedule import CheckpointSchedule, StopSignals
from utils.collection import resume_collection
from utils.device import compile_policy
from utils.distributed import World
from utils.progress import Progress
from utils.run_folder import locked_run_folder


def fit(run: Run, loggers: Loggers, checkpoints: CheckpointManager, bar: Progress) -> dict[str, float] | None:
    """Run the training loop from the current `run.state`: train, log, evaluate, save.

    Returns the results of the last evaluation. If the time is up within an iteration, its state is saved and evaluated;
    a resumed run finishes the iteration and evaluates it again.
    """
    config, world, state, results = run.config, run.world, run.state, None
    settings = {name: getattr(config, name) for name in ("seed", "global_batch_size", "grad_accum_steps")}

    def log_training() -> None:
        if state.metrics.num_steps:
            rate = {"train/lr": state.optimizers.schedule(state.step)}
            loggers.log(state.metrics.fetch() | rate | state.progress(), state.step)

    while state.iteration <= config.num_iterations and not checkpoints.ended:
        remaining = config.num_iterations - state.iteration + 1
        num_batches = run.train_data.num_batches(state.iteration)
        bar.total = state.step - state.batch + remaining * num_batches
        measured = state.iteration >= config.min_eval_interval
        stream = run.train_data.batches(state.iteration, start=state.batch, narrow=True)
        lap = time.perf_counter()
        with Prefetcher(stream, pin_memory=world.device.type == "cuda") as batches:
            for _, batch, _ in batches:
                train_step(state, on_device(batch, world.device), world, **settings)
                bar.update()
                state.seconds, lap = state.seconds + time.perf_counter() - lap, time.perf_counter()
                if state.step % config.log_interval == 0:
                    log_training()
                checkpoints.after_step()
                if checkpoints.out_of_time and not (measured and state.batch == num_batches):
                    return evaluate_now(run, loggers, checkpoints)
        log_training()
        results = evaluate_now(run, loggers, checkpoints) if measured else None
        state.iteration, state.batch = state.iteration + 1, 0
        checkpoints.after_iteration(results)
    return results


def evaluate_now(run: Run, loggers: Loggers, checkpoints: CheckpointManager) -> dict[str, float]:
    """Evaluate the averaged weights, or the live ones without `ema`, and log the results."""
    config, state = run.config, run.state
    with checkpoints.saving_on_error(), state.ema.swapped_in() if state.ema else nullcontext():
        results = evaluate(
            state.model,
            run.test_data,
            run.world,
            evaluators={"score": run.score} | run.evaluators,
            save_outputs=config.eval_save_outputs or (),
            save_dir=run.folder,
            step=state.step,
            poll=checkpoints.poll,
        )
        loggers.draw(partial(evaluation_pictures, state.model, run.test_data, results), state.step)
    if results:
        loggers.log(results, state.step)
    for line in remarks(run.evaluators):
        run.world.print(line)
    return results


def train(config: PretrainConfig, world: World) -> RunOutcome:
    """Train from a config to the last checkpoint, or until a signal or `max_minutes` stops the run."""
    with named_family(config.family):
        run = build(config, world)
    state, inner = run.state, run.state.model.architecture
    best = best_metric(config, state.model)
    if (
        best is not None
        and (possible := metric_names(state.model, run.test_data, run.evaluators)) is not None
    ):
        best.check(possible)
    if world.is_main:
        check_loggers(config.logger)
    with (
        locked_run_folder(run.folder, world) as exclusive,
        StopSignals() as signals,
        Checkpointer(run.folder, world, keep_last=config.keep_last, exclusive=exclusive) as checkpointer,
    ):
        found = find_checkpoint(run, checkpointer)
        saved: dict[str, Any] = {} if found is None else restore(run, checkpointer, found, best)
        continues_here = found is not None and found.path.parent.resolve() == run.folder.resolve()
        if found is None and config.load_checkpoint:
            start_from(run, config.load_checkpoint)
        resolve_names(run)
        config = run.config
        if state.iteration > config.num_iterations or (best is not None and best.out_of_patience):
            world.print(f"{run.folder}: this run has already finished, after step {state.step}")
            return outcome_of(run, best)
        if world.is_main:
            write_run_folder(run)
        mode, reason = compile_policy(config.compile, world.device, FusedCPU.fits(inner))
        if mode:
            inner.backend = choose_backend(inner, mode)
        num_parameters = sum(p.numel() for p in state.model.parameters())
        where = ", ".join(filter(None, (f"on {world.device}", reason)))
        world.print(f"{type(inner).__name__}, {num_parameters:,} parameters, {where}; {run.folder}")
        flops = state.row_flops() * config.global_batch_size // world.size
        updates = state.optimizers.settings.total_steps - state.step
        if notice := long_training_notice(flops, updates, world.device, inner.dtype):
            world.print(notice)
        bar = Progress("train", "step", world, initial=state.step)
        loggers = make_loggers(
            world,
            run.folder,
            names=config.logger,
            project=config.project_name,
            run_name=config.run_name,
            config=config.model_dump(),
            step=state.step,
            num_lines=saved["metrics_lines"] if continues_here else 0,
            run_id=saved.get("wandb_run_id"),
            bar=bar,
        )

        def facts() -> dict[str, Any]:
            logged = {"wandb_run_id": loggers.run_id, "metrics_lines": loggers.num_lines}
            return {"facts": run_metadata(run) | logged}

        schedule = CheckpointSchedule(
            world,
            signals,
            interval_steps=config.checkpoint_interval_steps,
            interval_minutes=config.checkpoint_interval_minutes,
            max_minutes=config.max_minutes,
        )
        checkpoints = CheckpointManager(
            state, checkpointer, schedule, best, facts, save_every_eval=config.checkpoint_every_eval
        )
        resume_collection()
        try:
            results = fit(run, loggers, checkpoints, bar)
            checkpoints.finish()
            bar.close()
            return end(run, best, results)
        except NonFiniteLoss as error:
            raise UserError(str(error)) from error
        except Stopped:
            checkpointer.join()
            bar.close()
            return stopped(signals, run, best)
        finally:
            bar.close()
            loggers.close()


def run(values: dict[str, Any]) -> RunOutcome:
    with World.start(str(values.get("device"))) as world:
        return train(parse(PretrainConfig, values), world)
