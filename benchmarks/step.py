"""Measure the time of a train step and of an evaluation batch, relative to the matrix products that they need.

    python -m benchmarks.step                                     the bf16 cases of benchmarks/README.md
    python -m benchmarks.step --only "att 128" --dtype float32    chosen cases
    python -m benchmarks.step --set arch.hidden_size=256 global_batch_size=64 --name mine

The yardstick is the time of those products alone, with the same shapes, dtype and device, back to back: the forward
pass, and the backward pass of applications with gradient. `efficiency = yardstick / step`. Steps and yardsticks
alternate within one process, so that other load on the machine slows both.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.yardstick import Yardstick
from config.overrides import force_overrides
from config.schema import PretrainConfig
from evaluators.evaluation import run_steps
from models.backends import choose_backend
from models.backends.fused_cpu.backend import FusedCPU
from models.losses import ACTLossHead
from models.optim.optimizers import Optimizers, OptimizerSettings
from models.registry import build_model
from models.train.ema import EMA
from models.train.metrics import MetricAccumulator
from models.train.step import TrainState, train_step
from utils.device import keep_freed_memory, make_deterministic, resolve_device
from utils.distributed import World
from utils.strict_model import parse

CONFIG = Path(__file__).resolve().parents[1] / "config"
VOCAB_SIZE = {81: 11, 36: 8, 900: 12}
LARGE = ("arch=trm", "seq_len=81")
NARROW = ("arch.hidden_size=128", "arch.num_heads=4")
SMALL = ("arch=trm", "seq_len=36", *NARROW, "global_batch_size=64")
SYMBOLS = ("arch=se_rrm", "seq_len=81")
EQUIVARIANT = ("arch=trm_equivariant", "seq_len=81", "global_batch_size=16")
GRIDS = (
    "arch=trm",
    "seq_len=900",
    "global_batch_size=4",
    "arch.H_cycles=1",
    "arch.L_cycles=4",
    "arch.num_heads=4",
)
MLP = ("arch.mlp_t=True", "arch.pos_encodings=none")
CASES: dict[str, tuple[str, ...]] = {
    "att 512, batch 32": (*LARGE, "global_batch_size=32"),
    "mlp 512, batch 32": (*LARGE, *MLP, "global_batch_size=32"),
    "att 512, batch 8": (*LARGE, "global_batch_size=8"),
    "att 128, batch 64": SMALL,
    "mlp 128, batch 64": (*SMALL, *MLP),
    "urm 512, batch 8": ("arch=urm", "seq_len=81", "global_batch_size=8"),
    "urm 128, batch 16": ("arch=urm", "seq_len=81", *NARROW, "global_batch_size=16"),
    "se_rrm 256, batch 4": ("arch=se_rrm", "seq_len=81", "global_batch_size=4"),
    "se_rrm 64, batch 16": (
        "arch=se_rrm",
        "seq_len=81",
        "arch.hidden_size=64",
        "arch.num_heads=2",
        "global_batch_size=16",
    ),
    "equivariant, H 1": (*EQUIVARIANT, "arch.H_cycles=1"),
    "equivariant, H 2": (*EQUIVARIANT, "arch.H_cycles=2"),
    "30x30, att 128": (*GRIDS, "arch.hidden_size=128", "arch.puzzle_emb_ndim=0"),
    "30x30, att 256": (*GRIDS, "arch.hidden_size=256", "arch.puzzle_emb_ndim=0"),
    "30x30 + 16, att 128": (*GRIDS, "arch.hidden_size=128"),
    "30x30 + 16, att 256": (*GRIDS, "arch.hidden_size=256"),
}


MODES = ["eager", "compiled", "torch.compile"]
MODES_HELP = (
    "compiled: as with compile=true, which is models/backends/fused_cpu instead of torch.compile on some CPUs"
)


@dataclass
class Case:
    """A model with its training state, and a batch of random tokens."""

    config: PretrainConfig
    seq_len: int
    world: World
    state: TrainState = field(init=False)
    batch: dict[str, Tensor] = field(init=False)

    def __post_init__(self):
        torch.manual_seed(0)
        config, device = self.config, self.world.device
        vocab = VOCAB_SIZE.get(self.seq_len, 12)
        model = build_model(config.arch, seq_len=self.seq_len, vocab_size=vocab, num_puzzle_identifiers=1)
        model = model.to(device).train()
        model.architecture.activation_checkpointing = config.activation_checkpointing
        keys = OptimizerSettings.__dataclass_fields__.keys() - {"total_steps"}
        settings = OptimizerSettings(total_steps=10**6, **{key: getattr(config, key) for key in keys})
        metrics = MetricAccumulator(model.metrics, config.global_batch_size, device, lambda tensor: tensor)
        self.state = TrainState(model, Optimizers(model, settings), EMA(model, 0.999), metrics)
        tokens = torch.randint(1, vocab, (2, config.global_batch_size, self.seq_len), dtype=torch.int32)
        ids = torch.zeros(config.global_batch_size, dtype=torch.int32)
        named = {"inputs": tokens[0], "labels": tokens[1], "puzzle_identifiers": ids}
        self.batch = {name: value.to(device) for name, value in named.items()}

    @property
    def model(self) -> ACTLossHead:
        return self.state.model

    def train_step(self) -> None:
        config = self.config
        if not self.model.training:  # after an evaluation
            self.model.train()
        train_step(
            self.state,
            self.batch,
            self.world,
            seed=0,
            global_batch_size=config.global_batch_size,
            grad_accum_steps=config.grad_accum_steps,
        )

    @torch.no_grad()
    def evaluate(self) -> None:
        """Run all supervision steps of a batch."""
        self.model.eval()
        run_steps(self.model.act, self.batch)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name contains one of these")
    parser.add_argument("--set", nargs="+", help="overrides of a custom case (may include seq_len=)")
    parser.add_argument("--name", default="own case", help="name of the case of --set")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32", "float16"])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=MODES, help=MODES_HELP)
    parser.add_argument("--repeats", type=int, default=3, help="timed train steps; the median is reported")
    parser.add_argument(
        "--eval-steps", type=int, default=1, help="supervision steps of an evaluation; 0: none"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; default: chosen by torch")
    parser.add_argument("--json", type=Path, help="append each result as a line to this file")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    make_deterministic(device)
    keep_freed_memory(device)
    cases = {options.name: tuple(options.set)} if options.set else CASES
    chosen = {n: c for n, c in cases.items() if not options.only or any(part in n for part in options.only)}
    print(f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads, {options.dtype}")
    for name, overrides in chosen.items():
        for mode in options.modes:
            result = measure(overrides, mode, device, options)
            print(f"{name:20} {mode:13} {line(result)}", flush=True)
            if options.json:
                with options.json.open("a") as file:
                    file.write(
                        json.dumps({"case": name, "mode": mode, "dtype": options.dtype} | result) + "\n"
                    )


def measure(overrides: tuple[str, ...], mode: str, device: torch.device, options) -> dict[str, float]:
    """Measure seconds, efficiencies and peak memory of a case."""
    own = [item for item in overrides if not item.startswith("seq_len=")]
    (seq_len,) = [int(item.split("=")[1]) for item in overrides if item.startswith("seq_len=")] or [81]
    case = Case(
        config_of(*own, f"arch.forward_dtype={options.dtype}", "ema=True"), seq_len, World(device=device)
    )
    torch.compiler.reset()  # Dynamo has a limit on the number of graphs that it compiles
    if mode != "eager":
        inner = case.model.architecture
        inner.backend = choose_backend(inner, "default" if mode == "torch.compile" else None)
    yardstick = Yardstick.of(case.model, case.batch, device)
    first = timed(case.train_step, device)
    yardstick.train()
    if isinstance(backend := case.model.architecture.backend, FusedCPU):
        for fused in backend.fused.values():
            fused.shapes.clear()  # and the buffers that they hold, which a step allocates
    before, pairs = reset_peak_memory(device), []
    for _ in range(options.repeats):
        seconds = timed(case.train_step, device)
        if not pairs:  # not the first step, so the increase is due to activations and gradients only
            peak = peak_memory(device)
        pairs.append((seconds, timed(yardstick.train, device)))
    step, products = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "first_step_s": first,
        "step_s": step,
        "yardstick_s": products,
        "efficiency": products / step,
        "puzzles_per_s": case.config.global_batch_size / step,
        "peak_MB": peak,
        "activations_MB": peak - before,
        "TFLOPS": yardstick.train_flops / step / 1e12,
    }
    if options.eval_steps:
        # All supervision steps of an evaluation cost the same, so one is enough.
        case.model.act.max_steps = yardstick.num_eval_steps = options.eval_steps
        case.evaluate()
        pairs = [(timed(case.evaluate, device), timed(yardstick.evaluate, device)) for _ in range(2)]
        seconds, products = (statistics.median(column) for column in zip(*pairs, strict=True))
        result |= {"eval_step_s": seconds / options.eval_steps, "eval_efficiency": products / seconds}
    return result


def config_of(*overrides: str) -> PretrainConfig:
    with initialize_config_dir(str(CONFIG), version_base=None):
        cfg = compose("cfg_pretrain", force_overrides(list(overrides)))
    return parse(PretrainConfig, OmegaConf.to_container(cfg, resolve=True))


def timed(call: Callable[[], None], device: torch.device) -> float:
    """Return the seconds until the device has finished the work of `call`."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def reset_peak_memory(device: torch.device) -> float:
    """Reset the peak of memory and return the memory in use, MB; without CUDA, that of the process (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        if hasattr(ctypes.CDLL(None), "malloc_trim"):
            ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide how much a step needs
        if Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def peak_memory(device: torch.device) -> float:
    """Return the peak of memory, MB: allocated on CUDA, otherwise the resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def line(result: dict[str, float]) -> str:
    text = (
        f"step {result['step_s']:.3f} s (first {result['first_step_s']:.1f}), yardstick {result['yardstick_s']:.3f} s, "
        f"efficiency {result['efficiency']:.2f}, {result['puzzles_per_s']:.1f} puzzles/s, {result['peak_MB']:.0f} MB, "
        f"{result['activations_MB']:.0f} of them during the step"
    )
    if "eval_step_s" in result:
        text += (
            f"; evaluation {result['eval_step_s']:.3f} s a step, efficiency {result['eval_efficiency']:.2f}"
        )
    return text


if __name__ == "__main__":
    main()
