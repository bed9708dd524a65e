"""augment=online: new valid copies in the published order, independent of ranks and resume position."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stopped_runs import STOPPED, call_at, terminate
from training_runs import ROOT, assert_same_run, metrics, train

from dataset.families.maze import rules as maze
from dataset.families.sudoku import rules as sudoku
from dataset.families.sudoku.symmetry import SudokuSymmetries
from dataset.families.symmetry import FiniteSymmetries, Symmetries
from dataset.format import SplitWriter, write_identifiers
from dataset.metadata import Metadata
from dataset.online_augment import OnlineCopies, augmentation_of
from puzzle_dataset import PuzzleDataset
from utils.errors import UserError

SEED, BATCH = 3, 8


def build(script: str, folder: Path, *options: str) -> Path:
    arguments = [str(ROOT / "dataset" / script), "--output-dir", str(folder), "--seed", "0", *options]
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    size = ["--generate", "20", "--test-size", "4"]
    return {
        "sudoku 9x9": build("build_sudoku_dataset.py", folder / "9x9", *size, "--num-aug", "2"),
        "sudoku 6x6": build("build_sudoku_dataset.py", folder / "6x6", *size, "--size", "6"),
        "maze": build("build_maze_dataset.py", folder / "maze", *size, "--size", "8"),
    }


def stream(path: Path, *, iteration: int = 1, start: int = 0, augment: str | None = "online", **places):
    options = {"global_batch_size": BATCH, "epochs_per_iter": 3, "seed": SEED} | places
    dataset = PuzzleDataset([str(path)], "train", augment=augment, **options)
    return [batch for _, batch, _ in dataset.batches(iteration, start)]


def equal(one: list[dict], two: list[dict]) -> bool:
    pairs = zip(one, two, strict=True)
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


FAMILIES = pytest.mark.parametrize("family", ["sudoku 9x9", "sudoku 6x6", "maze"])


@FAMILIES
def test_a_copy_has_a_right_answer(data, family):
    for batch in stream(data[family]):
        inputs, labels = batch["inputs"].numpy(), batch["labels"].numpy()
        if family == "maze":
            valid, shortest = maze.judge(inputs, labels, (8, 8))
            assert valid.all()
            assert shortest.all()
        else:
            box = sudoku.BoxShape.for_cells(inputs.shape[1])
            assert sudoku.is_solution(sudoku.to_values(labels), box).all()
            assert ((inputs == 1) | (inputs == labels)).all()


@FAMILIES
def test_the_order_of_puzzles_is_that_of_the_published_stream(data, family):
    """Identify puzzles by the number of cells of each kind, which symmetries do not change."""
    path = data[family]
    for plain, copied in zip(stream(path, augment=None), stream(path), strict=True):
        assert torch.equal(plain["puzzle_identifiers"], copied["puzzle_identifiers"])
        assert torch.equal((plain["inputs"] == 1).sum(1), (copied["inputs"] == 1).sum(1))
        assert torch.equal(
            (plain["inputs"] == plain["labels"]).sum(1), (copied["inputs"] == copied["labels"]).sum(1)
        )


@FAMILIES
def test_copies_differ_at_every_draw_and_are_reproducible_by_seed(data, family):
    path = data[family]
    one = stream(path)
    assert equal(one, stream(path))
    for other in ({"iteration": 2}, {"seed": 4}):
        assert not equal(one, stream(path, **other))
    rows = {bytes(row) for batch in one for row in batch["inputs"].numpy().astype(np.uint8)}
    plain = {
        bytes(row) for batch in stream(path, augment=None) for row in batch["inputs"].numpy().astype(np.uint8)
    }
    assert len(rows) > len(plain)
    assert len(plain - rows) > len(plain) // 4
    if family != "maze":  # mazes have only eight copies
        assert len(rows) == BATCH * len(one)


def test_copies_of_one_puzzle_differ_by_seed_iteration_and_batch(data, tmp_path):
    """A dataset of a single puzzle has no order that could make batches different."""
    (first, *_) = stream(data["sudoku 9x9"], augment=None)
    with SplitWriter(tmp_path / "train", seq_len=81, vocab_size=11, extra={"family": "sudoku"}) as writer:
        writer.add_group(first["inputs"][:1].numpy(), first["labels"][:1].numpy(), np.zeros(1, np.int32))
        writer.close(1)
    write_identifiers(tmp_path, ["<blank>"])
    alone = {"global_batch_size": 1, "epochs_per_iter": 4}
    assert len({str(batch) for batch in stream(tmp_path, augment=None, **alone)}) == 1
    drawn = [
        bytes(batch["inputs"].numpy().astype(np.uint8))
        for seed in (3, 4)
        for iteration in (1, 2)
        for batch in stream(tmp_path, seed=seed, iteration=iteration, **alone)
    ]
    assert len(drawn) == len(set(drawn)) == 16


@FAMILIES
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_the_stream_of_a_single_process(data, family, size):
    ranks = [stream(data[family], rank=rank, world_size=size) for rank in range(size)]
    joined = [
        {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*ranks, strict=True)
    ]
    assert equal(joined, stream(data[family]))


@FAMILIES
def test_the_stream_resumes_from_any_position(data, family):
    whole = stream(data[family])
    for start in range(len(whole) + 1):
        assert equal(whole[start:], stream(data[family], start=start))


def copied(symmetries: Symmetries, inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return OnlineCopies(symmetries)(np.random.default_rng(0), len(inputs), slice(None), inputs, labels)


def test_every_symmetry_is_drawn_about_equally_often():
    square = np.arange(9)[None].repeat(4000, 0)
    images, _ = copied(FiniteSymmetries.of_rectangle((3, 3)), square, square)
    _, counts = np.unique(images, axis=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 400
    wide = np.arange(6)[None].repeat(4000, 0)
    images, _ = copied(FiniteSymmetries.of_rectangle((2, 3)), wide, wide)
    assert len(np.unique(images, axis=0)) == 4


def test_cells_without_a_label_stay_without_one():
    labels = np.zeros((3, 16), np.uint8)
    labels[:, 5] = 2
    copies = copied(SudokuSymmetries(sudoku.BoxShape(2, 2)), labels, labels)
    for tokens in copies:
        assert ((tokens == 0).sum(1) == 15).all()


def metadata(**changes) -> Metadata:
    values = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": 11,
        "seq_len": 81,
        "num_puzzle_identifiers": 1,
        "total_groups": 1,
        "mean_puzzle_examples": 1.0,
        "total_puzzles": 1,
        "sets": ("all",),
        "extra": {},
    }
    return Metadata(**values | changes)


def test_the_family_determines_the_copies():
    nine = metadata(extra={"family": "sudoku"})
    assert augmentation_of(nine, "x") == OnlineCopies(SudokuSymmetries(sudoku.BoxShape(3, 3)))
    maze = metadata(vocab_size=6, seq_len=900, extra={"family": "maze"})
    assert augmentation_of(maze, "x") == OnlineCopies(FiniteSymmetries.of_rectangle((30, 30)))


def test_arc_is_rejected_with_the_reason():
    with pytest.raises(
        UserError, match=r"FOLDER: augment=online is not possible, because ARC models have an embedding"
    ):
        augmentation_of(metadata(vocab_size=12, seq_len=900, extra={"family": "arc"}), "FOLDER")


def test_data_of_an_unknown_family_is_rejected(identified, tmp_path):
    with pytest.raises(
        UserError, match="augment=online is not possible, because no symmetry of these puzzles is known"
    ):
        train(identified, tmp_path / "run", augment="online")


def test_two_box_shapes_are_not_mixed(data, tmp_path):
    rng = np.random.default_rng(0)
    with SplitWriter(tmp_path / "tall" / "train", seq_len=36, vocab_size=8, ignore_label_id=0) as writer:
        rows = rng.integers(1, 8, (9, 1, 36))
        for row in rows:
            writer.add_group(row, row, np.array([0]))
        writer.close(1)
    path = tmp_path / "tall" / "train" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"family": "sudoku", "box_shape": [3, 2]}))
    write_identifiers(tmp_path / "tall", ["<blank>"])
    paths = [str(data["sudoku 6x6"]), str(tmp_path / "tall")]
    with pytest.raises(
        UserError, match=r"is sudoku 6x6, boxes of 2x3 and .*tall is sudoku 6x6, boxes of 3x2"
    ):
        PuzzleDataset(paths, "train", global_batch_size=4, augment="online")


def test_a_run_with_online_copies_resumes_exactly_and_differs_from_one_without(data, tmp_path, monkeypatch):
    path = data["sudoku 6x6"]
    settings = {"augment": "online", "epochs": 4, "eval_interval": 2}
    assert train(path, tmp_path / "reference", **settings) == 0
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 3, terminate)
        assert train(path, tmp_path / "run", **settings) == STOPPED
    with pytest.raises(UserError, match="augment: 'online' in the checkpoint, None now"):
        train(path, tmp_path / "run", **settings | {"augment": None}, resume="auto")
    assert train(path, tmp_path / "run", **settings, resume="auto") == 0
    assert_same_run(tmp_path / "run", tmp_path / "reference")
    train(path, tmp_path / "plain", **settings | {"augment": None})
    assert metrics(tmp_path / "plain") != metrics(tmp_path / "reference")
