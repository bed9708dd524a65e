"""Units of a grid: cells that share a constraint (rows, columns, boxes), as defined by the puzzle family.

Cells form an array with several axes, and a unit extends over some of them. With the axes (band, row in band, stack,
column in stack) of Sudoku a row extends over (2, 3), a column over (0, 1) and a box over (1, 3). Pooling over a unit is
then a reduction over axes, for any grid size and without gathers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dataset.metadata import Metadata
from utils.errors import UserError

UNITS_KEY = "units"  # key of dataset.json, for families outside this repository


@dataclass(frozen=True)
class CellUnits:
    """The units of a grid; raises ValueError if an extent names an axis that does not exist.

    `axes`: sizes of the axes of the cells in reading order, their product is `seq_len`. `kinds`: for each kind of unit
    its extents, each a set of axes. The extents of one kind share weights, such as rows and columns of Sudoku, because
    a transposed puzzle is also a puzzle.
    """

    axes: tuple[int, ...]
    kinds: tuple[tuple[tuple[int, ...], ...], ...]

    def __post_init__(self):
        if not self.axes or min(self.axes) < 1:
            raise ValueError(f"the axes {list(self.axes)} must be positive sizes")
        if not self.kinds or not all(self.kinds):
            raise ValueError("each kind of unit needs at least one extent")
        for extent in (extent for kind in self.kinds for extent in kind):
            if not extent or len(set(extent)) < len(extent) or not set(extent) <= set(range(len(self.axes))):
                raise ValueError(
                    f"the extent {list(extent)} must name some of the {len(self.axes)} axes, from 0"
                )

    @property
    def num_cells(self) -> int:
        return math.prod(self.axes)

    def num_units(self, extent: tuple[int, ...]) -> int:
        """Return the number of units that extend over these axes."""
        return math.prod(size for axis, size in enumerate(self.axes) if axis not in extent)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, where: str) -> CellUnits:
        """Parse {axes: [...], kinds: [[[...], ...], ...]}. Raises UserError, prefixed with `where`, if malformed."""
        try:
            if not isinstance(value, Mapping) or value.keys() != {"axes", "kinds"}:
                raise ValueError("it must have the keys axes and kinds")
            axes = tuple(map(_whole_number, value["axes"]))
            kinds = tuple(
                tuple(tuple(map(_whole_number, extent)) for extent in kind) for kind in value["kinds"]
            )
            return cls(axes, kinds)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{where}: units is {value!r}: {error}. Rows and columns of a 6x6 grid, for example, are "
                '{"axes": [6, 6], "kinds": [[[1], [0]]]}'
            ) from None

    @classmethod
    def of_boxes(cls, rows: int, columns: int) -> CellUnits:
        """Return the units of Sudoku with boxes of `rows` x `columns` cells."""
        return cls(axes=(columns, rows, rows, columns), kinds=(((2, 3), (0, 1)), ((1, 3),)))

    @classmethod
    def usual(cls, num_cells: int) -> CellUnits:
        """Return the units of Sudoku with boxes as square as possible and not taller than wide (36 cells: 2 x 3).

        Raises ValueError if there is no such grid.
        """
        side = math.isqrt(num_cells)
        heights = [rows for rows in range(2, side) if side % rows == 0 and rows * rows <= side]
        if side * side != num_cells or not heights:
            raise ValueError(f"{num_cells} cells do not form a Sudoku grid, and dataset.json has no units")
        return cls.of_boxes(heights[-1], side // heights[-1])


def stated_units(metadata: Metadata, where: str) -> CellUnits | None:
    """Return the units given under `units` in dataset.json, or None.

    Raises UserError, prefixed with `where`, if their number of cells is not `seq_len`.
    """
    if UNITS_KEY not in metadata.extra:
        return None
    units = CellUnits.from_json(metadata.extra[UNITS_KEY], where)
    if units.num_cells != metadata.seq_len:
        raise UserError(f"{where}: units has {units.num_cells} cells, but seq_len is {metadata.seq_len}")
    return units


def _whole_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value
