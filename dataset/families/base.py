"""Base class of puzzle families, which provide everything specific to one kind of puzzle. Does not need torch.

A family is a subclass of `Family`. Only `name` and `size_problem` are required; each further method enables more
features, and using a missing one raises an error with the reason. What methods return is checked
(`dataset.families.contract`). docs/extending.md has an example of about 150 lines.

Shapes: n rows, S cells of a sequence, H and W rows and columns of a grid. Puzzles and answers are tokens; ignored
labels are -100.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataset.families.browser_rules import BrowserRules
from dataset.families.cell_text import format_cells, parse_cells, symbols_of_tokens
from dataset.families.contract import keep_contracts
from dataset.families.grid_style import GridStyle, Kind, colour_style, completion_style
from dataset.families.labels import agreement, compare_with_labels, equals
from dataset.families.parts import Comparison, RowForm, Verdict
from dataset.families.revealed_cells import RevealedCells
from dataset.families.symmetry import FiniteSymmetries, Symmetries
from dataset.families.wording import count
from dataset.metadata import FamilyFinding, Metadata
from dataset.units import CellUnits, stated_units
from utils.errors import UserError

# (generator, B rows of the global batch, slice of this rank, inputs (b, S), labels (b, S)) -> inputs and labels
Augmentation = Callable[
    [np.random.Generator, int, slice, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]
]


class Family:
    """Puzzles with unknown rules: answers can only be compared with labels."""

    name: ClassVar[str | None] = None
    """The value of `family` in dataset.json; `module@Class` for a family outside this repository."""
    recognition_priority: ClassVar[int] = 0
    """Families are tried in descending order of this priority when a dataset names none."""
    blank: ClassVar[int | None] = None
    """The token of blank cells, if an answer is the question with its blank cells filled in. It sets `completes`, and
    the default `broken`, `easier` and `grid_style` use it."""
    completes: ClassVar[bool] = False
    """True if an answer is the question with cells filled in."""
    several_answers: ClassVar[bool] = False
    """True if a question may have several right answers; halting and `best` then go by the rules, not the label."""
    own_files: ClassVar[frozenset[str]] = frozenset()
    """Dataset files that only the builder of this family writes."""
    evaluator: ClassVar[str | None] = None
    """The default evaluator, as in `evaluators=`: `module@Class` in evaluators/ or in a module outside this repository;
    None for `rules@Rules` if `check` is defined."""
    sigma: ClassVar[float | None] = None
    """Default noise level of the noise strategy; None if the user must choose it."""
    noise_pick: ClassVar[str] = "q_halt"
    """How the noise strategy chooses an answer by default."""
    text_help: ClassVar[str | None] = None
    """Help on how to write a puzzle as text, for the web page; None if that is not possible."""
    characters: ClassVar[Mapping[str, int]] = {}
    """Character -> token, used by the default `read` and `write`."""
    difficulty_classes: ClassVar[tuple[tuple[float, ...], tuple[str, ...]] | None] = None
    """Upper bounds of difficulty classes, and their names (one more than bounds); None for classes of similar size."""

    check: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    """Questions and answers (n, S) -> (n,) bool, True if an answer obeys all rules; None if the rules are unknown."""
    check_tensors: Callable[[Any, Any], Any] | None = None
    """`check` for torch tensors on any device; must not synchronise with the device."""
    example: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]] | None = None
    """Generate a random puzzle and a right answer, (S,) tokens each; None if that is impossible or slow."""
    sizes_to_check: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Sizes of the examples for `dataset.families.check`: seq_len, vocab_size and other keys of dataset.json."""

    def __init__(self, metadata: Metadata, found: FamilyFinding) -> None:
        self.metadata, self.found = metadata, found

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.blank is not None:
            cls.completes = True
        keep_contracts(cls)

    @classmethod
    def from_sizes(cls, *, seq_len: int, vocab_size: int, **extra: Any) -> Family:
        """Create the family without a dataset; `extra`: other keys of dataset.json.

        Raises UserError if puzzles of the family cannot have these sizes.
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
            raise UserError(f"{cls.name} cannot have these sizes: {problem}")
        return cls(metadata, FamilyFinding(cls.name, "its class was requested", is_stated=True))

    # ---------------------------------------------------------------- detection

    @classmethod
    def size_problem(cls, metadata: Metadata) -> str | None:
        """Return why a dataset of this family cannot have these sizes, as the end of a sentence; None if it can."""
        return None

    @classmethod
    def recognise(
        cls,
        metadata: Metadata,
        sampled: Callable[[], tuple[np.ndarray, np.ndarray]],
        dataset_dir: Path,
    ) -> tuple[bool, str]:
        """Decide whether a dataset with possible sizes that names no family is of this one; also return the reason.

        `sampled` reads some inputs and labels (n, S) int64. Families without this method must be named in dataset.json.
        """
        raise NotImplementedError(f"{cls.__name__} cannot be detected")

    @property
    def reason(self) -> str:
        """The reason why the dataset is assigned to this family, or to none, as the end of a sentence."""
        return self.found.reason

    def lacks(self, member: str) -> str:
        """Return why a feature that needs `member` of the class is missing, as the end of a sentence."""
        if self.name is None:
            return self.reason
        words = f"the family {self.name} defines no {member}"
        return words if self.found.is_stated else f"{words} ({self.reason})"

    @property
    def default_evaluator(self) -> str | None:
        """The evaluator of runs that do not set `evaluators`."""
        return self.evaluator or ("rules@Rules" if self.check is not None else None)

    # ---------------------------------------------------------------- drawing

    @cached_property
    def grid_style(self) -> GridStyle:
        """Symbols and colours of the grids: symbols on white given `blank` and `characters`, else coloured cells."""
        if self.blank is not None and self.characters:
            symbols = symbols_of_tokens(self.characters)
            return completion_style(self.shape, self.metadata.vocab_size, self.blank, symbols)
        return colour_style(self.shape, self.metadata.vocab_size)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the grid: `grid_shape` in dataset.json, otherwise a square if possible, otherwise one row."""
        stated, seq_len = self.metadata.extra.get("grid_shape"), self.metadata.seq_len
        if stated and stated[0] * stated[1] == seq_len:
            return stated[0], stated[1]
        side = isqrt(seq_len)
        return (side, side) if side * side == seq_len else (1, seq_len)

    def describe(self) -> str:
        """Describe the grid in a few words, for the dataset report."""
        return "{}x{}".format(*self.shape)

    # ---------------------------------------------------------------- a single puzzle

    def read(self, text: str) -> np.ndarray:
        """Parse a puzzle to (S,) uint8 tokens. Raises UserError naming the position of the first mistake."""
        if not self.characters:
            raise UserError(
                f"puzzle=: puzzles of this model cannot be written as text: {self.lacks('characters')}; choose one "
                "from its dataset with index="
            )
        return parse_cells(text, self.characters, self.shape)

    def read_answer(self, text: str) -> np.ndarray:
        """Parse a solved puzzle to (S,) tokens, in the same notation. Raises UserError like `read`."""
        return self.read(text)

    def write(self, question: np.ndarray) -> str:
        """Format a question or an answer (S,) as text that `read` or `read_answer` parses back to it."""
        return format_cells(question, self.characters, self.shape)

    def remarks(self, question: np.ndarray) -> list[str]:
        """Return warnings about a question (S,) that can nevertheless be given to a model."""
        return []

    def counted(self, answer: np.ndarray) -> np.ndarray:
        """Return an answer (S,) with padding in place of cells that do not belong to it."""
        return answer

    def broken(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Mark the cells (S,) bool in which an answer contradicts the question."""
        if self.blank is None:
            return np.zeros(len(question), bool)
        return (question != self.blank) & (answer != question)

    def kinds(self, question: np.ndarray, previous: np.ndarray | None, answer: np.ndarray) -> np.ndarray:
        """Return the `Kind` (S,) of each cell of an answer (S,); `previous` is the answer of the step before."""
        kinds = np.full(len(answer), Kind.PLAIN)
        if self.completes:
            kinds[answer != question] = Kind.FILLED
        if previous is not None:
            kinds[answer != previous] = Kind.CHANGED
        kinds[self.broken(question, answer)] = Kind.BROKEN
        return kinds

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        """Judge an answer (S,) by the rules, or by `labels` (S,) if there are none; None if the label is unknown."""
        if self.check is not None:
            if self.check(question[None], answer[None])[0]:
                return Verdict(True, f"valid{compare_with_labels(answer, labels)}")
            changed = int(self.broken(question, answer).sum())
            words = [f"{count(changed, 'given cell')} changed" if changed else "breaks the rules"]
            return Verdict(False, "; ".join(words + ([] if labels is None else [agreement(answer, labels)])))
        if labels is None:
            return Verdict(None, "unknown, because there are neither rules nor a label")
        if equals(answer, labels):
            return Verdict(True, "equal to the answer")
        return Verdict(False, agreement(answer, labels))

    def browser_rules(self) -> BrowserRules:
        """Return what the page of `export.py page=` needs to read puzzles and judge answers without Python."""
        kept = {} if self.blank is None else {self.blank: tuple(range(self.metadata.vocab_size))}
        return BrowserRules(self.characters, becomes=kept)

    # ---------------------------------------------------------------- the family's structure

    def units(self, where: str) -> CellUnits | None:
        """Return the cells that share a constraint, for `arch=trm_equivariant`: by default from dataset.json, or None.

        Raises UserError, prefixed with `where`, if they do not fit the grid.
        """
        return stated_units(self.metadata, where)

    @cached_property
    def symmetries(self) -> Symmetries | None:
        """Transformations under which right answers to a puzzle stay right; None if unknown."""
        return None

    @property
    def no_symmetries(self) -> str:
        """The reason why there is no online augmentation, as the end of a sentence."""
        return f"no symmetry of these puzzles is known: {self.lacks('symmetries')}"

    def symmetries_to_ask(
        self, data_paths: Sequence[str], asked: Sequence[int], num_identifiers: int
    ) -> Symmetries:
        """Return the symmetries by which test puzzles can be copied for voting.

        `asked`: identifiers of the test puzzles; `num_identifiers`: number of puzzle embeddings of the model, 1 if it
        has none. Raises UserError if no symmetry is known, or if the identifier of a copy is unknown.
        """
        where = ", ".join(map(str, data_paths))
        if self.symmetries is None:
            raise UserError(
                f"strategy: no symmetry of the puzzles in {where} is known: {self.lacks('symmetries')}; use "
                "strategy=plain, noise or ensemble"
            )
        if num_identifiers > 1:
            raise UserError(
                f"strategy: {where} has {num_identifiers} puzzle identifiers and the model has an embedding for each, "
                f"but the identifier of a copy of a {self.name} puzzle is unknown; use strategy=plain, noise or "
                "ensemble"
            )
        return self.symmetries

    def easier(self, probability: float) -> Augmentation | None:
        """Return an augmentation that makes each puzzle easier with this probability (`reveal_prob`), or None.

        By default it reveals cells of the answer if there is a `blank` token.
        """
        return None if self.blank is None else RevealedCells(probability, self.blank)

    # ---------------------------------------------------------------- the dataset report

    def unknown_labels(self, labels: np.ndarray) -> np.ndarray | None:
        """Mark the rows (n,) bool of test labels (n, S) that are placeholders for unknown answers; None for none."""
        return None

    rows_compared: ClassVar[RowForm | None] = None
    """Canonical form for comparing rows between splits; None to compare them unchanged."""

    def comparisons(self) -> list[Comparison]:
        """Return the criteria of leakage beyond equal rows: by default, images under a finite group of symmetries."""
        symmetries = self.symmetries
        if not isinstance(symmetries, FiniteSymmetries):
            return []
        return [Comparison("inputs up to symmetry", lambda inputs, _: symmetries.keys(inputs))]

    def notes(self, inputs: np.ndarray, total: int) -> list[str]:
        """Return notes about questions (n, S) sampled from `total` ones of a split, such as how many are ambiguous."""
        return []


def square_problem(metadata: Metadata, vocab_size: int, sides: Container[int]) -> str | None:
    """Return why these are not the sizes of a square grid with such sides and tokens, as `size_problem` does."""
    side = isqrt(metadata.seq_len)
    if side * side != metadata.seq_len or side not in sides:
        return f"seq_len is {metadata.seq_len}, which is not the size of such a grid"
    stated = metadata.extra.get("grid_shape")
    if stated and list(stated) != [side, side]:
        return f"grid_shape is {list(stated)}, and such a grid is square"
    if metadata.vocab_size != vocab_size:
        return f"vocab_size is {metadata.vocab_size}, not {vocab_size}"
    return None
