"""Gaussian noise on the scratch latents, a pure function of (seed, puzzle, chain, step): no batch or rank changes it.

A counter-based generator: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) hashes a key for each chain together with the
place of every number, on the device and in one pass, and Box and Muller's transform makes normal numbers of the bits.
Shapes: m rows in flight, L positions, D hidden size.
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
    """(n·num_chains,) int64: a key for each chain of the puzzles `numbers` (n,), chains of a puzzle side by side."""
    puzzles = _mix(_mix(torch.tensor([seed]) + 1) + torch.from_numpy(numbers) * _GOLDEN)
    return _mix(puzzles[:, None] + (torch.arange(num_chains) + 1) * _GOLDEN).reshape(-1)


def standard_normal(keys: Tensor, start: int, count: int) -> Tensor:
    """(m, count) float32: the numbers from the even place `start` on of each key's (m,) stream."""
    assert start % 2 == 0, start
    pairs = torch.arange(start // 2, start // 2 + (count + 1) // 2, device=keys.device)
    bits = _mix(keys[:, None] + (pairs + 1) * _GOLDEN)
    first = ((_shift(bits, 40) + 1).float()) * _UNIT  # (0, 1], so that its logarithm is finite
    second = (bits & 0xFFFFFF).float() * _UNIT
    radius, angle = torch.sqrt(-2 * torch.log(first)), 2 * math.pi * second
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1).flatten(1)[:, :count]


class LatentNoise:
    """Adds N(0, sigma² I) to every latent but the answer, drawn in float32 and cast to the latents' dtype.

    `keys` (n·C,) are those of `chain_keys`. The model must have such a latent (`has_scratch`).
    """

    def __init__(self, keys: Tensor, sigma: float):
        self._keys, self._sigma = keys, sigma

    def __call__(self, state: State, number: int, places: Tensor) -> State:
        answer, *scratch = state
        keys, count = self._keys[places], scratch[0][0].numel()
        room = count + count % 2
        noisy = [
            latent
            + (
                self._sigma
                * standard_normal(keys, ((number - 1) * len(scratch) + i) * room, count).view_as(latent)
            ).to(latent.dtype)
            for i, latent in enumerate(scratch)
        ]
        return (answer, *noisy)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap around."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, places: int) -> Tensor:
    """A shift to the right that fills with zeros, as of unsigned numbers."""
    return (x >> places) & ((1 << (64 - places)) - 1)
