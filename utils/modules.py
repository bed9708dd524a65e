"""Look at modules without importing them."""

from __future__ import annotations

import ast
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path


def has_module(name: str) -> bool:
    """True if there is a module of this dotted name; packages that it lies in are imported."""
    return _spec(name) is not None


def provides(name: str, cls: str) -> bool:
    """True if the source of a module defines or imports a class; also if it has no source in Python to tell."""
    spec = _spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return spec is not None
    provided = set()
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            provided.add(node.name)
        elif isinstance(node, ast.ImportFrom):  # a package that re-exports a class
            provided |= {alias.asname or alias.name for alias in node.names}
    return cls in provided


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a package that it would lie in is missing; the name is none
        return None
