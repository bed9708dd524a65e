"""Refresh code excerpts: a page's `<!-- code: FILE CLASS.METHOD -->` is followed by that method, without docstring."""

from __future__ import annotations

import ast
import re
from textwrap import dedent
from typing import Any

from docs.generator.markdown import ROOT

_EXCERPT = re.compile(r"^(<!-- code: (\S+) (\S+) -->\n\n)```python\n.*?^```$", re.MULTILINE | re.DOTALL)


def with_excerpts(text: str) -> str:
    """Return a page's text with its excerpts refreshed."""
    return _EXCERPT.sub(lambda match: f"{match[1]}```python\n{source_of(match[2], match[3])}\n```", text)


def source_of(file: str, name: str) -> str:
    """Return the code of a class, function or method, without docstrings; raise LookupError if it does not exist."""
    text = (ROOT / file).read_text(encoding="utf-8")
    node: Any = ast.parse(text)
    for part in name.split("."):
        found = [each for each in node.body if getattr(each, "name", None) == part]
        if not found:
            raise LookupError(f"{file} has no {name}")
        node = found[0]
    removed: set[int] = set()
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(each):
            last = each.body[0].end_lineno or 0
            blank = len(each.body) > 1 and each.body[1].lineno > last + 1
            removed |= set(range(each.body[0].lineno, last + 1 + blank))
    lines = text.splitlines()
    return dedent(
        "\n".join(lines[i - 1] for i in range(node.lineno, node.end_lineno + 1) if i not in removed)
    )
