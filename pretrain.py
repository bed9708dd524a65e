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

from config.overrides import check_config, resolved, run_command
from config.schema import PretrainConfig
from utils.command_line.arguments import Command
from utils.errors import UserError, report_user_errors
from utils.loggers import Loggers, check_loggers, make_loggers
from utils.strict_model import parse

COMMAND = Command(
    "pretrain.py",
    "Train a recursive model on puzzles.",
    PretrainConfig,
    {"data_paths": "[DIR]"},
    config_name="cfg_pretrain",
)


@hydra.main(config_path="config", config_name="cfg_pretrain", version_base=None)
@report_user_errors
def launch(cfg: DictConfig) -> None:
    """Check the config; torch is imported only if it is valid."""
    config = check_config(cfg, PretrainConfig)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        check_loggers(config.logger, sweep=True)
    import pretrain  # this file as a module, including the part below

    if exit_code := pretrain.run(resolved(cfg, PretrainConfig)):
        sys.exit(exit_code)


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
from models.backends import FusedCPU, choose_backend
from models.train.metrics import NonFiniteLoss
from models.train.step import train_step
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
    write_result,
    write_run_folder,
)
from utils.checkpoint import Checkpointer
from utils.checkpoint_manager import CheckpointManager, Stopped
from utils.checkpoint_schedule import CheckpointSchedule, StopSignals
from utils.collection import resume_collection
from utils.device import compile_policy
from utils.distributed import World
from utils.interrupts import SIGNAL_EXIT_BASE
from utils.progress import Progress
from utils.run_folder import locked_run_folder


def fit(run: Run, loggers: Loggers, checkpoints: CheckpointManager, bar: Progress) -> None:
    """Run the training loop from the current `run.state`: train, log, evaluate, save."""
    config, world, state = run.config, run.world, run.state
    settings = {name: getattr(config, name) for name in ("seed", "global_batch_size", "grad_accum_steps")}

    def log_training() -> None:
        if state.metrics.num_steps:
            loggers.log(
                state.metrics.fetch()
                | {"train/lr": state.optimizers.schedule(state.step)}
                | state.progress(),
                state.step,
            )

    while state.iteration <= config.num_iterations and not checkpoints.stopped_early:
        remaining = config.num_iterations - state.iteration + 1
        bar.total = state.step - state.batch + remaining * run.train_data.num_batches(state.iteration)
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
        log_training()
        results = None
        if state.iteration >= config.min_eval_interval:
            with (
                checkpoints.saving_on_error(),
                state.ema.swapped_in() if state.ema else nullcontext(),
            ):
                results = evaluate(
                    state.model,
                    run.test_data,
                    world,
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
                world.print(line)
        state.iteration, state.batch = state.iteration + 1, 0
        checkpoints.after_iteration(results)


def train(config: PretrainConfig, world: World) -> int:
    """Train from a config to the last checkpoint; return the exit code, nonzero if a signal stopped the run."""
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
            return 0
        if world.is_main:
            write_run_folder(run)
        mode, reason = compile_policy(config.compile, world.device, FusedCPU.fits(inner))
        if mode:
            inner.backend = choose_backend(inner, mode)
        num_parameters = sum(p.numel() for p in state.model.parameters())
        where = ", ".join(filter(None, (f"on {world.device}", reason)))
        world.print(f"{type(inner).__name__}, {num_parameters:,} parameters, {where}; {run.folder}")
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
        )
        checkpoints = CheckpointManager(
            state, checkpointer, schedule, best, facts, save_every_eval=config.checkpoint_every_eval
        )
        resume_collection()
        try:
            fit(run, loggers, checkpoints, bar)
            checkpoints.finish()
            bar.close()
            if checkpoints.stopped_early:
                world.print(
                    f"stopped early: {best.evaluations_without_better} evaluations without a better {best.name}"
                )
            write_result(run)
        except NonFiniteLoss as error:
            raise UserError(str(error)) from error
        except Stopped:
            checkpointer.join()
            bar.close()
            # Not every rank has necessarily received the signal.
            signal = next(filter(None, world.gather_object(signals.received)))
            world.print(
                f"stopped by {signal.name} after step {state.step} and saved: continue with resume=auto"
            )
            return SIGNAL_EXIT_BASE + signal
        finally:
            bar.close()
            loggers.close()
    return 0


def run(values: dict[str, Any]) -> int:
    with World.start(str(values.get("device"))) as world:
        return train(parse(PretrainConfig, values), world)
