"""Parse pages of Markdown for tests: code blocks, tables, links, and commands in `bash` blocks."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache, cached_property
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
_PROGRAM = re.compile(r"(?:^|\s)((?:dataset/)?\w+\.py|-m (?!venv|pip)[a-z_.]+)(?=\s|$)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A call of a program of this repository in a `bash` block."""

    program: str  # "pretrain.py", "dataset/build_sudoku_dataset.py", "-m dataset.report"
    arguments: list[str]
    line: str


@dataclass(frozen=True)
class Page:
    """A page of the documentation, by its path from the root."""

    name: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def without_code(self) -> str:
        """Return the page with code blocks blanked out in place, because `#` is not a heading there."""

        def blanked(match: re.Match) -> str:
            return re.sub(r"[^\n]", " ", match[0])

        return re.sub(r"^```.*?^```$", blanked, self.text, flags=re.MULTILINE | re.DOTALL)

    def section(self, heading: str) -> str:
        """Return the text below a heading, up to the next heading of the same level."""
        match = re.search(rf"^(#+) {re.escape(heading)}$", self.without_code, re.MULTILINE)
        assert match, f"{self.name} has no heading {heading!r}"
        end = re.compile(rf"^#{{1,{len(match[1])}}} ", re.MULTILINE).search(self.without_code, match.end())
        return self.text[match.end() : end.start() if end else None]

    def blocks(self, language: str, heading: str | None = None) -> list[str]:
        """Return the code blocks of a language, on the whole page or below a heading."""
        return blocks_in(language, self.text if heading is None else self.section(heading))

    def table(self, heading: str) -> list[dict[str, str]]:
        """Return the first table below a heading, as one dict of column -> cell per row."""
        found = tables_in(self.section(heading))
        assert found, f"{self.name}, {heading}: there is no table"
        return found[0]

    def tables(self) -> list[list[dict[str, str]]]:
        return tables_in(self.without_code)

    def anchors(self) -> set[str]:
        """Return the fragments of links to the headings."""
        headings = re.findall(r"^#+ (.+)$", self.without_code, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def links(self) -> list[str]:
        page = re.sub(r"<!--.*?-->|`[^`\n]*`", "", self.without_code, flags=re.DOTALL)
        return re.findall(r"\]\(([^)\s]+)\)", page)

    def commands(self) -> list[Command]:
        """Return all calls on the page, with variables and placeholders of their blocks substituted."""
        return [command for block in self.blocks("bash") for command in commands_in(block)]


@cache
def page(name: str) -> Page:
    return Page(name)


def all_pages() -> list[Page]:
    """Return the pages at the top and all below docs/."""
    docs = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [page(name) for name in (*sorted(path.name for path in ROOT.glob("*.md")), *docs)]


def blocks_in(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def tables_in(text: str) -> list[list[dict[str, str]]]:
    tables = []
    for match in re.finditer(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        header, _, *body = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in match[0].splitlines()
        )
        for row in body:
            assert len(row) == len(header), row
        tables.append([dict(zip(header, row, strict=True)) for row in body])
    return tables


def plain(cell: str) -> str:
    """Return the text of a cell without backticks."""
    return cell.replace("`", "")


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
