"""The output of the Sudoku builder compared with the published one, up to its unseeded random choices."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from golden_files import GOLDEN_DIR, load

from dataset.build_sudoku_dataset import main
from dataset.families.sudoku.hashes import invariant_hashes
from dataset.families.sudoku.rules import BoxShape, is_solution, to_values
from dataset.format import read_identifiers

SHAPE = BoxShape(3, 3)
SPLITS = ("train", "test")


def runs() -> list[str]:
    """Return the names of builds in the file, `sudoku_aug{N}`; empty without the file, which skips the tests."""
    path = GOLDEN_DIR / "builders.npz"
    keys = np.load(path).files if path.exists() else []
    return sorted({key.split("/")[0] for key in keys if key.startswith("sudoku_aug")})


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load("builders")


@pytest.fixture(scope="module", params=runs())
def run(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def built(golden, run, tmp_path_factory):
    """Build a dataset from the same source with the same options; return its folder."""
    folder = tmp_path_factory.mktemp(run)
    for split in SPLITS:
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["source", "question", "answer", "rating"])
            writer.writerows(json.loads(str(golden[f"sudoku_src/{split}_json"])))
    num_aug = re.fullmatch(r"sudoku_aug(\d+)", run)[1]
    arguments = ["--source-csv", str(folder), "--output-dir", str(folder / "built"), "--num-aug", num_aug]
    main([*arguments, "--workers", "1"])
    return folder / "built"


def arrays(folder, split: str) -> dict[str, np.ndarray]:
    names = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
    return {name: np.load(folder / split / f"all__{name}.npy") for name in names}


def hashes(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return invariant_hashes(to_values(inputs), to_values(labels), SHAPE)


@pytest.mark.parametrize("split", SPLITS)
def test_metadata_matches_the_published_one_except_for_the_number_of_puzzles(golden, run, built, split):
    expected = json.loads(str(golden[f"{run}/{split}/dataset_json"]))
    expected["total_puzzles"] = len(golden[f"{run}/{split}/puzzle_identifiers"])
    found = json.loads((built / split / "dataset.json").read_text())
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("split", SPLITS)
def test_indices_and_identifiers_are_the_published_ones(golden, run, built, split):
    found = arrays(built, split)
    for name in ("puzzle_identifiers", "puzzle_indices", "group_indices"):
        expected = golden[f"{run}/{split}/{name}"]
        assert found[name].dtype == expected.dtype
        assert (found[name] == expected).all()


def test_identifier_names_are_the_published_ones(golden, run, built):
    assert read_identifiers(built) == json.loads(str(golden[f"{run}/identifiers_json"]))


def test_the_test_split_is_the_published_one(golden, run, built):
    found = arrays(built, "test")
    for name in ("inputs", "labels"):
        assert (found[name] == golden[f"{run}/test/{name}"]).all()
        assert found[name].dtype == np.uint8


def test_the_first_of_each_train_group_is_the_published_one(golden, run, built):
    found = arrays(built, "train")
    first = golden[f"{run}/train/group_indices"][:-1]
    for name in ("inputs", "labels"):
        assert (found[name][first] == golden[f"{run}/train/{name}"][first]).all()
        assert found[name].shape == golden[f"{run}/train/{name}"].shape


def test_copies_are_equivalent_to_the_published_copies(golden, run, built):
    found = arrays(built, "train")
    labels = found["labels"]
    assert is_solution(to_values(labels), SHAPE).all()
    published = hashes(golden[f"{run}/train/inputs"], golden[f"{run}/train/labels"])
    assert (hashes(found["inputs"], labels) == published).all()
    given = found["inputs"] > 1
    assert (found["inputs"][given] == labels[given]).all()
