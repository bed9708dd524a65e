"""Typed schema of `cfg_pretrain.yaml`, with every check that needs no data and every derived value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from config.published_names import CLASSES, KEYS
from models.arch_configs import CONFIGS
from models.optim.configs import AS_PUBLISHED, OPTIMIZERS, AnyOptimizerConfig
from models.registry import (
    DEFAULT_LOSS,
    ArchitectureName,
    ConfigError,
    LossName,
    architecture_config,
    check_arch,
    loss_config,
)
from utils.compile_modes import CompileMode
from utils.files import expand_home
from utils.loggers import LOGGERS
from utils.strict_model import Problem, StrictModel
from utils.wandb_names import clean_project_name, from_environment

SavableOutput = Literal[
    "inputs", "labels", "puzzle_identifiers", "preds", "logits", "q_halt_logits", "q_continue_logits"
]
SAVABLE_OUTPUTS: tuple[str, ...] = get_args(SavableOutput)

# A file or folder; `~` is the home folder.
FilePath = Annotated[str, AfterValidator(expand_home)]
Probability = Annotated[float, Field(gt=0, lt=1)]
CompileChoice = Literal["auto", True, False, "fused", CompileMode]


class EvaluatorConfig(BaseModel):
    """One entry of `evaluators`: a class, and its own options."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)
    name: str
    """The evaluator, as module@Class below evaluators/ or of a module of your own."""

    @property
    def options(self) -> dict:
        return dict(self.model_extra or {})


class PretrainConfig(StrictModel):
    """Options of `pretrain.py`. `arch` is checked against the architecture's own schema."""

    model_config = ConfigDict(frozen=True)
    advice: ClassVar[Mapping[str, str]] = KEYS

    arch: dict
    """Architecture and its loss: the keys below arch."""

    data_paths: list[FilePath] = Field(min_length=1)
    """Datasets to train on, mixed."""
    data_paths_test: list[FilePath] = Field(default=[])
    """Datasets to test on; empty: data_paths."""
    augment: Literal["online"] | None = None
    """online: each draw is a fresh symmetric copy, in addition to those that the dataset was built with;
    null: only those.
    """
    reveal_prob: float = Field(default=0.0, ge=0, le=1)
    """Probability that a drawn puzzle is made easier: a Sudoku shows some more cells of the answer, up to half of
    the blank ones; a maze keeps a piece of the path, start and goal moved to its ends; an N-Queens board shows
    some more queens.
    """
    family: str | None = None
    """Puzzle family of the data, whatever its dataset.json says: a name, or module@Class of a family of your
    own; null: as the data says.
    """
    evaluators: list[EvaluatorConfig] | None = None
    """What computes the metrics of a puzzle family: [{name: arc@ARC}], sudoku@Sudoku, maze@Maze, with
    their options; null: chosen by the data; [] for none.
    """

    global_batch_size: int = Field(gt=0)
    """Examples per update over all processes; a multiple of their number times grad_accum_steps."""
    epochs: int = Field(gt=0)
    """Epochs, each with one puzzle of every group; a multiple of eval_interval."""
    eval_interval: int | None = Field(default=None, gt=0)
    """Epochs between evaluations; lower it to evaluate more often; null: one evaluation, at the end."""
    min_eval_interval: int = Field(default=0, ge=0)
    """Number of the first interval (of eval_interval epochs) that is evaluated."""
    checkpoint_every_eval: bool = True
    """Save a checkpoint at each evaluation."""

    optimizer: AnyOptimizerConfig = AS_PUBLISHED
    """Optimizer of the weights and its own keys, below optimizer."""
    lr: float = Field(ge=0)
    """Learning rate of the weights."""
    lr_min_ratio: float = Field(ge=0, le=1)
    """Share of lr that the cosine ends at; 1: constant."""
    lr_warmup_steps: int = Field(ge=0)
    """Updates of linear learning rate warm-up."""
    beta1: float = Field(ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(ge=0, lt=1)
    """Decay of the second moment."""
    weight_decay: float = Field(ge=0)
    """Decoupled weight decay of the weights, times the learning rate per update."""
    puzzle_emb_lr: float = Field(ge=0)
    """Learning rate of the puzzle embeddings (SignSGD)."""
    puzzle_emb_weight_decay: float = Field(ge=0)
    """Decoupled weight decay of the puzzle embeddings touched by a batch."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the weights' gradient; null: no clipping."""
    freeze_weights: bool = False
    """Train the puzzle embeddings only."""
    ema: bool = False
    """Keep a moving average of the weights; evaluate and save the average."""
    ema_rate: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the average: the share that an update keeps."""
    ema_start_step: int = Field(default=0, ge=0)
    """Up to this update the average is the weights themselves."""
    grad_accum_steps: int = Field(default=1, ge=1)
    """Parts of a batch computed one after the other; same result, less memory."""
    depth_curriculum: bool = False
    """A third of the cycles for 30% of the updates, two thirds for 30%, then all (arXiv 2511.08653)."""
    activation_checkpointing: bool = False
    """Recompute blocks in backward: less memory, more time."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of initialisation, data order and exploration."""
    project_name: str | None = None
    """W&B project and folder; null: WANDB_PROJECT, else {first data folder, capitalised}-ACT-torch."""
    run_name: str | None = None
    """Name of the run; null: WANDB_NAME, else {model class}-{two random words}."""
    checkpoint_path: FilePath | None = None
    """The run's folder; null: checkpoints/{project_name}/{run_name}."""
    load_checkpoint: FilePath | None = None
    """Weights to start from: a run's folder, step_N, best, an export, .safetensors, hf://OWNER/NAME[/file]."""
    eval_save_outputs: list[str] | None = None
    """Tensors to save at each evaluation: inputs, labels, puzzle_identifiers, preds, logits,
    q_halt_logits, q_continue_logits.
    """

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps and cpu that is available."""
    compile: CompileChoice = "auto"
    """auto: torch.compile on CUDA, else eager. fused: as auto, and models/backends/fused_cpu on a CPU with
    AVX2 for float32 or avx512_bf16 for bfloat16, for every arch but trm_local, and widths that are
    multiples of 16; its rounding differs from that of eager code. true: the same, and
    torch.compile instead of eager. default, reduce-overhead, max-autotune (both record CUDA graphs),
    max-autotune-no-cudagraphs: torch.compile in that mode. false: eager; the environment's
    DISABLE_COMPILE wins.
    """
    logger: list[str] = Field(
        default=["wandb"],
        description="Where metrics go besides metrics.jsonl and the console: "
        f"{', '.join(LOGGERS)}, or a list of them; []: nowhere.",
    )
    log_interval: int = Field(default=10, ge=1)
    """Updates between logged training metrics."""

    resume: FilePath | None = None
    """auto: continue the newest complete checkpoint in checkpoint_path; or the path of a run or of a state in it."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Minutes after which this start ends: it saves, evaluates, and resume=auto continues; the last evaluation
    takes longer than that; null: no limit.
    """
    checkpoint_interval_steps: int | None = Field(default=None, gt=0)
    """Updates between saved states, in addition to those at evaluations."""
    checkpoint_interval_minutes: float | None = Field(default=None, gt=0)
    """Minutes between saved states."""
    keep_last: int = Field(default=2, ge=1)
    """Number of full states to keep; all weights step_N stay."""
    best_metric: str | None = "auto"
    """Metric whose best weights are kept as best: the lowest for a loss, the highest for anything else; auto:
    test/exact_accuracy, or test/solved where a question has several right answers; null: none.
    """
    early_stop_patience: int | None = Field(default=None, ge=1)
    """Evaluations without a better best_metric before the run ends; null: never."""

    @field_validator("data_paths_test", mode="before")
    @classmethod
    def accept_null_as_empty(cls, paths):
        return [] if paths is None else paths

    @field_validator("logger", mode="before")
    @classmethod
    def accept_one_logger(cls, names):
        if isinstance(names, str):
            return [names]
        return [] if names is None else names

    @field_validator("logger")
    @classmethod
    def check_loggers(cls, names):
        for name in names:
            if name not in LOGGERS:
                raise ValueError(f"{name!r} is not a logger; choose from {', '.join(LOGGERS)}")
        return list(dict.fromkeys(names))

    @field_validator("eval_save_outputs")
    @classmethod
    def check_outputs(cls, names):
        unknown = [name for name in names or [] if name not in SAVABLE_OUTPUTS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not an output; choose from {', '.join(SAVABLE_OUTPUTS)}")
        return names

    @model_validator(mode="after")
    def check_eval_interval(self):
        interval = self.epochs_per_iteration
        if self.epochs % interval:
            raise ValueError(
                f"epochs={self.epochs} must be a multiple of eval_interval={interval}: "
                f"use epochs={-(-self.epochs // interval) * interval} or another eval_interval"
            )
        return self

    @model_validator(mode="after")
    def check_keeping(self):
        if self.early_stop_patience is not None and self.best_metric is None:
            raise ValueError(f"early_stop_patience={self.early_stop_patience} needs a best_metric")
        if self.resume == "auto" and self.checkpoint_path is None and self.run_name is None:
            raise ValueError(
                "resume=auto needs checkpoint_path= (or run_name=) to find the run: without them each start gets "
                "a new name"
            )
        return self

    @model_validator(mode="after")
    def check_training(self):
        if self.freeze_weights and (self.optimizer.name != "adam_atan2" or self.grad_clip is not None):
            asked = "grad_clip" if self.grad_clip is not None else f"optimizer={self.optimizer.name}"
            raise ValueError(
                f"{asked} applies to the weights, which freeze_weights=True freezes: remove one of them"
            )
        if self.ema_start_step and not self.ema:
            raise ValueError(f"ema_start_step={self.ema_start_step} needs ema=True")
        return self

    @classmethod
    def problem(cls, item: ErrorDetails) -> Problem:
        key, message, valid = super().problem(item)
        if len(item["loc"]) > 1 and item["loc"][0] == "optimizer":
            choice = str(item["loc"][1])  # pydantic inserts the name of the chosen member of the union
            key = key.replace(f"optimizer.{choice}", "optimizer", 1)
            valid = [f"optimizer.{field}" for field in OPTIMIZERS[choice].model_fields] if valid else []
        return key, message, valid

    @classmethod
    def further_problems(cls, values: dict[str, Any]) -> tuple[list[Problem], list[str]]:
        """Check the keys below `arch`, whose schema depends on `arch.name`."""
        arch = values.get("arch")
        inside: list[str] = []  # beginners often leave out `arch.`
        if not isinstance(arch, dict):
            return [], []
        try:
            if isinstance(name := arch.get("name"), str):
                if name in CLASSES:
                    raise ValueError(f"arch.name={name}: {CLASSES[name]}")
                inside = [f"arch.{field}" for field in architecture_config(name).model_fields]
            check_arch(arch, seq_len=1, vocab_size=2, num_puzzle_identifiers=1)
        except ConfigError as error:
            return error.problems, inside
        except ValueError as error:
            return [("", str(error), [])], inside
        return [], inside

    @property
    def epochs_per_iteration(self) -> int:
        """Epochs between evaluations, which are one iteration of the training stream."""
        return self.eval_interval or self.epochs

    @property
    def num_iterations(self) -> int:
        return self.epochs // self.epochs_per_iteration

    @property
    def test_paths(self) -> list[str]:
        return self.data_paths_test or self.data_paths

    def project(self) -> str:
        """Return the project's name: from the config, else the environment, else the first data folder."""
        derived = clean_project_name(f"{Path(self.data_paths[0]).name.capitalize()}-ACT-torch")
        return self.project_name or from_environment("PROJECT") or derived

    def total_steps(self, total_groups: int, mean_puzzle_examples: float) -> int:
        """Number of updates in the schedule (the stream yields a few fewer)."""
        return int(self.epochs * total_groups * mean_puzzle_examples / self.global_batch_size)


# First key of each section in the help of PretrainConfig.
SECTION_TITLES = {
    "data_paths": "Data",
    "global_batch_size": "Length and evaluation",
    "lr": "Optimisation",
    "seed": "The run",
    "device": "The machine",
    "resume": "Checkpoints and resuming",
}


def sections(
    schema: type[StrictModel], arch_name: str | None = None, loss_name: str | None = None
) -> dict[str, list[type[StrictModel]]]:
    """Map prefixes of dotted keys to the schemas of the keys below them.

    Without `arch_name`, or if there is no such architecture (`parse` rejects it), all architectures are included.
    """
    found: dict[str, list[type[StrictModel]]] = {"": [schema]}
    if schema is PretrainConfig:
        try:
            configs = [architecture_config(arch_name)] if arch_name else list(CONFIGS.values())
        except ValueError:
            configs = list(CONFIGS.values())
        try:
            loss = loss_config(loss_name or DEFAULT_LOSS)
        except ValueError:
            loss = loss_config(DEFAULT_LOSS)
        found["arch."] = [ArchitectureName, *configs]
        found["arch.loss."] = [LossName, loss]
        found["optimizer."] = list(OPTIMIZERS.values())
    return found
