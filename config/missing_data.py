"""What to do about a missing dataset: the key to give, or the command by which a recipe builds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config.recipe_headers import RECIPES, read_headers
from utils.errors import UserError


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

    for header in read_headers():
        recipe: Any = OmegaConf.load(RECIPES / f"{header.name}.yaml")
        if folder in recipe.get("data_paths", []):
            return header.text("Data")
    return None
