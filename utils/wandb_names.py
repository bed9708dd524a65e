"""Valid names of W&B projects, and names from W&B's environment variables."""

from __future__ import annotations

import os
import re

from utils.errors import UserError

_FORBIDDEN = "/\\#?%:"
_MOST_CHARACTERS = 128


def from_environment(name: str) -> str | None:
    """Return the environment variable `WANDB_{name}`, None if it is unset or empty."""
    return os.environ.get(f"WANDB_{name}") or None


def check_project_name(project: str, source: str) -> None:
    """Raise `UserError` for a name that W&B rejects; `source` is the key or variable that gave it."""
    found = [character for character in _FORBIDDEN if character in project]
    if not found and len(project) <= _MOST_CHARACTERS:
        return
    said = f"{source}={project}: a W&B project's name"
    if not found:
        raise UserError(f"{said} has at most {_MOST_CHARACTERS} characters, this has {len(project)}")
    entity, _, rest = project.partition("/")
    if found == ["/"] and entity and rest and "/" not in rest:
        raise UserError(f"{said} must not contain the entity: set WANDB_ENTITY={entity} {source}={rest}")
    raise UserError(f"{said} cannot contain {' '.join(found)}; {' '.join(_FORBIDDEN)} are reserved")


def clean_project_name(project: str) -> str:
    """Replace characters that W&B rejects, and truncate to the maximum length."""
    return re.sub(f"[{re.escape(_FORBIDDEN)}]", "-", project)[:_MOST_CHARACTERS]
