"""Which training options earn their place: the same small training with one of them changed, several seeds each.

    python benchmarks/recipes.py                                  # all recipes, three seeds
    python benchmarks/recipes.py --only baseline muon --seeds 2 --minutes 3
    taskset -c 0 python benchmarks/recipes.py --only baseline &   # two of them side by side share the folder
    taskset -c 1 python benchmarks/recipes.py --only muon
    python benchmarks/recipes.py --table                          # what is there, nothing is trained

Trains through `pretrain.py` on generated 6x6 Sudoku with at most 17 of 36 cells given. A run's result is one JSON file
below --folder, so that an interrupted benchmark goes on with the runs that are missing. Time is training time on this
machine, evaluations left out; steps are updates; a share is of unseen puzzles, by the averaged weights. Results of
several machines may lie in one folder: their seconds are scaled by the time of the baseline's step.
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
# The demo's recipe with the published swiglu, less wide and half the batch.
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
# What config/experiment/sudoku_extreme_speedrun.yaml combines, at the baseline's depth.
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
# The speedrun's recipe with one part of it left out: what that part brings beside the others.
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
# What each recipe changes: of `baseline`, but `deep_curriculum` of `deep`, `conv_swiglu` of `rope2d`, and that and
# `urm` of `attention`.
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
        for seed in range(options.seeds):  # all recipes of a seed first: a cut benchmark still compares
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
    parser.add_argument(
        "--minutes", type=float, help="of one run, after which it is cut; no limit when left out"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each run")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "checkpoints" / "recipes", help="data and results"
    )
    parser.add_argument("--data", type=Path, help="a 6x6 dataset to use instead of generating one")
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    parser.add_argument(
        "--override", nargs="*", default=[], metavar="KEY=VALUE", help="of every run, baseline too"
    )
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: the number of runs of each recipe, 1 or more")
    return options


def dataset(folder: Path) -> Path:
    """The dataset of all runs, built at the first call; another process that builds it is waited for."""
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
    """Hold a lock that ends with the process; False where another one holds it and `wait` is false."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def run_once(name: str, seed: int, data: Path, options: argparse.Namespace) -> None:
    """Train one recipe with one seed, unless its result is there or another process is at it."""
    result, run = options.folder / f"{name}-{seed}.json", options.folder / f"{name}-{seed}"
    with locked(options.folder / f"{name}-{seed}.lock", wait=False) as is_mine:
        if not is_mine or result.exists():
            return
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted benchmark: its clock is broken
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
    """Seconds that the process took, and how it ended: `finished`, `cut` or its exit code."""
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
    """(updates, seconds of training until then, share solved) of each evaluation.

    The training line of a step is written right before its evaluation, the test line right after: what lies between
    is no training. The steps before the first line are taken to have lasted as long as those up to the second.
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
    """What this machine computes with, in words."""
    facts = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE) if facts.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def pace(points: list) -> float:
    """Seconds of a step."""
    return points[-1][1] / points[-1][0]


def on_one_machine(results: list[dict]) -> list[dict]:
    """The results with the seconds that they would show where most baselines ran.

    What was measured on another processor, with other threads or compiled is scaled by what a step of the baseline
    takes there; it stays as it is where no baseline ran.
    """

    def place(result: dict) -> tuple:
        return result.get("machine"), result.get("threads"), result.get("compiled")

    paces: dict[tuple, list[float]] = {}
    for result in results:
        if result["recipe"] == "baseline":
            paces.setdefault(place(result), []).append(pace(result["evaluations"]))
    reference = max(paces.values(), key=len, default=[1.0])
    scaled = []
    for result in results:
        here = paces.get(place(result), reference)
        factor = statistics.median(reference) / statistics.median(here)
        points = [(step, seconds * factor, share) for step, seconds, share in result["evaluations"]]
        scaled.append(result | {"evaluations": points})
    return scaled


def reached(points: list, threshold: float) -> tuple[int, float] | None:
    """(updates, seconds) of the first evaluation that reaches the share."""
    return next(((step, seconds) for step, seconds, share in points if share >= threshold), None)


def table(results: list[dict]) -> Iterator[str]:
    """Markdown: for every recipe the median over seeds, with least and most; how many seeds got there if not all."""
    results = on_one_machine(results)
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
        speed = spread([pace(points) for points in runs], ".3f")
        yield f"| {name} | {len(runs)} | {' | '.join(cells)} | {finals}% | {speed} |"


def spread(values: list[float], form: str) -> str:
    """`median (least to most)`."""
    if len(values) == 1:
        return format(values[0], form)
    least, most = format(min(values), form), format(max(values), form)
    return f"{format(statistics.median(values), form)} ({least} to {most})"


if __name__ == "__main__":
    main()
