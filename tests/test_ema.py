"""Averaged weights: arithmetic, and swapping for evaluation."""

from __future__ import annotations

import pytest
import torch

from models.train.ema import EMA


def module() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    model[1].weight.requires_grad_(False)
    return model


def move(model: torch.nn.Module, by: float) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by)


def test_averages_follow_the_formula_for_trainable_parameters_only():
    model = module()
    start, ema = model[0].weight.detach().clone(), EMA(model, 0.9)
    move(model, 1.0)
    ema.update(1)
    move(model, 1.0)
    ema.update(2)
    # 0.9 (0.9 w + 0.1 (w + 1)) + 0.1 (w + 2) = w + 0.29
    torch.testing.assert_close(ema.shadow["0.weight"], start + 0.29)
    assert ema.shadow.keys() == {"0.weight", "0.bias", "1.bias"}


def test_the_model_has_the_averages_within_the_swap_and_the_live_weights_after_it():
    model = module()
    ema = EMA(model, 0.5)
    move(model, 1.0)
    live = {name: p.detach().clone() for name, p in model.named_parameters()}
    averages = {name: value.clone() for name, value in ema.shadow.items()}
    identity = [id(p) for p in model.parameters()]
    with ema.swapped_in():
        for name, value in averages.items():
            assert torch.equal(model.get_parameter(name), value)
        assert [id(p) for p in model.parameters()] == identity
    assert all(torch.equal(p, live[name]) for name, p in model.named_parameters())
    assert all(torch.equal(ema.shadow[name], value) for name, value in averages.items())


def test_live_weights_are_restored_after_an_exception():
    model = module()
    ema = EMA(model, 0.5)
    move(model, 1.0)
    live = model[0].weight.detach().clone()
    with pytest.raises(RuntimeError, match="in evaluation"), ema.swapped_in():
        raise RuntimeError("in evaluation")
    assert torch.equal(model[0].weight, live)


def test_a_state_of_another_model_is_rejected_with_parameter_names():
    ema = EMA(module(), 0.5)
    state = dict(ema.state_dict())
    state["2.weight"] = state.pop("0.weight")
    with pytest.raises(ValueError, match=r"missing \['0.weight'\], unexpected \['2.weight'\]"):
        ema.load_state_dict(state)


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_an_impossible_rate_is_rejected(rate):
    with pytest.raises(ValueError, match="ema_rate"):
        EMA(module(), rate)
