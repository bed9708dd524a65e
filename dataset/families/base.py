"""What a puzzle family is: one object without torch that everything depending on the family asks.

A family is a subclass of `Family`. Only `name` and `size_problem` are needed; each further method makes more of the
repository work with the family, and what is missing is refused with the reason. What methods return is checked
(`dataset.families.contract`). docs/extending.md has an example of about 150 lines.

Shapes: n rows, S cells of a sequence, H and W rows and columns of a grid. Tokens everywhere; ignored labels are -100.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataset.families.contract import keep_contracts
from dataset.families.grid_style import (
    BLANK,
    EMPTY,
    GridStyle,
    Kind,
    completion_legend,
    distinct_colours,
    rgb,
)
from dataset.families.parts import Comparison, RowForm, Verdict
from dataset.families.revealed_cells import RevealedCells
from dataset.families.symmetry import FiniteSymmetries, Symmetries
from dataset.metadata import Finding, Metadata
from dataset.units import CellUnits, stated_units
from utils.errors import UserError

IGNORE_LABEL_ID = -100
_GENERIC_SYMBOLS = ".0123456789abcdefghijklmnopqrstuvwxyz"

# (generator, B rows of the global batch, those of this rank, inputs (b, S), labels (b, S)) -> inputs and labels
Augmentation = Callable[
    [np.random.Generator, int, slice, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]
]


class Family:
    """Puzzles whose rules are unknown: an answer can only be compared with the dataset's."""

    name: ClassVar[str | None] = None
    """As `family` in dataset.json names it; of a family outside this repository `module@Class`."""
    recognised_before: ClassVar[int] = 0
    """`recognise` of a family with a larger number is tried first."""
    blank: ClassVar[int | None] = None
    """The token of a cell to be filled in, if an answer is the question with such cells filled in: `completes` is then
    true, given cells that an answer changes are marked, and `reveal_prob` shows cells of the answer."""
    completes: ClassVar[bool] = False
    """True if an answer is the question with some cells changed, all of them by the rules."""
    several_answers: ClassVar[bool] = False
    """True if a question may have right answers other than its label: halting and `best` then follow the rules."""
    own_files: ClassVar[frozenset[str]] = frozenset()
    """Files of a dataset that no other family's builder writes."""
    evaluator: ClassVar[str | None] = None
    """The evaluator of its metrics by default, as in `evaluators=`: `module@Class` below evaluators/, or of a module of
    the family's own; None: `rules@Rules` if there is a check."""
    sigma: ClassVar[float | None] = None
    """Default of the noise strategy; None: the user must choose."""
    noise_pick: ClassVar[str] = "q_halt"
    """How the noise strategy chooses among answers by default."""
    text_help: ClassVar[str | None] = None
    """How a puzzle is written, for the page; None if it cannot be."""
    characters: ClassVar[Mapping[str, int]] = {}
    """The tokens of the characters that a puzzle is written with, for `read` and `write` of this class."""
    difficulty_classes: ClassVar[tuple[tuple[float, ...], tuple[str, ...]] | None] = None
    """Upper bounds of the classes of difficulty and one name more than bounds; None: classes of about equal size."""

    check: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    """Questions and answers (n, S) -> (n,) bool, whether an answer obeys all rules; None if no rule can tell."""
    check_tensors: Callable[[Any, Any], Any] | None = None
    """The same on torch tensors of any device, differentiable or not, without synchronising with the device."""
    example: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]] | None = None
    """A random puzzle and a right answer to it, (S,) tokens each; None if none can be generated in a moment."""
    sizes_to_check: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Sizes of the examples that `dataset.families.check` uses: seq_len, vocab_size and other keys of dataset.json."""

    def __init__(self, metadata: Metadata, found: Finding) -> None:
        self.metadata, self.found = metadata, found

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.blank is not None:
            cls.completes = True
        keep_contracts(cls)

    @classmethod
    def of_sizes(cls, *, seq_len: int, vocab_size: int, **extra: Any) -> Family:
        """The family of puzzles that are in no dataset (yet); `extra`: other keys of dataset.json.

        Raises UserError if its puzzles cannot have these sizes.
        """
        metadata = Metadata(
            pad_id=0,
            ignore_label_id=0,
            blank_identifier_id=0,
            vocab_size=vocab_size,
            seq_len=seq_len,
            num_puzzle_identifiers=1,
            total_groups=1,
            mean_puzzle_examples=1.0,
            total_puzzles=1,
            sets=("all",),
            extra=extra,
        )
        if problem := cls.size_problem(metadata):
            raise UserError(f"these are no sizes of {cls.name}: {problem}")
        return cls(metadata, Finding(cls.name, "its class was asked for", is_stated=True))

    # ---------------------------------------------------------------- which datasets are of the family

    @classmethod
    def size_problem(cls, metadata: Metadata) -> str | None:
        """Why a dataset of these sizes cannot be of the family, as the end of a sentence; None if it can."""
        return None

    @classmethod
    def recognise(
        cls,
        metadata: Metadata,
        sampled: Callable[[], tuple[np.ndarray, np.ndarray]],
        dataset_dir: Path,
    ) -> tuple[bool, str]:
        """Whether a dataset whose dataset.json names no family, of fitting sizes, is of this one, and the reason.

        `sampled` reads some inputs and labels (n, S) int64. A family that does not define this must be named.
        """
        raise NotImplementedError(f"{cls.__name__} is never recognised")

    @property
    def reason(self) -> str:
        """Why the dataset is taken for this family, or for none, as the end of a sentence."""
        return self.found.reason

    def lacks(self, member: str) -> str:
        """Why what `member` of the class would offer is missing, as the end of a sentence."""
        if self.name is None:
            return self.reason
        words = f"the family {self.name} defines no {member}"
        return words if self.found.is_stated else f"{words} ({self.reason})"

    @property
    def default_evaluator(self) -> str | None:
        """The evaluator of a run that names none."""
        return self.evaluator or ("rules@Rules" if self.check is not None else None)

    # ---------------------------------------------------------------- drawing

    @cached_property
    def grid_style(self) -> GridStyle:
        """How grids are drawn: symbols on white if there is a `blank` cell and `characters`, else coloured cells."""
        count = self.metadata.vocab_size
        if self.blank is not None and self.characters:
            symbols = {token: character for character, token in reversed(tuple(self.characters.items()))}
            others = iter(distinct_colours(count))
            return GridStyle(
                self.shape,
                "".join(symbols.get(token, "?" if token else " ") for token in range(count)),
                rgb((EMPTY, *(BLANK if token == self.blank else next(others) for token in range(1, count)))),
                empty_tokens=frozenset({self.blank}),
                legend=completion_legend(next(token for token in symbols if token != self.blank)),
            )
        known = _GENERIC_SYMBOLS[:count]
        return GridStyle(
            self.shape,
            known + "?" * (count - len(known)),
            rgb((EMPTY, *distinct_colours(count - 1))),
            cells="colours",
            coloured_symbols=True,
            legend=(),
            shade="white dots: the larger, the less sure",
        )

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the grid: `grid_shape` of the metadata, a square, otherwise one line."""
        stated, seq_len = self.metadata.extra.get("grid_shape"), self.metadata.seq_len
        if stated and stated[0] * stated[1] == seq_len:
            return stated[0], stated[1]
        side = isqrt(seq_len)
        return (side, side) if side * side == seq_len else (1, seq_len)

    def describe(self) -> str:
        """The kind of grid in a line of the dataset report."""
        return "{}x{}".format(*self.shape)

    # ---------------------------------------------------------------- a single puzzle

    def read(self, text: str) -> np.ndarray:
        """(S,) uint8 tokens of a puzzle written by a user; raises UserError naming the position of what is wrong."""
        if not self.characters:
            raise UserError(
                f"puzzle=: there is no way to write this model's puzzles as text: {self.lacks('characters')}; take one "
                "of its dataset with index="
            )
        text, tokens = with_line_breaks(text), []
        for position, character in enumerate(text):
            if character.isspace() or character in "|-+/":  # a drawn grid
                continue
            if character not in self.characters:
                allowed = " ".join(self.characters)
                raise UserError(
                    f"puzzle= has {character!r} at {place(text, position)}; allowed are {allowed}, and | - + / and "
                    "white space, which mean nothing"
                )
            tokens.append(self.characters[character])
        if len(tokens) != self.metadata.seq_len:
            rows, columns = self.shape
            raise UserError(
                f"puzzle= has {count(len(tokens), 'cell')}, but this model solves {rows}x{columns} grids, of "
                f"{self.metadata.seq_len} cells (| - + / and white space are not counted)"
            )
        return np.array(tokens, np.uint8)

    def write(self, question: np.ndarray) -> str:
        """Text that `read` turns into the question (S,) again."""
        symbols = {token: character for character, token in reversed(tuple(self.characters.items()))}
        rows = np.asarray(question).reshape(self.shape)
        return "\n".join("".join(symbols[int(token)] for token in row) for row in rows)

    def remarks(self, question: np.ndarray) -> list[str]:
        """What is wrong with a question (S,) that can be asked all the same."""
        return []

    def counted(self, answer: np.ndarray) -> np.ndarray:
        """(S,) tokens of an answer, with padding in place of those outside the grid it states."""
        return answer

    def broken(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """(S,) bool: the cells in which the answer contradicts the question."""
        if self.blank is None:
            return np.zeros(len(question), bool)
        return (question != self.blank) & (answer != question)

    def kinds(self, question: np.ndarray, previous: np.ndarray | None, answer: np.ndarray) -> np.ndarray:
        """(S,) `Kind` of each cell of an answer (S,) that follows `previous`."""
        kinds = np.full(len(answer), Kind.PLAIN)
        if self.completes:
            kinds[answer != question] = Kind.FILLED
        if previous is not None:
            kinds[answer != previous] = Kind.CHANGED
        kinds[self.broken(question, answer)] = Kind.BROKEN
        return kinds

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        """The verdict on an answer (S,); `labels` (S,) if the dataset's answer is known."""
        if self.check is not None:
            if self.check(question[None], answer[None])[0]:
                return Verdict(True, f"valid{beside(answer, labels)}")
            changed = int(self.broken(question, answer).sum())
            words = [f"{count(changed, 'given cell')} changed" if changed else "breaks the rules"]
            return Verdict(False, "; ".join(words + ([] if labels is None else [agreement(answer, labels)])))
        if labels is None:
            return Verdict(None, "there are no rules and no answer to judge it by")
        if equals(answer, labels):
            return Verdict(True, "equal to the answer")
        return Verdict(False, agreement(answer, labels))

    # ---------------------------------------------------------------- the family's structure

    def units(self, where: str) -> CellUnits | None:
        """Which cells share a constraint, for `arch=trm_equivariant`: by default what dataset.json states, or None.

        Raises UserError, beginning with `where`, if these are no units of the grid.
        """
        return stated_units(self.metadata, where)

    @cached_property
    def symmetries(self) -> Symmetries | None:
        """Transformations that turn a puzzle and its right answers into another puzzle and its; None if unknown."""
        return None

    @property
    def no_symmetries(self) -> str:
        """Why there are no fresh copies, as the end of a sentence."""
        return f"no symmetry of such puzzles is known: {self.lacks('symmetries')}"

    def symmetries_to_ask(
        self, data_paths: Sequence[str], asked: Sequence[int], num_identifiers: int
    ) -> Symmetries:
        """The copies of test puzzles that a model can be asked with.

        `asked`: the identifiers of the test puzzles; `num_identifiers`: how many puzzles the model has an embedding
        for, 1 if it knows none. Raises UserError if there are no copies, or if a copy's identifier is unknown.
        """
        where = ", ".join(map(str, data_paths))
        if self.symmetries is None:
            raise UserError(
                f"strategy: no symmetry of the puzzles in {where} is known: {self.lacks('symmetries')}; use "
                "strategy=plain, noise or ensemble"
            )
        if num_identifiers > 1:
            raise UserError(
                f"strategy: {where} has {num_identifiers} puzzle identifiers and the model an embedding for each, but "
                f"which of them a copy of a {self.name} would have is unknown; use strategy=plain, noise or ensemble"
            )
        return self.symmetries

    def easier(self, probability: float) -> Augmentation | None:
        """With this probability for each row an easier puzzle that the answer contains (`reveal_prob`), or None."""
        return None if self.blank is None else RevealedCells(probability, self.blank)

    # ---------------------------------------------------------------- the dataset report

    def unknown_labels(self, labels: np.ndarray) -> np.ndarray | None:
        """(n,) bool: the rows of a test split's labels (n, S) that stand for an unknown answer; None if none does."""
        return None

    rows_compared: ClassVar[RowForm | None] = None
    """The form in which rows are compared between splits; None: as they are."""

    def comparisons(self) -> list[Comparison]:
        """The ways beyond equal rows in which a test example can occur in train: as an image under a finite group."""
        symmetries = self.symmetries
        if not isinstance(symmetries, FiniteSymmetries):
            return []
        return [Comparison("inputs up to symmetry", lambda inputs, _: symmetries.keys(inputs))]

    def notes(self, inputs: np.ndarray, total: int) -> list[str]:
        """Lines on sampled questions (n, S) of a split with `total` of them, such as how many are ambiguous."""
        return []


def square_problem(metadata: Metadata, vocab_size: int, sides: Container[int]) -> str | None:
    """Why these are not the sizes of a square grid with such sides and tokens, as `size_problem` says it."""
    side = isqrt(metadata.seq_len)
    if side * side != metadata.seq_len or side not in sides:
        return f"seq_len is {metadata.seq_len}, which is not the size of such a grid"
    stated = metadata.extra.get("grid_shape")
    if stated and list(stated) != [side, side]:
        return f"grid_shape is {list(stated)}, and such a grid is square"
    if metadata.vocab_size != vocab_size:
        return f"vocab_size is {metadata.vocab_size}, not {vocab_size}"
    return None


def equals(answer: np.ndarray, labels: np.ndarray) -> bool:
    """True if every labelled cell is met."""
    return bool(((answer == labels) | (labels == IGNORE_LABEL_ID)).all())


def agreement(answer: np.ndarray, labels: np.ndarray) -> str:
    """How many labelled cells an answer has right, in words."""
    labelled = labels != IGNORE_LABEL_ID
    right = int(((answer == labels) & labelled).sum())
    return f"{right} of {count(int(labelled.sum()), 'cell')} as in the answer"


def beside(answer: np.ndarray, labels: np.ndarray | None) -> str:
    """How a valid answer compares with the dataset's, as the end of a sentence; "" if that is unknown."""
    if labels is None:
        return ""
    return ", and equal to the answer" if equals(answer, labels) else ", but not the one in the dataset"


def count(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`, `2 boxes`."""
    plural = "es" if noun.endswith("x") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def with_line_breaks(text: str) -> str:
    """The text with line breaks as one character, also if a shell has passed `\\n` on as written."""
    return text.replace("\\n", "\n").replace("\r\n", "\n")


def place(text: str, position: int) -> str:
    """`character 7`, or `line 2, character 3` in a text of several lines."""
    before = text[:position].split("\n")
    character = f"character {len(before[-1]) + 1}"
    return f"line {len(before)}, {character}" if "\n" in text else character
