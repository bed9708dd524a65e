"""Compare training options: a small training with one option changed at a time, several seeds each.

    python benchmarks/recipes.py                                  # all recipes, three seeds
    python benchmarks/recipes.py --only baseline muon --seeds 2 --minutes 3
    taskset -c 0 python benchmarks/recipes.py --only baseline &   # parallel processes can share the folder
    taskset -c 1 python benchmarks/recipes.py --only muon
    python benchmarks/recipes.py --table                          # print existing results without training

Trains with `pretrain.py` on generated 6x6 Sudoku with at most 17 of 36 cells given. The result of a run is a JSON file
in --folder, so that an interrupted benchmark continues with the missing runs. Time is training time on this machine
without evaluations; steps are updates; shares are of unseen puzzles, solved with averaged weights. Results of several
machines can be in one folder: seconds are scaled by the time per step of the baseline.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
THRESHOLDS = (0.5, 0.9, 0.98)
DATA = "--size 6 --clues 17 --generate 1000 --num-aug 100 --test-size 256 --seed 0"
# The recipe of the demo with the published swiglu, a smaller width and half the batch.
COMMON = [
    "arch=trm",
    "arch.hidden_size=64",
    "arch.num_heads=4",
    "arch.mlp_t=True",
    "arch.pos_encodings=none",
    "arch.puzzle_emb_ndim=0",
    "arch.H_cycles=2",
    "arch.L_cycles=2",
    "arch.halt_max_steps=8",
    "arch.forward_dtype=float32",
    "global_batch_size=32",
    "epochs=33",  # of 1,000 puzzles: 11 iterations of 93 steps
    "eval_interval=3",
    "lr=4e-3",
    "lr_min_ratio=0.1",
    "lr_warmup_steps=50",
    "weight_decay=0.1",
    "ema=True",
    "ema_rate=0.98",
    "log_interval=25",
    "evaluators=[]",
    "checkpoint_every_eval=False",
    "compile=false",
]
ATTENTION = ["arch.mlp_t=False", "arch.pos_encodings=rope"]
MUON = ["optimizer=muon", "optimizer.momentum=0.6", "optimizer.ns_steps=3"]
SMOOTHING = ["arch.loss.label_smoothing=0.2"]
# The options of config/experiment/sudoku_extreme_speedrun.yaml, at the depth of the baseline.
SPEEDRUN = [
    *MUON,
    *SMOOTHING,
    "arch.loss.loss_type=softmax_cross_entropy",
    "arch.loss.q_halt_weight=0.05",
    "arch.ffn=rms_swiglu",
    "augment=online",
    "grad_clip=1.0",
    "lr_min_ratio=0",
    "ema_rate=0.9",
    "ema_start_step=640",
]
# Parts of the speedrun recipe, for ablations with one part removed.
PARTS = {
    "muon": MUON,
    "softmax": ["arch.loss.loss_type=softmax_cross_entropy"],
    "smoothing": SMOOTHING,
    "q_halt_weight": ["arch.loss.q_halt_weight=0.05"],
    "rms_swiglu": ["arch.ffn=rms_swiglu"],
    "augment": ["augment=online"],
    "grad_clip": ["grad_clip=1.0"],
    "cosine": ["lr_min_ratio=0"],
    "late_ema": ["ema_rate=0.9", "ema_start_step=640"],
}
DEEP = ["arch.H_cycles=3", "arch.L_cycles=6"]
# Changes of each recipe relative to `baseline`. Compare `deep_curriculum` with `deep`, `conv_swiglu` with `rope2d`, and
# `rope2d` and `urm` with `attention`.
RECIPES: dict[str, list[str]] = {
    "baseline": [],
    "adamw": ["optimizer=adamw"],
    "muon": MUON,
    "muon_adam_atan2": [*MUON, "optimizer.rest=adam_atan2"],
    "grad_clip": ["grad_clip=1.0"],
    "constant_lr": ["lr_min_ratio=1"],
    "cosine_to_zero": ["lr_min_ratio=0"],
    "ema_late": ["ema_start_step=640"],
    "augment_online": ["augment=online"],
    "softmax": ["arch.loss.loss_type=softmax_cross_entropy"],
    "softmax_smoothed": ["arch.loss.loss_type=softmax_cross_entropy", *SMOOTHING],
    "smoothed": SMOOTHING,
    "q_halt_weight": ["arch.loss.q_halt_weight=0.05"],
    "supervision_decay": ["arch.loss.supervision_decay=0.7"],
    "depth_curriculum": ["depth_curriculum=True"],
    "deep": DEEP,
    "deep_curriculum": [*DEEP, "depth_curriculum=True"],
    "rms_swiglu": ["arch.ffn=rms_swiglu"],
    "random_init": ["arch.random_init=True"],
    "damped_noise": ["arch.random_init=True", "arch.damping=0.05", "arch.noise=0.01"],
    "attention": ATTENTION,
    "rope2d": [*ATTENTION, "arch.pos_encodings=rope2d"],
    "conv_swiglu": [*ATTENTION, "arch.pos_encodings=rope2d", "arch.ffn=conv_swiglu"],
    "urm": [*ATTENTION, "arch=urm"],
    "speedrun": SPEEDRUN,
    **{f"speedrun_without_{part}": [o for o in SPEEDRUN if o not in own] for part, own in PARTS.items()},
}


def main() -> None:
    options = parse_options()
    folder = options.folder
    names = options.only or list(RECIPES)
    if not options.table:
        folder.mkdir(parents=True, exist_ok=True)
        data = options.data or dataset(folder)
        # All recipes of a seed first, so that a partial benchmark is comparable.
        for seed in range(options.seeds):
            for name in names:
                run_once(name, seed, data, options)
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    results = [r for r in results if r["recipe"] in names]
    (folder / "all").mkdir(parents=True, exist_ok=True)
    (folder / "all" / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table(results)))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=RECIPES, metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each recipe")
    parser.add_argument("--minutes", type=float, help="time limit of a run; default: none")
    parser.add_argument("--threads", type=int, default=1, help="torch threads per run")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "checkpoints" / "recipes", help="data and results"
    )
    parser.add_argument("--data", type=Path, help="a 6x6 dataset to use instead of generating one")
    parser.add_argument("--table", action="store_true", help="print existing results without training")
    parser.add_argument(
        "--override",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="overrides of all runs, including the baseline",
    )
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}, but must be at least 1")
    return options


def dataset(folder: Path) -> Path:
    """Return the dataset of all runs, building it if needed; wait if another process is building it."""
    data = folder / "sudoku-6x6"
    with locked(folder / "data.lock", wait=True):
        if not (data / "test" / "dataset.json").exists():
            builder = ROOT / "dataset" / "build_sudoku_dataset.py"
            subprocess.run(
                [sys.executable, str(builder), "--output-dir", str(data), *DATA.split()], check=True
            )
    return data


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock that is released when the process exits; yield False if it is taken and `wait` is False."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def run_once(name: str, seed: int, data: Path, options: argparse.Namespace) -> None:
    """Train a recipe with a seed, unless its result exists or another process is working on it."""
    result, run = options.folder / f"{name}-{seed}.json", options.folder / f"{name}-{seed}"
    with locked(options.folder / f"{name}-{seed}.lock", wait=False) as is_mine:
        if not is_mine or result.exists():
            return
        shutil.rmtree(run, ignore_errors=True)  # from an interrupted benchmark, so its times would be wrong
        overrides = [*COMMON, *RECIPES[name], *options.override]
        seconds, ended = train(run, data, seed, overrides, options)
        points = evaluations(run / "metrics.jsonl")
        if not points:
            print(f"{name}, seed {seed}: {ended} before its first evaluation, see {run}/log.txt", flush=True)
            return
        record = {
            "recipe": name,
            "seed": seed,
            "overrides": overrides,
            "ended": ended,
            "wall_seconds": round(seconds, 1),
            "threads": options.threads,
            "machine": processor(),
            "compiled": "compile=true" in overrides,
            "data": str(options.data or DATA),
            "evaluations": points,  # [updates, seconds of training, share of unseen puzzles solved]
        }
        partial = result.with_suffix(".partial")
        partial.write_text(json.dumps(record) + "\n")
        os.replace(partial, result)
        shutil.rmtree(run)
        print(f"{name}, seed {seed}: {points[-1][2]:.1%} after {points[-1][1]:.0f} s, {ended}", flush=True)


def train(
    run: Path, data: Path, seed: int, overrides: list[str], options: argparse.Namespace
) -> tuple[float, str]:
    """Run a training; return its seconds and how it ended: `finished`, `cut` or its exit code."""
    run.mkdir(parents=True)
    own = [f"data_paths=[{data}]", f"checkpoint_path={run / 'run'}", f"seed={seed}", "device=cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "WANDB_DISABLED": "true"}
    started = time.perf_counter()
    with (run / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "pretrain.py"), *overrides, *own],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            code = process.wait(options.minutes and options.minutes * 60)
            ended = "finished" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = "cut"
        finally:
            process.terminate()
            process.wait()
    if (run / "run" / "metrics.jsonl").exists():
        shutil.copy(run / "run" / "metrics.jsonl", run)
    return time.perf_counter() - started, ended


def evaluations(path: Path) -> list[tuple[int, float, float]]:
    """Return (updates, seconds of training so far, share solved) for each evaluation.

    The training line of a step is written right before its evaluation and the test line right after it, so the time in
    between is not training. Steps before the first line are assumed to take as long as those before the second.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if len(lines) < 2 or "test/exact_accuracy" in lines[1]:
        return []
    first, second = lines[:2]
    per_step = (second["time"] - first["time"]) / (second["step"] - first["step"])
    points, start, evaluating = [], first["time"] - first["step"] * per_step, 0.0
    for before, line in itertools.pairwise(lines):
        if "test/exact_accuracy" in line:
            evaluating += line["time"] - before["time"]
            seconds = line["time"] - start - evaluating
            share = line.get("test/solved", line["test/exact_accuracy"])
            points.append((line["step"], round(seconds, 2), share))
    return points


def processor() -> str:
    """Return the name of the processor."""
    facts = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE) if facts.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def seconds_per_step(points: list) -> float:
    """Return the mean seconds per step."""
    return points[-1][1] / points[-1][0]


def scale_to_one_machine(results: list[dict]) -> list[dict]:
    """Scale seconds to the machine on which most baselines ran.

    Results from another processor, number of threads or compilation mode are scaled by the time per step of the
    baseline there, and stay unchanged if there is no baseline.
    """

    def environment(result: dict) -> tuple:
        return result.get("machine"), result.get("threads"), result.get("compiled")

    baselines: dict[tuple, list[float]] = {}
    for result in results:
        if result["recipe"] == "baseline":
            baselines.setdefault(environment(result), []).append(seconds_per_step(result["evaluations"]))
    reference = max(baselines.values(), key=len, default=[1.0])
    scaled = []
    for result in results:
        here = baselines.get(environment(result), reference)
        factor = statistics.median(reference) / statistics.median(here)
        points = [(step, seconds * factor, share) for step, seconds, share in result["evaluations"]]
        scaled.append(result | {"evaluations": points})
    return scaled


def reached(points: list, threshold: float) -> tuple[int, float] | None:
    """Return (updates, seconds) of the first evaluation that reaches the share."""
    return next(((step, seconds) for step, seconds, share in points if share >= threshold), None)


def table(results: list[dict]) -> Iterator[str]:
    """Yield a Markdown table: median over seeds with minimum and maximum, and the number of seeds that got there."""
    results = scale_to_one_machine(results)
    heads = [f"{threshold:.0%}: s, steps" for threshold in THRESHOLDS]
    yield f"| recipe | seeds | {' | '.join(heads)} | final score | s per step |"
    yield "| --- " * (len(heads) + 4) + "|"
    for name in RECIPES:
        runs = [r["evaluations"] for r in results if r["recipe"] == name]
        if not runs:
            continue
        cells = []
        for threshold in THRESHOLDS:
            found = [reached(points, threshold) for points in runs]
            there = [f for f in found if f is not None]
            share = "" if len(there) == len(runs) else f" ({len(there)} of {len(runs)})"
            times, steps = [seconds for _, seconds in there], [step for step, _ in there]
            cells.append(f"{spread(times, '.0f')}; {spread(steps, '.0f')}{share}" if there else "-")
        finals = spread([100 * points[-1][2] for points in runs], ".1f")
        speed = spread([seconds_per_step(points) for points in runs], ".3f")
        yield f"| {name} | {len(runs)} | {' | '.join(cells)} | {finals}% | {speed} |"


def spread(values: list[float], form: str) -> str:
    """Format values as `median (minimum to maximum)`."""
    if len(values) == 1:
        return format(values[0], form)
    least, most = format(min(values), form), format(max(values), form)
    return f"{format(statistics.median(values), form)} ({least} to {most})"


if __name__ == "__main__":
    main()
