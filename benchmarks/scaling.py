"""Measure how time and memory of a train step scale with batch, grid, width and cycles, relative to the yardstick.

    python -m benchmarks.scaling [--png benchmarks/pictures/scaling.png] [--device cuda] [--compiled]

One size changes at a time from a common middle; see `benchmarks/step.py` for the measurements.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.step import measure
from utils.device import keep_freed_memory, make_deterministic, resolve_device

MIDDLE = {
    "global_batch_size": 16,
    "seq_len": 81,
    "arch.hidden_size": 128,
    "arch.L_cycles": 4,
    "arch.H_cycles": 2,
}
SIZES = {
    "global_batch_size": (4, 8, 16, 32, 64),
    "seq_len": (16, 36, 81, 256),
    "arch.hidden_size": (64, 128, 256, 512),
    "arch.L_cycles": (1, 2, 4, 8),
    "arch.H_cycles": (1, 2, 4),
}
FIXED = ["arch=trm", "arch.num_heads=4", "arch.puzzle_emb_ndim=0"]
# Options that save memory, measured with few and many L-cycles.
SAVING_CYCLES = (2, 8)
SAVING = {
    "plain": [],
    "activation_checkpointing=True": ["activation_checkpointing=True"],
    "grad_accum_steps=4": ["grad_accum_steps=4"],
}
LABELS = {
    "global_batch_size": "batch",
    "seq_len": "cells S",
    "arch.hidden_size": "width D",
    "arch.L_cycles": "L_cycles",
    "arch.H_cycles": "H_cycles",
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--png", type=Path, help="write a plot to this file")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; default: chosen by torch")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    options.eval_steps = 0
    if options.threads:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    make_deterministic(device)
    keep_freed_memory(device)  # as in training
    mode = "compiled" if options.compiled else "eager"
    print(
        f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads, {options.dtype}, {mode}"
    )
    print("| size | step, s | yardstick, s | efficiency | activations, MB |\n|---|---|---|---|---|")

    def row(name: str, *overrides: str) -> dict[str, float]:
        result = measure((*FIXED, *overrides), mode, device, options)
        print(
            f"| {name} | {result['step_s']:.3f} | {result['yardstick_s']:.3f} | {result['efficiency']:.2f} "
            f"| {result['activations_MB']:.0f} |",
            flush=True,
        )
        return result

    curves = {}
    for key, sizes in SIZES.items():
        curves[key] = [
            row(f"{LABELS[key]} {size}", *(f"{k}={v}" for k, v in (MIDDLE | {key: size}).items()))
            for size in sizes
        ]
    for cycles in SAVING_CYCLES:
        deep = [f"{k}={v}" for k, v in (MIDDLE | {"arch.L_cycles": cycles, "global_batch_size": 32}).items()]
        for name, overrides in SAVING.items():
            row(f"batch 32, L_cycles {cycles}, {name}", *deep, *overrides)
    if options.png:
        draw(curves, options.png)


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Plot step and yardstick over each size, with logarithmic axes."""
    from evaluators.drawing.style import as_log, encoded, new_figure, style

    with style():
        figure, axes = new_figure(1, len(curves), (3 * len(curves), 3))
        for panel, (key, results) in zip(axes.flat, curves.items(), strict=True):
            panel.plot(SIZES[key], [r["step_s"] for r in results], "o-", label="train step")
            panel.plot(SIZES[key], [r["yardstick_s"] for r in results], "s--", label="its matrix products")
            as_log(panel.xaxis)
            as_log(panel.yaxis)
            panel.set_xticks(SIZES[key], [str(size) for size in SIZES[key]])
            panel.minorticks_off()
            panel.set_xlabel(LABELS[key])
            panel.sharey(axes.flat[0])
        axes.flat[0].set_ylabel("seconds")
        axes.flat[0].legend()
        path.write_bytes(encoded(figure, "png"))


if __name__ == "__main__":
    main()
