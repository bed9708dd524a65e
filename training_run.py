"""Build the parts of a training run from a config, resume it from a checkpoint, or start it from given weights."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from config.missing_data import explained
from config.notices import notices
from config.resume import check_changes, check_data
from config.schema import PretrainConfig
from dataset.families import family_of, recorded_family
from dataset.metadata import Metadata
from evaluators.base import Evaluator, build_evaluators, remarks
from evaluators.rules import judge_by_rules
from evaluators.score import Score
from models.losses import ACTLossHead
from models.optim.optimizers import Optimizers, OptimizerSettings
from models.pretrained import load_weights
from models.recursive import RecursiveModel
from models.registry import ModelSize, build_model, check_arch, is_unusually_large, model_size, size_of
from models.train.curriculum import DepthCurriculum
from models.train.ema import EMA
from models.train.metrics import MetricAccumulator
from models.train.step import TrainState
from puzzle_dataset import IDENTIFIERS_KEY, PuzzleDataset, identifier_hashes
from utils.checkpoint import Checkpoint, Checkpointer
from utils.checkpoint_schedule import BestMetric
from utils.device import (
    check_memory,
    keep_freed_memory,
    make_deterministic,
    seed_everything,
    set_random_state,
)
from utils.distributed import World
from utils.errors import UserError
from utils.run_folder import CONFIG_FILE, create_run_folder, default_run_name, holds_a_run
from utils.strict_model import parse
from utils.wandb_names import check_project_name, clean_project_name, from_environment
from utils.weights import locate, read_state_dict


@dataclass
class Run:
    """The parts of one training run."""

    config: PretrainConfig  # immutable; replaced when a checkpoint or a default names the run
    world: World
    state: TrainState
    train_data: PuzzleDataset
    test_data: PuzzleDataset
    sizes: dict[str, Any]
    evaluators: dict[str, Evaluator]
    folder: Path
    score: Score  # of the last evaluation

    @cached_property
    def identifier_hashes(self) -> dict[str, str | None]:
        """A hash of the puzzle identifiers of each dataset, by its path; a million names take about a second."""
        paths = list(dict.fromkeys([*self.config.data_paths, *self.config.test_paths]))
        return dict(zip(paths, identifier_hashes(paths), strict=True))

    @cached_property
    def data_description(self) -> dict[str, Any]:
        """The training data's metadata, and a hash of its puzzle identifiers."""
        identifiers = " ".join(str(self.identifier_hashes[path]) for path in self.config.data_paths)
        return self.train_data.metadata.to_json() | {"puzzle identifiers (SHA-256)": identifiers}


def build(config: PretrainConfig, world: World) -> Run:
    """Open the data and build all parts of the run, without writing anything."""
    for line in notices(config):
        world.print(line)
    check_project_name(config.project(), "project_name" if config.project_name else "WANDB_PROJECT")
    if config.global_batch_size % (world.size * config.grad_accum_steps):
        raise UserError(
            f"global_batch_size={config.global_batch_size} must be a multiple of the number of processes "
            f"({world.size}) times grad_accum_steps ({config.grad_accum_steps})"
        )
    seed_everything(config.seed)
    make_deterministic(world.device)
    keep_freed_memory(world.device)
    dist_kwargs = {
        "global_batch_size": config.global_batch_size,
        "rank": world.rank,
        "world_size": world.size,
    }
    try:
        train_data = PuzzleDataset(
            config.data_paths,
            "train",
            seed=config.seed,
            epochs_per_iter=config.epochs_per_iteration,
            augment=config.augment,
            reveal_prob=config.reveal_prob,
            **dist_kwargs,
        )
        test_data = PuzzleDataset(config.test_paths, "test", **dist_kwargs)
    except UserError as error:
        raise explained(error, config.data_paths, config.test_paths) from error
    for line in dict.fromkeys(train_data.notices + test_data.notices):
        world.print(line)
    sizes = model_sizes(train_data, test_data)
    wanted = None if config.evaluators is None else [(e.name, e.options) for e in config.evaluators]
    try:
        evaluators = build_evaluators(wanted, config.test_paths, test_data.metadata, test_data.splits)
        for line in remarks(evaluators):
            world.print(line)
        if is_unusually_large(check_arch(config.arch, **sizes)):  # building a smaller one takes no time
            check_training_memory(config, model_size(config.arch, **sizes), sizes, world)
        check_units(config.arch, sizes, train_data.metadata)
        model = build_model(config.arch, **sizes)
        check_training_memory(config, size_of(model.architecture), sizes, world)
        model.to(world.device)
        model.architecture.activation_checkpointing = config.activation_checkpointing
        judge_by_rules(model, train_data.metadata)
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
    ema = EMA(model, config.ema_rate, config.ema_start_step) if config.ema else None
    metrics = MetricAccumulator(model.metrics, config.global_batch_size, world.device, world.sum_)
    if optimizers.notice:
        world.print(optimizers.notice)
    config = with_folder(config, type(model.architecture).__name__, world)
    assert config.checkpoint_path is not None
    curriculum = depth_curriculum(model.architecture, total_steps) if config.depth_curriculum else None
    state = TrainState(model, optimizers, ema, metrics, curriculum=curriculum)
    score = Score(config.test_paths, test_data.metadata)
    return Run(
        config, world, state, train_data, test_data, sizes, evaluators, Path(config.checkpoint_path), score
    )


# Float32 values per trained weight in addition to itself: its gradient and two moments of the optimizer.
_COPIES_IN_TRAINING = 3
# Minimum number of latent-sized tensors that a block saves for the backward pass.
_SAVED_PER_BLOCK = 4


def check_training_memory(
    config: PretrainConfig, size: ModelSize, sizes: dict[str, int], world: World
) -> None:
    """Raise UserError if a model of `size` and a batch need more memory than the device has.

    This is a lower bound; activations in particular need more.
    """
    model = size.parameter_bytes + size.buffer_bytes
    cure = "lower arch.hidden_size, arch.L_layers, arch.puzzle_emb_ndim or other sizes of the model"
    if sizes["num_puzzle_identifiers"] > 1:
        cure += f" (the data has num_puzzle_identifiers={sizes['num_puzzle_identifiers']:,})"
    what = f"arch: a model of {model / 4:,.4g} values"
    check_memory(model, torch.device("cpu"), what, cure)
    copies = 0 if config.freeze_weights else _COPIES_IN_TRAINING + config.ema
    state = model + copies * size.parameter_bytes
    check_memory(state, world.device, f"{what}, with gradient and optimizer state,", cure)
    rows = config.global_batch_size // (world.size * config.grad_accum_steps)
    kept = 1 if config.activation_checkpointing else _SAVED_PER_BLOCK * size.num_blocks
    check_memory(
        state + rows * size.latent_bytes * kept,
        world.device,
        f"global_batch_size={config.global_batch_size}: a training step",
        "lower it, or raise grad_accum_steps",
    )


def check_units(arch: dict[str, Any], sizes: dict[str, Any], metadata: Metadata) -> None:
    """Raise UserError if the architecture pools over units of cells, and the data's family has none.

    Data of an unknown family is treated as a Sudoku grid if its number of cells allows it.
    """
    family = family_of(metadata)
    pools = "units" in type(check_arch(arch, **sizes)).model_fields
    if pools and "units" not in sizes and family.name is not None:
        raise UserError(
            f"arch.name={arch['name']} pools over cells that share a constraint, but the family {family.name} has no "
            "such units: use another arch, or add units to dataset.json of both splits (docs/extending.md)"
        )


def best_metric(config: PretrainConfig, head: ACTLossHead) -> BestMetric | None:
    """Return the metric by which the run's best weights are chosen, None if no best is kept."""
    name = config.best_metric
    if name == "auto":
        name = "test/solved" if head.solved_by_rules else "test/exact_accuracy"
    return BestMetric(name, config.early_stop_patience) if name else None


def depth_curriculum(inner: RecursiveModel, total_steps: int) -> DepthCurriculum:
    """Create the curriculum over depth. Raises UserError if the first update already has full depth."""
    full = inner.H_cycles, inner.L_cycles
    curriculum = DepthCurriculum(total_steps, *full)
    if curriculum.cycles(1) == full:
        raise UserError(
            f"depth_curriculum=True starts with a third of the cycles, but {type(inner).__name__} has too few for "
            f"that, H_cycles={full[0]} and L_cycles={full[1]}: use more cycles, or depth_curriculum=False"
        )
    return curriculum


def with_folder(config: PretrainConfig, model_class: str, world: World) -> PretrainConfig:
    """Return the config with its `checkpoint_path`, and with `run_name` if the folder is named after it."""
    if config.checkpoint_path is None and config.resume not in (None, "auto"):
        path = Path(config.resume)
        folder = path if (path / CONFIG_FILE).exists() else path.parent
        return config.model_copy(update={"checkpoint_path": str(folder)})
    if config.checkpoint_path is None:
        name = run_name(config, model_class, world)
        folder = f"checkpoints/{config.project()}/{name}"
        return config.model_copy(update={"run_name": name, "checkpoint_path": folder})
    return config


def resolve_names(run: Run) -> None:
    """Name the project and the run if neither the config nor a checkpoint did."""
    config, model_class = run.config, type(run.state.model.architecture).__name__
    names = {
        "project_name": clean_project_name(config.project()),  # a checkpoint may have a derived name
        "run_name": run_name(config, model_class, run.world),
    }
    run.config = config.model_copy(update=names)


def run_name(config: PretrainConfig, model_class: str, world: World) -> str:
    """Return the run's name from the config, else the environment, else a random one, equal on all ranks."""
    given = config.run_name or from_environment("NAME")
    return given or world.broadcast_object(default_run_name(model_class))


def model_sizes(train_data: PuzzleDataset, test_data: PuzzleDataset) -> dict[str, Any]:
    """Return the model's sizes from the data. Raises UserError if the test data does not match the training data."""
    train, test = train_data.metadata, test_data.metadata
    for key in ("seq_len", "vocab_size", "pad_id", "ignore_label_id", "blank_identifier_id"):
        if getattr(train, key) != getattr(test, key):
            raise UserError(
                f"data_paths and data_paths_test differ in {key}: {getattr(train, key)} and {getattr(test, key)}"
            )
    num_identifiers = max(train.num_puzzle_identifiers, test.num_puzzle_identifiers)
    return train_data.model_sizes | {"num_puzzle_identifiers": num_identifiers}


def find_checkpoint(run: Run, checkpointer: Checkpointer) -> Checkpoint | None:
    """Find the state to resume from, None for a new start. Raises UserError if the folder holds another run."""
    resume = run.config.resume
    found = None if resume in (None, "auto") else checkpointer.find(resume)
    elsewhere = found is not None and found.path.parent.resolve() != run.folder.resolve()
    if (resume is None or elsewhere) and run.world.broadcast_object(holds_a_run(run.folder)):
        raise UserError(
            f"checkpoint_path={run.folder} already holds {'another' if elsewhere else 'a'} run: "
            "continue that one with resume=auto, or choose another checkpoint_path"
        )
    if resume == "auto":
        found = checkpointer.latest()
        if found is None:
            run.world.print(f"resume=auto: {run.folder} has no checkpoint yet, starting a new run")
    return found


def restore(
    run: Run, checkpointer: Checkpointer, found: Checkpoint, best: BestMetric | None
) -> dict[str, Any]:
    """Load a checkpoint into the run after checking that it matches; return the facts saved with it."""
    config, world = run.config, run.world
    shared, rank_state = checkpointer.load(found)
    if not isinstance(saved := shared.get("facts"), dict) or not {"config", "data"} <= saved.keys():
        raise UserError(
            f"resume={found.path}: it lacks the config and data of a run, so it was not saved by pretrain.py"
        )
    # Random or derived names are kept unless the command line gives others.
    unnamed = [name for name in ("project_name", "run_name") if getattr(config, name) is None]
    config = run.config = config.model_copy(update={name: saved["config"][name] for name in unnamed})
    check_data(saved["data"], run.data_description)
    try:
        before = parse(PretrainConfig, saved["config"]).model_dump()  # adds defaults of newer keys
    except UserError as error:
        raise UserError(f"resume={found.path}: {error}") from None
    for line in check_changes(before, config.model_dump()):
        world.print(f"resume: {line}")
    if rank_state is None:
        world.print(
            f"resume: {found.path} was saved by {found.world_size} processes, this run has {world.size}: "
            "the carry is reset"
        )
    run.state.load(shared, rank_state)
    if rank_state is not None:
        set_random_state(rank_state["random"], world.device)
    if best is not None and shared["best"] is not None:
        best.load_state_dict(shared["best"])
    world.print(f"resume: continuing {found.path} after step {found.step}")
    return saved


def run_metadata(run: Run) -> dict[str, Any]:
    """Return the config, data and versions that are saved in a checkpoint and checked at a resume."""
    return {
        "config": run.config.model_dump(),
        "data": run.data_description,
        "versions": {"torch": str(torch.__version__), "python": sys.version.split()[0]},
    }


def start_from(run: Run, source: str) -> None:
    """Load weights given by `load_checkpoint`, as live weights and as their averages."""
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


def write_run_folder(run: Run) -> None:
    """Write the config, the data's metadata and the model's source into the run's folder."""
    config, model = run.config, run.state.model
    sources = [Path(inspect.getfile(cls)) for cls in {type(model.architecture), type(model), type(model.act)}]
    metadata = run.train_data.metadata.to_json() | recorded_family(run.train_data.metadata) | run.sizes
    metadata[IDENTIFIERS_KEY] = list(run.identifier_hashes.values())
    create_run_folder(run.folder, config.model_dump(), metadata, sources)
