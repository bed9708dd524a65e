"""The headers of config/experiment/*.yaml: how to build the data and train, what it needs, and what to expect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from utils.command_line.help import entry
from utils.hardware import num_cores, num_gpus

RECIPES = Path(__file__).parent / "experiment"
FIELDS = ("Data", "Train", "Needs", "Time", "Score")
# What a header may say in Needs, with the number of GPUs.
GPUS_NEEDED = {"a CPU": 0, "one GPU": 1, "four GPUs": 4}
_FIRST = "sudoku6x6"  # of `make demo`; the recipe to begin with


@dataclass(frozen=True)
class RecipeHeader:
    """The header of one recipe; `fields` has the lines of each of `FIELDS`, without the comment sign."""

    name: str
    title: str
    fields: dict[str, list[str]]

    @property
    def num_gpus(self) -> int:
        return GPUS_NEEDED[" ".join(self.fields["Needs"])]

    def text(self, field: str) -> str:
        """Return a field as one line; a command without its line breaks."""
        return " ".join(line.removesuffix("\\").strip() for line in self.fields[field])


def read_header(path: Path) -> RecipeHeader:
    """Read the header of a recipe."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("# @package")]
    title = " ".join(line[2:] for line in takewhile(lambda line: line.startswith("# "), lines))
    fields: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if match := re.match(rf"# ({'|'.join(FIELDS)}) +(.*)", line):
            name = match[1]
            fields[name] = [match[2]]
        elif name and line.startswith("#  "):
            fields[name].append(line[1:].strip())
        else:
            name = ""
    return RecipeHeader(path.stem, title, fields)


def read_headers(folder: Path = RECIPES) -> list[RecipeHeader]:
    return [read_header(path) for path in sorted(folder.glob("*.yaml"))]


def recipes_for(cores: int, gpus: int, folder: Path = RECIPES) -> str:
    """List the recipes in words, those that fit a machine first, and the commands to begin with."""
    return "\n".join(_lines(read_headers(folder), cores, gpus))


def recipes_for_this_machine() -> str:
    return recipes_for(num_cores(), num_gpus())


def _lines(headers: list[RecipeHeader], cores: int, gpus: int) -> Iterator[str]:
    machine = f"{cores} CPU core{'s' * (cores != 1)}, "
    machine += f"{gpus} GPU{'s' * (gpus != 1)}" if gpus else "no NVIDIA GPU"
    fitting = [header for header in headers if header.num_gpus <= gpus]
    # On a machine with GPUs, recipes that use them come first.
    fitting.sort(key=lambda header: -header.num_gpus)
    yield f"\nrecipes that fit this machine ({machine})"
    yield from map(_entry, fitting)
    for needs, number in GPUS_NEEDED.items():
        larger = [header for header in headers if header.num_gpus == number and number > gpus]
        if larger:
            yield f"\nrecipes for {needs}; on less they run, slowly"
            yield from map(_entry, larger)
    (first,) = [header for header in headers if header.name == _FIRST]
    yield f"\nto begin with, on any machine\n  {first.text('Data')}\n  {first.text('Train')}"
    yield "docs/reference/recipes.md has these two commands for every recipe"


def _entry(header: RecipeHeader) -> str:
    time = header.text("Time")
    return entry(f"+experiment={header.name}", f"{header.title.rstrip('.')}. {time[:1].upper()}{time[1:]}.")
