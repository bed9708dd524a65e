"""What `solve.py` may be told, read without Hydra: its grammar turns `12.3000` or `000123` into numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, field_validator, model_validator

from config.schema import parse
from models.recursive import MAX_STEPS
from models.settings import Settings
from utils.errors import UserError

Config = TypeVar("Config", bound=BaseModel)


class CheckpointConfig(Settings):
    """What every command about trained weights is told."""

    checkpoint: str = Field(default=None, validate_default=True)  # required, with a message of its own

    @field_validator("checkpoint", mode="before")
    @classmethod
    def require_checkpoint(cls, checkpoint):
        if checkpoint is None:
            raise ValueError("name the folder of a run, a weights file in it, an export, or hf://OWNER/NAME")
        return checkpoint


class SolveConfig(CheckpointConfig):
    """Everything that `solve.py` is told; None means as the run was trained."""

    puzzle: str | None = None
    index: int | None = Field(default=None, ge=0)
    seed: int | None = Field(default=None, ge=0)
    data_paths_test: list[str] | None = Field(default=None, min_length=1)
    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    seq_len: int | None = Field(default=None, gt=0)
    gif: str | None = None
    png: str | None = None
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"

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
            raise ValueError("seq_len= goes with puzzle=; the test data says it itself")
        if self.index is not None and self.seed is not None:
            raise ValueError("index= chooses a puzzle and seed= draws one: leave one of them out")
        return self


class AppConfig(CheckpointConfig):
    """Everything that `app.py` is told."""

    seq_len: int | None = Field(default=None, gt=0)
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    port: int = Field(default=7860, ge=1024, le=65535)


def read_arguments(arguments: Sequence[str], schema: type[Config] = SolveConfig) -> Config:
    """The command line's `key=value` as `schema`; raises UserError that lists what is wrong."""
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        key = key.lstrip("+")
        if not equals or not key:
            raise UserError(
                f"{argument!r} is not of the form key=value; keys are {', '.join(schema.model_fields)}"
            )
        if key in values:
            raise UserError(f"{key}= is given twice")
        values[key] = _value(key, _unquoted(text))
    return parse(schema, values)


def _value(key: str, text: str) -> str | list[str] | None:
    if key == "puzzle":
        return text
    if text == "null":
        return None
    if key in ("data_paths", "data_paths_test"):
        inside = text[1:-1] if text[:1] + text[-1:] == "[]" else text
        return [_unquoted(path.strip()) for path in inside.split(",") if path.strip()]
    return text


def _unquoted(text: str) -> str:
    """The text without quotes that survived the shell (`'puzzle="1.."'`, as Hydra's commands want them)."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
