"""The seam of puzzle families: no module outside dataset/families knows a family by its name or by its class."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataset.families import FAMILIES, family_class

ROOT = Path(__file__).parents[1]
FOLDERS = ("config", "dataset", "evaluators", "models", "utils")
# Benchmarks measure named datasets, docs and tests are about particular families.
MODULES = sorted(
    path
    for path in [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    if ROOT / "dataset" / "families" not in path.parents
)
CLASSES = {family_class(name).__name__: name for name in FAMILIES}
PACKAGE = "dataset.families"
# A family's name alone, or at the beginning of an evaluator's, a metric's or a module's.
NAMED = re.compile(rf"(?:{re.escape(PACKAGE)}\.)?({'|'.join(FAMILIES)})(?![\w-])(?! )")
# A way to store data, and the evaluators that messages list.
EXCEPTIONS = {
    "dataset/format.py": {"from dataset.families.arc.lazy"},
    "dataset/identifiers.py": {"from dataset.families.arc.lazy"},
    "evaluators/base.py": {"arc@ARC", "sudoku@Sudoku", "maze@Maze"},
}


def own_name(path: Path) -> str | None:
    """Return the family of a builder or evaluator, which may name it (in dataset.json, in names of metrics)."""
    for name in FAMILIES:
        evaluator = ROOT / "evaluators" / name
        if path in (ROOT / "dataset" / f"build_{name}_dataset.py", evaluator.with_suffix(".py")):
            return name
        if evaluator in path.parents:
            return name
    return None


def of_package(module: str, names: list[str]) -> set[str]:
    """Return the families from whose packages something is imported."""
    if module == PACKAGE:
        return {name for name in names if name in FAMILIES}
    inside = module.removeprefix(f"{PACKAGE}.").partition(".")[0]
    return {inside} if module.startswith(f"{PACKAGE}.") and inside in FAMILIES else set()


def is_name_of_family(node: ast.AST) -> bool:
    """Return True for expressions such as `family.name`, `self.family.name`, `family_of(...).name`, `found.name`."""
    if not (isinstance(node, ast.Attribute) and node.attr == "name"):
        return False
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    called = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return bool(re.search("famil|found", called))


def knowledge(source: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield (line, code, family or None) wherever code distinguishes one family from others.

    Docstrings, and texts that merely mention a family, do not count.
    """
    tree = ast.parse(source)
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)  # docstrings
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in texts:
            if found := NAMED.match(node.value):
                yield node.lineno, node.value, found[1]
            elif node.value in CLASSES:
                yield node.lineno, node.value, CLASSES[node.value]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in of_package(node.module, [alias.name for alias in node.names]):
                yield node.lineno, f"from {node.module}", name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                for name in of_package(alias.name, []):
                    yield node.lineno, f"import {alias.name}", name
        elif (
            isinstance(node, ast.Attribute)
            and node.attr in FAMILIES
            and ast.unparse(node.value).endswith("families")
        ):
            yield node.lineno, ast.unparse(node), node.attr
        elif isinstance(node, ast.Compare) and any(map(is_name_of_family, (node.left, *node.comparators))):
            if not all(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
                yield node.lineno, ast.unparse(node), None
        elif isinstance(node, ast.Match) and is_name_of_family(node.subject):
            yield node.lineno, f"match {ast.unparse(node.subject)}", None
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and is_name_of_family(node.func.value)
        ) or (isinstance(node, ast.Subscript) and is_name_of_family(node.slice)):
            yield node.lineno, ast.unparse(node), None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_tells_one_family_from_others(path):
    allowed = EXCEPTIONS.get(str(path.relative_to(ROOT)), set())
    known = [
        (line, what)
        for line, what, name in knowledge(path.read_text())
        if what not in allowed and (name is None or name != own_name(path))
    ]
    assert known == [], f"ask family_of(metadata) instead of telling families apart: lines {known}"


@pytest.mark.parametrize(
    "source",
    [
        'if family.name == "sudoku": pass',
        'if "maze" != family.name: pass',
        'if family.name in ("sudoku", "maze"): pass',
        'if "sudoku" in family.name: pass',
        "if family.name in known: pass",
        "if family_of(metadata).name == other: pass",
        "if self.family.name != found: pass",
        'if family.name.startswith("sud"): pass',
        "value = BY_FAMILY[family.name]",
        "match family.name:\n    case other: pass",
        'BY_FAMILY = {"arc": 1}',
        'BY_FAMILY["sudoku"]',
        'NAMES = ["maze"]',
        'match family.name:\n    case "sudoku": pass',
        'family_class("arc")',
        'if evaluator == "maze@Maze": pass',
        'if "sudoku/valid" in metrics: pass',
        'if type(family).__name__ == "SudokuFamily": pass',
        'getattr(module, "NQueensFamily")',
        'import_module("dataset.families.sudoku.family")',
        'f"arc/{metric}"',
        "from dataset.families.sudoku.family import SudokuFamily",
        "from dataset.families.sudoku.rules import BoxShape",
        "from dataset.families.maze import family",
        "from dataset.families import sudoku",
        "import dataset.families.arc.family",
        "import dataset.families.arc",
        "isinstance(family, dataset.families.sudoku.family.Sudoku)",
    ],
)
def test_every_way_to_tell_families_apart_is_noticed(source):
    assert list(knowledge(source))


@pytest.mark.parametrize(
    "source",
    [
        '"""As sudoku or maze."""',
        'class A:\n    b = 1\n    """sudoku"""',
        'text = "sudoku or maze"',
        'text = "mazes of 30x30"',
        "if family.name is None: pass",
        'text = f"the family {family.name}"',
        "from dataset.families.base import Family",
        "from dataset.families import family_of",
        "if optimizer.name == other: pass",
    ],
)
def test_mentioning_a_family_is_allowed(source):
    assert list(knowledge(source)) == []


def test_every_exception_is_needed():
    for path, allowed in EXCEPTIONS.items():
        assert allowed <= {what for _, what, _ in knowledge((ROOT / path).read_text())}


def test_builders_and_evaluators_may_name_their_own_family_only():
    assert own_name(ROOT / "dataset" / "build_maze_dataset.py") == "maze"
    assert own_name(ROOT / "evaluators" / "sudoku.py") == "sudoku"
    assert own_name(ROOT / "evaluators" / "arc" / "votes.py") == "arc"
    assert own_name(ROOT / "evaluators" / "base.py") is None
