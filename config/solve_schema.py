"""Options of `solve.py` and `app.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from config.evaluate_schema import GUESS_NEEDS_HALT, MAX_CHAINS
from config.schema import CompileChoice, FilePath, Probability
from models.arch_configs import MAX_STEPS
from utils.strict_model import StrictModel


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
    """Number of the test puzzle, from 0; null: one is drawn, or the first of the samples of an export."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of that draw; null: 0."""
    data_paths_test: list[FilePath] | None = Field(default=None, min_length=1)
    """Datasets to take the test puzzle from; null: the run's own; if they are not on this machine, the samples of
    an export, puzzles.csv.
    """
    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    """Supervision steps; more than in training are allowed; null: as in training."""
    seq_len: int | None = Field(default=None, gt=0)
    """Cells of a puzzle, needed for a published checkpoint that does not record it."""
    gif: FilePath | None = None
    """File (.gif) for an animation of the steps."""
    png: FilePath | None = None
    """File (.png) for a picture of all steps."""
    trace: FilePath | None = None
    """File (.npz) for latents, attention and logits by step and cycle."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto: the first of cuda, mps and cpu that is available."""

    puzzles: FilePath | None = None
    """A file of puzzles to solve, of any length: .txt with one per line, .csv or .tsv with a column question, puzzle
    or quiz, .jsonl with strings or objects with such a key; also .gz; - is standard input, one per line.
    """
    out: FilePath | None = None
    """File for the answers, in order, .csv or .jsonl; - is standard output, as JSON lines."""
    resume: bool = False
    """Continue the file of answers of an interrupted run after its last row."""
    halt: bool | Literal["auto"] | Probability | None = None
    """When a puzzle stops. null: by the calibrated rule saved beside the weights, or after all steps if there is
    none; auto: by that rule, which is chosen first if there is none; true: when the model says stop; a number such
    as 0.98: when the sigmoid of q_halt exceeds it; false: after all steps. strategy=guess: null is 0.98.
    """
    strategy: Literal["plain", "symmetry", "guess", "ladder"] = "plain"
    """How puzzles are solved, as in evaluate.py."""
    symmetries: int | None = Field(default=None, ge=2)
    """strategy=symmetry and ladder: copies of each puzzle, including itself; null: 8, or as many as exist."""
    chains: int | None = Field(default=None, gt=0, le=MAX_CHAINS)
    """strategy=guess: guesses about each puzzle that is unsolved without one; null: 16."""
    batch_size: int | None = Field(default=None, gt=0)
    """Rows computed at a time; null: as many as have about 16,000 cells."""
    compile: CompileChoice = "auto"
    """auto: torch.compile on CUDA, compile=fused on CPUs that it fits if more than a few puzzles are to be solved,
    also to calibrate halt=auto; the other choices are those of training.
    """

    @field_validator("compile", mode="before")
    @classmethod
    def read_truth_values(cls, value):
        known = {"true": True, "false": False}
        return known.get(value.strip().lower(), value) if isinstance(value, str) else value

    @field_validator("puzzles", "out")
    @classmethod
    def check_suffix(cls, path, info):
        known = {"puzzles": (".txt", ".csv", ".tsv", ".jsonl"), "out": (".csv", ".jsonl")}[info.field_name]
        plain = path and (path.lower().removesuffix(".gz") if info.field_name == "puzzles" else path.lower())
        if path not in (None, "-") and not plain.endswith(known):
            raise ValueError(f"the file's name must end in {', '.join(known)}, or be -")
        return path

    @model_validator(mode="after")
    def check_files(self):
        if self.out is None and self.puzzles is not None:
            raise ValueError(f"out= is missing: name a file for the answers to puzzles={self.puzzles}")
        if self.puzzles is None and self.out is not None:
            raise ValueError(f"puzzles= is missing: name the file of puzzles that out={self.out} answers")
        of_one = ("puzzle", "index", "seed", "data_paths_test", "gif", "png", "trace")
        of_files = ("resume", "halt", "strategy", "symmetries", "chains", "batch_size", "compile")
        for key in of_one if self.puzzles is not None else of_files:
            if getattr(self, key) != type(self).model_fields[key].default:
                other = "one puzzle, not to puzzles=" if self.puzzles is not None else "puzzles=FILE out=FILE"
                raise ValueError(f"{key}= belongs to {other}")
        if self.puzzles is not None and self.puzzles == self.out != "-":
            raise ValueError("out= would replace the puzzles: name another file")
        if self.resume and (self.out == "-" or self.puzzles == "-"):
            raise ValueError("resume= needs files, which can be read again from the start, instead of -")
        if self.symmetries is not None and self.strategy not in ("symmetry", "ladder"):
            raise ValueError("symmetries= belongs to strategy=symmetry and strategy=ladder")
        if self.chains is not None and self.strategy != "guess":
            raise ValueError("chains= belongs to strategy=guess")
        if self.strategy == "guess" and self.halt is False:
            raise ValueError(GUESS_NEEDS_HALT)
        return self

    @field_validator("gif", "png", "trace")
    @classmethod
    def check_output_suffix(cls, path, info):
        ending = {"trace": "npz"}.get(info.field_name, info.field_name)
        if path is not None and not path.lower().endswith(f".{ending}"):
            raise ValueError(f"the file's name must end in .{ending}")
        return path

    @model_validator(mode="after")
    def check_choice_of_puzzle(self):
        for key in ("index", "seed", "data_paths_test"):
            if self.puzzle is not None and getattr(self, key) is not None:
                raise ValueError(f"puzzle= gives the puzzle and {key}= chooses one: leave one of them out")
        if self.puzzle is None and self.puzzles is None and self.seq_len is not None:
            raise ValueError("seq_len= is used with puzzle= and puzzles= only; the test data has its own")
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
