"""AdamATan2's step in C++: every bit as with torch's operations, over whole trainings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from fused_networks import NARROW, needs_avx2, number_of_threads

from benchmarks.step import Case, config_of
from models.backends import choose_backend
from models.backends.fused_cpu.atan2_step import ATan2Step
from models.backends.fused_cpu.bindings import load_library, variant
from models.optim.adam_atan2 import AdamATan2
from utils.distributed import World

# Sizes below, at and above a vector, a block and torch's share of a thread.
SIZES = [(), (1,), (2, 3), (31,), (8, 4), (33,), (257,), (5, 1000), (32_767,), (2, 16_384), (100_003,)]


def exact_kernel() -> ATan2Step:
    chosen = variant(torch.float32)
    assert chosen is not None
    kernel = ATan2Step.if_exact(load_library(chosen))
    if kernel is None:
        pytest.skip("torch is built with other square roots or arctangents")
    return kernel


def gradient(shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    """Values from denormal to large, some of them zero."""
    scale = 10.0 ** torch.randint(-42, 6, shape, generator=rng)
    values = scale * torch.randn(shape, generator=rng)
    return values * (torch.rand(shape, generator=rng) > 0.1)


def assert_equal_bits(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32))


def values_of(optimizer: AdamATan2) -> list[torch.Tensor]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    states = [optimizer.state[p] for p in params]
    return [p.detach() for p in params] + [
        state[key] for state in states for key in ("exp_avg", "exp_avg_sq")
    ]


@needs_avx2
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 3e-3, "betas": (0.51, 0.6), "weight_decay": 1.0},
        {"lr": 0.0, "betas": (0.9, 0.9999), "weight_decay": 0.0},
    ],
    ids=str,
)
def test_every_bit_is_as_with_torch(settings, threads):
    kernel, rng = exact_kernel(), torch.Generator().manual_seed(0)
    ours, theirs = (
        AdamATan2(
            [torch.nn.Parameter(torch.linspace(-1, 1, torch.Size(s).numel()).view(s)) for s in SIZES],
            **settings,
        )
        for _ in range(2)
    )
    ours.kernel = lambda: kernel
    with number_of_threads(threads):
        for step in range(6):
            if step == 3:  # resumed from a saved state
                ours.load_state_dict(deepcopy(ours.state_dict()))
            grads = [gradient(shape, rng) for shape in SIZES]
            for optimizer in (ours, theirs):
                for p, grad in zip(optimizer.param_groups[0]["params"], grads, strict=True):
                    p.grad = None if step == 4 and p.ndim == 2 else grad.clone()  # some have none
                optimizer.step()
            assert_equal_bits(values_of(ours), values_of(theirs))


@needs_avx2
def test_what_does_not_fit_is_left_to_torch():
    kernel, used = exact_kernel(), []

    def spy(*arguments) -> bool:
        used.append(kernel(*arguments))
        return used[-1]

    for start, betas, fits in (
        (torch.ones(4, 6), (0.9, 0.95), True),
        (torch.ones(4, 6), (0.0, 0.95), False),
        (torch.ones(4, 6), (0.9, 0.5), False),
        (torch.ones(4, 6, dtype=torch.float64), (0.9, 0.95), False),
        (torch.ones(6, 4).t(), (0.9, 0.95), False),
    ):
        ends = []
        for own in (spy, None):
            p = torch.nn.Parameter(start.clone())
            optimizer = AdamATan2([p], betas=betas, kernel=lambda own=own: own)
            p.grad = torch.full_like(p, 0.5)
            optimizer.step()
            ends.append(p.detach())
        assert torch.equal(*ends)
        assert used.pop() == fits


@needs_avx2
def test_autograd_notices_that_the_weights_have_changed():
    kernel, p = exact_kernel(), torch.nn.Parameter(torch.ones(4))
    optimizer = AdamATan2([p], kernel=lambda: kernel)
    loss = p.square().sum()
    p.grad = torch.ones(4)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_avx2
def test_a_library_that_computes_other_numbers_is_not_used():
    library = load_library(NARROW)
    kernel = ATan2Step.if_exact(library)
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert kernel is None if wide else kernel is not None  # torch's vectors are wider

    class Failing:
        @staticmethod
        def adam_atan2(*_) -> bytes:
            return b"no arctangent"

    assert ATan2Step.if_exact(Failing) is None


@needs_avx2
def test_with_the_instructions_of_avx2_every_bit_is_as_with_torch():
    """In a separate process, because torch reads the variable when it is imported."""
    code = (
        "from models.backends.fused_cpu.atan2_step import ATan2Step\n"
        "from models.backends.fused_cpu.bindings import load_library, variant\n"
        "import torch\n"
        "assert variant(torch.float32).vectors == 'vectors_256.hpp'\n"
        "assert ATan2Step.if_exact(load_library(variant(torch.float32)))\n"
    )
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=root,
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"},
    )


def trained(steps: Callable[[Case], None], *, by_torch: bool) -> Case:
    one = Case(
        config_of(
            "arch=trm",
            *("arch.hidden_size=32", "arch.num_heads=2", "arch.H_cycles=2", "arch.L_cycles=2"),
            *(
                "arch.forward_dtype=float32",
                "global_batch_size=4",
                "ema=True",
                "lr=1e-2",
                "lr_warmup_steps=3",
            ),
            *("weight_decay=0.5", "grad_clip=0.1"),
        ),
        36,
        World(device=torch.device("cpu")),
    )
    inner = one.model.architecture
    inner.backend = choose_backend(inner)
    assert inner.backend.adam_atan2 is not None
    if by_torch:
        inner.backend.adam_atan2 = None
    steps(one)
    return one


@needs_avx2
def test_whole_trainings_are_equal_bit_by_bit_with_clipping_skipped_steps_and_a_resume():
    """`Case.train_step` also updates the averages of the weights and the puzzle embeddings."""
    exact_kernel()

    def steps(one: Case) -> None:
        optimizers, model = one.state.optimizers, one.model
        for step in range(8):
            if step == 4:
                saved = deepcopy((model.state_dict(), optimizers.state_dict()))
                model.load_state_dict(saved[0])
                optimizers.load_state_dict(saved[1])
            hook = None
            if step == 2:  # this update is skipped
                weight = next(p for p in model.parameters() if p.ndim == 2)
                hook = weight.register_hook(lambda grad: torch.full_like(grad, torch.nan))
            before = deepcopy(model.state_dict())
            one.train_step()
            changed = any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
            assert changed == (hook is None)
            if hook is not None:
                hook.remove()

    ours, theirs = trained(steps, by_torch=False), trained(steps, by_torch=True)
    for one, other in (
        (ours.model.state_dict(), theirs.model.state_dict()),
        (ours.state.ema.shadow, theirs.state.ema.shadow),
    ):
        assert_equal_bits(list(one.values()), list(other.values()))
