"""The page of the layout: what each package and module is, from their docstrings."""

from __future__ import annotations

import ast
import subprocess
from itertools import groupby, takewhile
from pathlib import Path

from docs.generator.markdown import ROOT, code, page, prose, table

FOLDERS = ("", "config", "dataset", "models", "evaluators", "utils", "benchmarks", "docs")
ENDINGS = (".py", ".hpp", ".cpp")
_INTRO = """\
Commands are at the top, each a thin layer over the packages. `dataset/` makes arrays on disk with NumPy and without
torch, `puzzle_dataset.py` turns them into batches, `models/` is mathematics without files or ranks, `evaluators/` turns
a model and batches into numbers and answers, `utils/` touches machine and disk, `config/` decides what is run. `tests/`
is beside them; the names of its tests are sentences about behaviour. The descriptions below begin the modules'
docstrings."""


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
    """List the modules below a folder, of '' those at the top, by package; new files included, ignored ones not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder or "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    paths = {ROOT / name for name in listed if name.endswith(ENDINGS) and (folder or "/" not in name)}
    return sorted((path for path in paths if path.exists()), key=lambda path: (path.parent, path.name))


def description(path: Path) -> str:
    """Return the first paragraph of a module's docstring, or of a C++ file's comment; '' if there is none."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = takewhile(lambda line: line.startswith("//"), text.splitlines())
        said = "\n".join(line[2:].strip() for line in comment)
    return " ".join(said.split("\n\n")[0].split())
