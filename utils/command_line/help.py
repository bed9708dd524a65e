"""Text of `--help`: every key with its meaning, default and choices, taken from the schemas."""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

_INDENT, _WIDTH = 24, 110


def usage(program: str, required: Mapping[str, str]) -> str:
    given = [f"{key}={placeholder}" for key, placeholder in required.items()]
    return " ".join(["usage: python", program, *given, "[key=value ...]"])


def options_of(
    schema: type[BaseModel],
    prefix: str = "",
    defaults: Mapping[str, Any] | None = None,
    *,
    only: Iterable[str] | None = None,
    required: Collection[str] = (),
) -> Iterator[str]:
    """Yield an entry for each key of a schema, or for those in `only`; `defaults` override the schema's."""
    for name in schema.model_fields if only is None else only:
        field = schema.model_fields[name]
        default = (defaults or {}).get(name, field.get_default(call_default_factory=True))
        facts = ["required"] if name in required else []
        if not facts and default is not PydanticUndefined:
            facts.append(f"default: {written(default)}")
        if choices := choices_of(field.annotation):
            facts.append(f"choices: {', '.join(choices)}")
        noted = f"[{'; '.join(facts)}]" if facts else ""
        yield entry(f"{prefix}{name}", f"{meaning_of(schema, name)} {noted}".strip())


def meaning_of(schema: type[BaseModel], name: str) -> str:
    """Return a field's description in one line, looked up along the base classes."""
    for cls in schema.__mro__:
        field = getattr(cls, "model_fields", {}).get(name)
        if field is not None and field.description:
            return " ".join(inspect.cleandoc(field.description).split())
    return ""


def choices_of(annotation: Any) -> list[str]:
    """List the values that the `Literal`s in an annotation allow, as typed on the command line."""
    if get_origin(annotation) is Literal:
        return [written(value) for value in get_args(annotation)]
    if get_origin(annotation) is Annotated:
        return choices_of(get_args(annotation)[0])
    members = [member for member in get_args(annotation) if member is not NoneType]
    return [choice for member in members for choice in choices_of(member)]


def written(value: Any) -> str:
    """Format a value as typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {written(each)}' for key, each in value.items())}}}"
    return str(value)


def print_help(text: str) -> None:
    """Print, and ignore a closed pipe as in `--help | head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def entry(key: str, text: str) -> str:
    """Format a key, with its text in a column next to it."""
    lines = textwrap.wrap(text, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    head = f"  {key}"
    if len(head) >= _INDENT - 1 or not lines:
        lines = ["", *lines]
    first, *rest = lines
    return "\n".join([f"{head:<{_INDENT}}{first}".rstrip(), *(" " * _INDENT + line for line in rest)])
