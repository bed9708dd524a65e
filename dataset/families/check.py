"""Check that a puzzle family keeps its promises: a line for each, and exit status 1 if one is broken.

python -m dataset.families.check sudoku
python -m dataset.families.check module@Class data/of-this-family

Without a dataset the family makes puzzles itself (`Family.example`, of the sizes in `sizes_to_check`).
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C during the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dataset.families import FAMILIES, family_class, family_of, named_family
from dataset.families.base import IGNORE_LABEL_ID
from dataset.format import SPLITS, Split, open_valid, problems_text
from dataset.options import OptionParser
from dataset.promises import PROMISES, Outcome, check_promises
from dataset.promises.puzzles import Puzzles
from utils.errors import UserError, report_user_errors
from utils.files import expand_home

NUM_EXAMPLES = 12  # of each size, or of each set of a split


@report_user_errors
def main(arguments: list[str] | None = None) -> int:
    """Print the outcome of each promise; returns 1 if one is broken."""
    parser = OptionParser(prog="check", description=__doc__.splitlines()[0], epilog="")
    parser.add_argument("family", help=f"{', '.join(FAMILIES)} or module@Class")
    parser.add_argument("dataset_dir", nargs="?", type=expand_home, help="a dataset of its puzzles")
    options = parser.parse_args(arguments)
    try:
        family_class(options.family)
    except UserError as error:
        raise UserError(f"the argument names {error}") from error
    cases = (
        made_by(options.family)
        if options.dataset_dir is None
        else taken_from(options.family, Path(options.dataset_dir))
    )
    status = 0
    for title, puzzles in cases:
        print(f"{options.family}, {puzzles.family.describe()}: {len(puzzles)} {title}")
        for outcome in check_promises(puzzles):
            print(f"  {outcome.name:{_WIDTH}}  {_said(outcome)}", flush=True)
            status |= outcome.failure is not None
    return status


_WIDTH = max(len(promise.name) for promise in PROMISES)


def _said(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return f"BROKEN: {outcome.failure}"
    return "kept" if outcome.is_offered else "not offered"


def made_by(name: str) -> Iterator[tuple[str, Puzzles]]:
    """Puzzles that a family makes itself, of each of its `sizes_to_check`.

    Raises UserError if it cannot.
    """
    cls = family_class(name)
    if cls.example is None or not cls.sizes_to_check:
        raise UserError(
            f"the family {name} cannot make puzzles (example and sizes_to_check are missing): give a dataset of it, "
            f"check {name} DATASET_DIR"
        )
    for sizes in cls.sizes_to_check:
        family = cls.of_sizes(**sizes)
        assert family.example is not None, "its class has one"
        made = [family.example(np.random.default_rng(seed)) for seed in range(NUM_EXAMPLES)]
        questions, answers = (np.stack(tokens) for tokens in zip(*made, strict=True))
        yield "puzzles that it made", Puzzles(family, questions, answers)


def taken_from(name: str, dataset_dir: Path) -> Iterator[tuple[str, Puzzles]]:
    """The first puzzles of each set of a dataset, which counts as of the family `name` whatever its dataset.json says.

    Raises UserError for a broken dataset, or for one whose sizes are not of the family.
    """
    with named_family(name):
        splits, problems = open_valid(dataset_dir)
    if problems:
        raise UserError(problems_text(problems))
    for split_name in SPLITS:
        if split_name in splits:
            yield from _puzzles_of(split_name, splits[split_name])


def _puzzles_of(split_name: str, split: Split) -> Iterator[tuple[str, Puzzles]]:
    family = family_of(split.metadata)
    if family.name is None:
        raise UserError(f"{split.path}: {family.reason}")
    for set_name, example_set in split.sets.items():
        questions, labels = example_set.read(np.arange(min(NUM_EXAMPLES, example_set.num_examples)))
        unknown = family.unknown_labels(labels) if split_name == "test" else None
        labels = labels.astype(np.int64)
        labels[labels == split.metadata.ignore_label_id] = IGNORE_LABEL_ID
        labelled = (labels != IGNORE_LABEL_ID).any(1) & (True if unknown is None else ~unknown)
        if not labelled.any():
            raise UserError(
                f"{split.path}: the first puzzles of the set {set_name} have no answers to check with"
            )
        yield f"puzzles of {split.path}, {set_name}", Puzzles(family, questions[labelled], labels[labelled])


if __name__ == "__main__":
    sys.exit(main())
