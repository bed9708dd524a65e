"""Test-time strategies against a second, naive way to compute what they should answer and what it should cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scripted_model import APPLICATIONS, BOX, ScriptedHead, says, solution

from dataset import maze
from dataset.format import IGNORE_LABEL_ID, Metadata, write_identifiers
from dataset.sudoku import is_solution, random_symmetries, to_tokens
from evaluators import ladder
from evaluators.chains import PICKS, Candidates, Rows
from evaluators.checker import checker_of
from evaluators.compute_curve import tables
from evaluators.inference import Solver
from evaluators.latent_noise import chain_keys, standard_normal
from evaluators.strategies import Choice, Setting, build_strategy
from evaluators.symmetry import SudokuSymmetries
from evaluators.tally import Tally
from utils.errors import UserError

STEPS = 6
NUM_ROWS = 40
FIRST = 100  # the place of the first row in the test stream
SUDOKU = Metadata(0, 0, 0, BOX.vocab_size, 16, 1, 1, 1.0, 1, ("all",), {"family": "sudoku"})


def made_questions() -> np.ndarray:
    """(rows, 16) tokens of puzzles with 6 blanks each."""
    rng = np.random.default_rng(0)
    lines = np.arange(4)
    pattern = ((lines[:, None] * 2 + lines[:, None] // 2 + lines) % 4 + 1).astype(np.uint8)
    symmetries = random_symmetries(rng, NUM_ROWS, BOX)
    questions = to_tokens(symmetries.apply(np.repeat(pattern[None], NUM_ROWS, 0)).reshape(-1, 16))
    blanks = np.argsort(rng.random(questions.shape), axis=1)[:, :6]
    np.put_along_axis(questions, blanks, 1, axis=1)
    return questions


QUESTIONS = made_questions()
LABELS = np.stack([solution(tuple(question.tolist())) for question in QUESTIONS]).astype(np.int64)
NUMBERS = np.arange(FIRST, FIRST + NUM_ROWS)


def run(
    strategy: str,
    *,
    capacity: int = 16,
    sizes=(),
    batch: int = NUM_ROWS,
    labels=LABELS,
    models=(0,),
    **options,
):
    """(answers, steps, q_halt, curves, tally, options) of a strategy on all rows, `batch` at a time.

    models: by how many steps each of the models is ahead.
    """
    solvers = [Solver(ScriptedHead(ahead)) for ahead in models]
    setting = Setting(solvers, SUDOKU, ["data"], capacity, sizes)
    built, used = build_strategy(Choice(strategy, options.pop("num_steps", STEPS), **options), setting)
    tally, parts = Tally(), []
    for start in range(0, NUM_ROWS, batch):
        part = slice(start, start + batch)
        inputs = torch.from_numpy(QUESTIONS[part].astype(np.int32))
        rows = Rows(inputs, torch.zeros(len(inputs), dtype=torch.int32), NUMBERS[part])
        tally.begin(torch.from_numpy(labels[part]))
        parts.append(built.solve(rows, tally))
        tally.end()
    answers = torch.cat([part.preds for part in parts]).numpy()
    steps = torch.cat([part.steps for part in parts]).numpy()
    q_halt = torch.cat([part.q_halt for part in parts]).numpy()
    return answers, steps, q_halt, tables(tally, APPLICATIONS), tally, used


def exact(answers: np.ndarray, labels=LABELS) -> float:
    return round(float((answers == labels).all(1).mean()), 6)


def lucks(row: int, num_chains: int, sigma: float, num_steps: int, seed: int = 0) -> np.ndarray:
    """(chains, steps) of what noise has added to the one number of z_L before each step's end."""
    keys = chain_keys(seed, np.array([FIRST + row]), num_chains)
    draws = [standard_normal(keys, 2 * number, 1) for number in range(num_steps)]
    return sigma * torch.cat(draws, 1).numpy().cumsum(1)


# ------------------------------------------------------------------------------ plain


def test_the_curve_over_supervision_steps_is_that_of_the_answers_at_each_step():
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


def test_without_halting_the_first_step_that_says_stop_is_told():
    _, steps, *_ = run("plain")
    for row, question in enumerate(QUESTIONS):
        sure = [step for step in range(1, STEPS + 1) if says(question, step, 0)[1] > 0]
        assert steps[row] == min(sure, default=STEPS)


@pytest.mark.parametrize("sizes", [(), (40, 20, 10)])
def test_halting_gives_the_answers_of_the_first_stop_and_the_work_shrinks(sizes):
    answers, steps, _, curves, tally, _ = run("plain", halt=True, sizes=sizes)
    for row, question in enumerate(QUESTIONS):
        said = [says(question, step, 0) for step in range(1, STEPS + 1)]
        first = next((i for i, (_, q) in enumerate(said) if q > 0), STEPS - 1)
        assert steps[row] == first + 1
        assert np.array_equal(answers[row], said[first][0])
    (halted,) = curves["halted"]
    assert halted["supervision_steps"] == pytest.approx(steps.mean())
    assert halted["exact_accuracy"] == exact(answers)
    assert (
        curves["steps"][-1]["exact_accuracy"] != halted["exact_accuracy"]
    )  # an overconfident answer was kept
    assert tally.seconds.keys() == {"full", "halted"}


def test_rows_that_have_left_are_not_computed():
    head = ScriptedHead()
    built, _ = build_strategy(
        Choice("plain", STEPS, halt=True), Setting([Solver(head)], SUDOKU, ["data"], 64)
    )
    inputs = torch.from_numpy(QUESTIONS.astype(np.int32))
    tally = Tally()
    tally.begin(torch.from_numpy(LABELS))
    answered = built.solve(Rows(inputs, torch.zeros(NUM_ROWS, dtype=torch.int32), NUMBERS), tally)
    assert head.model.inner.rows_computed == NUM_ROWS * STEPS + int(answered.steps.sum())


def test_a_checker_is_a_number_beside_the_answers():
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


def test_unlabelled_rows_count_as_rows_but_not_in_accuracies():
    labels = LABELS.copy()
    labels[::2] = IGNORE_LABEL_ID
    *_, curves, _, _ = run("plain", labels=labels)
    said = np.stack([says(question, STEPS, 0)[0] for question in QUESTIONS])
    assert curves["steps"][-1]["exact_accuracy"] == exact(said[1::2], LABELS[1::2])
    assert curves["steps"][-1]["supervision_steps"] == STEPS


# ------------------------------------------------------------------------------ votes


def naive_majority(answers: list[bytes], q_halt: list[float]) -> bytes:
    votes = Counter(answers)
    ahead = [answer for answer, count in votes.items() if count == max(votes.values())]
    return max(ahead, key=lambda answer: max(q for a, q in zip(answers, q_halt, strict=True) if a == answer))


def test_votes_are_counted_per_whole_grid_and_ties_go_to_the_largest_q_halt():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 2, (300, 6, 3)).astype(np.int16)
    q_halt = rng.permutation(300 * 6).reshape(300, 6).astype(np.float32)
    nobody = np.full(300, -1)
    candidates = Candidates(answers, q_halt, q_halt > 900, nobody, nobody)
    tied = 0
    for row, chain in enumerate(PICKS["majority"](candidates)):
        each = [answer.tobytes() for answer in answers[row]]
        assert answers[row, chain].tobytes() == naive_majority(each, q_halt[row].tolist())
        of_the_same = [q for q, answer in zip(q_halt[row], each, strict=True) if answer == each[chain]]
        assert q_halt[row, chain] == max(of_the_same)  # its confidence speaks for the grid
        tied += list(Counter(each).values()).count(max(Counter(each).values())) > 1
    assert tied > 50
    assert np.array_equal(PICKS["q_halt"](candidates), q_halt.argmax(1))


def naive_copies(row: int, count: int) -> tuple[np.ndarray, callable]:
    made = SudokuSymmetries(BOX).copies(
        QUESTIONS[row : row + 1], np.zeros(1, np.int32), np.array([FIRST + row]), count, 0
    )
    return made.tokens, lambda answers: made.undo(np.stack(answers).astype(np.int16))


@pytest.mark.parametrize("capacity", [1, 16, 1000])
def test_symmetry_voting_solves_each_copy_turns_it_back_and_counts(capacity):
    answers, steps, q_halt, curves, _, used = run("symmetry", symmetries=5, capacity=capacity)
    assert used == {"checker": False, "symmetries": 5, "pick": "majority", "seed": 0}
    by_count = {count: [] for count in (1, 2, 4, 5)}
    for row in range(NUM_ROWS):
        tokens, undo = naive_copies(row, 5)
        said = [says(tokens[c], STEPS, 0) for c in range(5)]
        grids, q = [grid.tobytes() for grid in undo([a for a, _ in said])], [q for _, q in said]
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


def lockstep(row: int, tokens, undo, luck=None, num_steps=STEPS):
    """(answer, solved, steps of each chain): the first step at which any chain has q > 0, the largest q of these."""
    for step in range(1, num_steps + 1):
        said = [says(t, step, 0 if luck is None else luck[c, step - 1]) for c, t in enumerate(tokens)]
        stopped = [(np.float32(q), -c) for c, (_, q) in enumerate(said) if q > 0]
        if stopped:
            chain = -max(stopped)[1]
            return undo([a for a, _ in said])[chain], np.float32(said[chain][1]), True, step
    return undo([a for a, _ in said])[0], np.float32(said[0][1]), False, num_steps


def test_lockstep_ends_a_puzzle_with_the_first_chain_that_says_stop():
    answers, steps, _, curves, _, _ = run("symmetry", symmetries=4, pick="first_stop", capacity=12)
    expected = [lockstep(row, *naive_copies(row, 4)) for row in range(NUM_ROWS)]
    assert np.array_equal(answers, np.stack([answer for answer, *_ in expected]))
    assert steps.tolist() == [4 * step for *_, step in expected]
    assert len(set(steps.tolist())) > 1
    assert curves["chains"][0]["exact_accuracy"] == exact(answers)


@pytest.mark.parametrize("pick", ["q_halt", "majority"])
def test_noise_chains_add_up_their_own_noise_and_one_is_picked(pick):
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
def test_batches_and_capacity_change_nothing_and_the_seed_does(strategy, options):
    def curves_and_answers(**settings):
        answers, steps, q_halt, curves, tally, _ = run(strategy, **options, **settings)
        return answers.tolist(), steps.tolist(), q_halt.tolist(), curves, tally.rungs

    one = curves_and_answers(batch=40, capacity=40)
    assert curves_and_answers(batch=40, capacity=40) == one
    assert curves_and_answers(batch=7, capacity=3) == one
    assert curves_and_answers(batch=40, capacity=20, sizes=(5, 20)) == one
    assert curves_and_answers(seed=1) != one


@pytest.mark.parametrize("options", [{"symmetries": 5}, {"chains": 5}], ids=["symmetry", "noise"])
@pytest.mark.parametrize(("capacity", "most"), [(16, 15), (3, 5)])
def test_all_chains_of_some_puzzles_run_at_once_and_no_more_rows_than_fit(options, capacity, most):
    head = ScriptedHead()
    strategy = "symmetry" if "symmetries" in options else "noise"
    where = Setting([Solver(head)], SUDOKU, ["data"], capacity)
    built, _ = build_strategy(Choice(strategy, STEPS, **options), where)
    tally = Tally()
    tally.begin(torch.from_numpy(LABELS))
    inputs = torch.from_numpy(QUESTIONS.astype(np.int32))
    built.solve(Rows(inputs, torch.zeros(NUM_ROWS, dtype=torch.int32), NUMBERS), tally)
    assert head.model.inner.most_rows == most


def test_a_checker_watches_all_chains():
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
def test_an_ensemble_runs_one_model_after_the_other_and_votes(models):
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
    assert found  # by a later model
    (row,) = curves["with_checker"]
    assert row["supervision_steps"] == pytest.approx(np.mean(spent))
    assert [row["at"] for row in curves["chains"]] == [str(count + 1) for count in range(len(models))]
    assert [sums["rows"] for sums in tally.curves["chains"].values()] == [NUM_ROWS] * len(models)


# ------------------------------------------------------------------------------ the ladder


def naive_ladder(row: int, *, more: int, copies: int, chains: int, sigma: float, check: bool):
    """(answer, its q_halt, steps by rung, solved by rung) of one puzzle, by the procedure in words.

    None for rungs not entered.
    """
    question = QUESTIONS[row]

    def is_done(answer, q):
        return bool(is_solution(answer.astype(int) - 1, BOX)) if check else q > 0

    spent, solved = [None] * 4, [None] * 4
    answer, q = says(question, STEPS, 0)
    spent[0] = STEPS
    if check:
        spent[0] = next((s for s in range(1, STEPS + 1) if is_done(*says(question, s, 0))), STEPS)
        answer, q = says(question, spent[0], 0)
    solved[0] = is_done(answer, q)
    best = (np.float32(q), answer)
    if not solved[0]:
        last = next((s for s in range(STEPS + 1, more + 1) if is_done(*says(question, s, 0))), more)
        answer, q = says(question, last, 0)
        spent[1], solved[1] = last - STEPS, is_done(answer, q)
        if solved[1] or np.float32(q) > best[0]:
            best = (np.float32(q), answer)
    if solved[1] is False:
        tokens, undo = naive_copies(row, copies)
        if check:
            for step in range(1, STEPS + 1):
                said = [says(t, step, 0) for t in tokens]
                valid = [c for c, (a, _) in enumerate(said) if is_done(a, 0)]
                if valid:
                    break
            chain = valid[0] if valid else 0
            answer, q, done = undo([a for a, _ in said])[chain], np.float32(said[chain][1]), bool(valid)
        else:
            answer, q, done, step = lockstep(row, tokens, undo)
        spent[2], solved[2] = copies * step, done
        if done or q > best[0]:
            best = (q, answer)
    if solved[2] is False:
        luck = lucks(row, chains, sigma, STEPS)
        for step in range(1, STEPS + 1):
            said = [says(question, step, luck[c, step - 1]) for c in range(chains)]
            valid = [c for c, (a, _) in enumerate(said) if check and is_done(a, 0)]
            if valid:
                break
        chain = valid[0] if valid else int(np.argmax([np.float32(q) for _, q in said]))
        answer, q = said[chain]
        spent[3], solved[3] = chains * step, bool(valid) if check else q > 0
        if solved[3] or np.float32(q) > best[0]:
            best = (np.float32(q), answer)
    return best[1], best[0], spent, solved


@pytest.mark.parametrize("check", [False, True])
def test_the_ladder_climbs_only_while_a_puzzle_is_unsolved(check):
    settings = {"more_steps": 9, "symmetries": 3, "chains": 4, "sigma": 0.5}
    answers, steps, q_halt, curves, tally, used = run("ladder", checker=check, **settings)
    names = ["steps", "more_steps", "symmetry", "noise"]
    assert used["rungs"] == names
    expected = [
        naive_ladder(row, more=9, copies=3, chains=4, sigma=0.5, check=check) for row in range(NUM_ROWS)
    ]
    assert np.array_equal(answers, np.stack([answer for answer, *_ in expected]))
    assert q_halt.tolist() == [float(q) for _, q, *_ in expected]
    assert steps.tolist() == [sum(s or 0 for s in spent) for *_, spent, _ in expected]
    so_far = 0
    for place, name in enumerate(names):
        entered = [spent[place] for *_, spent, _ in expected if spent[place] is not None]
        said = [solved[place] for *_, solved in expected if solved[place] is not None]
        rung = tally.rungs[name]
        assert rung["rows_entering"] == len(entered) > 0, name
        assert rung["rows_said_solved"] == sum(said)
        assert rung["supervision_steps"] == sum(entered)
        assert rung["of_them_exact"] <= rung["rows_said_solved"]
        so_far += sum(entered)
        assert curves["rungs"][place]["supervision_steps"] == pytest.approx(so_far / NUM_ROWS, abs=1e-4)
    assert curves["rungs"][-1]["exact_accuracy"] == exact(answers)
    assert [tally.rungs[name]["rows_said_solved"] > 0 for name in names[:3]] == [True] * 3
    if not check:
        assert tally.rungs["steps"]["of_them_exact"] <= tally.rungs["steps"]["rows_said_solved"]


def test_the_first_rung_may_let_rows_leave_early_and_chains_of_a_majority_stand():
    answers, steps, _, _, tally, _ = run(
        "ladder", rungs=["steps", "noise"], halt=True, pick="majority", chains=3
    )
    for row, question in enumerate(QUESTIONS):
        said = [says(question, step, 0) for step in range(1, STEPS + 1)]
        first = next((i for i, (_, q) in enumerate(said) if q > 0), None)
        if first is not None:
            assert np.array_equal(answers[row], said[first][0])
            assert steps[row] == first + 1
        else:
            luck = lucks(row, 3, 0.3, STEPS)
            noisy = [says(question, STEPS, luck[c, -1]) for c in range(3)]
            grids = [grid.astype(np.uint8).tobytes() for grid, _ in noisy]
            assert answers[row].astype(np.uint8).tobytes() == naive_majority(
                grids, [np.float32(q) for _, q in noisy]
            )
            assert steps[row] == STEPS * 4
    assert tally.rungs["noise"]["rows_entering"] > 0


def test_a_puzzle_that_no_rung_solves_keeps_the_answer_of_the_largest_q_halt():
    answers, _, q_halt, *_ = run("ladder", rungs=["steps", "more_steps"], more_steps=9)
    kept = {STEPS: 0, 9: 0}
    for row, question in enumerate(QUESTIONS):
        tried = {step: says(question, step, 0) for step in range(1, 10)}
        if max(tried[step][1] for step in (STEPS, 7, 8, 9)) > 0:
            continue  # solved
        surest = max(kept, key=lambda step: tried[step][1])
        assert np.array_equal(answers[row], tried[surest][0])
        assert q_halt[row] == np.float32(tried[surest][1])
        kept[surest] += not np.array_equal(tried[STEPS][0], tried[9][0])
    assert min(kept.values()) > 0  # at times the first rung was surer, at times the last


@pytest.mark.parametrize(
    ("pick", "solves", "replaces"),
    [("q_halt", False, False), ("q_halt", True, True), ("majority", False, True)],
)
def test_a_less_sure_answer_replaces_another_if_it_is_solved_or_a_majority(
    monkeypatch, pick, solves, replaces
):
    def climb(walk, name, who):
        answers, n = QUESTIONS[who].astype(np.int16) + (name == "noise"), len(who)
        q_halt = np.full(n, {"steps": -1, "noise": -2}[name], np.float32)
        return ladder.Climbed(answers, q_halt, np.full(n, name == "noise" and solves), np.ones(n, np.int64))

    monkeypatch.setattr(ladder._Walk, "climb", climb)
    answers, _, q_halt, *_ = run("ladder", rungs=["steps", "noise"], pick=pick)
    assert np.array_equal(answers, QUESTIONS.astype(np.int64) + replaces)
    assert set(q_halt.tolist()) == {-2.0 if replaces else -1.0}


def test_with_a_checker_the_rules_and_not_the_confidence_tell_what_is_solved(monkeypatch):
    def surer_when_wrong(question: np.ndarray, step: int, luck: float) -> tuple[np.ndarray, float]:
        answer, q = says(question, step, luck)
        return answer, -q

    monkeypatch.setattr("scripted_model.says", surer_when_wrong)
    settings = {"rungs": ["steps", "noise"], "chains": 4, "sigma": 0.5, "checker": True}
    answers, _, q_halt, _, tally, _ = run("ladder", **settings)
    solved = {"steps": 0, "noise": 0}
    for row, question in enumerate(QUESTIONS):
        tries = {"steps": np.zeros((1, STEPS)), "noise": lucks(row, 4, 0.5, STEPS)}
        for name, luck in tries.items():
            found = [
                says(question, step + 1, luck[c, step])[0] for c in range(len(luck)) for step in range(STEPS)
            ]
            if any(is_solution(answer.astype(int) - 1, BOX) for answer in found):
                assert is_solution(answers[row] - 1, BOX)
                assert q_halt[row] < 0
                solved[name] += 1
                break
    assert {name: tally.rungs[name]["rows_said_solved"] for name in solved} == solved
    assert min(solved.values()) > 0


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
        (UNKNOWN, {"strategy": "noise"}, "sigma is needed"),
        (UNKNOWN, {"strategy": "plain", "checker": True}, "checker=True"),
        (ARC, {"strategy": "plain", "checker": True}, "because dataset.json names the family arc"),
        (
            MAZE,
            {"strategy": "symmetry", "symmetries": 5},
            "symmetries=5: of some of these puzzles the model can be asked 4 different copies",
        ),
        (SUDOKU, {"strategy": "ladder", "more_steps": STEPS}, "more than the 6 steps"),
    ],
)
def test_what_the_data_does_not_allow_is_refused(metadata, options, message):
    with pytest.raises(UserError, match=message):
        build_strategy(Choice(num_steps=STEPS, **options), setting(metadata))


def test_noise_needs_a_latent_beside_the_answer():
    where = setting()
    where.solvers[0].head.model.inner.latents = {"z_L": ""}
    with pytest.raises(UserError, match="latents beside the answer, and ScriptedInner has none"):
        build_strategy(Choice("noise", STEPS), where)
    assert build_strategy(Choice("ladder", STEPS), where)[1]["rungs"] == ["steps", "more_steps", "symmetry"]
    for asked in ({"chains": 2}, {"sigma": 0.5}, {"pick": "majority"}):
        with pytest.raises(UserError, match="latents beside the answer"):
            build_strategy(Choice("ladder", STEPS, **asked), where)


def test_a_vote_needs_two_copies_of_each_puzzle(tmp_path):
    write_identifiers(tmp_path, ["<blank>", "one", "other"])
    (tmp_path / "test_puzzles.json").write_text("{}")
    solver = Solver(ScriptedHead())
    solver.head.model.inner.prefix_len = 1
    metadata = replace(ARC, num_puzzle_identifiers=3)
    where = Setting([solver], metadata, [str(tmp_path)], 16, identifiers=[1, 2])
    with pytest.raises(
        UserError, match="symmetries=8: of some of these puzzles the model can be asked 1 dif"
    ):
        build_strategy(Choice("symmetry", STEPS), where)
    assert "symmetry" not in build_strategy(Choice("ladder", STEPS), where)[1]["rungs"]


def test_defaults_are_those_of_the_family():
    assert build_strategy(Choice("noise", STEPS), setting())[1]["pick"] == "q_halt"
    of_mazes = build_strategy(Choice("noise", STEPS), setting(MAZE))[1]
    assert (of_mazes["sigma"], of_mazes["pick"]) == (1.0, "majority")
    assert build_strategy(Choice("symmetry", STEPS), setting(MAZE))[1]["symmetries"] == 4
    assert build_strategy(Choice("ladder", STEPS), setting(UNKNOWN))[1]["rungs"] == ["steps", "more_steps"]


def test_checkers_know_the_rules():
    check = checker_of(SUDOKU)
    assert check(QUESTIONS, LABELS).all()
    changed = QUESTIONS.copy()
    changed[:, 0] = 2 + LABELS[:, 0] % 4  # the answer contradicts a given cell
    assert not check(changed, LABELS).any()
    mazes = checker_of(MAZE)
    question = maze.encode("S      G        ")[None]
    path = maze.encode("SooooooG        ")[None]
    assert mazes(question, path).all()
    around = maze.encode("Soo oooG  ooo   ")[None]  # a path, but not a shortest one
    assert not mazes(question, around).any()
