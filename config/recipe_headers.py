"""The headers of the recipes in config/experiment/: the commands that build their data and train, time and score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError

RECIPES = Path(__file__).parent / "experiment"


def read_header(path: Path) -> dict[str, list[str]]:
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


def explained(error: UserError, train: Sequence[str], test: Sequence[str]) -> UserError:
    """Add to an error about data the key that a recipe sets besides `data_paths`, or the builder's command."""
    missing = [folder for folder in test if not Path(folder).is_dir()]
    if missing and all(Path(folder).is_dir() for folder in train):
        return UserError(
            f"{error}\n(this is data_paths_test, set apart from data_paths: give data_paths_test=[DIR] too)"
        )
    return naming_the_builder(error, [*train, *test])


def naming_the_builder(error: UserError, folders: Sequence[str]) -> UserError:
    """Add the command that builds the first missing dataset to an error, if a recipe gives one."""
    missing = next((folder for folder in folders if not Path(folder).is_dir()), None)
    command = None if missing is None else command_that_builds(missing)
    return error if command is None else UserError(f"{error}; for this one:\n  {command}")


def command_that_builds(folder: str) -> str | None:
    """Return the command that builds the dataset which a recipe expects in `folder`, on one line; None without one."""
    from omegaconf import OmegaConf  # slow, and needed for this error only

    for path in sorted(RECIPES.glob("*.yaml")):
        recipe: Any = OmegaConf.load(path)
        if folder in recipe.get("data_paths", []):
            return " ".join(line.removesuffix("\\").strip() for line in read_header(path)["Data"])
    return None
