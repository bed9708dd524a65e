"""reveal_prob: some puzzles are made easier, independently of ranks and resume position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sudoku_builds import build
from test_maze import queue_search
from test_online_augment import metadata

from dataset.build_maze_dataset import main as build_mazes
from dataset.families.maze.rules import FREE, GOAL, PATH, START, WALL, encode, path_cells, square_shape
from dataset.families.sudoku.rules import BLANK_ID
from dataset.format import read_metadata
from dataset.reveal import easier_puzzles
from puzzle_dataset import PuzzleDataset
from utils.errors import UserError

BATCH = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sudoku") / "data"
    build("--output-dir", folder, "--size", "6", "--generate", "40", "--test-size", "8", "--num-aug", "0")
    return str(folder)


def stream(data: str, reveal_prob: float, *, start: int = 0, split: str = "train", **options):
    options = {"global_batch_size": BATCH, "epochs_per_iter": 20, "seed": 1} | options
    dataset = PuzzleDataset([data], split, reveal_prob=reveal_prob, **options)
    return [batch for _, batch, _ in dataset.batches(1, start)]


def test_revealed_cells_are_from_the_answer_in_the_requested_share_of_rows(data):
    shares, changed = [], []
    for plain, batch in zip(stream(data, 0.0), stream(data, 0.5), strict=True):
        assert torch.equal(plain["labels"], batch["labels"])
        blank, shown = plain["inputs"] == BLANK_ID, plain["inputs"] != batch["inputs"]
        assert (blank | ~shown).all()
        assert torch.equal(batch["inputs"][shown], batch["labels"][shown])
        changed += shown.any(1).tolist()
        shares += (shown.sum(1) / blank.sum(1)).tolist()
    assert 0.42 < np.mean(changed) < 0.52  # of 800 rows, a few of which reveal almost no cell
    assert 0.2 < np.mean([share for share in shares if share]) < 0.3
    assert max(shares) < 0.8


@pytest.mark.parametrize("family", ["data", "mazes"])
def test_every_rank_and_every_start_sees_the_same_rows(family, request):
    data = request.getfixturevalue(family)
    whole = stream(data, 0.5)
    ranks = [stream(data, 0.5, rank=rank, world_size=2) for rank in range(2)]
    for one, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(one["inputs"], torch.cat([part["inputs"] for part in parts]))
    assert all(
        torch.equal(a["inputs"], b["inputs"])
        for a, b in zip(whole[3:], stream(data, 0.5, start=3), strict=True)
    )


def test_online_copies_do_not_depend_on_revealed_cells(data):
    plain, shown = (stream(data, share, augment="online") for share in (0.0, 1.0))
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(plain, shown, strict=True))


def test_test_puzzles_are_unchanged(data):
    plain, asked = (stream(data, share, split="test") for share in (0.0, 1.0))
    assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(plain, asked, strict=True))


SAMPLES = Path(__file__).parent / "data" / "maze"


@pytest.fixture(scope="module")
def mazes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maze") / "data"
    build_mazes(["--source-csv", str(SAMPLES), "--output-dir", str(folder)])
    return str(folder)


def test_a_shortened_maze_has_the_answer_of_the_same_rule(mazes):
    plain, shortened = (stream(mazes, share, global_batch_size=2) for share in (0.0, 1.0))
    lengths = []
    for whole, batch in zip(plain, shortened, strict=True):
        walls = batch["inputs"] == WALL
        assert torch.equal(walls, whole["inputs"] == WALL)
        marks = {START, GOAL, PATH}
        assert all(set(row[row > FREE].tolist()) <= marks for row in batch["labels"])
        old = torch.isin(whole["labels"], torch.tensor(sorted(marks)))
        assert (old | ~torch.isin(batch["labels"], torch.tensor(sorted(marks)))).all()
        for inputs, labels in zip(batch["inputs"].numpy(), batch["labels"].numpy(), strict=True):
            side = square_shape(len(inputs))
            path = path_cells(labels.reshape(side))
            expected = [row * side[1] + column for row, column in queue_search(inputs.reshape(side))]
            assert path.tolist() == expected
            lengths.append(len(path) - 1)
    longest = max(len(path_cells(row.reshape(side))) - 1 for row in whole["labels"].numpy())
    assert min(lengths) < longest / 4
    assert max(lengths) > longest * 3 / 4


def test_the_requested_share_of_mazes_is_shortened(mazes):
    changed = []
    for plain, batch in zip(
        *(stream(mazes, share, global_batch_size=2) for share in (0.0, 0.5)), strict=True
    ):
        changed += (plain["inputs"] != batch["inputs"]).any(1).tolist()
    assert 0.3 < np.mean(changed) < 0.65


def test_a_path_that_touches_itself_has_no_order():
    around = encode("Soo#oGooo").reshape(3, 3)
    assert path_cells(around) is None
    assert path_cells(encode("So##o# oG").reshape(3, 3)).tolist() == [0, 1, 4, 7, 8]


def test_arc_is_rejected():
    arc = metadata(vocab_size=12, seq_len=900, extra={"family": "arc"})
    with pytest.raises(UserError, match=r"FOLDER: reveal_prob=0.5 is not supported.* arc defines no easier"):
        easier_puzzles(0.5, [("FOLDER", arc)])


def test_data_of_two_families_is_rejected(data, mazes):
    described = [(folder, read_metadata(Path(folder) / "train")) for folder in (data, mazes)]
    with pytest.raises(UserError, match="needs datasets of one family and size") as caught:
        easier_puzzles(0.5, described)
    assert data in str(caught.value)
    assert mazes in str(caught.value)
