"""Profile a train step: slowest operations, utilisation of the device, and synchronisations with the host.

    python -m benchmarks.trace                              the Sudoku recipes at batch 768 and a 30x30 grid, on CUDA
    python -m benchmarks.trace --set arch.hidden_size=64 global_batch_size=16 --device cpu --dtype float32
    python -m benchmarks.trace --only mlp --modes eager default reduce-overhead max-autotune-no-cudagraphs

The ceiling is the best rate of a large square product in the same dtype. MFU is the time that the matrix products of a
step (`benchmarks/yardstick.py`) would take at the ceiling, divided by the time of the step. Batches are prefetched by a
thread and copied to the device as in training; a wait is a CUDA call that blocks the host until the device is done.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from itertools import repeat
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.step import LARGE, MLP, Case, config_of, peak_memory, reset_peak_memory, timed
from benchmarks.yardstick import Yardstick
from models.backends import choose_backend
from puzzle_dataset import Prefetcher, on_device
from utils.device import COMPILE_MODES, make_deterministic, resolve_device
from utils.distributed import World

CASES = {
    "mlp 512, batch 768": (*LARGE, *MLP, "global_batch_size=768"),
    "att 512, batch 768": (*LARGE, "global_batch_size=768"),
    "att 512, 30x30, batch 96": ("arch=trm", "seq_len=900", "global_batch_size=96"),
}
MODES = ["eager", *COMPILE_MODES]
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
LARGEST_PRODUCT = {"cuda": 8192, "cpu": 2048}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.trace", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name contains one of these")
    parser.add_argument("--set", nargs="+", help="overrides of a custom case (may include seq_len=)")
    parser.add_argument(
        "--modes", nargs="+", default=["default"], choices=MODES, help="modes of torch.compile"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32", "float16"])
    parser.add_argument("--steps", type=int, default=10, help="train steps per measurement")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--kernels", type=int, default=12, help="number of operations to list")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    make_deterministic(device)
    ceiling = matmul_ceiling(device, getattr(torch, options.dtype))
    print(f"torch {torch.__version__} on {device}, {options.dtype}: ceiling {ceiling / 1e12:.2f} TFLOP/s")
    cases = {"own case": tuple(options.set)} if options.set else CASES
    for name, overrides in cases.items():
        if not options.only or any(part in name for part in options.only):
            for mode in options.modes:
                print(f"\n{name}, {mode}")
                try:
                    report(overrides, mode, device, ceiling, options)
                except RuntimeError as error:  # out of memory, or not supported by the mode
                    print(f"failed: {type(error).__name__}: {str(error).splitlines()[0]}")


def report(overrides: tuple[str, ...], mode: str, device: torch.device, ceiling: float, options) -> None:
    """Print rate, MFU, memory, waits and the slowest operations of a case."""
    own = [item for item in overrides if not item.startswith("seq_len=")]
    (seq_len,) = [int(item.split("=")[1]) for item in overrides if item.startswith("seq_len=")] or [81]
    config = config_of(*own, f"arch.forward_dtype={options.dtype}", "ema=True")
    torch.compiler.reset()
    case = Case(config, seq_len, World(device=device))
    if mode != "eager":
        inner = case.model.architecture
        inner.backend = choose_backend(inner, mode)
    flops = Yardstick.of(case.model, case.batch, device).train_flops
    # Narrow, as in training; synchronises, so not in the loop.
    on_host = {name: value.byte().cpu() for name, value in case.batch.items()}
    first = timed(lambda: steps(case, on_host, 2), device)
    reset_peak_memory(device)
    seconds = statistics.median(timed(lambda: steps(case, on_host, options.steps), device) for _ in range(3))
    peak, per_step = peak_memory(device), seconds / options.steps
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as trace:
        steps(case, on_host, options.steps)
    events = trace.key_averages()
    waits = {event.key: event.count for event in events if event.key in WAITS}
    print(
        f"{1 / per_step:.2f} steps/s, {config.global_batch_size / per_step:.0f} puzzles/s, "
        f"{flops / per_step / 1e12:.2f} TFLOP/s, MFU {flops / per_step / ceiling:.1%}, peak {peak:.0f} MB, "
        f"first two steps {first:.1f} s"
    )
    print(f"waits in {options.steps} steps: {waits or 'none'}")
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    total = sum(getattr(event, key) for event in events)
    for event in sorted(events, key=lambda event: -getattr(event, key))[: options.kernels]:
        print(
            f"  {getattr(event, key) / total:6.1%}  {event.count / options.steps:7.1f} a step  {event.key[:90]}"
        )


def steps(case: Case, on_host: dict[str, Tensor], count: int) -> None:
    """Run `count` train steps on batches that are prefetched and pinned as in training."""
    device, size = case.world.device, case.config.global_batch_size
    with Prefetcher(repeat(("all", on_host, size), count), pin_memory=device.type == "cuda") as batches:
        for _, batch, _ in batches:
            case.batch = on_device(batch, device)
            case.train_step()


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of the fastest of several large square products."""
    size = LARGEST_PRODUCT.get(device.type, 2048)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timed(lambda: left @ right, device)
    return max(2 * size**3 / timed(lambda: left @ right, device) for _ in range(5))


if __name__ == "__main__":
    main()
