"""Options of `solve.py` and `app.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from config.schema import FilePath
from models.configs import MAX_STEPS
from models.strict_model import StrictModel


class CheckpointConfig(StrictModel):
    """Options of every command on trained weights."""

    checkpoint: FilePath = Field(default=None, validate_default=True)  # required, with its own message
    """The trained model: a run's folder, step_N, best, an export, .safetensors, hf://OWNER/NAME[/file]."""

    @field_validator("checkpoint", mode="before")
    @classmethod
    def require_checkpoint(cls, checkpoint):
        if checkpoint is None:
            raise ValueError("name the folder of a run, a weights file in it, an export, or hf://OWNER/NAME")
        return checkpoint


class FamilyConfig(CheckpointConfig):
    """Options of every command that judges or draws a trained model's answers."""

    family: str | None = None
    """Puzzle family of the data, whatever its dataset.json says: a name, or module@Class of a family of your
    own; null: as in training.
    """


class SolveConfig(FamilyConfig):
    """Options of `solve.py`; None means as in training."""

    puzzle: str | None = None
    """Your own puzzle: its cells in reading order. Sudoku: symbols, . or 0 for a blank; white space and
    | - + / are ignored. Mazes: # wall, space or . free, S start, G goal, / or a line break between rows.
    N-Queens: Q queen, . empty.
    """
    index: int | None = Field(default=None, ge=0)
    """Number of the test puzzle, from 0; null: one is drawn."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of that draw; null: 0."""
    data_paths_test: list[FilePath] | None = Field(default=None, min_length=1)
    """Datasets to take the test puzzle from; null: the run's own."""
    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    """Supervision steps; more than in training are allowed; null: as in training."""
    seq_len: int | None = Field(default=None, gt=0)
    """Cells of a puzzle, needed for a published checkpoint that does not record it."""
    gif: FilePath | None = None
    """File (.gif) for an animation of the steps."""
    png: FilePath | None = None
    """File (.png) for a picture of all steps."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps and cpu that is available."""

    @field_validator("gif", "png")
    @classmethod
    def end_as_the_format(cls, path, info):
        if path is not None and not path.lower().endswith(f".{info.field_name}"):
            raise ValueError(f"the file's name must end in .{info.field_name}")
        return path

    @model_validator(mode="after")
    def choose_one_puzzle(self):
        for key in ("index", "seed", "data_paths_test"):
            if self.puzzle is not None and getattr(self, key) is not None:
                raise ValueError(f"puzzle= gives the puzzle and {key}= chooses one: leave one of them out")
        if self.puzzle is None and self.seq_len is not None:
            raise ValueError("seq_len= is used with puzzle= only; the test data has its own")
        if self.index is not None and self.seed is not None:
            raise ValueError("index= chooses a puzzle and seed= draws one: leave one of them out")
        return self


class AppConfig(FamilyConfig):
    """Options of `app.py`."""

    seq_len: int | None = Field(default=None, gt=0)
    """Cells of a puzzle, needed for a published checkpoint that does not record it."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps and cpu that is available."""
    port: int = Field(default=7860, ge=1024, le=65535)
    """Port of the page."""
