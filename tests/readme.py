"""Parse README.md for tests: code blocks, tables, file tree, and commands in `bash` blocks."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Values for the placeholders of the general form.
PLACEHOLDERS = {
    "DATASET_DIR": "data/sudoku-6x6",
    "EPOCHS": "20",
    "EVAL_EVERY": "10",
    "LAYERS": "1",
    "RATIO": "0.5",
    "STEPS": "5",
    "LR": "1e-3",
    "H": "2",
    "L": "2",
}
_PROGRAM = re.compile(r"(?:^|\s)((?:dataset/)?\w+\.py|-m [a-z_]+\.\w+)(?=\s|$)(.*)", re.DOTALL)


@cache
def text() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """Return the text below a heading, up to the next heading of the same level."""
    match = re.search(rf"^(#+) {re.escape(heading)}$", without_code(), re.MULTILINE)
    assert match, f"README.md has no heading {heading!r}"
    end = re.compile(rf"^#{{1,{len(match[1])}}} ", re.MULTILINE).search(without_code(), match.end())
    return text()[match.end() : end.start() if end else None]


def blocks(language: str, within: str | None = None) -> list[str]:
    """Return the code blocks of a language, in the whole page or `within` a text."""
    page = text() if within is None else within
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def table(heading: str) -> list[dict[str, str]]:
    """Return the first table below a heading, as one dict of column -> cell per row."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in _first_table(section(heading)).splitlines()
    ]
    header, _, *body = rows
    for row in body:
        assert len(row) == len(header), f"{heading}: {row}"
    return [dict(zip(header, row, strict=True)) for row in body]


def plain(cell: str) -> str:
    """Return the text of a cell without backticks."""
    return cell.replace("`", "")


@dataclass(frozen=True)
class Command:
    """A call of a program of this repository in a `bash` block."""

    program: str  # "pretrain.py", "dataset/build_sudoku_dataset.py", "-m dataset.report"
    arguments: list[str]
    line: str


def commands() -> list[Command]:
    """Return all calls in the page, with variables and placeholders of their blocks substituted."""
    return [command for block in blocks("bash") for command in commands_in(block)]


def commands_in(block: str) -> list[Command]:
    block = re.sub(r"<<'EOF'\n.*?^EOF$", "", block, flags=re.MULTILINE | re.DOTALL)
    found, variables = [], {}
    for line in block.replace("\\\n", " ").splitlines():
        if assigned := re.fullmatch(r'(\w+)="([^"$]*)"', line.strip()):
            variables[assigned[1]] = assigned[2]
        match = _PROGRAM.search(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        rest = match[2]
        if rest.count("'") % 2:  # the end of a quoted command inside another one
            rest = rest.replace("'", "")
        for name, value in variables.items():
            rest = rest.replace(f"${{{name}}}", value)
        arguments = shlex.split(rest, comments=True)
        found.append(Command(match[1], [filled(argument) for argument in arguments], line.strip()))
    return found


def filled(command: str) -> str:
    """Substitute the placeholders of the general form in a command or argument."""
    names = "|".join(PLACEHOLDERS)
    return re.sub(rf"(?<=[=\[])({names})(?=[\]\s]|$)", lambda match: PLACEHOLDERS[match[0]], command)


@cache
def without_code() -> str:
    """Return the page with code blocks blanked out in place, because `#` is not a heading there."""

    def blanked(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return re.sub(r"^```.*?^```$", blanked, text(), flags=re.MULTILINE | re.DOTALL)


def _first_table(part: str) -> str:
    match = re.search(r"(?:^\|.*\|\n)+", part, re.MULTILINE)
    assert match, "there is no table"
    return match[0]
