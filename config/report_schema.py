"""Options of the reports on a run: `python -m evaluators.plots` and `python -m evaluators.memorisation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from config.schema import FilePath
from config.solve_schema import FamilyConfig
from models.arch_configs import MAX_STEPS


class ReportConfig(FamilyConfig):
    """Options of a report; None means as in training."""

    out: FilePath | None = None
    """Folder for the files; null: the run's folder, for plots its plots/."""
    data_paths_test: list[FilePath] | None = Field(default=None, min_length=1)
    """Test datasets; null: the run's own."""
    limit: int = Field(default=1000, gt=0)
    """Number of puzzles to solve of each split that is needed."""
    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    """Supervision steps; more than in training are allowed; null: as in training."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps and cpu that is available."""


class MemorisationConfig(ReportConfig):
    """Options of a report that also uses training puzzles."""

    data_paths: list[FilePath] | None = Field(default=None, min_length=1)
    """Train datasets; null: the run's own."""
    limit: int = Field(default=500, gt=0)
    """Number of puzzles to solve of each split that is needed."""
    copies: int = Field(default=1, gt=0)
    """Symmetric copies of each train puzzle."""
    seed: int = Field(default=0, ge=0)
    """Seed of the copies."""
