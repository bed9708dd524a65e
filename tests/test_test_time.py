"""Test-time strategies compared with naive implementations of their answers and costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scripted_model import APPLICATIONS, BOX, ScriptedHead, says
from strategy_runs import (
    LABELS,
    NUM_ROWS,
    NUMBERS,
    QUESTIONS,
    STEPS,
    SUDOKU,
    exact,
    lockstep,
    lucks,
    naive_copies,
    naive_majority,
    run,
)

from dataset.families.maze import rules as maze
from dataset.families.sudoku.rules import is_solution
from dataset.format import IGNORE_LABEL_ID, Metadata, write_identifiers
from evaluators.inference import Solver
from evaluators.strategies.accounting import Tally
from evaluators.strategies.build import Choice, Setting, build_strategy
from evaluators.strategies.samples import PICKS, Candidates, PuzzleRows
from evaluators.strategies.verifier import checker_of
from utils.errors import UserError

# ------------------------------------------------------------------------------ plain


def test_the_curve_over_steps_matches_the_answers_at_each_step():
    *_, curves, _, _ = run("plain")
    assert [row["at"] for row in curves["steps"]] == [str(step) for step in range(1, STEPS + 1)]
    for step, row in enumerate(curves["steps"], start=1):
        said = [says(question, step, 0) for question in QUESTIONS]
        answers = np.stack([answer for answer, _ in said])
        assert row["exact_accuracy"] == exact(answers)
        assert row["token_accuracy"] == pytest.approx((answers == LABELS).mean(), abs=1e-5)
        assert row["said_stop"] == pytest.approx(np.mean([q > 0 for _, q in said]))
        assert (row["supervision_steps"], row["network_applications"]) == (step, step * APPLICATIONS)
    assert len({row["exact_accuracy"] for row in curves["steps"]}) > 3


def test_without_halting_the_first_stop_is_reported():
    _, steps, *_ = run("plain")
    for row, question in enumerate(QUESTIONS):
        sure = [step for step in range(1, STEPS + 1) if says(question, step, 0)[1] > 0]
        assert steps[row] == min(sure, default=STEPS)


@pytest.mark.parametrize("sizes", [(), (40, 20, 10)])
def test_halting_gives_the_answers_at_the_first_stop_with_less_work(sizes):
    answers, steps, _, curves, tally, _ = run("plain", halt=True, sizes=sizes)
    for row, question in enumerate(QUESTIONS):
        said = [says(question, step, 0) for step in range(1, STEPS + 1)]
        first = next((i for i, (_, q) in enumerate(said) if q > 0), STEPS - 1)
        assert steps[row] == first + 1
        assert np.array_equal(answers[row], said[first][0])
    (halted,) = curves["halted"]
    assert halted["supervision_steps"] == pytest.approx(steps.mean())
    assert halted["exact_accuracy"] == exact(answers)
    # An overconfident answer was kept.
    assert curves["steps"][-1]["exact_accuracy"] != halted["exact_accuracy"]
    assert tally.seconds.keys() == {"full", "halted"}


def test_halted_rows_are_not_computed():
    head = ScriptedHead()
    built, _ = build_strategy(
        Choice("plain", STEPS, halt=True), Setting([Solver(head)], SUDOKU, ["data"], 64)
    )
    inputs = torch.from_numpy(QUESTIONS.astype(np.int32))
    tally = Tally()
    tally.begin(torch.from_numpy(LABELS), torch.from_numpy(QUESTIONS))
    answered = built.solve(PuzzleRows(inputs, torch.zeros(NUM_ROWS, dtype=torch.int32), NUMBERS), tally)
    assert head.architecture.rows_computed == NUM_ROWS * STEPS + int(answered.steps.sum())


def test_a_checker_is_reported_in_addition_to_answers():
    answers, _, _, curves, _, _ = run("plain", checker=True, num_steps=9)
    plain, _, _, without, _, _ = run("plain", num_steps=9)
    assert np.array_equal(answers, plain)
    assert curves["steps"] == without["steps"]
    spent, solved = [], []
    for question in QUESTIONS:
        valid = [is_solution(says(question, s, 0)[0].astype(int) - 1, BOX) for s in range(1, 10)]
        solved.append(any(valid))
        spent.append(valid.index(True) + 1 if any(valid) else 9)
    (row,) = curves["with_checker"]
    assert row["supervision_steps"] == pytest.approx(np.mean(spent))
    assert row["said_stop"] == pytest.approx(np.mean(solved))


@pytest.mark.parametrize(("halt", "freezes"), [(None, True), (False, False)])
def test_answers_frozen_at_a_stop_go_on_if_asked_to_and_the_checker_never_stops_looking(halt, freezes):
    answers, _, _, curves, _, used = run("plain", halt=halt, checker=True, act_inference=True, num_steps=9)
    told = []
    for question in QUESTIONS:
        said = [says(question, step, 0) for step in range(1, 10)]
        first = next((i for i, (_, q) in enumerate(said) if q > 0), 8)
        told.append(said[first if freezes else 8][0])
    assert np.array_equal(answers, np.stack(told))
    assert used["freezes"] == freezes
    *_, without_freezing, _, _ = run("plain", checker=True, num_steps=9)
    (row,), (expected,) = curves["with_checker"], without_freezing["with_checker"]
    for name in ("supervision_steps", "exact_accuracy", "said_stop"):
        assert row[name] == expected[name]


def test_unlabelled_rows_count_as_rows_but_not_in_accuracies():
    labels = LABELS.copy()
    labels[::2] = IGNORE_LABEL_ID
    *_, curves, _, _ = run("plain", labels=labels)
    said = np.stack([says(question, STEPS, 0)[0] for question in QUESTIONS])
    assert curves["steps"][-1]["exact_accuracy"] == exact(said[1::2], LABELS[1::2])
    assert curves["steps"][-1]["supervision_steps"] == STEPS


# ------------------------------------------------------------------------------ votes


def test_votes_are_for_whole_grids_and_ties_go_to_the_largest_q_halt():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 2, (300, 6, 3)).astype(np.int16)
    q_halt = rng.permutation(300 * 6).reshape(300, 6).astype(np.float32)
    undecided = np.full(300, -1)
    candidates = Candidates(answers, q_halt, q_halt > 900, undecided, undecided)
    tied = 0
    for row, chain in enumerate(PICKS["majority"](candidates)):
        each = [answer.tobytes() for answer in answers[row]]
        assert answers[row, chain].tobytes() == naive_majority(each, q_halt[row].tolist())
        of_the_same = [q for q, answer in zip(q_halt[row], each, strict=True) if answer == each[chain]]
        assert q_halt[row, chain] == max(of_the_same)  # the confidence for the grid
        tied += list(Counter(each).values()).count(max(Counter(each).values())) > 1
    assert tied > 50
    assert np.array_equal(PICKS["q_halt"](candidates), q_halt.argmax(1))


@pytest.mark.parametrize("capacity", [1, 16, 1000])
def test_symmetry_voting_solves_each_copy_and_maps_it_back(capacity):
    answers, steps, q_halt, curves, _, used = run("symmetry", symmetries=5, capacity=capacity)
    assert used == {"checker": False, "symmetries": 5, "pick": "majority", "seed": 0, "halt": False}
    by_count = {count: [] for count in (1, 2, 4, 5)}
    for row in range(NUM_ROWS):
        tokens, undo = naive_copies(row, 5)
        said = [says(tokens[c], STEPS, 0) for c in range(5)]
        grids, q = (
            [grid.astype(np.uint8).tobytes() for grid in undo([a for a, _ in said])],
            [q for _, q in said],
        )
        for count, chosen in by_count.items():
            chosen.append(np.frombuffer(naive_majority(grids[:count], q[:count]), np.uint8))
        assert np.array_equal(answers[row], by_count[5][-1])
    assert (steps == 5 * STEPS).all()
    assert [row["at"] for row in curves["chains"]] == ["1", "2", "4", "5"]
    for count, row in zip((1, 2, 4, 5), curves["chains"], strict=True):
        assert row["exact_accuracy"] == exact(np.stack(by_count[count]))
        assert row["network_applications"] == count * STEPS * APPLICATIONS
    assert (q_halt > 0).any()
    assert curves["oracle_pass_at"][-1]["exact_accuracy"] >= curves["chains"][-1]["exact_accuracy"]


def test_lockstep_stops_at_the_first_chain_that_says_stop():
    answers, steps, _, curves, _, _ = run("symmetry", symmetries=4, pick="first_stop", capacity=12)
    expected = [lockstep(row, *naive_copies(row, 4)) for row in range(NUM_ROWS)]
    assert np.array_equal(answers, np.stack([answer for answer, *_ in expected]))
    assert steps.tolist() == [4 * step for *_, step in expected]
    assert len(set(steps.tolist())) > 1
    assert curves["chains"][0]["exact_accuracy"] == exact(answers)


@pytest.mark.parametrize("pick", ["q_halt", "majority"])
def test_noise_chains_accumulate_independent_noise_and_one_is_picked(pick):
    answers, steps, _, curves, _, used = run("noise", chains=5, pick=pick, sigma=0.4)
    assert used["sigma"] == 0.4
    oracle = []
    for row, question in enumerate(QUESTIONS):
        luck = lucks(row, 5, 0.4, STEPS)
        said = [says(question, STEPS, luck[c, -1]) for c in range(5)]
        grids = [grid.astype(np.uint8).tobytes() for grid, _ in said]
        q = [np.float32(q) for _, q in said]
        chosen = grids[int(np.argmax(q))] if pick == "q_halt" else naive_majority(grids, q)
        assert np.array_equal(answers[row], np.frombuffer(chosen, np.uint8))
        oracle.append(any(np.array_equal(grid, LABELS[row]) for grid, _ in said))
    assert (steps == 5 * STEPS).all()
    assert curves["oracle_pass_at"][-1]["exact_accuracy"] == pytest.approx(np.mean(oracle))
    assert curves["oracle_pass_at"][-1]["exact_accuracy"] > curves["chains"][0]["exact_accuracy"]


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("symmetry", {"symmetries": 4}),
        ("noise", {"chains": 4}),
        ("ladder", {"symmetries": 2, "chains": 3, "rungs": ["steps", "symmetry", "noise"]}),
    ],
)
def test_results_depend_on_the_seed_but_not_on_batches_and_capacity(strategy, options):
    def curves_and_answers(**settings):
        answers, steps, q_halt, curves, tally, _ = run(strategy, **options, **settings)
        return answers.tolist(), steps.tolist(), q_halt.tolist(), curves, tally.stages

    one = curves_and_answers(batch=40, capacity=40)
    assert curves_and_answers(batch=40, capacity=40) == one
    assert curves_and_answers(batch=7, capacity=3) == one
    assert curves_and_answers(batch=40, capacity=20, sizes=(5, 20)) == one
    assert curves_and_answers(seed=1) != one


@pytest.mark.parametrize("options", [{"symmetries": 5}, {"chains": 5}], ids=["symmetry", "noise"])
@pytest.mark.parametrize(("capacity", "most"), [(16, 15), (3, 5)])
def test_all_chains_of_a_puzzle_run_together_within_the_capacity(options, capacity, most):
    head = ScriptedHead()
    strategy = "symmetry" if "symmetries" in options else "noise"
    where = Setting([Solver(head)], SUDOKU, ["data"], capacity)
    built, _ = build_strategy(Choice(strategy, STEPS, **options), where)
    tally = Tally()
    tally.begin(torch.from_numpy(LABELS), torch.from_numpy(QUESTIONS))
    inputs = torch.from_numpy(QUESTIONS.astype(np.int32))
    built.solve(PuzzleRows(inputs, torch.zeros(NUM_ROWS, dtype=torch.int32), NUMBERS), tally)
    assert head.architecture.most_rows == most


def test_a_checker_checks_all_chains():
    *_, curves, _, _ = run("symmetry", symmetries=4, checker=True)
    spent = []
    for row in range(NUM_ROWS):
        tokens, _ = naive_copies(row, 4)
        valid = [
            any(is_solution(says(t, s, 0)[0].astype(int) - 1, BOX) for t in tokens)
            for s in range(1, STEPS + 1)
        ]
        spent.append(4 * (valid.index(True) + 1 if any(valid) else STEPS))
    (row,) = curves["with_checker"]
    assert row["supervision_steps"] == pytest.approx(np.mean(spent))
    assert row["exact_accuracy"] >= curves["chains"][-1]["exact_accuracy"]


@pytest.mark.parametrize("models", [(0, 4), (0, 2, 5)])
def test_an_ensemble_runs_models_in_turn_and_votes(models):
    answers, steps, _, curves, tally, _ = run("ensemble", models=models, checker=True)
    assert set(steps.tolist()) == {len(models) * STEPS}
    spent, found = [], 0
    for row, question in enumerate(QUESTIONS):
        said = [says(question, ahead + STEPS, 0) for ahead in models]
        votes = Counter(answer.tobytes() for answer, _ in said)
        winner, _ = max(said, key=lambda answer: (votes[answer[0].tobytes()], np.float32(answer[1])))
        assert np.array_equal(answers[row], winner)
        valid = [
            is_solution(says(question, ahead + step, 0)[0].astype(int) - 1, BOX)
            for ahead in models
            for step in range(1, STEPS + 1)
        ]
        spent.append(valid.index(True) + 1 if any(valid) else len(valid))
        found += STEPS < spent[-1] < len(valid)
    assert found  # solved by a later model
    (row,) = curves["with_checker"]
    assert row["supervision_steps"] == pytest.approx(np.mean(spent))
    assert [row["at"] for row in curves["chains"]] == [str(count + 1) for count in range(len(models))]
    assert [sums["rows"] for sums in tally.curves["chains"].values()] == [NUM_ROWS] * len(models)


# ------------------------------------------------------------------------------ what cannot be


def setting(metadata: Metadata = SUDOKU) -> Setting:
    return Setting([Solver(ScriptedHead())], metadata, ["data"], 16)


UNKNOWN = Metadata(0, 0, 0, 9, 17, 1, 1, 1.0, 1, ("all",), {})
MAZE = Metadata(0, 0, 0, 6, 16, 1, 1, 1.0, 1, ("all",), {"family": "maze", "grid_shape": [2, 8]})
ARC = Metadata(0, 0, 0, 12, 900, 1, 1, 1.0, 1, ("all",), {"family": "arc"})


@pytest.mark.parametrize(
    ("metadata", "options", "message"),
    [
        (UNKNOWN, {"strategy": "symmetry"}, "names no family"),
        (UNKNOWN, {"strategy": "noise"}, "sigma is required"),
        (UNKNOWN, {"strategy": "plain", "checker": True}, "checker=True"),
        (ARC, {"strategy": "plain", "checker": True}, "because the family arc defines no check"),
        (
            MAZE,
            {"strategy": "symmetry", "symmetries": 5},
            "symmetries=5: some of these puzzles have only 4 different copies that the model knows",
        ),
        (SUDOKU, {"strategy": "ladder", "more_steps": STEPS}, "must exceed the 6 steps"),
        (MAZE, {"strategy": "guess"}, "these puzzles have none.*the family maze defines no blank"),
        (ARC, {"strategy": "ladder", "rungs": ["steps", "guess"], "halt": True}, "leave guess out of rungs"),
    ],
)
def test_strategies_that_the_data_does_not_support_are_rejected(metadata, options, message):
    with pytest.raises(UserError, match=message):
        build_strategy(Choice(num_steps=STEPS, **options), setting(metadata))


def test_noise_needs_a_latent_other_than_the_answer():
    where = setting()
    where.solvers[0].head.architecture.latents = {"z_L": ""}
    with pytest.raises(UserError, match="latents other than the answer, and ScriptedInner has none"):
        build_strategy(Choice("noise", STEPS), where)
    assert build_strategy(Choice("ladder", STEPS), where)[1]["rungs"] == ["steps", "more_steps", "symmetry"]
    for asked in ({"chains": 2}, {"sigma": 0.5}, {"pick": "majority"}):
        with pytest.raises(UserError, match="latents other than the answer"):
            build_strategy(Choice("ladder", STEPS, **asked), where)


def test_a_vote_needs_two_copies_of_each_puzzle(tmp_path):
    write_identifiers(tmp_path, ["<blank>", "one", "other"])
    (tmp_path / "test_puzzles.json").write_text("{}")
    solver = Solver(ScriptedHead())
    solver.head.architecture.prefix_len = 1
    metadata = replace(ARC, num_puzzle_identifiers=3)
    where = Setting([solver], metadata, [str(tmp_path)], 16, identifiers=[1, 2])
    with pytest.raises(UserError, match="symmetries=8: some of these puzzles have only 1 dif"):
        build_strategy(Choice("symmetry", STEPS), where)
    assert "symmetry" not in build_strategy(Choice("ladder", STEPS), where)[1]["rungs"]


def test_defaults_are_those_of_the_family():
    assert build_strategy(Choice("noise", STEPS), setting())[1]["pick"] == "q_halt"
    of_mazes = build_strategy(Choice("noise", STEPS), setting(MAZE))[1]
    assert (of_mazes["sigma"], of_mazes["pick"]) == (1.0, "majority")
    assert build_strategy(Choice("symmetry", STEPS), setting(MAZE))[1]["symmetries"] == 4
    assert build_strategy(Choice("ladder", STEPS), setting(UNKNOWN))[1]["rungs"] == ["steps", "more_steps"]


def test_checkers_use_the_rules():
    check = checker_of(SUDOKU)
    assert check(QUESTIONS, LABELS).all()
    changed = QUESTIONS.copy()
    changed[:, 0] = 2 + LABELS[:, 0] % 4  # the answer contradicts a given cell
    assert not check(changed, LABELS).any()
    mazes = checker_of(MAZE)
    question = maze.encode("S      G        ")[None]
    path = maze.encode("SooooooG        ")[None]
    assert mazes(question, path).all()
    around = maze.encode("Soo oooG  ooo   ")[None]  # a path that is not a shortest one
    assert not mazes(question, around).any()
