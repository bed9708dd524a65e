"""Train a recursive model on puzzles: `python pretrain.py arch=trm data_paths="[DIR]" ...` (see README.md).

Composes the config, builds the parts, runs the loop. What has its own mathematics or policy lives with its owner:
data order in `puzzle_dataset.py`, the model in `models/`, numbers in `evaluators/`, disk and devices in `utils/`.
"""

from __future__ import annotations

import inspect
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from config.overrides import force_overrides
from config.resume import check_changes
from config.schema import PretrainConfig, notices, parse
from config.trained import IDENTIFIERS_KEY, identifier_hashes
from evaluators.base import Evaluator, build_evaluators
from evaluators.evaluate import evaluate
from models.ema import EMA
from models.interval import IntervalMetrics, NonFiniteLoss
from models.optim import Optimizers, OptimizerSettings
from models.pretrained import load_weights
from models.registry import build_model
from models.training import TrainState, train_step
from puzzle_dataset import Prefetcher, PuzzleDataset, identifiers_hash
from utils.cadence import BestMetric, Cadence, StopSignals
from utils.checkpoint import Checkpoint, Checkpointer
from utils.device import (
    compile_policy,
    make_deterministic,
    seed_everything,
    set_random_state,
)
from utils.distributed import World
from utils.errors import UserError, report_user_errors
from utils.keeper import Keeper, Stopped
from utils.loggers import Loggers, make_loggers
from utils.run_folder import CONFIG_FILE, create_run_folder, default_run_name, holds_a_run
from utils.weights import locate, read_state_dict


@dataclass
class Run:
    """The parts of one training run, wired."""

    config: PretrainConfig
    world: World
    state: TrainState
    train_data: PuzzleDataset
    test_data: PuzzleDataset
    sizes: dict[str, int]
    evaluators: dict[str, Evaluator]
    folder: Path
    results: dict[str, float] = field(default_factory=dict)  # of the last evaluation


def build(config: PretrainConfig, world: World) -> Run:
    """Open the data and make every part of the run; nothing is written yet."""
    for line in notices(config):
        world.print(line)
    if config.global_batch_size % (world.size * config.grad_accum_steps):
        raise UserError(
            f"global_batch_size={config.global_batch_size} must be a multiple of the number of processes "
            f"({world.size}) times grad_accum_steps ({config.grad_accum_steps})"
        )
    seed_everything(config.seed)
    make_deterministic(world.device)
    places = {"global_batch_size": config.global_batch_size, "rank": world.rank, "world_size": world.size}
    train_data = PuzzleDataset(
        config.data_paths, "train", seed=config.seed, epochs_per_iter=config.epochs_per_iteration, **places
    )
    test_data = PuzzleDataset(config.test_paths, "test", **places)
    sizes = model_sizes(train_data, test_data)
    wanted = None if config.evaluators is None else [(e.name, e.options) for e in config.evaluators]
    try:
        evaluators = build_evaluators(wanted, config.test_paths, test_data.metadata)
        model = build_model(config.arch, **sizes).to(world.device)
        model.model.inner.activation_checkpointing = config.activation_checkpointing
        model.train()
        world.broadcast_(model.state_dict().values())
        total_steps = config.total_steps(
            train_data.metadata.total_groups, train_data.metadata.mean_puzzle_examples
        )
        keys = OptimizerSettings.__dataclass_fields__.keys() - {"total_steps"}
        settings = OptimizerSettings(total_steps=total_steps, **{key: getattr(config, key) for key in keys})
        optimizers = Optimizers(model, settings, world.gather_tensor)
    except ValueError as error:
        raise UserError(str(error)) from error
    ema = EMA(model, config.ema_rate) if config.ema else None
    interval = IntervalMetrics(config.global_batch_size, world.device, world.sum_)
    if optimizers.notice:
        world.print(optimizers.notice)
    folder = name_run(config, type(model.model.inner).__name__, world)
    state = TrainState(model, optimizers, ema, interval)
    return Run(config, world, state, train_data, test_data, sizes, evaluators, folder)


def name_run(config: PretrainConfig, model_class: str, world: World) -> Path:
    """Settle the names that the config leaves open; the run's folder."""
    if config.checkpoint_path is None and config.resume not in (None, "auto"):
        path = Path(config.resume)
        config.checkpoint_path = str(path if (path / CONFIG_FILE).exists() else path.parent)
    config.project_name = config.project()
    config.run_name = config.run_name or world.broadcast_object(default_run_name(model_class))
    config.checkpoint_path = config.checkpoint_path or f"checkpoints/{config.project_name}/{config.run_name}"
    return Path(config.checkpoint_path)


def model_sizes(train_data: PuzzleDataset, test_data: PuzzleDataset) -> dict[str, int]:
    """What the data decides about the model. Raises UserError where the test data does not fit the train data."""
    train, test = train_data.metadata, test_data.metadata
    for key in ("seq_len", "vocab_size", "pad_id", "ignore_label_id", "blank_identifier_id"):
        if getattr(train, key) != getattr(test, key):
            raise UserError(
                f"data_paths and data_paths_test differ in {key}: {getattr(train, key)} and {getattr(test, key)}"
            )
    return {
        "seq_len": train.seq_len,
        "vocab_size": train.vocab_size,
        "num_puzzle_identifiers": max(train.num_puzzle_identifiers, test.num_puzzle_identifiers),
    }


def fit(run: Run, loggers: Loggers, keeper: Keeper, bar: tqdm) -> None:
    """The loop: train, log, evaluate, keep. Starts where `run.state` stands."""
    config, world, state = run.config, run.world, run.state
    settings = {name: getattr(config, name) for name in ("seed", "global_batch_size", "grad_accum_steps")}

    def log_training() -> None:
        if state.interval.num_steps:
            loggers.log(
                state.interval.fetch() | {"train/lr": state.optimizers.schedule(state.step)}, state.step
            )

    while state.iteration <= config.num_iterations and not keeper.stopped_early:
        remaining = config.num_iterations - state.iteration + 1
        bar.total = state.step - state.batch + remaining * run.train_data.num_batches(state.iteration)
        stream = run.train_data.batches(state.iteration, start=state.batch)
        lap = time.perf_counter()
        with Prefetcher(stream, pin_memory=world.device.type == "cuda") as batches:
            for _, batch, _ in batches:
                batch = {name: value.to(world.device, non_blocking=True) for name, value in batch.items()}
                train_step(state, batch, world, **settings)
                bar.update()
                state.seconds, lap = state.seconds + time.perf_counter() - lap, time.perf_counter()
                if state.step % config.log_interval == 0:
                    log_training()
                keeper.after_step()
        log_training()
        results = {}
        if state.iteration >= config.min_eval_interval:
            with (
                keeper.guarding_evaluation(),
                state.ema.swapped_in() if state.ema else nullcontext(),
            ):
                results = evaluate(
                    state.model,
                    run.test_data,
                    world,
                    evaluators=run.evaluators,
                    save_outputs=config.eval_save_outputs or (),
                    save_dir=run.folder,
                    step=state.step,
                    poll=keeper.poll,
                )
            loggers.log(results, state.step)
            run.results = results
        state.iteration, state.batch = state.iteration + 1, 0
        keeper.after_iteration(results)


def find_checkpoint(run: Run, checkpointer: Checkpointer) -> Checkpoint | None:
    """The state to continue from, None for a fresh start. Raises UserError rather than write into another run."""
    resume = run.config.resume
    if resume is None:
        if run.world.broadcast_object(holds_a_run(run.folder)):
            raise UserError(
                f"checkpoint_path={run.folder} already holds a run: continue it with resume=auto, "
                f"or choose another checkpoint_path"
            )
        return None
    if resume != "auto":
        return checkpointer.find(resume)
    found = checkpointer.latest()
    if found is None:
        run.world.print(f"resume=auto: {run.folder} holds no checkpoint yet, so this is a fresh start")
    return found


def restore(
    run: Run, checkpointer: Checkpointer, found: Checkpoint, best: BestMetric | None
) -> dict[str, Any]:
    """Load a checkpoint into the run, after checking that it belongs to it; the facts saved with it."""
    shared, of_rank = checkpointer.load(found)
    saved = shared["facts"]
    for line in check_changes(saved["config"], run.config.model_dump()):
        run.world.print(f"resume: {line}")
    if saved["identifiers"] != identifiers_hash(run.config.data_paths):
        raise UserError(
            f"{found.path}: was trained with other puzzle identifiers than {run.config.data_paths} have"
        )
    if of_rank is None:
        run.world.print(
            f"resume: {found.path} was saved by {found.world_size} processes, this run has {run.world.size}: "
            "the carry starts afresh"
        )
    run.state.load(shared, of_rank)
    if of_rank is not None:
        set_random_state(of_rank["random"], run.world.device)
    if best is not None and shared["best"] is not None:
        best.load_state_dict(shared["best"])
    run.world.print(f"resume: continuing {found.path} after step {found.step}")
    return saved


def start_from(run: Run, source: str) -> None:
    """Take over the weights that `load_checkpoint` names, as the live weights and their averages."""
    located = locate(source)
    try:
        load_weights(
            run.state.model,
            read_state_dict(located.weights),
            source=source,
            purpose="finetune",
            notice=run.world.print,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if run.state.ema:
        run.state.ema.reset()


def train(config: PretrainConfig, world: World) -> None:
    """One run from its config to its last checkpoint."""
    run = build(config, world)
    state, inner = run.state, run.state.model.model.inner
    best = BestMetric(config.best_metric, config.early_stop_patience) if config.best_metric else None
    with (
        StopSignals() as signals,
        Checkpointer(run.folder, world, keep_last=config.keep_last) as checkpointer,
    ):
        found = find_checkpoint(run, checkpointer)
        saved: dict[str, Any] = {} if found is None else restore(run, checkpointer, found, best)
        if found is None and config.load_checkpoint:
            start_from(run, config.load_checkpoint)
        if state.iteration > config.num_iterations or (best is not None and best.out_of_patience):
            world.print(f"{run.folder}: this run is finished after step {state.step}, nothing is left to do")
            return
        if world.is_main:
            sources = [
                Path(inspect.getfile(cls))
                for cls in {type(inner), type(state.model), type(state.model.model)}
            ]
            metadata = run.train_data.metadata.to_json() | run.sizes
            metadata[IDENTIFIERS_KEY] = identifier_hashes(
                dict.fromkeys([*config.data_paths, *config.test_paths])
            )
            create_run_folder(run.folder, config.model_dump(), metadata, sources)
        compiles, reason = compile_policy(config.compile, world.device)
        if compiles:
            inner.compile(dynamic=False)
        num_parameters = sum(p.numel() for p in state.model.parameters())
        world.print(
            f"{type(inner).__name__}, {num_parameters:,} parameters, on {world.device}, {reason}; {run.folder}"
        )
        bar = tqdm(initial=state.step, desc="train", unit="step", disable=None if world.is_main else True)
        loggers = make_loggers(
            world,
            run.folder,
            project=config.project_name,
            run_name=config.run_name,
            config=config.model_dump(),
            start_step=state.step,
            run_id=saved.get("wandb_run_id"),
            bar=bar,
        )

        def facts() -> dict[str, Any]:
            return {
                "facts": {
                    "config": config.model_dump(),
                    "identifiers": identifiers_hash(config.data_paths),
                    "wandb_run_id": loggers.run_id,
                    "versions": {"torch": str(torch.__version__), "python": sys.version.split()[0]},
                }
            }

        cadence = Cadence(
            world,
            signals,
            interval_steps=config.checkpoint_interval_steps,
            interval_minutes=config.checkpoint_interval_minutes,
        )
        keeper = Keeper(
            state, checkpointer, cadence, best, facts, save_every_eval=config.checkpoint_every_eval
        )
        try:
            fit(run, loggers, keeper, bar)
            keeper.finish()
            bar.close()
            write_result(run)
        except NonFiniteLoss as error:
            raise UserError(str(error)) from error
        except Stopped:
            checkpointer.join()
            world.print(f"stopped by {signals.received} after step {state.step}; resume=auto continues")
        finally:
            bar.close()
            loggers.close()


def write_result(run: Run) -> None:
    """One line on how the run ended, printed and kept in `result.txt`."""
    if run.world.is_main and "test/exact_accuracy" in run.results:
        share, num_puzzles = run.results["test/exact_accuracy"], run.test_data.num_examples
        line = (
            f"solved {round(share * num_puzzles)} of {num_puzzles} unseen puzzles ({share:.1%}) "
            f"after {run.state.seconds:.0f} s of training"
        )
        run.world.print(line)
        (run.folder / "result.txt").write_text(line + "\n")


@hydra.main(config_path="config", config_name="cfg_pretrain", version_base=None)
@report_user_errors
def launch(cfg: DictConfig) -> None:
    values = OmegaConf.to_container(cfg, resolve=True)
    with World.start(str(values.get("device"))) as world:
        train(parse(PretrainConfig, values), world)


if __name__ == "__main__":
    sys.argv[1:] = force_overrides(sys.argv[1:])
    launch()
