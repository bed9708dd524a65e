"""Measure the time from the start of `pretrain.py` to the end of its first step, on a dataset with many test rows.

python -m benchmarks.start                           this tree
python -m benchmarks.start --against OTHER_TREE      both in turn, and the ratio of their medians

Also measures the processor time of commands until their first line of output, next to that of `import torch`.

The dataset is generated in a second or two: relabelled copies of one 9x9 Sudoku grid with some cells blank. The first
step is done when `metrics.jsonl` has a line; then the training is killed. Processor time includes all threads and is
less affected by other load on the machine than elapsed time.
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

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from dataset.format import SplitWriter, write_identifiers
from utils.loggers.json_lines import METRICS_FILE

ROOT = Path(__file__).resolve().parents[1]
NUM_CELLS, VOCAB_SIZE = 81, 11
_ROWS_AT_ONCE = 50_000
_TINY = (
    "arch.hidden_size=32",
    "arch.num_heads=2",
    "arch.H_cycles=1",
    "arch.L_cycles=1",
    "arch.L_layers=1",
    "arch.puzzle_emb_ndim=0",
    "arch.halt_max_steps=1",
    "arch.forward_dtype=float32",
    "global_batch_size=32",
    "epochs=10",
    "eval_interval=10",
    "log_interval=1",
    "device=cpu",
)
CASES = {
    "adam_atan2": ("optimizer=adam_atan2",),
    "adamw": ("optimizer=adamw",),
    "compiled": ("optimizer=adam_atan2", "compile=true"),
}


# Without W&B; with bytecode written, which users have from their second start on.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "WANDB_DISABLED": "true"
}

# Commands timed until their first line: help, errors, and the first message of a training.
LINES = {
    "import torch": ("-c", "import torch; print(flush=True)"),
    "pretrain.py --help": ("pretrain.py", "--help"),
    "pretrain.py, a misspelt key": ("pretrain.py", "data_paths=[x]", "learning_rate=1"),
    "evaluate.py --help": ("evaluate.py", "--help"),
    "solve.py --help": ("solve.py", "--help"),
    "pretrain.py, a training": ("pretrain.py", *_TINY),
}


@dataclass(frozen=True)
class Start:
    """Elapsed and processor time of a training until its first step was done."""

    seconds: float
    processor_seconds: float


def write_dataset(folder: Path, num_test: int, num_train: int = 1000) -> None:
    """Write a valid Sudoku dataset with `num_test` test rows."""
    cell = np.arange(NUM_CELLS)
    row, column = cell // 9, cell % 9
    pattern = (3 * (row % 3) + row // 3 + column) % 9  # a valid grid of 0..8, (81,)
    rng = np.random.default_rng(0)
    for split, count in (("train", num_train), ("test", num_test)):
        extra = {"family": "sudoku", "difficulty": "rating"}
        with SplitWriter(folder / split, seq_len=NUM_CELLS, vocab_size=VOCAB_SIZE, extra=extra) as writer:
            for start in range(0, count, _ROWS_AT_ONCE):
                number = min(_ROWS_AT_ONCE, count - start)
                relabelled = rng.permuted(np.tile(np.arange(2, 11, dtype=np.uint8), (number, 1)), axis=1)
                labels = relabelled[:, pattern]
                inputs = np.where(rng.random(labels.shape, np.float32) < 0.3, labels, np.uint8(1))
                difficulty = rng.integers(0, 200, number)
                writer.add_groups(inputs, labels, np.zeros(number, np.int64), difficulty=difficulty)
            writer.close(num_puzzle_identifiers=1)
    write_identifiers(folder, ["<blank>"])


def time_start(tree: Path, data: Path, options: tuple[str, ...], *, patience: float = 600) -> Start:
    """Start a training of `tree` and kill it as soon as its first step is done.

    Raises RuntimeError with its output if it exits before, or takes longer than `patience` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        metrics, log = Path(folder, "run", METRICS_FILE), Path(folder, "log")
        command = [sys.executable, "pretrain.py", f"data_paths=[{data}]", *_TINY, *options]
        with log.open("wb") as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                [*command, f"checkpoint_path={metrics.parent}"],
                cwd=tree,
                env=ENVIRONMENT,
                stdout=output,
                stderr=output,
            )
        usage = None
        while usage is None and not (metrics.exists() and metrics.stat().st_size):
            if time.perf_counter() - began > patience:
                process.kill()
            time.sleep(0.005)
            usage = _usage_if_ended(process, os.WNOHANG)
        seconds = time.perf_counter() - began
        if usage is not None:
            raise RuntimeError(f"{tree}: made no step\n{log.read_text(errors='replace')}")
        process.kill()
        usage = _usage_if_ended(process, 0)
    return Start(seconds, usage.ru_utime + usage.ru_stime)


def time_first_line(tree: Path, arguments: tuple[str, ...]) -> float:
    """Return the processor time of a command until it prints anything; then kill it."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tree,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    with process.stdout as output:
        output.read(1)
        process.kill()
        usage = _usage_if_ended(process, 0)
    assert usage is not None
    return usage.ru_utime + usage.ru_stime


def _usage_if_ended(process: subprocess.Popen, options: int) -> resource.struct_rusage | None:
    """Return the resource usage of an exited process, which `Popen` does not provide; None if it is still running."""
    pid, status, usage = os.wait4(process.pid, options)
    if pid == 0:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against", type=Path, metavar="TREE", help="another checkout, timed in turn with this one"
    )
    parser.add_argument("--rows", type=int, default=400_000, help="rows of the test split (400,000)")
    parser.add_argument("--repeats", type=int, default=5, help="starts of each tree and case (5)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    trees = {"here": ROOT} | ({"against": arguments.against.resolve()} if arguments.against else {})
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write_dataset(data, arguments.rows)
        for line, command in LINES.items():
            if _TINY[0] in command:
                command = (*command, f"data_paths=[{data}]", f"checkpoint_path={folder}/run")
            used: dict[str, list[float]] = {name: [] for name in trees}
            for tree in trees.values():  # not counted: bytecode
                time_first_line(tree, command)
            for _ in range(arguments.repeats):
                for name, tree in trees.items():
                    used[name].append(time_first_line(tree, command))
            seconds = (f"{name} {statistics.median(values):.2f} s" for name, values in used.items())
            print(f"{line}: processor time until the first line {', '.join(seconds)}", flush=True)
        for case in arguments.cases:
            starts: dict[str, list[Start]] = {name: [] for name in trees}
            for tree in trees.values():  # warm up: bytecode and compiled kernels
                time_start(tree, data, CASES[case])
            for _ in range(arguments.repeats):
                for name, tree in trees.items():
                    starts[name].append(time_start(tree, data, CASES[case]))
            report(case, starts)


def report(case: str, starts: dict[str, list[Start]]) -> None:
    """Print the medians of each tree, and the ratio if there are two."""
    medians = {}
    for name, of_tree in starts.items():
        wall, processor = [s.seconds for s in of_tree], [s.processor_seconds for s in of_tree]
        medians[name] = statistics.median(wall), statistics.median(processor)
        print(
            f"{case}, {name}: {medians[name][0]:.2f} s to the first step ({min(wall):.2f} to {max(wall):.2f}), "
            f"{medians[name][1]:.2f} s of processor time",
            flush=True,
        )
    if len(medians) == 2:
        (ours, our_processor), (theirs, their_processor) = medians.values()
        print(
            f"{case}: {ours / theirs:.2f} of the other's seconds, {our_processor / their_processor:.2f} of its "
            "processor time",
            flush=True,
        )


if __name__ == "__main__":
    main()
