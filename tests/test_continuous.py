"""Continuous batching: answers, their cost, and no slot left empty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripted_model import ScriptedHead, says
from strategy_runs import (
    LABELS,
    NUM_ROWS,
    NUMBERS,
    QUESTIONS,
    STEPS,
    SUDOKU,
    exact,
    lucks,
    naive_copies,
    naive_majority,
    run,
)

from evaluators.inference import Solver
from evaluators.stop_rule import OWN_RULE, StopRule
from evaluators.strategies.accounting import Tally
from evaluators.strategies.build import Choice, Setting, build_strategy
from evaluators.strategies.samples import PuzzleRows

RULES = {
    "own": OWN_RULE,
    "surer": StopRule(0.3, 0),
    "still": StopRule(-np.inf, 2),
    "both": StopRule(0.1, 1),
    "never": None,
}


def chain(question: np.ndarray, rule: StopRule | None, luck=None, num_steps: int = STEPS):
    """(answer, q_halt, number of steps) of one chain that leaves by the rule."""
    still, before = 0, None
    for step in range(1, num_steps + 1):
        answer, q = says(question, step, 0.0 if luck is None else luck[step - 1])
        still = still + 1 if before is not None and np.array_equal(answer, before) else 0
        before = answer
        if rule is not None and np.float32(q) > rule.threshold and still >= rule.patience:
            break
    return answer, np.float32(q), step


@pytest.mark.parametrize("name", RULES)
def test_a_row_leaves_at_the_first_step_at_which_the_rule_holds(name):
    answers, steps, q_halt, curves, tally, used = run("plain", halt="auto", rule=RULES[name], batch=7)
    expected = [chain(question, RULES[name]) for question in QUESTIONS]
    assert np.array_equal(answers, np.stack([answer for answer, *_ in expected]))
    assert steps.tolist() == [number for *_, number in expected]
    assert q_halt.tolist() == [float(q) for _, q, _ in expected]
    assert curves.keys() == {"halted"}  # without a full run
    (point,) = curves["halted"]
    assert point["exact_accuracy"] == exact(answers)
    assert point["supervision_steps"] == pytest.approx(steps.mean(), abs=1e-4)
    assert used["halt"] == "auto"
    assert not tally.seconds
    assert (len(set(steps.tolist())) > 1) == (name != "never")


@pytest.mark.parametrize("sizes", [(), (10, 20)])
@pytest.mark.parametrize(("batch", "capacity"), [(NUM_ROWS, 7), (3, 20), (1, 1)])
def test_answers_do_not_depend_on_batches_capacity_and_padding(batch, capacity, sizes):
    one = run("plain", halt="auto", rule=OWN_RULE, capacity=NUM_ROWS)
    other = run("plain", halt="auto", rule=OWN_RULE, batch=batch, capacity=capacity, sizes=sizes)
    assert [part.tolist() for part in other[:3]] == [part.tolist() for part in one[:3]]
    assert other[3] == one[3]


def streamed(strategy: str, capacity: int, batch: int, rule=OWN_RULE, **options):
    """The scripted model after all rows, and the number of rows in each of its steps."""
    head = ScriptedHead()
    inner, sizes = head.architecture, []
    inner.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[1])))
    where = Setting([Solver(head)], SUDOKU, ["data"], capacity, rule=rule)
    built, _ = build_strategy(Choice(strategy, STEPS, halt="auto", **options), where)

    def batches():
        for start in range(0, NUM_ROWS, batch):
            inputs = torch.from_numpy(QUESTIONS[start : start + batch].astype(np.int32))
            zeros = torch.zeros(len(inputs), dtype=torch.int32)
            yield PuzzleRows(inputs, zeros, NUMBERS[start : start + batch])

    answered = list(built.stream(batches(), Tally()))
    return int(sum(int(part.steps.sum()) for part in answered)), sizes


@pytest.mark.parametrize("batch", [4, NUM_ROWS])
def test_free_slots_take_the_next_puzzle_even_of_the_next_batch(batch):
    steps, sizes = streamed("plain", 5, batch)
    assert sum(sizes) == steps  # no row is computed after it has left, and none is padding
    assert max(sizes) == 5
    busy = sizes[:-STEPS]  # until the last puzzles have begun
    assert busy
    assert set(busy) == {5}


def test_a_slow_puzzle_does_not_hold_up_unbounded_answers():
    """Batches that are read ahead of the oldest unanswered one are limited."""
    head, read, most = ScriptedHead(), [0], []
    where = Setting([Solver(head)], SUDOKU, ["data"], 2, rule=OWN_RULE)
    built, _ = build_strategy(Choice("plain", 400, halt="auto"), where)
    stuck = next(i for i, q in enumerate(QUESTIONS) if all(says(q, s, 0)[1] < 0 for s in range(1, 13)))
    easy = next(i for i, q in enumerate(QUESTIONS) if says(q, 1, 0)[1] > 0)

    def batches():
        for row in [stuck, *[easy] * 200]:
            read[0] += 1
            inputs = torch.from_numpy(QUESTIONS[row : row + 1].astype(np.int32))
            yield PuzzleRows(inputs, torch.zeros(1, dtype=torch.int32), np.zeros(1, np.int64))

    for done, _ in enumerate(built.stream(batches(), Tally())):
        most.append(read[0] - done)
    assert len(most) == 201
    assert max(most) <= 8 * 2 + 1


@pytest.mark.parametrize("name", ["own", "both", "never"])
@pytest.mark.parametrize("capacity", [3, 40])
def test_a_vote_that_ends_early_equals_the_full_vote_at_lower_cost(name, capacity):
    count = 5
    answers, steps, _, curves, _, used = run(
        "symmetry", symmetries=count, halt="auto", rule=RULES[name], capacity=capacity, batch=9
    )
    assert used["halt"] == "auto"
    cheaper = 0
    for row in range(NUM_ROWS):
        tokens, undo = naive_copies(row, count)
        ended = [chain(tokens[c], RULES[name]) for c in range(count)]
        grids = [grid.astype(np.uint8).tobytes() for grid in undo([answer for answer, *_ in ended])]
        won = naive_majority(grids, [q for _, q, _ in ended])
        assert answers[row].astype(np.uint8).tobytes() == won
        all_steps = sum(number for *_, number in ended)
        first = sum(number for *_, number in ended[: count // 2 + 1])
        if len(set(grids[: count // 2 + 1])) == 1:  # the others could not outvote them and never began
            assert steps[row] == first
        assert steps[row] <= all_steps
        cheaper += steps[row] < all_steps
    assert cheaper > 5
    (point,) = curves["chains"]
    assert point["at"] == str(count)
    assert point["exact_accuracy"] == exact(answers)


def test_the_first_chain_to_settle_in_lockstep_decides():
    settings = {"symmetries": 4, "pick": "first_stop"}
    slow = run("symmetry", **settings)
    fast = run("symmetry", halt="auto", rule=OWN_RULE, capacity=6, batch=9, **settings)
    assert [part.tolist() for part in fast[:3]] == [part.tolist() for part in slow[:3]]


def test_the_noisy_chain_with_the_largest_q_halt_is_picked():
    answers, steps, q_halt, *_ = run(
        "noise", chains=5, sigma=0.4, pick="q_halt", halt="auto", rule=RULES["surer"], capacity=7, batch=11
    )
    for row, question in enumerate(QUESTIONS):
        luck = lucks(row, 5, 0.4, STEPS)
        ended = [chain(question, RULES["surer"], luck[c]) for c in range(5)]
        surest = int(np.argmax([q for _, q, _ in ended]))
        assert np.array_equal(answers[row], ended[surest][0])
        assert q_halt[row] == ended[surest][1]
        assert steps[row] == sum(number for *_, number in ended)
    assert len(set(steps.tolist())) > 3


def test_the_ladder_equals_the_ladder_with_halt():
    settings = {"rungs": ["steps", "more_steps", "symmetry"], "more_steps": 9, "symmetries": 3}
    slow = run("ladder", halt=True, **settings)
    fast = run("ladder", halt="auto", rule=OWN_RULE, capacity=5, batch=9, **settings)
    assert [part.tolist() for part in fast[:3]] == [part.tolist() for part in slow[:3]]
    assert fast[3] == slow[3]  # the curve over the rungs
    assert fast[4].stages == slow[4].stages
    assert fast[4].stages["symmetry"]["rows_entering"] > 0


def test_the_ladder_does_not_count_unchanged_answers_as_solved():
    *_, tally, _ = run("ladder", rungs=["steps", "noise"], halt="auto", rule=RULES["still"], chains=3)
    quick = [chain(question, StopRule(0.0, 2)) for question in QUESTIONS]
    solved = sum(q > 0 for _, q, _ in quick)
    assert tally.stages["steps"]["rows_said_solved"] == solved
    assert tally.stages["noise"]["rows_entering"] == NUM_ROWS - solved > 0


def test_labels_reach_each_batch_although_batches_are_read_ahead():
    labels = LABELS.copy()
    labels[::3] = labels[::3][:, ::-1]
    answers, *_, curves, _, _ = run("plain", halt="auto", rule=OWN_RULE, batch=3, labels=labels, capacity=20)
    assert curves["halted"][0]["exact_accuracy"] == exact(answers, labels)
