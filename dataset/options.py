"""Command-line options of the builders, and checks of the output folder."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dataset.families import FAMILIES, family_class, family_of
from dataset.format import SPLITS, open_split
from utils.errors import UserError
from utils.files import is_temporary, make_folder, remove_temporary_files
from utils.lock import LOCK_FILE, locked_folder
from utils.reading import read_json


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (
            action.help
            if action.default is None or action.default is False
            else super()._get_help_string(action)
        )


class OptionParser(argparse.ArgumentParser):
    """An `argparse` parser that accepts long options with dashes or underscores.

    Unknown options raise `UserError` with the closest valid names instead of printing the usage. Abbreviations are
    rejected, so that a misspelled option never selects another one.
    """

    def __init__(self, **settings):
        settings.setdefault("formatter_class", _HelpFormatter)
        settings.setdefault(
            "epilog", "Every option may also be spelt with underscores: --num_aug is --num-aug."
        )
        super().__init__(allow_abbrev=False, **settings)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(f"{self.prog}: {self._explain(unknown[0])}")
        return options

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        declared = [name for name in self._option_string_actions if dashed(name) != name]
        assert not declared, f"declare options with dashes: {declared}"
        if args is None:
            args = sys.argv[1:]
        if not args and any(action.required for action in self._actions):
            self.print_usage(sys.stderr)
        return super().parse_known_args([dashed(argument) for argument in args], namespace)

    def error(self, message: str):
        raise UserError(f"{self.prog}: {message} (--help lists the options)")

    def _explain(self, argument: str) -> str:
        if not argument.startswith("-"):
            return f"unexpected argument {argument!r}: options start with -- (--help lists them)"
        name = argument.split("=", 1)[0]
        valid = [option for option in self._option_string_actions if option.startswith("--")]
        near = difflib.get_close_matches(name, valid, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"valid ones are {', '.join(valid)}"
        return f"unknown option {name}; {hint}"


def dashed(argument: str) -> str:
    """Turn `--num_aug=3` into `--num-aug=3`; arguments other than long options are unchanged."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return an argparse `type` for whole numbers of at least `minimum`, and at most `maximum` unless it is None."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is too small: the minimum is {minimum}")
        if maximum is not None and value > maximum:
            raise argparse.ArgumentTypeError(f"{value} is too large: the maximum is {maximum}")
        return value

    return convert


@contextmanager
def building_into(output_dir: str | Path, family: str) -> Iterator[Path]:
    """Context manager that checks, creates and locks the output folder.

    Raises `UserError` if another build holds the lock or `check_output_dir` rejects the folder. Folders created here
    are removed again if nothing is written.
    """
    output_dir = check_output_dir(output_dir, family)
    made = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
    try:
        make_folder(output_dir, "--output-dir")
        with locked_folder(output_dir, "another build", "--output-dir") as exclusive:
            # Check again: the previous holder of the lock may have built another family.
            check_output_dir(output_dir, family)
            if exclusive:
                remove_temporary_files(output_dir, *(output_dir / split for split in SPLITS))
            yield output_dir
    finally:
        for folder in made:
            with suppress(OSError):  # not empty, or never created
                folder.rmdir()


def check_output_dir(output_dir: str | Path, family: str) -> Path:
    """Return the folder if it is new, empty, or holds a dataset of the same family, which will be replaced.

    Raises `UserError` otherwise, so that a mistyped folder is never overwritten.
    """
    output_dir = Path(output_dir)
    if not output_dir.exists():
        return output_dir
    if not output_dir.is_dir():
        raise UserError(f"--output-dir {output_dir} is a file: give a folder")
    entries = {path.name for path in output_dir.iterdir() if not is_temporary(path)} - {LOCK_FILE}
    found = {_family(output_dir, split) for split in SPLITS} - {None}
    own_files = {name: family_class(name).own_files for name in FAMILIES}
    # Files that a killed build may leave behind without a dataset.json.
    leftover = {*SPLITS, "identifiers.json", "identifiers.npz"}.union(*own_files.values())
    if not found and not entries <= leftover:
        raise UserError(
            f"--output-dir {output_dir} is not empty and holds no dataset: choose another folder, or remove it"
        )
    found = {name for name, files in own_files.items() if files & entries} or found
    others = found - {family, ""}
    if others:
        raise UserError(
            f"--output-dir {output_dir} holds a dataset of the family {others.pop()}: choose another folder, or "
            f"remove it before building {family} there"
        )
    return output_dir


def _family(output_dir: Path, split: str) -> str | None:
    """Return the family of a split, "" if it is unknown, None if there is no such split."""
    path = output_dir / split / "dataset.json"
    if not path.exists():
        return None
    try:
        metadata = read_json(path)
        stated = metadata.get("family") if isinstance(metadata, dict) else None
        return str(stated or family_of(open_split(output_dir, split).metadata).name or "")
    except UserError:
        return ""
