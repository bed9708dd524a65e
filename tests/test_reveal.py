"""reveal_prob: some drawn puzzles show more cells, the same for any ranks and from any position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sudoku_builds import build

from dataset.sudoku import BLANK_ID
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


def test_shown_cells_are_those_of_the_answer_in_about_as_many_rows_as_asked_for(data):
    shares, changed = [], []
    for plain, batch in zip(stream(data, 0.0), stream(data, 0.5), strict=True):
        assert torch.equal(plain["labels"], batch["labels"])
        blank, shown = plain["inputs"] == BLANK_ID, plain["inputs"] != batch["inputs"]
        assert (blank | ~shown).all()
        assert torch.equal(batch["inputs"][shown], batch["labels"][shown])
        changed += shown.any(1).tolist()
        shares += (shown.sum(1) / blank.sum(1)).tolist()
    assert 0.42 < np.mean(changed) < 0.52  # of 800 rows, a few of which draw next to no cell
    assert 0.2 < np.mean([share for share in shares if share]) < 0.3
    assert max(shares) < 0.8


def test_every_rank_and_every_start_sees_the_same_rows(data):
    whole = stream(data, 0.5)
    ranks = [stream(data, 0.5, rank=rank, world_size=2) for rank in range(2)]
    for one, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(one["inputs"], torch.cat([part["inputs"] for part in parts]))
    assert all(
        torch.equal(a["inputs"], b["inputs"])
        for a, b in zip(whole[3:], stream(data, 0.5, start=3), strict=True)
    )


def test_fresh_copies_are_the_same_whether_cells_are_shown_or_not(data):
    plain, shown = (stream(data, share, augment="online") for share in (0.0, 1.0))
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(plain, shown, strict=True))


def test_test_puzzles_stay_as_they_are(data):
    plain, asked = (stream(data, share, split="test") for share in (0.0, 1.0))
    assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(plain, asked, strict=True))


def test_mazes_are_refused(tmp_path):
    from dataset.build_maze_dataset import main

    options = ["--size", "8", "--generate", "6", "--test-size", "2", "--workers", "1"]
    main(["--output-dir", str(tmp_path / "maze"), *options])
    with pytest.raises(UserError, match=r"maze: reveal_prob=0.5 shows cells .* this is of family maze"):
        stream(str(tmp_path / "maze"), 0.5)
