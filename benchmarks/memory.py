"""Measure the peak memory of whole training processes on 30x30 grids: eager, compiled, compiled with checkpointing.

python -m benchmarks.memory                           this tree
python -m benchmarks.memory --against OTHER_TREE      both

Each line is the peak resident set of a `pretrain.py` that makes a few updates, or of `import torch` alone. Between the
two batch sizes the peak grows by what a puzzle needs; what is left at batch 0 is the process itself: libraries, model,
optimizer. Puzzles are random tokens.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.start import ENVIRONMENT
from dataset.format import SplitWriter, write_identifiers

ROOT = Path(__file__).resolve().parents[1]
SEQ_LEN, VOCAB_SIZE = 900, 12
BATCHES = 4, 8
UPDATES = 3
# As in the cases "30x30" of benchmarks/step.py, with the optimizer and EMA of a training run.
OPTIONS = (
    "arch=trm",
    "arch.num_heads=4",
    "arch.H_cycles=1",
    "arch.L_cycles=4",
    "arch.puzzle_emb_ndim=0",
    "arch.halt_max_steps=2",
    "arch.forward_dtype=bfloat16",
    "ema=True",
    f"epochs={UPDATES}",
    f"eval_interval={UPDATES}",
    "evaluators=[]",
    "logger=[]",
    "device=cpu",
)


def write_dataset(folder: Path, rows: int) -> None:
    """Write a dataset whose training split is one batch of `rows` rows."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        with SplitWriter(folder / split, seq_len=SEQ_LEN, vocab_size=VOCAB_SIZE) as writer:
            inputs, labels = rng.integers(1, VOCAB_SIZE, (2, rows, SEQ_LEN), dtype=np.uint8)
            writer.add_groups(inputs, labels, np.zeros(rows, np.int64))
            writer.close(num_puzzle_identifiers=1)
    write_identifiers(folder, ["<blank>"])


def peak_memory(command: tuple[str, ...], tree: Path = ROOT) -> float:
    """Run a command of Python and return the peak of its resident set in MB; raises RuntimeError if it fails.

    Linux counts the caller's memory before the command has started, so the caller imports nothing large.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=tree, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{tree}: {' '.join(command)}\n{output.read().decode(errors='replace')}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout, measured too")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256], help="hidden sizes (128 256)")
    arguments = parser.parse_args()
    trees = {"here": ROOT} | ({"against": arguments.against.resolve()} if arguments.against else {})
    print(f"import torch alone: {peak_memory(('-c', 'import torch')):.0f} MB")
    print(
        f"| hidden | mode | {' | '.join(f'batch {n}, MB' for n in BATCHES)} | of eager's | MB per puzzle | batch 0 |"
    )
    with tempfile.TemporaryDirectory() as folder:
        for rows in BATCHES:
            write_dataset(Path(folder, f"data{rows}"), rows)
        for hidden in arguments.hidden:
            eager: list[float] = []
            for mode, tree, options in [
                ("eager", ROOT, ("compile=False",)),
                *((f"compiled, {name}", tree, ("compile=True",)) for name, tree in trees.items()),
                ("compiled, checkpointing", ROOT, ("compile=True", "activation_checkpointing=True")),
            ]:
                own = f"arch.hidden_size={hidden}", *options
                peaks = []
                for rows in BATCHES:
                    data = f"data_paths=[{folder}/data{rows}]", f"global_batch_size={rows}"
                    run = f"checkpoint_path={tempfile.mkdtemp(dir=folder)}"
                    peaks.append(peak_memory(("pretrain.py", *OPTIONS, *own, *data, run), tree))
                eager = eager or peaks
                report(hidden, mode, peaks, eager)


def report(hidden: int, mode: str, peaks: list[float], eager: list[float]) -> None:
    """Print a row of the table, with the shares of eager code's peaks."""
    shares = ", ".join(f"{own / other:.2f}" for own, other in zip(peaks, eager, strict=True))
    per_puzzle = (peaks[1] - peaks[0]) / (BATCHES[1] - BATCHES[0])
    columns = [f"{peak:.0f}" for peak in peaks]
    columns += [shares, f"{per_puzzle:.1f}", f"{peaks[0] - BATCHES[0] * per_puzzle:.0f}"]
    print(f"| {hidden} | {mode} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
