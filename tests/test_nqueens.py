"""N-Queens completion: rules compared with brute force, solver, datasets, and training."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scripted_solver import family_with
from training_runs import metrics, train

from dataset import report
from dataset.augment import dihedral
from dataset.build_nqueens_dataset import main, parse_options
from dataset.families import family_of
from dataset.families.nqueens.generate import TEST, TRAIN, BoardSpec, default_given, generate_split, split_of
from dataset.families.nqueens.rules import (
    EMPTY,
    NUM_INEQUIVALENT,
    PAD,
    QUEEN,
    VOCAB_SIZE,
    attacking_pairs,
    solves,
    symmetry_keys,
)
from dataset.families.nqueens.search import completions, count_completions
from dataset.format import IGNORE_LABEL_ID, open_split, validate
from utils.checkpoint_schedule import BestMetric
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
NUM_SOLUTIONS = {4: 2, 5: 10, 6: 4, 7: 40, 8: 92}  # OEIS A000170
BOARD = ".Q.. ...Q Q... ..Q."  # one of the two solutions of 4x4


def board(text: str) -> np.ndarray:
    return np.array([".Q".index(symbol) + EMPTY for symbol in text.replace(" ", "")], np.uint8)


def empty(size: int) -> np.ndarray:
    return np.full(size * size, EMPTY, np.uint8)


def nqueens(size: int):
    return family_with("nqueens", (size, size), VOCAB_SIZE)


def obeys_rules(answer: np.ndarray, size: int) -> bool:
    """Check the rules independently, queen by queen."""
    queens = [divmod(cell, size) for cell, token in enumerate(answer.tolist()) if token == QUEEN]
    if len(queens) != size or PAD in answer:
        return False
    return not any(
        r == row or c == column or r + c == row + column or r - c == row - column
        for (r, c), (row, column) in itertools.combinations(queens, 2)
    )


def boards_with_a_queen_a_row(size: int) -> np.ndarray:
    """Return all size**size boards (n, S)."""
    columns = np.array(list(itertools.product(range(size), repeat=size)))
    boards = np.full((len(columns), size, size), EMPTY, np.uint8)
    np.put_along_axis(boards, columns[:, :, None], QUEEN, 2)
    return boards.reshape(len(columns), -1)


def random_grids(rng: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw questions and answers (count, S); many answers are right or almost right."""
    solutions = np.array(list(completions(empty(size), size)))
    answers = solutions[rng.integers(len(solutions), size=count)]
    given = rng.random(answers.shape) < 0.3
    others = solutions[rng.integers(len(solutions), size=count)]
    questions = np.where(given & (rng.random((count, 1)) < 0.7), answers, np.where(given, others, EMPTY))
    changed = rng.random(answers.shape) < rng.choice([0, 0, 0.02, 0.5], (count, 1))
    return questions, np.where(changed, rng.integers(0, VOCAB_SIZE, answers.shape), answers)


# Rules


@pytest.mark.parametrize("size", [4, 5, 6])
def test_the_rules_match_brute_force_on_every_board_with_a_queen_in_each_row(size):
    boards = boards_with_a_queen_a_row(size)
    right = solves(np.broadcast_to(empty(size), boards.shape), boards, size)
    assert right.sum() == NUM_SOLUTIONS[size]
    assert right.tolist() == [obeys_rules(answer, size) for answer in boards]


def test_the_rules_match_brute_force_on_every_4x4_board():
    boards = np.array(list(itertools.product((EMPTY, QUEEN), repeat=16)), np.uint8)
    right = solves(np.full_like(boards, EMPTY), boards, 4)
    assert right.sum() == 2
    assert {row.tobytes() for row in boards[right]} == {b.tobytes() for b in completions(empty(4), 4)}
    # A board is right if it has as many queens as rows, and no two of them attack each other.
    assert right.tolist() == [not attacking_pairs(b, 4) and int((b == QUEEN).sum()) == 4 for b in boards]


@pytest.mark.parametrize("size", [4, 5, 8])
def test_check_tensors_agrees_with_check_and_the_rules(size):
    questions, answers = random_grids(np.random.default_rng(size), size, 2000)
    answers[:3], questions[3] = IGNORE_LABEL_ID, PAD
    family = nqueens(size)
    expected = [
        obeys_rules(answer, size) and not (answer != QUEEN)[question == QUEEN].any()
        for question, answer in zip(questions, answers, strict=True)
    ]
    assert family.check(questions, answers).tolist() == expected
    assert 0.1 < np.mean(expected) < 0.9
    for dtype in (torch.int32, torch.int64):
        tensors = (torch.from_numpy(tokens).to(dtype) for tokens in (questions, answers))
        solved = family.check_tensors(*tensors)
        assert solved.dtype == torch.bool
        assert solved.tolist() == expected


def test_check_tensors_never_synchronises_and_is_one_graph():
    family = nqueens(8)
    on_meta = torch.empty((5, 64), dtype=torch.int32, device="meta")  # has no values
    assert family.check_tensors(on_meta, on_meta).shape == (5,)
    questions, answers = map(torch.from_numpy, random_grids(np.random.default_rng(0), 8, 50))
    compiled = torch.compile(family.check_tensors, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(questions, answers), family.check_tensors(questions, answers))


@pytest.mark.parametrize(
    ("question", "answer", "words"),
    [
        (". . . .", BOARD, "valid"),
        (".Q.. .... .... ....", BOARD, "valid, but not the one in the dataset"),
        (
            ".... .... .... ....",
            "Q... .Q.. .... ....",
            "1 pair of queens attacks each other; 2 queens missing",
        ),
        ("..Q. .... .... ....", BOARD, "1 given queen removed"),
        (
            ".... .... .... ....",
            "QQ.. ...Q Q... ..Q.",
            "2 pairs of queens attack each other; 1 queen too many",
        ),
        (".... .... .... ....", ".Q.. ...Q Q... ....", "1 queen missing"),
    ],
)
def test_a_verdict_names_the_broken_rule(question, answer, words):
    question = empty(4) if question == ". . . ." else board(question)
    labels = board("..Q. Q... ...Q .Q..") if words.endswith("dataset") else None
    verdict = nqueens(4).judge(question, board(answer), labels)
    assert (verdict.words, verdict.solved) == (words, words.startswith("valid"))


def test_padding_in_an_answer_is_not_an_empty_cell():
    answer = np.where(board(BOARD) == EMPTY, PAD, QUEEN)
    verdict = nqueens(4).judge(empty(4), answer, None)
    assert (verdict.solved, verdict.words) == (False, "12 cells neither empty nor a queen")


# The solver


@pytest.mark.parametrize(("size", "number"), NUM_SOLUTIONS.items())
def test_the_solver_finds_every_solution_of_the_empty_board_once(size, number):
    found = np.array(list(completions(empty(size), size)))
    assert len(np.unique(found, axis=0)) == len(found) == number
    assert solves(np.broadcast_to(empty(size), found.shape), found, size).all()
    assert len(set(symmetry_keys(found, size))) == NUM_INEQUIVALENT[size]
    shuffled = list(completions(empty(size), size, np.random.default_rng(0)))
    assert {b.tobytes() for b in shuffled} == {b.tobytes() for b in found}


@pytest.mark.parametrize("size", [4, 5, 6])
def test_the_solver_matches_brute_force_on_any_board(size):
    rng, every = np.random.default_rng(size), boards_with_a_queen_a_row(size)
    solutions = every[solves(np.full_like(every, EMPTY), every, size)]
    for _ in range(300):
        question = np.where(rng.random(size * size) < rng.choice([0.03, 0.1]), QUEEN, EMPTY)
        expected = [answer for answer in solutions if (answer == QUEEN)[question == QUEEN].all()]
        found = list(completions(question, size))
        assert sorted(map(bytes, found)) == sorted(map(bytes, expected))
        assert count_completions(question, size, 100) == len(expected)
        assert count_completions(question, size, 1) == min(1, len(expected))


# A single puzzle


def test_text_is_parsed_and_formatted():
    family = nqueens(4)
    assert np.array_equal(family.read(BOARD.replace(" ", "\n")), board(BOARD))
    assert np.array_equal(family.read(".Q../...Q/Q.../..Q."), board(BOARD))
    assert family.write(board(BOARD)) == BOARD.replace(" ", "\n")
    with pytest.raises(UserError, match=r"puzzle= has 'X' at character 3; allowed are \. Q"):
        family.read("..X.")
    with pytest.raises(
        UserError, match=r"puzzle= has 4 cells, but this model solves 4x4 grids with 16 cells"
    ):
        family.read("....")


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (".Q.. .... .... ....", None),
        (".... .... .... ....", None),
        ("Q... .... .... ....", "the given queens cannot be completed to a solution"),
        (".Q.. .... .... .Q..", "row 1, column 2 and at row 4, column 2 attack each other"),
        ("Q... .... ..Q. ....", "row 1, column 1 and at row 3, column 3 attack each other"),
    ],
)
def test_a_remark_explains_why_a_board_has_no_solution(text, remark):
    remarks = nqueens(4).remarks(board(text))
    assert len(remarks) == (remark is not None)
    assert all(remark in said for said in remarks)


def test_random_questions_have_a_solution_and_the_right_number_of_queens():
    for size in (4, 9, 16):
        question, _ = nqueens(size).example(np.random.default_rng(size))
        assert question.shape == (size * size,)
        assert nqueens(size).remarks(question) == []
        low, high = default_given(size)
        assert low <= (question == QUEEN).sum() <= high


def test_impossible_board_sizes_are_not_of_the_family():
    assert family_with("nqueens", (3, 3), VOCAB_SIZE).name is None
    flat = family_with("nqueens", (4, 9), VOCAB_SIZE)
    assert (flat.name, "grid_shape is [4, 9]" in flat.reason) == (None, True)
    assert family_with("nqueens", (17, 17), VOCAB_SIZE).name is None
    wrong = family_with("nqueens", (8, 8), 4)
    assert (wrong.name, "vocab_size is 4, not 3" in wrong.reason) == (None, True)


def test_symmetries_keep_answers_right_and_have_inverses():
    family = nqueens(6)
    questions, answers = random_grids(np.random.default_rng(0), 6, 200)
    right = family.check(questions, answers)
    keys = symmetry_keys(questions, 6)
    transforms = family.symmetries.draw(np.random.default_rng(1), 200)
    images = transforms.apply(questions), transforms.apply(answers)
    assert np.array_equal(family.check(*images), right)
    assert symmetry_keys(images[0], 6) == keys
    assert np.array_equal(transforms.inverse().apply(images[1]), answers)
    assert family.symmetries.most == 8


def test_easier_questions_keep_their_answer_and_reveal_more_queens():
    questions = generate_split(BoardSpec(8, (2, 4)), 64, seed=0, split=TRAIN, workers=1)
    easier = nqueens(8).easier(1.0)
    given = (questions.questions, questions.answers)
    inputs, labels = easier(np.random.default_rng(0), 64, slice(0, 64), *given)
    assert np.array_equal(labels, questions.answers)
    assert nqueens(8).check(inputs, labels).all()
    assert (inputs[questions.questions == QUEEN] == QUEEN).all()
    assert (inputs == QUEEN).sum() > (questions.questions == QUEEN).sum()


# Datasets


def build(*arguments) -> None:
    main([str(argument) for argument in arguments])


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nqueens") / "data"
    build("--output-dir", folder, "--generate", 60, "--test-size", 20, "--aug", "--workers", 1)
    return folder


def test_a_dataset_is_valid_and_its_splits_share_no_question(dataset):
    assert validate(dataset) == []
    keys = []
    for name, split in (("train", TRAIN), ("test", TEST)):
        opened = open_split(dataset, name)
        inputs, labels = opened.sets["all"].inputs[:], opened.sets["all"].labels[:]
        assert family_of(opened.metadata).check(inputs, labels).all()
        given = (inputs == QUEEN).sum(1)
        assert (given.min(), given.max()) == (2, 4)
        keys.append(symmetry_keys(inputs, 8))
        assert {split_of(key) for key in keys[-1]} == {split}
    assert (len(keys[0]), len(set(keys[0])), len(keys[1]), len(set(keys[1]))) == (480, 60, 20, 20)
    assert not set(keys[0]) & set(keys[1])


def test_copies_are_the_rotated_and_mirrored_question_and_answer(dataset):
    train = open_split(dataset, "train")
    assert (train.metadata.total_groups, train.metadata.total_puzzles) == (60, 480)
    for tokens in (train.sets["all"].inputs, train.sets["all"].labels):
        grids = tokens[:].reshape(60, 8, 8, 8)
        for transform in range(8):
            assert np.array_equal(grids[:, transform], dihedral(grids[:, 0], transform))


def test_the_difficulty_of_a_test_question_is_its_number_of_right_answers(dataset):
    test = open_split(dataset, "test")
    questions = test.sets["all"].inputs
    solutions = np.array(list(completions(empty(8), 8)))
    right = [int(((solutions == QUEEN) | (question != QUEEN)).all(1).sum()) for question in questions]
    assert test.sets["all"].difficulty.tolist() == right
    assert max(right) > 1
    assert test.metadata.extra["difficulty"] == "completions, counted up to 100"
    assert open_split(dataset, "train").sets["all"].difficulty is None


def test_the_dataset_records_how_it_was_built(dataset):
    extra = json.loads((dataset / "test" / "dataset.json").read_text())
    assert (extra["family"], extra["grid_shape"], extra["source"]) == ("nqueens", [8, 8], "generate")
    assert extra["options"] == {
        "aug": True,
        "generate": 60,
        "given": [2, 4],
        "seed": 0,
        "size": 8,
        "test_size": 20,
    }


def test_the_report_finds_no_shared_question_and_counts_answers(dataset, capsys):
    assert report.main([str(dataset), "--examples", "1"]) == 0
    printed = capsys.readouterr().out
    assert "train: nqueens, 8x8" in printed
    assert "inputs: 0 of 20 (0%)" in printed
    assert "inputs up to symmetry: 0 of 20 (0%)" in printed
    assert "outputs up to symmetry, of which only 12 exist: 20 of 20 (100%)" in printed
    several = int((open_split(dataset, "test").sets["all"].difficulty[:] > 1).sum())
    assert f"{several} of 20 questions have several right answers" in printed


def test_the_report_finds_a_rotated_question(tmp_path, dataset, capsys):
    shutil.copytree(dataset, tmp_path / "leaking")
    inputs = np.load(dataset / "train" / "all__inputs.npy")
    path = tmp_path / "leaking" / "test" / "all__inputs.npy"
    leaking = np.load(path)
    leaking[0] = dihedral(inputs[8].reshape(8, 8), 3).reshape(-1)
    np.save(path, leaking)
    report.main([str(tmp_path / "leaking"), "--examples", "0"])
    assert "inputs up to symmetry: 1 of 20 (5%)" in capsys.readouterr().out


def test_a_split_depends_on_the_seed_but_not_on_workers_and_the_other_split(tmp_path):
    options = ("--generate", 150, "--size", 7, "--given", "2-3")
    for name, more in {
        "one": ("--workers", 1),
        "two": ("--workers", 2),
        "other seed": ("--seed", 1, "--workers", 1),
        "longer test": ("--test-size", 20, "--workers", 1),
    }.items():
        build(*options, *more, "--output-dir", tmp_path / name)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    trains = {name: files_of(tmp_path / name / "train")["all__inputs.npy"] for name in ("one", "other seed")}
    assert trains["one"] != trains["other seed"]
    longer = files_of(tmp_path / "longer test" / "train")["all__inputs.npy"]
    assert longer == trains["one"]
    assert len(open_split(tmp_path / "one", "test").sets["all"].inputs) == 15  # a tenth


def test_no_seed_puts_a_test_question_into_train():
    spec = BoardSpec(6, (2, 3))
    train, test = (
        set(generate_split(spec, 3, seed=seed, split=split, workers=1).keys)
        for seed, split in ((1, TRAIN), (2, TEST))
    )
    assert not train & test


def test_a_fifth_of_all_questions_are_test_questions():
    rng = np.random.default_rng(0)
    splits = [split_of(rng.bytes(64)) for _ in range(4000)]
    assert 0.17 < np.mean(np.array(splits) == TEST) < 0.23


@pytest.mark.parametrize(
    "command", [["dataset/build_nqueens_dataset.py"], ["-m", "dataset.build_nqueens_dataset"]]
)
def test_the_command_runs_by_its_path_and_as_a_module_in_both_spellings(command, tmp_path):
    arguments = ["--generate=4", "--test_size=2", "--output_dir", tmp_path / "out", "--size", "7"]
    result = subprocess.run(
        [sys.executable, *command, *arguments, "--workers", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "7x7 boards, 1 to 3 of 7 queens given\n  train: 4 questions, 4 examples" in result.stdout
    assert validate(tmp_path / "out") == []


def test_the_folder_is_named_after_the_size():
    assert parse_options(["--size", "12"]).output_dir == "data/nqueens-12"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", 3], "3 is too small: the minimum is 4"),
        (["--size", 17], "--size 17 is not supported: the number of rows and columns must be 4 to 16"),
        (["--given", "8"], "--given 8-8 leaves nothing to fill in"),
        (["--given", "2-9"], "at most 7 of the 8 queens"),
        (["--given", "4-2"], "did you mean 2-4?"),
        (["--given", "some"], "'some' is neither a whole number nor a range such as 2-4"),
        (["--given", "-1"], "'-1' is neither a whole number"),
        (["--generate", 0], "the minimum is 1"),
        (["--workers", 0], "the minimum is 1"),
        (["--num-aug", 2], "unknown option --num-aug"),
        (["--genrate", 2], "did you mean --generate"),
        (
            ["--size", 4, "--generate", 50, "--workers", 1],
            "only 1 of 50 different train questions of 4x4 with 1 to 2",
        ),
    ],
)
def test_invalid_options_are_rejected(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        build(*arguments, "--output-dir", tmp_path / "out")
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert message in printed
    assert not (tmp_path / "out").exists()


def test_a_run_reports_solved_and_exact_separately(dataset, tmp_path):
    train(dataset, tmp_path / "run", evaluators=None, epochs=2, augment="online", reveal_prob=0.5)
    last = metrics(tmp_path / "run")[-1]
    assert {"nqueens/solved", "nqueens/exact", "test/solved", "test/exact_accuracy"} <= last.keys()
    assert last["nqueens/exact"] <= last["nqueens/solved"]
    assert last["test/solved"] == pytest.approx(last["nqueens/solved"])
    number = round(last["test/solved"] * len(open_split(dataset, "test").sets["all"].inputs))
    assert (tmp_path / "run" / "result.txt").read_text().startswith(f"solved {number} of ")


def test_best_uses_the_rules_by_default(dataset, tmp_path, monkeypatch):
    chosen = []
    real = BestMetric.__init__
    monkeypatch.setattr(
        BestMetric, "__init__", lambda self, name, patience: chosen.append(name) or real(self, name, patience)
    )
    train(dataset, tmp_path / "run", epochs=2, best_metric="auto")
    train(dataset, tmp_path / "other", epochs=2, best_metric="test/exact_accuracy")
    assert chosen == ["test/solved", "test/exact_accuracy"]


def test_an_architecture_that_pools_over_units_is_rejected_without_units(dataset, tmp_path):
    narrow = ("arch=trm_equivariant", "arch.num_heads=1", "arch.puzzle_emb_len=0")
    with pytest.raises(UserError, match=r"arch\.name=trm_equivariant pools .* nqueens has no such units"):
        train(dataset, tmp_path / "run", *narrow)
    assert not (tmp_path / "run").exists()
