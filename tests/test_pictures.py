"""Pictures of the grid after each step: marks, confidence, choice of steps."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from trained_folders import randomised, write_run

import solve
from dataset.families import family_of
from dataset.families.arc import grids as arc
from dataset.families.base import Verdict
from dataset.families.grid_style import Kind
from dataset.families.maze import rules as maze
from dataset.metadata import Metadata
from evaluators.drawing.pictures import MOST_FRAMES, MOST_PANELS, Panel, animation, sheet, still, thinned
from utils.errors import UserError

ORANGE, RED, BLUE = (232, 110, 0), (214, 40, 40), (30, 90, 230)


def family(name: str, shape: tuple[int, int], vocab_size: int, **extra):
    metadata = Metadata(
        pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=vocab_size, seq_len=shape[0] * shape[1],
        num_puzzle_identifiers=1, total_groups=1, mean_puzzle_examples=1.0, total_puzzles=1, sets=("all",),
        extra={"family": name, "grid_shape": list(shape)} | extra,
    )  # fmt: skip
    return family_of(metadata)


FAMILIES = {
    "sudoku4": family("sudoku", (4, 4), 6, box_shape=[2, 2]),
    "sudoku6": family("sudoku", (6, 6), 8, box_shape=[2, 3]),
    "sudoku16": family("sudoku", (16, 16), 18, box_shape=[4, 4]),
    "maze": family("maze", (12, 12), maze.VOCAB_SIZE),
    "arc": family("arc", (30, 30), arc.VOCAB_SIZE),
    "unknown": family("other", (5, 5), 9),
}
SUDOKU = FAMILIES["sudoku4"]


def panel(
    number: int, tokens, kind=Kind.FILLED, confidence: float = 1.0, changed: int = 0, **fields
) -> Panel:
    tokens = np.asarray(tokens)
    return Panel(
        number,
        tokens,
        np.full(len(tokens), kind),
        np.full(len(tokens), confidence),
        0.5,
        False,
        changed,
        **fields,
    )


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(-1).sum())


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_drawn_as_an_image_and_an_animation(name):
    chosen, rng = FAMILIES[name], np.random.default_rng(0)
    cells = chosen.shape[0] * chosen.shape[1]
    panels = [Panel(0, rng.integers(1, len(chosen.grid_style.symbols), cells))]
    for number in range(1, 6):
        tokens = chosen.counted(rng.integers(0, len(chosen.grid_style.symbols), cells))
        panels.append(
            panel(
                number,
                tokens,
                rng.integers(0, 4),
                rng.random(),
                changed=3,
                verdict=Verdict(False, "wrong " * 30),
            )
        )
    picture, moving = opened(sheet(chosen, panels)), opened(animation(chosen, panels))
    assert (picture.format, moving.format, moving.n_frames) == ("PNG", "GIF", 6)
    assert picture.width < 1800  # fits on a screen
    # Six panels in two rows, without overlap.
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 5


def test_each_changed_cell_gets_a_frame_and_a_broken_one_a_red_frame():
    tokens = np.arange(16) % 4 + 2
    counts = []
    for number in range(4):
        kind = np.full(16, Kind.FILLED)
        kind[:number] = Kind.CHANGED
        kind[15] = Kind.BROKEN
        image = still(SUDOKU, Panel(1, tokens, kind, np.ones(16), 0.5), 4)
        counts.append(count(image, ORANGE))
        assert count(image, RED) > 100
    assert counts[0] == 0
    assert np.diff(counts).min() > 100


def test_the_frame_of_a_maze_has_another_colour_than_its_path():
    tokens = np.full(144, maze.PATH)
    image = still(FAMILIES["maze"], panel(1, tokens, Kind.CHANGED), 4)
    assert count(image, BLUE) > 100
    assert count(image, tuple(map(int, FAMILIES["maze"].grid_style.colours[maze.PATH]))) > 100


def test_more_confident_cells_have_darker_shades():
    shades = []
    for confidence in (0.2, 0.5, 1.0):
        image = np.asarray(still(SUDOKU, panel(1, np.full(16, 3), confidence=confidence), 4))
        colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        coloured = np.ptp(colours.astype(int), axis=1) > 3
        shades.append(colours[coloured][counts[coloured].argmax()].astype(int))
    red = [shade[0] for shade in shades]
    assert red[0] > red[1] > red[2]  # from white to blue
    sure, unsure = (
        np.asarray(still(FAMILIES["maze"], panel(1, np.full(144, maze.PATH), confidence=c), 4))[80, 20]
        for c in (1.0, 0.3)
    )
    assert sure[2] < unsure[2]  # from pale to orange


def test_given_cells_are_grey_and_not_shaded():
    given = still(SUDOKU, panel(1, np.full(16, 3), Kind.PLAIN, confidence=0.3), 4)
    assert count(given, (226, 228, 233)) > 10_000


def test_a_long_run_shows_the_puzzle_the_last_step_and_the_steps_with_most_changes():
    panels = [Panel(0, np.full(16, 1))] + [
        panel(number, np.full(16, 2), changed=number % 10 == 5) for number in range(1, 101)
    ]
    shown = [p.number for p in thinned(panels, MOST_PANELS)]
    assert len(shown) == MOST_PANELS
    assert shown == sorted(shown)
    assert {0, 100, *range(5, 100, 10)} <= set(shown)
    assert thinned(panels[:5], MOST_PANELS) == panels[:5]
    assert opened(animation(SUDOKU, panels)).n_frames <= MOST_FRAMES


def test_the_last_frame_of_an_animation_is_longer_and_it_repeats():
    moving = opened(
        animation(SUDOKU, [Panel(0, np.full(16, 1)), panel(1, np.full(16, 2)), panel(2, np.full(16, 3))])
    )
    durations = []
    for frame in range(moving.n_frames):
        moving.seek(frame)
        durations.append(moving.info["duration"])
    assert durations[0] == durations[1] < durations[2]
    assert moving.info["loop"] == 0


# ------------------------------------------------------------------------------ solve.py gif= png=

PUZZLE = "12..34....3..3.2"


@pytest.fixture
def run(tmp_path):
    sizes = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1}
    metadata = sizes | {"family": "sudoku", "grid_shape": [4, 4], "box_shape": [2, 2]}
    return write_run(tmp_path / "run", randomised(sizes=sizes), metadata=metadata)


def test_solve_draws_a_panel_for_the_puzzle_and_each_step(run, tmp_path, capsys):
    gif, png = tmp_path / "new" / "out.gif", tmp_path / "OUT.PNG"
    solve.main([f"checkpoint={run}", "device=cpu", f"puzzle={PUZZLE}", "steps=6", f"gif={gif}", f"png={png}"])
    assert capsys.readouterr().out.splitlines()[-2:] == [f"drawn to {gif}", f"drawn to {png}"]
    assert Image.open(gif).n_frames == 7
    assert Image.open(png).format == "PNG"


def test_a_picture_that_cannot_be_written_is_rejected_before_the_model_runs(run, tmp_path, capsys):
    with pytest.raises(UserError, match=r"gif: .* is not valid: the file's name must end in \.gif"):
        solve.main([f"checkpoint={run}", f"gif={tmp_path / 'out.png'}"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="there is a file where a folder must be"):
        solve.main([f"checkpoint={run}", f"puzzle={PUZZLE}", f"png={tmp_path / 'file' / 'out.png'}"])
    assert capsys.readouterr().out == ""
