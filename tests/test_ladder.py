"""The ladder strategy compared with a naive implementation of its answers and costs."""

from __future__ import annotations

import numpy as np
import pytest
from scripted_model import BOX, says
from strategy_runs import (
    NUM_ROWS,
    QUESTIONS,
    STEPS,
    exact,
    lockstep,
    lucks,
    naive_copies,
    naive_majority,
    run,
)

from dataset.families.sudoku.rules import is_solution
from evaluators.strategies import cascade


def naive_ladder(row: int, *, more: int, copies: int, chains: int, sigma: float, check: bool):
    """Return (answer, its q_halt, steps by rung, solved by rung) of a puzzle, by a direct implementation.

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
def test_later_rungs_run_only_for_unsolved_puzzles(check):
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
        rung = tally.stages[name]
        assert rung["rows_entering"] == len(entered) > 0, name
        assert rung["rows_said_solved"] == sum(said)
        assert rung["supervision_steps"] == sum(entered)
        assert rung["of_them_exact"] <= rung["rows_said_solved"]
        so_far += sum(entered)
        assert curves["rungs"][place]["supervision_steps"] == pytest.approx(so_far / NUM_ROWS, abs=1e-4)
    assert curves["rungs"][-1]["exact_accuracy"] == exact(answers)
    assert [tally.stages[name]["rows_said_solved"] > 0 for name in names[:3]] == [True] * 3
    if not check:
        assert tally.stages["steps"]["of_them_exact"] <= tally.stages["steps"]["rows_said_solved"]


def test_rows_may_halt_in_the_first_rung_and_a_majority_of_chains_is_kept():
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
    assert tally.stages["noise"]["rows_entering"] > 0


def test_an_unsolved_puzzle_keeps_the_answer_with_the_largest_q_halt():
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
    assert min(kept.values()) > 0  # sometimes the first rung was more confident, sometimes the last


@pytest.mark.parametrize(
    ("pick", "solves", "replaces"),
    [("q_halt", False, False), ("q_halt", True, True), ("majority", False, True)],
)
def test_a_less_confident_answer_replaces_another_if_solved_or_a_majority(
    monkeypatch, pick, solves, replaces
):
    def run_stage(stages, name, rows):
        answers, n = QUESTIONS[rows].astype(np.int16) + (name == "noise"), len(rows)
        q_halt = np.full(n, {"steps": -1, "noise": -2}[name], np.float32)
        return cascade.StageResult(
            answers, q_halt, np.full(n, name == "noise" and solves), np.ones(n, np.int64)
        )

    monkeypatch.setattr(cascade._StageRunner, "run", run_stage)
    answers, _, q_halt, *_ = run("ladder", rungs=["steps", "noise"], pick=pick)
    assert np.array_equal(answers, QUESTIONS.astype(np.int64) + replaces)
    assert set(q_halt.tolist()) == {-2.0 if replaces else -1.0}


def test_with_a_checker_the_rules_determine_what_is_solved(monkeypatch):
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
    assert {name: tally.stages[name]["rows_said_solved"] for name in solved} == solved
    assert min(solved.values()) > 0
