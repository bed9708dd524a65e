"""Gaussian noise on the scratch latents, a pure function of (seed, puzzle, chain, step), not of batch or rank.

A counter-based generator: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) hashes the key of each chain with the index of
each number in one pass on the device, and the Box-Muller transform turns the bits into normal variates.
Shapes: m active rows, L positions, D hidden size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from models.recursive import State

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_UNIT = 2.0**-24


def chain_keys(seed: int, numbers: np.ndarray, num_chains: int) -> Tensor:
    """(n·num_chains,) int64: one key per chain of the puzzles `numbers` (n,); chains of a puzzle are adjacent."""
    puzzles = _mix(_mix(torch.tensor([seed]) + 1) + torch.from_numpy(numbers) * _GOLDEN)
    return _mix(puzzles[:, None] + (torch.arange(num_chains) + 1) * _GOLDEN).reshape(-1)


def standard_normal(keys: Tensor, start: int | Tensor, count: int) -> Tensor:
    """(m, count) float32: variates of each key's (m,) stream, from the even index `start` on, a number or (m,)."""
    if isinstance(start, int):
        assert start % 2 == 0, start
        start = torch.full_like(keys, start)
    pairs = start[:, None] // 2 + torch.arange((count + 1) // 2, device=keys.device)
    bits = _mix(keys[:, None] + (pairs + 1) * _GOLDEN)
    first = ((_shift(bits, 40) + 1).float()) * _UNIT  # in (0, 1], so that the logarithm is finite
    second = (bits & 0xFFFFFF).float() * _UNIT
    radius, angle = torch.sqrt(-2 * torch.log(first)), 2 * math.pi * second
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1).flatten(1)[:, :count]


def add_noise(state: State, keys: Tensor, sigma: float, numbers: Tensor) -> State:
    """Add N(0, sigma² I) to every latent of m rows except the answer, before the steps `numbers` (m,) of each.

    Drawn in float32 and cast to the dtype of the latents; `keys` (m,) come from `chain_keys`.
    """
    answer, *scratch = state
    count = scratch[0][0].numel()
    room = count + count % 2
    noisy = [
        latent
        + (
            sigma * standard_normal(keys, ((numbers - 1) * len(scratch) + i) * room, count).view_as(latent)
        ).to(latent.dtype)
        for i, latent in enumerate(scratch)
    ]
    return (answer, *noisy)


class LatentNoise:
    """`add_noise` as a `Perturbation` of chains in lockstep; `keys` (n·C,). The model must have a scratch latent."""

    def __init__(self, keys: Tensor, sigma: float):
        self.keys, self.sigma = keys, sigma

    def __call__(self, state: State, number: int, row_indices: Tensor) -> State:
        return add_noise(state, self.keys[row_indices], self.sigma, torch.full_like(row_indices, number))


def _mix(x: Tensor) -> Tensor:
    """SplitMix64 finaliser on int64; products wrap around."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
