"""Effects of compiling around the networks: memory that CUDA graphs overwrite in each step, and chunks of rows.

Graphs are simulated by memory that is overwritten when a step begins.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from benchmarks.step import Case, config_of
from config.evaluate_schema import EvaluateConfig
from evaluators.evaluation import run_steps
from models import ops
from models.backends import Eager, TorchCompile, choose_backend
from models.backends.batch_chunks import BatchChunks, single_thread_pool
from models.backends.torch_compile import CUDA_GRAPH_MODES
from models.blocks import Network
from models.kernels import GatedByExp2
from utils.device import COMPILE_MODES, missing_toolchain
from utils.distributed import World
from utils.strict_model import parse

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning"
)  # when torch imports its compiler

CPU = torch.device("cpu")
SMALL = (
    "arch.hidden_size=32",
    "arch.num_heads=2",
    "arch.H_cycles=2",
    "arch.L_cycles=2",
    "arch.halt_max_steps=4",
    "arch.forward_dtype=float32",
    "global_batch_size=4",
    "lr=1e-2",
    "lr_warmup_steps=0",
    "ema=True",
)


def case(*overrides: str) -> Case:
    return Case(config_of(*SMALL, *overrides), 36, World(device=CPU))


def uncompiled(case: Case, chunks: BatchChunks | None) -> TorchCompile:
    """Give the case the backend of `torch.compile`, with uncompiled networks, and return it."""
    inner = case.model.architecture
    inner.backend = backend = TorchCompile(inner, backend="eager")
    backend.chunks = chunks
    backend.compiled = backend.compiled_in_thread = {network: network for network in backend.compiled}
    return backend


@pytest.fixture
def graphs(monkeypatch):
    """Make networks behave as if replayed from CUDA graphs; return a list with the number of steps begun."""
    outputs, begun = [], []

    def begin() -> None:
        begun.append(len(outputs))
        for output in outputs:
            output.data.fill_(torch.nan)
        outputs.clear()

    def replaying(network: Network) -> Callable[..., torch.Tensor]:
        def replayed(*inputs) -> torch.Tensor:
            outputs.append(network(*inputs))
            return outputs[-1]

        return replayed

    def behave(case: Case) -> list[int]:
        backend = uncompiled(case, None)
        backend.uses_cuda_graphs = True
        backend.compiled = {network: replaying(network) for network in backend.compiled}
        backend.compiled_in_thread = backend.compiled
        return begun

    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", begin)
    return behave


@pytest.mark.parametrize(
    "overrides",
    [
        ("arch=trm",),
        ("arch=trm", "arch.no_ACT_continue=False"),
        ("arch=trm", "grad_accum_steps=2"),
        ("arch=trm", "arch.random_init=True", "arch.noise=0.01", "arch.damping=0.05"),
        ("arch=hrm",),
        ("arch=urm",),
        ("arch=se_rrm",),
        ("arch=trm_equivariant", "arch.num_heads=1"),
        ("arch=trm_local", "arch.num_heads=1"),
    ],
    ids=" ".join,
)
def test_nothing_is_read_from_an_earlier_step(graphs, overrides):
    plain, replayed = case(*overrides), case(*overrides)
    begun = graphs(replayed)
    for _ in range(2):
        plain.train_step()
        replayed.train_step()
    assert len(begun) == 2 * replayed.config.grad_accum_steps
    for (name, one), other in zip(
        plain.model.state_dict().items(), replayed.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)

    expected, found = (run_steps(c.model.act.eval(), c.batch)[0] for c in (plain, replayed))
    for name, value in expected.items():
        torch.testing.assert_close(value, found[name], rtol=0, atol=0, msg=name)


def two_steps(case: Case) -> tuple[torch.Tensor, ...]:
    """Return the latents after two steps of `inner`, run as test-time strategies do."""
    model = case.model.act.eval()
    with torch.no_grad():
        state = model.inner.initial_state(len(case.batch["inputs"]))
        rows = model.inner.puzzle_rows(case.batch)
        for call in (1, 2):
            state, _ = model.run_inner(call, state, case.batch["inputs"], rows)
    return state


def test_a_state_survives_into_the_next_step(graphs, monkeypatch):
    plain, replayed = case("arch=trm"), case("arch=trm")
    graphs(replayed)
    for one, other in zip(two_steps(plain), two_steps(replayed), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    # The simulation detects latents that are not copied.
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor: tensor)
    assert all(latent.isnan().all() for latent in two_steps(replayed))


def test_the_modes_with_cuda_graphs_match_those_of_the_compiler():
    from torch._inductor import list_mode_options  # takes seconds to import

    recording = {mode for mode in COMPILE_MODES if list_mode_options(mode).get("triton.cudagraphs")}
    assert recording == set(CUDA_GRAPH_MODES)


def test_outputs_are_treated_as_graph_memory_on_cuda_only():
    inner = case("arch=trm").model.architecture
    assert not TorchCompile(inner, "reduce-overhead").uses_cuda_graphs


def test_training_and_evaluation_accept_the_same_compile_choices():
    assert parse(EvaluateConfig, {"checkpoint": "run", "compile": "max-autotune"}).compile == "max-autotune"
    for mode in COMPILE_MODES:
        assert config_of("arch=trm", f"compile={mode}").compile == mode


def trained(case: Case) -> dict[str, torch.Tensor]:
    """Return all gradients, losses and latents of two supervision steps; two updates would hardly change weights."""
    model, found = case.model.train(), {}
    carry = model.act.initial_carry(case.batch)
    for step in (1, 2):
        carry, loss, *_ = model(carry, case.batch)
        loss.backward()
        found |= {f"loss {step}": loss.detach()}
    found |= {f"latent {i}": latent for i, latent in enumerate(carry.state)}
    return found | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_training(one: Case, other: Case) -> None:
    expected, found = trained(one), trained(other)
    assert expected.keys() == found.keys()
    assert any(name.endswith("gate_up_proj.weight") for name in expected)
    for name, value in expected.items():
        scale = float(value.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(value, found[name], rtol=1e-4, atol=1e-5 * scale, msg=name)


class Applications(list):
    """Record the number of rows of each application of the networks."""

    def __init__(self, inner):
        for name in inner.networks:
            getattr(inner, name).register_forward_pre_hook(lambda _, inputs: self.append(len(inputs[0])))


def evaluated(case: Case, chunks: BatchChunks | None) -> tuple[tuple[torch.Tensor, ...], list[int]]:
    """Return the latents after two steps of an evaluation, and the number of rows of each network application."""
    uncompiled(case, chunks)
    applications = Applications(case.model.architecture)
    return two_steps(case), list(applications)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "arch",
    [
        "trm",
        "trm_singlez",
        "trm_hier6",
        "hrm",
        "transformers_baseline",
        "urm",
        "se_rrm",
        "trm_equivariant",
        "trm_local",
    ],
)
def test_chunks_of_rows_give_the_same_results_as_the_whole_batch(arch, threads):
    overrides = (
        ("arch=trm", f"arch.name={arch}") if arch in ("trm_singlez", "trm_hier6") else (f"arch={arch}",)
    )
    one = case(*overrides, *(["arch.num_heads=1"] if arch in ("trm_equivariant", "trm_local") else []))
    length = one.model.architecture.length
    together, whole_rows = evaluated(one, None)
    in_parts, part_rows = evaluated(one, BatchChunks(threads, 2 * length))
    assert (set(whole_rows), set(part_rows), len(part_rows)) == ({4}, {2}, 2 * len(whole_rows))
    for whole, joined in zip(together, in_parts, strict=True):
        torch.testing.assert_close(whole, joined, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_training_uses_chunks_only_without_gradient(threads):
    plain, parted = case("arch=trm"), case("arch=trm")
    inner = parted.model.architecture
    uncompiled(parted, BatchChunks(threads, 2 * inner.length))
    rows = Applications(inner)
    assert_same_training(plain, parted)
    per_cycle = inner.L_cycles + 1
    # One of the two cycles in two chunks, one as a whole.
    assert rows == ([2] * 2 * per_cycle + [4] * per_cycle) * 2


def test_random_numbers_are_drawn_for_the_whole_batch():
    one = case("arch=trm", "arch.noise=0.1")
    assert set(evaluated(one, BatchChunks(2, 2 * one.model.architecture.length))[1]) == {4}


@pytest.mark.parametrize(
    ("rows", "fits", "threads", "size"),
    [
        (64, 19, 1, 16),
        (64, 19, 2, 16),
        (4, 3, 1, 2),  # 4 rows do not divide into equal chunks of 3, but of 2
        (4, 9, 1, 4),
        (8, 10, 2, 4),  # one chunk per thread
        (8, 10, 1, 8),
        (8, 21, 2, 4),
        (11, 8, 1, 11),  # chunks of a single row would be far smaller than the limit
        (64, 19, 3, 8),  # 4 chunks of 16 would leave threads idle in the second round
        (64, 19, 32, 64),  # 32 chunks of 2 rows would be far smaller
        (1, 5, 2, 1),
    ],
)
def test_chunks_are_equal_use_all_threads_and_are_not_too_small(rows, fits, threads, size):
    assert BatchChunks(threads, fits * 36).size(rows, 36) == size


def test_chunk_threads_are_single_threaded_and_keep_the_global_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with single_thread_pool.__wrapped__(2) as threads, ThreadPoolExecutor(1) as later:
            torch.set_num_threads(4)
            assert list(threads.map(lambda _: torch.get_num_threads(), range(8))) == [1] * 8
            assert torch.get_num_threads() == later.submit(torch.get_num_threads).result() == 4
        torch.set_num_threads(3)
        with single_thread_pool.__wrapped__(2), ThreadPoolExecutor(1) as later:
            assert torch.get_num_threads() == later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_chunk_is_raised_in_the_caller():
    def failing(state, x):
        raise ValueError("no such row")

    rows = torch.zeros(4, 36, 2)
    with pytest.raises(ValueError, match="no such row"):
        BatchChunks(2, 2 * 36).apply(failing, (rows,), rows)


def test_compiling_on_a_cpu_uses_chunks():
    inner = case("arch=trm").model.architecture
    assert type(inner.backend) is Eager
    assert choose_backend(inner, backend="eager").chunks.num_threads == torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.parametrize("mode", COMPILE_MODES)
def test_every_mode_trains_and_evaluates_like_eager(mode):
    if missing := missing_toolchain():
        pytest.skip(f"torch.compile needs {missing}")
    plain, compiled = case("arch=trm"), case("arch=trm")
    inner = compiled.model.architecture
    inner.backend = choose_backend(inner, mode)
    inner.backend.chunks = BatchChunks(torch.get_num_threads(), 2 * inner.length)
    assert_same_training(plain, compiled)
    for one, other in zip(two_steps(plain), two_steps(compiled), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_explicit_attention_equals_the_fused_kernel_up_to_rounding(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    # Queries, keys, values and the upstream gradient, representable in bfloat16.
    *qkv, upstream = torch.randn(4, 2, 4, 52, 32, generator=generator).bfloat16()

    def attended(dtype: torch.dtype) -> torch.Tensor:
        """Return the output and the gradients of queries, keys and values."""
        leaves = [tensor.to(dtype).requires_grad_() for tensor in qkv]
        out = ops.attend(*leaves)
        return torch.stack((out, *torch.autograd.grad(out, leaves, upstream.to(dtype)))).detach().float()

    expected, fused = attended(torch.float32), attended(torch.bfloat16)
    monkeypatch.setattr(ops, "may_round_differently", lambda tensor: True)
    written_out = attended(torch.bfloat16)
    assert not torch.equal(written_out, fused)
    of_fused, of_written_out = ((found - expected).abs().mean((1, 2, 3, 4)) for found in (fused, written_out))
    # The scores are rounded to bfloat16; the kernel keeps them in float32.
    assert (of_written_out < 2 * of_fused).all()
    assert (of_written_out < 0.005 * expected.abs().mean((1, 2, 3, 4))).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
def test_the_gate_with_exp2_equals_silu_up_to_rounding(dtype):
    generator = torch.Generator().manual_seed(0)
    # Including values with an infinite or zero exponential.
    gate = torch.cat(
        (10 * torch.randn(5, 60, generator=generator), torch.tensor([[-200.0, 0.0, 200.0, 90.0]] * 5)), 1
    )
    gate_up = torch.cat((gate, torch.randn(5, 64, generator=generator)), 1).to(dtype).requires_grad_()
    upstream = torch.randn(5, 64, generator=generator).to(dtype)
    found = GatedByExp2.apply(gate_up)
    exact = gate_up.detach().double().requires_grad_()
    expected = torch.nn.functional.silu(exact[:, :64]) * exact[:, 64:]
    assert found.dtype == dtype
    close = {"rtol": 1e-2, "atol": 1e-6} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found.double(), expected, **close)
    (grad,) = torch.autograd.grad(found, gate_up, upstream)
    (expected_grad,) = torch.autograd.grad(expected, exact, upstream.double())
    torch.testing.assert_close(grad.double(), expected_grad, **close)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [(), ("arch.mlp_t=True", "arch.pos_encodings=none")], ids=["att", "mlp"]
)
def test_compiled_threads_are_as_close_to_float32_as_eager_bfloat16(overrides):
    if missing := missing_toolchain():
        pytest.skip(f"torch.compile needs {missing}")
    exact, eager, compiled = (
        case("arch=trm", *overrides, f"arch.forward_dtype={dtype}")
        for dtype in ("float32", "bfloat16", "bfloat16")
    )
    inner = compiled.model.architecture
    inner.backend = choose_backend(inner, "default")
    inner.backend.chunks = BatchChunks(2, 2 * inner.length)
    expected, *found = (torch.cat(two_steps(c)).float() for c in (exact, eager, compiled))
    assert expected.std() > 0.5
    of_eager, of_compiled = ((latents - expected).abs().mean() for latents in found)
    assert 0 < of_compiled < 1.5 * of_eager


COMPILED = [
    ("arch=trm",),
    ("arch=trm", "arch.mlp_t=True", "arch.pos_encodings=none"),
    ("arch=trm", "arch.ffn=rms_swiglu"),
    ("arch=urm",),
    ("arch=se_rrm",),
    ("arch=trm_equivariant", "arch.num_heads=1"),
    ("arch=trm_local", "arch.num_heads=1"),
]


@pytest.mark.parametrize("overrides", COMPILED, ids=" ".join)
def test_compiled_gradients_in_bfloat16_are_those_of_eager_code_up_to_rounding(overrides):
    assert_same_gradients_in_bfloat16(overrides)


@pytest.mark.parametrize("overrides", COMPILED[:2], ids=" ".join)
def test_operations_chosen_for_compiling_on_a_gpu_have_gradients_in_bfloat16(overrides, monkeypatch):
    monkeypatch.setattr(ops, "compiles_for_cpu", lambda x: False)
    assert_same_gradients_in_bfloat16(overrides)


def assert_same_gradients_in_bfloat16(overrides: tuple[str, ...]) -> None:
    """Assert that compiled code has gradients as close to those in float32 as eager code has."""
    # `aot_eager` traces forward and backward, and only skips the code generation, which takes minutes.
    torch.compiler.reset()  # or it stops compiling after some networks, which share their code

    def gradients(dtype: str, compiled: bool) -> dict[str, torch.Tensor]:
        made = case(*overrides, f"arch.forward_dtype={dtype}")
        inner, act = made.model.architecture, made.model.train().act
        if compiled:
            inner.backend = choose_backend(inner, backend="aot_eager")
        _, outputs = act(act.initial_carry(made.batch), made.batch)
        outputs["logits"].float().logsumexp(-1).square().mean().backward()
        found = {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}
        return {name: grad for name, grad in found.items() if grad.any()}

    exact = gradients("float32", False)
    assert len(exact) >= 4
    errors = []
    for compiled in (False, True):
        found = gradients("bfloat16", compiled)
        assert found.keys() == exact.keys()
        differences = [(found[name] - grad).norm() / grad.norm() for name, grad in exact.items()]
        errors.append(torch.stack(differences).mean())
    of_eager, of_compiled = errors
    assert 0 < of_compiled < 1.5 * of_eager
