"""The closed, typed mirror of `cfg_evaluate.yaml`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from config.schema import SAVABLE_OUTPUTS, EvaluatorConfig


class EvaluateConfig(BaseModel):
    """Everything that `evaluate.py` is told; None means as the run was trained."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str = Field(default=None, validate_default=True)  # required, with a message of its own
    step: int | None = Field(default=None, ge=0)
    out: str | None = None

    data_paths_test: list[str] | None = Field(default=None, min_length=1)
    evaluators: list[EvaluatorConfig] | None = None
    eval_save_outputs: list[Literal[SAVABLE_OUTPUTS]] | None = None
    limit: int | None = Field(default=None, gt=0)
    global_batch_size: int | None = Field(default=None, gt=0)

    halt_max_steps: int | None = Field(default=None, gt=0)
    forward_dtype: Literal["bfloat16", "float32", "float16"] | None = None

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    compile: Literal["auto"] | bool = "auto"

    @field_validator("checkpoint", mode="before")
    @classmethod
    def require_checkpoint(cls, checkpoint):
        if checkpoint is None:
            raise ValueError("name the folder of a run, a weights file in it, an export, or hf://OWNER/NAME")
        return checkpoint

    def completed(self, run: dict[str, Any]) -> EvaluateConfig:
        """This config with the run's own values where it has none."""
        own = {
            "data_paths_test": run["data_paths_test"] or run["data_paths"],
            "evaluators": run["evaluators"],
            "global_batch_size": run["global_batch_size"],
        }
        values = self.model_dump()
        return EvaluateConfig(**values | {key: value for key, value in own.items() if values[key] is None})
