"""Inspect modules without importing them."""

from __future__ import annotations

import ast
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path


def has_module(name: str) -> bool:
    """Return True if a module of this dotted name exists; its parent packages are imported."""
    return _spec(name) is not None


def provides(name: str, cls: str) -> bool:
    """Return True if the source of a module defines or imports a class, or if it has no Python source to check."""
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
    except (ModuleNotFoundError, ValueError):  # a parent package is missing, or the name is invalid
        return None
