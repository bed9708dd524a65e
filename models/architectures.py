"""The architectures: their latents, their networks and the equations of one cycle. Nothing else differs.

`models/recursive.py` has everything shared: embedding, heads, gradient in the last cycle only, and `self.f(network, h,
injection)`. x is the embedded question; letters as in arXiv 2510.04871.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from models.arch_configs import Hier6Config, HRMConfig, TransformersBaselineConfig, URMConfig
from models.equivariant import EquivariantModel
from models.local import LocalModel
from models.recursive import (
    RecursiveModel,
    SingleLatentModel,
    State,
)
from models.se_rrm import SERRM


class TRM(RecursiveModel):
    """Tiny Recursive Model, arXiv 2510.04871: state (y, z), one network for both."""

    def cycle(self, state: State, x: Tensor) -> State:
        y, z = state
        z = self.f(self.L_level, z, y + x, self.L_cycles)
        return self.f(self.L_level, y, z), z


class SingleZ(TRM):
    """The paper's single-feature ablation: one latent is both answer and reasoning state."""

    latents: ClassVar = {"z_L": "L_init"}

    def cycle(self, state: State, x: Tensor) -> State:
        (z,) = state
        z = self.f(self.L_level, z, x, self.L_cycles)
        return (self.f(self.L_level, z, None),)


class Hier6(TRM):
    """The paper's multi-scale ablation: six low-level latents, step j of a cycle replaces the j-th."""

    Config = Hier6Config
    latents: ClassVar = {"z_H": "H_init"} | {f"z_L{i}": f"L{i}_init" for i in range(1, 7)}

    def cycle(self, state: State, x: Tensor) -> State:
        y, *zs = state
        question = y + x
        for j in range(self.L_cycles):
            zs[j] = self.f(self.L_level, sum(zs[1:], zs[0]), question)
        return self.f(self.L_level, y, sum(zs[1:], zs[0])), *zs


class HRM(RecursiveModel):
    """Hierarchical Reasoning Model, arXiv 2506.21734: two networks, gradient through the last z_L and z_H only."""

    Config = HRMConfig
    networks: ClassVar = ("H_level", "L_level")
    published_halting: ClassVar = "q_learning"

    def update_z(self, y: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return self.f(self.L_level, z, y + x)

    def update_y(self, y: Tensor, z: Tensor) -> Tensor:
        return self.f(self.H_level, y, z)

    def no_grad_cycles(self, state: State, x: Tensor) -> State:
        y, z = state
        for i in range(self.H_cycles):
            last = i == self.H_cycles - 1
            for _ in range(self.L_cycles - last):
                z = self.update_z(y, z, x)
            if not last:
                y = self.update_y(y, z)
        return y, z

    def grad_cycle(self, state: State, x: Tensor) -> State:
        y, z = state
        z = self.update_z(y, z, x)
        return self.update_y(y, z), z


class TransformersBaseline(RecursiveModel):
    """Baseline without recursion within a supervision step: one stack, applied once to y + x."""

    Config = TransformersBaselineConfig
    latents: ClassVar = {"z_H": "H_init"}
    networks: ClassVar = ("H_level",)
    published_halting: ClassVar = "q_untrained"

    def no_grad_cycles(self, state: State, x: Tensor) -> State:
        return state

    def grad_cycle(self, state: State, x: Tensor) -> State:
        (y,) = state
        return (self.f(self.H_level, y, x),)


class URM(SingleLatentModel):
    """Universal reasoning model, arXiv 2512.14693."""

    Config = URMConfig


class TRMEquivariant(EquivariantModel, TRM):
    """TRM with a network that knows the units and is equivariant under all their symmetries."""


class TRMLocal(LocalModel):
    """z = f(z, x), L times a cycle, with a network that sees a cell's four neighbours only."""


ARCHITECTURES: dict[str, type[RecursiveModel]] = {
    "trm": TRM,
    "trm_singlez": SingleZ,
    "trm_hier6": Hier6,
    "hrm": HRM,
    "transformers_baseline": TransformersBaseline,
    "urm": URM,
    "se_rrm": SERRM,
    "trm_equivariant": TRMEquivariant,
    "trm_local": TRMLocal,
}
