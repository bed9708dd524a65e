"""User interface of Hydra: overrides as users type them, and readable errors."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from config.hydra_help import render_help
from config.published_names import ARCH_CHOICES
from config.schema import PretrainConfig, sections
from utils.command_line.arguments import Command, check_no_dashes, exit_with_usage
from utils.command_line.help import print_help
from utils.command_line.typed_text import TextKind, for_hydra, is_null, text_kind
from utils.errors import UserError, report_user_errors
from utils.strict_model import StrictModel, parse

# `key=value` or `a.b=value`, also `+key=` and `++key=`; not `~key`, `--flag`, `hydra.x=`.
_PLAIN = re.compile(r"^\+{0,2}(?!hydra[./])([A-Za-z_][\w.]*)=")


def _faster_dtype(device_name: str = "auto") -> str:
    from utils.device import faster_dtype  # imports torch

    return faster_dtype(device_name)


# Recipes for CPUs use `forward_dtype: ${faster_dtype:${device}}`; a run's all_config.yaml has the resolved value.
OmegaConf.register_new_resolver("faster_dtype", _faster_dtype, replace=True)

# Config groups with the prefix that Hydra requires: none if the defaults list has an entry for the group.
GROUPS = {"arch": "", "experiment": "+", "optimizer": ""}

# Choices that the plugins in requirements-sweeps.txt add.
PLUGINS = {"hydra/sweeper": ("optuna",), "hydra/launcher": ("joblib", "submitit_local", "submitit_slurm")}


def force_overrides(
    overrides: Sequence[str], schema: type[StrictModel] = PretrainConfig, *, sweeps: bool = False
) -> list[str]:
    """Rewrite overrides for Hydra, keeping text as it was typed.

    `key=value`, `+key=value` and `++key=value` become `++key=value`, so that all forms work and a misspelt key reaches
    our schema, which suggests the nearest valid keys. Config groups (`arch=`) get the prefix in `GROUPS`. Values of
    text keys are quoted, so that neither Hydra's grammar nor YAML reads `20251128_0107` as a number or fails at `a(b`;
    if the command `sweeps`, commas separate values.
    """
    kinds = _text_kinds(overrides, schema)
    forced = []
    for argument in overrides:
        if match := _PLAIN.match(argument):
            key, value = match[1], argument[match.end() :]
            if key in GROUPS:
                # Hydra fails on null.
                chosen = '"null"' if is_null(value) else value
                argument = f"{GROUPS[key]}{key}={chosen}"
            else:
                kind = kinds.get(key)
                argument = f"++{key}={for_hydra(value, kind, sweeps=sweeps) if kind else value}"
        forced.append(argument)
    return forced


def _text_kinds(overrides: Sequence[str], schema: type[StrictModel]) -> dict[str, TextKind]:
    """Map dotted keys of text to their kind, including keys of the architecture and loss head in the overrides."""
    matches = [(match, override) for override in overrides if (match := _PLAIN.match(override))]
    named = {match[1]: override[match.end() :] for match, override in matches}
    kinds = {}
    for prefix, schemas in sections(schema, named.get("arch.name"), named.get("arch.loss.name")).items():
        for each in schemas:
            for name, field in each.model_fields.items():
                if kind := text_kind(field.annotation):
                    kinds[f"{prefix}{name}"] = kind
    return kinds


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into Hydra's options (with values) and overrides, which argparse takes only if contiguous.

    Raises UserError for an option that Hydra does not have.
    """
    actions = get_args_parser()._option_string_actions
    options: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return options, overrides + rest
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        name, equals, _ = argument.partition("=")
        near = [option for option in actions if option.startswith(name)] if name.startswith("--") else []
        if name not in actions and len(near) != 1:
            check_no_dashes(argument)
            raise UserError(f"{argument}: unknown option; arguments are key=value (--help lists the keys)")
        action = actions[name if name in actions else near[0]]
        options.append(argument)
        takes_next = (
            not equals
            and rest
            and (action.nargs is None or (action.nargs == "?" and rest[0] in (action.choices or ())))
        )
        if takes_next:
            options.append(rest.pop(0))
    return options, overrides


@report_user_errors
def run_command(launch: Callable[[], None], command: Command) -> None:
    """Call a function decorated by `hydra.main` with the command line's overrides.

    Hydra's errors are shown like other user errors, without traceback or Hydra's advice. Without arguments prints the
    usage and exits with 2; `--help` prints every key with its meaning.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints the error and exits
    if len(sys.argv) == 1:
        exit_with_usage(command)
    options, overrides = split_arguments(sys.argv[1:])
    asked = get_args_parser().parse_args(options)
    try:
        if asked.shell_completion:  # `install=bash` is not an override
            if "COMP_LINE" in os.environ:
                os.environ["COMP_LINE"] = completable(os.environ["COMP_LINE"])
            sys.argv[1:] = [*options, *overrides]
        else:
            sweeps = asked.multirun or "hydra.mode=MULTIRUN" in overrides
            if sweeps:
                _let_launchers_import()
            forced = force_overrides(overrides, command.schema, sweeps=sweeps)
            if asked.help:
                print_help(render_help(command, forced))
                return
            sys.argv[1:] = [*options, *forced]
        launch()
    except Exception as error:
        if (known := hydra_error(error)) is None:
            raise
        raise known from error


def _let_launchers_import() -> None:
    """Let processes that a launcher starts in another folder import this repository, which is not installed."""
    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


def hydra_error(error: Exception) -> UserError | None:
    """Convert an error that Hydra raises for bad arguments to a UserError; None for other errors.

    For some arguments (`arch=1.5`, an integer of thousands of digits) Hydra raises a plain ValueError, for others
    (`optimizer@=x`) an AssertionError without a message. Its Optuna sweeper passes some (`hydra.sweeper.direction=up`)
    to Optuna unchecked, which raises a ValueError.
    """
    if isinstance(error, HydraException):
        return UserError(_in_words(error))
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    package = frames[-1].partition(".")[0]
    if package == "hydra" or (package == "optuna" and isinstance(error, ValueError)):
        reason = " ".join(str(error).split()) or "Hydra gives no reason"
        return UserError(f"the arguments are not valid: {reason}")
    return None


def completable(line: str) -> str:
    """Reduce a command line for Hydra's completion: of the words before the last, keep choices of config groups only.

    Hydra splits at spaces and parses each word, which fails for some paths.
    """
    words = line.split(" ")
    chosen = [word for word in words[2:-1] if word.lstrip("+").partition("=")[0] in GROUPS]
    return " ".join([*words[:2], *force_overrides(chosen), *words[max(2, len(words) - 1) :]])


def _in_words(error: HydraException) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "arch" and name in ARCH_CHOICES:
            return f"arch={name}: is called {ARCH_CHOICES[name]} here, write arch={ARCH_CHOICES[name]}"
        if name in PLUGINS.get(group, ()):
            return f"{group}={name}: needs a plugin of Hydra, pip install -r requirements-sweeps.txt"
        near = difflib.get_close_matches(name, error.options, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{group}={name}: there is no such choice{hint}; use one of {', '.join(error.options)}"
    reason = " ".join(line.strip() for line in str(error).splitlines() if "https://" not in line)
    if isinstance(error, OverrideParseException):
        return f"{error.override.lstrip('+')}: cannot be read as key=value ({reason})"
    if unknown := re.match(r"Could not override '([^']+)'\. No match in the defaults list", reason):
        return f"{unknown[1]}: this command has no such group of configs; --help lists its keys"
    return f"the arguments are not valid: {reason}"


def check_config(cfg: DictConfig, schema: type[StrictModel]) -> Any:
    """Validate the composed config without importing torch. Raises UserError that lists everything that is wrong.

    `faster_dtype` needs torch, so it resolves to float32 here; use `resolved` and `parse` after torch is imported.
    """
    OmegaConf.register_new_resolver("faster_dtype", lambda device_name="auto": "float32", replace=True)
    try:
        return parse(schema, resolved(cfg, schema))
    except UserError:
        if os.environ.get("RANK", "0") != "0":  # only the first of several processes prints the error
            sys.exit(2)
        raise
    finally:
        OmegaConf.register_new_resolver("faster_dtype", _faster_dtype, replace=True)


def resolved(cfg: DictConfig, schema: type[StrictModel]) -> dict[str, Any]:
    """Convert the composed config to plain containers. Raises UserError for an interpolation that cannot be resolved.

    A number at a text key becomes text if it comes from an interpolation (`${seed}`) or a sweep (`range(1,4)`). From a
    YAML file it stays a number, which the schema rejects, because YAML has read `20251128_0107` as 202511280107.
    """
    # Not resolved, because an override may itself contain a broken interpolation.
    initialized = HydraConfig.initialized()
    job: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False) if initialized else []
    given = {match[1] for override in job if (match := _PLAIN.match(override))}
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True)
        for key, field in schema.model_fields.items():
            if key in values and text_kind(field.annotation):
                values[key] = _as_text(cfg, key, values[key], key in given)
        return values
    except OmegaConfBaseException as error:
        cause: BaseException | None = error
        while cause is not None:  # a UserError raised within a resolver, such as for device
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise UserError(f"{error.full_key}: {error.msg or error}".partition("\n")[0]) from error


def _as_text(container: Any, key: str | int, value: Any, given: bool) -> Any:
    """Convert the value at `key`, or each list entry, to text if it is a number and `given` or interpolated."""
    if isinstance(value, list):
        return [_as_text(container[key], index, entry, given) for index, entry in enumerate(value)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and (given or OmegaConf.is_interpolation(container, key)) else value
