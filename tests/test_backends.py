"""Backends: custom ones, recomputation with the weights of the step, and independence of the models."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
import torch

from benchmarks.step import Case, config_of
from models.backends import Backend, Eager, TorchCompile
from models.blocks import Network
from utils.distributed import World

MODELS = Path(__file__).resolve().parents[1] / "models"
SMALL = (
    "arch.hidden_size=32",
    "arch.num_heads=2",
    "arch.H_cycles=2",
    "arch.L_cycles=2",
    "global_batch_size=4",
)


def case(arch: str, dtype: str = "bfloat16") -> Case:
    overrides = f"arch={arch}", *SMALL, f"arch.forward_dtype={dtype}", "ema=True"
    return Case(config_of(*overrides), 36, World(device=torch.device("cpu")))


def gradients(case: Case) -> dict[str, torch.Tensor]:
    """Return all gradients of two supervision steps, and the latents after them."""
    model = case.model.train()
    carry = model.act.initial_carry(case.batch)
    for _ in range(2):
        carry, loss, *_ = model(carry, case.batch)
        loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {f"latent {i}": latent for i, latent in enumerate(carry.state)}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert any("gate_up_proj" in name for name in one)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


class Minimal(Backend):
    """A minimal backend, which only defines `apply`."""

    def __init__(self):
        super().__init__()
        self.applied: list[Network] = []

    def apply(self, network, h, injection, cos_sin):
        self.applied.append(network)
        return network(h, injection, cos_sin)


@pytest.mark.parametrize("arch", ["trm", "hrm"])
def test_a_backend_that_only_defines_apply_trains_like_eager_code(arch):
    eager, own = case(arch), case(arch)
    inner = own.model.architecture
    inner.backend = backend = Minimal()
    assert_equal(gradients(eager), gradients(own))
    assert set(backend.applied) == {getattr(inner, name) for name in inner.networks}


def test_a_backend_without_apply_raises_an_error():
    one = case("trm")
    one.model.architecture.backend = Backend()
    with pytest.raises(NotImplementedError, match="Backend must define apply"):
        one.train_step()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "make", [Eager, functools.partial(TorchCompile, backend="eager")], ids=["eager", "compile"]
)
def test_recomputing_activations_changes_nothing_and_uses_the_weights_of_the_step(make, dtype):
    kept, recomputed = case("trm", dtype), case("trm", dtype)
    for each in (kept, recomputed):
        inner = each.model.architecture
        inner.backend = Eager() if make is Eager else make(inner)
    recomputed.model.architecture.activation_checkpointing = True
    assert_equal(gradients(kept), gradients(recomputed))
    assert recomputed.model.architecture.backend.weights is None
    assert all(block.mlp.down_proj.cast is None for block in recomputed.model.architecture.L_level.layers)


@pytest.mark.parametrize(
    "name", ["layers", "blocks", "unit_block", "equivariant", "local", "se_rrm", "ops", "kernels"]
)
def test_models_do_not_import_backends(name):
    tree = ast.parse((MODELS / f"{name}.py").read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported
    assert [module for module in imported if module.startswith("models.backends")] == []
