"""The output of the maze builder compared with that of the published one (`builders.npz`)."""

from __future__ import annotations

import json

import golden_files
import numpy as np
import pytest

from dataset.augment import NUM_DIHEDRAL
from dataset.build_maze_dataset import MazeSet, add_mazes
from dataset.families.maze.rules import VOCAB_SIZE, encode, square_shape
from dataset.format import BLANK_IDENTIFIER, FIELD_DTYPES, SplitWriter, write_identifiers


@pytest.mark.parametrize(("name", "copies"), [("maze_aug0", 1), ("maze_aug1", NUM_DIHEDRAL)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_arrays_and_metadata_are_the_published_ones(name, copies, split, tmp_path):
    golden = golden_files.load("builders")
    # The grids of the vectors are random symbols, not mazes, so the checks of the source are skipped.
    texts = [(question, answer) for _, question, answer, _ in json.loads(str(golden["maze_src/json"]))]
    questions, answers = (np.stack([encode(text) for text in column]) for column in zip(*texts, strict=True))
    shape = square_shape(questions.shape[1])
    with SplitWriter(tmp_path / split, seq_len=questions.shape[1], vocab_size=VOCAB_SIZE) as writer:
        add_mazes(writer, MazeSet(questions, answers), shape, copies=copies if split == "train" else 1)
        writer.close(1)
    write_identifiers(tmp_path, [BLANK_IDENTIFIER])

    for field in FIELD_DTYPES:
        built = np.load(tmp_path / split / f"all__{field}.npy")
        assert np.array_equal(built, golden[f"{name}/{split}/{field}"]), field
        assert built.dtype == str(golden[f"{name}/{split}/{field}@dtype"]), field
    metadata = json.loads((tmp_path / split / "dataset.json").read_text())
    expected = json.loads(str(golden[f"{name}/{split}/dataset_json"]))
    # The published total_puzzles is the number of groups.
    expected["total_puzzles"] = len(golden[f"{name}/{split}/puzzle_identifiers"])
    assert metadata == expected
    identifiers = json.loads((tmp_path / "identifiers.json").read_text())
    assert identifiers == json.loads(str(golden[f"{name}/identifiers_json"]))
