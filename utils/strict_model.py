"""Base class of every closed config schema, and `parse`, which lists everything that is wrong in one error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from utils.errors import UserError

Problem = tuple[str, str, list[str]]  # dotted key, message, valid keys at that level
SchemaT = TypeVar("SchemaT", bound="StrictModel")
MAX_FLOAT = 1e15  # products of two such numbers are still finite in float32


class StrictModel(BaseModel):
    """Rejects unknown keys, absurdly large numbers, infinities, NaN, and booleans in place of numbers."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        defer_build=True,  # most schemas are never used to validate, and building one takes milliseconds
    )
    advice: ClassVar[Mapping[str, str]] = {}
    """Unknown keys that users of other programs type -> what to write instead."""

    @classmethod
    def further_problems(cls, values: dict[str, Any]) -> tuple[list[Problem], list[str]]:
        """Return problems of `values` that the fields do not express, and dotted keys to suggest for unknown ones."""
        return [], []

    @classmethod
    def problem(cls, item: ErrorDetails) -> Problem:
        """Convert one of pydantic's errors."""
        loc = [str(part) for part in item["loc"]]
        return (
            ".".join(loc),
            describe(item),
            list(cls.model_fields) if item["type"] == "extra_forbidden" else [],
        )

    @model_validator(mode="after")
    def reject_absurd_numbers(self) -> StrictModel:
        for key in type(self).model_fields:
            value = getattr(self, key)
            if isinstance(value, float) and abs(value) > MAX_FLOAT:
                raise ValueError(f"{key}={value:g}: is not valid: must be at most {MAX_FLOAT:g}")
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError(f"{key}: is not valid: has {len(str(value)):,} digits, must be below 2^63")
        return self

    # On the whole model, because pydantic allows no such validator on a discriminator field.
    @model_validator(mode="before")
    @classmethod
    def reject_booleans_as_numbers(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        booleans = [
            key for key, value in values.items() if isinstance(value, bool) and key in cls.model_fields
        ]
        rejected = [key for key in booleans if _takes_only_numbers(cls.model_fields[key].annotation)]
        return values | {key: _NoNumber(values[key]) for key in rejected}


@dataclass(frozen=True, repr=False)
class _NoNumber:
    """A boolean that pydantic does not accept as a number, so that the field's own message is shown."""

    value: bool

    def __repr__(self) -> str:
        return str(self.value).lower()


def _takes_only_numbers(annotation: Any) -> bool:
    return types_of(annotation) <= {int, float, type(None)}


def types_of(annotation: Any) -> set[Any]:
    """Return the types that an annotation allows: members of a union, types of a `Literal`'s values."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {type(value) for value in arguments}
    if origin is Annotated:
        return types_of(arguments[0])
    if origin in (Union, UnionType):
        return set().union(*map(types_of, arguments))
    return {annotation}


def parse(schema: type[SchemaT], values: dict) -> SchemaT:
    """Validate `values`; raises UserError that lists every bad key, with the nearest valid ones if it is unknown."""
    problems: list[Problem] = []
    try:
        config = schema(**values)
    except ValidationError as error:
        problems = [schema.problem(item) for item in error.errors()]
    further, inside = schema.further_problems(values)
    problems += further
    if problems:
        lines = [_line(problem, schema.advice, inside) for problem in problems]
        raise UserError("the config is not valid\n" + "\n".join(f"  {line}" for line in lines))
    return config


def _line(problem: Problem, advice: Mapping[str, str], inside: list[str]) -> str:
    """Format a problem; an unknown key (the list of valid keys is not empty) with the nearest of the valid ones.

    `hidden_size` is answered with `arch.hidden_size` (one of `inside`), and `learning_rate` with `lr`, its initials.
    """
    key, message, valid = problem
    line = f"{key}: {message}" if key else message
    if valid and key in advice:
        return f"{line}; {advice[key]}"
    if valid:
        initials = "".join(word[:1] for word in key.split("_"))
        same = [name for name in (f"arch.{key}", initials) if name in (*inside, *valid)]
        near = same or difflib.get_close_matches(key, valid, n=3, cutoff=0.5) or sorted(valid)
        line += f"; nearest valid keys: {', '.join(near)}"
    return line


def describe(item: ErrorDetails) -> str:
    """Describe one pydantic error, with the value."""
    if item["type"] == "extra_forbidden":
        return "unknown key"
    if item["type"] == "missing":
        return "missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "literal_error":
        message = f"choose from {item['ctx']['expected']}".replace("'", "").replace(" or ", ", ")
    if item["type"] == "list_type" and isinstance(item["input"], str):
        message = f"must be a list, written [{item['input']}]"
    if item["type"] == "string_type" and isinstance(item["input"], bool | int | float):
        # The original spelling (0x10, 1_6, 20e0, on) is not known from the value.
        message = "YAML reads it as a number or a boolean, but it must be text: write it in quotes, '...'"
    of_whole = not item["loc"] or (item["type"] == "value_error" and isinstance(item["input"], dict))
    return message if of_whole else f"{item['input']!r} is not valid: {message}"
