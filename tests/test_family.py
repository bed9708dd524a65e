"""Detection of the family of a dataset, its consistent use, and messages to the user."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from arc_samples import build as build_arc
from training_runs import metrics, train

from dataset import report
from dataset.families import family_of
from dataset.format import SPLITS, SplitWriter, open_split, write_identifiers
from dataset.options import check_output_dir
from evaluators.base import default_evaluators
from evaluators.strategies.verifier import checker_of
from puzzle_dataset import PuzzleDataset
from utils.errors import UserError

SOLVED = "123456456123231564564231312645645312"
# Every row and column has three of each symbol and no three equal ones in a row: Takuzu, not Sudoku.
TAKUZU = "112212221121112122221211121221212112"


def write(folder: Path, inputs, labels, vocab_size: int, **extra) -> Path:
    """Write a dataset with the same rows (n, S) in both splits."""
    inputs, labels = (np.array(rows, np.uint8) for rows in (inputs, labels))
    for split in SPLITS:
        with SplitWriter(
            folder / split, seq_len=inputs.shape[1], vocab_size=vocab_size, extra=extra
        ) as writer:
            for question, answer in zip(inputs, labels, strict=True):
                writer.add_group(question[None], answer[None], np.zeros(1, int))
            writer.close(num_puzzle_identifiers=1)
    write_identifiers(folder, ["<blank>"])
    return folder


def six_by_six(folder: Path, solution: str, **extra) -> Path:
    """Write 16 puzzles with the same solution and different given cells."""
    labels = np.array([[int(symbol) + 1 for symbol in solution]] * 16)
    given = np.random.default_rng(0).random(labels.shape) < 0.4
    return write(folder, np.where(given, labels, 1), labels, 8, **extra)


def mazes(folder: Path, questions=("S   G####", "S  ##G   "), **extra) -> Path:
    tokens = np.array([["# SGo".index(symbol) + 1 for symbol in question] for question in questions])
    return write(folder, tokens, tokens, 6, **extra)


def unnamed(folder: Path) -> Path:
    """Build a dataset without the keys that published builders do not write."""
    for split in SPLITS:
        path = folder / split / "dataset.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in values.items() if k not in ("family", "grid_shape")}))
    return folder


def views_on(folder: Path) -> set[str | None]:
    """Return the families that all users of a dataset assign to it."""
    metadata = open_split(folder, "test").metadata
    evaluator = {"sudoku@Sudoku": "sudoku", "maze@Maze": "maze", "arc@ARC": "arc"}
    names = [evaluator[name] for name in default_evaluators([str(folder)])] or [None]
    family = family_of(metadata)
    views = {family.name, *names}
    if not views & {"arc", None}:
        checker_of(metadata)
        kind = type(family.symmetries_to_ask([str(folder)], (), 1)).__name__
        views.add({"SudokuSymmetries": "sudoku", "FiniteSymmetries": "maze"}[kind])
    return views


def test_datasets_without_family_are_detected_by_more_than_their_sizes(tmp_path):
    arc = unnamed(build_arc(tmp_path / "arc"))
    found = {"sudoku": six_by_six(tmp_path / "s", SOLVED), "maze": mazes(tmp_path / "m"), "arc": arc}
    for family, folder in found.items():
        assert views_on(folder) == {family}
        [notice] = PuzzleDataset([str(folder)], "test", global_batch_size=1).notices
        assert notice.startswith(f"{folder}: taken for {family}: dataset.json names no family, but ")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: six_by_six(folder, TAKUZU), "sampled labels break its rules"),
        (lambda folder: six_by_six(folder, SOLVED, box_shape=[3, 2]), "sampled labels break its rules"),
        (lambda folder: six_by_six(folder, "1" * 36), "sampled labels break its rules"),
        (
            lambda folder: write(folder, np.ones((4, 36)), np.zeros((4, 36)), 8),
            "no sampled label is a complete grid",
        ),
        (lambda folder: mazes(folder, ["S  ######"]), "not every sampled input has one start and one goal"),
        (lambda folder: write(folder, [[3, 4, 2, 1]], [[3, 4, 2, 2]], 6), "change more than free cells"),
        (lambda folder: write(folder, np.ones((2, 900)), np.ones((2, 900)), 12), "no test_puzzles.json"),
        (lambda folder: write(folder, np.ones((2, 7)), np.ones((2, 7)), 5), "7 cells and 5 tokens are not"),
    ],
)
def test_sizes_alone_do_not_determine_a_family(tmp_path, make, reason):
    folder = make(tmp_path / "data")
    assert views_on(folder) == {None}
    assert reason in family_of(open_split(folder, "test").metadata).reason


def test_an_unknown_family_is_reported_by_name(tmp_path, capsys):
    folder = six_by_six(tmp_path / "data", SOLVED, family="takuzu")
    assert views_on(folder) == {None}
    known = "arc, maze, nqueens, sudoku"
    named = f"dataset.json names the family 'takuzu', which is neither one of {known} nor module@Class"
    data = PuzzleDataset([str(folder)], "test", global_batch_size=1)
    assert data.notices == [f"{folder}: of no known family: {named}"]
    with pytest.raises(UserError, match=named):
        family_of(data.metadata).symmetries_to_ask([str(folder)], (), 1)
    with pytest.raises(UserError, match=named):
        checker_of(data.metadata)
    with pytest.raises(UserError, match=named):
        PuzzleDataset([str(folder)], "train", global_batch_size=1, augment="online")
    report.main([str(folder), "--examples", "0"])
    assert f"family unknown: {named}" in capsys.readouterr().out


def test_a_named_family_with_other_sizes_is_not_used(tmp_path):
    folder = mazes(tmp_path / "data", family="sudoku")
    assert views_on(folder) == {None}
    assert family_of(open_split(folder, "test").metadata).reason == (
        "dataset.json names the family sudoku, but seq_len is 9, which is not the size of such a grid"
    )


def test_a_named_family_needs_no_evidence_and_no_notice(tmp_path, capsys):
    folder = six_by_six(tmp_path / "data", TAKUZU, family="sudoku")
    assert views_on(folder) == {"sudoku"}
    assert PuzzleDataset([str(folder)], "test", global_batch_size=1).notices == []
    report.main([str(folder), "--examples", "0"])
    assert "family sudoku" not in capsys.readouterr().out


def test_datasets_of_two_families_have_no_common_family(tmp_path):
    paths = [six_by_six(tmp_path / "a", SOLVED), six_by_six(tmp_path / "b", TAKUZU)]
    together = PuzzleDataset([str(path) for path in paths], "test", global_batch_size=1).metadata
    assert family_of(together).name is None
    assert f"{paths[0]} is sudoku, {paths[1]} is of no known family" in family_of(together).reason
    same_family = [paths[0], six_by_six(tmp_path / "c", SOLVED, family="sudoku")]
    assert (
        family_of(PuzzleDataset([str(p) for p in same_family], "test", global_batch_size=1).metadata).name
        == "sudoku"
    )


def test_a_run_reports_and_records_the_detected_family(tmp_path, capsys):
    folder = six_by_six(tmp_path / "data", SOLVED)
    train(folder, tmp_path / "run", evaluators=None, epochs=2)
    assert capsys.readouterr().out.count(f"{folder}: taken for sudoku") == 1
    assert "sudoku/valid" in metrics(tmp_path / "run")[-1]
    metadata = json.loads((tmp_path / "run" / "metadata.json").read_text())
    assert metadata["family"] == "sudoku"
    assert "obey its rules" in metadata["family_evidence"]


def test_a_builder_does_not_replace_a_detected_dataset_of_another_family(tmp_path):
    folder = six_by_six(tmp_path / "data", SOLVED)
    check_output_dir(folder, "sudoku")
    with pytest.raises(UserError, match="holds a dataset of the family sudoku"):
        check_output_dir(folder, "maze")


def test_the_command_line_overrides_the_family_of_the_data(tmp_path, capsys):
    folder = six_by_six(tmp_path / "data", TAKUZU, family="takuzu")
    assert report.main([str(folder), "--examples", "0", "--family", "sudoku"]) == 0
    assert "train: sudoku, 6x6, boxes of 2x3" in capsys.readouterr().out
    train(folder, tmp_path / "run", family="sudoku", evaluators=None, epochs=2)
    assert metrics(tmp_path / "run")[-1]["sudoku/valid"] == 0
    assert json.loads((tmp_path / "run" / "metadata.json").read_text())["family"] == "sudoku"
    assert family_of(open_split(folder, "test").metadata).name is None  # the override ends with the command


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sudoko", "which is neither one of arc, maze"),
        ("nowhere@Family", "which cannot be imported"),
        ("json@JSONDecoder", "json has no class JSONDecoder derived from Family"),
        ("json@Nothing", "json has no class Nothing derived from Family"),
    ],
)
def test_an_invalid_family_is_rejected_before_anything_is_written(name, problem, tmp_path, capsys):
    folder = six_by_six(tmp_path / "data", SOLVED)
    with pytest.raises(UserError, match=f"family={name} names the family .*{problem}"):
        train(folder, tmp_path / "run", family=name)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit, match="2"):
        report.main([str(folder), "--family", name])
    assert problem in capsys.readouterr().err
