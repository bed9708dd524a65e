"""Base class of every closed config schema."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

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
