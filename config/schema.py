"""The closed, typed mirror of `cfg_pretrain.yaml`: every check that needs no data, every derived value."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.optim.choices import AS_PUBLISHED, CHOICES, OptimizerChoice
from models.registry import ConfigError, check_arch, describe
from models.settings import Settings
from utils.device import COMPILE_MODES, FUSED
from utils.errors import UserError
from utils.wandb_names import clean_project_name, from_environment

SAVABLE_OUTPUTS = (
    "inputs",
    "labels",
    "puzzle_identifiers",
    "preds",
    "logits",
    "q_halt_logits",
    "q_continue_logits",
)


# A tuple, as Python 3.10 unpacks in no index.
CompileChoice = Literal[("auto", True, False, FUSED, *COMPILE_MODES)]


class EvaluatorConfig(BaseModel):
    """One entry of `evaluators`: a class below `evaluators.`, and its own options."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def options(self) -> dict:
        return dict(self.model_extra or {})


class PretrainConfig(Settings):
    """Everything that `pretrain.py` is told. `arch` is checked against the architecture's own schema."""

    arch: dict

    data_paths: list[str] = Field(min_length=1)
    data_paths_test: list[str] = Field(default=[])
    augment: Literal["online"] | None = None
    reveal_prob: float = Field(default=0.0, ge=0, le=1)
    evaluators: list[EvaluatorConfig] | None = None

    global_batch_size: int = Field(gt=0)
    epochs: int = Field(gt=0)
    eval_interval: int | None = Field(default=None, gt=0)
    min_eval_interval: int = Field(default=0, ge=0)
    checkpoint_every_eval: bool = True

    optimizer: OptimizerChoice = AS_PUBLISHED
    lr: float = Field(ge=0)
    lr_min_ratio: float = Field(ge=0, le=1)
    lr_warmup_steps: int = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    puzzle_emb_lr: float = Field(ge=0)
    puzzle_emb_weight_decay: float = Field(ge=0)
    grad_clip: float | None = Field(default=None, gt=0)
    freeze_weights: bool = False
    ema: bool = False
    ema_rate: float = Field(default=0.999, ge=0, lt=1)
    ema_start_step: int = Field(default=0, ge=0)
    grad_accum_steps: int = Field(default=1, ge=1)
    depth_curriculum: bool = False
    activation_checkpointing: bool = False

    seed: int = Field(default=0, ge=0, lt=2**63)
    project_name: str | None = None
    run_name: str | None = None
    checkpoint_path: str | None = None
    load_checkpoint: str | None = None
    eval_save_outputs: list[str] | None = None

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    compile: CompileChoice = "auto"
    log_interval: int = Field(default=10, ge=1)

    resume: str | None = None
    checkpoint_interval_steps: int | None = Field(default=None, gt=0)
    checkpoint_interval_minutes: float | None = Field(default=None, gt=0)
    keep_last: int = Field(default=2, ge=1)
    best_metric: str | None = "test/exact_accuracy"
    early_stop_patience: int | None = Field(default=None, ge=1)

    @field_validator("data_paths_test", mode="before")
    @classmethod
    def accept_null_as_empty(cls, paths):
        return [] if paths is None else paths

    @field_validator("eval_save_outputs")
    @classmethod
    def check_outputs(cls, names):
        unknown = [name for name in names or [] if name not in SAVABLE_OUTPUTS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no output; choose from {', '.join(SAVABLE_OUTPUTS)}")
        return names

    @field_validator("project_name", "run_name", "checkpoint_path", mode="before")
    @classmethod
    def accept_numbers_as_names(cls, name):
        return str(name) if isinstance(name, int | float) and not isinstance(name, bool) else name

    @model_validator(mode="after")
    def check_rhythm(self):
        if self.epochs % self.epochs_per_iteration:
            raise ValueError(
                f"epochs={self.epochs} must be a multiple of eval_interval={self.eval_interval}: "
                f"use epochs={-(-self.epochs // self.eval_interval) * self.eval_interval} or another eval_interval"
            )
        return self

    @model_validator(mode="after")
    def check_keeping(self):
        if self.early_stop_patience is not None and self.best_metric is None:
            raise ValueError(f"early_stop_patience={self.early_stop_patience} needs a best_metric")
        if self.resume == "auto" and self.checkpoint_path is None and self.run_name is None:
            raise ValueError(
                "resume=auto needs checkpoint_path= (or run_name=) to know the run: without them each start gets "
                "a new name"
            )
        return self

    @model_validator(mode="after")
    def check_training(self):
        if self.freeze_weights and (self.optimizer.name != "adam_atan2" or self.grad_clip is not None):
            asked = "grad_clip" if self.grad_clip is not None else f"optimizer={self.optimizer.name}"
            raise ValueError(f"{asked} is for the weights, which freeze_weights=True keeps: drop one of them")
        if self.ema_start_step and not self.ema:
            raise ValueError(f"ema_start_step={self.ema_start_step} needs ema=True")
        return self

    @property
    def epochs_per_iteration(self) -> int:
        """Epochs between evaluations; one iteration of the training stream."""
        return self.eval_interval or self.epochs

    @property
    def num_iterations(self) -> int:
        return self.epochs // self.epochs_per_iteration

    @property
    def test_paths(self) -> list[str]:
        return self.data_paths_test or self.data_paths

    def project(self) -> str:
        """The name given here, else in the environment, else made of the first data folder's."""
        derived = clean_project_name(f"{Path(self.data_paths[0]).name.capitalize()}-ACT-torch")
        return self.project_name or from_environment("PROJECT") or derived

    def total_steps(self, total_groups: int, mean_puzzle_examples: float) -> int:
        """The updates that the schedule counts on (the stream yields a few fewer)."""
        return int(self.epochs * total_groups * mean_puzzle_examples / self.global_batch_size)


def parse(schema: type[BaseModel], values: dict) -> BaseModel:
    """`values` as `schema`; raises UserError that lists every bad key, with the nearest valid ones if it is unknown."""
    problems = []
    try:
        config = schema(**values)
    except ValidationError as error:
        for item in error.errors():
            loc, valid = [str(part) for part in item["loc"]], list(schema.model_fields)
            if loc[:1] == ["optimizer"] and len(loc) > 1:
                choice = loc.pop(1)  # pydantic's mark of which of the choices it is
                valid = [f"optimizer.{field}" for field in CHOICES[choice].model_fields]
            unknown = item["type"] == "extra_forbidden"
            problems.append((".".join(loc), describe(item), valid if unknown else []))
    if isinstance(values.get("arch"), dict):
        try:
            check_arch(values["arch"], seq_len=1, vocab_size=2, num_puzzle_identifiers=1)
        except ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(("", str(error), []))
    if problems:
        raise UserError(
            "the config is not valid\n" + "\n".join(f"  {_line(*problem)}" for problem in problems)
        )
    return config


def _line(key: str, message: str, valid: list[str]) -> str:
    line = f"{key}: {message}" if key else message
    if valid:
        near = difflib.get_close_matches(key, valid, n=3, cutoff=0.5) or sorted(valid)
        line += f"; nearest valid keys: {', '.join(near)}"
    return line


def notices(config: PretrainConfig) -> list[str]:
    """One line for each setting that has no effect in this mode although a published command may carry it."""
    arch, lines = config.arch, []
    name = arch["name"]
    if arch.get("H_layers") and name in ("trm", "trm_singlez", "trm_hier6"):
        lines.append(
            f"arch.H_layers={arch['H_layers']} has no effect: {name} has one network, of L_layers layers"
        )
    if arch.get("mlp_t") and arch.get("pos_encodings", "rope") == "rope":
        lines.append(
            "arch.pos_encodings=rope has no effect with arch.mlp_t=True: there is no attention to rotate"
        )
    if not arch.get("puzzle_emb_ndim", 1):
        lines.append(
            "arch.puzzle_emb_ndim=0: no puzzle embeddings, so puzzle_emb_lr and puzzle_emb_len have no effect"
        )
    if name == "transformers_baseline" and max(arch.get("H_cycles", 1), arch.get("L_cycles", 1)) > 1:
        lines.append(
            "arch.H_cycles and arch.L_cycles have no effect: transformers_baseline applies its stack once"
        )
    return lines
