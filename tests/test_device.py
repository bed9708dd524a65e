"""Devices, seeds and the compile switch."""

import os
import platform
import random
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from config.overrides import OmegaConf  # importing it registers the resolver
from utils import device as device_module
from utils.device import (
    COMPILE_MODES,
    compile_policy,
    faster_dtype,
    make_deterministic,
    random_state,
    resolve_device,
    seed_everything,
)
from utils.device import set_random_state as restore
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FIRST_TIME = " (the first time this takes up to a minute)"
IN_SECONDS = " (the first time this takes a few seconds)"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    monkeypatch.delenv("DISABLE_COMPILE", raising=False)
    monkeypatch.delenv("CXX", raising=False)


def pretend(monkeypatch, *, cuda: int = 0, mps: bool = False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 2}, "cuda:1"), ({"cuda": 2, "mps": True}, "cuda:1")],
)
def test_auto_chooses_the_best_device(monkeypatch, machine, expected):
    pretend(monkeypatch, **machine)
    assert str(resolve_device("auto", local_rank=1)) == expected


def test_several_processes_of_a_machine_with_mps_share_the_cpu(monkeypatch):
    pretend(monkeypatch, mps=True)
    assert resolve_device("auto", num_local_ranks=2) == CPU


@pytest.mark.parametrize(
    ("name", "machine", "local_rank", "message"),
    [
        ("cuda", {}, 0, "device=cuda.*device=auto or device=cpu"),
        ("mps", {}, 0, "device=mps.*device=auto or device=cpu"),
        ("cuda", {"cuda": 2}, 2, "there are 2.*nproc-per-node 2"),
        ("auto", {"cuda": 1}, 1, "there are 1"),
        ("tpu", {}, 0, "device=tpu.*auto, cuda, mps, cpu"),
    ],
)
def test_a_missing_device_is_rejected_with_a_suggestion(monkeypatch, name, machine, local_rank, message):
    pretend(monkeypatch, **machine)
    with pytest.raises(UserError, match=message):
        resolve_device(name, local_rank)


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_disable_compile_overrides_compile_true(monkeypatch, value):
    monkeypatch.setenv("DISABLE_COMPILE", value)
    assert compile_policy(True, CUDA) == (None, "eager: DISABLE_COMPILE is set")


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_disable_compile_has_no_effect_if_empty_or_zero(monkeypatch, value):
    monkeypatch.setenv("DISABLE_COMPILE", value)
    monkeypatch.setattr(device_module, "missing_toolchain", lambda: None)
    assert compile_policy("auto", CUDA)[0]


def test_compile_auto_compiles_on_cuda_and_not_on_mps(monkeypatch):
    monkeypatch.setattr(device_module, "missing_toolchain", lambda: None)
    assert compile_policy("auto", CUDA)[0] == "default"
    assert compile_policy("auto", torch.device("mps")) == (None, "")
    assert compile_policy(True, torch.device("mps"))[0] == "default"
    assert compile_policy(False, CUDA) == (None, "")


def test_there_is_no_message_if_compiling_was_not_requested(monkeypatch):
    for disabled in ("", "1"):
        monkeypatch.setenv("DISABLE_COMPILE", disabled)
        for mode in ("auto", False):
            assert compile_policy(mode, CPU) == (None, "")
    assert compile_policy("auto", CUDA) == (None, "")


def test_the_fused_backend_is_used_if_requested_and_supported(monkeypatch):
    monkeypatch.setattr(device_module, "missing_toolchain", lambda: None)
    assert compile_policy("auto", CPU, True)[0] is None
    assert compile_policy("fused", CPU, True) == ("fused", f"compiled: compile=fused on cpu{IN_SECONDS}")
    assert compile_policy(True, CPU, True) == ("fused", f"compiled: compile=true on cpu, fused{IN_SECONDS}")
    assert compile_policy("default", CPU, True)[0] == "default"
    assert compile_policy(False, CPU, True)[0] is None
    mode, reason = compile_policy("fused", CPU, False)
    assert mode is None
    assert "models/backends/fused_cpu" in reason
    assert compile_policy("fused", CUDA) == (
        "default",
        f"compiled: compile=fused on cuda, default{FIRST_TIME}",
    )


@pytest.mark.parametrize("mode", COMPILE_MODES)
def test_a_mode_of_the_compiler_can_be_requested_on_any_device(monkeypatch, mode):
    monkeypatch.setattr(device_module, "missing_toolchain", lambda: None)
    for device in (CPU, CUDA):
        assert compile_policy(mode, device) == (
            mode,
            f"compiled: compile={mode} on {device.type}{FIRST_TIME}",
        )


def test_without_a_compiler_compile_true_falls_back_to_eager_and_names_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    mode, reason = compile_policy(True, CPU)
    assert mode is None
    assert "C++ compiler" in reason
    assert "\n" not in reason


def test_the_compiler_in_cxx_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    assert "no-such-compiler" in compile_policy(True, CPU)[1]


def test_without_python_headers_compile_true_falls_back_to_eager(monkeypatch, tmp_path):
    monkeypatch.setattr(device_module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(device_module.platform, "system", lambda: "Linux")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert "Python.h" in compile_policy(True, CPU)[1]
    (tmp_path / "Python.h").touch()
    assert compile_policy(True, CPU)[0]


def test_an_unknown_compile_setting_is_rejected():
    with pytest.raises(UserError, match="compile=sometimes"):
        compile_policy("sometimes", CPU)


def draws():
    return random.random(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002


def test_a_seed_resets_every_global_generator():
    seed_everything(7)
    first = draws()
    seed_everything(8)
    assert draws() != first
    seed_everything(7)
    assert draws() == first


def test_a_random_state_can_be_saved_and_restored(tmp_path):
    seed_everything(3)
    random.gauss(0, 1), np.random.randn()  # noqa: NPY002 - leaves half a pair of normals cached
    torch.save(random_state(CPU), tmp_path / "state")
    expected = draws(), random.gauss(0, 1), np.random.randn()  # noqa: NPY002
    seed_everything(4)
    restore(torch.load(tmp_path / "state", weights_only=True), CPU)
    assert (draws(), random.gauss(0, 1), np.random.randn()) == expected  # noqa: NPY002


def test_make_deterministic_affects_the_cpu_only():
    torch.use_deterministic_algorithms(False)  # a fixture may have enabled them
    try:
        make_deterministic(CUDA)
        assert not torch.are_deterministic_algorithms_enabled()
        make_deterministic(CPU)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("processor", "capability", "dtype"),
    [
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": True}, "AVX512", "bfloat16"),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": False}, "AVX512", "float32"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, "AVX512", "bfloat16"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, "AVX2", "float32"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False, "amx_bf16": False}, "AVX2", "float32"),
        ({"architecture": "aarch64"}, "DEFAULT", "float32"),
    ],
)
def test_a_cpu_recipe_uses_the_faster_dtype_of_the_processor(monkeypatch, processor, capability, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert faster_dtype("cpu") == dtype
    config = OmegaConf.create({"device": "cpu", "arch": {"forward_dtype": "${faster_dtype:${device}}"}})
    assert OmegaConf.to_container(config, resolve=True)["arch"]["forward_dtype"] == dtype


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_reused_memory_causes_no_page_faults():
    # In a separate process, because the setting is permanent. Of 40 MB at a time glibc would return most. It would keep
    # some if it adapted its thresholds, which depends on all earlier allocations of the process.
    code = """
import resource, sys, torch
from utils.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory(torch.device("cpu"))
def use():
    tensors = [torch.zeros(2**20) for _ in range(10)]
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""
    faults = {}
    for choice in ("keep", "leave"):
        command = [sys.executable, "-c", code, choice]
        faults[choice] = int(
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=os.environ | {"MALLOC_TRIM_THRESHOLD_": "131072"},
            ).stdout
        )
    assert faults["keep"] < 100 < faults["leave"]
