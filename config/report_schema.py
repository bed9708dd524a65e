"""Options of the reports on a run: `python -m evaluators.plots` and `python -m evaluators.memorisation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from config.schema import FilePath
from config.solve_schema import FamilyConfig
from models.arch_configs import MAX_STEPS


class ReportConfig(FamilyConfig):
    """Options of a report; None means as in training."""

    out: FilePath | None = None
    """Folder for the files; null: the run's folder, for plots its plots/, with several runs ./plots."""
    data_paths_test: list[FilePath] | None = Field(default=None, min_length=1)
    """Test datasets; null: the run's own."""
    limit: int = Field(default=1000, gt=0)
    """Number of puzzles to solve of each split that is needed."""
    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    """Supervision steps; more than in training are allowed; null: as in training."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps and cpu that is available."""


class PlotsConfig(ReportConfig):
    """Options of `python -m evaluators.plots`: figures of one run, or one figure that compares several."""

    checkpoint: FilePath | None = None  # type: ignore[assignment]  # may be left out here
    """A trained model, for the figures of one run: a run's folder, step_N, best, an export, hf://OWNER/NAME."""
    runs: list[FilePath] | None = Field(default=None, min_length=1)
    """Folders of runs to compare in one figure, instead of checkpoint."""
    panel: Literal["accuracy", "cells", "loss", "steps"] = "accuracy"
    """With runs, what to plot: puzzles solved, cells right, loss, or supervision steps until halting."""
    split: Literal["test", "train"] = "test"
    """With runs, the puzzles that it is measured on."""
    x: Literal["step", "flops", "puzzles", "minutes"] = "step"
    """With runs, what to plot it against: training steps, FLOP, puzzles, or minutes without evaluations."""
    by: str | None = None
    """With runs, the config key whose value tells groups apart, such as arch.L_cycles; runs with one value are
    drawn as their median and range; null: runs that differ in nothing but the seed are a group.
    """
    width: float = Field(default=3.4, gt=0.5, le=40)
    """With runs, width of the figure in inches."""
    font_size: float = Field(default=8.0, ge=3, le=40)
    """With runs, size of the text in points."""

    @field_validator("checkpoint", mode="before")
    @classmethod
    def require_checkpoint(cls, checkpoint):
        return checkpoint

    @model_validator(mode="after")
    def check_either(self):
        of_runs = {"panel", "split", "x", "by", "width", "font_size"}
        of_checkpoint = {"data_paths_test", "limit", "steps", "device", "family"}
        if (self.checkpoint is None) == (self.runs is None):
            raise ValueError(
                "give either checkpoint=RUN, for the figures of one run, or runs=[A,B], to compare runs"
            )
        given = self.model_fields_set & (of_runs if self.runs is None else of_checkpoint)
        if given:
            needed = "runs" if self.runs is None else "checkpoint"
            raise ValueError(f"{', '.join(sorted(given))}: has an effect only with {needed}=")
        return self


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
