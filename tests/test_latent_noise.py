"""Noise on latents: normally distributed, and the same for a chain of a puzzle in any batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from evaluators.strategies.latent_noise import LatentNoise, chain_keys, standard_normal


def test_noise_is_standard_normal_and_uncorrelated():
    draws = standard_normal(chain_keys(0, np.arange(40), 5), 0, 5001).double()
    count = draws.numel()
    assert abs(draws.mean()) < 5 / math.sqrt(count)
    assert abs(draws.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((draws**3).mean()) < 5 * math.sqrt(15 / count)
    assert abs((draws**4).mean() - 3) < 5 * math.sqrt(96 / count)
    # Kolmogorov-Smirnov distance to the normal distribution; 1.95 / sqrt(n) at a significance of 0.001.
    ordered = draws.flatten().sort().values
    expected = torch.special.ndtr(ordered)
    assert (expected - torch.arange(1, count + 1) / count).abs().max() < 1.95 / math.sqrt(count)
    between = torch.corrcoef(draws) - torch.eye(len(draws), dtype=torch.float64)
    assert between.abs().max() < 6 / math.sqrt(draws.shape[1])
    along = (draws[:, 1:] * draws[:, :-1]).mean()
    assert abs(along) < 5 / math.sqrt(count)


def test_keys_differ_between_puzzles_chains_and_seeds():
    keys = torch.cat([chain_keys(seed, np.arange(100), 7) for seed in range(10)])
    assert len(keys.unique()) == len(keys)
    few = chain_keys(3, np.array([4, 9]), 2)
    assert torch.equal(few, chain_keys(3, np.arange(10), 5).view(10, 5)[[4, 9], :2].flatten())


def test_a_stream_can_be_read_at_any_position():
    keys = chain_keys(1, np.arange(3), 1)
    assert torch.equal(standard_normal(keys, 10, 7), standard_normal(keys, 0, 40)[:, 10:17])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_latent_except_the_answer_gets_independent_noise_at_every_step(dtype):
    noise = LatentNoise(chain_keys(0, np.arange(6), 1), sigma=0.5)
    state = tuple(torch.ones(6, 5, 3, dtype=dtype) for _ in range(3))
    everywhere = torch.arange(6)
    first, second = noise(state, 1, everywhere), noise(state, 2, everywhere)
    assert first[0] is state[0]
    drawn = [latent.float() - 1 for latent in (*first[1:], *second[1:])]
    assert {latent.dtype for latent in first} == {dtype}
    assert all(0.3 < draw.std() < 0.7 for draw in drawn)
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_noise_of_a_row_does_not_depend_on_its_position_in_the_batch():
    noise = LatentNoise(chain_keys(0, np.arange(6), 1), sigma=1.0)
    state = (torch.zeros(6, 5, 3), torch.zeros(6, 5, 3))
    whole = noise(state, 4, torch.arange(6))[1]
    some = torch.tensor([5, 2, 2])
    assert torch.equal(noise(tuple(latent[some] for latent in state), 4, some)[1], whole[some])
