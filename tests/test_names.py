"""Names are unique: no two files or classes have the same name; and no file is too long."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("config", "dataset", "evaluators", "models", "utils")
MODULES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")))
)
FAMILIES = Path("dataset/families")
# Each family has the same parts, so that a reader of one knows where to look in another.
PARTS_OF_A_FAMILY = {"family", "generate", "rules", "search", "symmetry"}
# The base class of the modules of a package.
CONVENTIONS = {"__init__", "base"}
# `rules@Rules`, in configs, is the evaluator of families that do not define one: it applies the family's rules.
NAMED_IN_CONFIGS = Path("evaluators/rules.py")
MOST_LINES = 350


def repeated(named: Iterable[tuple[str, Path]]) -> dict[str, set[Path]]:
    found = defaultdict(set)
    for name, path in named:
        found[name].add(path)
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def kind_of(path: Path) -> Path:
    """Return the path; parts that every family has count as the same file."""
    is_part = path.stem in PARTS_OF_A_FAMILY and FAMILIES in path.parents
    return FAMILIES / path.name if is_part else path


def test_no_two_files_have_the_same_name():
    names = (
        (path.stem, kind_of(path))
        for path in MODULES
        if path.stem not in CONVENTIONS and path != NAMED_IN_CONFIGS
    )
    assert repeated(names) == {}


def test_no_two_classes_have_the_same_name():
    classes = (
        (node.name, path)
        for path in MODULES
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert repeated(classes) == {}


def test_no_module_is_too_long():
    long = {
        str(path): n for path in MODULES if (n := len((ROOT / path).read_text().splitlines())) > MOST_LINES
    }
    assert long == {}
