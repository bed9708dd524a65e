"""Adaptive computation time: loading of slots, halting, and exploration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from smallest import SMALLEST_TRM

from models.act import Carry, HaltingRule, draw_min_steps
from models.registry import build_model

ARCH = SMALLEST_TRM | {"puzzle_emb_ndim": 16, "puzzle_emb_len": 1}
SIZES = {"seq_len": 4, "vocab_size": 7, "num_puzzle_identifiers": 5}


def model_of(**settings):
    torch.manual_seed(0)
    return build_model(ARCH | settings, **SIZES).model.train()


def batch_of(size: int, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "inputs": torch.randint(1, 7, (size, 4), generator=rng, dtype=torch.int32),
        "labels": torch.randint(1, 7, (size, 4), generator=rng, dtype=torch.int32),
        "puzzle_identifiers": torch.randint(0, 5, (size,), generator=rng, dtype=torch.int32),
    }


def say(model, monkeypatch, q_halt: list[float], q_continue: list[float] | None = None) -> None:
    """Replace the outputs of the halting head by fixed values."""
    heads = model.inner.heads

    def written_down(state):
        logits, *_ = heads(state)
        return logits, torch.tensor(q_halt), torch.tensor(q_continue or [0.0] * len(q_halt))

    monkeypatch.setattr(model.inner, "heads", written_down)


@torch.no_grad()
def test_halted_slots_load_a_row_of_the_new_batch_and_the_others_continue(monkeypatch):
    model, first, second = model_of(), batch_of(3), batch_of(3, seed=1)
    say(model, monkeypatch, [1.0, -1.0, 1.0])
    carry, _ = model(model.initial_carry(first), first)
    assert carry.halted.tolist() == [True, False, True]
    assert carry.steps.tolist() == [1, 1, 1]
    old_state = [latent.clone() for latent in carry.state]
    loaded = model.load(carry, second)
    for name, value in loaded.current.items():
        assert torch.equal(value[1], first[name][1]), name
        assert torch.equal(value[[0, 2]], second[name][[0, 2]]), name
    fresh = model.inner.initial_state(3)
    for new, old, init in zip(loaded.state, old_state, fresh, strict=True):
        assert torch.equal(new[1], old[1])
        assert torch.equal(new[[0, 2]], init[[0, 2]])
    carry, _ = model(carry, second)
    assert carry.steps.tolist() == [1, 2, 1]


@torch.no_grad()
def test_every_slot_halts_at_the_last_step(monkeypatch):
    model, batch = model_of(), batch_of(2)
    say(model, monkeypatch, [-1.0, -1.0])
    carry, history = model.initial_carry(batch), []
    for _ in range(8):
        carry, _ = model(carry, batch, torch.full((2,), 99, dtype=torch.int32).clamp(max=4))
        history.append((carry.steps.tolist(), carry.halted.tolist()))
    assert [steps for steps, _ in history] == [[s, s] for s in (1, 2, 3, 4, 1, 2, 3, 4)]
    assert [halted for _, halted in history] == [[s == 4] * 2 for s in (1, 2, 3, 4, 1, 2, 3, 4)]


@torch.no_grad()
def test_exploration_keeps_a_slot_running_until_its_drawn_step(monkeypatch):
    model, batch = model_of(), batch_of(4)
    say(model, monkeypatch, [1.0] * 4)
    least = torch.tensor([0, 2, 3, 4], dtype=torch.int32)
    carry, halted_at = model.initial_carry(batch), {}
    for step in (1, 2, 3, 4):
        carry, _ = model(carry, batch, least)
        for slot in range(4):
            if carry.halted[slot]:
                halted_at.setdefault(slot, step)
    assert halted_at == {0: 1, 1: 2, 2: 3, 3: 4}


@torch.no_grad()
def test_evaluation_runs_every_step_without_exploration(monkeypatch):
    model, batch = model_of().eval(), batch_of(2)
    say(model, monkeypatch, [1.0, -1.0])
    carry = model.initial_carry(batch)
    for step in (1, 2, 3, 4):
        carry, _ = model(carry, batch)
        assert carry.steps.tolist() == [step, step]
        assert carry.halted.tolist() == [step == 4] * 2


@torch.no_grad()
def test_halting_in_evaluation_ignores_exploration(monkeypatch):
    model, batch = model_of(act_inference=True).eval(), batch_of(2)
    say(model, monkeypatch, [1.0, -1.0])
    carry, _ = model(model.initial_carry(batch), batch, torch.tensor([4, 4], dtype=torch.int32))
    assert carry.halted.tolist() == [True, False]


@torch.no_grad()
def test_a_row_that_halts_in_evaluation_keeps_its_latents_answer_and_steps(monkeypatch):
    model, batch = model_of(act_inference=True).eval(), batch_of(2)
    say(model, monkeypatch, [1.0, -1.0])
    first, answers = model(model.initial_carry(batch), batch)
    second, later_answers = model(first, batch)
    assert second.halted.tolist() == [True, False]
    assert second.steps.tolist() == [1, 2]
    pairs = [*zip(first.state, second.state, strict=True), (answers["logits"], later_answers["logits"])]
    for before, after in pairs:
        assert torch.equal(after[0], before[0])
        assert not torch.equal(after[1], before[1])


@torch.no_grad()
def test_one_step_models_always_halt(monkeypatch):
    model, batch = model_of(halt_max_steps=1), batch_of(2)
    say(model, monkeypatch, [-1.0, -1.0])
    carry, _ = model(model.initial_carry(batch), batch, torch.tensor([2, 2], dtype=torch.int32))
    assert carry.halted.all()


@pytest.mark.parametrize(
    ("halting", "published", "no_act_continue", "compares", "learns"),
    [
        (None, "halt", True, False, False),
        (None, "halt", False, True, True),
        (None, "q_learning", True, True, True),
        (None, "q_untrained", True, True, False),
        ("halt", "q_learning", True, False, False),
        ("q_learning", "halt", True, True, True),
    ],
)
def test_the_halting_rule_is_the_published_one_by_default(
    halting, published, no_act_continue, compares, learns
):
    rule = HaltingRule.resolve(halting, published, no_act_continue)
    assert (rule.compares, rule.learns_continue) == (compares, learns)
    says = rule.says_stop(torch.tensor([1.0, 1.0, -1.0, 0.0]), torch.tensor([0.0, 2.0, -2.0, 0.0]))
    assert says.tolist() == ([True, False, True, False] if compares else [True, True, False, False])


@torch.no_grad()
def test_the_target_of_q_continue_looks_one_step_ahead_without_changing_the_carry(monkeypatch):
    model, batch = model_of(no_ACT_continue=False, halt_max_steps=2), batch_of(3)
    torch.nn.init.normal_(model.inner.q_head.weight)
    carry = model.initial_carry(batch)
    for is_last in (False, True):
        carry, outputs = model(carry, batch, torch.full((3,), 2, dtype=torch.int32))
        rows = model.inner.puzzle_rows(carry.current)
        _, (_, q_halt, q_continue) = model.inner(carry.state, carry.current["inputs"], rows)
        expected = torch.sigmoid(q_halt if is_last else torch.maximum(q_halt, q_continue))
        torch.testing.assert_close(outputs["target_q_continue"], expected)


def test_exploration_depends_only_on_seed_and_step():
    draw = draw_min_steps(3, 17, 64, 0.5, 8)
    assert np.array_equal(draw, draw_min_steps(3, 17, 64, 0.5, 8))
    assert not np.array_equal(draw, draw_min_steps(3, 18, 64, 0.5, 8))
    assert not np.array_equal(draw, draw_min_steps(4, 17, 64, 0.5, 8))


def test_exploration_has_the_requested_share_and_range():
    draws = np.concatenate([draw_min_steps(0, step, 1000, 0.1, 5) for step in range(50)])
    share = (draws > 0).mean()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / len(draws)) ** 0.5
    values, counts = np.unique(draws[draws > 0], return_counts=True)
    assert values.tolist() == [2, 3, 4, 5]
    expected = counts.sum() / 4
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 16.3  # chi-squared with 3 degrees of freedom, p = 0.001
    assert not draw_min_steps(0, 1, 100, 0.0, 5).any()
    assert (draw_min_steps(0, 1, 100, 1.0, 5) >= 2).all()


def test_a_carry_survives_flattening_to_tensors():
    model, batch = model_of(), batch_of(2)
    with torch.no_grad():
        carry, _ = model(model.initial_carry(batch), batch)
    again = Carry.from_tensors(carry.tensors(model.latent_names), model.latent_names)
    assert all(torch.equal(a, b) for a, b in zip(carry.state, again.state, strict=True))
    assert again.current.keys() == batch.keys()
    assert torch.equal(again.steps, carry.steps)
    assert torch.equal(again.halted, carry.halted)
