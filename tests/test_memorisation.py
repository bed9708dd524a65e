"""`python -m evaluators.memorisation`: signs of memorisation, and the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import ROOT, run_python, train

from config.report_schema import MemorisationConfig
from dataset.format import IGNORE_LABEL_ID, open_split
from evaluators import memorisation
from evaluators.reports import augmentation_probe as fresh
from evaluators.reports import memorisation_report
from evaluators.reports.augmentation_probe import COPIES, ORIGINALS, TEST, NotKnown
from evaluators.reports.memorisation_checks import (
    Finding,
    check_copies,
    check_duplicates,
    check_gap,
    check_steps,
    page,
    picture,
    verdict,
)
from puzzle_dataset import PuzzleDataset
from utils.run_records import read_predictions


def over_time(**series: list[float]) -> list[dict[str, float]]:
    """Make records at steps 10, 20, ..., with `train_exact` as train/exact_accuracy and so on."""
    names = {"train": "train/exact_accuracy", "test": "test/exact_accuracy", "steps": "test/steps"}
    count = len(next(iter(series.values())))
    return [
        {"step": 10 * (i + 1)} | {names[key]: values[i] for key, values in series.items()}
        for i in range(count)
    ]


# ------------------------------------------------------------------------------ train against test


@pytest.mark.parametrize(
    ("train_shares", "test_shares", "sign"),
    [
        ([0.2, 0.6, 0.9], [0.2, 0.6, 0.9], False),
        ([0.2, 0.6, 0.9], [0.2, 0.5, 0.8], False),  # a gap, but most of it generalises
        ([0.2, 0.6, 1.0], [0.1, 0.1, 0.1], True),
        ([0.2, 0.6, 0.7], [0.2, 0.7, 0.6], True),  # decreases during training
    ],
)
def test_a_wide_gap_or_falling_test_accuracy_is_a_sign(train_shares, test_shares, sign):
    finding = check_gap(over_time(train=train_shares, test=test_shares))
    assert finding.sign is sign
    assert f"{train_shares[-1]:.1%}" in finding.words
    assert f"{test_shares[-1]:.1%}" in finding.words


def test_train_accuracy_is_the_mean_since_the_previous_evaluation():
    records = [
        {"step": step, "train/exact_accuracy": share} for step, share in ((5, 0.0), (15, 0.4), (20, 0.6))
    ]
    records += [{"step": 10, "test/exact_accuracy": 0.1}, {"step": 20, "test/exact_accuracy": 0.5}]
    assert "50.0% of the train examples" in check_gap(records).words


def test_there_is_no_verdict_before_anything_is_learned():
    with pytest.raises(NotKnown, match="Nothing has been learned or memorised yet"):
        check_gap(over_time(train=[0, 0.01], test=[0, 0]))
    with pytest.raises(NotKnown, match="test/exact_accuracy"):
        check_gap([])
    with pytest.raises(NotKnown, match="Nothing has been learned or memorised yet"):
        check_copies({ORIGINALS: (100, 2), COPIES: (100, 0), TEST: (100, 0)})


# ------------------------------------------------------------------------------ steps against accuracy


@pytest.mark.parametrize(
    ("steps", "shares", "sign"),
    [
        ([8, 4, 2, 1.2], [0.1, 0.5, 0.8, 0.95], False),  # early, but because puzzles are solved
        ([8, 1, 1, 1], [0.1, 0.1, 0.12, 0.13], True),
        ([8, 1, 1, 1], [0.1, 0.1, 0.5, 0.8], False),  # accuracy increased nevertheless
        ([8, 8, 8, 8], [0.1, 0.1, 0.1, 0.1], False),
    ],
)
def test_steps_that_decrease_early_without_better_accuracy_are_a_sign(steps, shares, sign):
    assert check_steps(over_time(steps=steps, test=shares), 8).sign is sign


def test_a_model_with_one_step_has_no_decreasing_steps():
    with pytest.raises(NotKnown, match="one supervision step"):
        check_steps(over_time(steps=[1.0], test=[0.5]), 1)


# ------------------------------------------------------------------------------ predictions that repeat


def test_repeated_predictions_are_a_sign_unless_answers_repeat():
    answers = np.arange(40).reshape(20, 2)
    few = np.repeat(answers[:5], 4, axis=0)
    assert check_duplicates([(10, [answers])], lambda: answers).sign is False
    finding = check_duplicates([(10, [answers]), (20, [few])], lambda: answers)
    assert finding.sign is True
    assert "Of the 20 predictions saved at step 20, 5 are distinct" in finding.words
    assert check_duplicates([(20, [few[:12], few[12:]])], lambda: few).sign is False
    with pytest.raises(NotKnown, match="test data is not available"):
        check_duplicates([(20, [few])], lambda: None)


def test_predictions_are_compared_in_labelled_cells_only():
    labels = np.array([[1, IGNORE_LABEL_ID], [2, IGNORE_LABEL_ID]])
    preds = np.array([[1, 3], [1, 4]])
    assert check_duplicates([(1, [preds])], lambda: labels).sign is True


def test_without_saved_predictions_labels_are_not_read():
    with pytest.raises(NotKnown, match="eval_save_outputs"):
        check_duplicates([], lambda: pytest.fail("labels were read"))


# ------------------------------------------------------------------------------ new copies


@pytest.mark.parametrize(("solved", "sign"), [(100, False), (92, False), (60, True), (0, True)])
def test_copies_that_are_solved_less_often_are_a_sign(solved, sign):
    finding = check_copies({ORIGINALS: (100, 98), COPIES: (100, solved), TEST: (50, 20)})
    assert finding.sign is sign
    assert f"{solved:,} of 100 new copies" in finding.words


class LearnedByHeart:
    """Solve known puzzles, and answer all others with blanks."""

    knows_identifiers = False

    def __init__(self, known: dict[bytes, np.ndarray]):
        self.known, self.asked = known, []

    def solve(self, tokens, identifiers, num_steps):
        self.asked += [row.astype(np.uint8).tobytes() for row in tokens]
        rows = [self.known.get(row.astype(np.uint8).tobytes(), np.ones_like(row)) for row in tokens]

        class solution:
            answer = torch.from_numpy(np.array(rows).astype(np.int64))

        return solution


def test_a_model_that_memorised_its_train_puzzles_is_detected(sudoku4x4):
    train_data = PuzzleDataset([str(sudoku4x4)], "train", global_batch_size=1, shuffle=False)
    test_data = PuzzleDataset([str(sudoku4x4)], "test", global_batch_size=1)
    (examples,) = open_split(sudoku4x4, "train").sets.values()
    inputs, labels = examples.read(np.arange(examples.num_examples))
    solver = LearnedByHeart(
        {row.astype(np.uint8).tobytes(): label for row, label in zip(inputs, labels, strict=True)}
    )
    solved = fresh.solve_with_copies(solver, train_data, test_data, limit=30, copies=2, num_steps=1, seed=0)
    assert solved[ORIGINALS] == (30, 30)
    assert solved[COPIES][0] > 40
    assert solved[COPIES][1] == 0  # none of them occurs in train
    assert solved[TEST][0] == 13
    assert check_copies(solved).sign is True
    # A solver that knows all copies solves them: answers to copies are mapped back before they are judged.
    (asked,) = [solver.asked]
    assert len(asked) == 30 + solved[COPIES][0] + 13


def test_copies_that_occur_in_train_are_reported(sudoku4x4):
    (examples,) = open_split(sudoku4x4, "train").sets.values()
    rows, _ = examples.read(np.arange(5))
    rows = rows.astype(np.int64)
    rows[3] = 2
    assert fresh.occurring(rows, [examples]).tolist() == [True, True, True, False, True]


# ------------------------------------------------------------------------------ the page


def finding(title: str, sign: bool | None) -> Finding:
    return Finding(title, sign, "words")


def test_the_verdict_lists_signs_and_failed_checks():
    no, yes, unknown = finding("A", False), finding("B", True), finding("C", None)
    assert verdict([no, no]) == "No sign of memorisation in 2 checks."
    assert verdict([no, unknown]) == "No sign of memorisation in 1 check (1 could not be made)."
    assert verdict([no, yes, unknown]) == "Signs of memorisation in 1 of 2 checks (1 could not be made): b."
    assert verdict([unknown]).startswith("No conclusion")
    text = page("run", [no, yes, unknown])
    assert "## 2. B: a sign of memorisation" in text
    assert "## 3. C: not known" in text


def test_a_picture_is_drawn_of_the_available_data():
    gap = check_gap(over_time(train=[0.1, 0.9], test=[0.1, 0.2]))
    copies = check_copies({ORIGINALS: (100, 98), COPIES: (100, 60), TEST: (50, 20)})
    figure = picture([gap, finding("C", None), finding("D", None), copies])
    assert [place.has_data() for place in figure.axes] == [True, False, False, True]


# ------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def run(sudoku4x4, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("memorisation") / "run"
    train(sudoku4x4, folder, data_paths=[str(sudoku4x4)], eval_save_outputs=["preds"])
    return folder


def test_the_report_of_a_run_is_printed_and_written_to_its_folder(run, capsys):
    memorisation.main([f"checkpoint={run}", "device=cpu", "limit=9"])
    out = capsys.readouterr().out
    assert (run / "memorisation.md").read_text() in out
    assert "9 of 9" in out or "of 9 train puzzles" in out
    assert "Of the 13 predictions saved at step" in out
    assert Image.open(run / "memorisation.png").width > 1000
    steps = [step for step, _ in read_predictions(run)]
    assert steps == sorted(steps)
    assert len(steps) == 2


def test_a_checkpoint_without_its_data_gets_a_page_that_lists_the_missing_data(run, tmp_path, capsys):
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    for path in [copied / "metrics.jsonl", *copied.glob("*_all_preds.*")]:
        path.unlink()
    config = copied / "all_config.yaml"
    data = next(line for line in config.read_text().splitlines() if "sudoku4x4" in line)
    config.write_text(config.read_text().replace(data, "- not/here"))
    memorisation.main([f"checkpoint={copied}", "device=cpu", f"out={tmp_path / 'out'}"])
    out = capsys.readouterr().out
    assert "No conclusion" in out
    assert "not/here" in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["memorisation.md"]


def test_runs_trained_on_all_copies_skip_the_check_of_new_copies(run, tmp_path):
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    config = copied / "all_config.yaml"
    config.write_text(config.read_text().replace("augment: null", "augment: online"))
    trained = memorisation_report.open_trained(str(copied))
    with pytest.raises(NotKnown, match="augment=online"):
        memorisation_report.solve_puzzles(trained, MemorisationConfig(checkpoint=str(copied)))


def test_help_lists_every_key():
    done = run_python("-m", "evaluators.memorisation", "--help", cwd=ROOT)
    assert all(f"\n  {key} " in done.stdout for key in MemorisationConfig.model_fields)
