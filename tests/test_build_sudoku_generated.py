"""Build Sudoku datasets of generated puzzles; datasets do not depend on the number of workers."""

from __future__ import annotations

import numpy as np
import pytest
from sudoku_builds import SAMPLES, build, files_of, read, texts, values

from dataset.build_sudoku_dataset import main
from dataset.families.sudoku.batch import solve_batch
from dataset.families.sudoku.hashes import invariant_hashes
from dataset.families.sudoku.rules import BoxShape, is_solution, to_values
from dataset.format import validate

# --- generated ---


def test_generated_splits_are_complete_unique_and_disjoint(tmp_path):
    arguments = ("--generate", 60, "--test-size", 40, "--size", 6, "--clues", 14, "--num-aug", 20)
    build("--output-dir", tmp_path / "d", *arguments)
    assert validate(tmp_path / "d") == []
    shape = BoxShape(2, 3)
    (train, train_solutions), (test, test_solutions) = (values(tmp_path / "d", s) for s in ("train", "test"))
    assert (len(train), len(test)) == (60 * 21, 40)
    assert (np.count_nonzero(np.concatenate([train, test]), axis=1) <= 14).all()
    solved = solve_batch(np.concatenate([train[::21], test]), shape)
    assert (solved.num_solutions == 1).all()
    assert (solved.solutions == np.concatenate([train_solutions[::21], test_solutions])).all()
    train_hashes = set(invariant_hashes(train, train_solutions, shape).tolist())
    test_hashes = set(invariant_hashes(test, test_solutions, shape).tolist())
    assert len(train_hashes) == 60
    assert len(test_hashes) == 40
    assert not train_hashes & test_hashes
    assert not {*texts(train_solutions)} & {*texts(test_solutions)}
    metadata, examples = read(tmp_path / "d", "test")
    assert examples.difficulty.tolist() == solved.guesses[60:].tolist()
    assert metadata.extra["options"]["clues"] == 14
    assert not (tmp_path / "d" / "train" / "source_rows.npy").exists()


def test_no_4x4_puzzle_or_copy_is_in_both_splits(tmp_path):
    # With so many copies of so few puzzles, thousands would be test puzzles if they were not redrawn.
    build(
        "--output-dir", tmp_path / "d", "--generate", 200, "--test-size", 200, "--size", 4, "--num-aug", 100
    )
    train, test = (texts(values(tmp_path / "d", split)[0]) for split in ("train", "test"))
    assert len({*train[::101]}) == 200
    assert len({*test}) == 200
    assert not {*train} & {*test}
    hashes = [
        invariant_hashes(*values(tmp_path / "d", split), BoxShape(2, 2)).tolist()
        for split in ("train", "test")
    ]
    assert {*hashes[0]} & {*hashes[1]}  # up to symmetry there are shared ones


def test_copies_never_have_the_solution_of_a_test_puzzle(tmp_path, monkeypatch):
    import dataset.build_sudoku_dataset as builder

    options = ("--generate", 3, "--test-size", 5, "--size", 6, "--num-aug", 400)
    secret = []
    leakage_filter = builder.leakage_filter

    def first_copies_are_test_solutions(splits):
        # Pretend that test solutions equal those of copies: the first ones that an unmodified build draws.
        grids = builder.with_copies(
            np.random.default_rng([0, builder.AUGMENT_STREAM]),
            splits.train.puzzles,
            splits.train.solutions,
            400,
            splits.shape,
        )[1]
        splits.test.solutions[:] = grids[[1, 2, 500, 900, 1000]]
        secret.extend(texts(splits.test.solutions))
        return leakage_filter(splits)

    monkeypatch.setattr(builder, "leakage_filter", first_copies_are_test_solutions)
    build("--output-dir", tmp_path / "d", *options)
    assert len(secret) == 5
    assert not {*texts(values(tmp_path / "d", "train")[1])} & {*secret}


@pytest.mark.parametrize("size", ["4", "6"])
def test_the_number_of_workers_does_not_matter(tmp_path, size):
    for workers in (1, 3):
        arguments = (
            "--output-dir",
            tmp_path / f"{workers}",
            "--generate",
            150,
            "--size",
            size,
            "--num-aug",
            2,
        )
        main([str(argument) for argument in (*arguments, "--workers", workers)])
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")


def test_the_number_of_workers_does_not_matter_for_tables_and_lists(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.families.sudoku.batch._BATCH", 2)  # so that several workers are used
    for workers in (1, 3):
        for name, path in (("table", SAMPLES), ("list", SAMPLES / "hardest.txt")):
            arguments = ("--output-dir", tmp_path / f"{name}{workers}", "--source-csv", path)
            main([str(argument) for argument in (*arguments, "--workers", workers)])
    for name in ("table", "list"):
        assert files_of(tmp_path / f"{name}1") == files_of(tmp_path / f"{name}3")


def test_minimal_puzzles_are_minimal(tmp_path):
    build(
        "--output-dir", tmp_path / "d", "--generate", 4, "--test-size", 1, "--box-shape", "3x2", "--minimal"
    )
    shape = BoxShape(3, 2)
    puzzles, _ = values(tmp_path / "d", "train")
    assert read(tmp_path / "d", "train")[0].extra["box_shape"] == [3, 2]
    for puzzle in puzzles:
        fewer = np.tile(puzzle, (np.count_nonzero(puzzle), 1))
        fewer[np.arange(len(fewer)), np.flatnonzero(puzzle)] = 0
        assert (solve_batch(fewer, shape).num_solutions == 2).all()


def test_sixteen_by_sixteen_puzzles_are_generated(tmp_path):
    build("--output-dir", tmp_path / "d", "--generate", 2, "--test-size", 1, "--size", 16, "--clues", 150)
    metadata, examples = read(tmp_path / "d", "train")
    assert (metadata.seq_len, metadata.vocab_size) == (256, 18)
    assert is_solution(to_values(examples.labels), BoxShape(4, 4)).all()


def test_metadata_contains_no_machine_or_time(tmp_path):
    build("--output-dir", tmp_path / "d", "--generate", 3, "--size", 4)
    recorded = read(tmp_path / "d", "train")[0].extra
    assert not {"workers", "output_dir", "time"} & {*recorded, *recorded["options"]}
