"""The ARC family: grids in a frame, compared with the label only. Shapes: n rows, S cells of a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.families.arc import grids
from dataset.families.arc.comparison import sample_of_unshifted, unshifted
from dataset.families.arc.symmetry import ArcSymmetries
from dataset.families.arc.tasks import TEST_PUZZLES_FILE, identifier_names, placeholder_rows
from dataset.families.base import Family, RowForm, Verdict
from dataset.families.grid_style import BLANK, EMPTY, GridStyle, Kind, LegendEntry, rgb
from dataset.families.wording import count
from dataset.metadata import Metadata
from utils.errors import UserError

# The usual colours of ARC viewers for 0..9.
_COLOURS = (
    0x000000,
    0x0074D9,
    0xFF4136,
    0x2ECC40,
    0xFFDC00,
    0xAAAAAA,
    0xF012BE,
    0xFF851B,
    0x7FDBFF,
    0x870C25,
)


class ArcFamily(Family):
    name = "arc"
    evaluator = "arc@ARC"
    sigma = 0.2  # arXiv 2605.19943
    own_files: ClassVar = frozenset({TEST_PUZZLES_FILE})
    rows_compared: ClassVar[RowForm] = RowForm(unshifted, sample_of_unshifted)  # train examples are shifted

    @classmethod
    def size_problem(cls, metadata: Metadata) -> str | None:
        # Only our builder writes smaller frames, and it records their shape.
        stated = metadata.seq_len in grids.FRAME_LENGTHS and "grid_shape" in metadata.extra
        if metadata.seq_len != grids.SEQ_LEN and not stated:
            return f"seq_len is {metadata.seq_len}, which is not the size of such a grid"
        if metadata.vocab_size != grids.VOCAB_SIZE:
            return f"vocab_size is {metadata.vocab_size}, not {grids.VOCAB_SIZE}"
        return None

    @classmethod
    def recognise(
        cls, metadata: Metadata, sampled: Callable[[], tuple[np.ndarray, np.ndarray]], dataset_dir: Path
    ) -> tuple[bool, str]:
        """Expect the file of test puzzles."""
        sizes = f"{metadata.seq_len} cells and {metadata.vocab_size} tokens are those of ARC"
        if (dataset_dir / TEST_PUZZLES_FILE).is_file():
            return True, f"{sizes} and there is a {TEST_PUZZLES_FILE}"
        return False, f"{sizes}, but there is no {TEST_PUZZLES_FILE}"

    @cached_property
    def grid_style(self) -> GridStyle:
        return GridStyle(
            self.shape,
            " |" + "".join(map(str, range(grids.NUM_COLOURS))),
            rgb((EMPTY, BLANK, *_COLOURS)),
            cells="colours",
            first_cell_token=grids.FIRST_COLOUR,
            legend=(LegendEntry(grids.FIRST_COLOUR, Kind.CHANGED, "changed in this step"),),
            shade="white dots: the larger, the less certain",
            frame=((255, 255, 255), "white"),
        )

    @property
    def no_symmetries(self) -> str:
        return (
            "ARC models have an embedding for each augmented task, and a new copy would have none (build the dataset "
            "with --num-aug instead)"
        )

    def symmetries_to_ask(
        self, data_paths: Sequence[str], asked: Sequence[int], num_identifiers: int
    ) -> ArcSymmetries:
        names = identifier_names(list(data_paths)) if num_identifiers > 1 else None
        return ArcSymmetries(names, asked)

    def unknown_labels(self, labels: np.ndarray) -> np.ndarray | None:
        return placeholder_rows(self.metadata, labels)

    def read(self, text: str) -> np.ndarray:
        raise UserError(
            "puzzle=: ARC models know tasks by puzzle identifier, from their demonstration pairs, so they cannot solve "
            "a grid alone; choose a test input of the dataset with index="
        )

    def counted(self, answer: np.ndarray) -> np.ndarray:
        # Training ignores cells outside the grid, so predictions there are arbitrary.
        grid = grids.crop(answer)
        frame = np.full(self.shape, grids.PAD)
        frame[: grid.shape[0], : grid.shape[1]] = grid + grids.FIRST_COLOUR
        return frame.reshape(-1)

    def judge(self, question: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Verdict:
        if labels is None:
            return super().judge(question, answer, labels)
        ours, theirs = grids.crop(answer), grids.crop(labels)
        if ours.shape != theirs.shape:
            sizes = ("{}x{}".format(*grid.shape) if grid.size else "empty" for grid in (ours, theirs))
            return Verdict(False, "the grid is {}, but the answer is {}".format(*sizes))
        if (ours == theirs).all():
            return Verdict(True, "equal to the answer")
        return Verdict(False, f"{int((ours == theirs).sum())} of {count(ours.size, 'cell')} as in the answer")


FAMILY = ArcFamily
