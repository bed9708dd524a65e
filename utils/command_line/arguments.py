"""Parse command lines of `key=value` into a command's schema."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from utils.command_line.help import options_of, print_help, usage
from utils.command_line.typed_text import TextKind, entries, is_null, text_kind, unquoted
from utils.errors import UserError, escape_unprintable, exit_with_error
from utils.strict_model import StrictModel, parse

Config = TypeVar("Config", bound=StrictModel)
_HELP = {"-h", "--help", "help"}
_DASHED = re.compile(r"--?([A-Za-z_][\w.]*)(=.*)?", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command whose arguments are `key=value`."""

    program: str  # "solve.py", "-m evaluators.plots"
    summary: str
    schema: type[StrictModel]
    required: Mapping[str, str] = field(default_factory=lambda: {"checkpoint": "RUN"})  # key -> placeholder
    config_name: str | None = None  # file in config/ with the defaults that Hydra composes with the arguments
    advice: Callable[[], str] | None = None  # called for text below the usage, without arguments

    def usage(self) -> str:
        return usage(self.program, self.required)


def read_command(arguments: Sequence[str], command: Command) -> Any:
    """Parse the arguments into the command's schema.

    Without arguments prints the usage and exits with 2; for `--help` prints the help and exits with 0. Raises UserError
    with a list of all problems.
    """
    if not arguments:
        exit_with_usage(command)
    if _HELP & set(arguments):
        keys = options_of(command.schema, required=command.required)
        print_help("\n\n".join([command.summary, command.usage(), "\n".join(["keys", *keys])]))
        sys.exit(0)
    return read_arguments(arguments, command.schema)


def check_arguments(command: Command, check: Callable[[Any], object] = lambda config: None) -> None:
    """At the start of a script: print help, or report wrong arguments, and exit before torch is imported.

    `check` gets the config and raises UserError for what its schema cannot know, such as missing files. If nothing is
    wrong, `read_command` reads the arguments once more after the imports.
    """
    escape_unprintable()
    try:
        check(read_command(sys.argv[1:], command))
    except UserError as error:
        exit_with_error(error)


def exit_with_usage(command: Command) -> NoReturn:
    """Print the usage and the required keys, and exit with 2, as for other wrong arguments."""
    required = options_of(command.schema, only=command.required, required=command.required)
    hint = f"python {command.program} --help lists all keys"
    advice = [command.advice()] if command.advice else []
    print("\n".join([command.usage(), *required, *advice, hint]), file=sys.stderr)
    sys.exit(2)


def read_arguments(arguments: Sequence[str], schema: type[Config]) -> Config:
    """Parse `key=value` arguments into `schema`; raises UserError with a list of all problems."""
    values: dict[str, Any] = {}
    for argument in arguments:
        check_no_dashes(argument)
        key, equals, text = argument.partition("=")
        key = key.lstrip("+")
        if not equals or not key:
            raise UserError(
                f"{argument!r} is not of the form key=value; keys are {', '.join(schema.model_fields)}"
            )
        if key in values:
            raise UserError(f"{key}= is given twice")
        known = schema.model_fields.get(key)
        values[key] = _value(text, known and text_kind(known.annotation))
    return parse(schema, values)


def check_no_dashes(argument: str) -> None:
    """Raise UserError for `--lr=0.001`, the form of other programs and of `wandb agent` by default."""
    if match := _DASHED.fullmatch(argument):
        raise UserError(
            f"{argument}: keys have no dashes, write {match[1]}{match[2] or '=VALUE'} (in a W&B sweep, "
            "${args_no_hyphens} instead of ${args} in its command)"
        )


def _value(text: str, kind: TextKind | None) -> str | list[str] | None:
    if is_null(text):
        return None
    if kind is TextKind.LIST:
        listed = entries(text)
        return entries(f"[{text}]") if listed is None else listed
    return unquoted(text)
