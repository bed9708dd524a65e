"""Report on a dataset: sizes, examples as coloured grids, validation problems, and leakage of test into train.

python -m dataset.report data/sudoku-6x6 --png examples.png
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: sys.path[0] is this folder instead of the repository
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

if __name__ == "__main__":  # Ctrl-C during the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()

import argparse
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataset.drawing.picture import grid_picture
from dataset.drawing.terminal import grid_lines, wants_colour
from dataset.families import family_of, named_family
from dataset.families.base import Family
from dataset.format import SPLITS, Split, open_valid, read_identifiers
from dataset.leakage import first_examples, leakage
from dataset.options import OptionParser, whole_number
from utils.errors import UserError, report_user_errors
from utils.files import expand_home

if TYPE_CHECKING:
    from PIL import Image

_SAMPLE_NOTED = 2_000  # questions of each set passed to Family.notes
_SAMPLE_CELLS = 1 << 24  # cells sampled for token frequencies


@report_user_errors
def main(arguments: list[str] | None = None) -> int:
    """Print the report; return 1 if the dataset is invalid."""
    parser = OptionParser(prog="report", description=__doc__.splitlines()[0])
    parser.add_argument("dataset_dir", type=expand_home, help="folder with train and test")
    parser.add_argument("--examples", type=whole_number(0), default=2, help="examples to draw per split")
    parser.add_argument(
        "--png", type=expand_home, help="also draw the examples, at least eight per split, to this file"
    )
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="colours in the terminal"
    )
    parser.add_argument("--family", help="puzzle family, a name or module@Class; overrides dataset.json")
    options = parser.parse_args(arguments)
    with named_family(options.family):
        return _report(options)


def _report(options: argparse.Namespace) -> int:
    directory = Path(options.dataset_dir)
    splits, problems = open_valid(directory)
    if not any((directory / name).is_dir() for name in SPLITS):
        raise UserError(problems[0])
    lines = report_lines(directory, splits, problems)
    if options.examples:
        colour = wants_colour(sys.stdout) if options.color == "auto" else options.color == "always"
        lines = chain(lines, example_lines(directory, splits, options.examples, colour=colour))
    _print_lines(lines)
    if options.png:
        if not splits:
            raise UserError(f"{directory}: no split can be opened, so --png has nothing to draw")
        from dataset.sheet import write_sheet

        count = max(8, options.examples)
        write_sheet(
            Path(options.png), [example_pictures(split, name, count) for name, split in splits.items()]
        )
        print(f"\nexamples drawn to {options.png}")
    return 1 if problems else 0


def _print_lines(lines: Iterable[str]) -> None:
    """Print lines; stop quietly if the pipe is closed, as in `report DIR | head`."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_lines(directory: Path, splits: dict[str, Split], problems: list[str]) -> Iterator[str]:
    """Yield the lines of the report, without examples."""
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    yield f"{directory}: {_bytes(size)}"
    for name, split in splits.items():
        yield from _split_lines(name, split)
    if problems:
        yield f"validation: {len(problems)} problem{'s' * (len(problems) > 1)}"
        yield from (f"  {problem}" for problem in problems)
    else:
        yield "validation: no problems"
    yield from _leakage_lines(splits)


def _split_lines(name: str, split: Split) -> Iterator[str]:
    meta, family = split.metadata, family_of(split.metadata)
    sets = list(split.sets.values())
    examples = sum(s.num_examples for s in sets)
    known = family.name or "unknown"
    yield f"{name}: {known}, {family.describe()}"
    if not family.found.is_stated:
        yield f"  family {known}: {family.reason}"
    yield (
        f"  {examples:,} examples of {meta.total_puzzles:,} puzzles in {meta.total_groups:,} groups; "
        f"{meta.mean_puzzle_examples:.4g} examples per puzzle, {meta.total_puzzles / meta.total_groups:.4g} puzzles "
        f"per group"
    )
    if len(sets) > 1:
        yield "  sets: " + ", ".join(f"{s.name} ({s.num_examples:,} examples)" for s in sets)
    yield (
        f"  seq_len {meta.seq_len}, vocabulary {meta.vocab_size} (pad {meta.pad_id}, ignored label "
        f"{meta.ignore_label_id}), {meta.num_puzzle_identifiers:,} puzzle identifiers (blank "
        f"{meta.blank_identifier_id})"
    )
    yield from _token_lines(split, family)
    yield from (f"  {note}" for note in _family_notes(split, family))
    for example_set in sets:
        if example_set.difficulty is not None:
            low, middle, high = np.quantile(example_set.difficulty, (0, 0.5, 1))
            kind = meta.extra.get("difficulty", "no unit given")
            yield f"  difficulty ({kind}): {low:g} to {high:g}, median {middle:g}"
    if "builder" in meta.extra:
        known = ("builder", "builder_version", "source", "store", "seed")
        yield "  built by " + ", ".join(f"{key} {meta.extra[key]}" for key in known if key in meta.extra)


def _family_notes(split: Split, family: Family) -> list[str]:
    """Return the family's notes on the questions, without copies; large splits are sampled."""
    inputs = []
    for name, examples in first_examples(split).items():
        chosen = np.unique(np.linspace(0, len(examples) - 1, _SAMPLE_NOTED).astype(np.int64))
        inputs.append(split.sets[name].read(examples[chosen])[0])
    return family.notes(np.concatenate(inputs), sum(map(len, first_examples(split).values())))


def _token_lines(split: Split, family: Family) -> Iterator[str]:
    """Yield token frequencies, of a sample if the split is large."""
    meta = split.metadata
    counts = np.zeros((2, meta.vocab_size), np.int64)
    per_set = max(1, _SAMPLE_CELLS // (meta.seq_len * len(split.sets)))
    sampled = examples = unlabelled = 0
    for example_set in split.sets.values():
        chosen = np.unique(np.linspace(0, example_set.num_examples - 1, per_set).astype(np.int64))
        sampled, examples = sampled + len(chosen), examples + example_set.num_examples
        for part in np.array_split(chosen, -(-len(chosen) // 4096)):
            inputs, labels = example_set.read(part)
            unlabelled += int((labels == meta.ignore_label_id).all(1).sum())
            for row, tokens in zip(counts, (inputs, labels), strict=True):
                inside = tokens[(tokens >= 0) & (tokens < meta.vocab_size)]
                row += np.bincount(inside.reshape(-1), minlength=meta.vocab_size)
    if unlabelled:
        yield f"  {unlabelled:,} of {sampled:,} examples have no label: their answers are unknown"
    if sampled < examples:
        yield f"  tokens, in {sampled:,} examples spread over the split:"
    else:
        yield "  tokens:"
    shares = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    for what, row in zip(("inputs", "labels"), shares, strict=True):
        used = np.flatnonzero(row)
        yield f"    {what}: " + "  ".join(
            f"{_token_name(token, family.grid_style.symbols, meta.pad_id)} {row[token]:.1f}%"
            for token in used
        )


def _token_name(token: int, symbols: str, pad_id: int) -> str:
    if token == pad_id:
        return "pad"
    symbol = symbols[token]
    return f"{token}" if symbol == "?" else f"{token}='{symbol}'"


def _leakage_lines(splits: dict[str, Split]) -> Iterator[str]:
    if len(splits) < len(SPLITS):
        yield f"leakage: not checked, because the {' and '.join(set(SPLITS) - set(splits))} split cannot be read"
        return
    train, test = (splits[name] for name in SPLITS)
    if train.metadata.seq_len != test.metadata.seq_len:
        yield "leakage: not checked, because the splits differ in seq_len"
        return
    yield "leakage: items of the test split that occur in train"
    for overlap in leakage(train, test, family_of(train.metadata)):
        share = percentage(overlap.count, overlap.total)
        yield f"  {overlap.what}: {overlap.count:,} of {overlap.total:,} ({share})"


def percentage(count: int, total: int) -> str:
    """Format a share with two digits, such as 0.031%; 100% and 0% only if exact."""
    share = 100 * count / max(1, total)
    if 99 < share < 100:
        return "over 99%"
    return (
        np.format_float_positional(share, precision=0 if share >= 10 else 2, fractional=share >= 10, trim="-")
        + "%"
    )


def example_lines(directory: Path, splits: dict[str, Split], count: int, *, colour: bool) -> Iterator[str]:
    """Yield a few examples of each split as grids, input next to output."""
    terminal = shutil.get_terminal_size().columns
    for name, split in splits.items():
        style = family_of(split.metadata).grid_style
        names = read_identifiers(directory) if split.metadata.num_puzzle_identifiers > 1 else None
        for set_name, index in _chosen_examples(split, count):
            example_set = split.sets[set_name]
            inputs, labels = (rows[0] for rows in example_set.read(np.array([index])))
            identifier = int(example_set.puzzle_identifiers[example_set.puzzles_of(np.array([index]))[0]])
            puzzle = f", puzzle {names[identifier]}" if names and identifier < len(names) else ""
            yield f"\n{name}/{set_name} example {index}{puzzle}: input and output"
            left, right = (grid_lines(style, tokens, colour=colour) for tokens in (inputs, labels))
            (left, width), (right, other_width) = left, right
            if width + other_width + 3 > terminal:
                yield from [*left, "", *right]
                continue
            missing = " " * width
            for line, other in zip_longest(left, right):
                yield f"{missing if line is None else line}   {other or ''}".rstrip()


def example_pictures(split: Split, name: str, count: int) -> list[tuple[str, list[Image.Image]]]:
    """Return (caption, [input, output] pictures) for a few examples of a split."""
    style, captioned = family_of(split.metadata).grid_style, []
    for set_name, index in _chosen_examples(split, count):
        rows = split.sets[set_name].read(np.array([index]))
        captioned.append((f"{name} {index}", [grid_picture(style, tokens[0]) for tokens in rows]))
    return captioned


def _chosen_examples(split: Split, count: int) -> list[tuple[str, int]]:
    """Return (set, example) for the first examples of evenly spaced groups."""
    firsts = [
        (name, int(index))
        for name, s in split.sets.items()
        for index in s.puzzle_indices[s.group_indices[:-1]]
    ]
    chosen = np.unique(np.linspace(0, len(firsts) - 1, min(count, len(firsts))).astype(np.int64))
    return [firsts[i] for i in chosen]


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


if __name__ == "__main__":
    sys.exit(main())
