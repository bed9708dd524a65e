"""No module outside dataset/families depends on the name of a puzzle family."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataset.families import FAMILIES

ROOT = Path(__file__).parents[1]
FOLDERS = ("config", "dataset", "evaluators", "models", "utils")
# Benchmarks, docs and tests are about particular families.
MODULES = sorted(
    path
    for path in [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    if ROOT / "dataset" / "families" not in path.parents
)


def own_name(path: Path) -> str | None:
    """Return the family of a builder (`"family": ...`) or of an evaluator (the prefix of its metrics)."""
    for name in FAMILIES:
        evaluator = ROOT / "evaluators" / name
        if path in (ROOT / "dataset" / f"build_{name}_dataset.py", evaluator.with_suffix(".py")):
            return name
        if evaluator in path.parents:
            return name
    return None


def named_families(source: str) -> Iterator[tuple[int, str]]:
    """Return line and name of each family that code refers to, anywhere except in longer strings.

    Importing the class of a family, for example for `isinstance`, counts as well.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in FAMILIES:
            yield node.lineno, node.value
        elif isinstance(node, ast.ImportFrom) and node.module:
            package, _, rest = node.module.removeprefix("dataset.families.").partition(".")
            names = [rest] if rest else [alias.name for alias in node.names]
            if node.module.startswith("dataset.families.") and package in FAMILIES and "family" in names:
                yield node.lineno, package
        elif isinstance(node, ast.Import):
            for alias in node.names:
                for name in FAMILIES:
                    if alias.name == f"dataset.families.{name}.family":
                        yield node.lineno, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_refers_to_a_family_by_name(path):
    known = [(line, name) for line, name in named_families(path.read_text()) if name != own_name(path)]
    assert known == [], f"ask family_of(metadata) instead of naming a family: lines and names {known}"


@pytest.mark.parametrize(
    "source",
    [
        'if family.name == "sudoku": pass',
        'if "maze" != family.name: pass',
        'if family.name in ("sudoku", "maze"): pass',
        'BY_FAMILY = {"arc": 1}',
        'BY_FAMILY["sudoku"]',
        'NAMES = ["maze"]',
        'match family.name:\n    case "sudoku": pass',
        'family_class("arc")',
        "from dataset.families.sudoku.family import SudokuFamily",
        "from dataset.families.maze import family",
        "import dataset.families.arc.family",
    ],
)
def test_every_reference_to_a_family_is_detected(source):
    assert len(list(named_families(source))) >= 1


def test_mentioning_a_family_in_text_is_allowed():
    source = '"""As sudoku or maze."""\nfrom dataset.families.sudoku.rules import BoxShape\nsudoku = "sudoku/valid"'
    assert list(named_families(source)) == []


def test_builders_and_evaluators_may_name_their_own_family_only():
    assert own_name(ROOT / "dataset" / "build_maze_dataset.py") == "maze"
    assert own_name(ROOT / "evaluators" / "sudoku.py") == "sudoku"
    assert own_name(ROOT / "evaluators" / "arc" / "votes.py") == "arc"
    assert own_name(ROOT / "evaluators" / "base.py") is None
