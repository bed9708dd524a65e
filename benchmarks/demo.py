"""Measure the commands of `make demo` as on a laptop without bfloat16: torch restricted to AVX2, in float32.

python -m benchmarks.demo                           this tree
python -m benchmarks.demo --against OTHER_TREE      both in turn, and the ratio of their medians

Each repeat generates the puzzles, trains and solves one puzzle, with empty compiler caches. Seconds include starting,
compiling and evaluating. Processor time includes all threads; with `--threads 1` it equals the seconds on an idle core,
and is less affected by other load on the machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# torch's kernels, oneDNN's and MKL's.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@dataclass(frozen=True)
class Demo:
    """One run of the demo."""

    seconds: float
    processor_seconds: float
    backend: str  # the line that says what the run computes with
    result: str  # the run's `result.txt`

    @classmethod
    def run(cls, tree: Path, threads: int | None, overrides: list[str]) -> Demo:
        """Run the demo of a tree. Raises RuntimeError with the output of a command that fails."""
        with tempfile.TemporaryDirectory() as folder:
            data, run = Path(folder, "data"), Path(folder, "run")
            environment = (
                os.environ | AVX2 | {"WANDB_DISABLED": "true", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/c"}
            )
            if threads:
                environment["OMP_NUM_THREADS"] = str(threads)
            puzzles = (
                "--size",
                "6",
                "--generate",
                "2000",
                "--num-aug",
                "30",
                "--test-size",
                "1000",
                "--seed",
                "0",
            )
            recipe = ("+experiment=sudoku6x6", f"data_paths=[{data}]", f"data_paths_test=[{data}]")
            commands = (
                ("dataset/build_sudoku_dataset.py", "--output-dir", str(data), *puzzles),
                ("pretrain.py", *recipe, f"checkpoint_path={run}", "device=cpu", *overrides),
                ("solve.py", f"checkpoint={run}", "device=cpu"),
            )
            began, processor, output = time.perf_counter(), processor_seconds(), ""
            for command in commands:
                done = subprocess.run(
                    [sys.executable, *command],
                    cwd=tree,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                if done.returncode:
                    raise RuntimeError(f"{tree}: {' '.join(command)}\n{done.stdout}")
                output += done.stdout
            backend = next(line for line in output.splitlines() if " parameters, " in line)
            return cls(
                time.perf_counter() - began,
                processor_seconds() - processor,
                backend.split("; ")[0],
                (run / "result.txt").read_text().strip(),
            )


def processor_seconds() -> float:
    """Return the processor time of all commands so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against", type=Path, metavar="TREE", help="another checkout, timed in turn with this one"
    )
    parser.add_argument("--repeats", type=int, default=3, help="demos of each tree (3)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: chosen by torch")
    parser.add_argument(
        "--overrides",
        nargs="*",
        default=["arch.forward_dtype=float32"],
        help="overrides of the training (arch.forward_dtype=float32)",
    )
    asked = parser.parse_args()
    trees = {"here": ROOT} | ({"against": asked.against.resolve()} if asked.against else {})
    demos: dict[str, list[Demo]] = {name: [] for name in trees}
    for repeat in range(1, asked.repeats + 1):
        for name, tree in trees.items():
            demo = Demo.run(tree, asked.threads, asked.overrides)
            demos[name].append(demo)
            print(
                f"{repeat}, {name}: {demo.seconds:.1f} s, {demo.processor_seconds:.1f} s of processor time; "
                f"{demo.backend}; {demo.result}",
                flush=True,
            )
    medians = {
        name: (
            statistics.median(demo.seconds for demo in of_tree),
            statistics.median(demo.processor_seconds for demo in of_tree),
        )
        for name, of_tree in demos.items()
    }
    for name, (wall, processor) in medians.items():
        print(f"{name}: {wall:.1f} s, {processor:.1f} s of processor time")
    if asked.against:
        wall, processor = (ours / theirs for ours, theirs in zip(*medians.values(), strict=True))
        print(f"ratio: {wall:.2f} of the other's seconds, {processor:.2f} of its processor time")


if __name__ == "__main__":
    main()
