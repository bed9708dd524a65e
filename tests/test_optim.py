"""Optimizers: steps against hand-computed values, exact resuming, touched rows only, masked updates."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch

from models.optim.adam_atan2 import AdamATan2
from models.optim.schedule import learning_rate
from models.optim.skip_step import all_finite, masked, skip_step_unless
from models.optim.sparse_sign_sgd import SparseSignSGD, sum_by_id
from models.puzzle_embedding import PuzzleEmbedding


def by_hand(p: float, gradients: list[float], lr: float, beta1: float, beta2: float, decay: float) -> float:
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p *= 1 - lr * decay
        p -= lr / (1 - beta1**t) * math.atan2(m, math.sqrt(v) / math.sqrt(1 - beta2**t))
    return p


def test_adam_atan2_takes_the_steps_computed_by_hand():
    starts, gradients = [0.5, -2.0, 3.0], [[1e-9, 4.0, 0.0], [-2e-9, 4.0, 0.0], [1e-9, -1.0, 0.0]]
    p = torch.nn.Parameter(torch.tensor(starts, dtype=torch.float64))
    optimizer = AdamATan2([p], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for gradient in gradients:
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    for i, start in enumerate(starts):
        expected = by_hand(start, [row[i] for row in gradients], 0.01, 0.9, 0.95, 0.1)
        assert p[i].item() == pytest.approx(expected, rel=1e-12)


def test_the_step_of_adam_atan2_does_not_depend_on_the_scale_of_the_gradient():
    ends = []
    for scale in (1e-12, 1.0, 1e12):
        p = torch.nn.Parameter(torch.ones(4))
        optimizer = AdamATan2([p], lr=0.1, weight_decay=0.0)
        for step in range(1, 6):
            p.grad = scale * torch.tensor([1.0, -1.0, step, 1 / step])
            optimizer.step()
        ends.append(p.detach().clone())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[2], ends[1], rtol=1e-5, atol=1e-6)


def test_adam_atan2_makes_progress_in_a_curved_valley():
    p = torch.nn.Parameter(torch.tensor([-1.5, 2.0]))
    optimizer = AdamATan2([p], lr=0.02, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(2000):
        optimizer.zero_grad()
        ((1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2).backward()
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.ones(2), atol=0.05, rtol=0)


def test_adam_atan2_resumes_exactly():
    def step(p, optimizer, seed):
        p.grad = torch.randn(5, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    p = torch.nn.Parameter(torch.ones(5))
    optimizer = AdamATan2([p])
    for seed in range(3):
        step(p, optimizer, seed)
    q = torch.nn.Parameter(p.detach().clone())
    resumed = AdamATan2([q])
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    for seed in range(3, 6):
        step(p, optimizer, seed)
        step(q, resumed, seed)
    assert torch.equal(p, q)


@pytest.mark.parametrize("bad", [{"lr": -1}, {"betas": (1.0, 0.9)}, {"weight_decay": -0.1}])
def test_impossible_settings_are_rejected_with_their_values(bad):
    with pytest.raises(ValueError, match="AdamATan2 needs"):
        AdamATan2([torch.nn.Parameter(torch.ones(1))], **bad)


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_are_freed_or_set_to_zero(to_none):
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    params[0].grad = torch.ones(3)
    AdamATan2(params).zero_grad(set_to_none=to_none)
    assert params[1].grad is None
    assert params[0].grad is None if to_none else torch.equal(params[0].grad, torch.zeros(3))


def test_sums_by_id_equal_those_of_a_plain_loop():
    rng = torch.Generator().manual_seed(0)
    ids, rows = torch.randint(0, 6, (40,), generator=rng), torch.randn(40, 3, generator=rng)
    expected = torch.stack([rows[ids == i].sum(0) for i in ids])
    torch.testing.assert_close(sum_by_id(ids, rows), expected)


def test_sign_sgd_updates_touched_rows_once():
    table = PuzzleEmbedding(5, 2)
    table.weights.copy_(torch.arange(10.0).view(5, 2))
    before = table.weights.clone()
    optimizer = SparseSignSGD(table, lr=0.1, weight_decay=0.5)
    rows = table(torch.tensor([3, 1, 3]))
    (rows * torch.tensor([[1.0, -2.0], [5.0, 0.0], [-4.0, 1.0]])).sum().backward()
    optimizer.step()
    expected = before.clone()
    # The sign of the sum, not the sum of signs.
    expected[3] = before[3] * 0.95 - 0.1 * torch.tensor([-1.0, -1.0])
    expected[1] = before[1] * 0.95 - 0.1 * torch.tensor([1.0, 0.0])
    torch.testing.assert_close(table.weights, expected)
    optimizer.zero_grad()
    optimizer.step()  # no rows were read since
    torch.testing.assert_close(table.weights, expected)


def test_evaluation_leaves_no_leaf():
    table = PuzzleEmbedding(5, 2)
    with torch.no_grad():
        table(torch.tensor([1]))
    table.eval()(torch.tensor([1]))
    assert not table.leaves


def test_the_schedule_is_continuous_after_warm_up_and_ends_at_its_ratio():
    rates = [learning_rate(step, 2.0, 10, 100, 0.1) for step in range(1, 121)]
    assert rates[4] == pytest.approx(1.0)
    assert rates[9] == pytest.approx(2.0)
    assert rates[54] == pytest.approx(1.1)  # halfway through the cosine
    assert rates[99:] == pytest.approx([0.2] * 21)
    # A warm-up longer than the run is allowed.
    assert learning_rate(5, 1.0, 50, 20, 0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_element_is_detected(bad):
    tensors = [torch.ones(3, 4), torch.tensor(1.0), torch.zeros(2)]
    assert all_finite(tensors)
    tensors[0][1, 2] = bad
    assert not all_finite(tensors)


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("ok", [True, False])
@pytest.mark.parametrize("how", [skip_step_unless, masked])
def test_an_update_is_applied_or_has_no_effect(how, ok, steps_before):
    """Test `masked`, which accelerators use, on the CPU."""
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer, shadow = AdamATan2([p], lr=0.1), torch.tensor([1.0, 2.0])

    def update() -> None:
        optimizer.step()
        shadow.lerp_(p.detach(), 0.5)

    for _ in range(steps_before):
        p.grad = torch.tensor([1.0, -1.0])
        update()
    before = [t.clone() for t in (p.detach(), shadow, *moments(optimizer))]
    p.grad = torch.tensor([1.0, 1.0]) if ok else torch.tensor([math.nan, 1.0])
    how(torch.tensor(ok), [optimizer], [shadow], update)
    after = [p.detach(), shadow, *moments(optimizer)]
    if ok:
        assert not torch.equal(after[0], before[0])
        assert not torch.equal(after[1], before[1])
    else:
        assert torch.equal(after[0], before[0])
        assert torch.equal(after[1], before[1])
        for moment, old in zip(after[2:], before[2:] or [torch.zeros(2)] * len(after[2:]), strict=True):
            assert torch.equal(moment, old)


def moments(optimizer: AdamATan2) -> list[torch.Tensor]:
    return [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
