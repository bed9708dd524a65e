"""Parse values of text keys exactly as typed: quotes, lists and sweeps.

YAML and Hydra's grammar read `20251128_0107` as a number and fail at `a=b` or `(`, but names and paths must stay as
they are.
"""

from __future__ import annotations

import re
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin

from utils.strict_model import types_of

_QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
_WHOLLY_QUOTED = re.compile(_QUOTED, re.DOTALL)
_QUOTED_ENTRY = re.compile(rf"\s*(?:{_QUOTED})\s*(?=[,\]]|\Z)", re.DOTALL)
_CHOICE = re.compile(r"choice\((.*)\)", re.DOTALL)
_OTHER_SWEEP = re.compile(r"(?:range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)


class TextKind(Enum):
    """What a text key holds."""

    ONE = "text"
    LIST = "a list of texts"


def text_kind(annotation: Any) -> TextKind | None:
    """Return the kind of text that an annotation allows (besides null); None if it allows anything else."""
    types = types_of(annotation) - {NoneType}
    if types == {str}:
        return TextKind.ONE
    if len(types) == 1 and get_origin(only := types.pop()) is list and types_of(*get_args(only)) == {str}:
        return TextKind.LIST
    return None


def is_null(text: str) -> bool:
    return text.strip().lower() == "null"


def unquoted(text: str) -> str:
    r"""Remove quotes around the whole text; within them `\'` is the quote, and `\\` before a quote is `\`."""
    if not _WHOLLY_QUOTED.fullmatch(text):
        return text
    quote, inside = text[0], text[1:-1]
    return re.sub(rf"(\\+)({quote}|\Z)", lambda match: "\\" * (len(match[1]) // 2) + match[2], inside)


def quoted(text: str) -> str:
    """Put the text into single quotes, as Hydra's grammar and `unquoted` read them."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def entries(text: str) -> list[str] | None:
    """Return the entries of `[a, 'b, c']`; None without brackets. An entry with a comma must be quoted."""
    text = text.strip()
    if text[:1] + text[-1:] != "[]":
        return None
    inside = text[1:-1]
    return [unquoted(entry.strip()) for entry in split(inside)] if inside.strip() else []


def split(text: str, *, lists: bool = False) -> list[str]:
    """Split at commas outside of quoted entries, `${...}` and, if the entries are `lists`, brackets."""
    parts, start, position, braces, brackets = [], 0, 0, 0, 0
    at_entry = True
    while position < len(text):
        if at_entry and (match := _QUOTED_ENTRY.match(text, position)):
            position, at_entry = match.end(), False
            continue
        character = text[position]
        opens = text.startswith("${", position)
        braces += opens - (character == "}" and braces > 0)
        if lists and not braces:
            brackets += (character == "[") - (character == "]" and brackets > 0)
        if character == "," and not braces and not brackets:
            parts.append(text[start:position])
            start = position + 1
        at_entry = character == "," or (lists and character == "[") or (at_entry and character.isspace())
        position += 2 if opens else 1
    return [*parts, text[start:]]


def for_hydra(value: str, kind: TextKind, *, sweeps: bool) -> str:
    """Quote the value of a text key so that Hydra's grammar reads exactly this text.

    Null stays null, and `${...}` an interpolation. If the command `sweeps`, commas and `choice(...)` still separate
    values; Hydra's other sweep functions are passed unchanged.
    """
    one = _text_for_hydra if kind is TextKind.ONE else _list_for_hydra
    if not sweeps:
        return one(value)
    if _OTHER_SWEEP.fullmatch(value):
        return value
    choice = _CHOICE.fullmatch(value)
    values = split(choice[1] if choice else value, lists=kind is TextKind.LIST)
    swept = ",".join(one(each.strip()) for each in values)
    return f"choice({swept})" if choice else swept


def _text_for_hydra(text: str) -> str:
    return "null" if is_null(text) else quoted(unquoted(text))


def _list_for_hydra(text: str) -> str:
    found = entries(text)
    return _text_for_hydra(text) if found is None else f"[{','.join(map(quoted, found))}]"
