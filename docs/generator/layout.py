"""Render the layout page, which describes each package and module by its docstring."""

from __future__ import annotations

import ast
import subprocess
from itertools import groupby, takewhile
from pathlib import Path

from docs.generator.markdown import ROOT, code, page, prose, table

FOLDERS = ("", "config", "dataset", "models", "evaluators", "utils", "benchmarks", "docs")
ENDINGS = (".py", ".hpp", ".cpp")
_INTRO = """\
The commands are at the top level, each a thin layer over the packages. `dataset/` builds arrays on disk with NumPy and
does not import torch. `puzzle_dataset.py` turns them into batches. `models/` contains the mathematics and does not
access files or ranks. `evaluators/` computes metrics and answers from a model and batches. `utils/` deals with the
machine and the disk. `config/` defines and validates the configuration. `tests/` contains the tests, whose names are
sentences that describe behaviour. The descriptions below are the first paragraphs of the modules' docstrings."""


def layout_page() -> str:
    parts = [_INTRO]
    for folder in FOLDERS:
        for package, members in groupby(modules(folder), key=lambda path: path.parent):
            paths = list(members)
            about = [description(path) for path in paths if path.name == "__init__.py"]
            rows = [
                [code(path.name), prose(description(path))] for path in paths if path.name != "__init__.py"
            ]
            name = f"`{package.relative_to(ROOT)}/`" if folder else "Commands, and what they share"
            parts += [f"## {name}", *map(prose, about), table(("module", "what it is"), rows)]
    return page("Layout", *parts)


def modules(folder: str) -> list[Path]:
    """List the modules under a folder ('' for the top level) by package, including new files but not ignored ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder or "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    paths = {ROOT / name for name in listed if name.endswith(ENDINGS) and (folder or "/" not in name)}
    return sorted((path for path in paths if path.exists()), key=lambda path: (path.parent, path.name))


def description(path: Path) -> str:
    """Return the first paragraph of a module's docstring or a C++ file's comment, or '' if there is none."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = takewhile(lambda line: line.startswith("//"), text.splitlines())
        said = "\n".join(line[2:].strip() for line in comment)
    return " ".join(said.split("\n\n")[0].split())
