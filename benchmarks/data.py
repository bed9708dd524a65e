"""Speed of the data side. `python -m benchmarks.data stream [--dataset DIR]`; figures are in benchmarks/README.md."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from dataset.format import SplitWriter
from puzzle_dataset import Prefetcher, PuzzleDataset
from utils.errors import report_user_errors

# Groups, puzzles per group, examples per puzzle (least, most), seq_len, vocabulary; as published datasets have them.
SYNTHETIC = {
    "sudoku": (1000, 1001, (1, 1), 81, 11),
    "maze": (1000, 8, (1, 1), 900, 6),
    "arc": (200, 501, (2, 5), 900, 12),
}


@report_user_errors
def main(arguments: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="benchmarks.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for add_command in (add_stream,):
        add_command(commands)
    options = parser.parse_args(arguments)
    options.run(options)


def add_stream(commands: argparse._SubParsersAction) -> None:
    """The subcommand that measures batches per second."""
    parser = commands.add_parser("stream", help="batches of a training stream per second, on one core")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", help="a built dataset; random tokens of --like otherwise")
    source.add_argument("--like", choices=SYNTHETIC, default="sudoku", help="sizes of the random dataset")
    parser.add_argument("--batch-size", type=int, default=768)
    parser.add_argument("--batches", type=int, default=3000, help="batches per measurement")
    parser.add_argument(
        "--repeats", type=int, default=3, help="measurements; the best counts, all are printed"
    )
    parser.add_argument("--epochs", type=int, default=5000, help="epochs per iteration (eval_interval)")
    parser.set_defaults(run=stream)


def stream(options: argparse.Namespace) -> None:
    """Print how fast batches come, plainly and prefetched, and what starting and resuming cost."""
    with tempfile.TemporaryDirectory() as folder:
        directory = options.dataset
        if directory is None:
            directory = write_random(Path(folder), *SYNTHETIC[options.like])
        opened, dataset = timed(
            lambda: PuzzleDataset(
                [directory], "train", global_batch_size=options.batch_size, epochs_per_iter=options.epochs
            )
        )
        counted, total = timed(lambda: dataset.num_batches(2))
        first, _ = timed(lambda: next(dataset.batches(1)))
        resumed, _ = timed(lambda: next(dataset.batches(1, total // 2)))
        print(f"{directory}: {dataset.metadata.total_puzzles:,} puzzles, seq_len {dataset.metadata.seq_len}")
        print(
            f"  opened and checked in {opened:.2f} s; {total:,} batches an iteration, counted in {counted:.2f} s"
        )
        print(f"  first batch after {first:.2f} s; resumed at batch {total // 2:,} after {resumed:.2f} s")
        report_rates("plain", dataset, options, lambda batches: batches)
        report_rates("prefetched", dataset, options, Prefetcher)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"  peak memory of the process {peak:.0f} MB, mapped pages of the dataset included")


def report_rates(name: str, dataset: PuzzleDataset, options: argparse.Namespace, wrap) -> None:
    """Print batches per second of each repetition, the first batch (which draws the order) left out."""
    rates = []
    for iteration in range(1, options.repeats + 1):
        batches = wrap(dataset.batches(iteration))
        next(batches)
        seconds, count = timed(lambda batches=batches: sum(1 for _ in islice(batches, options.batches)))
        rates.append(count / seconds)
        batches.close()
    listed = ", ".join(f"{rate:,.0f}" for rate in rates)
    print(f"  {name}: {max(rates):,.0f} batches of {options.batch_size} per second (best of {listed})")


def write_random(
    folder: Path, groups: int, puzzles: int, examples: tuple[int, int], seq_len: int, vocab_size: int
) -> str:
    """A dataset of random tokens: the stream does not look at what they mean."""
    rng = np.random.default_rng(0)
    with SplitWriter(folder / "train", seq_len=seq_len, vocab_size=vocab_size) as writer:
        for group in range(groups):
            lengths = np.full(puzzles, rng.integers(examples[0], examples[1] + 1))
            rows = rng.integers(1, vocab_size, (lengths.sum(), seq_len), dtype=np.uint8)
            identifiers = np.arange(puzzles) + 1 + group * puzzles
            writer.add_group(rows, rows, identifiers, lengths)
        writer.close(num_puzzle_identifiers=groups * puzzles + 1)
    return str(folder)


def timed(function) -> tuple[float, object]:
    """Seconds that the call took, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
