"""Render the page of recipes from the headers of config/experiment/*.yaml."""

from __future__ import annotations

import re
from pathlib import Path

from docs.generator.markdown import ROOT, first_comment, page, prose

_INTRO = """\
A recipe is a file in `config/experiment/` that sets training keys. Its header gives the commands that build the data
and train, and the expected time and score. You can override any key on the command line:
`python pretrain.py +experiment=sudoku6x6 seed=1`."""


def recipes_page() -> str:
    parts = [_INTRO]
    for path in sorted((ROOT / "config" / "experiment").glob("*.yaml")):
        said = header(path)
        commands = "\n".join("\n  ".join(said[name]) for name in ("Data", "Train"))
        parts += [
            f"## `{path.stem}`",
            prose(first_comment(path)),
            f"```bash\n{commands}\n```",
            "\n".join(f"- {name}: {prose(' '.join(said[name]))}" for name in ("Time", "Score")),
        ]
    return page("Recipes", *parts)


def header(path: Path) -> dict[str, list[str]]:
    """Return the lines of each field of a recipe's header; Data and Train hold commands, Time and Score text."""
    fields: dict[str, list[str]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"# (Data|Train|Time|Score) +(.*)", line):
            name = match[1]
            fields[name] = [match[2]]
        elif name and line.startswith("#  "):
            fields[name].append(line[1:].strip())
        else:
            name = ""
    return fields
