"""The strategy `guess` compared with a naive implementation, and the distribution of its guesses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripted_model import says
from strategy_runs import FIRST, NUM_ROWS, QUESTIONS, STEPS, exact, naive_majority, run

from evaluators.stop_rule import OWN_RULE, StopRule
from evaluators.strategies.guesses import draw_guesses
from models.losses import PROBABILITIES, TOKEN_LOSSES

CHAINS = 4
NEVER = [0, 1]
RULE = StopRule(0.55)  # stricter than the model's own


def chain(question: np.ndarray, threshold: float):
    """Return (answer, q_halt, steps) of one chain that ends when q_halt exceeds the threshold."""
    for step in range(1, STEPS + 1):
        answer, q = says(question, step, 0)
        if np.float32(q) > threshold:
            break
    return answer, np.float32(q), step


def with_guesses(row: int, answer: np.ndarray, count: int = CHAINS) -> list[np.ndarray]:
    logits = torch.zeros(16, 6)
    logits[range(16), answer.astype(int)] = 5.0  # as the scripted model
    rng = np.random.default_rng([0, FIRST + row])
    cells, tokens = draw_guesses(QUESTIONS[row] == 1, logits.softmax(-1).numpy(), NEVER, count, rng)
    asked = np.repeat(QUESTIONS[row : row + 1], count, 0)
    asked[range(count), cells] = tokens
    return list(asked)


def naive(row: int, threshold: float):
    """Return (answer, q_halt, steps of both stages) of a puzzle, by a direct implementation."""
    answer, q, steps = chain(QUESTIONS[row], threshold)
    if q > threshold:
        return answer, q, (steps, 0)
    ended = [chain(asked, threshold) for asked in with_guesses(row, answer)]
    spent = steps, sum(number for *_, number in ended)
    surest = max(ended, key=lambda one: one[1])
    if surest[1] > threshold or surest[1] > q:
        answer, q, _ = surest
    return answer, q, spent


@pytest.mark.parametrize(("halt", "rule"), [(True, OWN_RULE), (0.63, RULE), ("auto", OWN_RULE)])
@pytest.mark.parametrize(("batch", "capacity"), [(NUM_ROWS, 64), (7, 5), (1, 1)])
def test_unsolved_puzzles_are_asked_again_with_one_guess_each(halt, rule, batch, capacity):
    answers, steps, q_halt, curves, tally, used = run(
        "guess", halt=halt, rule=rule, chains=CHAINS, batch=batch, capacity=capacity
    )
    expected = [naive(row, rule.threshold) for row in range(NUM_ROWS)]
    assert np.array_equal(answers, np.stack([answer for answer, *_ in expected]))
    assert q_halt.tolist() == [float(q) for _, q, _ in expected]
    assert steps.tolist() == [sum(spent) for *_, spent in expected]
    assert used == {"checker": False, "halt": halt, "chains": CHAINS, "pick": "q_halt", "seed": 0}
    entered = sum(spent[1] > 0 for *_, spent in expected)
    assert tally.stages["guess"]["rows_entering"] == entered > 0
    assert tally.stages["steps"]["rows_said_solved"] == NUM_ROWS - entered
    assert tally.stages["guess"]["rows_said_solved"] > 0  # some guess was right
    before, after = (point["exact_accuracy"] for point in curves["rungs"])
    assert exact(answers) == after > before


def test_the_first_guess_to_settle_decides():
    answers, steps, *_ = run("guess", halt=0.63, rule=RULE, chains=CHAINS, pick="first_stop")
    decided = 0
    for row in range(NUM_ROWS):
        first, q, spent = chain(QUESTIONS[row], RULE.threshold)
        if q > RULE.threshold:
            continue
        ended = [chain(asked, RULE.threshold) for asked in with_guesses(row, first)]
        settled = [one for one in ended if one[1] > RULE.threshold]
        if settled:
            soonest = min(number for *_, number in settled)
            surest = max((one for one in settled if one[2] == soonest), key=lambda one: one[1])
            assert np.array_equal(answers[row], surest[0])
            assert steps[row] == spent + CHAINS * soonest
            decided += 1
    assert decided > 2


@pytest.mark.parametrize("capacity", [1, 64])
def test_a_majority_of_guesses_may_decide(capacity):
    answers, *_ = run("guess", halt=0.63, rule=RULE, chains=3, pick="majority", capacity=capacity)
    every, *_ = run("guess", halt=0.63, rule=RULE, chains=3, pick="majority", batch=5)
    assert np.array_equal(answers, every)
    for row in range(NUM_ROWS):
        first, q, _ = chain(QUESTIONS[row], RULE.threshold)
        if q <= RULE.threshold:
            ended = [chain(asked, RULE.threshold) for asked in with_guesses(row, first, 3)]
            grids = [answer.astype(np.uint8).tobytes() for answer, *_ in ended]
            assert answers[row].astype(np.uint8).tobytes() == naive_majority(grids, [q for _, q, _ in ended])


def test_the_ladder_has_the_same_rung():
    alone = run("guess", halt=0.63, rule=RULE, chains=CHAINS)
    ladder = run("ladder", rungs=["steps", "guess"], halt=0.63, rule=RULE, chains=CHAINS)
    assert [part.tolist() for part in ladder[:3]] == [part.tolist() for part in alone[:3]]
    assert ladder[5]["guess"] == {"chains": CHAINS, "pick": "q_halt", "seed": 0}
    both = run("ladder", rungs=["steps", "more_steps", "guess"], more_steps=8, halt=0.63, rule=RULE)
    assert 0 < both[4].stages["guess"]["rows_entering"] < alone[4].stages["guess"]["rows_entering"]


def test_with_a_probability_later_rungs_are_for_all_puzzles_below_it():
    *_, tally, _ = run("ladder", rungs=["steps", "noise"], halt=0.63, rule=RULE, chains=2)
    sure = sum(chain(question, RULE.threshold)[1] > RULE.threshold for question in QUESTIONS)
    assert tally.stages["noise"]["rows_entering"] == NUM_ROWS - sure
    assert sure < sum(chain(question, RULE.threshold)[1] > 0 for question in QUESTIONS)


def test_results_depend_on_the_seed():
    one, other = (run("guess", halt=True, chains=1, seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_guesses_are_different_blank_cells_and_tokens_until_all_are_used():
    is_blank = np.arange(9) % 3 == 0  # 3 cells of 4 tokens
    probabilities = np.random.default_rng(0).dirichlet(np.ones(6), 9)
    cells, tokens = draw_guesses(is_blank, probabilities, NEVER, 12, np.random.default_rng(1))
    assert sorted(zip(cells.tolist(), tokens.tolist(), strict=True)) == [
        (cell, token) for cell in (0, 3, 6) for token in (2, 3, 4, 5)
    ]
    more = draw_guesses(is_blank, probabilities, NEVER, 15, np.random.default_rng(1))
    assert [part.tolist() for part in more] == [
        [*part, *part[:3]] for part in (cells.tolist(), tokens.tolist())
    ]


def test_cells_are_drawn_by_their_entropy_and_tokens_by_their_probability():
    probabilities = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.9, 0.1], [0, 0, 0.3, 0.7], [0, 0, 1.0, 0]])
    is_blank = np.array([True, True, False, True])
    entropy = np.array([np.log(2), -0.9 * np.log(0.9) - 0.1 * np.log(0.1), 0, 0])
    expected = entropy[:, None] * probabilities / entropy.sum()
    counts = np.zeros((4, 4))
    for seed in range(4000):
        (cell,), (token,) = draw_guesses(is_blank, probabilities, NEVER, 1, np.random.default_rng(seed))
        counts[cell, token] += 1
    assert counts / 4000 == pytest.approx(expected, abs=0.03)  # 4 standard errors


def test_a_model_that_is_sure_of_every_cell_still_guesses():
    probabilities = np.eye(6)[[2, 3, 4]]
    cells, tokens = draw_guesses(np.ones(3, bool), probabilities, NEVER, 3, np.random.default_rng(0))
    assert sorted(zip(cells.tolist(), tokens.tolist(), strict=True)) == [(0, 2), (1, 3), (2, 4)]


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_probabilities_are_those_of_the_loss(name):
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 3
    by_loss = [torch.exp(-TOKEN_LOSSES[name](logits, torch.full((2, 3), v))) for v in range(5)]
    torch.testing.assert_close(PROBABILITIES[name](logits), torch.stack(by_loss, -1))
