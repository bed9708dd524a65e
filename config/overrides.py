"""Hydra as users meet it: overrides as they write them, and one readable error for what it refuses."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.device import faster_dtype
from utils.errors import UserError, report_user_errors

# `key=value` or `a.b=value`; not `+key=`, `~key`, `--flag`, `hydra.x=`.
_PLAIN = re.compile(r"^\+?(?!hydra[./])([A-Za-z_][\w.]*)=")


# Recipes for CPUs write `forward_dtype: ${faster_dtype:${device}}`; a run's all_config.yaml holds what it came to.
OmegaConf.register_new_resolver("faster_dtype", faster_dtype, replace=True)

# Config groups, with the sign that Hydra wants before them: none where the defaults list makes a choice.
GROUPS = {"arch": "", "experiment": "+", "optimizer": ""}


def force_overrides(argv: list[str]) -> list[str]:
    """Give `key=value` and `+key=value` the prefix that Hydra takes: `++`, config groups (`arch=`) that of `GROUPS`.

    `run_name=x`, `+run_name=x` and `++run_name=x` then all work whatever the default is, and a misspelt key reaches
    our own schema, which names the nearest valid ones.
    """
    forced = []
    for argument in argv:
        if match := _PLAIN.match(argument):
            key, value = match[1], argument[match.end() :]
            # Null chooses nothing that there is, but Hydra would fail at it.
            quoted = '"null"' if key in GROUPS and value == "null" else value
            argument = f"{GROUPS.get(key, '++')}{key}={quoted}"
        forced.append(argument)
    return forced


@report_user_errors
def run_command(launch: Callable[[], None]) -> None:
    """Call a function that `hydra.main` has decorated, with the command line's overrides.

    Whatever Hydra refuses of them ends as a user's error does, without its traceback and its advice.
    """
    sys.argv[1:] = force_overrides(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits by itself
    try:
        launch()
    except HydraException as error:
        raise UserError(_in_words(error)) from error


def _in_words(error: HydraException) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        near = difflib.get_close_matches(name, error.options, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{group}={name}: there is no such choice{hint}; use one of {', '.join(error.options)}"
    reason = " ".join(line.strip() for line in str(error).splitlines() if "https://" not in line)
    if isinstance(error, OverrideParseException):
        return f"{error.override.lstrip('+')}: cannot be read as key=value ({reason})"
    if group := re.match(r"Could not override '([^']+)'\. No match in the defaults list", reason):
        return (
            f"{group[1]}: this command has no such group of configs; its keys are in README.md, Config keys"
        )
    return f"the arguments are not valid: {reason}"


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The composed config in plain containers. Raises UserError for an interpolation that leads nowhere."""
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {error.msg or error}".partition("\n")[0]) from error
