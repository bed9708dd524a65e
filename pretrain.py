"""Train a recursive model on puzzles: `python pretrain.py arch=trm data_paths="[DIR]" ...` (see README.md).

Composes the config, builds the parts, runs the loop. What has its own mathematics or policy lives with its owner:
data order in `puzzle_dataset.py`, the model in `models/`, numbers in `evaluators/`, disk and devices in `utils/`.
"""

from __future__ import annotations

import inspect
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from config.overrides import force_overrides
from config.schema import PretrainConfig, notices, parse
from evaluators.base import Evaluator, build_evaluators
from evaluators.evaluate import evaluate
from models.act import Carry, draw_min_steps
from models.ema import EMA
from models.losses import ACTLossHead
from models.optim import Optimizers, OptimizerSettings
from models.optim.guard import all_finite, guarded
from models.registry import build_model
from puzzle_dataset import Prefetcher, PuzzleDataset
from utils.device import (
    compile_policy,
    make_deterministic,
    random_state,
    seed_everything,
    set_random_state,
)
from utils.distributed import World
from utils.errors import UserError, report_user_errors
from utils.loggers import Loggers, make_loggers
from utils.metrics import IntervalMetrics
from utils.run_folder import create_run_folder, default_run_name, holds_a_run, read_run_config


@dataclass
class TrainState:
    """Everything that exact continuation needs, and where it stands in the stream."""

    model: ACTLossHead
    optimizers: Optimizers
    ema: EMA | None
    interval: IntervalMetrics
    carries: list[Carry] = field(default_factory=list)  # one per micro-batch
    step: int = 0
    iteration: int = 1  # of the training stream, from 1
    batch: int = 0  # batches of this iteration already used

    def weights(self) -> dict[str, Tensor]:
        """The published form: the averages where there are any, under uncompiled names."""
        with self.ema.swapped_in(self.model) if self.ema else nullcontext():
            return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def shared(self) -> dict[str, Any]:
        """What is the same on every rank."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizers": self.optimizers.state_dict(),
            "step": self.step,
            "iteration": self.iteration,
            "batch": self.batch,
        }

    def of_rank(self) -> dict[str, Any]:
        """What each rank has for itself."""
        names = self.model.model.latent_names
        return {
            "carries": [carry.tensors(names) for carry in self.carries],
            "interval": self.interval.state_dict(),
            "random": random_state(self.interval.world.device),
        }

    def load(self, shared: dict[str, Any], of_rank: dict[str, Any] | None) -> None:
        """Continue from a checkpoint; without this rank's part (another number of ranks) the carry starts afresh."""
        device = self.interval.world.device
        self.model.load_state_dict(shared["model"])
        if self.ema:
            self.ema.load_state_dict(shared["ema"])
        self.optimizers.load_state_dict(shared["optimizers"])
        self.step, self.iteration, self.batch = shared["step"], shared["iteration"], shared["batch"]
        if of_rank is not None:
            names = self.model.model.latent_names
            self.carries = [
                Carry.from_tensors({name: value.to(device) for name, value in tensors.items()}, names)
                for tensors in of_rank["carries"]
            ]
            self.interval.load_state_dict(of_rank["interval"])
            set_random_state(of_rank["random"], device)


def train_step(state: TrainState, batch: dict[str, Tensor], config: PretrainConfig, world: World) -> None:
    """One supervision step of every row and one update.

    `batch` is this rank's share, on the device. Nothing here waits for the device.
    """
    state.step += 1
    state.optimizers.schedule(state.step)
    arch = state.model.model.inner.config
    min_steps = torch.from_numpy(
        draw_min_steps(
            config.seed, state.step, config.global_batch_size, arch.halt_exploration_prob, arch.halt_max_steps
        )
    )
    min_steps = min_steps.chunk(world.size)[world.rank].to(world.device, non_blocking=True)
    micro_batches = [
        dict(zip(batch, rows, strict=True))
        for rows in zip(*(value.chunk(config.grad_accum_steps) for value in batch.values()), strict=True)
    ]
    if not state.carries:
        state.carries = [state.model.initial_carry(rows) for rows in micro_batches]

    sums: dict[str, Tensor] = {}
    for i, (rows, least) in enumerate(zip(micro_batches, min_steps.chunk(config.grad_accum_steps), strict=True)):
        state.carries[i], loss, metrics, _ = state.model(state.carries[i], rows, least)
        (loss / config.global_batch_size).backward()
        sums = {name: sums[name] + value if sums else value for name, value in metrics.items()}

    params = [p for p in state.model.parameters() if p.grad is not None]
    world.sum_gradients(params)
    gradients = [p.grad for p in params] + state.optimizers.sparse_gradients()
    ok = all_finite([sums["lm_loss"], sums["q_halt_loss"], *gradients])
    if world.size > 1:
        ok = world.sum_((~ok).float()) == 0

    def update() -> None:
        state.optimizers.step()
        if state.ema is not None:
            state.ema.update()

    guarded(ok, state.optimizers, state.ema.shadow.values() if state.ema else [], update)
    state.optimizers.zero_grad()
    state.interval.add(sums, ok, state.step)
    state.batch += 1


@dataclass
class Run:
    """The parts of one training run, wired."""

    config: PretrainConfig
    world: World
    state: TrainState
    train_data: PuzzleDataset
    test_data: PuzzleDataset
    evaluators: dict[str, Evaluator]
    folder: Path


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
        optimizers = Optimizers(model, optimizer_settings(config, train_data), world.gather_tensor)
    except ValueError as error:
        raise UserError(str(error)) from error
    ema = EMA(model, config.ema_rate) if config.ema else None
    interval = IntervalMetrics(world, config.global_batch_size)
    name = config.run_name or default_run_name(type(model.model.inner).__name__)
    config.run_name = world.broadcast_object(name)
    folder = Path(config.checkpoint_path or f"checkpoints/{config.project()}/{config.run_name}")
    config.checkpoint_path = str(folder)
    return Run(config, world, TrainState(model, optimizers, ema, interval), train_data, test_data, evaluators, folder)


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


def optimizer_settings(config: PretrainConfig, train_data: PuzzleDataset) -> OptimizerSettings:
    metadata = train_data.metadata
    total_steps = config.total_steps(metadata.total_groups, metadata.mean_puzzle_examples)
    keys = OptimizerSettings.__dataclass_fields__.keys() - {"total_steps"}
    return OptimizerSettings(total_steps=total_steps, **{key: getattr(config, key) for key in keys})


def fit(run: Run, loggers: Loggers, keeper: Keeper, bar: tqdm) -> None:
    """The loop: train, log, evaluate, keep. Starts where `run.state` stands."""
    config, world, state = run.config, run.world, run.state

    def log_training() -> None:
        if state.interval.num_steps:
            loggers.log(state.interval.fetch() | {"train/lr": state.optimizers.schedule(state.step)}, state.step)

    while state.iteration <= config.num_iterations and not keeper.stopped_early:
        remaining = config.num_iterations - state.iteration + 1
        bar.total = state.step - state.batch + remaining * run.train_data.num_batches(state.iteration)
        stream = run.train_data.batches(state.iteration, start=state.batch)
        with Prefetcher(stream, pin_memory=world.device.type == "cuda") as batches:
            for _, batch, _ in batches:
                batch = {name: value.to(world.device, non_blocking=True) for name, value in batch.items()}
                train_step(state, batch, config, world)
                bar.update()
                if state.step % config.log_interval == 0:
                    log_training()
                keeper.after_step()
        log_training()
        results = {}
        if state.iteration >= config.min_eval_interval:
            with state.ema.swapped_in(state.model) if state.ema else nullcontext(), keeper.guarding_evaluation():
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
        state.iteration, state.batch = state.iteration + 1, 0
        keeper.after_iteration(results)
