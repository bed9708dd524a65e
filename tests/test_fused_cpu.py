"""The C++ application of a network compared with PyTorch, which rounds to bfloat16 more often."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import re
import shutil
import subprocess
import sys
import warnings
import weakref

import pytest
import torch
from fused_networks import (
    BFLOAT16,
    FLOAT32,
    NARROW,
    assert_as_exact_as_eager,
    assert_trains_as_eager,
    each_library,
    needs_avx2,
    needs_processor,
    number_of_threads,
    use,
)

from benchmarks.step import Case, config_of
from models import backends
from models.backends import FusedCPU, TorchCompile, choose_backend
from models.backends.fused_cpu import bindings
from models.backends.fused_cpu.compiled_file import compiled_file
from models.backends.fused_cpu.kept_memory import KeptMemory
from models.backends.fused_cpu.network import FusedNetwork
from models.blocks import Network
from utils import device
from utils.distributed import World

MLP = ("arch.mlp_t=True", "arch.pos_encodings=none")


def case(*overrides: str, seq_len: int = 36, dtype: str = "bfloat16", rows: int = 4) -> Case:
    small = "arch.hidden_size=32", "arch.num_heads=2", "arch.H_cycles=2", "arch.L_cycles=2"
    own = f"arch.forward_dtype={dtype}", f"global_batch_size={rows}"
    return Case(
        config_of("arch=trm", *small, "ema=True", *overrides, *own),
        seq_len,
        World(device=torch.device("cpu")),
    )


def network_of(
    case: Case, network: str = "L_level"
) -> tuple[Network, tuple[torch.Tensor, torch.Tensor] | None]:
    inner = case.model.architecture
    return getattr(inner, network), inner.cos_sin()


@each_library
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("overrides", "seq_len", "rows"),
    [
        ((), 36, 7),  # a group of four rows, and one of three
        (("arch.pos_encodings=rope2d",), 81, 2),
        (("arch.pos_encodings=none", "arch.puzzle_emb_ndim=0"), 81, 3),  # an odd length
        (("arch.hidden_size=48", "arch.num_heads=3"), 36, 2),  # blocks of 16 columns
        (("arch.hidden_size=128", "arch.num_heads=1"), 36, 2),  # a head as wide as a block
        (("arch.hidden_size=192", "arch.num_heads=2"), 9, 5),  # heads of 96: one per block
        (("arch.hidden_size=64", "arch.num_heads=4", "arch.L_layers=3"), 200, 2),  # two tiles of queries
        # rows and inner columns that would leave AMX's tiles partly empty
        (("arch.hidden_size=256", "arch.num_heads=4", "arch.puzzle_emb_ndim=0"), 97, 2),
        (("arch.puzzle_emb_ndim=0",), 441, 2),  # an odd length of three tiles, one row at a time
        (("arch.puzzle_emb_ndim=0",), 1, 600),  # three groups of one position each
        (MLP, 36, 7),
        ((*MLP, "arch.hidden_size=128", "arch.puzzle_emb_ndim=0"), 81, 3),
        ((*MLP, "arch.hidden_size=48"), 225, 2),
        (("arch.ffn=rms_swiglu",), 36, 7),
        (("arch.ffn=rms_swiglu", *MLP, "arch.hidden_size=96", "arch.puzzle_emb_ndim=0"), 81, 3),
        (("arch.ffn=conv_swiglu",), 36, 7),
        (("arch.ffn=conv_swiglu", "arch.puzzle_emb_ndim=0"), 441, 2),  # over tiles of an odd length
        (("arch.ffn=conv_swiglu", "arch.puzzle_emb_ndim=0"), 1, 5),  # no position before
    ],
    ids=str,
)
def test_outputs_and_gradients_are_as_exact_as_eager_ones(
    library, overrides, seq_len, rows, threads, monkeypatch
):
    dtype = use(library, monkeypatch)
    network, cos_sin = network_of(case(*overrides, seq_len=seq_len))
    width, length = network.layers[0].mlp.down_proj.weight.shape[0], seq_len + 16
    if "arch.puzzle_emb_ndim=0" in overrides:
        length = seq_len
    h, injection, upstream = torch.randn(
        3, rows, length, width, generator=torch.Generator().manual_seed(0)
    ).to(dtype)

    assert_as_exact_as_eager(network, [h, injection], upstream, threads, cos_sin)


@each_library
def test_rows_do_not_depend_on_other_rows(library, monkeypatch):
    dtype = use(library, monkeypatch)
    for overrides in ((), MLP, ("arch.ffn=conv_swiglu",)):
        network, cos_sin = network_of(case(*overrides))
        fused = FusedNetwork(network, dtype)
        h = torch.randn(9, 52, 32).to(dtype)
        with torch.no_grad():
            together = fused(h, None, cos_sin)
            alone = torch.cat([fused(row, None, cos_sin) for row in h.split(1)])
        assert torch.equal(together, alone)


@each_library
@pytest.mark.parametrize("threads", [1, 2])
def test_applications_in_one_call_equal_separate_ones_bit_by_bit(library, threads, monkeypatch):
    dtype = use(library, monkeypatch)
    network, cos_sin = network_of(case())
    fused = FusedNetwork(network, dtype)
    start = torch.randn(3, 5, 52, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    upstream = start[2]

    def run(times_of_calls: list[int], with_gradient: bool) -> list[torch.Tensor]:
        h, injection = (tensor.clone().requires_grad_(with_gradient) for tensor in start[:2])
        with torch.set_grad_enabled(with_gradient):
            weights, out = fused.weights(), h
            for times in times_of_calls:
                out = fused(out, injection, cos_sin, weights, times)
        assert torch.equal(h, start[0])  # not written to
        return [
            out,
            *(
                torch.autograd.grad(out, [h, injection, *network.parameters()], upstream)
                if with_gradient
                else ()
            ),
        ]

    with number_of_threads(threads):
        for with_gradient in (False, True):
            separate = run([1, 1, 1], with_gradient)
            for calls in ([3], [1, 2], [0, 3]):  # the injection's gradients are added from the last one on
                for ours, expected in zip(run(calls, with_gradient), separate, strict=True):
                    assert torch.equal(ours, expected)


@each_library
def test_checkpointing_makes_no_buffers_before_the_backward_pass_and_changes_no_bit(library, monkeypatch):
    dtype = use(library, monkeypatch)
    network, cos_sin = network_of(case())
    fused = FusedNetwork(network, dtype)
    start = torch.randn(3, 5, 52, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    made: list[KeptMemory] = []
    allocate = KeptMemory.allocate
    monkeypatch.setattr(KeptMemory, "allocate", lambda self: made.append(self) or allocate(self))

    def run(recomputes: bool) -> list[torch.Tensor]:
        h, injection = (tensor.clone().requires_grad_() for tensor in start[:2])
        out = fused(fused(h, injection, cos_sin, recomputes=recomputes), None, cos_sin, recomputes=recomputes)
        assert len(made) == (0 if recomputes else 2)
        return [out, *torch.autograd.grad(out, [h, injection, *network.parameters()], start[2])]

    checkpointed = run(True)
    assert len(made) == 2
    made.clear()
    assert all(torch.equal(one, other) for one, other in zip(checkpointed, run(False), strict=True))


@each_library
def test_zero_rows_are_supported(library, monkeypatch):
    dtype = use(library, monkeypatch)
    network, cos_sin = network_of(case())
    fused = FusedNetwork(network, dtype)
    h = torch.zeros(0, 52, 32, dtype=dtype, requires_grad=True)
    out = fused(h, None, cos_sin)
    assert out.shape == h.shape
    assert torch.autograd.grad(out.sum(), h)[0].shape == h.shape


@each_library
def test_values_that_are_not_finite_stay_so(library, monkeypatch):
    dtype = use(library, monkeypatch)
    for overrides in ((), MLP, ("arch.ffn=conv_swiglu",)):
        network, cos_sin = network_of(case(*overrides))
        fused = FusedNetwork(network, dtype)
        h = torch.randn(3, 52, 32).to(dtype)
        h[1, 5, 3] = torch.nan
        with torch.no_grad():
            out = fused(h, None, cos_sin)
        finite = out.isfinite().flatten(1).all(1).tolist()
        assert finite == [True, False, True]


@each_library
@pytest.mark.parametrize(
    "overrides", [(), MLP, ("arch=hrm", "arch.H_layers=3", "arch.L_layers=2"), ("arch=urm",)], ids=str
)
def test_training_equals_eager_training(library, overrides, monkeypatch):
    assert_trains_as_eager(lambda dtype: case(*overrides, dtype=dtype), library, monkeypatch, steps=2)


@each_library
def test_a_gradient_that_is_requested_twice_is_not_counted_twice(library, monkeypatch):
    dtype = use(library, monkeypatch)
    network, cos_sin = network_of(case())
    fused = FusedNetwork(network, dtype)
    h = torch.randn(4, 52, 32).to(dtype).requires_grad_()
    out = fused(fused(h, None, cos_sin), h, cos_sin).float().square().sum()
    one, other = (torch.autograd.grad(out, network.parameters(), retain_graph=True) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first, second)


@each_library
def test_weight_updates_between_steps_take_effect(library, monkeypatch):
    dtype = use(library, monkeypatch)
    one = case("lr=1e-2", "lr_warmup_steps=0", dtype=str(dtype).removeprefix("torch."))
    inner = one.model.architecture
    inner.backend = choose_backend(inner)
    h = torch.randn(4, 52, 32).to(dtype)

    def latents() -> torch.Tensor:
        with torch.no_grad():
            (_, state), _ = inner((h, h), one.batch["inputs"], inner.puzzle_rows(one.batch))
        return state

    before = latents()
    assert torch.equal(before, latents())
    one.train_step()
    assert not torch.equal(before, latents())
    assert inner.backend.weights is None


@needs_processor
@pytest.mark.parametrize(
    ("overrides", "dtype"),
    [
        ((), "float16"),
        (("arch.hidden_size=24", "arch.num_heads=3"), "float32"),
        (("arch.hidden_size=24", "arch.num_heads=3"), "bfloat16"),  # not a multiple of the vector width
        (("arch.hidden_size=40", "arch.num_heads=1", *MLP), "bfloat16"),
        (("arch.hidden_size=256", "arch.num_heads=1"), "bfloat16"),  # a head wider than a block
        (("arch.L_layers=0",), "bfloat16"),
    ],
    ids=str,
)
def test_unsupported_settings_are_left_to_torch(overrides, dtype):
    inner = case(*overrides, dtype=dtype).model.architecture
    assert not FusedCPU.fits(inner)
    assert isinstance(choose_backend(inner), TorchCompile)


@pytest.mark.parametrize(
    ("capability", "has_products", "expected"),
    [
        ("AVX512", True, {"bfloat16": "vectors_512.hpp", "float32": "vectors_512.hpp"}),
        ("AVX512", False, {"float32": "vectors_512.hpp"}),
        ("AVX2", False, {"float32": "vectors_256.hpp"}),
        ("AVX2", True, {"float32": "vectors_256.hpp"}),  # ATEN_CPU_CAPABILITY=avx2
        ("DEFAULT", False, {}),  # as on Apple's processors
    ],
)
def test_the_library_is_chosen_by_the_processors_instructions(
    monkeypatch, capability, has_products, expected
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_products})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for dtype in ("bfloat16", "float32", "float16"):
        chosen = bindings.variant(getattr(torch, dtype))
        assert (chosen and chosen.vectors) == expected.get(dtype)
        assert FusedCPU.fits(case(dtype=dtype).model.architecture) == (dtype in expected)
    assert bindings.variant(FLOAT32) in (None, NARROW) or capability == "AVX512"


@needs_avx2
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_the_narrow_library_has_no_wider_instructions():
    """A build that is restricted to AVX2 runs on processors that have nothing else."""
    narrow = bindings.load_library(NARROW)
    done = subprocess.run(["objdump", "-d", narrow._name], capture_output=True, text=True, check=True)
    assert "%ymm" in done.stdout
    assert "%zmm" not in done.stdout
    assert "%k1" not in done.stdout


@pytest.mark.parametrize("problem", ["does not compile", "computes wrong results"])
def test_an_unusable_library_falls_back_to_torch_compile_with_a_warning(monkeypatch, problem):
    def failing(_):
        raise RuntimeError(problem)

    monkeypatch.setattr(backends.fused_cpu.network, "load_library", failing)
    inner = case().model.architecture
    with pytest.warns(UserWarning, match=problem):
        backend = choose_backend(inner, backends.FUSED)
    assert isinstance(backend, TorchCompile)


@needs_avx2
def test_a_library_is_compiled_once_and_errors_of_the_compiler_are_raised(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled = compiled_file('extern "C" int answer() { return 42; }')
    assert compiled.is_relative_to(tmp_path)
    assert ctypes.CDLL(str(compiled)).answer() == 42
    with pytest.raises(RuntimeError, match=r"error: .*nonsense"):
        compiled_file("nonsense;")
    assert os.listdir(compiled.parent) == [compiled.name]

    monkeypatch.setattr(sys, "executable", shutil.which("false"))  # a child that fails without a message
    assert compiled_file('extern "C" int answer() { return 42; }') == compiled
    monkeypatch.setenv("CXX", "another-compiler")
    with pytest.raises(RuntimeError, match="compiling ended with status 1"):
        compiled_file('extern "C" int answer() { return 42; }')


@needs_processor
def test_an_error_in_the_library_is_raised(monkeypatch):
    network, cos_sin = network_of(case())
    fused = FusedNetwork(network, BFLOAT16)

    weights = fused.weights()

    class Failing:
        @staticmethod
        def forward(*_) -> bytes:
            return b"no memory for it"

        @staticmethod
        def pack_weights(*_) -> bytes:
            return b"no memory for weights"

    monkeypatch.setattr(fused, "compiled", Failing)
    with pytest.raises(RuntimeError, match="no memory for it"):
        fused(torch.zeros(1, 52, 32, dtype=BFLOAT16), None, cos_sin, weights)
    with pytest.raises(RuntimeError, match="no memory for weights"):
        fused.weights()


@each_library
def test_wrong_products_are_detected(library, monkeypatch):
    dtype = use(library, monkeypatch)
    chosen = backends.fused_cpu.network.variant(dtype)
    assert bindings.load_library(chosen).check() is None
    # The same sources with a product that omits its last column.
    line = "brgemm(m, n, k," if dtype == BFLOAT16 else "left = n - j;"
    source = bindings.source(chosen)
    assert line in source
    monkeypatch.setattr(bindings, "source", lambda _: source.replace(line, line.replace(" n", " n - 1", 1)))
    with pytest.raises(RuntimeError, match="wrong products"):
        bindings.load_library.__wrapped__(chosen)


def test_structures_match_the_fields_of_the_sources_in_order():
    source = re.sub(r"//.*", "", bindings.source(NARROW))
    names = "Right", "Packing", "Unpacking", "Layer", "Kept", "Gradients", "Shape", "SymbolShape"
    for name in (*names, "Pool", "UnitShape", "UnitKept", "Moments", "StepFactors"):
        (body,) = re.findall(rf"struct {name} \{{(.*?)\}};", source, re.DOTALL)
        declared = []
        for line in filter(str.strip, body.split(";")):
            kind, *names = re.split(r"(?<=\w)[\s*]+\*?", line.strip().removeprefix("const "), maxsplit=1)
            is_pointer = "*" in line
            fields = [field.strip(" *\n") for field in names[0].split(",")]
            declared += [(field, "pointer" if is_pointer else kind) for field in fields]
        kinds = {
            bindings.Index: "Index",
            bindings.Pointer: "pointer",
            bindings.Right: "Right",
            bindings.Shape: "Shape",
            bindings.ctypes.c_float: "float",
        }
        ours = [(field, kinds[kind]) for field, kind in getattr(bindings, name)._fields_]
        assert ours == declared, name


@each_library
def test_it_is_used_unless_a_mode_of_torch_compile_is_requested(library, monkeypatch):
    dtype = str(use(library, monkeypatch)).removeprefix("torch.")
    assert backends.FUSED == device.FUSED
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # not those of torch's compiler
        for mode, expected in ((None, True), (backends.FUSED, True), ("default", False)):
            inner = case(dtype=dtype).model.architecture
            assert isinstance(choose_backend(inner, mode), FusedCPU) == expected


def test_saved_tensors_share_a_buffer_that_is_used_again_once_it_is_deleted():
    sizes = {"before": 100, "gate_up": 9 * 2**10, "lse": 64}
    memory = KeptMemory(bindings.Kept, [sizes, {"before": 7, "lse": 3}])
    buffer, out = memory.allocate(), torch.zeros(1)
    of_layer = ctypes.cast(memory.structures(buffer, out), ctypes.POINTER(bindings.Kept))
    assert of_layer[0].after == of_layer[1].before
    assert of_layer[1].after == out.data_ptr()
    assert of_layer[0].q is None
    ranges = []
    for layer, of_names in enumerate((sizes, {"before": 7, "lse": 3})):
        for name, size in of_names.items():
            start = getattr(of_layer[layer], name)
            assert buffer.data_ptr() <= start
            assert start + size <= buffer.data_ptr() + len(buffer)
            ranges.append((start, start + size))
    ranges.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))

    first, other = buffer.data_ptr(), memory.allocate()
    assert other.data_ptr() != first
    view = buffer.view(torch.float32)
    del buffer
    assert memory.allocate().data_ptr() not in (first, other.data_ptr())  # the view still needs the first
    del view
    assert memory.allocate().data_ptr() == first


@each_library
def test_packed_weights_and_buffers_are_freed_with_the_graph_without_a_garbage_collection(
    library, monkeypatch
):
    dtype = use(library, monkeypatch)
    network, cos_sin = network_of(case())
    fused = FusedNetwork(network, dtype)
    gc.disable()
    try:
        weights = fused.weights()
        freed = weakref.ref(weights)
        h = torch.zeros(2, 52, 32, dtype=dtype, requires_grad=True)
        fused(h, None, cos_sin, weights).sum().backward()
        del weights
        assert freed() is None
        assert len(fused.shape(h.shape, cos_sin).kept.unused) == 1
    finally:
        gc.enable()


@each_library
def test_training_steps_use_their_buffers_again_and_a_kept_graph_keeps_its_own(library, monkeypatch):
    dtype = use(library, monkeypatch)
    network, cos_sin = network_of(case())
    fused = FusedNetwork(network, dtype)
    start = torch.randn(2, 5, 52, 32, generator=torch.Generator().manual_seed(0)).to(dtype)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        h = start[0].clone().requires_grad_()
        return h, fused(h, None, cos_sin, times=3)

    kept = fused.shape(start[0].shape, cos_sin).kept
    h, out = run()
    gradient = torch.autograd.grad(out, h, start[1], retain_graph=True)[0]
    assert kept.unused == []
    other_h, other = run()  # must not write to the buffers of the graph that was retained
    torch.autograd.grad(other, other_h, start[1])
    assert len(kept.unused) == 3
    assert torch.equal(torch.autograd.grad(out, h, start[1])[0], gradient)
    assert len(kept.unused) == 6
    addresses = {memory.data_ptr() for memory in kept.unused}
    *_, out = run()
    assert {memory.data_ptr() for memory in kept.unused} < addresses


@each_library
@pytest.mark.parametrize("shape", [(3, 7), (0, 5)])
def test_the_gradient_of_token_embeddings_is_torchs(library, shape, monkeypatch):
    dtype = use(library, monkeypatch)
    inner = case(dtype=str(dtype).removeprefix("torch.")).model.architecture
    inner.backend = choose_backend(inner)
    ids = torch.randint(0, 4, shape, dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(*shape, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = []
    for embed in (inner.backend.embed, torch.nn.functional.embedding):
        table = torch.randn(6, 32, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
        out = embed(ids, table)
        found.append((out.detach(), *torch.autograd.grad(out, table, upstream)))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
