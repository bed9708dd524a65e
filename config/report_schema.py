"""What the reports on a run may be told: `python -m evaluators.plots` and `python -m evaluators.memorisation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from config.solve_schema import CheckpointConfig
from models.recursive import MAX_STEPS


class ReportConfig(CheckpointConfig):
    """Everything that a report is told; None means as the run was trained."""

    out: str | None = None
    data_paths_test: list[str] | None = Field(default=None, min_length=1)
    limit: int = Field(default=1000, gt=0)
    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"


class MemorisationConfig(ReportConfig):
    """A report that asks about train puzzles too."""

    data_paths: list[str] | None = Field(default=None, min_length=1)
    limit: int = Field(default=500, gt=0)
    copies: int = Field(default=1, gt=0)
    seed: int = Field(default=0, ge=0)
