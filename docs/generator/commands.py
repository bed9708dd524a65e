"""Render the page of commands: usage, keys and options of each command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import app
import evaluate
import export
import pretrain
import solve
from config.schema import PretrainConfig
from dataset import (
    build_arc_dataset,
    build_maze_dataset,
    build_nqueens_dataset,
    build_sudoku_dataset,
    report,
)
from dataset.families import check
from dataset.families.arc import check_submission
from dataset.options import OptionParser
from docs.generator.keys import composed, keys_table
from docs.generator.markdown import ROOT, code, page, prose, table
from evaluators import memorisation, plots
from utils.command_line.arguments import Command

COMMANDS: tuple[Command, ...] = tuple(
    module.COMMAND for module in (pretrain, evaluate, solve, app, export, plots, memorisation)
)
BUILDERS: dict[str, Callable[[list[str]], object]] = {
    "dataset/build_sudoku_dataset.py": build_sudoku_dataset.parse_options,
    "dataset/build_maze_dataset.py": build_maze_dataset.parse_options,
    "dataset/build_nqueens_dataset.py": build_nqueens_dataset.parse_options,
    "-m dataset.build_arc_dataset": build_arc_dataset.parse_options,
    "-m dataset.report": report.main,
    "-m dataset.families.arc.check_submission": check_submission.main,
    "-m dataset.families.check": check.main,
}
_INTRO = """\
`--help` prints the keys or options of a command. A command called without a required argument prints its usage. Model
commands take `key=value` arguments; `+key=value` and `++key=value` are equivalent. Options of the builders can be
spelt `--num-aug 3` or `--num_aug 3`. Builders can be run as scripts or as modules. The output of a builder depends only
on its source and options, never on `--workers`."""


def commands_page() -> str:
    parts = [_INTRO, "## `make`", _make_targets()]
    for command in COMMANDS:
        defaults = composed(command.config_name) if command.config_name else None
        parts += [
            f"## `{command.program}`",
            prose(command.summary.split("\n\n")[0]),
            f"```text\n{command.usage()}\n```",
            "See [Training keys](config.md) for its keys and [Recipes](recipes.md) for the recipes."
            if command.schema is PretrainConfig
            else keys_table(command.schema, defaults=defaults, required=command.required),
        ]
    for program, parse in BUILDERS.items():
        parser = parser_of(parse)
        parts += [f"## `{program}`", prose(parser.description or ""), options_table(parser)]
    return page("Commands", *parts)


def _make_targets() -> str:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([\w-]+):.*?## (.*)$", text, re.MULTILINE)
    return table(("target", "what it does"), [[code(f"make {name}"), prose(said)] for name, said in found])


def parser_of(parse: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    """Return the argument parser of a builder, captured when the builder parses its options."""
    parsers: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        parsers.append(parser)
        raise InterruptedError

    with patch.object(OptionParser, "parse_args", stop), suppress(InterruptedError):
        parse([])
    return parsers[0]


def options_table(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        if action.dest == "help":
            continue
        name = action.option_strings[-1] if action.option_strings else action.dest.upper()
        text = (action.help or "").replace(", all CPUs when left out", "")
        if action.choices:
            text += f" ({' or '.join(map(str, action.choices))})"
        rows.append([code(name), _default(action), prose(text)])
    return table(("option", "default", "meaning"), rows)


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.dest == "workers":
        return "all CPUs"
    if action.default is None:
        return ""
    return "off" if action.default is False else code(str(action.default))
