"""Device, seeds, reproducibility and compile policy: the only module that queries the machine's hardware."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import shutil
import sysconfig
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from utils.compile_modes import COMPILE_MODES, FUSED
from utils.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h

DEVICE_NAMES = ("auto", "cuda", "mps", "cpu")


def resolve_device(name: str, local_rank: int = 0, num_local_ranks: int = 1) -> torch.device:
    """Choose this process's device; `auto` prefers CUDA, then MPS, then the CPU.

    Raises `UserError` for an unknown name, a device that is not available, and more processes than devices.
    """
    if name not in DEVICE_NAMES:
        raise UserError(f"device={name}: choose from {', '.join(DEVICE_NAMES)}")
    # Several processes cannot share one MPS device over Gloo, so `auto` gives them the CPU.
    has_mps = torch.backends.mps.is_available() and num_local_ranks == 1
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            built = "sees no GPU" if torch.version.cuda or torch.version.hip else "is a build without CUDA"
            raise UserError(f"device=cuda: torch {torch.__version__} {built}; use device=auto or device=cpu")
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise UserError(
                f"device=cuda: process {local_rank} of this machine needs its own GPU, but there are {count}; "
                f"start at most {count} processes (torchrun --nproc-per-node {count}) or use device=cpu"
            )
        return torch.device("cuda", local_rank)
    if name == "mps" and not has_mps:
        why = "one process only" if num_local_ranks > 1 else "not available on this machine"
        raise UserError(f"device=mps: {why}; use device=auto or device=cpu")
    return torch.device(name)


def faster_dtype(device_name: str = "auto") -> str:
    """Choose the `forward_dtype` that trains faster on a device.

    bfloat16 on CUDA, on CPUs with AMX and on AMD CPUs with avx512_bf16, whose bfloat16 products are about four times as
    fast as float32 (benchmarks/LOG.md). Otherwise float32, which needs no conversions: an Intel CPU with avx512_bf16
    but without AMX was measured to multiply both equally fast. The environment variable `ATEN_CPU_CAPABILITY` restricts
    the instructions, as it does for torch.
    """
    device = resolve_device(device_name)
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    processor = torch.cpu.get_capabilities()  # its keys depend on the CPU's architecture
    is_amd = processor.get("cpu_name", "").startswith("AMD")
    multiplies_fast = processor.get("amx_bf16") or (is_amd and processor.get("avx512_bf16"))
    is_allowed = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "bfloat16" if device.type == "cpu" and multiplies_fast and is_allowed else "float32"


def total_memory(device: torch.device) -> int | None:
    """Return a device's total memory in bytes, or a container's limit if lower; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" means no limit
            limits.append(int(Path(path).read_text()))
    return min(limits, default=None)


def check_memory(num_bytes: int, device: torch.device, what: str, cure: str) -> None:
    """Raise `UserError` if `num_bytes` exceed a device's memory; the message begins with `what`."""
    total = total_memory(device)
    if total is not None and num_bytes > total:
        place = "this machine" if device.type == "cpu" else str(device)
        raise UserError(f"{what} needs {_gigabytes(num_bytes)}, but {place} has {_gigabytes(total)}: {cure}")


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.3g} GB" if num_bytes < 1e18 else "more than a billion GB"


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (torch's on every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for libraries that use the global generator
    torch.manual_seed(seed)


def make_deterministic(device: torch.device) -> None:
    """Use deterministic algorithms on a CPU; other devices are not guaranteed to be bit-reproducible."""
    if device.type == "cpu":
        # `torch.use_deterministic_algorithms` does this and imports the compiler for its setting, 1.5 s:
        # models/backends/torch_compile.py makes that where it compiles.
        torch.set_deterministic_debug_mode("error")
        # Filling every new tensor with NaN is a debugging aid that costs time and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU with glibc, keep freed memory in the process for the next tensors.

    Otherwise glibc returns an update's activations to the system, and the next update has a page fault per page, which
    takes a tenth of the time of an update of a small network.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def random_state(device: torch.device) -> dict:
    """Return the state of all global generators, as tensors, numbers and lists that `torch.load` reads safely."""
    kind, keys, position, has_gauss, cached_gaussian = np.random.get_state()  # noqa: NPY002
    state = {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), int(position), int(has_gauss), float(cached_gaussian)],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict, device: torch.device) -> None:
    """Restore `random_state`; the generator of a device of another kind is left unchanged."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def compile_policy(
    compile: str | bool, device: torch.device, can_be_fused: bool = False
) -> tuple[str | None, str]:
    """Choose a mode of `torch.compile`, FUSED or None for eager; also returns the reason in one line.

    The reason is empty if compiling was not requested.

    `can_be_fused`: FUSED supports the model on this device. `auto` uses neither FUSED, which rounds differently from
    eager code, nor `torch.compile` on a CPU, which takes up to a minute that may not pay off. The environment variable
    `DISABLE_COMPILE` overrides the setting (any value except empty, 0, false and no).
    """
    if compile not in ("auto", True, False, FUSED, *COMPILE_MODES):
        choices = ", ".join(("auto, true, false", FUSED, *COMPILE_MODES))
        raise UserError(f"compile={compile}: unknown; use {choices}")
    if os.environ.get("DISABLE_COMPILE", "").strip().lower() not in ("", "0", "false", "no"):
        return None, "" if compile in ("auto", False) else "eager: DISABLE_COMPILE is set"
    if compile is False:
        return None, ""
    takes_fused = can_be_fused and compile in (True, FUSED)
    if compile == "auto" and device.type != "cuda":
        return None, ""
    if compile == FUSED and device.type != "cuda" and not takes_fused:
        return None, (
            "eager: compile=fused needs CUDA, or a model and CPU that models/backends/fused_cpu supports; this is "
            f"{device.type} (compile=true compiles everywhere)"
        )
    if missing := missing_toolchain():
        return None, f"eager: compiling needs {missing}, which this machine lacks"
    mode = FUSED if takes_fused else compile if compile in COMPILE_MODES else COMPILE_MODES[0]
    chosen = "" if mode == compile else f", {mode}"
    duration = "a few seconds" if takes_fused else "up to a minute"
    return mode, (
        f"compiled: compile={str(compile).lower()} on {device.type}{chosen} (the first time this takes {duration})"
    )


def missing_toolchain() -> str | None:
    """Return what `torch.compile` needs to build kernels and this machine lacks, or None."""
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    if not any(shutil.which(compiler.split()[0]) for compiler in compilers):
        return f"a C++ compiler ({', '.join(compilers)})"
    if platform.system() == "Linux" and not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "Python's headers (Python.h, in the package python3-dev)"
    return None
