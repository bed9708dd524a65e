"""Build Sudoku datasets in tests: sources, running the builder in this process, and reading its output."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from dataset.build_sudoku_dataset import main
from dataset.families.sudoku.generate import PuzzleSpec, generate_split
from dataset.families.sudoku.rules import BoxShape, format_grid, to_values
from dataset.format import open_split

SAMPLES = Path(__file__).parent / "data" / "sudoku"
HEADER = "source,question,answer,rating"
SOLVED_4X4 = "1234341221434321"
UNIQUE_4X4 = "1234" + "341." + "21.." + "...."


def table(folder: Path, split: str, rows: list[tuple], header: str = HEADER) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.csv").open("w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(("made up", *row) for row in rows)


def puzzles_6x6(number: int, box: str = "2x3") -> list[tuple[str, str]]:
    made = generate_split(PuzzleSpec(BoxShape.parse(box), 20), number, seed=3, split=0, workers=1)
    return [(format_grid(p), format_grid(s)) for p, s in zip(made.puzzles, made.solutions, strict=True)]


def build(*arguments) -> None:
    """Run the builder in this process with one worker."""
    main([str(argument) for argument in (*arguments, "--workers", 1)])


def build_error(capsys, *arguments) -> str:
    """Run a build that must fail with exit status 2 and one line, and return that line."""
    with pytest.raises(SystemExit) as exit_status:
        build(*arguments)
    assert exit_status.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def read(folder: Path, split: str):
    opened = open_split(folder, split)
    return opened.metadata, opened.sets["all"]


def values(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    _, examples = read(folder, split)
    return to_values(examples.inputs), to_values(examples.labels)


def files_of(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def texts(grids: np.ndarray) -> list[str]:
    return [format_grid(grid) for grid in grids]


def puzzle_list(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path
